"""What changes between two cards, for people."""

from __future__ import annotations

from cards import About, diff, render
from tests.cards.samples import contract, measured


def test_a_difference_names_front_matter_and_section():
    old = render(contract("av"), about=About("ada/cat-av", pair="ada/cat-ar")).text
    found, _ = measured()
    new = render(contract("av"), found, about=About("ada/cat-av", pair="ada/cat-ar")).text
    said = diff(old, new)
    assert said.startswith("== front matter") and "== body" in said
    assert "+- nla-verdict-reads-content" in said and any(
        line.startswith("+## Performance") for line in said.splitlines()
    )
    assert diff(new, new) == ""


def test_a_comment_in_code_is_no_section():
    card = "---\na: 1\n---\n# Title\n## How\n```python\n# a comment\nx=1\n```\n"
    assert "@@ How" in diff(card, card.replace("x=1", "x=2"))
    assert diff(card.replace("\n", "\r\n"), card) == ""
