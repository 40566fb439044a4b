"""The pages of the Python API name all that is public, and all that they name says what it is."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import nla_sdk

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
PAGES = {file.name: file.read_text(encoding="utf-8") for file in sorted(REFERENCE.glob("*.md"))}
NAMES = sorted({name for text in PAGES.values() for name in re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)})
OURS = ("nla_sdk", "cards", "training")


def found(name: str) -> object:
    """The object that a dotted name is of."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        return functools.reduce(getattr, parts[cut:], module)
    raise LookupError(name)


def ours(thing: object) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] in OURS


def documented(name: str) -> Iterator[tuple[str, str | None]]:
    """Each public name at and below `name`, with what is said of it."""
    thing = found(name)
    if inspect.ismodule(thing):
        for own, below in vars(thing).items():
            if not own.startswith("_") and getattr(below, "__module__", "") == name and callable(below):
                yield from documented(f"{name}.{own}")
        return
    yield name, thing.__doc__
    kinds = [kind for kind in thing.__mro__ if ours(kind)] if isinstance(thing, type) else []
    for member in sorted({member for kind in kinds for member in vars(kind) if not member.startswith("_")}):
        value = getattr(thing, member, None)
        if callable(value) or isinstance(
            inspect.getattr_static(thing, member, None), property | functools.cached_property
        ):
            yield f"{name}.{member}", inspect.getdoc(inspect.getattr_static(thing, member)) or inspect.getdoc(value)
    said = " ".join(kind.__doc__ or "" for kind in kinds)
    for field in dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ():
        if not field.name.startswith("_"):
            yield f"{name}.{field.name}", said if re.search(rf"\b{field.name}\b", said) else None


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_a_docstring(name):
    assert [said for said, text in documented(name) if not (text or "").strip()] == []


def test_every_name_of_the_package_stands_on_the_first_page_and_on_one_of_the_others():
    public = [name for name in nla_sdk.__all__ if name != "__version__"]
    shown = {name.rpartition(".")[2] for name in NAMES}
    assert [name for name in public if f"`{name}`" not in PAGES["index.md"] or name not in shown] == []


def test_every_public_method_of_a_pair_stands_on_its_page():
    listed = re.findall(r"^ +- (\w+)$", PAGES["pair.md"], re.MULTILINE)
    public = {name for name in dir(nla_sdk.NLAPair) if not name.startswith("_")}
    fields = {field.name for field in dataclasses.fields(nla_sdk.NLAPair)}  # which its Attributes list
    assert sorted(listed) == sorted(public - fields)
