"""Planted pairs get the verdict that was planted, and whatever the file says its rows give."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from nla_sdk import metrics
from nla_sdk.errors import InputError
from nla_sdk.evaluation.reading import EvaluationError, dumps, load
from nla_sdk.evaluation.schema import EVALUATION, ROWS
from nla_sdk.io.tables import read_vectors
from tests.evaluate.planted import FEW, Oracle, PlantedPair, evaluate, random_of, table
from training.evaluate.verify import verify


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return table(tmp_path_factory.mktemp("heldout") / "heldout.parquet", labels=True, texts=True)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("oracle")
    found = Oracle(data)
    return folder, evaluate(PlantedPair(folder, found.say, found.hear), data, folder / "out")


def test_a_pair_that_carries_the_document_reads_content(oracle):
    folder, found = oracle
    assert found.verdict.value == "reads-content"
    assert found.round_trip.gain.value > 0.5 and found.round_trip.gain.p < 0.01
    assert found.ablation.deltas["shuffled"].gain.value > 0.5
    assert found.identity.percentile.value > 0.9
    words = next(one for one in found.content.retrieval if one.features == "words" and one.candidates == "explanations")
    assert words.top1.value > 0.8 and words.top1.p < 0.01 and words.documents == 30
    assert {one.name for one in found.controls} == {"zero", "none", "random", "other"}
    assert all(one.delta.value > 0.1 for one in found.controls)


def test_an_ar_that_ignores_its_text_is_content_blind(tmp_path, data):
    found = Oracle(data)
    blind = evaluate(PlantedPair(tmp_path, found.say, lambda text: found.mean), data, tmp_path / "out")
    assert blind.verdict.value == "content-blind"
    assert blind.round_trip.cosine.mean.value > 0.5, "a high cosine is no help"
    assert blind.round_trip.fve.value == pytest.approx(0.0, abs=0.05)


def test_an_av_that_always_says_the_same_is_template_collapsed(tmp_path, data):
    found = Oracle(data)

    def hear(text):  # better than no text at all: the gain is real, the reading is not
        return found.mean if text else found.mean + random_of("empty")

    collapsed = evaluate(
        PlantedPair(tmp_path, lambda v: "Text about things. It goes on.", hear), data, tmp_path / "out"
    )
    assert collapsed.verdict.value == "template-collapsed"
    assert collapsed.round_trip.gain.value > 0.05
    assert collapsed.collapse.unique == 1 and collapsed.collapse.unique_share == pytest.approx(1 / 60)
    assert all(one.broken for one in collapsed.content.retrieval if one.query == "explanation")


def test_varied_words_that_say_nothing_of_the_vector_do_not_read_content(tmp_path, data):
    found, numbers = Oracle(data), iter(range(10_000))

    def hear(text):
        return found.mean if text else found.mean + random_of("empty")

    vain = evaluate(PlantedPair(tmp_path, lambda v: f"Text {next(numbers)}. So on.", hear), data, tmp_path / "out")
    assert vain.verdict.value == "inconclusive"


def test_six_rows_are_too_few_even_for_an_oracle(tmp_path, data):
    found = Oracle(data)
    few = evaluate(PlantedPair(tmp_path, found.say, found.hear), data, tmp_path / "out", FEW, limit=6)
    assert few.verdict.value == "inconclusive" and "6 evaluated rows" in few.verdict.reason


@pytest.mark.parametrize("limit", [1, 2])
def test_one_row_or_one_document_is_no_crash(tmp_path, data, limit):
    found = Oracle(data)
    few = evaluate(PlantedPair(tmp_path, found.say, found.hear), data, tmp_path / "out", FEW, limit=limit)
    assert few.verdict.value == "inconclusive" and few.identity is None
    assert few.round_trip.reference.random_pair_cosine is None, "there is no other document to compare with"
    assert (few.round_trip.fve is None) == (limit == 1), "one activation is its own mean direction"
    verify(tmp_path / "out" / EVALUATION)


@pytest.mark.parametrize("row", range(6))
def test_a_baseline_that_is_rounding_explains_nothing(tmp_path, data, row):
    """2 (1 − r) of one vector is 0 or ±2e-16 and was divided by."""
    one = pq.read_table(data).slice(2 * row, 1)
    pq.write_table(one, tmp_path / "one.parquet")
    found = Oracle(data)
    few = evaluate(PlantedPair(tmp_path, found.say, found.hear), tmp_path / "one.parquet", tmp_path / "out", FEW)
    trip = few.round_trip
    assert trip.fve is trip.fve_raw_variance is trip.fve_all_attempted is few.signal is None and trip.by_family == {}
    assert all(one.fve is None for one in few.ablation.conditions.values())
    assert trip.reference.mean_cosine <= 1.0 and trip.cosine is not None
    verify(tmp_path / "out" / EVALUATION)


def test_activations_that_are_all_alike_have_no_fve_and_every_page_says_so(tmp_path, data):
    from cards.figures.drawing import draw
    from cards.report import report, summary
    from nla_sdk.io.tables import vector_column

    rows = pq.read_table(data)
    at = rows.column_names.index("activation_vector")
    same = vector_column(np.repeat(read_vectors(rows)[:1], len(rows), axis=0))
    pq.write_table(rows.set_column(at, "activation_vector", same), tmp_path / "same.parquet")
    found = Oracle(data)
    alike = evaluate(PlantedPair(tmp_path, found.say, found.hear), tmp_path / "same.parquet", tmp_path / "out")
    assert alike.round_trip.fve is None and alike.verdict.value != "reads-content"
    assert "**FVE**" not in report(alike) and "  cosine of no text" in summary(alike)
    assert draw(alike, pq.read_table(tmp_path / "out" / ROWS), tmp_path / "figures")
    verify(tmp_path / "out" / EVALUATION)


def test_the_figures_are_those_of_the_formulas(oracle, data):
    folder, found = oracle
    rows = pq.read_table(folder / "out" / ROWS)
    activations, made = read_vectors(rows).astype(float), read_vectors(rows, "reconstruction").astype(float)
    d = activations.shape[1]

    def scaled(v):
        return v / np.linalg.norm(v) * np.sqrt(d)

    mse = np.array([np.mean((scaled(a) - scaled(b)) ** 2) for a, b in zip(activations, made, strict=True)])
    mean = scaled(np.mean([v / np.linalg.norm(v) for v in activations], axis=0))
    baseline = np.mean([np.mean((mean - scaled(v)) ** 2) for v in activations])
    assert found.round_trip.fve.value == pytest.approx(1 - mse.mean() / baseline, abs=1e-9)
    oracle_pair = Oracle(data)
    empty = np.mean([np.mean((scaled(oracle_pair.hear("")) - scaled(v)) ** 2) for v in activations])
    assert found.round_trip.gain.value == pytest.approx(1 - mse.mean() / empty, abs=1e-6)
    documents = rows["doc_id"].to_pylist()
    shuffled = [
        np.mean([metrics.cosine(made[j], activations[i]) for j in range(len(made)) if documents[j] != documents[i]])
        for i in range(len(made))
    ]
    assert found.ablation.conditions["shuffled"].cosine.value == pytest.approx(np.mean(shuffled), abs=1e-9)
    assert found.true_labels.conditions["real"].fve.value > 0.5


def test_empty_outputs_are_counted_and_scored_as_what_they_are(tmp_path, data):
    found, turn = Oracle(data), iter(range(1000))
    pair = PlantedPair(tmp_path, lambda v: "" if next(turn) % 4 == 0 else found.say(v), found.hear)
    some = evaluate(pair, data, tmp_path / "out", FEW.model_copy(update={"controls_n": 0, "signal_n": 0}))
    assert (some.round_trip.attempted, some.round_trip.empty, some.round_trip.evaluated) == (60, 15, 45)
    assert some.round_trip.fve_all_attempted.value < some.round_trip.fve.value
    assert some.collapse.n == 45 and some.identity.n == 45


def test_rows_without_a_direction_fail_and_the_others_are_measured(tmp_path, data):
    broken = pq.read_table(data)
    vectors = read_vectors(broken).copy()
    vectors[3], vectors[10, 0] = 0.0, np.nan
    from nla_sdk.io.tables import vector_column

    at = broken.column_names.index("activation_vector")
    pq.write_table(broken.set_column(at, "activation_vector", vector_column(vectors)), tmp_path / "broken.parquet")
    found = Oracle(data)
    some = evaluate(PlantedPair(tmp_path, found.say, found.hear), tmp_path / "broken.parquet", tmp_path / "out")
    assert some.round_trip.failed == 2 and some.round_trip.evaluated == 58
    assert some.verdict.value == "reads-content"
    verify(tmp_path / "out" / EVALUATION)


def test_halves_that_do_not_name_each_other_are_measured_and_it_is_said(tmp_path, data):
    found = Oracle(data)
    pair = PlantedPair(tmp_path, found.say, found.hear)
    pair.matched = False
    assert evaluate(pair, data, tmp_path / "out", FEW, limit=12).subject.matched is False


def test_source_texts_are_kept_only_when_asked_for(tmp_path, oracle, data):
    folder, found = oracle
    assert not {"detokenized_text_truncated", "text_without_end"} & set(pq.read_schema(folder / "out" / ROWS).names)
    candidates = {one.candidates for one in found.content.retrieval}
    assert "source texts" in candidates, "they are measured all the same"
    planted = Oracle(data)
    evaluate(PlantedPair(tmp_path, planted.say, planted.hear), data, tmp_path / "out", FEW, with_texts=True)
    rows = pq.read_table(tmp_path / "out" / ROWS)
    full, cut = rows["detokenized_text_truncated"][0].as_py(), rows["text_without_end"][0].as_py()
    assert full.split()[:-8] == cut.split()
    verify(tmp_path / "out" / EVALUATION)


def test_the_floor_is_counted_of_rows_and_not_of_means_over_rows(oracle):
    _, found = oracle
    conditions = found.ablation.conditions
    assert conditions["shuffled"].above_floor is None and conditions["empty"].above_floor.of == 60


def test_explanations_that_the_ar_cut_are_counted_and_said(tmp_path, data):
    from cards.report import report

    found = Oracle(data)
    pair = PlantedPair(tmp_path, found.say, found.hear)
    pair.reconstructor.contract = pair.reconstructor.contract.replace(max_length=5)
    pair.ar.contract = pair.reconstructor.contract
    cut = evaluate(pair, data, tmp_path / "out", FEW, limit=12)
    assert cut.round_trip.ar_cut == 12 and "12 were cut by the AR" in report(cut)
    assert pq.read_table(tmp_path / "out" / ROWS)["ar_cut"].to_pylist() == [True] * 12


@pytest.mark.parametrize(
    ("folder", "name"),
    [("run/av", "run/av"), ("home/alice/av", "av"), ("home/alice/good", "good"), ("home/alice/run/av", "run/av")],
)
def test_a_folder_is_named_without_telling_whose_it_is(tmp_path, monkeypatch, folder, name):
    from types import SimpleNamespace

    from training.evaluate.run import _public_name

    monkeypatch.setenv("HOME", str(tmp_path / "home" / "bob"))
    monkeypatch.setenv("LOGNAME", "bob")
    (tmp_path / folder).mkdir(parents=True)
    half = SimpleNamespace(
        ref=str(tmp_path / folder), folder=tmp_path / folder, commit=None, contract=SimpleNamespace(role="av")
    )
    assert _public_name(half) == name


def test_an_ar_that_is_misled_is_not_said_to_ignore_its_text(tmp_path, data):
    from cards.phrases import SAYS, useful_for
    from cards.report import report

    found, turn = Oracle(data), iter(range(10_000))

    def lie(vector):
        return f"The text is {found.names[next(turn) * 7 % 30]}. Number {next(turn)}."

    pair = PlantedPair(tmp_path, lie, lambda text: found.hear(text) if text else found.mean)
    misled = evaluate(pair, data, tmp_path / "out", FEW.model_copy(update={"controls_n": 0, "signal_n": 0}))
    assert misled.verdict.value == "content-blind" and misled.round_trip.gain.value < -0.3
    said = report(misled) + " ".join(useful_for(misled)) + SAYS["content-blind"]
    assert "no better than no text at all" in said
    assert "hardly depends" not in said and "whatever text" not in said


def test_whole_outputs_are_kept(tmp_path, data):
    found = Oracle(data)
    long = "word " * 2000
    pair = PlantedPair(tmp_path, lambda v: found.say(v) + long, found.hear)
    evaluate(pair, data, tmp_path / "out", FEW.model_copy(update={"controls_n": 0, "signal_n": 0}), limit=2)
    assert all(len(text) > 10_000 for text in pq.read_table(tmp_path / "out" / ROWS)["explanation"].to_pylist())


# --- what an edit does ------------------------------------------------------------------------------------------------
def test_a_measured_file_verifies_with_its_halves_and_data(oracle, data):
    folder, _ = oracle
    checked = verify(folder / "out" / EVALUATION, av=folder / "av", ar=folder / "ar", data=data)
    assert checked.not_at_hand == [] and "every figure its rows determine" in checked.checked


def numbers_in(value, path=()):
    """Every number of a JSON value, by its path."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from numbers_in(one, (*path, key))
    elif isinstance(value, list):
        for at, one in enumerate(value):
            yield from numbers_in(one, (*path, at))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def edited(values, path):
    values = json.loads(json.dumps(values))
    at = values
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = at[path[-1]] + 1 if isinstance(at[path[-1]], int) else at[path[-1]] + 0.001
    return values


