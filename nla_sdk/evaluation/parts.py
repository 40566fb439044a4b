"""What every part of the evaluation file is made of, and those that say what was measured, how, and at what cost."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_DRAWS = 1_000_000  # more would only keep `verify` busy, and it takes them from the file

Interval = tuple[float, float]
Count = Annotated[int, Field(ge=0)]
Proportion = Annotated[float, Field(ge=0, le=1)]
Cosine = Annotated[float, Field(ge=-1, le=1)]
Draws = Annotated[int, Field(ge=1, le=MOST_DRAWS)]


class Part(BaseModel):
    """A part of the file: immutable, finite numbers only, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Figure(Part):
    """A number with what it rests on."""

    value: float
    n: int = Field(ge=0, description="Rows it is a mean over (queries, for retrieval).")
    interval_95: Interval | None = Field(
        None,
        description="95 % bootstrap interval over documents. Of FVE: the rows' baseline is held fixed.",
    )
    p: float | None = Field(None, ge=0, le=1, description="Under the null that there is nothing; see docs.")


class Balanced(Figure):
    """A mean over source families, each counting alike however many rows it has: the mean of the families' means."""

    families: Count = Field(description="Families that it is a mean over: those with at least 5 rows.")


class Share(Part):
    """`count` of `of`."""

    count: Count
    of: Count

    @model_validator(mode="after")
    def _at_most_all(self) -> Share:
        if self.count > self.of:
            raise ValueError(f"{self.count} of {self.of}: more than all")
        return self

    @property
    def share(self) -> float:
        """0–1; 0 of none."""
        return self.count / self.of if self.of else 0.0


class Subject(Part):
    """The pair."""

    av: str = Field(description="Hub id or folder name of the AV.")
    ar: str = Field(description="Hub id or folder name of the AR.")
    base_model: str | None = None
    layer: int | None = None
    d_model: int | None = None
    matched: bool | None = Field(None, description="Whether the halves name each other; None: not known.")


class Data(Part):
    """The held-out activations."""

    name: str
    sha256: str | None = None
    rows: Count | None = None
    documents: Count | None = None
    families: dict[str, Count] = Field({}, description="Rows by source family.")
    has_labels: bool = False
    has_texts: bool = False


class Settings(Part):
    """What decides the figures, beside the inputs."""

    seed: Count
    floor: Cosine = Field(description="Cosine of the noise floor.")
    max_new_tokens: int = Field(ge=1)
    controls_n: Count
    signal_n: Count
    claims_n: Count | None = Field(
        None, description="Rows whose claims the AR was asked about; None: claims were not looked at."
    )
    permutations: Draws
    bootstrap_draws: Draws
    embedder: str | None = Field(None, description="Hub id or folder name; a folder's SHA-256 is in `inputs`.")
    paraphraser: str | None = Field(None, description="Kind and model; the SHA-256 of all its settings is in `inputs`.")


class Cost(Part):
    """Time, memory, hardware. Not reproducible, so never compared."""

    seconds: dict[str, float] = Field({}, description="By part of the evaluation; of all legs of a resumed run.")
    rows_per_second: float | None = None
    tokens_per_second: float | None = Field(None, description="Tokens the AV wrote per second.")
    peak_memory_gib: float | None = None
    hardware: str | None = None
