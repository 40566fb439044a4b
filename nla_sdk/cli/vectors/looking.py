"""`nla vectors REF`: what is there, what was taken for granted, and what must be told before it is explained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..terminal import print_pairs

if TYPE_CHECKING:
    from ...vectors.kinds import Found, Stated

SAMPLE = 16  # rows whose norms are looked at: of a dictionary on the Hub each is a request
LABELS = 8  # shown


def show(ref: str, stated: Stated, *, as_json: bool, **where: Any) -> None:
    """Print it.

    Args:
        where: `revision`, `local_files_only`, as for `nla_sdk.vectors.load`.
    """
    told = describe(ref, stated, **where)
    if as_json:
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return
    print_pairs(f"{told['name']} ({told['tool']})", _lines(told))
    for title, key in (("taken for granted", "assumed"), ("must be told", "questions"), ("not known", "unknown")):
        print_pairs(title if told[key] else "", [("", _said(one)) for one in told[key]])


def describe(ref: str, stated: Stated, **where: Any) -> dict[str, Any]:
    """What is there, as plain values.

    Raises:
        as `nla_sdk.vectors.load`, but for what is open.
    """
    from ...vectors.loading import look

    reference, place, found = look(ref, stated, **where)
    rows = reference.rows(found.count, found.labels, found.numbers) if found.count else []
    layers = found.layer if isinstance(found.layer, int) or found.layer is None else [found.layer[row] for row in rows]
    if isinstance(layers, list) and len(set(layers)) == 1:
        layers = layers[0]
    return {
        "name": place.name,
        "tool": found.tool,
        "count": len(rows),
        "of": found.count,
        "width": found.width,
        "kind": found.kind,
        "layer": layers,
        "site": found.site,
        "model": found.model,
        "norms": _norms(found, rows),
        "labels": [found.labels[row] if found.labels else f"#{row}" for row in rows[:LABELS]],
        "null": sum(row in found.missing for row in rows),
        "assumed": list(found.assumed),
        "questions": [
            {"fact": one.fact, "option": one.option, "why": one.why, "choices": list(one.choices)}
            for one in found.questions
        ],
        "unknown": list(found.unknown),
    }


def _norms(found: Found, rows: Sequence[int]) -> dict[str, float | int] | None:
    """Least, median and greatest ‖v‖ of some rows; None: which rows they are, or of what type, is not known yet."""
    import numpy as np

    there = [row for row in rows if row not in found.missing]
    if not there or any(question.fact in ("column", "dtype") for question in found.questions):
        return None
    step = -(-len(there) // SAMPLE)
    some = there[::step]
    norms = np.linalg.norm(np.asarray(found.read(some), np.float64), axis=1)
    return {
        "least": float(norms.min()),
        "median": float(np.median(norms)),
        "greatest": float(norms.max()),
        "of": len(some),
    }


def _lines(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    of = "" if told["count"] == told["of"] else f" of {told['of']:,}"
    null = f", {told['null']} of them null" if told["null"] else ""
    yield "vectors", f"{told['count']:,}{of} × {told['width']}{null}"
    for name in ("kind", "layer", "site", "model"):
        said = told[name] if isinstance(told[name], list) else [told[name]]
        yield name, ", ".join("not said" if one is None else str(one) for one in said)
    if (norms := told["norms"]) is not None:
        sample = "" if norms["of"] == told["count"] - told["null"] else f" (of a sample: {norms['of']} rows)"
        yield "norms", f"{norms['least']:.4g} to {norms['greatest']:.4g}, median {norms['median']:.4g}{sample}"
    more = ", …" if told["count"] > LABELS else ""
    yield "labels", ", ".join(told["labels"]) + more


def _said(one: Any) -> str:
    if isinstance(one, str):
        return one
    choices = f": {'; '.join(one['choices'])}" if one["choices"] else ""
    return f"{one['option']} ({one['why']}){choices}"