def test_any_number_changed_by_hand_is_found(oracle, tmp_path):
    folder, found = oracle
    values = json.loads((folder / "out" / EVALUATION).read_text(encoding="utf-8"))
    paths = list(numbers_in(values))
    assert len(paths) > 200
    # One of each name: the entries of a list have the same, and are loaded by the same code.
    named = {tuple(key for key in path if isinstance(key, str)): path for path in paths}
    assert len(named) > 100
    for path in named.values():
        (tmp_path / EVALUATION).write_text(json.dumps(edited(values, path)), encoding="utf-8")
        with pytest.raises(EvaluationError):
            load(tmp_path / EVALUATION)


RESEALED = [
    ("round_trip", "fve", "value"),
    ("round_trip", "fve", "interval_95", 0),
    ("round_trip", "by_family", "odd", "value"),
    ("round_trip", "fve_balanced", "value"),
    ("round_trip", "fve_balanced", "interval_95", 1),
    ("round_trip", "fve_balanced", "n"),
    ("round_trip", "fve_balanced", "families"),
    ("round_trip", "tokens", "median"),
    ("round_trip", "tokens", "max"),
    ("ablation", "conditions", "shuffled", "fve_balanced", "value"),
    ("ablation", "conditions", "nonsense", "cosine", "value"),
    ("ablation", "deltas", "shuffled", "fve", "p"),
    ("identity", "top1", "value"),
    ("content", "retrieval", 0, "top1", "value"),
    ("content", "probes", 0, "accuracy", "value"),
    ("controls", 0, "delta", "value"),
    ("collapse", "distinct", "1"),
    ("signal", "claims", "value"),
    ("signal", "round_trips", "3", "value"),
]


