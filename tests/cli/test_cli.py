"""The `nla` command: every door in and out, resumption, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from nla_sdk import NLAPair
from nla_sdk.cli import app as cli
from nla_sdk.cli import rows as row_commands
from nla_sdk.errors import InputError, NLAError
from nla_sdk.io import tables
from nla_sdk.io.files import sha256_of
from nla_sdk.jobs import work as rows
from nla_sdk.model.verbalizer import Verbalizer
from tests import tiny
from tests.commands import run_nla
from tests.hub.fixtures import hub  # noqa: F401

BASELINE = 1.7


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny base and `pair`, whose AR's adapter has tensors on a block that never runs."""
    root = tmp_path_factory.mktemp("cli")
    base = tiny.save_model(root / "base", tiny.llama_config(), tiny.tokenizer(), seed=1)
    tiny.lora_pair(root / "pair", base, tiny.plain_model(base), layer=1, blocks=3)
    for half in ("av", "ar"):
        tiny.write_sidecar(root / "pair" / half, baseline_mse=BASELINE)
    return root


@pytest.fixture(scope="module")
def av(folder) -> str:
    return str(folder / "pair")


@pytest.fixture(scope="module")
def pair(av) -> NLAPair:
    return NLAPair.from_pretrained(av)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(10, tiny.D_MODEL)).astype(np.float32)


