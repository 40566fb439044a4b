"""Requests of our own API."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .common import (
    LIMITS,
    LayerNumber,
    Line,
    Name,
    NewTokens,
    Position,
    Seed,
    Strength,
    Strict,
    Temperature,
    TextFields,
    Vector,
)

ROWS = LIMITS.positions
Positions = Position | Annotated[list[Position], Field(min_length=1, max_length=ROWS)] | Literal["all"]
Vectors = Annotated[
    list[Vector] | list[Annotated[list[Vector], Field(min_length=1)]], Field(min_length=1, max_length=ROWS)
]
LayerNumbers = LayerNumber | Annotated[list[LayerNumber], Field(min_length=1, max_length=ROWS)]
Texts = Annotated[list[Annotated[str, Field(max_length=LIMITS.text)]], Field(min_length=1, max_length=ROWS)]
Lines = Annotated[list[Line], Field(min_length=1, max_length=ROWS)]


class Input(TextFields, Strict):
    """What rows are of: exactly one of a text, the messages of a chat, texts, vectors.

    A text or a chat is read at `positions`, of `texts` the last token of each; vectors are raw, of a `kind`.
    """

    positions: Positions = -1
    texts: Texts | None = None
    vectors: Vectors | None = None
    kind: Literal["activation", "direction", "difference"] | None = None
    direction: Literal["raw", "mean+"] | None = None
    force: bool = False
    layer: LayerNumbers | None = None
    model_tag: Name | None = None

    @model_validator(mode="after")
    def _one(self) -> Input:
        given = [name for name in ("text", "messages", "texts", "vectors") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given) or 'none'} given; expected one of text, messages, texts, vectors")
        for name in ("kind", "direction", "force"):
            if self.vectors is None and getattr(self, name) not in (None, False):
                raise ValueError(f"{name} is said of vectors, and there are none")
        if (length := sum(map(len, self.texts or ()))) > LIMITS.text:
            raise ValueError(f"the texts have {length:,} characters; expected at most {LIMITS.text:,}")
        return self


class Text(TextFields, Strict):
    """A text or a chat."""


class Writing(Strict):
    """How words are written."""

    temperature: Temperature = 0.0
    max_new_tokens: NewTokens | None = None
    seed: Seed = 0
    stream: bool = False


Count = Annotated[int, Field(ge=1, le=LIMITS.samples)]


class ExplainRequest(Input, Writing):
    """Rows to be put into words."""

    n: Count = 1
    best_of: Count = 1
    signs: Literal["+", "-", "±"] = "+"
    vectors_out: bool = False


class RoundTripRequest(Input, Writing):
    """Rows to be put into words and back, scored."""

    n: Literal[1] = 1
    best_of: Count = 1
    signs: Literal["+"] = "+"
    shuffled: bool = True
    others: Annotated[list[Line], Field(max_length=ROWS)] = []
    vectors_out: bool = False


class AskRequest(Input, Writing):
    """Questions about sets of vectors."""

    question: Annotated[str, Field(max_length=LIMITS.question)] | Lines
    n: Count = 1


class ExtractRequest(Text):
    """A text to be read."""

    positions: Positions = -1
    layer: LayerNumber | None = None


class ScoreRequest(Input):
    """Explanations, held against rows."""

    explanations: Lines


class Known(TextFields, Strict):
    """A text or a chat that a row was read in, and where."""

    position: Position = -1

    @model_validator(mode="after")
    def _one(self) -> Known:
        if (self.text is None) == (not self.messages):
            raise ValueError("expected one of text, messages")
        return self


class CheckRequest(Input):
    """Explanations of rows, whose claims are checked: of texts against what was read, of vectors against `known`."""

    explanations: Lines
    known: Annotated[list[Known], Field(min_length=1, max_length=ROWS)] | None = None
    samples: Annotated[int, Field(ge=0, le=LIMITS.samples)] = 0
    nearby: Annotated[int, Field(ge=0, le=LIMITS.nearby)] = 0
    steering: bool = False
    seed: Seed = 0

    @model_validator(mode="after")
    def _known(self) -> CheckRequest:
        if self.known is not None and self.vectors is None:
            raise ValueError("known is said of vectors; what a text's rows were read in is that text")
        return self


class ReconstructRequest(Text):
    """Explanations to be turned into vectors; of a text, the tokens nearest to them."""

    explanations: Lines
    layer: LayerNumber | None = None
    vectors_out: bool = False
    nearest: Annotated[int, Field(ge=0, le=ROWS)] = 10


class SteerRequest(Text):
    """A prompt that the source goes on from, with a direction in its stream and without."""

    prompts: Annotated[Texts, Field(max_length=16)] | None = None
    towards: Line | Annotated[Lines, Field(max_length=16)] | None = None
    vectors: Annotated[list[Vector], Field(min_length=1, max_length=16)] | None = None
    strength: Strength | Annotated[list[Strength], Field(min_length=1, max_length=16)] = 0.5
    layer: LayerNumber | None = None
    kind: Literal["activation", "direction", "difference"] | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=LIMITS.completion_tokens)] = 40
    temperature: Temperature = 0.0
    seed: Seed = 0

    @model_validator(mode="after")
    def _one(self) -> SteerRequest:
        for names in (("text", "messages", "prompts"), ("towards", "vectors")):
            given = [name for name in names if getattr(self, name) is not None]
            if len(given) != 1:
                raise ValueError(f"{' and '.join(given) or 'none'} given; expected one of {', '.join(names)}")
        return self


class CompareRequest(Writing):
    """Two rows, and what lies between them."""

    a: Input
    b: Input
    signs: Literal["+", "±"] = "+"
    vectors_out: bool = False


class CompleteRequest(Text):
    """A text that the source goes on with."""

    max_new_tokens: Annotated[int, Field(ge=1, le=LIMITS.completion_tokens)] = 16
    temperature: Temperature = 0.0
    seed: Seed = 0
    stream: bool = False
