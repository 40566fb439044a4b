"""Where activations were read, as rows and sidecars say, against what a pair reads."""

import warnings

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nla_sdk.errors import ForeignActivationError, ForeignActivationWarning, PrecisionWarning
from nla_sdk.io.origins import Origin, check_origin, common, facts_of_rows

COMMITS = ("a" * 40, "b" * 40)
PAIR = Origin(2, "owner/base", COMMITS[0], "float32", trained="float32")


def held(force=False, pair=PAIR, **facts):
    check_origin([("row 7", facts)], pair, "acts.parquet", force=force)


@pytest.mark.parametrize(
    "facts",
    [
        {"layer": 0},
        {"layer": 3},
        {"layer": "2b"},
        {"model": "owner/other"},
        {"model": "other/base"},
        {"revision": COMMITS[1]},
        {"precision": "nf4"},
        {"precision": "int8"},
        {"layer": 2, "model": "owner/other", "precision": "float32"},
    ],
)
def test_another_layer_model_commit_or_quantisation_is_refused_with_both_named(facts):
    with pytest.raises(ForeignActivationError, match=r"row 7.*this pair reads.*--force"):
        held(**facts)
    with pytest.warns(ForeignActivationWarning, match="Taken all the same"):
        held(force=True, **facts)


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"layer": None, "model": None, "revision": None, "precision": None},
        {"layer": 2, "model": "Owner/Base", "revision": COMMITS[0], "precision": "torch.float32"},
        {"revision": "main"},
        {"model": "/home/ada/models/base"},
        {"precision": "fp32"},
    ],
)
def test_what_is_the_same_or_not_said_passes_in_silence(facts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held(**facts)


def test_another_full_precision_is_warned_of():
    with pytest.warns(PrecisionWarning, match="bfloat16.*float32"):
        held(precision="bfloat16")


def test_rows_at_the_precision_that_the_source_runs_at_pass_though_the_pair_was_trained_at_another():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held(pair=Origin(2, "owner/base", None, "nf4", trained="float32"), precision="nf4")


def test_a_copy_of_a_folder_is_the_same_model_and_another_folder_is_not(tmp_path):
    for name, text in (("a", "{}"), ("b", "{}"), ("c", '{"other": 1}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
        (tmp_path / name / "model.safetensors").write_bytes(b"x" * 8)
    pair = Origin(2, str(tmp_path / "a"))
    held(pair=pair, model=str(tmp_path / "b"))
    with pytest.raises(ForeignActivationError):
        held(pair=pair, model=str(tmp_path / "c"))


@settings(deadline=None)
@given(st.lists(st.sampled_from([None, 0, 1, 2, 3]), min_size=1, max_size=30), st.integers(0, 100))
def test_a_table_is_refused_exactly_if_a_row_is_of_another_layer_and_its_first_such_row_is_named(layers, first):
    table = pa.table({"activation_layer": pa.array(layers, pa.int32())})
    wrong = [first + at for at, layer in enumerate(layers) if layer not in (None, 2)]
    if not wrong:
        check_origin(facts_of_rows(table, first), PAIR, "t")
        return
    with pytest.raises(ForeignActivationError, match=rf"rows? {wrong[0]}\b"):
        check_origin(facts_of_rows(table, first), PAIR, "t")


def test_what_rows_agree_in_is_said_and_what_they_do_not_is_left_out():
    table = pa.table({"activation_layer": [1, 1], "activation_model": ["a/b", "a/c"]})
    assert common(facts_of_rows(table)) == Origin(layer=1)


@pytest.mark.parametrize(
    ("found", "refused"), [("12", False), (" 12 ", False), (12.0, False), ("11", True), ("x", True)]
)
def test_a_layer_written_as_text_is_compared_by_its_number(found, refused):
    assert Origin(layer=12).refuses("layer", found) == refused
