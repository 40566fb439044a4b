"""What `speed.py` compares and says: two evaluation files, figures by name, and the table against what was wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TOLERANCE = 1e-6
NO_FIGURES = ("cost", "created", "versions", "measured_by", "files", "sha256")  # of an evaluation: when, how fast


def over(medians: Mapping[str, Any], name: str, by: str) -> float:
    return medians["seconds"][name] / medians["seconds"][by]


def same(some: list[str], others: list[str]) -> str:
    return f"{sum(one == other for one, other in zip(some, others, strict=True))} of {len(some)}"


def leaves(value: Any, at: str = "") -> dict[str, Any]:
    """Everything in a nested value, by its dotted name.

    Example:
        >>> leaves({"a": {"b": [1, None]}})
        {'a.b.0': 1, 'a.b.1': None}
    """
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {at: value}
    return {name: leaf for key, part in items for name, leaf in leaves(part, f"{at}.{key}" if at else str(key)).items()}


def compared(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Two evaluation files: numbers to `TOLERANCE` (above 1 of the number), all else exactly; null is not there."""
    mine, theirs = (
        {
            name: leaf
            for name, leaf in leaves({key: part for key, part in file.items() if key not in NO_FIGURES}).items()
            if leaf is not None
        }
        for file in (new, old)
    )
    both = sorted(set(mine) & set(theirs))
    numbers = [name for name in both if all(isinstance(side[name], (int, float)) for side in (mine, theirs))]
    gaps = {name: abs(mine[name] - theirs[name]) for name in numbers}
    differ = [name for name, gap in gaps.items() if not gap <= TOLERANCE * max(1.0, abs(theirs[name]))]
    figures = len(differ)
    differ += [name for name in both if name not in gaps and mine[name] != theirs[name]]
    return {
        "figures": len(numbers),
        "figures_that_differ": figures,
        "tolerance": TOLERANCE,
        "largest_difference": max(gaps.values(), default=0.0),
        "different": {name: {"old": theirs[name], "new": mine[name]} for name in differ},
        "only_in_old": sorted(set(theirs) - set(mine)),
        "only_in_new": sorted(set(mine) - set(theirs)),
    }


WANTED = {
    "explain.bundled.many.old_over_new": (">=", 2.5),
    "explain.bundled.many.generate_over_new": (">=", 3),
    "explain.bundled.as_written.old_over_new": None,
    "explain.bundled.as_written.generate_over_new": None,
    "explain.bundled.one.old_over_new": (">=", 2),
    "explain.bundled.one.generate_over_new": None,
    "explain.seed.many.old_over_new": (">=", 2.5),
    "explain.seed.many.generate_over_new": None,
    "explain.seed.as_written.old_over_new": None,
    "explain.seed.as_written.generate_over_new": None,
    "explain.seed.one.old_over_new": None,
    "explain.seed.one.generate_over_new": None,
    "texts.equal_to_plain_float32_greedy": None,
    "texts.old_over_new": None,
    "round_trip.bundled.script_over_new": (">=", 25),
    "round_trip.seed.script_over_new": None,
    "on_policy.new_over_old": ("<=", 0.7),
    "reading.reconstruct.new_over_bare": ("<=", 0.8),
    "reading.extract.new_over_bare": ("<=", 0.8),
    "evaluate.new_over_old": ("<=", 0.5),
    "evaluate.user_cpu_new_over_old": None,
    "evaluate.file.figures_that_differ": ("<=", 0),
}
"""The figures of the table, and what was set out to be reached."""


def table(result: Mapping[str, Any]) -> str:
    figures = leaves(result)
    lines = []
    for name, wanted in WANTED.items():
        if name not in figures:
            continue
        value = figures[name]
        shown = value if isinstance(value, str) else f"{value:.3g}"
        seconds = result
        for part in name.split(".")[:-1]:
            seconds = seconds.get("seconds", seconds) if part == "file" else seconds[part]
        seconds = seconds.get("seconds", seconds)
        sides = ", ".join(f"{side} {took:.2f} s" for side, took in seconds.items() if isinstance(took, float))
        reached = ""
        if wanted is not None:
            way, bound = wanted
            reached = f"{way} {bound:g} " + ("yes" if (value >= bound if way == ">=" else value <= bound) else "NO")
        lines.append(f"{name:46}{shown:>11}  {reached:14}{sides}")
    return "\n".join(lines)
