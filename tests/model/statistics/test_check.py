"""A batch of vectors that is not what the pair reads is told by its looks, with the likely cause."""

import warnings

import pytest
import torch

from nla_sdk import NLAPair
from nla_sdk.errors import ForeignActivationError, ForeignActivationWarning, SuspectActivationsWarning
from nla_sdk.model.statistics import check as checking
from nla_sdk.model.statistics.measure import _discriminants
from nla_sdk.model.statistics.states import ActivationStatistics, describe
from tests import tiny

STATES = ("embedding", *(f"block {block}" for block in range(tiny.GEMMA_BLOCKS)), "final norm", "no BOS", "BOS")
LAYER = 4


def planted(state: str, count: int, seed: int) -> torch.Tensor:
    """Rows of a state: its own centre and what all states share."""
    centre = tiny.random(tiny.D_MODEL, seed=100 + STATES.index(state), scale=0.6) + tiny.random(tiny.D_MODEL, seed=99)
    return 50 * (centre + tiny.random(count, tiny.D_MODEL, seed=seed, scale=0.3))


@pytest.fixture(scope="module")
def statistics() -> ActivationStatistics:
    rows = {state: planted(state, 500, seed=at) for at, state in enumerate(STATES)}
    projection, centres = _discriminants([{state: describe(found) for state, found in rows.items()}], STATES)
    own = rows[f"block {LAYER}"]
    norms = own.norm(dim=-1).log().quantile(torch.tensor([0.01, 0.5, 0.99]))
    facts = {"base_model": "b", "layer": LAYER, "precision": "float32", "states": STATES, "log_norm": norms}
    return ActivationStatistics(
        **facts,
        projection=projection.float(),
        centres=centres.float(),
        mean=own.mean(0),
        thresholds=torch.zeros(5),
        certain=10.0,
        far=400.0,
    )


@pytest.fixture
def told(pair, statistics, monkeypatch):
    """The pair, with planted statistics."""
    assert pair.layer == LAYER
    monkeypatch.setattr(pair, "_statistics", statistics)
    return pair


def test_right_activations_pass_in_silence(told):
    right = planted("block 4", 16, seed=50)
    assert told.check_activations(right).verdict == "ok"
    with warnings.catch_warnings():
        warnings.simplefilter("error", SuspectActivationsWarning)
        told.explain(right[:2], max_new_tokens=1)


@pytest.mark.parametrize("state", [state for state in STATES if state != "block 4"])
def test_every_other_state_is_named(told, state):
    report = told.check_activations(planted(state, 16, seed=51))
    assert (report.verdict, report.looks_like) == ("suspect", state)
    if state in ("block 3", "block 5"):
        assert "off by one" in report.cause
        assert "hidden_states[5]" in report.cause


def test_explain_and_round_trip_warn_and_force_is_silent(told):
    wrong = planted("block 3", 4, seed=52)
    with pytest.warns(SuspectActivationsWarning, match="off by one"):
        told.explain(wrong, max_new_tokens=1)
    with pytest.warns(SuspectActivationsWarning, match="off by one"):
        told.round_trip(wrong, max_new_tokens=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SuspectActivationsWarning)
        told.explain(wrong, max_new_tokens=1, force=True)
        told.round_trip(wrong, max_new_tokens=1, force=True)


def test_a_bos_row_among_right_ones_is_named_by_its_number(told):
    rows = planted("block 4", 16, seed=53)
    rows[8] = planted("BOS", 1, seed=54)[0]
    report = told.check_activations(rows)
    assert (report.verdict, report.rows) == ("suspect", ((8, "BOS"),))
    with pytest.warns(SuspectActivationsWarning, match=r"row 108 \(the BOS token\)"):
        report.warn(first=100)


def test_directions_and_another_models_activations_are_like_no_state(told):
    directions = told.check_activations(tiny.random(16, tiny.D_MODEL, seed=8, scale=0.01))
    assert "directions" in directions.cause
    shuffled = torch.randperm(tiny.D_MODEL, generator=torch.Generator().manual_seed(0))
    foreign = told.check_activations(planted("block 4", 16, seed=55)[:, shuffled])
    assert "another model" in foreign.cause


