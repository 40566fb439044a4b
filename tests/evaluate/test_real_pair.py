"""A whole evaluation of a tiny real pair (LoRA on a tiny Gemma 4), by the command and against the pair's own calls."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from nla_sdk import metrics
from nla_sdk.evaluation.parts import Settings
from nla_sdk.evaluation.reading import load
from nla_sdk.evaluation.schema import EVALUATION, ROWS, VARIANTS
from nla_sdk.io.tables import read_vectors, vector_column
from tests.commands import invoke
from training.evaluate.__main__ import app

ROOT = Path(__file__).parent.parent.parent
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "ran", "to", "sea", "by", "noon", "or", "so", "said"]


def fewer_draws(**given) -> Settings:
    """The command's settings, but with as few draws as tell p < 0.01."""
    assert (given["permutations"], given["bootstrap_draws"]) == (5000, 2000)
    return Settings(**given | {"permutations": 199, "bootstrap_draws": 50})


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, lora_folders, lora_pair):
    """A copy of the pair, held-out activations of its own base, and their evaluation by the command."""
    import shutil

    root = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(lora_folders["shared"], root / "pair")
    pair = lora_pair("shared")
    rng = np.random.default_rng(0)
    said = [" ".join(rng.choice(WORDS, 12)) for _ in range(14)]
    vectors = pair.extract(said).vectors.numpy()
    table = {
        "doc_id": [f"d{at // 2}" for at in range(14)],
        "activation_vector": vector_column(vectors),
        "detokenized_text_truncated": said,
        "api_explanation": [f'Ends in "{text[-9:]}". A list of words.' for text in said],
    }
    pq.write_table(pa.table(table), root / "eval.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nla_sdk.evaluation.parts.Settings", fewer_draws)
        done = invoke(
            app,
            *("--av", root / "pair", "--data", root / "eval.parquet", "--out", root / "out"),
            *("--controls", 4, "--signal", 4, "--record"),
        )
    assert done.exit_code == 0, done.stderr[-2000:]
    return root, done


def test_the_command_writes_the_file_its_tables_figures_and_report(evaluated):
    root, done = evaluated
    found = load(root / "out" / EVALUATION)
    assert found.round_trip.attempted == 14 and found.subject.matched
    assert found.verdict.value in done.stdout
    assert {ROWS, VARIANTS, "report.md"} <= {file.name for file in (root / "out").iterdir()}
    assert {"content_ablation.png", "content_ablation.svg"} <= {file.name for file in (root / "out/figures").iterdir()}
    assert not (root / "out" / "chunks").exists()
    text = (root / "out" / EVALUATION).read_text(encoding="utf-8")
    assert str(root) not in text and str(Path.home()) not in text


def test_rows_hold_what_the_pair_says_of_each_activation(evaluated, lora_pair):
    root, _ = evaluated
    pair, rows = lora_pair("shared"), pq.read_table(root / "out" / ROWS)
    vectors = read_vectors(rows)
    for at in (0, 5, 13):
        trip = pair.round_trip(vectors[at])
        row = rows.slice(at, 1).to_pylist()[0]
        assert row["explanation"] == trip.explanation and row["explanation_raw"] == trip.raw
        assert row["status"] == trip.status
        assert row["cosine_real"] == pytest.approx(trip.cosine, abs=1e-5)
        assert row["cosine_empty"] == pytest.approx(pair.score("", vectors[at]).cosine, abs=1e-5)
        assert row["cosine_label"] == pytest.approx(pair.score(row["label"], vectors[at]).cosine, abs=1e-5)


def test_controls_inject_what_they_say(evaluated, lora_pair):
    root, _ = evaluated
    pair = lora_pair("shared")
    variants = pq.read_table(root / "out" / VARIANTS).to_pylist()
    write = pair.verbalizer.write
    zero, none = write(torch.zeros(1, pair.d_model))[0], write(None)[0]
    marker = pair.verbalizer.backbone.model.get_input_embeddings()(
        torch.tensor([pair.verbalizer.prompt_ids[pair.verbalizer.marker]])
    )
    assert none == write(marker.detach())[0], "with nothing injected the model sees the marker's own embedding"
    for name, text in (("zero", zero), ("none", none)):
        assert {one["text"] for one in variants if one["variant"] == name} == {text}
    assert len([one for one in variants if one["variant"] == "random"]) == 4