@pytest.mark.parametrize("path", RESEALED, ids=lambda path: ".".join(map(str, path)))
def test_a_number_changed_with_the_hash_made_to_fit_is_found_from_the_rows(oracle, figures_made_once, tmp_path, path):
    from nla_sdk.evaluation.schema import Evaluation

    folder, found = oracle
    values = edited(found.model_dump(mode="json", exclude_none=True), path)
    resealed = Evaluation.model_validate(values)
    for name in found.files:
        (tmp_path / name).write_bytes((folder / "out" / name).read_bytes())
    (tmp_path / EVALUATION).write_text(dumps(resealed), encoding="utf-8")
    with pytest.raises(EvaluationError, match="|".join([str(path[-2]), "contradicts itself", "its rows give"])):
        verify(tmp_path / EVALUATION)


def test_a_verdict_better_than_the_figures_is_refused(tmp_path, data):
    found = Oracle(data)
    evaluate(PlantedPair(tmp_path, found.say, lambda text: found.mean), data, tmp_path / "out", FEW)
    text = (tmp_path / "out" / EVALUATION).read_text(encoding="utf-8")
    (tmp_path / "out" / EVALUATION).write_text(text.replace('"content-blind"', '"reads-content"'), encoding="utf-8")
    with pytest.raises(EvaluationError, match="verdict is reads-content, but its figures give content-blind"):
        load(tmp_path / "out" / EVALUATION)


