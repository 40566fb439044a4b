"""Extraction: the right vectors at recorded positions, whatever the order, the shards and the interruptions."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk import metrics
from nla_sdk.contract import Contract
from nla_sdk.errors import ChunkError, InputError
from nla_sdk.io.chunks import MANIFEST
from nla_sdk.io.files import sha256_of
from nla_sdk.io.sidecars import read_sidecar, sidecar_of
from nla_sdk.io.tables import read_vectors
from tests import configs, tiny
from tests.configs import WORDS
from training.configs.config import Config
from training.configs.data import CorpusSource
from training.data import extract
from training.data.corpus import Corpus


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def corpus(tmp_path) -> Path:
    rng = random.Random(0)
    return write_jsonl(
        tmp_path / "corpus.jsonl",
        [
            {
                "doc_id": f"doc{i // 3}",
                "text": " ".join(rng.choices(WORDS, k=rng.randrange(6, 20))),
                "family": "ab"[i % 2],
            }
            for i in range(50)
        ],
    )


def config_of(folder: Path, base: Path, corpus: Path | str, source: dict | None = None, **extract_settings) -> Config:
    extraction = {
        "sources": [{"corpus": str(corpus), **(source or {})}],
        "min_context": 6,
        "max_tokens": 40,
        "texts_per_chunk": 8,
        "tokens_per_batch": 160,
        **extract_settings,
    }
    return Config.load(configs.write(folder, configs.sections(folder, base, extract=extraction)))


def rows_of(path: Path) -> list[dict]:
    return pq.read_table(path).drop_columns(["activation_vector"]).to_pylist()


@pytest.mark.parametrize("next_tokens", [2, 0])
def test_vectors_are_the_residual_stream_at_the_recorded_position_of_every_layer(tmp_path, base, corpus, next_tokens):
    config = config_of(tmp_path, base, corpus, layers=[0, 2], next_tokens=next_tokens)
    paths = extract.run(config)
    assert [path.name for path in paths] == [f"activations_L{layer}.parquet" for layer in (0, 1, 2)]
    model, tokens = tiny.plain_model(base), tiny.tokenizer()
    for layer, path in enumerate(paths):
        vectors = read_vectors(pq.read_table(path))
        for row, vector in list(zip(rows_of(path), vectors, strict=True))[::9]:
            assert row["activation_layer"] == layer
            ids = tokens(row["detokenized_text_truncated"], return_tensors="pt").input_ids[:, : row["n_raw_tokens"]]
            with torch.no_grad():
                output = model(ids, output_hidden_states=True)
            expected = output.hidden_states[layer + 1][0, -1].numpy()
            np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-4)
            assert row["activation_norm"] == pytest.approx(np.linalg.norm(vector), rel=1e-5)
            best = output.logits[0, -1].topk(2).indices.tolist()
            assert row["next_tokens"] == [tokens.decode([one]) for one in best][:next_tokens]


def test_positions_depend_on_seed_and_text_only(tmp_path, base, corpus):
    lines = corpus.read_text().splitlines()
    backwards = tmp_path / "backwards.jsonl"
    backwards.write_text("\n".join(lines[::-1]) + "\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = extract.run(config_of(tmp_path / "a", base, corpus))[0]
    other = extract.run(config_of(tmp_path / "b", base, backwards, texts_per_chunk=5))[0]
    keys = ("row_id", "doc_id", "n_raw_tokens", "detokenized_text_truncated", "source_family")
    assert {tuple(row[key] for key in keys) for row in rows_of(one)} == {
        tuple(row[key] for key in keys) for row in rows_of(other)
    }
    assert sha256_of(one) != sha256_of(other)
    assert all(row["n_raw_tokens"] > 6 for row in rows_of(one))


def test_two_shards_merged_are_one_run(tmp_path, base, corpus):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    one = extract.run(config_of(whole, base, corpus, layers=[2]))
    config = config_of(parts, base, corpus, layers=[2])
    for shard in (2, 1):
        extract.run(config, shard=(shard, 2))
    merged = extract.merge(config)
    for a, b in zip(one, merged, strict=True):
        assert a.name == b.name and sha256_of(a) == sha256_of(b)
        first, second = read_sidecar(a), read_sidecar(b)
        own = ("identity", "stage", "merged", "code_version")
        assert {k: v for k, v in first.items() if k not in own} == {k: v for k, v in second.items() if k not in own}


def test_shards_that_do_not_belong_together_are_refused(tmp_path, base, corpus):
    config = config_of(tmp_path, base, corpus)
    with pytest.raises(ChunkError, match="holds no activations_L1"):
        extract.merge(config)
    made = extract.run(config, shard=(1, 2))[0]
    with pytest.raises(ChunkError, match="Found the shards 1/2 of layer 1; expected 1/2 … 2/2"):
        extract.merge(config)
    extract.run(config.model_copy(update={"seed": 9}), shard=(2, 2))
    with pytest.raises(ChunkError, match="different runs"):
        extract.merge(config)
    extract.run(config, shard=(2, 2), overwrite=True)
    made.write_bytes(made.read_bytes() + b" ")
    with pytest.raises(ChunkError, match="damaged"):
        extract.merge(config)


@pytest.mark.parametrize("dies_at", [0, 3, 6])
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tmp_path, base, corpus, monkeypatch, dies_at):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    expected = extract.run(config_of(tmp_path / "a", base, corpus))[0]
    config, real, calls = config_of(tmp_path / "b", base, corpus), extract.extract_chunk, []

    def dying(*arguments):
        if len(calls) == dies_at:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(extract, "extract_chunk", dying)
    with pytest.raises(KeyboardInterrupt):
        extract.run(config)
    assert not list(config.out.glob("*.parquet"))
    manifest = next(config.out.glob(f"chunks/*/{MANIFEST}"), None)
    if manifest:
        with manifest.open("a") as file:
            file.write('{"chunk": 99, "outp')  # killed within the append
    again = []
    monkeypatch.setattr(extract, "extract_chunk", lambda *arguments: again.append(1) or real(*arguments))
    made = extract.run(config)[0]
    assert sha256_of(made) == sha256_of(expected)
    assert len(calls) + len(again) == 7  # 50 texts in chunks of 8: none twice
    assert not (config.out / "chunks").exists()


def test_a_finished_table_is_left_alone_unless_told_otherwise(tmp_path, base, corpus, monkeypatch):
    config = config_of(tmp_path, base, corpus)
    made = extract.run(config)[0]
    before = made.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(
            "nla_sdk.model.backbone.Backbone.load", lambda *a, **k: pytest.fail("loaded the base for nothing")
        )
        assert extract.run(config) == [made]
    assert made.stat().st_mtime_ns == before
    changed = config.model_copy(update={"seed": 1})
    with pytest.raises(ChunkError, match="made with other settings.*--overwrite"):
        extract.run(changed)
    digest = sha256_of(made)
    extract.run(changed, overwrite=True)
    assert sha256_of(made) != digest
    kept = json.loads((config.results / "MANIFEST.json").read_text())
    assert {one["sha256"] for one in kept.values()} == {digest, sha256_of(made)}
    for name, about in kept.items():
        assert sha256_of(config.results / name) == about["sha256"]
        assert sidecar_of(config.results / name).is_file()


def test_the_sidecar_says_what_the_vectors_are(tmp_path, base, corpus):
    made = extract.run(config_of(tmp_path, base, corpus))[0]
    contract = Contract.load(sidecar_of(made))
    vectors = read_vectors(pq.read_table(made)).astype(np.float64)
    assert (contract.kind, contract.d_model, contract.layer) == ("nla_dataset", tiny.D_MODEL, 1)
    assert contract.extraction_precision == "float32"
    mean = vectors.mean(axis=0)
    from safetensors.numpy import load_file

    np.testing.assert_allclose(load_file(made.with_name(contract.activation_mean))["mean"], mean, rtol=1e-5, atol=1e-6)
    assert contract.centred_norm == pytest.approx(np.median(np.linalg.norm(vectors - mean, axis=1)), rel=1e-6)
    assert contract.baseline_mse == pytest.approx(metrics.mean_baselines(vectors).mean_norm, rel=1e-6)
    about = read_sidecar(made)
    assert about["rows"] == len(vectors) and about["sha256"] == sha256_of(made)
    assert about["inputs"] == [{"corpus.jsonl": sha256_of(tmp_path / "corpus.jsonl")}]
    assert str(tmp_path) not in sidecar_of(made).read_text()


def test_a_folder_of_files_is_read_in_windows_and_documents_are_paths(tmp_path, base):
    rng = random.Random(1)
    long = " ".join(rng.choices(WORDS, k=90))
    folder = tmp_path / "texts"
    (folder / "novels").mkdir(parents=True)
    (folder / "novels" / "long.txt").write_text(long)
    (folder / "short.md").write_text("hi")
    (folder / "note.md").write_text(" ".join(rng.choices(WORDS, k=12)))
    (folder / "picture.png").write_bytes(b"\x89PNG")
    made = extract.run(config_of(tmp_path, base, folder))[0]
    rows = rows_of(made)
    assert {row["doc_id"] for row in rows} == {"novels/long.txt", "note.md"}
    assert {row["source_family"] for row in rows} == {"novels", None}
    assert read_sidecar(made)["drops"]["too_short"] >= 1
    windows = [row for row in rows if row["doc_id"] == "novels/long.txt"]
    assert len(windows) >= 6 and all(row["n_raw_tokens"] <= 40 for row in windows)
    assert all(row["detokenized_text_truncated"] in long for row in windows)
    late = [row for row in windows if not long.startswith(row["detokenized_text_truncated"])]
    assert late, "no window but the first was read"
    vectors, model, tokens = read_vectors(pq.read_table(made)), tiny.plain_model(base), tiny.tokenizer()
    for row, vector in zip(rows, vectors, strict=True):
        if row in late:
            ids = tokens(row["detokenized_text_truncated"], return_tensors="pt").input_ids
            if ids.shape[1] == row["n_raw_tokens"]:  # else the cut fell within what would be one token
                with torch.no_grad():
                    state = model(ids, output_hidden_states=True).hidden_states[2][0, -1]
                np.testing.assert_allclose(vector, state.numpy(), rtol=1e-4, atol=1e-4)


def test_texts_with_a_label_of_their_own_are_read_at_their_last_token(tmp_path, base, corpus):
    made = extract.run(config_of(tmp_path, base, corpus, {"positions": "last"}))[0]
    texts = {json.loads(line)["text"] for line in corpus.read_text().splitlines()}
    rows = rows_of(made)
    assert {row["detokenized_text_truncated"] for row in rows} <= texts and len(rows) > 40


def test_parquet_share_limit_and_other_field_names(tmp_path):
    rows = [{"id": f"d{i // 2}", "body": f"text {i}", "kind": "x"} for i in range(400)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    fields = {"corpus": str(tmp_path / "c.parquet"), "text": "body", "doc_id": "id", "family": "kind"}
    everything = list(Corpus(CorpusSource(**fields)))
    assert [(one.doc_id, one.text, one.family) for one in everything] == [
        (row["id"], row["body"], row["kind"]) for row in rows
    ]
    assert list(Corpus(CorpusSource(**fields, limit=7))) == everything[:7]
    some = list(Corpus(CorpusSource(**fields, share=0.3), seed=1))
    assert 60 < len(some) < 180 and set(some) < set(everything)
    chosen = {one.doc_id for one in some}
    assert some == [one for one in everything if one.doc_id in chosen]  # whole documents
    assert {one.doc_id for one in Corpus(CorpusSource(**fields, share=0.3), seed=2)} != chosen


def test_every_text_can_be_a_document_of_its_own(tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", [{"text": "one"}, {"text": "two"}, {"text": "one"}])
    with pytest.raises(InputError, match=r"row 1: no 'doc_id'.*doc_id: null"):
        list(Corpus(CorpusSource(corpus=str(path))))
    ids = [one.doc_id for one in Corpus(CorpusSource(corpus=str(path), doc_id=None))]
    assert ids[0] == ids[2] != ids[1]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("missing", None, "does not exist. Put text files into a folder"),
        ("c.csv", "a,b", "expected a .txt, .md, .jsonl, .parquet file"),
        ("c.jsonl", '{"doc_id": 1}\n', "row 1: expected an object with 'text' .found doc_id"),
        ("c.jsonl", '{"doc_id": 1, "text": "a"}\nnot json\n', "row 2: not a line of JSON"),
        ("c.parquet", "no parquet", "not a readable parquet file"),
        ("empty", "", "holds no .txt, .md, .jsonl, .parquet file"),
    ],
)
def test_a_corpus_that_cannot_be_read_says_where(tmp_path, name, content, message):
    path = tmp_path / name
    if content == "":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        list(Corpus(CorpusSource(corpus=str(path))))


def test_a_hub_dataset_that_cannot_be_reached_says_so(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="neither a file or folder here nor a Hub dataset that can be read"):
        Corpus(CorpusSource(corpus="nobody/nothing")).fingerprint()


def test_nothing_read_is_an_error_and_not_an_empty_table(tmp_path, base, corpus):
    with pytest.raises(InputError, match=r"No activation was read from .*too_short.*min_context"):
        extract.run(config_of(tmp_path, base, corpus, min_context=60))
    assert not list((tmp_path / "out").glob("*.parquet"))


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b"])
def test_a_malformed_shard_is_refused(shard):
    with pytest.raises(InputError, match="expected I/N"):
        extract.parse_shard(shard)


def test_a_layer_the_base_lacks_is_refused(tmp_path, base, corpus):
    with pytest.raises(InputError, match="Layer 7 does not exist: .* has layers 0 to 3"):
        extract.run(config_of(tmp_path, base, corpus, layers=[7]))


# --- text as it comes -----------------------------------------------------------------------------------------------
@pytest.fixture
def orphan_base(base, tmp_path) -> Path:
    """The base, with a tokenizer that knows one token more than there are embeddings."""
    shutil.copytree(base, tmp_path / "more")
    tokens = tiny.tokenizer()
    tokens.add_tokens(["<image_soft_token>"])
    tokens.save_pretrained(tmp_path / "more")
    return tmp_path / "more"


GOOD = [{"doc_id": f"d{at}", "text": f"the cat sat on a mat while dogs ran {at}"} for at in range(12)]
BROKEN = {
    "half_surrogate": {"doc_id": "half", "text": "caf\ud83d the cat sat on a mat"},
    "nul": {"doc_id": "nul", "text": "the cat\0 sat on a mat"},
    "byte_order_mark": {"doc_id": "mark", "text": "\ufeffthe cat sat on a mat"},
    "no_embedding": {"doc_id": "orphan", "text": "the cat <image_soft_token> sat on a mat"},
}


@pytest.mark.parametrize("positions", [2, "last"])
@pytest.mark.parametrize("doc_id", ["doc_id", None])
def test_documents_that_are_no_text_are_dropped_counted_and_named(tmp_path, orphan_base, capsys, positions, doc_id):
    rows = [*GOOD[:5], *BROKEN.values(), *GOOD[5:], dict(GOOD[0], doc_id="x\ud83d"), dict(GOOD[0], family="\udfff")]
    source = {"positions": positions, "doc_id": doc_id, "share": 1.0}
    config = config_of(tmp_path / "a", orphan_base, write_jsonl(tmp_path / "a.jsonl", rows), source)
    [path] = extract.run(config)
    own = 2 if doc_id else 1
    drops = read_sidecar(path)["drops"]
    assert {name: drops[name] for name in BROKEN} == dict.fromkeys(BROKEN, 1) | {"half_surrogate": 1 + own}
    said = capsys.readouterr().err
    assert (
        f"{1 + own} documents dropped: half a surrogate pair" in said and "1 document dropped: a NUL character" in said
    )
    assert "a.jsonl, row 6 dropped: " in said
    good = [*GOOD, *([] if doc_id else [dict(GOOD[0])])]  # without ids, the id of that row is not read
    alone = config_of(tmp_path / "b", orphan_base, write_jsonl(tmp_path / "b.jsonl", good), source)
    [expected] = extract.run(alone)
    found, wanted = pq.read_table(path), pq.read_table(expected)
    assert found["row_id"].equals(wanted["row_id"])
    np.testing.assert_allclose(read_vectors(found), read_vectors(wanted), rtol=1e-4, atol=1e-5)


def test_marks_at_the_start_of_corpora_are_no_text(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffThe cat sat.", encoding="utf-8")
    (tmp_path / "b.md").write_text("\ufeffThe cat sat.", encoding="utf-8")
    line = '\ufeff{"doc_id": "c", "text": "The cat sat."}\n'
    (tmp_path / "c.jsonl").write_text(line + line, encoding="utf-8")
    texts = list(Corpus(CorpusSource(corpus=str(tmp_path))))
    assert [text.text for text in texts] == ["The cat sat."] * 4


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "a.jsonl",
            b'{"doc_id": 1, "text": "a"}\n{"doc_id": 1, "text": null}',
            "row 2: 'text' is null; expected a text",
        ),
        ("a.jsonl", b'{"doc_id": 1, "text": ["a"]}', "row 1: 'text' is a list; expected a text"),
        ("a.jsonl", b'{"doc_id": 1, "text": 3}', "row 1: 'text' is a int"),
        ("a.jsonl", b"[1]", "row 1: a list; expected an object with 'text'"),
        ("a.jsonl", b"[" * 100_000, "row 1: not a line of JSON"),
        ("a.jsonl", '{"doc_id": 1, "text": "a"}'.encode("utf-16"), "is UTF-16 text"),
        ("a.txt", "The cat".encode("utf-16"), "is UTF-16 text"),
    ],
)
def test_a_row_without_a_text_says_what_stands_there(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}.*{says}"):
        list(Corpus(CorpusSource(corpus=str(tmp_path / name))))


def test_parquet_corpora_name_rows_that_are_null_or_no_utf8(tmp_path):
    pq.write_table(pa.table({"doc_id": ["a", "b"], "text": ["x", None]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="a.parquet, row 1: 'text' is null"):
        list(Corpus(CorpusSource(corpus=str(tmp_path / "a.parquet"))))
    wrong = pa.Array.from_buffers(pa.string(), 1, pa.array([b"caf\xe9"]).buffers())
    pq.write_table(pa.table({"doc_id": ["a"], "text": wrong}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="b.parquet, rows 0 to 0: a text is not UTF-8"):
        list(Corpus(CorpusSource(corpus=str(tmp_path / "b.parquet"))))


@given(st.text(st.characters(), min_size=1, max_size=20), st.text(st.characters(), min_size=1, max_size=8))
def test_any_document_is_read_or_has_a_fault_and_never_a_traceback(tmp_path_factory, text, doc_id):
    folder = tmp_path_factory.mktemp("any")
    path = write_jsonl(folder / "a.jsonl", [{"doc_id": doc_id, "text": text}])
    for one in Corpus(CorpusSource(corpus=str(path), share=0.5)):
        assert (one.text, one.doc_id) == (text, doc_id)
        if one.fault is None:
            pa.table({"doc_id": [one.doc_id], "text": [one.text]})
            assert tiny.tokenizer()(one.text).input_ids
