"""Held-out tables of every shape: one row per activation, named so that none is lost or taken for another."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nla_sdk.errors import InputError
from nla_sdk.evaluation.schema import EVALUATION
from tests.evaluate.planted import FEW, D, Oracle, PlantedPair, evaluate, table
from training.evaluate import heldout
from training.evaluate.verify import verify


def written(path, **columns):
    """A table of eight random activations of four documents with these columns beside."""
    vectors = np.random.default_rng(0).normal(size=(8, D)).astype(np.float32)
    found = {"doc_id": [f"d{at // 2}" for at in range(8)], "activation_vector": list(vectors), **columns}
    kinds = {"activation_vector": pa.list_(pa.float32(), D)}
    arrays = {name: pa.array(values, kinds.get(name)) for name, values in found.items()}
    pq.write_table(pa.table(arrays), path)
    return path


def test_row_ids_that_count_within_documents_lose_no_row(tmp_path):
    found = heldout.read(written(tmp_path / "h.parquet", row_id=[str(at % 2) for at in range(8)]), None)
    assert found.row_ids == [f"d{at // 2}:{at % 2}" for at in range(8)]
    unique = heldout.read(written(tmp_path / "u.parquet", row_id=[f"r{at}" for at in range(8)]), None)
    assert unique.row_ids == [f"r{at}" for at in range(8)], "unique ones stay as they are"


def test_two_vectors_under_one_row_id_are_refused(tmp_path):
    with pytest.raises(InputError, match="two different vectors for row_id 'same' of document 'd0'"):
        heldout.read(written(tmp_path / "h.parquet", row_id=["same"] * 8), None)


def test_a_null_vector_is_a_row_that_fails(tmp_path):
    data = table(tmp_path / "heldout.parquet", documents=12)
    rows = pq.read_table(data)
    values = rows["activation_vector"].to_pylist()
    values[3] = None
    at = rows.column_names.index("activation_vector")
    for kind, name in ((pa.list_(pa.float32(), D), "fixed"), (pa.list_(pa.float32()), "variable")):
        pq.write_table(rows.set_column(at, "activation_vector", pa.array(values, kind)), tmp_path / f"{name}.parquet")
        known = Oracle(data)
        pair = PlantedPair(tmp_path / name, known.say, known.hear)
        found = evaluate(pair, tmp_path / f"{name}.parquet", tmp_path / name / "out", FEW)
        assert (found.round_trip.failed, found.round_trip.evaluated) == (1, 23)
        assert np.isnan(heldout.read(tmp_path / f"{name}.parquet", None).vectors[3]).all()
        verify(tmp_path / name / "out" / EVALUATION, data=tmp_path / f"{name}.parquet")


def test_labels_that_were_rejected_are_no_true_labels(tmp_path):
    status = ["accepted", "repaired", "rejected", "failed", "none", None, "accepted", "rejected"]
    labels = [f"label {at}" for at in range(8)]
    found = heldout.read(written(tmp_path / "h.parquet", api_explanation=labels, label_status=status), None)
    assert found.labels == ["label 0", "label 1", "", "", "", "label 5", "label 6", ""]
    none = heldout.read(written(tmp_path / "n.parquet", api_explanation=labels, label_status=["failed"] * 8), None)
    assert none.labels is None


def test_the_statuses_that_count_are_those_that_are_trained_on():
    from training.data.tables.columns import USABLE

    assert set(heldout.USABLE) == {None, *USABLE}


def test_of_two_labelers_the_first_that_was_not_rejected_counts(tmp_path):
    one = pq.read_table(written(tmp_path / "a.parquet", row_id=[f"r{at}" for at in range(8)]))
    tables = []
    for name, status in (("bad", "rejected"), ("good", "accepted"), ("later", "accepted")):
        more = one.append_column("api_explanation", pa.array([f"{name} {at}" for at in range(8)]))
        tables.append(more.append_column("label_status", pa.array([status] * 8)))
    pq.write_table(pa.concat_tables(tables), tmp_path / "h.parquet")
    found = heldout.read(tmp_path / "h.parquet", None)
    assert found.labels == [f"good {at}" for at in range(8)] and found.row_ids == [f"r{at}" for at in range(8)]


def test_vectors_of_several_widths_are_refused(tmp_path):
    pq.write_table(pa.table({"doc_id": ["a", "b"], "activation_vector": [[1.0], [1.0, 2.0]]}), tmp_path / "h.parquet")
    with pytest.raises(InputError, match="vectors of 1, 2 numbers; expected one width"):
        heldout.read(tmp_path / "h.parquet", None)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"api_explanation": ["fine"] * 6 + ["a\0b", None]}, "row 6: api_explanation holds a NUL"),
        (
            {"detokenized_text_truncated": ["fine", "\ufeffa"] * 4},
            "row 1: detokenized_text_truncated holds a byte order",
        ),
        ({"api_explanation": [1] * 8}, "api_explanation is a column of int64; expected texts"),
        ({"detokenized_text_truncated": [["a"]] * 8}, "detokenized_text_truncated is a column of list"),
    ],
)
def test_texts_and_labels_that_are_none_are_named_before_anything_is_measured(tmp_path, columns, says):
    with pytest.raises(InputError, match=f"h.parquet.*{says}"):
        heldout.read(written(tmp_path / "h.parquet", **columns), None)


def test_a_folder_and_a_column_of_numbers_written_out_are_no_activations(tmp_path):
    with pytest.raises(InputError, match="is a folder; expected a parquet table"):
        heldout.read(tmp_path, None)
    vectors = pa.array(["[1.0, 2.0]"] * 8)
    pq.write_table(pa.table({"doc_id": ["a"] * 8, "activation_vector": vectors}), tmp_path / "s.parquet")
    with pytest.raises(InputError, match="activation_vector is a column of string; expected lists of float32"):
        heldout.read(tmp_path / "s.parquet", None)
