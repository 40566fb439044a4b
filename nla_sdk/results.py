"""What the methods of a pair return: values that read as a line or two at a prompt and as a small table in a notebook.

Their tables have the columns that the `nla` commands write, so that they go back into files and commands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar, cast, overload

from .claims.cutting import claims_of
from .claims.forms.claim import Claim
from .claims.receipts import CHECK_NUMBERS, Check
from .errors import InputError
from .io.rows.shown import SHOWN, VECTORS, cell_of, columns_of, html_table

if TYPE_CHECKING:
    import pandas
    import pyarrow
    import torch

Result = TypeVar("Result")
WORSE = "worse than no words"
UNTAGGED = "untagged"
_ROUNDING = 1e-6  # of a cosine: what one row of a batch may differ from the same row alone


@dataclass(frozen=True)
class Score:
    """How near a reconstruction came to an activation.

    Attributes:
        cosine: of raw directions, −1 to 1. Does not compare across layers or models.
        mse: 2 (1 − cosine), 0 to 4; unrelated directions 2.
        fve: 1 − mse / baseline_mse; None where the contract has no `baseline_mse`. Of one row it does not say how much
            the words explain: no words, or the mean direction alone, may score as much. Read it beside the two.
        matched: whether the two halves name each other; the score of a mixed pair means little.
        gain: what the words add: 1 − mse / mse of no words. Below 0 they do worse than none. None where no words make
            no error already, so that nothing is left to add.
        empty_cosine, empty_fve: what the AR's vector of no words scores against the same activation.
        mean_cosine, mean_fve: what the mean direction scores against it; None where the pair does not know its mean.
    """

    cosine: float
    mse: float
    fve: float | None
    matched: bool
    gain: float | None = field(default=None, kw_only=True)
    empty_cosine: float | None = field(default=None, kw_only=True)
    empty_fve: float | None = field(default=None, kw_only=True)
    mean_cosine: float | None = field(default=None, kw_only=True)
    mean_fve: float | None = field(default=None, kw_only=True)

    @property
    def worse_than_none(self) -> bool:
        """Whether the AR comes nearer to the activation without the words than with them (by more than rounding)."""
        return self.empty_cosine is not None and self.cosine < self.empty_cosine - _ROUNDING

    def to_row(self) -> dict[str, Any]:
        """The score's columns in a table."""
        return {name: getattr(self, name) for name in SCORE_COLUMNS}

    def __repr__(self) -> str:
        return f"Score({_figures(self)})" + (f" [{WORSE}]" if self.worse_than_none else "")

    def _repr_html_(self) -> str:
        return html_table([self.to_row()])


SCORE_COLUMNS = (
    "cosine",
    "mse",
    "fve",
    "gain",
    "empty_cosine",
    "empty_fve",
    "mean_cosine",
    "mean_fve",
    "matched",
)
"""A score's columns, in the order of every table and file."""


class Explanation(str):
    """What the AV wrote for one vector: a str, tags and outer white space removed, that knows how it was written.

    Attributes:
        status: "ok"; "empty" (no text); "truncated" (within the limit neither an end token nor what else ends it by the
            contract); "untagged" (not in the form that the contract states: the text is the whole output, kept, and
            never counted as an explanation).
        raw: the output as decoded.
        tokens: how many were written, the end token not counted.
        score: of the explanation that `best_of` chose, a little better than the AV's words deserve: compare it with
            choices among as many only. None where nothing was chosen.
        best_of: among how many it was chosen; 1: it is the only one written.
    """

    status: str
    raw: str
    tokens: int
    score: Score | None
    best_of: int

    # Everything but the text has a default: pickle and copy build the str first and fill in the attributes after.
    def __new__(
        cls,
        text: str,
        *,
        status: str = "ok",
        raw: str | None = None,
        tokens: int = 0,
        score: Score | None = None,
        best_of: int = 1,
    ) -> Explanation:
        explanation = super().__new__(cls, text)
        explanation.status, explanation.tokens = status, tokens
        explanation.raw = text if raw is None else raw
        explanation.score, explanation.best_of = score, best_of
        return explanation

    @property
    def parsed(self) -> bool:
        """Whether an explanation was found in the output: not of an empty one, nor of one in another form."""
        return self.status not in ("empty", UNTAGGED)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What it claims, each with its span and its kind (`nla_sdk.claims.cutting.claims_of`); none where unparsed."""
        return claims_of(str(self)) if self.parsed else ()

    def scored(self, score: Score, best_of: int) -> Explanation:
        """The same explanation, chosen among `best_of` by `score`."""
        return Explanation(
            str(self), status=self.status, raw=self.raw, tokens=self.tokens, score=score, best_of=best_of
        )

    def to_row(self) -> dict[str, Any]:
        """The explanation's columns in a table; those of its score where it has one."""
        row = {
            "api_explanation": str(self),
            "explanation_status": row_status(self.status, self.score),
            "explanation_raw": self.raw,
            "tokens_written": self.tokens,
        }
        return row if self.score is None else {**row, "best_of": self.best_of, **self.score.to_row()}

    def __repr__(self) -> str:
        notes = [] if self.status == "ok" else [self.status]
        if self.score is not None:
            notes.append(f"best of {self.best_of}: {_figures(self.score)}")
            notes += [WORSE] if row_status(self.status, self.score).endswith(WORSE) else []
        return super().__repr__() + (f" [{'; '.join(notes)}]" if notes else "")

    def _repr_html_(self) -> str:
        return html_table([self.to_row()])


