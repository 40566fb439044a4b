"""Writes the tables of refusals and warnings into errors.md, from the classes themselves: `python docs/errors.py`.

A class's docstring says what it means, its `remedy` what to do; where it is raised is looked up in the source. The
prose around the tables is written by hand.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from nla_sdk.errors import NLAError, NLAWarning

ROOT = Path(__file__).parent.parent
PAGE = Path(__file__).with_suffix(".md")
BEGIN, END = "<!-- {}: written by docs/errors.py -->\n", "<!-- end of {} -->\n"
SOURCES = ("nla_sdk", "training", "cards")
ROOTS = {"errors": NLAError, "warnings": NLAWarning}


def page(text: str) -> str:
    """The page's text with the tables as the classes are now."""
    for name, root in ROOTS.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, rest = text.split(begin)
        text = before + begin + table(root) + end + rest.split(end)[1]
    return text


def table(root: type) -> str:
    """One line a class, each below the one it is a kind of."""
    lines = ["| class | what it means | what to do | raised in |", "|---|---|---|---|"]
    for depth, kind in classes(root):
        name = f"{'&emsp;' * depth}`{kind.__name__}`"
        lines.append(f"| {name} | {meaning(kind)} | {cell(kind.remedy)} | {', '.join(rooms(kind.__name__))} |")
    return "\n".join(lines) + "\n"


def classes(root: type, depth: int = 0) -> Iterator[tuple[int, type]]:
    """A class and all below it, parents first, in the order they are written; each with its depth.

    Of several parents the first one counts.
    """
    written = list(defined())
    for module in defined().values():
        importlib.import_module(module)  # a class is below another once it has been made
    yield depth, root
    below = [kind for kind in root.__subclasses__() if kind.__bases__[0] is root and kind.__name__ in written]
    for kind in sorted(below, key=lambda kind: written.index(kind.__name__)):
        yield from classes(kind, depth + 1)


@cache
def defined() -> dict[str, str]:
    """Class → module, of every error and warning class that the source holds, in the order of files and lines."""
    found: dict[str, tuple[str, list[str]]] = {}
    for file in files():
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.ClassDef):
                bases = [base.id if isinstance(base, ast.Name) else getattr(base, "attr", "") for base in node.bases]
                found[node.name] = (module, bases)
    known = {root.__name__ for root in ROOTS.values()}
    while more := {name for name, (_, bases) in found.items() if known & set(bases)} - known:
        known |= more
    return {name: found[name][0] for name in found if name in known}


def files() -> list[Path]:
    """The source."""
    return [file for source in SOURCES for file in sorted((ROOT / source).rglob("*.py"))]


@cache
def parsed(file: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def raised() -> dict[str, set[str]]:
    """Class → the rooms that make one, to raise it or to warn with it."""
    found: dict[str, set[str]] = {}
    for file in files():
        room = f"`{file.parent.relative_to(ROOT).as_posix()}/`"
        for node in ast.walk(parsed(file)):
            used = []
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") not in ("isinstance", "issubclass"):
                used = [node.func, *node.args, *(keyword.value for keyword in node.keywords)]
            elif isinstance(node, ast.Raise):
                used = [node.exc]
            for name in (one.id for one in used if isinstance(one, ast.Name)):
                found.setdefault(name, set()).add(room)
    return found


def rooms(name: str) -> list[str]:
    """The rooms that raise a class; none of one that only stands for its kinds."""
    return sorted(raised().get(name, ()))


def meaning(kind: type) -> str:
    """The first sentence of a class's docstring."""
    paragraph = " ".join((kind.__doc__ or "").strip().split("\n\n")[0].split())
    first, dot, rest = paragraph.partition(". ")
    return cell(first + dot.strip() if rest else paragraph)


def cell(text: str) -> str:
    """Text inside a table; the pages that it names are links."""
    return re.sub(r"docs/([\w/-]+\.md)", r"[docs/\1](\1)", text.replace("|", "\\|"))


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
