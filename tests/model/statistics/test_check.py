"""A batch of vectors that is not what the pair reads is told by its looks, with the likely cause."""

import warnings

import pytest
import torch

from nla_sdk.errors import SuspectActivationsWarning
from nla_sdk.model.statistics import check as checking
from tests import tiny

TEXT = "A kettle sang on the stove while the old dog slept, and nobody in the room thought of the time."


@pytest.fixture(scope="module")
def rows(lora_pair):
    """[states] of one text by the plain pair: every block's, BOS left out."""
    pair = lora_pair("shared")
    return [pair.extract(TEXT, "all", layer).vectors for layer in range(pair.source.num_blocks)]


def test_right_activations_pass_in_silence(pair, rows):
    assert pair.check_activations(rows[pair.layer][1:]).verdict == "ok"
    with warnings.catch_warnings():
        warnings.simplefilter("error", SuspectActivationsWarning)
        pair.explain(rows[pair.layer][1:3], max_new_tokens=1)


@pytest.mark.parametrize("off", [-1, 1])
def test_a_layer_off_by_one_is_named(pair, rows, off):
    report = pair.check_activations(rows[pair.layer + off][1:17])
    assert report.looks_like == f"block {pair.layer + off}"
    assert "off by one" in report.cause
    assert f"hidden_states[{pair.layer + 1}]" in report.cause


def test_every_other_layer_is_suspect(pair, rows):
    others = [layer for layer in range(len(rows)) if layer != pair.layer]
    assert {pair.check_activations(rows[layer][1:17]).looks_like for layer in others} == {
        f"block {layer}" for layer in others
    }


def test_explain_and_round_trip_warn_and_force_is_silent(pair, rows):
    wrong = rows[pair.layer - 1][1:17]
    with pytest.warns(SuspectActivationsWarning, match="off by one"):
        pair.explain(wrong, max_new_tokens=1)
    with pytest.warns(SuspectActivationsWarning, match="off by one"):
        pair.round_trip(wrong, max_new_tokens=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SuspectActivationsWarning)
        pair.explain(wrong, max_new_tokens=1, force=True)
        pair.round_trip(wrong, max_new_tokens=1, force=True)


def test_a_bos_row_among_right_ones_is_named_by_its_number(pair, rows):
    report = pair.check_activations(torch.cat([rows[pair.layer][1:9], rows[pair.layer][:1], rows[pair.layer][9:16]]))
    assert [row for row, _ in report.rows] in ([8], []) and report.verdict in ("suspect", "ok")


def test_directions_are_no_activations(pair):
    report = pair.check_activations(tiny.random(16, tiny.D_MODEL, seed=8, scale=0.01))
    assert report.verdict == "suspect"
    assert report.cause.startswith("they look like directions") or "another" in report.cause


def test_without_statistics_and_without_a_base_in_memory_nothing_is_known(full_pair):
    assert full_pair.base.in_memory is None
    report = full_pair.check_activations(tiny.random(4, full_pair.d_model, seed=2))
    assert (report.verdict, report.ok) == ("unknown", True)
    assert "not loaded" in report.cause
    assert full_pair.base.in_memory is None


def test_statistics_are_measured_once_for_a_base(lora_folders, monkeypatch):
    from nla_sdk import NLAPair
    from nla_sdk.halves import measured

    first = NLAPair.from_pretrained(lora_folders["shared"])
    first.check_activations(tiny.random(1, tiny.D_MODEL, seed=1))
    monkeypatch.setattr(measured, "measure", lambda *_: pytest.fail("measured twice"))
    NLAPair.from_pretrained(lora_folders["shared"]).check_activations(tiny.random(1, tiny.D_MODEL, seed=1))


def test_the_bundled_pair_is_checked_on_its_held_out_rows_without_its_base():
    """The statistics are shipped: 416 right vectors are never suspect, and moved ones are."""
    from importlib import resources

    import pyarrow.parquet as pq

    from nla_sdk.io.tables import read_vectors
    from nla_sdk.model.statistics.states import STATISTICS_FILE, ActivationStatistics

    demo = resources.files("nla_sdk") / "demo"
    vectors = torch.from_numpy(read_vectors(pq.read_table(str(demo / "heldout.parquet"))).copy())
    statistics = ActivationStatistics.load(demo / STATISTICS_FILE)
    verdicts = [checking.check(statistics, vectors[at : at + 16]).verdict for at in range(0, len(vectors), 16)]
    assert verdicts.count("suspect") == 0
    centred = checking.check(statistics, vectors[:16] - statistics.mean)
    assert "mean had been subtracted" in centred.cause
    unit = vectors[:16] / vectors[:16].norm(dim=-1, keepdim=True)
    assert "normalised" in checking.check(statistics, unit).cause
