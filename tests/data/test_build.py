"""The build's tables hold what splits, labels and published data say, and say why the rest went."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from nla_sdk.contract import Contract
from nla_sdk.errors import ChunkError, ContractMismatchError, InputError
from nla_sdk.io.chunks import Chunks
from nla_sdk.io.files import sha256_of
from nla_sdk.io.rows.formats import write_stream
from nla_sdk.io.sidecars import read_sidecar
from nla_sdk.io.tables import read_vectors, vector_column
from nla_sdk.metrics import mean_baselines
from tests import configs, tiny
from training.configs.config import Config
from training.configs.data import Split
from training.data import build
from training.data.statistics import Statistics
from training.data.tables import labelled
from training.data.tables import report as label_report
from training.data.tables.choosing import spread
from training.data.tables.columns import explanation_of, response_of
from training.data.tables.splits import is_held_out, share_of, split_of
from training.fit.engine.rows import load_rows

pytest_plugins = ["tests.hub.fixtures"]

D = tiny.D_MODEL
LONG = "word " * 90
SIZES = {"av_sft": 40, "ar_sft": 30, "rl": 12, "validation": 15, "eval": 30}
# index in the split → what the second label set says of that row
SPECIAL = {
    1: ("rejected", "Not good."),
    2: ("failed", None),
    3: ("none", None),
    4: ("accepted", "  "),
    5: ("accepted", f"Holds {tiny.MARKER}."),
    6: ("repaired", "Closes </concept> it."),
    7: ("accepted", LONG),
}


def config_of(folder: Path, base: Path, **sections: Mapping) -> Config:
    train = {"batch_size": 4}
    values = configs.sections(
        folder,
        base,
        extract={"sources": [{"corpus": "corpus"}]},
        label={
            "sets": [
                {"name": "extractive", "providers": [{"kind": "extractive"}]},
                {"name": "written", "providers": [{"kind": "extractive"}], "splits": ["av_sft", "ar_sft"]},
            ]
        },
        build={"eval_rows": 12},
        av={"max_length": 300, **train},
        ar={"max_length": 250, **train},
    )
    for name, changes in sections.items():
        values[name] = {**values.get(name, {}), **changes}
    return Config.model_validate(values)


def vectors(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, D), loc=1.0, scale=2.0).astype(np.float32)


def row_id(split: str, at: int) -> str:
    return hashlib.sha256(f"{split}{at}".encode()).hexdigest()[:16]


def split_table(split: str) -> pa.Table:
    count = SIZES[split]
    rng = random.Random(split)
    numbers = vectors(count, seed=len(split) + count)
    return pa.table(
        {
            "row_id": [row_id(split, at) for at in range(count)],
            "doc_id": [f"{split}-{at // 3}" for at in range(count)],
            "n_raw_tokens": pa.array([50 + at for at in range(count)], pa.int32()),
            "activation_layer": pa.array([1] * count, pa.int32()),
            "activation_vector": vector_column(numbers),
            "activation_norm": np.linalg.norm(numbers, axis=1).astype(np.float32),
            "detokenized_text_truncated": [
                f"{split} {at} " + " ".join(rng.choices(["cat", "dog", "sat", "ran", "red"], k=8))
                for at in range(count)
            ],
            "source_family": [rng.choice("ab") for _ in range(count)],
            "next_tokens": [[" a", " b"]] * count,
        }
    )


def label_table(split: str, name: str) -> pa.Table:
    count = SIZES[split]
    said = [("accepted", f"{name} says {split} {at}.") for at in range(count)]
    if name == "written":
        said = [SPECIAL.get(at, one) for at, one in enumerate(said)]
        said[9] = ("accepted", f"extractive says {split} 9.")  # of the same text: a duplicate
    return pa.table(
        {
            "row_id": [row_id(split, at) for at in range(count)],
            "doc_id": [f"{split}-{at // 3}" for at in range(count)],
            "api_explanation": pa.array([text for _, text in said], pa.string()),
            "label_status": [status for status, _ in said],
            "labeler_model": ["extractive-1" if name == "extractive" else "big-model"] * count,
            "auditor_model": pa.array([None] * count, pa.string()),
            "prompt_sha256": ["0" * 64] * count,
            "tokens": pa.array([7] * count, pa.int32()),
            "cost_usd": [0.5] * count,
            "label_note": pa.array([None] * count, pa.string()),
        }
    )


def write_inputs(config: Config) -> Config:
    """Splits in row groups of 7 and labels in row groups of 5."""
    meta = {"base_model": config.base_id, "base_revision": "abc", "d_model": D, "layer": 1, "extraction_precision": "x"}
    for split in SIZES:
        path = config.out / "split" / f"{split}.parquet"
        write_stream(path, [split_table(split)], meta)
        pq.write_table(split_table(split), path, row_group_size=7)
        for one in config.label.sets:
            if split in one.splits:
                labels = config.out / "labels" / one.name / f"{split}.parquet"
                labels.parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(label_table(split, one.name), labels, row_group_size=5)
    return config


@pytest.fixture(scope="module")
def small_blocks():
    """Several chunks a table."""
    patch = pytest.MonkeyPatch()
    patch.setattr(labelled.in_steps, "__defaults__", (8,))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def built(tmp_path_factory, base, small_blocks) -> Config:
    config = write_inputs(config_of(tmp_path_factory.mktemp("run"), base))
    build.run(config)
    return config


def rows_of(config: Config, name: str) -> list[dict]:
    return pq.read_table(config.out / f"{name}.parquet").to_pylist()


def test_tables_have_the_reference_columns_and_types(built):
    table = pq.read_table(built.out / "av_sft.parquet")
    assert table.column_names == [
        *("doc_id", "n_raw_tokens", "activation_layer", "detokenized_text_truncated", "source_family"),
        *("activation_vector", "api_explanation", "prompt", "response", "labeler_model", "auditor_model"),
        *("label_status", "prompt_sha256", "tokens", "cost_usd", "row_id"),
    ]
    assert table.schema.field("activation_vector").type == pa.list_(pa.float32(), D)
    assert table.schema.field("n_raw_tokens").type == pa.int32() and table.schema.field("cost_usd").type == pa.float64()
    row = table.slice(0, 1).to_pylist()[0]
    assert row["prompt"] == "say <concept><INJECT></concept>: <explanation>"
    assert row["response"] == "<explanation>\nextractive says av_sft 0.\n</explanation>"
    assert explanation_of(row["response"]) == row["api_explanation"]
    rl = pq.read_table(built.out / "rl.parquet")
    assert rl.num_rows == SIZES["rl"] and not {"response", "api_explanation", "label_status"} & set(rl.column_names)


def test_every_usable_label_is_a_row_with_its_own_raw_vector(built):
    own = split_table("av_sft")
    raw = dict(zip(own["row_id"].to_pylist(), read_vectors(own), strict=True))
    rows = rows_of(built, "av_sft")
    for row in rows:
        np.testing.assert_array_equal(np.float32(row["activation_vector"]), raw[row["row_id"]])
    expected = {(row_id("av_sft", at), f"extractive says av_sft {at}.") for at in range(SIZES["av_sft"])}
    expected |= {(row_id("av_sft", at), f"written says av_sft {at}.") for at in range(40) if at not in {*SPECIAL, 9}}
    assert {(row["row_id"], row["api_explanation"]) for row in rows} == expected and len(rows) == len(expected)


@pytest.mark.parametrize("name", ["av_sft", "ar_sft"])
def test_drops_are_counted_by_reason_and_too_long_rows_named(built, name):
    sidecar = read_sidecar(built.out / f"{name}.parquet")
    too_long = {"av_sft": "too_long_av", "ar_sft": "too_long_ar"}[name]
    assert sidecar["drops"] == {
        "duplicate": 1,
        "empty": 1,
        "failed": 1,
        "holds_marker": 2,
        "none": 1,
        "rejected": 1,
        too_long: 1,
    }
    assert sidecar["too_long_rows"] == [{"row_id": row_id(name, 7), "reason": too_long}]
    assert sidecar["rows"] == 2 * SIZES[name] - 8


def test_the_eval_table_takes_one_activation_a_document_first(built):
    documents = [row["doc_id"] for row in rows_of(built, "eval")]
    assert len(documents) == built.build.eval_rows
    assert sorted(set(documents)) == sorted(f"eval-{at}" for at in range(10))  # each of the ten, two of them twice
    assert len(rows_of(built, "validation")) == SIZES["validation"]  # fewer than the 256 there is room for
    assert spread([("a", "x"), ("b", "x"), ("c", "y"), ("d", "y"), ("e", "x")], 3) == {"a", "c", "b"}


def test_statistics_are_those_of_all_training_activations(built):
    found = json.loads((built.out / "statistics.json").read_text())
    train = np.concatenate([read_vectors(split_table(name)) for name in ("av_sft", "ar_sft", "rl")]).astype(np.float64)
    mean = train.mean(axis=0)
    np.testing.assert_allclose(load_file(built.out / "activation_mean.safetensors")["mean"], mean, rtol=1e-6)
    assert found["centred_norm"] == pytest.approx(np.median(np.linalg.norm(train - mean, axis=1)))
    assert found["median_norm"] == pytest.approx(np.median(np.linalg.norm(train, axis=1)))
    assert found["training_rows"] == len(train)
    held_out = np.array([row["activation_vector"] for row in rows_of(built, "eval")])
    assert found["baseline_mse"] == pytest.approx(mean_baselines(held_out).mean_norm)
    assert found["baseline_mse_raw_variance"] == pytest.approx(mean_baselines(held_out).raw_variance)
    assert Statistics.load(built.out).pair_id == found["pair_id"]


def test_the_pair_id_is_that_of_the_rows_not_of_their_rounding(built, base, tmp_path, small_blocks):
    config = write_inputs(config_of(tmp_path, base))
    for split in SIZES:
        path = config.out / "split" / f"{split}.parquet"
        table = pq.read_table(path)
        rounded = vector_column(read_vectors(table) * np.float32(1 + 1e-6))
        pq.write_table(table.set_column(4, "activation_vector", rounded), path)
    build.run(config)
    ids = [Statistics.load(one.out).pair_id for one in (built, config)]
    assert ids[0] == ids[1]
    assert not np.array_equal(*(load_file(one.out / "activation_mean.safetensors")["mean"] for one in (built, config)))


def test_tables_without_a_recorded_pair_id_keep_their_old_one(built, tmp_path):
    for name in ("statistics.json", "activation_mean.safetensors"):
        (tmp_path / name).write_bytes((built.out / name).read_bytes())
    found = json.loads((tmp_path / "statistics.json").read_text())
    del found["pair_id"]
    (tmp_path / "statistics.json").write_text(json.dumps(found))
    mean = load_file(tmp_path / "activation_mean.safetensors")["mean"]
    assert Statistics.load(tmp_path).pair_id == hashlib.sha256(mean.tobytes()).hexdigest()[:16]


def test_sidecars_read_back_as_contracts_that_hold_for_the_tokenizer(built):
    for name in ("av_sft", "ar_sft", "rl", "eval"):
        contract = Contract.load(built.out / f"{name}.parquet.nla_meta.yaml")
        assert (contract.kind, contract.layer, contract.d_model) == ("nla_dataset", 1, D)
        assert contract.av_template == built.av.template and contract.ar_template == built.ar.template
        assert contract.base_revision == "abc" and contract.injection_char == tiny.MARKER
        assert contract.verify(tiny.tokenizer()) == contract  # nothing is left to derive
        ids = contract.av_prompt_ids(tiny.tokenizer())
        assert ids[contract.find_marker(ids)] == contract.injection_token_id
        sidecar = read_sidecar(built.out / f"{name}.parquet")
        assert sidecar["sha256"] == sha256_of(built.out / f"{name}.parquet")
        split = built.out / "split" / f"{name}.parquet"
        assert sidecar["inputs"][f"split/{name}.parquet"] == sha256_of(split)


def test_tables_load_with_datasets(built, tmp_path):
    datasets = pytest.importorskip("datasets")
    for name in ("av_sft", "rl"):
        path = str(built.out / f"{name}.parquet")
        loaded = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=str(tmp_path / name))
        assert loaded.num_rows == pq.read_table(path).num_rows
        assert loaded[1]["activation_vector"] == pq.read_table(path).slice(1, 1).to_pylist()[0]["activation_vector"]


def test_the_trainers_find_their_rows(built):
    assert len(load_rows(built.out / "av_sft.parquet", ["extractive"])[1]) == 40
    assert len(load_rows(built.out / "av_sft.parquet", ["written"])[1]) == 32
    everything = load_rows(built.out / "av_sft.parquet", ["extractive"])[1]
    vectors, some = load_rows(built.out / "av_sft.parquet", ["extractive"], 7)
    places = [everything.index(row) for row in some]
    assert places == [0, 6, 13, 19, 26, 32, 39] and len(vectors) == 7, "of all of the table, not of its beginning"


def test_a_killed_build_goes_on_to_the_same_tables(built, base, tmp_path, monkeypatch, small_blocks):
    config = write_inputs(config_of(tmp_path, base))
    real, left = Chunks.write, 7

    def dying(self, *arguments, **options):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    monkeypatch.setattr(Chunks, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        build.run(config)
    assert not (config.out / "ar_sft.parquet").exists() and (config.out / "av_sft.parquet").exists()
    left, before = 100, left
    build.run(config)
    for name in SIZES:
        assert sha256_of(config.out / f"{name}.parquet") == sha256_of(built.out / f"{name}.parquet")
        assert (
            read_sidecar(config.out / f"{name}.parquet")["drops"]
            == read_sidecar(built.out / f"{name}.parquet")["drops"]
        )
    assert 100 - left == 4 + 2 + 2 + 4 - 2  # two of ar_sft's four chunks were done
    assert not (config.out / "chunks").exists()
    assert before < 0


def test_nothing_is_overwritten_unless_asked(built, base, tmp_path):
    config = write_inputs(config_of(tmp_path, base))
    build.run(config)
    times = {path: path.stat().st_mtime_ns for path in config.out.glob("*.*")}
    build.run(config)
    assert times == {path: path.stat().st_mtime_ns for path in config.out.glob("*.*")}
    other = config_of(tmp_path, base, build={"eval_rows": 6})
    with pytest.raises(ChunkError, match="--overwrite"):
        build.run(other)
    build.run(other, overwrite=True)
    assert pq.read_table(config.out / "eval.parquet").num_rows == 6
    kept = [path.name for path in (tmp_path / "results" / "out").glob("eval*.parquet")]
    assert len(kept) == 2 and "eval.parquet" in kept


def test_labels_of_other_rows_are_refused(base, tmp_path):
    config = write_inputs(config_of(tmp_path, base))
    path = config.out / "labels" / "written" / "ar_sft.parquet"
    table = pq.read_table(path)
    for wrong in (table.take(np.arange(len(table))[::-1]), table.slice(1), pa.concat_tables([table, table])):
        pq.write_table(wrong, path)
        with pytest.raises(InputError, match=r"training\.label"):
            build.run(config)
    path.unlink()
    with pytest.raises(InputError, match=r"does not exist: run `python -m training\.label`"):
        build.run(config)


def test_a_template_that_the_tokenizer_cannot_take_stops_the_build_before_any_row(base, tmp_path):
    template = "say <concept>{injection_char}{injection_char}</concept>"
    config = write_inputs(config_of(tmp_path, base, av={"template": template}))
    with pytest.raises(Exception, match="exactly once"):
        build.run(config)
    config = write_inputs(config_of(tmp_path / "b", base)).model_copy(update={"marker": "☃"})
    with pytest.raises(ContractMismatchError):
        build.run(config)
    assert not (config.out / "av_sft.parquet").exists()


def test_activations_of_another_layer_are_refused(base, tmp_path):
    config = write_inputs(config_of(tmp_path, base))
    with pytest.raises(InputError, match="layer 1"):
        build.run(config.model_copy(update={"layer": 2}))


# --- published tables -------------------------------------------------------------------------------------------
def test_balanced_held_out_tables_have_as_many_rows_of_each_family_as_there_are(built, base, tmp_path):
    config = config_of(tmp_path, base, build={"eval_rows": 13, "validation_rows": 7, "balance": "families"})
    build.run(write_inputs(config))
    for name, rows in (("eval", 13), ("validation", 7)):
        there = Counter(split_table(name)["source_family"].to_pylist())
        found = Counter(row["source_family"] for row in rows_of(config, name))
        fewer = min(there.values())
        assert sorted(found.values()) == sorted([min(fewer, rows // 2), rows - min(fewer, rows // 2)])
    for name in ("av_sft", "ar_sft", "rl"):
        assert sha256_of(config.out / f"{name}.parquet") == sha256_of(built.out / f"{name}.parquet")


def test_a_published_document_that_would_be_held_out_in_any_family_is_left_out(base, tmp_path):
    shares = {"eval": 0.1, "validation": 0.05, "av_sft": 0.4, "ar_sft": 0.3, "rl": 0.15}
    families = {"speeches": {"eval": 0.4}, "code": {"validation": 0.2}}
    names = [f"pub{at}" for at in range(40)]
    columns = {"doc_id": names, "source_family": ["talks"] * 40, "response": None}
    columns["api_explanation"] = [f"It says {at}." for at in range(40)]
    columns |= {"activation_layer": [1] * 40, "prompt": ["x"] * 40}
    columns["detokenized_text_truncated"] = [f"published text {at}" for at in range(40)]
    columns["activation_vector"] = vector_column(vectors(40, seed=99))
    pq.write_table(published(6, **columns), tmp_path / "talks.parquet")
    entry = {"dataset": str(tmp_path / "talks.parquet"), "split": "ar_sft"}
    config = config_of(tmp_path, base, split={**shares, "families": families}, build={"published": [entry]})
    build.run(write_inputs(config))
    kept = {row["doc_id"] for row in rows_of(config, "ar_sft") if row["source_family"] == "talks"}
    assert kept == {name for name in names if share_of(name) >= 0.45}
    assert 0 < len(kept) < sum(share_of(name) >= 0.15 for name in names)


def documents(wanted: str, count: int) -> list[str]:
    """Document ids that fall into "eval", into "validation", or into neither ("train")."""
    names = (f"pub{at}" for at in range(10_000))
    found = [name for name in names if (split_of(name, Split()) if is_held_out(name, Split()) else "train") == wanted]
    return found[:count]


def published(count: int = 6, **columns) -> pa.Table:
    """As the reference pipeline writes it: variable lists of float64, the answer in `response` only."""
    numbers = vectors(count, seed=99)
    held_out = documents("eval", 1)
    data = {
        "doc_id": documents("train", count - 1) + held_out,
        "activation_layer": [1] * count,
        "activation_vector": pa.array(numbers.astype(np.float64).tolist(), pa.list_(pa.float64())),
        "detokenized_text_truncated": [f"published text {at}" for at in range(count)],
        "prompt": ["other <concept><INJECT></concept>"] * count,
        "response": [response_of(f"published says {at}.") for at in range(count)],
    }
    return pa.table({name: values for name, values in (data | columns).items() if values is not None})


def test_published_rows_are_appended_and_held_out_documents_left_out(built, base, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    texts = [f"published text {at}" for at in range(6)]
    texts[2] = split_table("eval")["detokenized_text_truncated"][4].as_py()  # our eval text under another id
    pq.write_table(published(detokenized_text_truncated=texts), folder / "train.parquet")
    config = config_of(
        tmp_path,
        base,
        build={"eval_rows": 12, "published": [{"dataset": str(folder), "split": "ar_sft"}]},
    )
    build.run(write_inputs(config))
    own = rows_of(built, "ar_sft")
    rows = rows_of(config, "ar_sft")
    assert [row["row_id"] for row in rows[: len(own)]] == [row["row_id"] for row in own]
    added = rows[len(own) :]
    assert [row["api_explanation"] for row in added] == [f"published says {at}." for at in (0, 1, 3, 4)]
    assert {row["labeler_model"] for row in added} == {"published:mine"}
    assert {row["prompt"] for row in added} == {"say <concept><INJECT></concept>: <explanation>"}
    np.testing.assert_array_equal(np.float32(added[2]["activation_vector"]), vectors(6, seed=99)[3])
    sidecar = read_sidecar(config.out / "ar_sft.parquet")
    assert (sidecar["drops"]["heldout_document"], sidecar["drops"]["heldout_text"]) == (1, 1)
    assert sidecar["rows_published"] == 4 and sidecar["published"][0]["dataset"] == "mine"
    assert str(tmp_path) not in yaml.safe_dump(sidecar["published"]) + yaml.safe_dump(sidecar["inputs"])
    statistics = json.loads((config.out / "statistics.json").read_text())
    assert statistics["training_rows"] == 40 + 30 + 12 + 4


def test_published_tables_alone_make_tables(base, tmp_path):
    names = documents("train", 8) + documents("eval", 4) + documents("validation", 3)
    texts = [f"published text {at}" for at in range(15)]
    texts[12] = texts[8]  # of a validation document, and of an eval one
    values = vector_column(vectors(15, seed=99))
    table = published(15, doc_id=names, activation_vector=values, detokenized_text_truncated=texts)
    files = [tmp_path / "av.parquet", tmp_path / "ar.parquet"]
    for at, file in enumerate(files):
        pq.write_table(table.slice(at * 2, 13), file)
    entries = [{"dataset": str(file), "split": f"{file.stem}_sft"} for file in files]
    config = config_of(tmp_path, base, build={"published": entries})
    build.run(config)
    assert {row["doc_id"] for row in rows_of(config, "av_sft")} == set(names[:8])
    assert {row["doc_id"] for row in rows_of(config, "ar_sft")} == set(names[2:8])
    assert {row["doc_id"] for row in rows_of(config, "eval")} == set(names[8:12])
    assert {row["doc_id"] for row in rows_of(config, "validation")} == set(names[13:])
    assert read_sidecar(config.out / "validation.parquet")["drops"]["heldout_text"] == 2
    assert pq.read_table(config.out / "rl.parquet").num_rows == 0


def test_documents_without_an_id_are_told_by_how_their_text_begins(base, tmp_path):
    passage = "a long passage of which activations were read at several positions, so its prefixes"
    texts = [passage, passage + " are rows", "another", "x", "y", "z"]
    pq.write_table(published(doc_id=None, detokenized_text_truncated=texts), tmp_path / "a.parquet")
    entry = {"dataset": str(tmp_path / "a.parquet"), "split": "rl"}
    config = write_inputs(config_of(tmp_path, base, build={"published": [entry], "eval_rows": 12}))
    table = build.PublishedTable(config.build.published[0], config, D)
    ids = [row["doc_id"] for block in table.blocks() for row in block.rows]
    assert ids[0] == ids[1] and len(set(ids)) == 5
    assert "first 64 characters" in table.facts()["doc_id"]


WITH_NULL = [[1.0] * D] * 4 + [None, [1.0] * D]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"activation_layer": [2] * 6}, "activation_layer 2, expected 1"),
        ({"activation_layer": None}, "which layer"),
        ({"activation_vector": [[1.0] * 3] * 6}, "has 3 numbers, expected 64"),
        ({"activation_vector": WITH_NULL}, "row 4: activation_vector is empty; expected a vector"),
        ({"activation_vector": pa.array(WITH_NULL, pa.list_(pa.float32(), D))}, "row 4: activation_vector is empty"),
        ({"activation_vector": [b"pickle"] * 6}, "is a column of binary; .* pickled"),
        ({"activation_vector": None}, "no activation_vector"),
        ({"activation_vector": ["[1.0, 2.0]"] * 6}, "activation_vector is a column of string; expected lists"),
        ({"response": [1] * 6}, "response is a column of int64; expected texts"),
        ({"api_explanation": [["a"]] * 6}, "api_explanation is a column of list.*; expected texts"),
        ({"detokenized_text_truncated": [2.5] * 6}, "detokenized_text_truncated is a column of double"),
        ({"labeler_model": [True] * 6}, "labeler_model is a column of bool"),
        ({"response": None}, "neither api_explanation nor response"),
        ({"doc_id": None, "detokenized_text_truncated": None}, "neither doc_id nor"),
        ({"doc_id": ["none"] * 6, "detokenized_text_truncated": None}, "no text to tell"),
    ],
)
def test_published_tables_of_another_kind_are_refused(base, tmp_path, columns, said):
    pq.write_table(published(**columns), tmp_path / "a.parquet")
    entry = {"dataset": str(tmp_path / "a.parquet"), "split": "av_sft"}
    with pytest.raises(InputError, match=said):
        build.run(write_inputs(config_of(tmp_path, base, build={"published": [entry]})))


def test_a_published_dataset_comes_from_the_hub(base, tmp_path, hub):
    data = io.BytesIO()
    pq.write_table(published(activation_layer=None), data)
    sidecar = yaml.safe_dump({"kind": "nla_dataset", "extraction": {"layer": 1, "d_model": D}})
    files = {"data/train.parquet": data.getvalue(), "data/nla_meta.yaml": sidecar, "evil.py": "raise SystemExit"}
    commit = hub.add("ada/data", files, kind="dataset")
    config = config_of(tmp_path, base, build={"published": [{"dataset": "ada/data", "split": "av_sft"}]})
    build.run(write_inputs(config))
    about = read_sidecar(config.out / "av_sft.parquet")["published"][0]
    assert (about["dataset"], about["commit"]) == ("ada/data", commit)
    assert rows_of(config, "av_sft")[-1]["labeler_model"] == "published:ada/data"
    requests = {request.path for request in hub.requests if request.method == "GET"}
    assert not any(path.endswith("evil.py") for path in requests)
    with pytest.raises(Exception, match="ada/none"):
        build.run(config_of(tmp_path, base, build={"published": [{"dataset": "ada/none", "split": "av_sft"}]}))


# --- the label report -------------------------------------------------------------------------------------------
def naive_copy(text: str, explanation: str) -> int:
    source, written = label_report.words_of(text), label_report.words_of(explanation)
    best = 0
    for i in range(len(source)):
        for j in range(len(written)):
            length = 0
            while source[i + length : i + length + 1] == written[j + length : j + length + 1] != []:
                length += 1
            best = max(best, length)
    return best


sentences = st.lists(st.sampled_from(["cat", "Cat", "dog", "it's", "sat,", "on"]), max_size=12).map(" ".join)


@settings(deadline=None)
@given(sentences, sentences)
def test_the_longest_copy_is_what_trying_all_pairs_finds(text, explanation):
    assert label_report.longest_copy(text, explanation) == naive_copy(text, explanation)


def test_a_quoted_ending_is_no_copy_but_other_quotes_are():
    text = "Once upon a time there lived a small red cat"
    outside = label_report.longest_copy_outside_ending
    assert outside(text, 'It ends in "a small red cat".') == 0
    assert outside(text, 'It begins with "Once upon a time" and ends in “red cat”.') == 4
    assert label_report.longest_copy(text, 'It ends in "a small red cat".') == 4


def test_the_report_counts_what_is_there(built):
    found = json.loads((built.out / "label_report.json").read_text())
    rows = [row for name in SIZES if name != "rl" for row in rows_of(built, name)]
    texts = [row["api_explanation"] for row in rows]
    overall = found["overall"]
    assert overall["labels"] == len(rows) == sum(one["labels"] for one in found["labelers"].values())
    assert set(found["labelers"]) == {"extractive-1", "big-model"}
    assert overall["unique_share"] == pytest.approx(len(set(texts)) / len(texts))
    stems = {" ".join(text.split()[:3]) for text in texts}
    assert overall["opening_stems"]["distinct"] == len(stems)
    top = overall["opening_stems"]["top"][0]
    assert top == {"stem": "extractive says av_sft", "share": pytest.approx(40 / len(rows))}
    assert overall["words"]["histogram"] == {"4": len(rows)}
    copies = sorted(naive_copy(row["detokenized_text_truncated"], row["api_explanation"]) for row in rows)
    assert overall["longest_copy_words"]["max"] == copies[-1]
    assert overall["longest_copy_words"]["median"] == copies[(len(copies) - 1) // 2]
    assert overall["tokens"] == 7 * len(rows) and overall["cost_usd"] == 0.5 * len(rows)
    assert found["dropped"]["av_sft.parquet"]["rejected"] == 1
    picture = (built.out / "label_report.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_a_published_column_that_arrow_cannot_read_is_explained(base, tmp_path, monkeypatch):
    def unreadable(*_, **__):  # as Arrow says it of DuckDB's FLOAT[n] with a NULL
        raise pa.ArrowInvalid("Length spanned by list offsets (8) larger than values array (length 6)")
        yield

    pq.write_table(published(), tmp_path / "a.parquet")
    entry = {"dataset": str(tmp_path / "a.parquet"), "split": "rl"}
    config = write_inputs(config_of(tmp_path, base, build={"published": [entry], "eval_rows": 12}))
    table = build.PublishedTable(config.build.published[0], config, D)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", unreadable)
    with pytest.raises(InputError, match=r"a.parquet is not a readable parquet file.*cast the column to FLOAT\[\]"):
        list(table.blocks())


def test_published_rows_that_are_no_text_or_have_a_token_without_embedding_are_dropped_by_name(base, tmp_path):
    more = tmp_path / "more"
    shutil.copytree(base, more)
    tokens = tiny.tokenizer()
    tokens.add_tokens(["<image_soft_token>"])
    tokens.save_pretrained(more)
    texts = ["published text 0", "a\0b", "\ufeffc", *(f"published text {at}" for at in range(3, 6))]
    labels = ["fine 0.", "fine 1.", "fine 2.", "a\0b", "an <image_soft_token>", "fine 5."]
    table = published(detokenized_text_truncated=texts, response=None, api_explanation=labels)
    pq.write_table(table, tmp_path / "a.parquet")
    for split, kept in (("av_sft", ["fine 0."]), ("ar_sft", ["fine 0."])):
        entry = {"dataset": str(tmp_path / "a.parquet"), "split": split}
        config = config_of(tmp_path / split, more, build={"published": [entry], "eval_rows": 12})
        build.run(write_inputs(config))
        added = rows_of(config, split)
        assert [row["api_explanation"] for row in added if "published" in row["labeler_model"]] == kept
        drops = read_sidecar(config.out / f"{split}.parquet")["drops"]
        assert (drops["nul"], drops["byte_order_mark"], drops["no_embedding"]) == (2, 1, 1)


def test_a_marker_without_an_embedding_stops_the_build_before_any_row(base, tmp_path):
    more = tmp_path / "more"
    shutil.copytree(base, more)
    tokens = tiny.tokenizer()
    tokens.add_tokens(["<image_soft_token>"])
    tokens.save_pretrained(more)
    config = config_of(tmp_path, more).model_copy(update={"marker": "<image_soft_token>"})
    with pytest.raises(ContractMismatchError, match="the AV prompt holds .*no embedding"):
        build.run(write_inputs(config))