def test_a_subtracted_mean_is_recognised(told, statistics):
    assert "mean had been subtracted" in told.check_activations(planted("block 4", 16, seed=56) - statistics.mean).cause


def test_what_extract_read_at_another_layer_is_refused_and_its_own_is_taken(pair):
    with pytest.raises(ForeignActivationError, match="layer 0 .*this pair reads layer 4"):
        pair.explain(pair.extract("A kettle sang.", layer=0), max_new_tokens=1)
    with pytest.raises(ForeignActivationError):
        pair.round_trip(pair.extract("A kettle sang.", layer=0))
    with pytest.raises(ForeignActivationError):
        pair.score("x", pair.extract("A kettle sang.", layer=0))
    read = pair.extract("A kettle sang.")
    assert (read.layer, read.precision) == (4, "float32")
    assert pair.explain(read, max_new_tokens=2)[0] == pair.explain(read.vectors[0], max_new_tokens=2)
    with pytest.warns(ForeignActivationWarning):
        pair.explain(pair.extract("A kettle sang.", layer=0), max_new_tokens=1, force=True)


def test_without_statistics_and_without_a_base_in_memory_nothing_is_known(full_pair):
    whole = NLAPair.from_pretrained(
        full_pair.av.folder.parent
    )  # of the shared one somebody may have asked for the base
    report = whole.check_activations(tiny.random(4, whole.d_model, seed=2))
    assert (report.verdict, report.ok) == ("unknown", True)
    assert "not loaded" in report.cause
    assert whole.base.in_memory is None


def test_a_large_base_on_a_cpu_is_measured_only_when_somebody_asks(lora_folders, monkeypatch, tmp_path):
    from nla_sdk.halves import measured

    monkeypatch.setattr(measured, "cache_root", lambda: tmp_path)
    monkeypatch.setattr(measured, "QUICK", 0)
    vectors = tiny.random(2, tiny.D_MODEL, seed=1)
    large = NLAPair.from_pretrained(lora_folders["shared"])
    assert "only when asked" in large.check_activations(vectors, wait=False).cause and not list(tmp_path.iterdir())
    assert large.check_activations(vectors).verdict != "unknown" and list(tmp_path.iterdir())


def test_statistics_are_measured_once_for_a_base(lora_folders, monkeypatch):
    from nla_sdk.halves import measured

    first = NLAPair.from_pretrained(lora_folders["shared"])
    first.check_activations(tiny.random(1, tiny.D_MODEL, seed=1))
    monkeypatch.setattr(measured, "measure", lambda *_: pytest.fail("measured twice"))
    NLAPair.from_pretrained(lora_folders["shared"]).check_activations(tiny.random(1, tiny.D_MODEL, seed=1))


def test_the_bundled_pair_is_checked_on_its_held_out_rows_without_its_base():
    """The statistics are shipped: right vectors are never suspect, and moved ones are."""
    from importlib import resources

    import pyarrow.parquet as pq

    from nla_sdk.io.tables import read_vectors
    from nla_sdk.model.statistics.states import STATISTICS_FILE

    demo = resources.files("nla_sdk") / "demo"
    vectors = torch.from_numpy(read_vectors(pq.read_table(str(demo / "heldout.parquet"))).copy())
    statistics = ActivationStatistics.load(demo / "av" / STATISTICS_FILE)
    verdicts = [checking.check(statistics, vectors[at : at + 16]).verdict for at in range(0, len(vectors), 16)]
    assert verdicts.count("suspect") == 0
    centred = checking.check(statistics, vectors[:16] - statistics.mean)
    assert "mean had been subtracted" in centred.cause
    unit = vectors[:16] / vectors[:16].norm(dim=-1, keepdim=True)
    assert "normalised" in checking.check(statistics, unit).cause
