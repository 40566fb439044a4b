"""The prompts: versioned jinja2 templates, rendered per row and hashed into every row.

A changed wording is a new file (`labeler.v2.jinja2`) and a new number here: what was bought with the old one stays
valid, and tables say which they were made with. The text to label goes in as data, between delimiters that hold a hash
of it, so that nothing a text says can close them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

LABELER = "labeler.v1.jinja2"
AUDITOR = "auditor.v1.jinja2"

OPENINGS = (
    "a name or a noun phrase",
    "the claim being made, in other words",
    "the situation, in a few words without a verb",
    "a number, date or quantity if there is one, otherwise the most concrete object",
    "whoever speaks or acts, and what they are after",
    "what is still unfinished: a list, a sum, an argument, a promise",
    "how two things in it hang together: cause, contrast or sequence",
    "the form it has (an item of a list, a definition, a line of code, a turn of talk) and what fills it",
)
"""How a label may begin: one of these, by the text's hash, or thousands of labels all begin alike."""


def labeler_prompt(text: str, next_tokens: Sequence[str] = ()) -> str:
    """What the labeler is asked about the last token of `text`."""
    return _template(LABELER).render(
        text=text, fence=_fence(text), opening=opening_of(text), next_tokens=[repr(token) for token in next_tokens]
    )


def auditor_prompt(text: str, label: str) -> str:
    """What the auditor is asked about `label`."""
    return _template(AUDITOR).render(text=text, fence=_fence(text), label=label)


def opening_of(text: str) -> str:
    """The opening asked for; the same text always gets the same."""
    return OPENINGS[hashlib.sha256(text.encode()).digest()[8] % len(OPENINGS)]


def source_of(name: str) -> str:
    """A template as it is on disk."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _fence(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@cache
def _template(name: str):
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    # No autoescaping: this is no HTML, and a text must reach the labeler character by character.
    environment = SandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False
    )
    return environment.from_string(source_of(name))
