"""docs/docstrings.py: our docstrings as Markdown."""

from __future__ import annotations

import runpy
from pathlib import Path

markdown = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "docstrings.py"))["markdown"]


def test_sections_become_headings_and_lists_and_examples_blocks_of_python():
    text = """First line.

    More of it, of [n, d_model].

    Args:
        a, b: shapes [d]; the
            rest of it.
        c: `x[0]`.
    Returns:
        One, or
        two.
    Raises:
        OneError, TwoError: both.
        ThreeError.
    Example:
        >>> f([1])  # doctest: +SKIP
        2
    """
    assert markdown(text) == "\n".join(
        [
            "First line.",
            "",
            r"More of it, of \[n, d\_model\].",
            "",
            "**Parameters**",
            "",
            r"- `a`, `b`: shapes \[d\]; the rest of it.",
            "- `c`: `x[0]`.",
            "",
            "**Returns**",
            "",
            "One, or\ntwo.",
            "",
            "**Raises**",
            "",
            "- `OneError`, `TwoError`: both.",
            "- ThreeError.",
            "",
            "**Example**",
            "",
            "```pycon\n>>> f([1])\n2\n```",
        ]
    )


def test_prose_behind_a_section_is_prose():
    assert markdown("One.\n\nArgs:\n    a: x.\n\nTwo.") == "One.\n\n**Parameters**\n\n- `a`: x.\n\nTwo."


def test_a_docstring_without_sections_stays_as_it_is_but_for_signs_of_markdown():
    assert markdown("2 * (1 - cos) of `a_b`, <x>") == r"2 \* (1 - cos) of `a_b`, \<x>"
