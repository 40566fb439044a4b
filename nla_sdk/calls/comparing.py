"""Two vectors and what lies between them; words of a direction and of the same turned round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from ..errors import InputError, ZeroActivationError
from ..io.rows.shown import html_table
from ..model.injection import rescale
from ..results import Explanation, Results
from ..vectors.kinds import Kind
from .rows import Rows

if TYPE_CHECKING:
    import torch

Signs: TypeAlias = Literal["+", "-", "±"]
"""Of directions: as they are, turned round, both."""
MINUS = "−"


class Signed(Explanation):
    """What the AV wrote for a direction or for the same turned round: an Explanation that knows which.

    Attributes:
        sign: "+" or "−".
    """

    sign: str

    def __new__(cls, text: str, *, sign: str = "+", **facts: Any) -> Signed:
        signed = cast(Signed, super().__new__(cls, text, **facts))
        signed.sign = sign
        return signed

    @classmethod
    def of(cls, written: Explanation, sign: str) -> Signed:
        """What was written, as of this sign."""
        facts = {name: getattr(written, name) for name in ("status", "raw", "tokens", "score", "best_of")}
        return cls(str(written), sign=sign, **facts)

    def to_row(self) -> dict[str, Any]:
        """The sign, then an explanation's columns."""
        return {"sign": self.sign, **super().to_row()}

    def __repr__(self) -> str:
        return f"{self.sign} {super().__repr__()}"


def as_signs(signs: object, kind: Kind) -> Signs:
    """Signs as a caller names them.

    Raises:
        InputError: there are none such, or activations are to be turned round.
    """
    if signs not in get_args(Signs):
        raise InputError(f"signs={signs!r}: expected {', '.join(map(repr, get_args(Signs)))}.")
    if signs != "+" and kind == "activation":
        raise InputError(
            f"signs={signs!r}: an activation has no sign, only directions and differences have one: kind='direction'."
        )
    return cast(Signs, signs)


def turned(rows: Rows, signs: Signs) -> Rows:
    """The rows turned round; with ± each twice, as it is and turned round."""
    if signs == "+":
        return rows
    each = [row for vector in rows.vectors for row in ([vector, -vector] if signs == "±" else [-vector])]
    if not isinstance(rows.vectors, list):
        import torch

        each = torch.stack(each)
    return replace(rows, vectors=each, layers=[at for at in rows.layers for _ in range(len(signs_of(signs)))])


def signs_of(signs: Signs) -> tuple[str, ...]:
    """The signs of each row of `turned`, in their order."""
    return {"+": ("+",), "-": (MINUS,), "±": ("+", MINUS)}[signs]


def labelled(written: Sequence[Explanation], signs: Signs, n: int) -> list[Explanation]:
    """What was written for `turned` rows, `n` of each together, with the sign of each."""
    if signs == "+":
        return list(written)
    each = [sign for sign in signs_of(signs) for _ in range(n)]
    return [Signed.of(text, each[at % len(each)]) for at, text in enumerate(written)]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two vectors in words, and their difference.

    Attributes:
        a, b: what the AV wrote for each.
        difference: what it wrote for a − b, as a difference.
        reverse: what it wrote for b − a; None where it was not asked for.
        norm: ‖a − b‖; of directions, whose length means nothing, that of their unit vectors, 0 to 2.
        cosine: of a and b as they are. Activations of one layer are mostly alike: the mean is in both.
        vector: float32 [d_model], a − b.
    """

    a: Explanation
    b: Explanation
    difference: Explanation
    reverse: Explanation | None
    norm: float
    cosine: float
    vector: torch.Tensor

    @property
    def words(self) -> dict[str, Explanation]:
        """The explanations by what they are of: a, b, a − b, b − a."""
        found = {"a": self.a, "b": self.b, f"a {MINUS} b": self.difference, f"b {MINUS} a": self.reverse}
        return {name: words for name, words in found.items() if words is not None}

    def to_row(self) -> dict[str, Any]:
        """The comparison's columns in a table."""
        words = {"a": self.a, "b": self.b, "difference": self.difference, "reverse": self.reverse}
        texts = {name: None if text is None else str(text) for name, text in words.items()}
        statuses = {f"{name}_status": None if text is None else text.status for name, text in words.items()}
        return {**texts, "norm": self.norm, "cosine": self.cosine, **statuses, "activation_vector": self.vector.numpy()}

    def __repr__(self) -> str:
        lines = [f"  {name:5}  {words!r}" for name, words in self.words.items()]
        return "\n".join([f"Comparison(norm={self.norm:.4g}, cosine={self.cosine:.4f})", *lines])

    def _repr_html_(self) -> str:
        rows = [
            {"of": name, "explanation": str(words), "status": words.status, "norm": None, "cosine": None}
            for name, words in self.words.items()
        ]
        rows[2] |= {"norm": f"{self.norm:.4g}", "cosine": self.cosine}
        return html_table(rows)


def difference(a: Rows, b: Rows) -> Rows:
    """a − b, row by row; one row is held against all. Of directions their unit vectors are subtracted.

    Raises:
        InputError: they are of two kinds or layers, or their numbers do not match. ZeroActivationError: they are equal.
    """
    import torch

    both = [one.vectors for one in (a, b)]
    if not all(isinstance(vectors, torch.Tensor) for vectors in both):
        raise InputError("The sets of vectors differ in their number; compare sets of as many vectors each.")
    if a.kind != b.kind:
        raise InputError(f"a is of kind {a.kind!r} and b of kind {b.kind!r}; what lies between them means nothing.")
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        raise InputError(f"{len(a)} vectors a and {len(b)} vectors b; expected as many of each, or one.")
    count = max(len(a), len(b))
    layers = [one.layers if len(one) == count else one.layers * count for one in (a, b)]
    if layers[0] != layers[1]:
        raise InputError("a and b are of different layers; what lies between them means nothing.")
    first, second = cast("list[torch.Tensor]", both)
    if a.kind == "direction":
        first, second = rescale(first, 1.0), rescale(second, 1.0)
    made = first - second
    if (same := (made == 0).flatten(1).all(dim=1)).any():
        raise ZeroActivationError(f"a and b are equal in row {int(same.nonzero()[0])}: nothing lies between them.")
    return Rows(made, layers[0], a.single and b.single, "difference")


def compared(
    a: Rows, b: Rows, between: Rows, words: Sequence[Sequence[Explanation]], signs: Signs
) -> Comparison | Results[Comparison]:
    """Comparisons of what was written for a, for b, and for `turned` rows of what lies between."""
    import torch

    count, of_a, of_b = len(between), *words[:2]
    each = words[2]

    def row(of: Sequence[Any] | torch.Tensor, at: int) -> Any:
        return of[at if len(of) == count else 0]

    found = []
    for at in range(count):
        first, second = row(a.vectors, at).flatten(), row(b.vectors, at).flatten()
        texts = each[at * 2 : at * 2 + 2] if signs == "±" else [each[at], None]
        vector = between.vectors[at]
        cosine = float(torch.nn.functional.cosine_similarity(first.double(), second.double(), dim=0))
        found.append(
            Comparison(
                row(of_a, at), row(of_b, at), texts[0], texts[1], float(vector.double().norm()), cosine, vector.cpu()
            )
        )
    return found[0] if between.single else Results(found)
