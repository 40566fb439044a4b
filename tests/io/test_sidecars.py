"""What stands beside a table, and how it is written."""

from __future__ import annotations

import pytest
import yaml

from nla_sdk import __version__
from nla_sdk.contract import Contract
from nla_sdk.errors import InputError
from nla_sdk.io import sidecars
from nla_sdk.io.sidecars import code_version, read_sidecar, sidecar_of, write_sidecar, write_yaml


def test_a_sidecar_keeps_its_keys_in_order_and_says_which_code_wrote_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sidecars, "code_version", lambda: "f" * 40)
    table = tmp_path / "a.parquet"
    write_sidecar(table, {"layer": 3, "base_model": "größe/x", "drops": {"b": 1, "a": 2}})
    assert sidecar_of(table).read_text(encoding="utf-8") == (
        f"kind: nla_dataset\nlayer: 3\nbase_model: größe/x\ndrops:\n  b: 1\n  a: 2\ncode_version: {'f' * 40}\n"
    )
    assert read_sidecar(table) == {
        "kind": "nla_dataset",
        "layer": 3,
        "base_model": "größe/x",
        "drops": {"b": 1, "a": 2},
        "code_version": "f" * 40,
    }
    assert Contract.load(table).layer == 3


def test_a_table_without_a_sidecar_has_nothing_to_say(tmp_path):
    assert read_sidecar(tmp_path / "a.parquet") == {}
    sidecar_of(tmp_path / "a.parquet").write_text("- a list")
    with pytest.raises(InputError, match="holds a list; expected keys and values"):
        read_sidecar(tmp_path / "a.parquet")


def test_what_yaml_cannot_hold_leaves_the_old_file(tmp_path):
    write_yaml(tmp_path / "a.yaml", {"a": 1})
    with pytest.raises(yaml.YAMLError):
        write_yaml(tmp_path / "a.yaml", {"a": object()})
    assert [path.read_text() for path in tmp_path.iterdir()] == ["a: 1\n"]


def test_git_is_asked_once_a_process(monkeypatch):
    asked = []
    monkeypatch.setattr(sidecars, "commit", lambda: asked.append(1))
    code_version.cache_clear()
    assert code_version() == code_version() == f"nla-sdk {__version__}" and asked == [1]
    code_version.cache_clear()


def test_the_code_version_is_a_commit_or_the_packages():
    assert code_version().startswith("nla-sdk ") or len(code_version().removesuffix("+changes")) == 40
