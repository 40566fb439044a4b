"""What bodies have in common: texts, tokens, generation, refusals. Numbers are numbers, and finite."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..settings import Limits

LIMITS = Limits()
Finite = Annotated[float, Field(allow_inf_nan=False)]
Line = Annotated[str, Field(max_length=LIMITS.explanation)]
Name = Annotated[str, Field(max_length=LIMITS.name)]
Vector = Annotated[list[Finite], Field(min_length=1)]
Position = Annotated[int, Field(ge=-(2**31), lt=2**31)]
LayerNumber = Annotated[int, Field(ge=-1, lt=2**31)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
NewTokens = Annotated[int, Field(ge=1, le=LIMITS.new_tokens)]
Temperature = Annotated[Finite, Field(ge=0, le=5)]
Strength = Annotated[Finite, Field(ge=-1000, le=1000)]


class Asked(BaseModel):
    """A request of a dialect that others speak: what is not known here is passed over, as theirs do."""

    model_config = ConfigDict(strict=True)


class Strict(BaseModel):
    """A request of our own: what is not known is refused."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Told(BaseModel):
    """An answer."""


class Message(Asked):
    """A turn of a chat."""

    role: Name
    content: Annotated[str, Field(max_length=LIMITS.text)] = ""
    channel: Name | None = None


class TextFields(BaseModel):
    """A text, or the messages of a chat, which win over it."""

    text: Annotated[str, Field(max_length=LIMITS.text)] | None = None
    messages: Annotated[list[Message], Field(max_length=LIMITS.messages)] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    enable_thinking: bool | None = None

    @model_validator(mode="after")
    def _short(self) -> TextFields:
        if (length := sum(len(message.content) for message in self.messages or ())) > LIMITS.text:
            raise ValueError(f"the messages have {length:,} characters; expected at most {LIMITS.text:,}")
        return self


class Text(TextFields, Asked):
    """A text or a chat, as the inference API takes it."""


class Token(Told):
    """A token of a text."""

    token: str
    token_id: int
    position: int
    fragment_index: int = 0
    fragment_count: int = 1
    role: str | None = None
    section: Literal["header", "content", "footer", "scaffold"] | None = None
    channel: str | None = None
    message_index: int | None = None


class Tokenized(Told):
    """A text in tokens."""

    tokens: list[Token]
    prompt_length: int
    text: str


class Place(Told):
    """Where a field is that is refused."""

    loc: list[str | int]
    msg: str
    type: str


class Refused(Told):
    """Why a request is refused."""

    detail: str


class RefusedFields(Told):
    """Which fields of a body are refused, and why."""

    detail: list[Place]


class OwnRefused(Told):
    """Why a request is refused, and what the error is called."""

    detail: str
    error: str
    questions: list[dict[str, Any]] | None = None


class OwnRefusedFields(RefusedFields):
    """Which fields of a body are refused, and why."""

    error: str


class SiteRefused(Told):
    """Why a request is refused."""

    error: str


class SiteBusy(SiteRefused):
    """Too many requests, and what is left."""

    endpoint: str
    limitPerWindow: int
    requestWindow: str
    remainingRequests: int