def test_other_weights_rows_or_data_are_found(oracle, data, tmp_path):
    import shutil

    folder, _ = oracle
    copy = shutil.copytree(folder, tmp_path / "copy")
    file = copy / "out" / EVALUATION
    other = shutil.copytree(copy / "av", tmp_path / "other_av")
    (other / "adapter_model.safetensors").write_bytes(b"other")
    with pytest.raises(EvaluationError, match="av/adapter_model.safetensors is not the one that was measured"):
        verify(file, av=other)
    with pytest.raises(EvaluationError, match="was not measured on"):
        verify(file, data=table(tmp_path / "else.parquet", documents=31))
    rows = pq.read_table(copy / "out" / ROWS)
    pq.write_table(rows.slice(1), copy / "out" / ROWS)
    with pytest.raises(EvaluationError, match="is not the table that"):
        verify(file)


# --- bad input --------------------------------------------------------------------------------------------------------
def test_activations_of_another_layer_or_width_are_refused(tmp_path, data):
    import pyarrow as pa

    from nla_sdk.io.tables import vector_column
    from training.evaluate import heldout

    found = Oracle(data)
    contract = PlantedPair(tmp_path, found.say, found.hear).contract
    rows = pq.read_table(data)
    pq.write_table(rows.append_column("activation_layer", pa.array([9] * len(rows))), tmp_path / "layer.parquet")
    with pytest.raises(InputError, match="activations of layer 9 .*this pair reads layer 3"):
        heldout.read(tmp_path / "layer.parquet", contract)
    pq.write_table(
        pa.table({"doc_id": ["a", "b"], "activation_vector": vector_column(np.ones((2, 5)))}), tmp_path / "w.parquet"
    )
    with pytest.raises(InputError, match="vectors of 5 numbers; this pair reads 24"):
        heldout.read(tmp_path / "w.parquet", contract)
    pq.write_table(rows.drop_columns(["doc_id"]), tmp_path / "lacks.parquet")
    with pytest.raises(InputError, match="lacks the columns doc_id"):
        heldout.read(tmp_path / "lacks.parquet", contract)
    (tmp_path / "no.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        heldout.read(tmp_path / "no.parquet", contract)
    with pytest.raises(InputError, match="does not exist"):
        heldout.read(tmp_path / "absent.parquet", contract)


def test_an_activation_with_two_labels_is_one_row(tmp_path, data):
    import pyarrow as pa

    from training.evaluate import heldout

    found = Oracle(data)
    contract = PlantedPair(tmp_path, found.say, found.hear).contract
    rows = pq.read_table(data)
    pq.write_table(pa.concat_tables([rows, rows]), tmp_path / "twice.parquet")
    assert len(heldout.read(tmp_path / "twice.parquet", contract)) == len(rows)


def test_outputs_in_another_form_are_counted_and_never_as_content(tmp_path, data):
    found, calls = Oracle(data), iter(range(10_000))

    def say(vector):
        return "no tags" if vector is not None and next(calls) % 3 == 0 else found.say(vector)

    mixed = evaluate(PlantedPair(tmp_path, say, found.hear), data, tmp_path / "out", FEW)
    trip = mixed.round_trip
    assert trip.untagged == 20 and trip.evaluated == 40 and trip.attempted == 60
    assert trip.fve.n == 40 and trip.fve_all_attempted.n == 60
    assert trip.fve_all_attempted.value < trip.fve.value
