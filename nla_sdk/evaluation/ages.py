"""Which parts of the file came with which schema version: a file of an older version has none of the younger ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import Field

from .parts import Part

Found = TypeVar("Found")


def since(version: int, description: str | None = None) -> Any:
    """A field that files have since a schema version; None in older ones, which so keep their hash.

    Example:
        >>> class Some(Part):
        ...     young: int | None = since(3, "Rows.")
        >>> list(younger(Some(young=1), 2))
        [('young', 3)]
    """
    return Field(None, description=description, json_schema_extra={"since": version})


def came_with(kind: type[Part], name: str) -> int:
    """The schema version since which parts of a kind have a field."""
    extra = kind.model_fields[name].json_schema_extra
    known = extra.get("since") if isinstance(extra, dict) else None
    return known if isinstance(known, int) else 1


def younger(value: Any, version: int, where: str = "") -> Iterator[tuple[str, int]]:
    """Where something stands that a file of `version` cannot have, and since when there is such a thing."""
    if isinstance(value, Part):
        for name in type(value).model_fields:
            inner, path = getattr(value, name), f"{where}.{name}".lstrip(".")
            if inner is not None and (came := came_with(type(value), name)) > version:
                yield path, came
            else:
                yield from younger(inner, version, path)
    elif isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from younger(inner, version, f"{where}.{key}")


def as_of(value: Found, version: int) -> Found:
    """A part without what files of `version` cannot have: what such a file would say."""
    changed: Any = value
    if isinstance(value, Part):
        kept = {
            name: None if came_with(type(value), name) > version else as_of(getattr(value, name), version)
            for name in type(value).model_fields
        }
        changed = value.model_copy(update=kept)
    elif isinstance(value, dict):
        changed = {key: as_of(inner, version) for key, inner in value.items()}
    elif isinstance(value, list):
        changed = [as_of(inner, version) for inner in value]
    return changed