class Answer(Explanation):
    """What an activation oracle wrote to a question: an Explanation that knows the question.

    Attributes:
        question: as it was asked.
        layer: the block that the vectors were said to be of.
    """

    question: str
    layer: int | None

    def __new__(cls, text: str, *, question: str = "", layer: int | None = None, **facts: Any) -> Answer:
        answer = cast(Answer, super().__new__(cls, text, **facts))
        answer.question, answer.layer = question, layer
        return answer

    @classmethod
    def of(cls, written: Explanation, question: str, layer: int | None) -> Answer:
        """What was written, as the answer to a question."""
        facts = {"status": written.status, "raw": written.raw, "tokens": written.tokens}
        return cls(str(written), question=question, layer=layer, **facts)

    def to_row(self) -> dict[str, Any]:
        """The question and the layer, then an explanation's columns; the answer is `api_explanation`."""
        return {"question": self.question, "activation_layer": self.layer, **super().to_row()}


@dataclass(frozen=True, eq=False)  # tensors have no truth value: equality is written out below
class RoundTrip(Score):
    """An activation's way through the pair: vector → explanation → vector.

    Attributes:
        explanation: what the AV wrote, a str with its status.
        activation, reconstruction: float32 [d_model].
    """

    explanation: Explanation
    activation: torch.Tensor
    reconstruction: torch.Tensor

    @property
    def status(self) -> str:
        """What is to be known of the row before its score.

        "ok", "empty", "truncated" or "untagged" as of the explanation; "worse than no words", or another followed by it
        ("truncated; worse than no words"), where the AR comes nearer to the activation from an empty text.
        """
        return row_status(self.explanation.status, self)

    @property
    def raw(self) -> str:
        """The AV's output as decoded."""
        return self.explanation.raw

    @property
    def best_of(self) -> int:
        """Among how many explanations this one was chosen by its score; 1: it is the only one written."""
        return self.explanation.best_of

    def to_row(self) -> dict[str, Any]:
        """The round trip's columns in a table, both vectors as float32 arrays."""
        vectors = {"activation_vector": self.activation.numpy(), "reconstruction": self.reconstruction.numpy()}
        row = {**self.explanation.to_row(), "explanation_status": self.status}
        return {**row, **super().to_row(), **vectors}

    def __eq__(self, other: object) -> bool:
        """Whether both say the same of the same activation, to the last digit."""
        if not isinstance(other, RoundTrip):
            return NotImplemented
        pairs = ((self.activation, other.activation), (self.reconstruction, other.reconstruction))
        return (self.explanation, self.status, super().to_row()) == (
            other.explanation,
            other.status,
            super(RoundTrip, other).to_row(),
        ) and all(a.shape == b.shape and bool((a == b).all()) for a, b in pairs)

    def __hash__(self) -> int:
        return hash((self.explanation, self.cosine))

    def __repr__(self) -> str:
        chosen = f", best of {self.best_of}" if self.best_of > 1 else ""
        status = "" if self.status == "ok" else f" [{self.status}]"
        return f"RoundTrip({_figures(self)}{chosen})\n  {str(self.explanation)!r}{status}"

    def _repr_html_(self) -> str:
        return html_table([self.to_row()])


