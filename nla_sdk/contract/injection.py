"""How a vector is put into the model: the `injection` block of a contract, whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Injection:
    """Where and how vectors go, in the pass over the prompt only.

    With v the vector once it has its norm, c the coefficient and h what stands at the marker (its embedding, or its
    state after block `block`), `replace` makes c·v of it, `add` h + c·v. Its norm: `fixed` scale·v/‖v‖, `sqrt_d`
    √d_model·v/‖v‖, `match` ‖h‖·v/‖v‖, `raw` v, `multiply` scale·v. Add@1 of Karvonen et al. (2025) is
    `Injection("block", 1, "add", "match")`.

    Attributes:
        site: "embedding" or "block" (its output).
        block: counted from 0; None at the embedding.
        rule: "replace" or "add".
        norm: "fixed", "sqrt_d", "match", "raw" or "multiply".
        scale: of `fixed`, `sqrt_d` (√d_model) and `multiply`; else None.
        coefficient: c.
        markers: consecutive ones, a vector each; "any": as many as vectors are given.
        layers: the block that each marker's vector is read from; None: all from one.
    """

    site: Literal["embedding", "block"]
    block: int | None
    rule: Literal["replace", "add"]
    norm: Literal["fixed", "sqrt_d", "match", "raw", "multiply"]
    scale: float | None = None
    coefficient: float = 1.0
    markers: int | Literal["any"] = 1
    layers: tuple[int, ...] | None = None

    def __str__(self) -> str:
        place = "the marker's embedding" if self.site == "embedding" else f"the marker's state after block {self.block}"
        verb = "replaces" if self.rule == "replace" else "is added to"
        norm = {
            "fixed": f"with norm {self.scale:g}" if self.scale else "",
            "sqrt_d": "with norm √d_model",
            "match": "with the norm of what stands there",
            "raw": "as it is",
            "multiply": f"times {self.scale:g}" if self.scale else "",
        }[self.norm]
        factor = "" if self.coefficient == 1 else f" and coefficient {self.coefficient:g}"
        return f"the vector, {norm}{factor}, {verb} {place}"
