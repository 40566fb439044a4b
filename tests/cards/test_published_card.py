"""The seed's release, of which only published figures exist: all of them on its card, and said to be no more."""

from __future__ import annotations

import re

import pytest
from huggingface_hub import ModelCard

from cards import About, render
from nla_sdk.contract import Contract, known_release
from tests.cards.samples import ABOUT, AR, AV, contract, measured, published, seeds_card

PUBLISHED = [
    "0.438 ± 0.054",
    "median 0.434",
    "min 0.313",
    "max 0.558",
    "1.124",
    "unrelated directions: 2.0",
    "42 of 42 (100 %)",
    "42 of 50 evaluated, 8 empty",
    "8 of 50 outputs were empty (16 %)",
    "0.4292",
    "0.4135",
    "0.4045",
    "0.4051",
    "+0.024",
    "10 of 10",
    "about 95 % of that cosine",
    "min 0.885, max 1.374",
    "derived from the published ablation, n = 10",
    "20 distinct among 42",
    "exact duplicates 52 %",
    "4 distinct openings",
]


@pytest.mark.parametrize("figure", PUBLISHED)
def test_the_seeds_card_holds_every_published_figure(figure):
    assert figure in seeds_card().text


def test_the_seeds_card_has_no_empty_column_and_nothing_the_file_does_not_say():
    body = seeds_card().body
    assert "| FVE |" not in body and "| — |" not in body and "four words" not in body
    assert "reproducing the published figures" in body
    assert "reproducing" not in render(contract("ar"), blind(), about=ABOUT["ar"]).body


def blind():
    found, _ = measured()
    return found.model_copy(update={"verdict": found.verdict.model_copy(update={"value": "content-blind"})})


def test_the_seeds_card_says_content_blind_before_any_usage_and_not_re_measured():
    body = seeds_card().body
    assert body.index("Verdict: content-blind") < body.index("```")
    assert body.index("0.4051") < body.index("```"), "the ablation stands in the box"
    for title in re.findall(r"^## (?:Performance|Failure rate|Template diversity).*$", body, re.MULTILINE):
        assert title.endswith("as published, not re-measured")


@pytest.mark.parametrize("role", ["av", "ar"])
def test_the_seeds_card_says_how_it_was_trained(role):
    repo, pair = (AV, AR) if role == "av" else (AR, AV)
    body = render(Contract.from_dict({}, known=known_release(repo)), published(), about=About(repo, pair=pair)).body
    said = {"lora.r": "64", "lora.alpha": "128", "lora.dropout": "0.05", "optimizer": "AdamW 8-bit", "lr": "0.0001"}
    said |= {"decay": "constant", "micro_batch": "1", "max_length": "512", "gradient_checkpointing": "yes"}
    said |= {"save_interval": "50", "gradient_accumulation": "4" if role == "av" else "16"}
    for name, value in said.items():
        assert f"| {name} | {value} |".replace("_", "\\_") in body, name
    assert "| precision of the base in training | nf4, computing in float16 |" in body


def test_what_a_repository_says_of_its_training_goes_before_what_the_release_list_says():
    sidecar = {"training": {"lr": "2e-4", "note": "cos 0.9"}, "av_lora": {"r": 80}}
    body = render(Contract.from_dict(sidecar, known=known_release(AV)), about=About(AV)).body
    assert "| lr | 2e-4 |" in body and "| lora.r | 80 |" in body and "0.9" not in body
    assert "| optimizer | AdamW 8-bit |" in body


def test_the_seeds_metadata_is_what_the_hub_takes():
    card = ModelCard(seeds_card().text)
    assert card.data.base_model == "google/gemma-4-E2B" and card.data.library_name == "nla-sdk"
    assert card.data.to_dict()["base_model_relation"] == "adapter" and card.data.license == "apache-2.0"
    results = {one.metric_type: one for one in card.data.eval_results}
    assert results["cosine"].metric_value == 0.4378 and "as published" in results["cosine"].metric_name
    assert results["gain"].metric_name.endswith("derived from the published ablation (n = 10)")
    assert "fve" not in results, "no FVE was published"
