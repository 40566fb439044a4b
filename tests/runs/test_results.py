"""Finished tables are kept and listed, and published where asked."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from nla_sdk.errors import RenamedRepositoryWarning
from nla_sdk.io.files import sha256_of
from nla_sdk.io.rows.formats import write_stream
from nla_sdk.io.sidecars import sidecar_of
from tests.data.test_extract import config_of
from training.configs.config import Config
from training.runs.results import ResultsError, keep

pytest_plugins = ["tests.hub.fixtures"]
TOKEN = "hf_" + "Correct7Horse" * 2


@pytest.fixture
def config(tmp_path) -> Config:
    return config_of(tmp_path, tmp_path, tmp_path)


def table(config: Config, name: str = "split/eval.parquet", value: int = 1) -> Path:
    path = config.out / name
    write_stream(path, [pa.table({"x": [value]})], {"stage": "split"})
    return path


def listed(config: Config) -> dict:
    return json.loads((config.results / "MANIFEST.json").read_text())


def test_a_table_is_copied_with_its_sidecar_and_listed_with_its_hash(config):
    made = table(config)
    copy = keep(config, made)
    assert copy == config.results / "out" / "split" / "eval.parquet"
    assert sha256_of(copy) == sha256_of(made) and sha256_of(sidecar_of(copy)) == sha256_of(sidecar_of(made))
    (entry,) = listed(config).values()
    assert (entry["sha256"], entry["rows"], entry["stage"]) == (sha256_of(made), 1, "split")
    keep(config, made)
    assert len(listed(config)) == 1


def test_a_kept_table_is_never_overwritten_by_another_of_its_name(config):
    first = keep(config, table(config, value=1))
    digest = sha256_of(first)
    second = keep(config, table(config, value=2))
    assert sha256_of(first) == digest != sha256_of(second)
    assert second.name == f"eval-{sha256_of(second)[:12]}.parquet"
    assert len(listed(config)) == 2


@pytest.mark.parametrize("content, message", [("{", "cannot be read"), ("[]", "holds a list, expected an object")])
def test_a_damaged_list_is_not_written_over(config, content, message):
    config.results.mkdir(parents=True)
    (config.results / "MANIFEST.json").write_text(content)
    with pytest.raises(ResultsError, match=message):
        keep(config, table(config))
    assert (config.results / "MANIFEST.json").read_text() == content


def test_tables_are_published_with_their_sidecars_one_commit_each(config, hub, monkeypatch):
    hub.tokens[TOKEN] = set()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    made = [table(config), table(config, "av_sft.parquet", 2)]
    for one in made:
        keep(config, one, "ada/tables")
    files = hub.files("ada/tables", kind="dataset")
    assert {path: data for path, data in files.items() if path != ".gitattributes"} == {
        f"data/{path.relative_to(config.out).as_posix()}": path.read_bytes()
        for one in made
        for path in (one, sidecar_of(one))
    }


@pytest.mark.parametrize("token, status", [(None, None), (TOKEN, 503)])
def test_what_cannot_be_published_is_kept_and_said_without_the_token(config, hub, monkeypatch, token, status):
    hub.tokens[TOKEN] = set()
    hub.outage = status
    monkeypatch.setattr("huggingface_hub.utils._http._DEFAULT_RETRY_ON_STATUS_CODES", (), raising=False)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    else:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(ResultsError, match=r"Could not publish .*It is safe in .*hf auth login") as caught:
        keep(config, table(config), "ada/tables")
    assert TOKEN not in str(caught.value)
    assert len(listed(config)) == 1


def test_a_table_goes_to_a_renamed_dataset_and_no_new_one_takes_its_old_name(config, hub, monkeypatch):
    hub.tokens[TOKEN] = set()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.add("ada/old", {"README.md": "kept"}, kind="dataset")
    hub.rename("ada/old", "ada/tables", kind="dataset")
    with pytest.warns(RenamedRepositoryWarning, match="ada/old is now ada/tables"):
        keep(config, table(config), "ada/old")
    assert set(hub.files("ada/tables", kind="dataset")) > {"README.md", "data/split/eval.parquet"}
    assert hub.store.find("dataset", "ada/old") is None
