"""Settings by dotted name (`av.lr`, `extract.sources.0.limit`): what a command line puts in a config's place."""

from __future__ import annotations

import copy
import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from nla_sdk.errors import InputError, first_line
from nla_sdk.io.parsing import parse_yaml

from .section import Section


def parse(assignments: Sequence[str]) -> dict[str, Any]:
    """`["av.lr=3e-5"]` → `{"av.lr": …}`; values are YAML.

    Raises:
        InputError: one has no "=", or a value that is not YAML.
    """
    values = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not key or not equals:
            raise InputError(f"--set {assignment:.60}: expected a setting and its value, as in av.lr=3e-5.")
        try:
            values[key] = parse_yaml(text)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: of a date that there is not, such as 2026-13-01
            raise InputError(f"--set {assignment:.60}: the value is not YAML: {first_line(error)}.") from None
    return values


def apply(values: Mapping[str, Any], model: type[Section], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What a config file holds, with other values at some of its keys. The result is not validated.

    Args:
        values: as read from YAML.
        model: of what shape it is.
        overrides: value by dotted name; entries of a list by their number, from 0.
    Raises:
        InputError: a key is no setting of `model`; names those that it may have meant.
    """
    changed = copy.deepcopy(dict(values))
    for key, value in overrides.items():
        holder, path = _holder(changed, model, key)
        if isinstance(holder, dict | list):  # anything else is refused when the whole is validated
            holder[path] = value
    return changed


def keys(model: type[Section], above: str = "") -> Iterator[str]:
    """Every dotted name of a section; of a list's entries, those of the first."""
    for name, field in model.model_fields.items():
        yield above + name
        section, is_list = _inside(field.annotation)
        if section is not None:
            yield from keys(section, f"{above}{name}.{'0.' if is_list else ''}")


def _holder(root: dict[str, Any], model: type[Section], key: str) -> tuple[Any, str | int]:
    """The section or list in which the last part of `key` stands, made where the file leaves it out; and that part."""
    values: Any = root
    section: type[Section] | None = model
    names = key.split(".")
    while True:
        name = names.pop(0)
        if section is None or name not in section.model_fields:
            raise InputError(f"--set {key}: there is no such setting{_meant(key, model)}")
        field = section.model_fields[name]
        if not names:
            return values, name
        section, is_list = _inside(field.annotation)
        if isinstance(values, dict) and values.get(name) is None:
            values[name] = _dumped(field) if is_list else {}
        values = values[name] if isinstance(values, dict) else None
        if is_list:
            count, number = len(values) if isinstance(values, list) else 0, names.pop(0)
            if not number.isdecimal() or int(number) >= count:
                raise InputError(f"--set {key}: {name} has {count} entries, counted from 0; {number} is none of them.")
            if not names:
                return values, int(number)
            values = values[int(number)]


def _dumped(field: FieldInfo) -> list[Any]:
    """A list's default, as a file would hold it."""
    default = [] if field.is_required() else field.get_default(call_default_factory=True)
    return [item.model_dump(mode="json") if isinstance(item, Section) else item for item in default or []]


def _inside(annotation: Any) -> tuple[type[Section] | None, bool]:
    """The section that a field holds, if it does; and whether it holds a list (of it)."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not type(None))
    is_list = get_origin(annotation) is list
    kind = get_args(annotation)[0] if is_list else annotation
    return (kind if isinstance(kind, type) and issubclass(kind, Section) else None), is_list


def _meant(key: str, model: type[Section]) -> str:
    known = list(keys(model))
    last = key.split(".")[-1]
    near = [name for name in known if name.split(".")[-1] == last] or difflib.get_close_matches(key, known)
    return f"; did you mean {', '.join(near[:4])}?" if near else "."
