"""Splitting by document: nothing crosses, ids must be usable, copies of a text do not leak."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nla_sdk.errors import ChunkError, InputError
from nla_sdk.io.files import sha256_of
from nla_sdk.io.sidecars import read_sidecar
from tests.data.test_extract import config_of
from training.configs.config import Config
from training.configs.data import Held, Split
from training.data import split
from training.data.reading import row_id, schema
from training.data.tables import splits

D = 4


def table(rows: list[tuple[str, str]], families: Sequence[str | None] | None = None) -> pa.Table:
    """An activations table of (doc_id, text) rows."""
    families = families or [None] * len(rows)
    vectors = np.random.default_rng(len(rows)).normal(size=(len(rows), D)).astype(np.float32)
    return pa.Table.from_pylist(
        [
            {
                "row_id": row_id(doc or "", 9, text),
                "doc_id": doc,
                "n_raw_tokens": 9,
                "activation_layer": 1,
                "activation_vector": vector.tolist(),
                "activation_norm": 1.0,
                "detokenized_text_truncated": text,
                "source_family": family,
                "next_tokens": [],
            }
            for (doc, text), vector, family in zip(rows, vectors, families, strict=True)
        ],
        schema=schema(D),
    )


def config_with(folder: Path, rows: list[tuple[str, str]], *, group: int = 32, **shares) -> Config:
    config = config_of(folder, folder, folder).model_copy(update={"split": Split(**shares)})
    config.out.mkdir(parents=True)
    pq.write_table(table(rows), config.activations, row_group_size=group)
    return config


MANY = [(f"doc{i // 4}", f"text {i}") for i in range(600)]


def test_no_document_crosses_and_every_row_is_somewhere(tmp_path):
    config = config_with(tmp_path, MANY)
    folder = split.run(config)
    found = {name: pq.read_table(folder / f"{name}.parquet") for name in config.split.names}
    documents = {name: set(part["doc_id"].to_pylist()) for name, part in found.items()}
    assert all(documents.values())
    assert sum(map(len, documents.values())) == len({doc for doc, _ in MANY}) == len(set().union(*documents.values()))
    texts = Counter(text for part in found.values() for text in part["detokenized_text_truncated"].to_pylist())
    assert texts == Counter(text for _, text in MANY)
    for name, part in found.items():
        assert len(part) / len(MANY) == pytest.approx(getattr(config.split, name), abs=0.08)
        about = read_sidecar(folder / f"{name}.parquet")
        assert about["split"] == name and about["rows"] == len(part)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=20), st.integers(0, 5))
def test_the_split_of_a_document_depends_on_its_id_and_the_seed_only(ids, seed):
    shares = Split()
    alone = [splits.split_of(doc_id, shares, seed) for doc_id in ids]
    assert alone == [splits.split_of(doc_id, shares, seed) for doc_id in ids[::-1]][::-1]
    assert set(alone) <= {*splits.SPLITS, None}


def test_raising_a_later_share_never_moves_a_document_into_or_out_of_eval():
    ids = [f"d{i}" for i in range(500)]
    few, many = Split(av_sft=0.2, ar_sft=0.1, rl=0.0), Split(av_sft=0.6, ar_sft=0.2, rl=0.1)
    assert [splits.split_of(i, few) == "eval" for i in ids] == [splits.split_of(i, many) == "eval" for i in ids]


# --- families and validation --------------------------------------------------------------------------------------
def shares(whole: Sequence[int], families: dict[str, tuple[int, int]], left_out: int = 0) -> Split:
    """`Split` of whole numbers: the five shares in their order, and eval and validation of each family in percent."""
    total = sum(whole) + left_out
    names = ("eval", "validation", "av_sft", "ar_sft", "rl")
    held = {family: {"eval": one / 100, "validation": two / 100} for family, (one, two) in families.items()}
    return Split(**{name: part / total for name, part in zip(names, whole, strict=True)}, families=held)


ANY = st.builds(
    shares,
    st.tuples(*[st.integers(1, 9)] * 5),
    st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(0, 60), st.integers(0, 40)), max_size=3),
    st.integers(0, 9),
)
FAMILY = st.sampled_from(["a", "b", "c", "other", None])


@given(ANY, st.lists(st.text(min_size=1), min_size=1, max_size=20), FAMILY, st.integers(0, 5))
def test_what_is_held_out_in_any_family_is_known_without_the_family(given_shares, ids, family, seed):
    for doc_id in ids:
        held_out = splits.split_of(doc_id, given_shares, seed, family) in splits.HELD_OUT
        assert splits.is_held_out(doc_id, given_shares, seed) or not held_out
        everywhere = [splits.split_of(doc_id, given_shares, seed, one) for one in (*given_shares.families, None)]
        assert splits.is_held_out(doc_id, given_shares, seed) == any(one in splits.HELD_OUT for one in everywhere)


@given(ANY, FAMILY)
def test_the_rest_of_a_family_is_divided_as_the_rest_of_all(given_shares, family):
    found = given_shares.of_family(family)
    left = given_shares.av_sft + given_shares.ar_sft + given_shares.rl
    unused = 1 - given_shares.eval - given_shares.validation - left
    rest = 1 - found["eval"] - found["validation"]
    for name in ("av_sft", "ar_sft", "rl"):
        assert found[name] == pytest.approx(rest * getattr(given_shares, name) / (left + unused), abs=1e-12)


@given(ANY, st.lists(st.text(min_size=1), min_size=1, max_size=20), st.integers(0, 60), st.integers(0, 40))
def test_what_was_held_out_stays_held_out_when_a_familys_share_of_eval_grows(given_shares, ids, percent, more):
    few = given_shares.model_copy(update={"families": {"a": Held(eval=percent / 100, validation=0.0)}})
    many = given_shares.model_copy(update={"families": {"a": Held(eval=(percent + more) / 100, validation=0.0)}})
    for doc_id in ids:
        if splits.split_of(doc_id, few, 0, "a") == "eval":
            assert splits.split_of(doc_id, many, 0, "a") == "eval"


def test_validation_takes_no_document_from_eval():
    ids = [f"d{i}" for i in range(500)]
    before = Split(eval=0.1, av_sft=0.5, ar_sft=0.25, rl=0.15)
    now = Split(eval=0.1, validation=0.1, av_sft=0.4, ar_sft=0.25, rl=0.15)
    for one in ids:
        assert (splits.split_of(one, before) == "eval") == (splits.split_of(one, now) == "eval")
    assert Counter(splits.split_of(one, now) for one in ids)["validation"] == pytest.approx(50, abs=20)


def test_a_familys_documents_are_split_by_its_own_shares_and_none_is_in_two_splits(tmp_path, capsys):
    families = ["code" if int(doc.removeprefix("doc")) % 3 == 0 else None for doc, _ in MANY]
    config = config_with(tmp_path, MANY, validation=0.1, av_sft=0.38, families={"code": Held(eval=0.6), "law": Held()})
    pq.write_table(table(MANY, families), config.activations, row_group_size=32)
    folder = split.run(config)
    assert "has no row of the families law of split.families; it has: code" in capsys.readouterr().err
    found = {name: pq.read_table(folder / f"{name}.parquet") for name in config.split.names}
    documents = {name: set(part["doc_id"].to_pylist()) for name, part in found.items()}
    assert sum(map(len, documents.values())) == len(set().union(*documents.values())) == 150
    code = {doc for (doc, _), family in zip(MANY, families, strict=True) if family}
    assert len(documents["eval"] & code) / len(code) == pytest.approx(0.6, abs=0.15)
    assert len(documents["eval"] - code) / (150 - len(code)) == pytest.approx(0.1, abs=0.07)


def test_a_document_of_two_families_with_different_shares_is_refused_and_named(tmp_path):
    families = ["code" if at == 21 else "prose" for at in range(len(MANY))]
    config = config_with(tmp_path, MANY, families={"code": Held(eval=0.6)})
    pq.write_table(table(MANY, families), config.activations, row_group_size=32)
    with pytest.raises(InputError, match="Document 'doc5' has rows of the families 'prose' and 'code'"):
        split.run(config)
    alike = config.model_copy(update={"split": Split(families={"code": Held(), "law": Held(eval=0.6)})})
    split.run(alike)
    shutil.rmtree(config.out / "split")
    pq.write_table(table(MANY).drop_columns(["source_family"]), config.activations)
    with pytest.raises(InputError, match="has no column source_family, by which split.families has shares"):
        split.run(config)


def test_a_config_with_four_shares_has_no_validation_and_depends_on_what_it_did(tmp_path):
    old = {"eval": 0.1, "av_sft": 0.5, "ar_sft": 0.25, "rl": 0.15}
    assert Split(**old).facts() == old and "validation" not in Split(**old).names
    assert Split().validation == 0.05 and Split(families={"code": Held()}).validation == 0.05
    assert Split(**old, families={"code": Held(validation=0.1)}).names[:2] == ["eval", "validation"]
    with pytest.raises(ValidationError, match="of the family code add up to 1.1"):
        Split(families={"code": Held(eval=0.8, validation=0.3)})


def test_a_table_of_a_split_that_is_no_more_is_not_left_to_be_read(tmp_path):
    config = config_with(tmp_path, MANY, validation=0.1, av_sft=0.3)
    made = split.run(config) / "validation.parquet"
    without = config.model_copy(update={"split": Split(validation=0.0)})
    with pytest.raises(ChunkError, match=r"validation.parquet exists and was made with other settings"):
        split.run(without)
    split.run(without, overwrite=True)
    assert not made.exists() and not list(made.parent.glob("validation*"))


def test_a_text_that_came_before_is_dropped_whatever_its_document(tmp_path):
    config = config_with(tmp_path, [*MANY, *(("copy" + doc, text) for doc, text in MANY[:40])])
    folder = split.run(config)
    texts = [
        text
        for name in splits.SPLITS
        for text in pq.read_table(folder / f"{name}.parquet")["detokenized_text_truncated"].to_pylist()
    ]
    assert len(texts) == len(set(texts)) == len(MANY)
    assert read_sidecar(folder / "eval.parquet")["drops"]["duplicate_text"] == 40


@pytest.mark.parametrize("bad", [None, "", "  ", "None", "nan", "unknown"])
def test_a_row_without_a_usable_doc_id_is_refused_and_named(tmp_path, bad):
    rows = [*MANY[:5], (bad, "orphan"), *MANY[5:]]
    with pytest.raises(InputError, match=r"row 5: doc_id is .*names no document"):
        split.run(config_with(tmp_path, rows))
    assert not (tmp_path / "out" / "split").exists()


def test_one_document_or_no_column_at_all_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match=r"1 document\(s\) in 3 rows: nothing is left to hold out"):
        split.run(config_with(tmp_path / "a", [("d", "x"), ("d", "y"), ("d", "z")]))
    config = config_with(tmp_path, MANY)
    pq.write_table(table(MANY).drop_columns(["doc_id"]), config.activations)
    with pytest.raises(InputError, match="has no doc_id column"):
        split.run(config)


def test_a_split_that_gets_no_row_is_refused(tmp_path):
    with pytest.raises(InputError, match="fell into the split .*: use more documents, or a larger share"):
        split.run(config_with(tmp_path, MANY[:12], eval=0.001))


def test_shares_over_one_are_refused():
    with pytest.raises(ValidationError, match="add up to 1.5"):
        Split(eval=0.5, av_sft=0.5, ar_sft=0.5, rl=0.0)


def test_missing_activations_name_the_command(tmp_path):
    with pytest.raises(InputError, match=r"run `python -m training.data.extract` first"):
        split.run(config_of(tmp_path, tmp_path, tmp_path))


@pytest.mark.parametrize("dies_at", [1, 10])
def test_a_killed_split_ends_in_the_same_bytes(tmp_path, monkeypatch, dies_at):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    rows = [*MANY, *(("copy" + doc, text) for doc, text in MANY[100:180])]
    expected = split.run(config_with(tmp_path / "a", rows))
    config, real, calls = config_with(tmp_path / "b", rows), split.Chunks.write, []

    def dying(self, *arguments):
        calls.append(1)
        if len(calls) == dies_at:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(split.Chunks, "write", dying)
        split.run(config)
    made = split.run(config)
    assert {name: sha256_of(made / f"{name}.parquet") for name in splits.SPLITS} == {
        name: sha256_of(expected / f"{name}.parquet") for name in splits.SPLITS
    }


def test_tables_of_other_shares_are_not_overwritten(tmp_path):
    config = config_with(tmp_path, MANY)
    split.run(config)
    other = config.model_copy(update={"split": Split(av_sft=0.3)})
    with pytest.raises(ChunkError, match="Nothing is overwritten"):
        split.run(other)
    split.run(other, overwrite=True)


def test_a_run_that_ended_before_its_copies_were_made_makes_them(tmp_path):
    config = config_with(tmp_path, MANY)
    split.run(config)
    shutil.rmtree(config.results)
    split.run(config)
    assert {path.name for path in config.results.rglob("*.parquet")} == {f"{name}.parquet" for name in splits.SPLITS}


def test_rows_that_are_no_text_are_dropped_and_counted_and_a_null_is_named(tmp_path):
    broken = [("doc1", "a\0b"), ("doc2", "\ufeffc"), ("doc2", "\ufeffc")]
    config = config_with(tmp_path / "a", [*MANY, *broken])
    split.run(config)
    assert read_sidecar(config.out / "split" / "eval.parquet")["drops"] == {
        "byte_order_mark": 1,
        "duplicate_text": 1,
        "in_no_split": 0,
        "nul": 1,
    }
    config = config_with(tmp_path / "b", MANY)
    rows = table(MANY)
    texts = rows["detokenized_text_truncated"].to_pylist()
    texts[41] = None
    place = rows.column_names.index("detokenized_text_truncated")
    rows = rows.set_column(place, "detokenized_text_truncated", pa.array(texts, pa.string()))
    pq.write_table(rows, config.activations, row_group_size=32)
    with pytest.raises(InputError, match="row 41: detokenized_text_truncated is null; expected a text"):
        split.run(config)
    pq.write_table(rows.drop_columns(["detokenized_text_truncated"]), config.activations)
    with pytest.raises(InputError, match="has no column detokenized_text_truncated"):
        split.run(config)
