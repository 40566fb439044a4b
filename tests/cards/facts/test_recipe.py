"""How a half was made is said by its contract and log; how well it turned out is not."""

from __future__ import annotations

import json

import pytest

from cards import About, render
from tests.cards.samples import ABOUT, contract, measured

CLAIMS = {
    "faithfulness": "certified 97 %, FVE 0.95",
    "heldout_fve_true": 0.5234,
    "chosen_by": {"metric": "heldout_fve_true", "value": 0.5234},
    "loss_trend": {"verdict": "descending"},
    "settings": {"quality": "FVE 0.95", "sources": ["a sentence on FVE 0.95 and more"], "lr": 1e-4},
    "table_sha256": "FVE 0.95",
    "hardware": "4 GPUs; certified 97 %",
}


@pytest.mark.parametrize("where", ["provenance", "training"])
def test_what_a_contract_says_of_quality_is_on_no_card(where, tmp_path):
    block = {"provenance": {"training": CLAIMS}} if where == "provenance" else {"training": CLAIMS, "provenance": {}}
    about = About("ada/cat-ar", trend="descending: slope −0.01", figures=("training",))
    body = render(contract("ar", **block), about=about).body
    assert "| lr | 0.0001 |" in body
    for claim in ("0.52", "0.95", "97", "descending", "training.png", "| quality"):
        assert claim not in body
    body = render(contract("ar", **block), measured()[0], about=about).body
    assert "certified" not in body and "heldout_fve" not in body and "training loss at the end | descending" in body


def test_a_remark_in_place_of_the_training_block_is_on_no_card():
    body = render(contract("ar", provenance={}, training="certified faithful"), about=ABOUT["ar"]).body
    assert "certified" not in body and "does not say how it was trained" in body


def test_every_setting_of_the_trainers_is_shown_or_kept_back_on_purpose():
    from cards.facts.recipe import SETTINGS
    from training.configs.fit import AR, AV, Grpo, Lora, Reward

    housekeeping = {"log_interval", "keep_checkpoints", "eval_interval", "eval_rows", "logit_slice", "continue_from"}
    housekeeping |= {"trackers", "on_policy_engine"}  # the last one is the address of a machine
    housekeeping |= {"av", "ar", "claims"}  # where to start from: the contract has their hashes
    in_the_contract = {"template", "injection", "max_new_tokens", "num_blocks", "lora", "reward"}
    names = {*AV.model_fields, *AR.model_fields, *Grpo.model_fields, *(f"lora.{name}" for name in Lora.model_fields)}
    names |= {f"reward.{name}" for name in Reward.model_fields}
    assert names - housekeeping - in_the_contract <= SETTINGS


def test_what_was_rewarded_is_shown_with_the_calibration_that_it_was_rewarded_by():
    training = {"settings": {"reward": {"mse": 1.0, "support": 0.5}}, "claims_sha256": "ab" * 32}
    body = render(contract("av", provenance={"training": training}), about=ABOUT["av"]).body
    assert "| reward.support | 0.5 |" in body and f"| support rewarded by claims.json, SHA-256 | {'ab' * 32} |" in body


def test_the_table_that_chose_a_half_is_shown_and_not_how_well_it_did_on_it():
    chosen = {"metric": "heldout_fve_true", "value": 0.5234, "table": "validation.parquet", "table_sha256": "cd" * 32}
    body = render(contract("av", provenance={"training": {"chosen_by": chosen}}), about=ABOUT["av"]).body
    assert r"| chosen\_by.table | validation.parquet |" in body and "0.52" not in body
    assert f"| the table that chose it, SHA-256 | {'cd' * 32} |" in body


def test_training_comes_from_contract_and_log(tmp_path):
    log = tmp_path / "log.jsonl"
    records = [{"step": step, "loss": 1.0, "seconds": 1800.0, "peak_memory_gib": 3.5} for step in (1, 2)]
    log.write_text("\n".join(json.dumps(one) for one in records) + '\n{"st', encoding="utf-8")
    body = render(contract("av"), None, log, about=ABOUT["av"]).body
    for row in (
        "| lr | 0.0005 |",
        "| lora.r | 16 |",
        "| steps in the log | 2 |",
        "| hours in steps | 1.00 |",
        "GiB | 3.50",
    ):
        assert row in body
