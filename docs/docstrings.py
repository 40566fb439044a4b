"""Docstrings as the site's pages of the API show them: Markdown. mkdocs.yml names this file to Griffe.

The sections of our docstrings name several parameters or errors in one line, which Griffe's own parsers take for
faults. So a section becomes a heading in bold and a list, an example a block of Python, and Griffe is told that all is
Markdown. A field of a pydantic model has its description for a docstring.
"""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

import griffe

SECTIONS = ("Args", "Attributes", "Raises", "Returns", "Warns", "Yields", "Example")
LISTS = ("Args", "Attributes", "Raises", "Warns")
HEADINGS = {"Args": "Parameters", "Raises": "Raises", "Warns": "Warns"}


def markdown(docstring: str) -> str:
    """A docstring's text as Markdown."""
    written: list[str] = []
    section, block = "", []
    for line in [*inspect.cleandoc(docstring).splitlines(), "End:"]:
        head = re.fullmatch(rf"({'|'.join([*SECTIONS, 'End'])}):", line)
        if not head:
            if section and line and not line.startswith(" "):  # prose goes on behind a section
                written += _section(section, block)
                section, block = "", []
            block.append(line)
            continue
        written += _section(section, block)
        section, block = head[1], []
    return "\n".join(written).strip()


def _section(name: str, block: list[str]) -> list[str]:
    text = inspect.cleandoc("\n" + "\n".join(block))
    if not name or not text:
        return [_literal(text), ""]
    lines = [f"**{HEADINGS.get(name, name)}**", ""]
    if name == "Example":
        return [*lines, "```pycon", text.replace("  # doctest: +SKIP", ""), "```", ""]
    if name not in LISTS:
        return [*lines, _literal(text), ""]
    for line in text.splitlines():
        if line.startswith(" "):
            lines[-1] += " " + _literal(line.strip())
        elif found := re.match(r"([\w, *]+): (.*)", line):
            names = ", ".join(f"`{one}`" for one in found[1].split(", "))
            lines.append(f"- {names}: {_literal(found[2])}")
        else:
            lines.append(f"- {_literal(line)}")
    return [*lines, ""]


def _literal(text: str) -> str:
    """Text outside of code with nothing in it that Markdown takes for a sign: `[n, d]`, `a_b`, `2 * 3`, `<name>`."""
    parts = re.split(r"(```.*?```|`[^`]*`)", text, flags=re.DOTALL)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<\[\]])", r"\\\1", part) for part in parts)


class Docstrings(griffe.Extension):
    """What Griffe does with each object that it has read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Take a docstring for Markdown."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Give a model's field its description."""
        value = attr.value
        if attr.docstring is None and isinstance(value, griffe.ExprCall):
            said = [str(one.value) for one in value.arguments if getattr(one, "name", "") == "description"]
            said += [str(one) for one in value.arguments[1:2] if str(value.function) in ("since", "younger")]
            for text in said[:1]:
                attr.docstring = griffe.Docstring(_literal(ast.literal_eval(text)), parent=attr)
