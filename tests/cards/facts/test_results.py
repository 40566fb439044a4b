"""What the Hub is told of an evaluation: the file's figures and no others, each with what it is relative to."""

from __future__ import annotations

import math

import pytest
import yaml
from huggingface_hub import EvalResultEntry, ModelCard, ModelCardData, parse_eval_result_entries
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from cards import About, CardError, render
from cards.facts.results import TASKS, checked, entries_file, headlines, hub_entries, model_index
from nla_sdk.evaluation.parts import Balanced
from tests.cards.samples import ABOUT, contract, measured, published

SOURCE = "https://huggingface.co/ada/cat-ar/blob/main/evaluation/evaluation.json"


def balanced():
    """The measured evaluation with a mean over families."""
    found, _ = measured()
    figure = Balanced(value=0.31234, n=30, interval_95=(-0.2, 0.4), families=2)
    return found.model_copy(update={"round_trip": found.round_trip.model_copy(update={"fve_balanced": figure})})


def test_every_result_is_a_figure_of_the_file_and_says_what_it_rests_on():
    found = balanced()
    trip, labels = found.round_trip, found.true_labels.conditions["real"]
    expected = {
        "fve": (trip.fve, "FVE, over the mean direction"),
        "fve_balanced": (trip.fve_balanced, "FVE, over the mean direction, mean of 2 source families"),
        "gain": (trip.gain, "gain, over the empty explanation"),
        "cosine": (trip.cosine.mean, "does not compare across layers or models"),
        "fve_labels": (labels.fve, "FVE of written labels, held-out rows, over the mean direction"),
    }
    results = {one.metric_type: one for one in model_index(found, "ar", source=SOURCE)}
    assert set(results) == {*expected, "verdict"} and results["verdict"].metric_value == found.verdict.value
    for kind, (figure, name) in expected.items():
        said = results[kind].metric_name
        assert results[kind].metric_value == round(figure.value, 4) and name in said and f"n = {figure.n}" in said
        low, high = (f"{end:.3f}".replace("-", "−") for end in figure.interval_95)
        assert f"95 % [{low}, {high}]" in said
    assert "fve_labels" not in {one.metric_type for one in model_index(found, "av")}


def test_what_the_file_does_not_have_is_no_result():
    found, _ = measured()
    without = found.model_copy(update={"round_trip": found.round_trip.model_copy(update={"fve": None})})
    assert "fve" not in {one.kind for one in headlines(without, "av")}
    assert all(
        "as published" in one.name or "derived from the published" in one.name for one in headlines(published(), "av")
    )
    assert "of these published figures" in model_index(published(), "av")[-1].metric_name


def test_the_clients_own_loader_reads_the_model_index_back():
    about = About("ada/cat-ar", pair="ada/cat-av", evaluation_url=SOURCE, benchmark="ada/cat-data")
    text = render(contract("ar"), balanced(), about=about).text
    data = ModelCard(text).data
    expected = model_index(balanced(), "ar", source=SOURCE, dataset="ada/cat-data")
    assert data.eval_results == expected and data.model_name == "cat-ar"
    index = yaml.safe_load(text.split("---\n")[1])["model-index"]
    name, results = model_index_to_eval_results(index)
    assert eval_results_to_model_index(name, results) == index
    again = ModelCardData(model_name=name, eval_results=results)
    assert again.to_dict()["model-index"] == index
    assert data.library_name == "nla-sdk" and {"nla", "natural-language-autoencoder", "lora"} <= set(data.tags)
    whole = About("ada/cat-av", is_adapter=False)
    assert "lora" not in ModelCard(render(contract("av"), about=whole).text).data.tags


def test_entries_are_what_the_hub_requires_and_are_read_back():
    found = balanced()
    entries = hub_entries(found, "ar", dataset="ada/cat-data", source=SOURCE)
    assert [one.task_id for one in entries] == [
        TASKS[one.kind] for one in headlines(found, "ar") if one.kind != "cosine"
    ]
    read = yaml.safe_load(entries_file(entries))
    assert parse_eval_result_entries(read) == entries
    for one in read:  # https://huggingface.co/docs/hub/eval-results: what is required, and required of a source
        assert set(one["dataset"]) == {"id", "task_id"} and isinstance(one["value"], float) and one["source"]["url"]
        assert isinstance(one["date"], str), "a date that YAML reads as one would be no string to the Hub"
    with pytest.raises(CardError, match="were not re-measured"):
        hub_entries(published(), "av", dataset="ada/cat-data", source=SOURCE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_id": "heldout.parquet"}, "dataset.id 'heldout.parquet'"),
        ({"dataset_id": "a b/c"}, "dataset.id"),
        ({"task_id": " "}, "dataset.task_id ' '"),
        ({"value": math.nan}, "value nan"),
        ({"value": True}, "value True"),
        ({"value": "0.5"}, "value '0.5'"),
        ({"date": "yesterday"}, "date 'yesterday'"),
        ({"source_url": "evaluation.json"}, "source.url"),
    ],
)
def test_what_the_client_lets_pass_and_the_hub_would_not_read_is_refused(changes, message):
    whole = {"dataset_id": "ada/rows", "task_id": "gain", "value": 0.5, "date": "2026-01-02T03:04:05Z"}
    assert checked(EvalResultEntry(**whole)).value == 0.5
    with pytest.raises(CardError, match=message):
        checked(EvalResultEntry(**(whole | changes)))


def test_published_in_part_a_card_keeps_notes_licence_and_data():
    first = About("ada/cat-av", notes="# Mine\n\nA <b>.", licence="mit", datasets=["ada/rows"])
    there = render(contract("av"), about=first).text
    again = render(contract("av"), about=About("ada/cat-av", existing=there, in_part=True)).text
    assert again == there
    assert "Mine" not in render(contract("av"), about=About("ada/cat-av", existing=there)).text
    assert "license: gemma" in render(contract("av"), about=ABOUT["av"]).text
