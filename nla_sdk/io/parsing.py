"""JSON and YAML as strangers write them: absurd nesting and endless aliases are errors of the text, never of Python."""

from __future__ import annotations

import json
from typing import Any

import yaml

MOST_NODES = 1_000_000
"""Of a YAML document with every alias written out: a few lines of aliases to aliases stand for more than any memory."""


def parse_json(text: str | bytes) -> Any:
    """What JSON text holds.

    Raises:
        ValueError: it is no JSON, no UTF-8, nested too deeply, or holds a number of more digits than Python reads.
    Example:
        >>> parse_json('{"a": [1, 2]}')
        {'a': [1, 2]}
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_yaml(text: str | bytes) -> Any:
    """What YAML text holds; no code runs.

    Raises:
        yaml.YAMLError: it is no YAML, nested too deeply, holds itself, or means more than `MOST_NODES` nodes.
        ValueError: a value is none, such as the date 2026-13-01.
    Example:
        >>> parse_yaml("a: [1, 2]")
        {'a': [1, 2]}
    """
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _size(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Nodes of a document with every alias written out."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    key = id(node)
    if key not in known:
        known[key] = 0  # while it is being counted: whoever meets it again is inside it
        inside = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[key] = 1 + sum(_size(part, known) for part in inside)
        if known[key] > MOST_NODES:
            raise yaml.YAMLError("its aliases, written out, are more than any file should hold")
    elif not known[key]:
        raise yaml.YAMLError("it holds itself")
    return known[key]
