"""INPUT at the command line: a path to nothing is no text, a text is looked at first, and scores come out as CSV."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_sdk import NLAPair
from nla_sdk.cli import rows as row_commands
from nla_sdk.errors import ContractMismatchError, TextError
from nla_sdk.jobs import work
from tests import tiny
from tests.commands import run_nla

ORPHAN = "<image_soft_token>"
COMMANDS = ("extract", "explain", "round-trip", "reconstruct")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A pair on a base whose tokenizer knows one token more than there are embeddings, as Gemma 3's does."""
    root = tmp_path_factory.mktemp("input")
    base = tiny.save_model(root / "base", tiny.llama_config(), tiny.tokenizer(), seed=1)
    model = tiny.plain_model(base)
    tokens = tiny.tokenizer()
    tokens.add_tokens([ORPHAN])
    tokens.save_pretrained(base)
    return tiny.lora_pair(root / "pair", base, model, layer=1, blocks=3)


@pytest.fixture(scope="module")
def pair(folder) -> NLAPair:
    return NLAPair.from_pretrained(folder)


@pytest.fixture
def nla(capsys, monkeypatch, tmp_path, folder):
    monkeypatch.chdir(tmp_path)

    def run(*args, stdin: bytes = b"", av: bool = True) -> tuple[int, str, str]:
        return run_nla(capsys, [*args, *["--av", folder] * av], stdin)

    return run


def refused(result: tuple[int, str, str], says: str) -> None:
    code, out, err = result
    assert (code, out) == (2, "") and err.startswith("error: ") and says in err
    assert len(err.splitlines()) <= 2


# --- what INPUT is -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("given", ["acts/layer12", "acts.pt", "acts.safetensors", "~/acts", "*.npz"])
def test_no_command_takes_a_path_to_nothing_for_a_text(nla, command, given):
    refused(nla(command, given, av=False), "With --text it is a text, whatever it looks like.")


def test_with_text_a_path_is_a_text_and_so_is_all_of_stdin(nla, pair):
    Path("acts.npy").touch()
    code, out, _ = nla("explain", "acts.npy", "--text", "--json")
    assert code == 0 and json.loads(out)["detokenized_text_truncated"] == "acts.npy"
    assert json.loads(out)["api_explanation"] == pair.round_trip(["acts.npy"])[0].explanation
    for content in ('{"text": "a"}', "[1.0, 2.0]"):
        code, out, _ = nla("explain", "-", "--text", "--json", stdin=content.encode())
        assert code == 0 and json.loads(out)["detokenized_text_truncated"] == content


@pytest.mark.parametrize(
    ("stdin", "says"),
    [
        (b"[[1.0, 2.0]]", "stdin is a list of JSON; expected a text, or JSON lines"),
        ("caf\u00e9".encode("utf-16"), "stdin is UTF-16 text"),
        (b"\x93NUMPY\x01\x00\xff", "stdin is a .npy file, not UTF-8 text"),
        (b'{"text": "\\ud83d"}', "stdin, line 1: 'text' holds half a surrogate pair"),
        (b"a\0b", "stdin, row 0: text holds a NUL character"),
    ],
)
def test_stdin_that_is_no_text_says_what_it_is(nla, stdin, says):
    refused(nla("explain", "-", stdin=stdin, av=False), says)


# --- texts ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("text", "says"), [("caf\ud83d", "half a surrogate"), ("a\0", "NUL"), ("\ufeffa", "byte order")]
)
def test_every_command_names_the_row_that_is_no_text(nla, command, text, says):
    column = "api_explanation" if command == "reconstruct" else "text"
    Path("a.jsonl").write_text("\n".join(json.dumps({column: one}) for one in ("good", text)))
    where = "a.jsonl, line 2: " if "\ud83d" in text else "a.jsonl, row 1: "
    refused(nla(command, "a.jsonl", av=False), where)
    assert says in nla(command, "a.jsonl", av=False)[2]
    if "\0" not in text:  # which no argument can hold
        refused(nla(command, text, av=False), says)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_the_row_with_a_token_that_has_no_embedding(nla, monkeypatch, command):
    monkeypatch.setattr(row_commands, "ROWS_PER_CHUNK", dict.fromkeys(row_commands.ROWS_PER_CHUNK, 2))
    column = "api_explanation" if command == "reconstruct" else "text"
    pq.write_table(pa.table({column: ["one", "two", "three", f"about {ORPHAN} tokens"]}), "a.parquet")
    code, _, err = nla(command, "a.parquet", "-o", "out.parquet")
    assert code == 2 and not Path("out.parquet").exists()
    assert f"a.parquet, row 3: {column} holds the token [320 {ORPHAN!r}]" in err and "its ids end at 319" in err