def test_round_trips_go_on_from_the_reconstruction(evaluated, lora_pair):
    root, _ = evaluated
    pair = lora_pair("shared")
    rows = {row["row_id"]: row for row in pq.read_table(root / "out" / ROWS).to_pylist()}
    again = [one for one in pq.read_table(root / "out" / VARIANTS).to_pylist() if one["variant"] == "round_trip"]
    assert {one["number"] for one in again} == {2, 3, 4}
    second = next(one for one in again if one["number"] == 2)
    row = rows[second["row_id"]]
    vector, made = np.array(row["activation_vector"]), np.array(row["reconstruction"])
    said = pair.explain(made * np.linalg.norm(vector) / np.linalg.norm(made))
    assert said == second["text"]
    assert metrics.cosine(pair.reconstruct(said).numpy(), vector) == pytest.approx(second["cosine"], abs=1e-5)


def test_record_answers_in_the_checkpoint_where_a_number_came_from(evaluated):
    root, _ = evaluated
    found = load(root / "out" / EVALUATION)
    for role in ("av", "ar"):
        written = yaml.safe_load((root / "pair" / role / "nla_meta.yaml").read_text(encoding="utf-8"))
        assert written["eval_provenance"]["verdict"] == found.verdict.value


def test_verify_needs_no_torch_and_says_what_it_checked(evaluated):
    root, _ = evaluated
    code = "import atexit, runpy, sys; atexit.register(lambda: print('torch' in sys.modules)); "
    code += "runpy.run_module('training.evaluate', run_name='__main__')"
    arguments = ("verify", root / "out" / EVALUATION, "--data", root / "eval.parquet")
    halves = ("--av", root / "pair/av", "--ar", root / "pair/ar")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, (*arguments, *halves))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "every figure its rows determine" in done.stdout and "not at hand" not in done.stdout
    assert done.stdout.endswith("False\n"), "torch was imported"


def test_an_edited_file_is_refused_in_one_line_with_exit_code_2(evaluated, tmp_path):
    root, _ = evaluated
    text = (root / "out" / EVALUATION).read_text(encoding="utf-8")
    (tmp_path / EVALUATION).write_text(text.replace('"attempted": 14', '"attempted": 15'), encoding="utf-8")
    done = invoke(app, "verify", tmp_path / EVALUATION)
    assert done.exit_code == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") <= 2
    assert "Traceback" not in done.stderr


def test_compare_prints_two_evaluations(evaluated):
    root, _ = evaluated
    file = root / "out" / EVALUATION
    done = invoke(app, "compare", file, file)
    assert done.exit_code == 0 and "shared rows" in done.stdout


def test_a_pair_without_data_is_told_to_pass_some(evaluated):
    root, _ = evaluated
    done = invoke(app, "--av", root / "pair")
    assert done.exit_code == 2 and "Pass --data" in done.stderr


@pytest.mark.parametrize("floor", ["nan", "1.5"])
def test_a_floor_that_is_no_cosine_is_refused_before_anything_is_loaded(floor):
    done = invoke(app, "--av", "nowhere", "--data", "nowhere.parquet", "--floor", floor)
    assert done.exit_code == 2 and f"--floor is {floor}; expected a cosine" in done.stderr


def test_an_embedder_or_paraphraser_that_is_none_is_found_before_the_pair_is_loaded(tmp_path):
    (tmp_path / "para.yaml").write_text("{kind: extractive}", encoding="utf-8")
    done = invoke(app, "--av", "nowhere", "--data", "nowhere.parquet", "--paraphraser", tmp_path / "para.yaml")
    assert done.exit_code == 2 and "extractive cannot paraphrase" in done.stderr
