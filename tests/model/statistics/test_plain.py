"""What shows of captured activations without statistics: cut off, padding, sinks, a mean that is not the pair's."""

from __future__ import annotations

import warnings
from importlib import resources

import pyarrow.parquet as pq
import pytest
import torch

from nla_sdk import ActivationMean
from nla_sdk.errors import NonFiniteActivationError, SuspectActivationsWarning
from nla_sdk.io.tables import read_vectors
from nla_sdk.model.statistics.plain import ENOUGH, HALF_MAX, PADDED, look
from nla_sdk.model.weights.files import read_tensors
from tests import tiny

MEAN = 5 * tiny.random(tiny.D_MODEL, seed=1)
RIGHT = MEAN + tiny.random(16, tiny.D_MODEL, seed=2)
KNOWN = ActivationMean(MEAN, 8.0)  # √64: the length of what RIGHT has over it


def test_right_rows_are_passed_in_silence():
    assert look(RIGHT) is None and look(RIGHT, KNOWN) is None
    assert look(RIGHT[:1]) is None and look(RIGHT[:1].expand(4, -1)) is None, "one vector, repeated on purpose"


def test_rows_cut_off_at_the_largest_float16_are_named():
    rows = RIGHT.clone()
    rows[3, 7], rows[9, 0] = HALF_MAX, -HALF_MAX
    report = look(rows)
    assert report.verdict == "suspect" and "65504" in report.cause
    assert [row for row, _ in report.rows] == [3, 9]


def test_infinity_is_refused_with_its_reason(pair):
    rows = RIGHT.clone()
    rows[3, 7] = torch.inf
    with pytest.raises(NonFiniteActivationError, match="row 3 holds NaN or infinity.*float16 extraction overflows"):
        pair.explain(rows)


def test_rows_that_equal_their_neighbours_are_padding():
    rows = torch.cat([RIGHT[:1].expand(3, -1), RIGHT[1:6], RIGHT[7:8].expand(2, -1)])
    report = look(rows)
    assert [row for row, _ in report.rows] == [0, 1, 2, 8, 9] and "padding" in report.cause


def test_a_row_far_longer_than_an_activation_is_a_sink():
    rows = RIGHT.clone()
    rows[4] *= 20
    report = look(rows, KNOWN)
    assert [row for row, _ in report.rows] == [4] and "attention sinks" in report.cause
    assert look(rows) is None, "without a length to compare with nothing is said"


@pytest.mark.parametrize("wrong", [RIGHT - MEAN, RIGHT - 2 * MEAN, RIGHT[:, torch.arange(tiny.D_MODEL).flip(0)]])
def test_a_batch_whose_mean_is_not_the_pairs_is_told(wrong):
    report = look(wrong, KNOWN)
    assert report.verdict == "suspect" and "another layer or model, or a mean has been subtracted" in report.cause
    assert look(wrong[: ENOUGH - 1], KNOWN) is None, "of few rows the mean says little"


def test_where_activations_lie_far_from_their_mean_it_says_nothing():
    assert look(tiny.random(16, tiny.D_MODEL, seed=5), ActivationMean(MEAN, 1000.0)) is None


def test_no_right_batch_of_the_demo_is_suspected_and_its_early_layers_would_be():
    demo = resources.files("nla_sdk") / "demo"
    rows = torch.from_numpy(read_vectors(pq.read_table(str(demo / "heldout.parquet"))).copy())
    [vector] = read_tensors(demo / "av" / "activation_mean.safetensors", ValueError).values()
    mean = ActivationMean(vector, 5837.1)
    assert not [at for at in range(0, len(rows), 8) if look(rows[at : at + 8], mean)]
    assert not [at for at in range(len(rows)) if look(rows[at : at + 1], mean)]
    assert look(rows[:8] - vector, mean).verdict == "suspect"


def test_a_centred_pair_without_statistics_is_told_by_its_mean(lora_pair, monkeypatch):
    from nla_sdk import NLAPair

    pair = lora_pair("centred")
    monkeypatch.setattr(NLAPair, "activation_statistics", lambda self, **_: (None, "none"))
    mean = pair.verbalizer.mean
    right = mean + tiny.random(16, tiny.D_MODEL, seed=3)
    assert pair.check_activations(right).verdict == "unknown"
    with warnings.catch_warnings():
        warnings.simplefilter("error", SuspectActivationsWarning)
        pair.explain(right, max_new_tokens=1)
    with pytest.warns(SuspectActivationsWarning, match="another layer or model"):
        pair.explain(right - mean, max_new_tokens=1)
    with pytest.warns(SuspectActivationsWarning, match=r"row 2 \(cut off at 65504\)"):
        pair.explain(right.index_put((torch.tensor(2), torch.tensor(1)), torch.tensor(HALF_MAX)), max_new_tokens=1)


def test_what_statistics_tell_of_other_rows_stands_beside_it(pair):
    assert pair.activation_statistics(wait=True)[0] is not None
    text = "A kettle sang while two ships left the harbour for the west."
    read = pair.extract(text, "all").vectors
    padded = torch.cat([read[-1:].expand(3, -1), read])
    report = pair.check_activations(padded)
    assert dict(report.rows).items() >= {0: PADDED, 1: PADDED, 2: PADDED}.items()
    others = pair.check_activations(read)
    assert {row - 3 for row, _ in report.rows} >= {row for row, _ in others.rows}
