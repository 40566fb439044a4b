"""`nla vectors`, and INPUT as a reference to vectors: told apart from texts, explained as what it says it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from nla_sdk import NLAPair
from nla_sdk.cli.vectors.inputs import names_vectors
from nla_sdk.vectors import loading
from nla_sdk.vectors.faults import Question
from nla_sdk.vectors.kinds import Found
from tests import tiny
from tests.commands import run_nla

LAYER, NAMES = 1, ("cats", "dogs", "ships")
ROWS = np.ascontiguousarray(tiny.random(3, tiny.D_MODEL, seed=31, scale=4.0).numpy())
SHORT = ("--max-new-tokens", "3")
READERS = loading.readers  # the real ones


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("vectors")
    base = tiny.save_model(root / "base", tiny.llama_config(), tiny.tokenizer(), seed=1)
    pair = tiny.lora_pair(root / "pair", base, tiny.plain_model(base), layer=LAYER, blocks=3)
    return tiny.centre(pair, tiny.random(tiny.D_MODEL, seed=77, scale=3.0), norm=20.0, baseline=1.5)


@pytest.fixture(scope="module")
def pair(folder) -> NLAPair:
    return NLAPair.from_pretrained(folder)


def reader(place, stated):
    """Files of `rows` [n, d] with names, of which neither kind nor layer is said."""
    name = place.file or next((one for one in place.names if one.endswith(".safetensors")), None)
    if name is None or not name.endswith(".safetensors"):
        return None
    rows = place.matrix(name, "rows")
    asked = []
    if stated.kind is None:
        asked.append(Question("kind", "bare numbers", ("direction: a feature", "activation: a token's")))
    if stated.layer is None:
        asked.append(Question("layer", "bare numbers"))
    return Found(
        tool="a test's",
        count=rows.shape[0],
        width=rows.shape[1],
        read=rows,
        kind=stated.kind,
        layer=stated.layer,
        model=stated.model,
        labels=NAMES if rows.shape[0] == len(NAMES) else None,
        assumed=("rows, not columns",),
        questions=tuple(asked),
        unknown=("who made them",),
    )


@pytest.fixture
def nla(capsys, monkeypatch, tmp_path, folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "readers", lambda: (reader,))
    save_file({"rows": ROWS}, "sae.safetensors")
    Path("dictionary").mkdir()
    save_file({"rows": ROWS}, "dictionary/sae.safetensors")

    def run(*args, av: bool = True) -> tuple[int, str, str]:
        return run_nla(capsys, [*args, *["--av", folder] * av])

    return run


def lines(result: tuple[int, str, str]) -> list[dict]:
    assert result[0] == 0, result[2]
    return [json.loads(line) for line in result[1].splitlines()]


def refused(result: tuple[int, str, str], *says: str) -> None:
    code, out, err = result
    assert (code, out) == (2, "") and err.startswith("error: ") and len(err.splitlines()) <= 2
    for one in says:
        assert one in err


# --- nla vectors --------------------------------------------------------------------------------------------------
def test_what_is_there_is_shown_with_what_must_be_told(nla):
    code, out, _ = nla("vectors", "sae.safetensors", av=False)
    shown = " ".join(out.split())
    assert code == 0
    for says in (
        "sae.safetensors (a test's)",
        "vectors 3 × 64",
        "kind not said",
        "layer not said",
        "labels cats, dogs, ships",
        "taken for granted rows, not columns",
        "--kind (bare numbers): direction: a feature; activation: a token's",
        "--layer (bare numbers)",
        "not known who made them",
    ):
        assert says in shown
    norms = np.linalg.norm(ROWS.astype(np.float64), axis=1)
    assert f"norms {norms.min():.4g} to {norms.max():.4g}, median {np.median(norms):.4g} labels" in shown


def test_as_json_with_what_was_told_and_of_the_rows_that_are_named(nla):
    told = ("--kind", "direction", "--model", "ada/base", "--json")
    code, out, _ = nla("vectors", "sae.safetensors#dogs@5", *told, av=False)
    found = json.loads(out)
    assert code == 0
    assert (found["kind"], found["layer"], found["model"], found["site"]) == ("direction", 5, "ada/base", "residual")
    assert (found["count"], found["of"], found["labels"], found["questions"]) == (1, 3, ["dogs"], [])
    assert found["norms"]["of"] == 1 and found["norms"]["median"] == pytest.approx(np.linalg.norm(ROWS[1]), rel=1e-6)


def test_of_many_rows_a_sample_is_looked_at_and_that_is_said(nla):
    many = np.ascontiguousarray(np.tile(ROWS, (40, 1)))
    save_file({"rows": many}, "many.safetensors")
    code, out, _ = nla("vectors", "many.safetensors", av=False)
    assert code == 0 and "120 × 64" in out and "(of a sample: 15 rows)" in out


def test_what_is_no_file_of_vectors_is_one_line(nla):
    Path("notes.md").write_text("x")
    refused(nla("vectors", "notes.md", av=False), "of no kind that is read here")
    refused(nla("vectors", "sae.safetensors", "--kind", "feature", av=False), "expected 'activation', 'direction'")
    refused(nla("vectors", "sae.safetensors#9", av=False), "there is no #9 (0 to 2)")


# --- INPUT --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ref", ["sae.safetensors", "dictionary", "./dictionary/sae.safetensors"])
def test_a_file_of_vectors_and_a_folder_are_explained_as_what_they_are_said_to_be(nla, pair, ref):
    told = ("--kind", "direction", "--layer", LAYER, "--json", *SHORT)
    rows = lines(nla("explain", ref, *told))
    assert [row["api_explanation"] for row in rows] == pair.explain(ROWS, kind="direction", max_new_tokens=3)
    assert [(row["label"], row["kind"], row["activation_layer"]) for row in rows] == [
        (name, "direction", LAYER) for name in NAMES
    ]
    [one] = lines(nla("explain", f"{ref}#ships@{LAYER}", "--kind", "activation", "--json", *SHORT))
    assert one["api_explanation"] == pair.explain(ROWS[2], max_new_tokens=3)


def test_what_is_open_is_asked_and_another_layer_is_refused(nla):
    refused(nla("explain", "sae.safetensors"), "kind=… (--kind)", "layer=… (--layer)")
    refused(nla("explain", "sae.safetensors@3", "--kind", "direction"), "directions of layer 3", "--force")
    refused(nla("explain", "sae.safetensors@1", "--kind", "direction", "--model", "qwen2"), "of model qwen2", "--model")
    code, _, err = nla("explain", "sae.safetensors@3", "--kind", "direction", "--force", *SHORT)
    assert code == 0 and "layer 3" in err and "Taken all the same" in err


@pytest.mark.parametrize("width", ["140", "80"])  # in a narrow terminal scores stand below each other
def test_round_trips_of_directions_show_no_fve(nla, pair, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", width)
    told = ("--kind", "difference", "--layer", LAYER, *SHORT)
    rows = lines(nla("round-trip", "sae.safetensors", *told, "--json"))
    trips = pair.round_trip(ROWS, kind="difference", max_new_tokens=3)
    assert [row["cosine"] for row in rows] == pytest.approx([trip.cosine for trip in trips], abs=1e-6)
    assert all(row["fve"] is None and row["mean_cosine"] is None for row in rows)
    code, out, err = nla("round-trip", "sae.safetensors", *told)
    assert code == 0 and "gain" in out and "FVE" not in out + err
    _, _, err = nla("round-trip", "sae.safetensors#0", *told)
    assert "FVE is not defined for directions" in err


def test_a_table_that_was_written_says_what_its_rows_are_when_it_is_read_again(nla, pair):
    told = ("--kind", "direction", "--layer", LAYER, *SHORT)
    code, _, err = nla("explain", "sae.safetensors", *told, "-o", "out.parquet")
    assert code == 0, err
    written = pq.read_table("out.parquet")
    assert {"label", "kind", "activation_layer", "activation_vector"} <= set(written.column_names)
    again = lines(nla("explain", "out.parquet", "--json", *SHORT))
    assert [row["api_explanation"] for row in again] == written["api_explanation"].to_pylist()
    assert {row["kind"] for row in again} == {"direction"}
    mixed = written.set_column(written.column_names.index("kind"), "kind", pa.array(["direction"] * 2 + ["activation"]))
    pq.write_table(mixed, "mixed.parquet")
    refused(nla("explain", "mixed.parquet"), "several kinds (column kind: activation, direction)", "--kind")
    some = written.set_column(written.column_names.index("kind"), "kind", pa.array(["direction"] * 2 + [None]))
    pq.write_table(some, "some.parquet")
    refused(nla("explain", "some.parquet"), "(column kind: None, direction)")
    assert len(lines(nla("explain", "some.parquet", "--kind", "direction", "--json", *SHORT))) == 3
    large = written["kind"].cast(pa.large_string())
    pq.write_table(written.set_column(written.column_names.index("kind"), "kind", large), "large.parquet")
    found = lines(nla("explain", "large.parquet", "--json", *SHORT))
    assert [row["api_explanation"] for row in found] == written["api_explanation"].to_pylist()
    other = written.set_column(written.column_names.index("kind"), "kind", pa.array(["cat", "dog", "ship"]))
    pq.write_table(other, "other.parquet")
    found = lines(nla("explain", "other.parquet", "--json", *SHORT))
    assert [row["api_explanation"] for row in found] == pair.explain(ROWS, max_new_tokens=3), "a column of its owner's"


def test_a_plain_array_streams_as_what_it_is_said_to_be(nla, pair):
    np.save("rows.npy", ROWS)
    rows = lines(nla("explain", "rows.npy", "--kind", "direction", "--json", *SHORT))
    assert [row["api_explanation"] for row in rows] == pair.explain(ROWS, kind="direction", max_new_tokens=3)
    assert {row["kind"] for row in rows} == {"direction"}
    rows = lines(nla("explain", "rows.npy", "--json", *SHORT))
    assert [row["api_explanation"] for row in rows] == pair.explain(ROWS, max_new_tokens=3)
    assert "kind" not in rows[0]
    refused(nla("explain", "rows.npy", "--direction", "raw"), "these are activations", "--kind direction")
    refused(nla("explain", "A kettle sang.", "--kind", "direction"), "--kind: the text holds texts")


@pytest.mark.parametrize(
    ("given", "is_one"),
    [
        *(("owner/name", False), ("owner/name#12", True), ("owner/name@7", True), ("owner/name/layers.3#1:2", True)),
        *(("owner/name/sae.safetensors#3", True), ("acts/l12.npy#3", False), ("acts/l12.safetensors@3", False)),
        *(("and/or", False), ("C#/F#", False), ("#topic", False), ("@user", False), ("mail me: a@b.example", False)),
        *(("see owner/name#12", False), ("Paris", False), ("", False), ("-", False), ("sae.safetensors", True)),
        *(("sae.safetensors#cats", True), ("dictionary", True), ("dictionary@3", True), ("plain.npy", False)),
        *(("plain.npy#2", True), ("plain.parquet", False), ("~/none.safetensors", False), ("none.gguf", False)),
        ("x" * 5000, False),
    ],
)
def test_a_reference_is_told_from_a_text_and_from_a_table_that_streams(nla, given, is_one):
    for name in ("plain.npy", "plain.parquet"):
        Path(name).touch()
    assert names_vectors(given) is is_one
    assert names_vectors(given, as_text=True) is False
    assert names_vectors(given, said=True) is bool(given and given != "-")


def test_a_word_that_is_a_folders_name_is_a_text_where_that_is_said(nla):
    Path("Paris").mkdir()
    refused(nla("explain", "Paris"), "of no kind that is read here", "With --text it is a text")
    assert nla("explain", "Paris", "--text", *SHORT)[0] == 0


@pytest.mark.parametrize("given", ["missing#12", "missing#3:9", "missing#3,7@12"])
def test_rows_of_a_folder_that_is_not_there_are_no_text(nla, given):
    refused(nla("explain", given), "missing, which does not exist", "With --text it is a text")
    assert nla("explain", given, "--text", *SHORT)[0] == 0


def test_a_hub_id_alone_stays_what_it_was(nla):
    refused(nla("explain", "owner/name"), "does not exist", "With --text it is a text")


# --- nla mean -----------------------------------------------------------------------------------------------------
def test_a_mean_that_was_measured_is_that_of_all_tokens_but_the_first(nla, folder, pair):
    texts = ["A kettle sang.", "Two ships left for the west.", "Nobody on board knew how far it was."]
    Path("texts.txt").write_text("\n".join(texts))
    code, _, err = nla("mean", folder, "-o", "mean.safetensors", "--texts", "texts.txt", av=False)
    assert code == 0 and "layer 1 of" in err
    read = pair.extract(texts, "all")
    rows = read.vectors[np.array(read.positions) > 0].double().numpy()
    from nla_sdk import ActivationMean

    mean = ActivationMean.load("mean.safetensors")
    np.testing.assert_allclose(mean.vector.numpy(), rows.mean(0), rtol=1e-4, atol=1e-5)
    spread = np.median(np.linalg.norm(rows - rows.mean(0), axis=1))
    assert mean.centred_norm == pytest.approx(spread, rel=1e-4)
    assert (mean.layer, mean.model, mean.rows) == (LAYER, pair.origin.model, len(rows))
    refused(nla("mean", folder, "-o", "mean.safetensors", av=False), "exists already. Pass --overwrite")


def test_a_base_by_itself_needs_a_layer_and_the_mean_of_another_is_refused(nla, folder, pair):
    base = folder.parent / "base"
    refused(nla("mean", base, "-o", "m.safetensors", av=False), "no pair: say the layer", "--layer")
    code, _, err = nla("mean", base, "--layer", 3, "-o", "m.safetensors", av=False)
    assert code == 0, err
    told = ("--kind", "direction", "--layer", LAYER, "--direction", "mean+", "--mean", "m.safetensors", *SHORT)
    refused(nla("explain", "sae.safetensors", *told), "a mean of layer 3", "this pair reads layer 1")
    missing = ("--mean", "none.safetensors", "-o", "out.jsonl")
    refused(nla("explain", "sae.safetensors@1", "--kind", "direction", *missing), "none.safetensors does not exist")
    refused(nla("mean", "no-such-folder/none", "-o", "n.safetensors", av=False))
    refused(nla("mean", base, "--layer", 9, "-o", "n.safetensors", av=False), "Layer 9 does not exist")


def test_an_av_that_is_not_centred_takes_the_mean(nla, folder, tmp_path):
    plain = shutil.copytree(folder / "av", tmp_path / "av")
    tiny.write_sidecar(plain, "activation_mean", "centred_norm", "baseline_mse")
    assert nla("mean", folder, "-o", "mean.safetensors", av=False)[0] == 0
    told = ("--kind", "direction", "--layer", LAYER, "--json", *SHORT, "--av", plain)
    rows = lines(nla("explain", "sae.safetensors", *told, "--mean", "mean.safetensors", av=False))
    expected = NLAPair.from_pretrained(plain).explain(
        ROWS, kind="direction", mean=tmp_path / "mean.safetensors", max_new_tokens=3
    )
    assert [row["api_explanation"] for row in rows] == expected


# --- nla compare --------------------------------------------------------------------------------------------------
def test_two_texts_and_two_vectors_are_compared(nla, pair):
    code, out, err = nla("compare", "A kettle sang.", "Two ships left", "--sign", "±", *SHORT)
    assert code == 0, err
    assert out.strip() == repr(pair.compare("A kettle sang.", "Two ships left", signs="±", max_new_tokens=3))
    told = ("--kind", "direction", "--layer", LAYER, "--json", *SHORT)
    [row] = lines(nla("compare", "sae.safetensors#cats", "sae.safetensors#dogs", *told))
    assert row["difference"] == pair.compare(ROWS[0], ROWS[1], kind="direction", max_new_tokens=3).difference
    refused(nla("compare", "sae.safetensors", "sae.safetensors#1", *told), "names 3 vectors; name one of them with #")


# --- nla ask ------------------------------------------------------------------------------------------------------
def test_an_oracle_is_asked_about_vectors_of_a_file(nla, tmp_path, folder):
    oracle = tiny.lora_av(
        tmp_path / "oracle", folder.parent / "base", tiny.plain_model(folder.parent / "base"), layer=1
    )
    injection = {"site": "block", "block": 1, "rule": "add", "norm": "match", "markers": "any"}
    template = "{injection_char} \n{question}"
    facts = {"injection": injection, "av_template": template, "fields": {"question": {}}}
    tiny.write_sidecar(oracle, "injection_scale", **facts, output={"form": "answer", "stop": "eos"})
    told = ("--kind", "direction", "--layer", LAYER, "--direction", "raw", "--json", "--av", oracle, *SHORT)
    [row] = lines(nla("ask", "What is it?", "sae.safetensors", *told, av=False))
    loaded = NLAPair.from_pretrained(oracle)
    asked = loaded.ask(ROWS, "What is it?", kind="direction", direction="raw", max_new_tokens=3)
    assert row["api_explanation"] == asked, "all rows are one set"
    each = lines(nla("ask", "What is it?", "sae.safetensors", *told, "--each", av=False))
    asked = loaded.ask(ROWS[:, None], "What is it?", kind="direction", direction="raw", max_new_tokens=3)
    assert [one["api_explanation"] for one in each] == asked


# --- what a message names is there --------------------------------------------------------------------------------
def test_two_bytes_of_no_type_are_asked_about_and_the_option_that_is_named_says_it(nla, monkeypatch):
    monkeypatch.setattr(loading, "readers", READERS)
    halves = (ROWS.view(np.uint32) >> 16).astype(np.uint16)
    np.save("half.npy", halves.view("V2"))
    code, out, _ = nla("vectors", "half.npy", av=False)
    assert code == 0 and "--vectors-dtype (numpy wrote |V2" in " ".join(out.split())
    code, out, _ = nla("vectors", "half.npy", "--vectors-dtype", "bfloat16", "--json", av=False)
    assert code == 0 and json.loads(out)["norms"]["of"] == 3
    told = ("--kind", "direction", "--layer", LAYER, *SHORT, "--json")
    refused(nla("explain", "half.npy#0", *told), "(--vectors-dtype)", "bfloat16: most likely")
    refused(nla("explain", "half.npy", *told), "--vectors-dtype bfloat16")
    np.save("whole.npy", (halves.astype(np.uint32) << 16).view(np.float32))
    expected = lines(nla("explain", "whole.npy#0", *told))
    assert lines(nla("explain", "half.npy#0", "--vectors-dtype", "bfloat16", *told)) == expected
    refused(nla("explain", "Some words", "--vectors-dtype", "bfloat16"), "--vectors-dtype: the text holds texts")


def test_an_array_of_several_is_named_to_steer_along(nla, monkeypatch):
    monkeypatch.setattr(loading, "readers", READERS)
    np.savez("several.npz", one=ROWS[0], many=ROWS)
    told = ("--kind", "direction", "--layer", LAYER, *SHORT, "--json")
    refused(nla("steer", "Words", "--vector", "several.npz", *told), "(--column)", "one: float32 [64]")
    [found] = lines(nla("steer", "Words", "--vector", "several.npz#1", "--column", "many", *told))
    assert found["towards"] == "#1"
    refused(nla("steer", "Words", "--towards", "x", "--column", "many"), "--column is said of vectors")


def test_a_sign_that_is_none_is_refused_where_vectors_are_only_looked_at(nla):
    refused(nla("vectors", "sae.safetensors", "--sign", "x", av=False), "sign='x': expected")


def test_the_output_says_the_kind_that_was_said_not_the_one_before(nla):
    held = {"kind": ["direction"] * 3, "activation_layer": [LAYER] * 3, "activation_vector": ROWS.tolist()}
    pq.write_table(pa.table(held), "directions.parquet")
    told = (*SHORT, "--json", "--force")
    assert {row["kind"] for row in lines(nla("explain", "directions.parquet", *told))} == {"direction"}
    as_points = lines(nla("explain", "directions.parquet", "--kind", "activation", *told))
    assert {row["kind"] for row in as_points} == {"activation"}


def test_tokens_of_a_batch_are_refused_with_what_reads_them(nla, monkeypatch):
    monkeypatch.setattr(loading, "readers", READERS)
    np.save("batch.npy", np.stack([ROWS, ROWS]))
    refused(nla("explain", "batch.npy", *SHORT), "shape (2, 3, 64)", "--vectors")
    told = ("--vectors", "--kind", "activation", "--layer", LAYER, "--force", *SHORT, "--json")
    assert len(lines(nla("explain", "batch.npy", *told))) == 6
