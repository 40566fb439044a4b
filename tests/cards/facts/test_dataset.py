"""Cards of tables: what is counted in them, and what nobody stated."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import yaml
from huggingface_hub import DatasetCard

from cards import About, CardError, render
from cards.facts.dataset import DatasetFacts
from nla_sdk.contract import Contract
from nla_sdk.errors import InputError
from nla_sdk.io.rows.formats import write_stream
from nla_sdk.io.tables import vector_column
from tests.cards.samples import section


def table(folder, name: str, rows: int = 6, **changes):
    columns = {
        "row_id": [f"r{at}" for at in range(rows)],
        "doc_id": [f"d{at // 2}" for at in range(rows)],
        "source_family": ["math" if at % 3 else "code|x" for at in range(rows)],
        "labeler_model": ["extractive"] * rows,
        "label_status": ["accepted"] * (rows - 1) + ["repaired"],
        "api_explanation": ["On <b>cats</b> | and\nmore " + "x" * 500] * rows,
        "activation_vector": vector_column(np.ones((rows, 4))),
    }
    meta = {"base_model": "google/gemma-3-270m", "d_model": 4, "layer": 3, "drops": {"duplicate": 7}}
    meta |= {"inputs": {"split/av_sft.parquet": "ab" * 32}, **changes}
    return write_stream(folder / name, [pa.table(columns)], meta)


@pytest.fixture
def facts(tmp_path) -> DatasetFacts:
    tables = [table(tmp_path, "av_sft.parquet"), table(tmp_path, "eval.parquet", 4)]
    return DatasetFacts.read(tables, {"math": "CC-BY-4.0"})


def card_of(facts, **about):
    return render(facts.tables[0].contract, kind="dataset", about=About("ada/cat-data", dataset=facts, **about))


def test_a_dataset_card_tells_columns_counts_splits_hashes_and_an_example(facts):
    body = card_of(facts).body
    assert "10 rows in 2 tables" in body
    assert "| data/av\\_sft.parquet | 6 | 3 | train |" in body and "| data/eval.parquet | 4 | 2 | test |" in body
    assert facts.tables[0].sha256 in body
    assert "| activation\\_vector | fixed\\_size\\_list" in body and "the raw activation" in body
    assert "source family: math 4, code\\|x 2." in body and "label status: accepted 5, repaired 1." in body
    assert "left out" in body and "duplicate 7" in body and "| math | CC-BY-4.0 |" in body
    assert "| code\\|x | not stated |" in body
    assert "ab" * 32 in body, "what it was made from"
    example = next(line for line in body.splitlines() if line.startswith("| api\\_explanation | On"))
    assert "\\<b\\>cats" in example and len(example) < 700 and "…" in example


def columns(documents, texts=None, explanations=None) -> dict:
    texts = texts or [f"{name} says so" for name in documents]
    explanations = explanations or ["On it."] * len(documents)
    return {"doc_id": documents, "detokenized_text_truncated": texts, "api_explanation": explanations}


def plain_table(folder, name: str, found: dict, **changes):
    meta = {"base_model": "google/gemma-3-270m", "d_model": 4, "layer": 3, **changes}
    return write_stream(folder / name, [pa.table(found)], meta)


def test_overlap_and_repetition_are_counted_not_claimed(tmp_path):
    tables = [
        plain_table(tmp_path, "av_sft.parquet", columns(["d0", "d0", "d1"], ["a", "a", "b"])),
        plain_table(tmp_path, "ar_sft.parquet", {"doc_id": ["d7", "d8"]}),
        plain_table(tmp_path, "eval.parquet", columns(["d1", "d2"], ["c", "b"])),
    ]
    said = section(card_of(DatasetFacts.read(tables)).body, "Overlap and repetition")
    assert "Documents in both av\\_sft and eval: **1**." in said and "none is in two" not in said
    assert "Texts (exactly equal) in both av\\_sft and eval: **1**." in said
    assert "of ar\\_sft: not looked at, it has no column `detokenized_text_truncated`" in said
    assert "Rows of av\\_sft with text and explanation of another one: 1." in said
    assert "Rows of eval with text and explanation of another one: 0." in said
    assert "Rows of ar\\_sft with text and explanation of another one: not looked at" in said


def test_tables_that_are_apart_are_said_to_be(tmp_path):
    tables = [
        plain_table(tmp_path, "av_sft.parquet", columns(["d0", "d1"])),
        plain_table(tmp_path, "eval.parquet", columns(["d2"])),
    ]
    said = section(card_of(DatasetFacts.read(tables)).body, "Overlap and repetition")
    assert "Documents: none is in two of these tables." in said and "**" not in said
    assert "Texts (exactly equal): none is in two of these tables." in said
    alone = section(card_of(DatasetFacts.read(tables[:1])).body, "Overlap and repetition")
    assert "none is in two" not in alone


@pytest.mark.parametrize("changes", [{"layer": 9}, {"base_model": "google/gemma-3-1b-pt"}, {"d_model": 8}])
def test_tables_of_different_places_are_refused(tmp_path, changes):
    tables = [
        plain_table(tmp_path, "av_sft.parquet", columns(["d0"])),
        plain_table(tmp_path, "eval.parquet", columns(["d2"]), **changes),
    ]
    with pytest.raises(CardError, match=f"differ in `{next(iter(changes))}`: av_sft .*, eval "):
        DatasetFacts.read(tables)


def test_a_base_that_one_table_does_not_state_is_not_said_of_all(tmp_path):
    tables = [
        plain_table(tmp_path, "av_sft.parquet", columns(["d0"])),
        plain_table(tmp_path, "eval.parquet", columns(["d2"]), layer=None),
    ]
    assert "decoder block" not in card_of(DatasetFacts.read(tables)).body


def test_trained_on_it_is_said_of_halves_whose_training_table_is_there(tmp_path):
    halves = {"pair": "ada/cat-av", "pair_ar": "ada/cat-ar"}
    heldout = plain_table(tmp_path, "eval.parquet", columns(["d2"]))
    body = card_of(DatasetFacts.read([heldout]), **halves).body
    assert "rained on it" not in body.split("[!NOTE]")[0] and "AV that goes with it: [ada/cat-av](https://" in body
    both = [heldout, plain_table(tmp_path, "av_sft.parquet", columns(["d0"]))]
    body = card_of(DatasetFacts.read(both), **halves).body
    assert "AV trained on it: [ada/cat-av](https" in body and "AR that goes with it: [ada/cat-ar](https" in body


def test_more_values_than_are_shown_are_counted(tmp_path):
    found = columns([f"d{at}" for at in range(40)]) | {"source_family": [f"f{at % 20:02}" for at in range(40)]}
    body = card_of(DatasetFacts.read([plain_table(tmp_path, "a.parquet", found)])).body
    line = next(line for line in body.splitlines() if "source family:" in line)
    assert line.count(" 2,") == 12 and line.endswith("and 8 more with 16 rows.")


@pytest.mark.parametrize(
    ("name", "split"),
    [("eval", "test"), ("smoke_eval", "test"), ("heldout-2", "test"), ("retrieval", "train"), ("av_sft", "train")],
)
def test_a_tables_split_is_a_word_of_its_name(tmp_path, name, split):
    facts = DatasetFacts.read([plain_table(tmp_path, f"{name}.parquet", columns(["d0"]))])
    assert facts.tables[0].split == split


def test_a_dataset_without_a_licence_of_its_own_has_a_name_for_it(facts):
    data = DatasetCard(card_of(facts).text).data
    assert data.license == "other" and data.to_dict()["license_name"] == "see-card"
    data = DatasetCard(card_of(facts, licence="cc-by-4.0").text).data
    assert data.license == "cc-by-4.0" and "license_name" not in data.to_dict()
    assert "Gemma Terms of Use" in card_of(facts, licence="cc-by-4.0").body
    assert "This adapter" not in card_of(facts).body and "under cc-by-4.0" in card_of(facts, licence="cc-by-4.0").body


def test_the_viewer_finds_each_table(facts):
    data = DatasetCard(card_of(facts).text).data
    assert [one["config_name"] for one in data.configs] == ["av_sft", "eval"]
    assert data.configs[1]["data_files"] == [{"split": "test", "path": "data/eval.parquet"}]
    assert data.size_categories == "n<1K"


def test_licences_that_nobody_stated_are_said_not_to_be(tmp_path):
    facts = DatasetFacts.read([table(tmp_path, "a.parquet")])
    assert "Not stated by the author" in card_of(facts).body


def test_what_is_no_table_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match="not readable parquet"):
        DatasetFacts.read([tmp_path / "a.parquet"])


def test_a_table_card_carries_what_the_sidecar_says_and_stays_yaml(tmp_path):
    facts = DatasetFacts.read([table(tmp_path, "a.parquet", drops={"x|y\n---": 1})])
    text = card_of(facts).text
    assert yaml.safe_load(text.split("---")[1])["configs"] and "x\\|y" in text
    assert isinstance(facts.tables[0].contract, Contract)
