"""What work is told of rows, and what a loaded pair says of itself: plain values, which go to another process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..claims.calibration import Calibration
    from ..contract import Contract
    from ..io.origins import Origin
    from ..io.rows.row_source import Rows


@dataclass(frozen=True)
class Told:
    """What is said of rows (`nla_sdk.io.rows.row_source.Rows`), without the means to read them."""

    name: str
    column: str
    holds: str
    stem: str
    layer: int | None

    @classmethod
    def of(cls, rows: Rows) -> Told:
        """The same of rows that may be readable."""
        return cls(rows.name, rows.column, rows.holds, rows.stem, rows.layer)


@dataclass(frozen=True)
class About:
    """What a loaded pair says of itself.

    Attributes:
        contract: verified against the tokenizer.
        origin: what it reads; `types`: the model types of its base.
        calibration: of its claims; None where there is none, or nobody asks.
    """

    contract: Contract
    origin: Origin
    types: tuple[str, ...]
    calibration: Calibration | None = None
