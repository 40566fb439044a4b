"""Cards of tables and of trajectories, and what changes between two cards."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard

from cards import About, Checkpoint, diff, render
from cards.dataset import DatasetFacts
from cards.figures import trajectory
from nla_sdk.contract import Contract
from nla_sdk.errors import InputError
from tests.cards.samples import measured, published
from tests.cards.test_model_card import contract
from training.chunks import write_stream
from training.files import vector_column


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
    assert "ab" * 32 in body, "what it was made from"
    example = next(line for line in body.splitlines() if line.startswith("| api\\_explanation | On"))
    assert "\\<b\\>cats" in example and len(example) < 700 and "…" in example


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


# --- trajectories -----------------------------------------------------------------------------------------------------
def test_a_trajectory_has_one_row_a_checkpoint_and_its_warnings_first(tmp_path):
    found, _ = measured()
    blind = published()
    steps = [
        Checkpoint("step_50", contract("av")),
        Checkpoint("step_100", contract("av"), blind),
        Checkpoint("step_150", contract("av"), found),
    ]
    made = trajectory([(one.name, one.evaluation) for one in steps], tmp_path)
    assert {path.name for path in made} == {"trajectory.png", "trajectory.svg"}
    card = render(
        contract("av"), kind="trajectory", about=About("ada/cat-run", checkpoints=steps, figures=("trajectory",))
    )
    body = card.body
    assert "1 of 3 checkpoints are not evaluated" in body
    assert "step\\_100: content-blind" in body and body.index("content-blind") < body.index("| checkpoint |")
    assert f"| step\\_150 | reads-content | 60 of 60 | {found.round_trip.fve.value:.3f}" in body
    assert "| step\\_50 | not evaluated |" in body and "figures/trajectory.png" in body
    assert 'from_pretrained("ada/cat-run/step_150"' in body
    assert "model-index" not in card.text and ModelCard(card.text).data.license == "gemma"


def test_a_trajectory_nobody_evaluated_draws_and_claims_nothing(tmp_path):
    steps = [Checkpoint(f"step_{at}", contract("ar")) for at in (1, 2)]
    assert trajectory([(one.name, None) for one in steps], tmp_path) == []
    body = render(contract("ar"), kind="trajectory", about=About("ada/cat-run", checkpoints=steps)).body
    assert "**Not evaluated.**" in body and "reads-content" not in body


# --- differences ------------------------------------------------------------------------------------------------------
def test_a_difference_names_front_matter_and_section():
    old = render(contract("av"), about=About("ada/cat-av", pair="ada/cat-ar")).text
    found, _ = measured()
    new = render(contract("av"), found, about=About("ada/cat-av", pair="ada/cat-ar")).text
    said = diff(old, new)
    assert said.startswith("== front matter") and "== body" in said
    assert "+- nla-verdict-reads-content" in said and any(
        line.startswith("+## Performance") for line in said.splitlines()
    )
    assert diff(new, new) == ""


def test_a_table_card_carries_what_the_sidecar_says_and_stays_yaml(tmp_path):
    facts = DatasetFacts.read([table(tmp_path, "a.parquet", drops={"x|y\n---": 1})])
    text = card_of(facts).text
    assert yaml.safe_load(text.split("---")[1])["configs"] and "x\\|y" in text
    assert isinstance(facts.tables[0].contract, Contract)
