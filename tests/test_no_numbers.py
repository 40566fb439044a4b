"""Where a model gives no numbers, every command ends with exit code 2, the cause and what helps, and writes nothing."""

from __future__ import annotations

import json
import math
import shutil
from base64 import b64encode
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from nla_sdk import NLAPair
from nla_sdk.errors import InputError
from nla_sdk.evaluation.reading import EvaluationError, dumps, load
from nla_sdk.halves.half import Half
from nla_sdk.io.files import sha256_of
from nla_sdk.io.tables import vector_column
from tests import tiny
from tests.cli.test_cli import nla  # noqa: F401
from tests.commands import invoke
from training.evaluate.__main__ import app as evaluate
from training.evaluate.measures.tables import EMPTY
from training.evaluate.verify import verify
from training.publish.checks.half import check_half
from training.publish.errors import Findings

D = tiny.D_MODEL
OVERFLOW = "is NaN or infinite in float16: block 1 overflows (its input reaches"
REMEDY = "Load it in bfloat16 or float32 (dtype='bfloat16'; nla: --dtype bfloat16)."


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A base whose block 1 overflows float16, as Gemma 3 does, a pair on it, and activations."""
    root = tmp_path_factory.mktemp("overflows")
    base = tiny.save_model(root / "base", tiny.llama_config(), tiny.tokenizer(), seed=1)
    change(base / "model.safetensors", lambda tensors: tensors["model.layers.1.mlp.down_proj.weight"].mul_(3e4))
    tiny.lora_pair(root / "pair", base, tiny.plain_model(base), layer=1, blocks=3)
    rows = tiny.random(12, D, seed=3).numpy()
    table = {"doc_id": [f"d{at}" for at in range(12)], "activation_vector": vector_column(rows)}
    pq.write_table(pa.table(table), root / "acts.parquet")
    return root


def change(file: Path, work) -> None:
    tensors = load_file(file)
    work(tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file, metadata={"format": "pt"})


# --- nla ----------------------------------------------------------------------------------------------------------
COMMANDS = {
    "explain": ["explain", "acts.parquet"],
    "explain, the best": ["explain", "acts.parquet", "--best-of", "2"],
    "explain, a file": ["explain", "acts.parquet", "-o", "out.parquet"],
    "round-trip": ["round-trip", "acts.parquet"],
    "round-trip of a text": ["round-trip", "a cat"],
    "extract, a file": ["extract", "a cat", "--positions", "all", "-o", "out.npy"],
    "reconstruct, JSON": ["reconstruct", "a cat", "--json"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_overflow_is_exit_code_2_with_cause_and_remedy_and_no_output(nla, folder, tmp_path, monkeypatch, name):  # noqa: F811
    shutil.copyfile(folder / "acts.parquet", tmp_path / "acts.parquet")
    monkeypatch.chdir(tmp_path)
    command, *rest = COMMANDS[name]
    code, out, err = nla(command, *rest, "--av", folder / "pair", "--dtype", "float16")
    assert code == 2 and out == "", out
    [said] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert OVERFLOW in said and said.endswith(REMEDY)
    assert "Traceback" not in err
    assert not list(tmp_path.glob("out.???*")) or not (tmp_path / rest[-1]).exists()


def test_rows_are_numbered_as_in_the_file_beyond_the_first_chunk(nla, folder, tmp_path):  # noqa: F811
    q = tiny.tokenizer().convert_tokens_to_ids("q")
    shutil.copytree(folder / "base", tmp_path / "base")
    change(tmp_path / "base" / "model.safetensors", lambda t: t["model.embed_tokens.weight"][q].fill_(math.nan))
    lines = ["a cat"] * 70
    lines[66] = "a q b"
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    for command, half in (("extract", "--av"), ("round-trip", "--av")):
        options = (half, folder / "pair", "--base", tmp_path / "base", "--max-new-tokens", "1")
        code, _, err = nla(command, tmp_path / "t.jsonl", *(options if command != "extract" else options[:4]))
        assert code == 2 and "t.jsonl, row 66: The activation at layer 1" in err.splitlines()[-1], err


def test_check_weights_is_an_option(nla, folder, tmp_path):  # noqa: F811
    shutil.copytree(folder / "base", tmp_path / "base")
    change(tmp_path / "base" / "model.safetensors", lambda t: t["model.layers.3.mlp.up_proj.weight"].fill_(math.nan))
    options = ("--av", folder / "pair", "--base", tmp_path / "base")
    assert nla("extract", "a cat", *options)[0] == 0, "layer 3 is not needed there"
    code, _, err = nla("extract", "a cat", *options, "--check-weights")
    assert code == 2 and "base: model.layers.3.mlp.up_proj.weight holds NaN or infinity in 8,192 of 8,192" in err


def test_temperatures_that_are_no_numbers_are_refused_by_every_command(nla, folder):  # noqa: F811
    for value in ("nan", "inf"):
        code, _, err = nla("explain", folder / "acts.parquet", "--av", folder / "pair", "--temperature", value)
        assert code == 2 and "temperature" in err and "Traceback" not in err


WRONG = {
    "temperature": [math.inf, math.nan, -1.0, "0.7", None, True, [0.5], torch.ones(2)],
    "max_new_tokens": [2.5, 0, "3", True, math.inf],
    "seed": [1.5, "1", None, math.nan],
    "best_of": [1.5, 0, "2", None, True],
    "n": [1.5, 0, "2", None, math.inf],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_settings_of_the_wrong_kind_are_refused_by_name(pair, name, value):
    with pytest.raises(InputError, match=rf"^{name}=.*expected a (whole )?number"):
        pair.explain(tiny.random(1, D, seed=1), **{name: value})


def test_numpys_and_torchs_numbers_are_numbers(pair):
    given = {"temperature": np.float32(0.5), "max_new_tokens": np.int64(3), "seed": torch.tensor(2)}
    row = tiny.random(1, D, seed=1)
    assert pair.explain(row, **given) == pair.explain(row, temperature=0.5, max_new_tokens=3, seed=2)


# --- evaluating -----------------------------------------------------------------------------------------------------
def test_an_ar_that_gives_nan_fails_its_evaluation_as_such(folder, tmp_path):
    options = ("--data", folder / "acts.parquet", "--controls", "2", "--signal", "2", "--max-new-tokens", "3")
    ended = invoke(evaluate, "--av", folder / "pair", "--dtype", "float16", "--out", tmp_path / "o", *options)
    assert ended.exit_code == 2 and OVERFLOW in ended.stderr, ended.stderr
    assert not [file for file in (tmp_path / "o").rglob("*") if file.suffix in (".parquet", ".md", ".png")]
    assert not (tmp_path / "o" / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (pa.array([None, None], pa.list_(pa.float32(), D)), "2 empty (null)"),
        (vector_column(np.full((2, D), np.nan)), "2 NaN or infinite"),
        (vector_column(np.stack([np.zeros(D), np.full(D, np.inf)])), "1 NaN or infinite, 1 all zeros"),
    ],
)
def test_a_table_without_one_usable_vector_is_named(folder, tmp_path, vectors, said):
    pq.write_table(pa.table({"doc_id": ["a", "b"], "activation_vector": vectors}), tmp_path / "null.parquet")
    out = tmp_path / "o"
    ended = invoke(evaluate, "--av", folder / "pair", "--data", tmp_path / "null.parquet", "--out", out)
    assert ended.exit_code == 2 and not out.exists()
    assert f"null.parquet: no row of 2 has a usable activation_vector ({said})" in ended.stderr


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_nan_in_an_evaluation_file_is_named_by_its_place_and_not_as_tampering(tmp_path, value):
    shipped = Path(__file__).parents[1] / "nla_sdk" / "demo" / "evaluation.json"
    content = json.loads(shipped.read_text(encoding="utf-8"))
    content["round_trip"]["fve"]["value"] = "HERE"
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps(content).replace('"HERE"', value), encoding="utf-8")
    for read in (load, verify):
        with pytest.raises(
            EvaluationError, match=r"round_trip\.fve\.value is NaN or infinite, which is no figure"
        ) as no:
            read(file)
        assert "changed" not in str(no.value)


def test_verify_says_of_a_file_measured_with_an_ar_of_nan_what_it_is(tmp_path):
    demo = shutil.copytree(Path(__file__).parents[1] / "nla_sdk" / "demo", tmp_path / "demo")
    rows = pq.read_table(demo / "rows.parquet")
    nothing = b64encode(np.full(len(rows["activation_vector"][0]), np.nan, "<f4").tobytes())
    pq.write_table(rows.replace_schema_metadata({EMPTY: nothing}), demo / "rows.parquet")
    found = load(demo / "evaluation.json")
    files = found.files | {"rows.parquet": sha256_of(demo / "rows.parquet")}
    (demo / "evaluation.json").write_text(dumps(found.model_copy(update={"files": files})), encoding="utf-8")
    with pytest.raises(EvaluationError, match="rows.parquet: the AR gave NaN or infinity for the empty explanation"):
        verify(demo / "evaluation.json")


# --- publishing -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("half", "file", "tensor"),
    [("av", "adapter_model.safetensors", "lora_A"), ("ar", "linear_head.safetensors", "weight")],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_half_that_holds_nan_is_not_published(lora_folders, tmp_path, half, file, tensor, dtype):
    folder = shutil.copytree(lora_folders["below"], tmp_path / "pair") / half
    if (old := folder / "linear_head.pt").exists():
        save_file(torch.load(old, weights_only=True), folder / "linear_head.safetensors")
        old.unlink()
    tensors = {key: value.to(dtype) for key, value in load_file(folder / file).items()}
    name = min(key for key in tensors if tensor in key)
    tensors[name][2:4] = math.nan
    save_file(tensors, folder / file, metadata={"format": "pt"})
    findings = Findings()
    check_half(Half.find(str(folder), half), findings)
    count = 2 * tensors[name].shape[1]
    assert findings.problems == [
        f"{half}/{file}: {name} holds NaN or infinity in {count:,} of {tensors[name].numel():,} numbers, the whole of "
        "rows 2–3"
    ]


def test_a_pair_of_numbers_loads(folder):
    assert NLAPair.from_pretrained(folder / "pair").round_trip("a cat").status
