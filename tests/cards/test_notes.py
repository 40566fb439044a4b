"""Notes stay in their section whatever is in them, and sections by hand outlive a rendering."""

from __future__ import annotations

import re

import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from cards import About, CardError, render
from cards.notes import tame
from tests.cards.samples import ABOUT, contract, measured

MARKDOWN = MarkdownIt("commonmark").enable("table")
OURS = {"<!-- notes -->", "<!-- /notes -->", "<!-- keep -->", "<!-- /keep -->"}


def card_with(notes: str | None = None, existing: str | None = None, evaluation=None):
    about = About("ada/cat-av", pair="ada/cat-ar", notes=notes, existing=existing)
    return render(contract("av"), evaluation, about=about)


# --- the author's notes -----------------------------------------------------------------------------------------------
def test_what_the_author_writes_stays_in_its_section():
    notes = "---\nlicense: mit\n---\n# Mine\n<script>alert(1)</script>\n```python\nprint(1)\n"
    card = card_with(notes)
    section = card.body[card.body.index("<!-- notes -->") : card.body.index("<!-- /notes -->")]
    assert "### Mine" in section and "&lt;script>" in section and section.count("```") == 2
    assert ModelCard(card.text).data.license == "gemma" and "alert" not in card.metadata.to_yaml()
    assert card.body.index("<!-- /notes -->") < card.body.index("## Provenance")


def tokens_of(body: str):
    for token in MARKDOWN.parse(body):
        yield token
        yield from token.children or []


def headings_of(body: str) -> list[tuple[str, str]]:
    tokens = MARKDOWN.parse(body)
    return [
        (token.tag, after.content)
        for token, after in zip(tokens, tokens[1:], strict=False)
        if token.type == "heading_open"
    ]


def holds(notes: str) -> None:
    """No HTML and no high heading out of the notes, all of the card after them, the box above them unchanged."""
    plain, body = card_with("x" if tame(notes) else None).body, card_with(notes).body
    html = {token.content.strip() for token in tokens_of(body) if token.type.startswith("html")}
    assert html <= OURS, html
    assert [one for one in headings_of(body) if one[0] in ("h1", "h2")] == headings_of(plain)
    assert MARKDOWN.render(body).split("<!-- notes -->")[0] == MARKDOWN.render(plain).split("<!-- notes -->")[0]
    assert not references_of(body)


def references_of(body: str) -> dict:
    environment: dict = {}
    MARKDOWN.parse(body, environment)
    return environment.get("references", {})


NASTY = [
    "How to fence:\n\n    ```\n    code\n\nDone.",
    "Text\n\n    ```\n\n<script>alert(1)</script>\n\n# Verdict: reads-content\n",
    "````markdown\n```python\nx\n```\n````\nafter <b>",
    "[!WARNING]: https://evil.example/ 'x'\n\nhi",
    "- item\n\n  ```\n  code\n<script>alert(1)</script>",
    "1. x\n   ~~~\n# Up\n~~~",
    "> ```\n<img src=x>\n",
    "- # Up\n> # Up\n> - ## Up",
    "Up\n=\n\nUp\n-\n> Up\n> ==",
    "[a\nb]: /x\n\n> [c]: /x\n- [d]: /x",
    "a\r# Up\r\r<b>",
    "``` a`b\n<script>\n",
    "```\nopen",
    "~~~~\n~~~\n<b>\n",
]


@pytest.mark.parametrize("notes", NASTY)
def test_notes_break_out_of_nothing(notes):
    holds(notes)


PIECES = ["```", "~~~", "````", "`", "# x", "##", "=", "---", "-", "- ", "1. ", "> ", "<b>", "<!--", "<!-- keep -->"]
PIECES += ["<!-- /notes -->", "[a]:", "[a", "b]: /x", "[!WARNING]: /x", "| a |", "\\", "x", " ", "   ", "    ", "\t"]
PIECES += ["\n", "\n\n", "\r"]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_no_notes_break_out(notes):
    holds(notes)


def test_ordinary_notes_read_as_they_were_written():
    notes = "See [this](https://x.org) and [ ] that.\n\n- [ ] todo\n- [x] done\n\n[![badge](b.png)](https://x.org)\n\n"
    notes += "| a | b |\n| --- | --- |\n| 1 | 2 |\n\n```python\nif a < b:  # not a heading\n\n\n\n    pass\n```\n\nEnd."
    assert tame(notes) == notes and notes in card_with(notes).text


# --- sections by hand -------------------------------------------------------------------------------------------------
def with_section(text: str, section: str) -> str:
    return text.replace("## Provenance", f"{section}\n\n## Provenance")


def test_sections_between_keep_markers_survive():
    first = card_with().text
    edited = with_section(first, "<!-- keep -->\n## By hand\n\nWritten **here**.\n<!-- /keep -->")
    again = card_with(existing=edited).text
    assert again.count("Written **here**.") == 1
    assert card_with(existing=again).text == again
    assert card_with(existing=edited.replace("\n", "\r\n")).text == again


@pytest.mark.parametrize("end", ["<!-- /keep -->", "<!-- keep -->", "  <!--/KEEP-->  "])
def test_a_section_stays_as_it_was_written(end):
    section = "<b>By hand</b>\n```\na\n\n\n\nb\n<!-- /keep -->\n```\n\n\n\nand text"
    again = card_with(existing=with_section(card_with().text, f"<!-- KEEP -->\n{section}\n{end}")).text
    assert f"<!-- keep -->\n{section}\n<!-- /keep -->" in again
    assert card_with(existing=again).text == again


def test_markers_in_code_and_in_notes_are_text():
    code = "```html\n<!-- keep -->\nmine\n<!-- /keep -->\n<!-- /notes -->\n```"
    notes = f"Keep your text like this:\n\n{code}\n<!-- keep -->\n"
    first = card_with(notes).text
    assert card_with(notes, existing=first).text == first and first.count("mine") == 1
    template = "<!-- keep --><h1>Verdict: reads-content</h1><!-- /keep --> {injection_char}"
    evil = contract("av", av_template=template)
    first = render(evil, about=ABOUT["av"]).text
    about = About("ada/cat-av", pair="ada/cat-ar", existing=first)
    assert render(evil, about=about).text == first


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("<!-- keep -->\nBY HAND", "begins in line \\d+ .* has no end"),
        ("BY HAND\n<!-- /keep -->", "No section begins above it"),
        ("<!-- keep -->\nONE\n<!-- keep -->\nTWO\n<!-- /keep -->", "No section begins above it"),
        ("<!-- keep --> BY HAND <!-- /keep -->", "needs a line of its own"),
        ("<!-- keep -->\n```\nBY HAND\n<!-- /keep -->", "no end outside the code block"),
        ("<!-- keep -->\nBY HAND\n<!-- /keep -->\n```\n", "ends inside a code block"),
        ("<!-- notes -->\nBY HAND", "The notes section .* has no end"),
    ],
)
def test_a_section_that_would_be_lost_is_refused(section, said):
    text = card_with().text
    edited = text[: text.index("## How to use")] + section + "\n"
    with pytest.raises(CardError, match=said):
        card_with(existing=edited)


def test_a_kept_section_outlives_an_evaluation():
    edited = with_section(card_with().text, "<!-- keep -->\nBy hand.\n<!-- /keep -->")
    text = card_with(existing=edited, evaluation=measured()[0]).text
    assert re.search(r"<!-- keep -->\nBy hand\.\n<!-- /keep -->\n\n## Provenance", text)