@pytest.fixture
def nla(capsys, monkeypatch):
    """Run a command in this process: its exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "100")  # a worker of a parallel run inherits a terminal of any width

    def run(*args, stdin: str = "") -> tuple[int, str, str]:
        return run_nla(capsys, args, stdin.encode())

    return run


@pytest.fixture
def table_file(tmp_path, vectors) -> Path:
    """Ten activations in parquet, in row groups of four, with labels and other columns."""
    table = pa.table(
        {
            "doc_id": [f"d{row}" for row in range(len(vectors))],
            "activation_vector": tables.vector_column(vectors),
            "source_family": ["prose", "code"] * 5,
            "api_explanation": [f"label {row}" for row in range(len(vectors))],
        }
    )
    pq.write_table(table, tmp_path / "acts.parquet", row_group_size=4)
    return tmp_path / "acts.parquet"


def json_rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


# --- light to start ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import nla_sdk", "torch transformers pyarrow numpy pydantic typer"),
        ("from nla_sdk.cli.app import main; main(['--help'])", "torch transformers pyarrow numpy huggingface_hub rich"),
    ],
)
def test_starting_imports_nothing_heavy(statement, heavy):
    code = f"import atexit, sys\natexit.register(lambda: print('HEAVY', *(set({heavy.split()}) & set(sys.modules))))\n"
    done = subprocess.run([sys.executable, "-c", code + statement], capture_output=True, text=True, env=plain_env())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["HEAVY"]


def plain_env() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONIOENCODING": "utf-8"}


def test_help_names_every_command_and_version_says_the_commit(nla, monkeypatch):
    code, out, _ = nla("--help")
    assert code == 0
    assert all(f"  {name} " in out for name in ("round-trip", "explain", "reconstruct", "extract", "info", "doctor"))
    for known, said in (("1a2b", "1a2b"), (None, "unknown")):
        monkeypatch.setattr("nla_sdk.__about__.commit", lambda known=known: known)
        assert nla("--version") == (0, f"nla-sdk 0.1.0 (commit {said})\n", "")


# --- one text ---------------------------------------------------------------------------------------------------
def test_round_trip_of_a_text_shows_it_beside_an_empty_explanation(nla, av, pair):
    trip, empty = pair.round_trip("The cat sat"), pair.score("", pair.extract("The cat sat").vectors[0])
    code, out, err = nla("round-trip", "The cat sat", "--av", av)
    assert code == 0
    assert trip.explanation in out and trip.status in out and repr("t") in out
    for number in (trip.cosine, trip.fve, trip.gain, empty.cosine):
        assert f"{number:.3f}" in out
    assert "FVE: 0 = predicting the mean direction, over many rows" in err


def test_json_rows_hold_what_the_api_returns(nla, av, pair):
    trip, empty = pair.round_trip("The cat sat"), pair.score("", pair.extract("The cat sat").vectors[0])
    code, out, err = nla("round-trip", "The cat sat", "--av", av, "--json")
    [row] = json_rows(out)
    assert (code, err) == (0, "")
    assert (row["api_explanation"], row["explanation_status"]) == (trip.explanation, trip.status)
    assert (row["token"], row["n_raw_tokens"], row["activation_layer"]) == ("t", 9, 1)
    assert row["detokenized_text_truncated"] == "The cat sat" and row["matched"] is True
    found = [row[name] for name in ("cosine", "mse", "fve", "gain", "empty_cosine", "empty_fve")]
    expected = [trip.cosine, trip.mse, trip.fve, trip.gain, empty.cosine, empty.fve]
    assert found == pytest.approx(expected, abs=1e-5)
    assert "activation_vector" not in row


def test_a_text_on_stdin_loses_its_last_line_break_only(nla, av):
    _, out, _ = nla("extract", "-", "--av", av, "--json", stdin="The cat\nsat\n")
    assert json_rows(out)[0]["detokenized_text_truncated"] == "The cat\nsat"


def test_extract_pipes_into_explain(nla, av, pair):
    _, lines, _ = nla("extract", "The cat sat", "--av", av, "--positions", "all", "--json")
    acts = pair.extract("The cat sat", "all")
    assert [row["token"] for row in json_rows(lines)] == acts.tokens
    code, out, err = nla("explain", "-", "--av", av, "--json", stdin=lines)
    assert code == 0, err
    assert [row["api_explanation"] for row in json_rows(out)] == pair.explain(acts.vectors)


def test_reconstruct_takes_one_explanation_a_line(nla, av, pair):
    code, out, err = nla("reconstruct", "-", "--av", av, "--json", stdin="first\n\nthird\n")
    found = json_rows(out)
    assert (code, err) == (0, "")
    assert [row["api_explanation"] for row in found] == ["first", "", "third"]
    expected = pair.reconstruct(["first", "", "third"]).numpy()
    np.testing.assert_allclose([row["reconstruction"] for row in found], expected, atol=1e-4)


# --- files ------------------------------------------------------------------------------------------------------
def test_explain_carries_columns_and_keeps_labels(nla, av, pair, table_file, vectors, tmp_path):
    out = tmp_path / "out.parquet"
    code, stdout, err = nla("explain", table_file, "--av", av, "-o", out)
    assert (code, stdout) == (0, ""), err
    table = pq.read_table(out)
    assert table["api_explanation"].to_pylist() == pair.explain(vectors)
    assert set(table["explanation_status"].to_pylist()) <= {"ok", "empty", "truncated"}
    assert table["api_explanation_in"].to_pylist()[3] == "label 3"
    assert table["doc_id"].to_pylist()[-1] == "d9" and table["source_family"].to_pylist()[:2] == ["prose", "code"]
    assert table.schema.field("activation_vector").type == pa.list_(pa.float32(), tiny.D_MODEL)
    assert not (tmp_path / "out.parquet.chunks").exists()
    sidecar = yaml.safe_load((tmp_path / "out.parquet.nla_meta.yaml").read_text(encoding="utf-8"))
    assert sidecar["kind"] == "nla_dataset" and sidecar["sha256"] == sha256_of(out)
    assert sidecar["provenance"]["input"]["sha256"] == sha256_of(table_file)


def test_round_trip_of_a_file_sums_up(nla, av, pair, vectors, tmp_path):
    np.save(tmp_path / "acts.npy", vectors)
    trips = pair.round_trip(vectors)
    code, _, err = nla("round-trip", tmp_path / "acts.npy", "--av", av, "-o", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert code == 0
    assert [row["api_explanation"] for row in found] == [trip.explanation for trip in trips]
    assert [row["cosine"] for row in found] == pytest.approx([trip.cosine for trip in trips], abs=1e-5)
    assert f"mean of 10 rows: cosine {np.mean([trip.cosine for trip in trips]):.3f} (empty" in err


def test_a_single_vector_and_other_float_types_are_taken(nla, av, pair, vectors, tmp_path):
    np.save(tmp_path / "one.npy", vectors[0].astype(np.float64))
    _, out, _ = nla("explain", tmp_path / "one.npy", "--av", av, "--json")
    assert [row["api_explanation"] for row in json_rows(out)] == [pair.explain(vectors[0])]


def test_extract_writes_the_reference_columns(nla, av, pair, tmp_path):
    lines = [
        {"doc_id": 7, "text": "The cat", "source_family": "a"},
        {"doc_id": 8, "text": "A dog", "source_family": "b"},
    ]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    code, _, err = nla(
        "extract", tmp_path / "texts.jsonl", "--av", av, "--positions=-1,0", "--layer", 2, "-o", tmp_path / "o.parquet"
    )
    assert code == 0, err
    table, acts = pq.read_table(tmp_path / "o.parquet"), pair.extract(["The cat", "A dog"], [-1, 0], layer=2)
    assert table["doc_id"].to_pylist() == [7, 7, 8, 8] and table["source_family"].to_pylist() == ["a", "a", "b", "b"]
    assert table["n_raw_tokens"].to_pylist() == [position + 1 for position in acts.positions]
    assert table["activation_layer"].to_pylist() == [2] * 4
    assert table["detokenized_text_truncated"].to_pylist() == ["The cat", "", "A dog", ""]
    assert table.schema.field("activation_vector").type == pa.list_(pa.float32(), tiny.D_MODEL)
    np.testing.assert_allclose(tables.usable_vectors(table, "activation_vector"), acts.vectors, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_reconstruct_writes_vectors(nla, av, pair, tmp_path, suffix):
    pq.write_table(pa.table({"api_explanation": ["one", "two {braces}", ""]}), tmp_path / "in.parquet")
    code, _, err = nla("reconstruct", tmp_path / "in.parquet", "--av", av, "-o", tmp_path / f"out.{suffix}")
    assert code == 0, err
    if suffix == "npy":
        found = np.load(tmp_path / "out.npy")
        assert found.dtype == np.float32
    else:
        found = tables.usable_vectors(pq.read_table(tmp_path / "out.parquet"), "reconstruction")
    np.testing.assert_allclose(found, pair.reconstruct(["one", "two {braces}", ""]), rtol=1e-4, atol=1e-4)


# --- killed and started again ------------------------------------------------------------------------------------
@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(row_commands, "ROWS_PER_CHUNK", dict.fromkeys(row_commands.ROWS_PER_CHUNK, 3))


@pytest.fixture
def stop_after(monkeypatch):
    """Have the AV raise at its (n + 1)th call; the sizes of the batches it got are collected."""

    def arrange(calls: int, error: BaseException) -> list[int]:
        seen: list[int] = []
        original = Verbalizer.__call__

        def verbalize(self, vectors, *settings, **options):
            if len(seen) == calls:
                raise error
            seen.append(len(vectors))
            return original(self, vectors, *settings, **options)

        monkeypatch.setattr(Verbalizer, "__call__", verbalize)
        return seen

    yield arrange


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_killed_run_goes_on_and_gives_the_same_bytes(
    nla, av, table_file, tmp_path, small_chunks, stop_after, monkeypatch, suffix
):
    undisturbed, out = tmp_path / f"undisturbed.{suffix}", tmp_path / f"out.{suffix}"
    assert nla("explain", table_file, "--av", av, "-o", undisturbed)[0] == 0

    with monkeypatch.context():
        stop_after(2, KeyboardInterrupt())
        code, _, err = nla("explain", table_file, "--av", av, "-o", out)
    assert code == 130 and "6 of 10 rows are kept" in err and "Run the same command again" in err
    assert not out.exists()
    monkeypatch.undo()
    monkeypatch.setattr(row_commands, "ROWS_PER_CHUNK", dict.fromkeys(row_commands.ROWS_PER_CHUNK, 3))

    # What a crash of the machine might leave: half a chunk under a temporary name, and a chunk cut short.
    chunks = tmp_path / f"out.{suffix}.chunks"
    (chunks / "00000002.tmp").write_bytes(b"PAR1")
    (chunks / "00000001.results.parquet").write_bytes((chunks / "00000001.results.parquet").read_bytes()[:50])

    seen = stop_after(-1, RuntimeError())
    code, _, err = nla("explain", table_file, "--av", av, "-o", out)
    assert code == 0, err
    assert seen == [3, 3, 1]
    assert out.read_bytes() == undisturbed.read_bytes()
    assert not chunks.exists()


def test_stdin_can_be_gone_on_with_too(nla, av, tmp_path, small_chunks, stop_after, vectors):
    lines = "\n".join(json.dumps({"activation_vector": vector.tolist(), "n": n}) for n, vector in enumerate(vectors))
    seen = stop_after(1, KeyboardInterrupt())
    assert nla("explain", "-", "--av", av, "-o", tmp_path / "out.jsonl", stdin=lines)[0] == 130
    seen.insert(0, -1)  # past the call that stops
    code, _, err = nla("explain", "-", "--av", av, "-o", tmp_path / "out.jsonl", stdin=lines)
    assert code == 0, err
    assert seen == [-1, 3, 3, 3, 1]
    assert [row["n"] for row in json_rows((tmp_path / "out.jsonl").read_text(encoding="utf-8"))] == list(range(10))


def test_unfinished_work_on_something_else_is_not_mixed_in(nla, av, table_file, tmp_path, small_chunks, stop_after):
    out = tmp_path / "out.parquet"
    seen = stop_after(1, KeyboardInterrupt())
    assert nla("explain", table_file, "--av", av, "-o", out)[0] == 130
    seen.insert(0, -1)
    code, _, err = nla("explain", table_file, "--av", av, "-o", out, "--max-new-tokens", 3)
    assert code == 2 and "options.max_new_tokens: None there, 3 here" in err and "--overwrite" in err
    code, _, err = nla("explain", table_file, "--av", av, "-o", out, "--max-new-tokens", 3, "--overwrite")
    assert code == 0, err
    assert seen[2:] == [3, 3, 3, 1]


def test_two_processes_do_not_write_one_file(nla, av, table_file, tmp_path):
    from filelock import FileLock

    (tmp_path / "out.parquet.chunks").mkdir()
    with FileLock(tmp_path / "out.parquet.chunks" / ".lock"):
        code, _, err = nla("explain", table_file, "--av", av, "-o", tmp_path / "out.parquet")
    assert code == 2 and "Another process is writing" in err


def test_an_existing_file_is_replaced_only_if_told_to(nla, av, table_file, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    code, _, err = nla("explain", table_file, "--av", av, "-o", out)
    assert code == 2 and "exists already" in err and out.read_text() == "mine"
    assert nla("explain", table_file, "--av", av, "-o", out, "--overwrite")[0] == 0
    assert len(json_rows(out.read_text(encoding="utf-8"))) == 10


def test_work_that_fails_at_once_leaves_no_folder(nla, av, tmp_path):
    np.save(tmp_path / "narrow.npy", np.ones((3, 5), np.float32))
    code, _, err = nla("explain", tmp_path / "narrow.npy", "--av", av, "-o", tmp_path / "out.parquet")
    assert code == 2 and "(3, 5)" in err and "64" in err
    assert [file.name for file in tmp_path.iterdir()] == ["narrow.npy"]


# --- columns --------------------------------------------------------------------------------------------------------
def test_columns_that_appear_late_are_kept(nla, av, tmp_path, small_chunks):
    lines = [{"text": "a"}] * 4 + [{"text": "b", "note": "late"}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, _, err = nla("extract", tmp_path / "in.jsonl", "--av", av, "-o", tmp_path / "out.parquet")
    assert code == 0, err
    assert pq.read_table(tmp_path / "out.parquet")["note"].to_pylist() == [None] * 4 + ["late"]


# --- what is wrong is said ------------------------------------------------------------------------------------------
def _save(path: Path, content) -> None:
    if isinstance(content, np.ndarray):
        np.save(path, content, allow_pickle=True)
    elif isinstance(content, dict):
        pq.write_table(pa.table(content), path)
    else:
        path.write_bytes(content)


WITH_NAN = np.ones((300, 4), np.float32)
WITH_NAN[270, 1] = np.nan


@pytest.mark.parametrize(
    ("args", "file", "content", "says"),
    [
        (["explain", "acts.npy"], None, None, "acts.npy does not exist"),
        (["explain", "acts.parquet"], None, None, "does not exist"),
        (["explain", "acts.npy"], "acts.npy", WITH_NAN, "row 270: activation_vector holds NaN"),
        (["explain", "acts.npy"], "acts.npy", np.zeros(4), "row 0: activation_vector is all zeros"),
        (["explain", "acts.npy"], "acts.npy", np.ones((2, 2, 2)), "(2, 2, 2)"),
        (["explain", "acts.npy"], "acts.npy", np.array([{}], dtype=object), "not a readable .npy file"),
        (["explain", "acts.npy"], "acts.npy", b"junk", "not a readable .npy file"),
        (["explain", "acts.parquet"], "acts.parquet", b"junk", "not a readable parquet file"),
        (["explain", "a.parquet"], "a.parquet", {"x": [1]}, "no column 'activation_vector' or 'text'; it has x"),
        (["explain", "a.parquet", "--column", "x"], "a.parquet", {"x": [1]}, "'x' holds int64; expected vectors"),
        (["explain", "a.parquet"], "a.parquet", {"text": pa.array([], pa.string())}, "holds no rows"),
        (["explain", "a.parquet"], "a.parquet", {"activation_vector": [[1.0], None]}, "row 1: activation_vector is"),
        (["explain", "a.parquet"], "a.parquet", {"activation_vector": [[1.0], [1.0, 2.0]]}, "row 1"),
        (["extract", "a.parquet"], "a.parquet", {"text": ["a", ""]}, "row 1: text is empty"),
        (["extract", "a.parquet"], "a.parquet", {"text": [[1.0]]}, "holds vectors; expected texts"),
        (["reconstruct", "a.parquet"], "a.parquet", {"api_explanation": ["a", None]}, "row 1"),
        (["explain", "a.jsonl"], "a.jsonl", b'{"text": "a"}\nnope', "line 2: not JSON"),
        (["explain", "a.jsonl"], "a.jsonl", b"[1]", "line 1: a list"),
        (["explain", "a.jsonl"], "a.jsonl", b'{"text": "a", "n": 1}\n{"text": "b", "n": "x"}', "'n' are of diff"),
        (["extract", "a.txt"], "a.txt", b"\xff\xfe\xfa", "not UTF-8"),
        (["explain", "a.csv"], "a.csv", b"a,b", "kind that is not read here"),
        (["explain", ""], None, None, "text is empty"),
        (["explain", "-"], None, None, "stdin is empty"),
        (["explain", "text", "-o", "out.npy"], None, None, ".npy holds vectors only"),
        (["explain", "text", "-o", "out.xlsx"], None, None, "no suffix that says its format"),
        (["explain", "text", "-o", "nowhere/out.jsonl"], None, None, "folder nowhere does not exist"),
        (["explain", "text", "--format", "parquet"], None, None, "give -o"),
        (["extract", "text", "--positions", "last"], None, None, "--positions last"),
        (["explain", "text", "--av", "./nowhere"], None, None, "./nowhere does not exist"),
        (["explain", "text", "--wrong"], None, None, "--wrong"),
        (["explain"], None, None, "INPUT"),
        (["explain", "text", "--quantization", "int3"], None, None, "int3"),
        (["explain", "text", "--max-new-tokens", "0"], None, None, "max-new-tokens"),
        (["verbalise"], None, None, "verbalise"),
        (["info", "./nowhere"], None, None, "./nowhere"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(nla, tmp_path, monkeypatch, args, file, content, says):
    monkeypatch.chdir(tmp_path)
    if file:
        _save(tmp_path / file, content)
    code, out, err = nla(*args)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and says in err and "Traceback" not in err
    assert len(err.splitlines()) <= 2


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["extract", "hi", "--positions", "99"], "the text, row 0: Position 99 does not exist"),
        (["extract", "hi", "--layer", "9"], "Layer 9 does not exist"),
        (["explain", "hi", "--dtype", "int8"], "int8"),
    ],
)
def test_what_only_the_model_can_tell_is_said_as_briefly(nla, av, args, says):
    code, out, err = nla(*args, "--av", av)
    assert (code, out) == (2, "") and err.startswith("error: ") and says in err


def test_warnings_are_one_line(nla, folder, av):
    other = folder / "stranger"
    shutil.copytree(folder / "pair" / "ar", other, dirs_exist_ok=True)
    tiny.write_sidecar(other, provenance={"pair_id": "another run"})
    code, out, err = nla("round-trip", "hi", "--av", folder / "pair" / "av", "--ar", other, "--json")
    assert code == 0 and json_rows(out)[0]["matched"] is False
    lines = [line for line in err.splitlines() if not line.startswith("measuring what activations")]  # said once a base
    assert len(lines) == 1 and lines[0].startswith("warning: ") and "do not name each other" in lines[0]


def test_a_reader_that_leaves_early_is_no_error(nla, av, monkeypatch):
    def broken(*args, **options):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(row_commands, "print_rows", broken)
    assert nla("explain", "hi", "--av", av) == (141, "", "")


def test_ctrl_c_while_loading_says_so(nla, monkeypatch):
    monkeypatch.setattr(NLAPair, "from_pretrained", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    said = "stopped while loading the pair; no row was done yet. Run the same command again.\n"
    assert nla("explain", "hi") == (130, "", said)


def test_a_bug_is_not_dressed_up_as_the_users_mistake(monkeypatch):
    monkeypatch.setattr(cli, "process", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["explain", "hi"])


# --- info ---------------------------------------------------------------------------------------------------------
def test_info_accounts_for_every_tensor_without_loading_weights(nla, folder, monkeypatch):
    monkeypatch.setattr("safetensors.torch.load_file", None)
    code, out, err = nla("info", folder / "pair", "--json")
    assert code == 0, err
    av, ar = json.loads(out)
    assert av["contract"]["layer"] == {"value": 1, "origin": "sidecar"}
    assert av["contract"]["injection_scale"]["origin"] == "derived" or av["contract"]["injection_scale"]["value"] == 8.0
    assert ar["layout"] == "LoRA adapter" and ar["files"]["adapter_model.safetensors"] > 1000
    assert ar["tensors"]["total"] == 32 and ar["tensors"]["loaded"] == 24
    assert ar["tensors"]["inert"] == {"block 3 never runs (the AR stops after block 2)": 8}
    assert av["tensors"]["loaded"] == av["tensors"]["total"] == 4 * 7 * 2 and not av["tensors"]["misfits"]


def test_info_is_readable(nla, folder):
    code, out, err = nla("info", folder / "pair" / "ar")
    assert code == 0, err
    for line in (
        "layout",
        "LoRA adapter",
        "ar_num_blocks",
        "sidecar",
        "linear_head.pt",
        "8 tensors: block 3 never runs",
    ):
        assert line in out


def test_info_without_a_base_says_why_tensors_were_not_checked(nla, folder, tmp_path):
    shutil.copytree(folder / "pair" / "av", tmp_path / "av")
    tiny.write_sidecar(tmp_path / "av", base_model=str(tmp_path / "gone"))
    code, out, _ = nla("info", tmp_path / "av", "--json")
    assert code == 0 and "gone does not exist" in json.loads(out)["tensors"]["unchecked"]
    code, out, _ = nla("info", tmp_path / "av", "--base", folder / "base", "--json")
    assert code == 0 and json.loads(out)["tensors"]["loaded"] == 56


def test_info_of_a_known_release_on_the_hub_downloads_no_weights(nla, folder, hub):  # noqa: F811
    repo = "Solshine/gemma-4-e2b-nla-L23-av-v0_1_x-trajectory"
    files = {f"step_50/{file.name}": file.read_bytes() for file in (folder / "pair" / "av").iterdir()}
    files = {name: data for name, data in files.items() if not name.endswith(".yaml")}
    commit = hub.add(repo, {"README.md": "x", **files})
    code, out, err = nla("info", repo)
    assert code == 2 and "--subfolder" in err and "step_50" in err
    code, out, err = nla("info", f"{repo}/step_50", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["commit"] == commit and found["subfolder"] == "step_50"
    assert found["contract"]["layer"] == {"value": 23, "origin": "release"}
    assert "google/gemma-4-E2B" in found["tensors"]["unchecked"]
    assert not list(Path(os.environ["HF_HUB_CACHE"]).rglob("*.safetensors"))


def test_info_of_the_demo_pair_prepares_no_base(nla, monkeypatch, tmp_path):
    monkeypatch.setenv("NLA_CACHE", str(tmp_path / "cache"))
    code, out, err = nla("info", "demo", "--json")
    assert code == 0, err
    av, ar = json.loads(out)
    assert [half["contract"]["role"]["value"] for half in (av, ar)] == ["av", "ar"]
    assert "has not been prepared" in av["tensors"]["unchecked"] and not (tmp_path / "cache").exists()


# --- doctor -------------------------------------------------------------------------------------------------------
def test_doctor_says_what_runs_and_never_the_token(nla, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecretvalue")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # another test's cluster is nothing to be looked at
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    code, out, err = nla("doctor", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0] and found["machine"]["ram"] > 0
    assert found["token"] == {"present": True, "source": "environment variable HF_TOKEN"}
    assert all(verdict["runs"] or verdict["why_not"] for verdict in found["verdicts"].values())
    code, out, err = nla("doctor")
    assert (code, err) == (0, "") and "verysecret" not in out + json.dumps(found)
    assert "demo pair, CPU:" in out and "Gemma-4-E2B, nf4, GPU:" in out
    if not torch.cuda.is_available():
        assert "no CUDA device" in out


# --- rows -----------------------------------------------------------------------------------------------------------
def test_clashing_columns_are_renamed_not_lost():
    table = rows.add_columns({"a": [1], "a_in": [2], "b": [3]}, {"a": [4]})
    assert table.to_pylist() == [{"a_in": 1, "a_in_in": 2, "b": 3, "a": 4}]


def test_positions_are_read_as_typed():
    assert [row_commands.parse_positions(text) for text in ("-1", "all", "3, -1")] == [-1, "all", [3, -1]]
    with pytest.raises(InputError, match="--positions"):
        row_commands.parse_positions("1..3")
    assert issubclass(InputError, NLAError)
