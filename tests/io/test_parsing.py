"""JSON and YAML of strangers: what they hold, or an error of the text."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.io import parsing
from nla_sdk.io.parsing import parse_json, parse_yaml

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_what_was_written_is_read(value):
    assert parse_json(json.dumps(value)) == value
    assert parse_yaml(yaml.safe_dump(value)) == yaml.safe_load(yaml.safe_dump(value))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, b"\xff", "", "[1", "nul"])
def test_json_that_is_none_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "&a [*a]", "a: &a {b: *a}", "[1", "!!python/name:os.system", "a: \x00"]
)
def test_yaml_that_is_none_is_a_yaml_error(text):
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)


def test_aliases_are_counted_as_if_written_out(monkeypatch):
    assert parse_yaml("a: &a [1, 2]\nb: *a\nc: *a") == {"a": [1, 2], "b": [1, 2], "c": [1, 2]}
    monkeypatch.setattr(parsing, "MOST_NODES", 12)
    with pytest.raises(yaml.YAMLError, match="written out"):
        parse_yaml("a: &a [1, 2]\nb: *a\nc: *a")