class Results(list[Result]):
    """A list of results, one for each activation: explanations, round trips or scores.

    Example:
        >>> pair.round_trip(acts.vectors).to_pandas()[["api_explanation", "fve"]]  # doctest: +SKIP
    """

    def to_rows(self) -> list[dict[str, Any]]:
        """A dict of columns for each result; of several samples or claims each, `row` says whose they are."""
        rows: list[dict[str, Any]] = []
        for number, result in enumerate(self):
            if isinstance(result, Results):
                rows += [{"row": number, "sample": sample, **row} for sample, row in enumerate(result.to_rows())]
            elif isinstance(result, Check):
                rows += [{"row": number, **row} for row in result.to_rows()]
            else:
                rows.append(result.to_row())  # pyright: ignore[reportAttributeAccessIssue]
        return rows

    def to_arrow(self) -> pyarrow.Table:
        """A pyarrow table, vectors as FixedSizeList<float32>[d]."""
        import numpy as np
        import pyarrow as pa

        from .io.tables import vector_column

        # which may be null in every row
        types = {name: pa.float64() for name in (*SCORE_COLUMNS, *CHECK_NUMBERS) if name != "matched"}
        columns = columns_of(self.to_rows())
        return pa.table(
            {
                name: vector_column(np.stack(values)) if name in VECTORS else pa.array(values, types.get(name))
                for name, values in columns.items()
            }
        )

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame, one row a result.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise InputError("to_pandas needs pandas: pip install pandas. to_arrow works without it.") from None
        return pd.DataFrame({name: list(values) for name, values in columns_of(self.to_rows()).items()})

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> Result: ...
    @overload
    def __getitem__(self, index: slice, /) -> Results[Result]: ...
    def __getitem__(self, index: SupportsIndex | slice, /) -> Result | Results[Result]:
        return Results(super().__getitem__(index)) if isinstance(index, slice) else super().__getitem__(index)

    def copy(self) -> Results[Result]:
        return Results(self)

    def __add__(self, other: list[Any], /) -> Results[Any]:
        return Results([*self, *other])

    def __repr__(self) -> str:
        lines = [repr(result) for result in self[:SHOWN]]
        more = [f"… {len(self) - SHOWN} more"] if len(self) > SHOWN else []
        return "[" + ",\n ".join(line.replace("\n", "\n ") for line in lines + more) + "]"

    def _repr_html_(self) -> str:
        return html_table(self.to_rows())


@dataclass(frozen=True, eq=False)
class Activations:
    """Activations read from a source model.

    Attributes:
        vectors: float32 [n, d_model], raw, on the CPU.
        tokens: the n token strings read at, as text.
        positions: the n positions, counted from 0 at the first token (BOS included where there is one).
        texts: for each row, the index of the text it comes from.
        layer: the block whose output was read (0-indexed).
        model, revision, precision: the base they were read from, its commit, and what it ran at (float32, nf4, …);
            None where that is not known.
    """

    vectors: torch.Tensor
    tokens: list[str]
    positions: list[int]
    texts: list[int]
    layer: int
    model: str | None = None
    revision: str | None = None
    precision: str | None = None

    @property
    def norms(self) -> torch.Tensor:
        """float32 [n]: L2 norms of the vectors."""
        return self.vectors.norm(dim=-1)

    def __len__(self) -> int:
        return len(self.vectors)

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same vectors, to the last digit, read at the same places."""
        if not isinstance(other, Activations):
            return NotImplemented
        return (
            (self.tokens, self.positions, self.texts, self.layer)
            == (other.tokens, other.positions, other.texts, other.layer)
            and (self.model, self.revision, self.precision) == (other.model, other.revision, other.precision)
            and self.vectors.shape == other.vectors.shape
            and bool((self.vectors == other.vectors).all())
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType] (a list of tokens has none either)

    def __repr__(self) -> str:
        shown = [repr(token) for token in self.tokens]
        if len(shown) > SHOWN:
            shown = [*shown[: SHOWN - 2], "…", shown[-1]]
        rows, width = self.vectors.shape
        return f"Activations({rows} × {width}, layer {self.layer}, at {' '.join(shown)})"

    def _repr_html_(self) -> str:
        norms = [f"{norm:.1f}" for norm in self.norms.tolist()]
        columns = zip(self.texts, self.positions, self.tokens, norms, strict=True)
        return html_table([dict(zip(("text", "position", "token", "norm"), row, strict=True)) for row in columns])


def row_status(status: str, score: Score | None) -> str:
    """A text's status with what its score says of it; no words at all ("empty") do neither better nor worse."""
    if score is None or status == "empty" or not score.worse_than_none:
        return status
    return WORSE if status == "ok" else f"{status}; {WORSE}"


def _figures(score: Score) -> str:
    named = ("cosine", "mse", "fve", "gain", "empty_cosine", "mean_cosine")
    figures = [f"{name}={cell_of(value)}" for name in named if (value := getattr(score, name)) is not None]
    return ", ".join(figures + ([] if score.matched else ["matched=False"]))