def test_the_methods_name_it_too(pair):
    texts = ["fine", f"an {ORPHAN}"]
    for method in (
        pair.extract,
        pair.round_trip,
        pair.reconstruct,
        lambda t: pair.score(t, np.ones((2, tiny.D_MODEL))),
    ):
        with pytest.raises(TextError, match=r"in row 1 holds the token \[320 '<image_soft_token>'\]"):
            method(texts)


@pytest.mark.parametrize(
    ("half", "changes"),
    [
        ("av", {"injection_char": ORPHAN}),
        ("av", {"av_template": f"{ORPHAN} say {{injection_char}}."}),
        ("ar", {"ar_template": f"{ORPHAN} {{explanation}}</text>"}),
        ("ar", {"ar_template": f"<text>{{explanation}} {ORPHAN}"}),
    ],
)
def test_a_pair_whose_prompts_hold_such_a_token_is_not_loaded(folder, tmp_path, half, changes):
    shutil.copytree(folder, tmp_path / "pair")
    tiny.write_sidecar(tmp_path / "pair" / half, **changes)
    with pytest.raises(ContractMismatchError, match=rf"the {half.upper()} prompt holds \[320 .*its ids end at 319"):
        NLAPair.from_pretrained(tmp_path / "pair")


# --- CSV -----------------------------------------------------------------------------------------------------------
def test_csv_holds_texts_and_scores_and_goes_on_where_it_was(nla, monkeypatch):
    monkeypatch.setattr(row_commands, "ROWS_PER_CHUNK", dict.fromkeys(row_commands.ROWS_PER_CHUNK, 2))
    vectors = np.random.default_rng(0).normal(size=(5, tiny.D_MODEL)).astype(np.float32)
    notes = ['a, "b"', "two\nlines", None, "é", "=1+1"]
    pq.write_table(pa.table({"activation_vector": list(vectors), "note": notes, "ids": [[1, 2]] * 5}), "a.parquet")
    real = work.round_trip

    def dying(*args, **options):
        done = real(*args, **options)
        return lambda table, first: (_ for _ in ()).throw(KeyboardInterrupt) if first == 4 else done(table, first)

    monkeypatch.setattr(work, "round_trip", dying)
    code, _, err = nla("round-trip", "a.parquet", "-o", "t.csv")
    assert code == 130 and "4 of 5 rows are kept" in err and not Path("t.csv").exists()
    monkeypatch.setattr(work, "round_trip", real)
    code, _, err = nla("round-trip", "a.parquet", "-o", "t.csv")
    assert code == 0 and "4 of 5 rows are there already" in err
    with Path("t.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    code, out, _ = nla("round-trip", "a.parquet", "--json")
    expected = [json.loads(line) for line in out.splitlines()]
    assert [row["note"] for row in rows] == ["" if note is None else note for note in notes]
    assert [row["ids"] for row in rows] == ["[1, 2]"] * 5 and "activation_vector" not in rows[0]
    assert [row["api_explanation"] for row in rows] == [row["api_explanation"] for row in expected]
    assert [float(row["cosine"]) for row in rows] == pytest.approx([row["cosine"] for row in expected], abs=1e-5)


def test_format_csv_writes_csv_whatever_the_suffix_and_vectors_go_elsewhere(nla):
    assert nla("explain", "a cat", "-o", "t.out", "--format", "csv")[0] == 0
    assert Path("t.out").read_bytes().startswith(b"doc_id,n_raw_tokens,activation_layer,token,")
    for command in ("extract", "reconstruct"):
        refused(nla(command, "a cat", "-o", "t.csv", av=False), "t.csv: CSV holds no vectors; write them to .npy")
    refused(nla("explain", "a cat", "--format", "csv", av=False), "give -o")
