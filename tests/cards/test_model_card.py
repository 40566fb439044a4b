"""Model cards: metadata the Hub takes, provenance, a citation, and strings that stay in their places."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from cards import About, render
from cards.card import METHOD
from nla_sdk.evaluation.reading import digest
from tests.cards.samples import ABOUT, contract, measured, published, seeds_card


def test_metadata_of_a_measured_pair():
    found, _ = measured()
    card = ModelCard(render(contract("ar"), found, about=ABOUT["ar"]).text)
    results = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert results["fve"] == round(found.round_trip.fve.value, 4)
    assert results["fve_labels"] == round(found.true_labels.conditions["real"].fve.value, 4)
    assert card.data.license == "gemma" and card.data.pipeline_tag == "feature-extraction"
    assert "nla-verdict-reads-content" in card.data.tags and card.data.language == ["en"]


def test_labels_without_the_real_ones_are_no_figure_of_the_metadata():
    found, _ = measured()
    labels = found.true_labels
    conditions = {name: one for name, one in labels.conditions.items() if name != "real"}
    other = found.model_copy(update={"true_labels": labels.model_copy(update={"conditions": conditions, "deltas": {}})})
    results = ModelCard(render(contract("ar"), other, about=ABOUT["ar"]).text).data.eval_results
    assert "fve_labels" not in {one.metric_type for one in results}


def test_provenance_names_code_tables_and_the_evaluation(tmp_path):
    training = {
        "code_version": "f" * 40 + "+changes",
        "tables_sha256": {"av_sft.parquet": "ab" * 32},
        "parent": {"name": "mine/final", "commit": None, "adapter_sha256": "cd" * 32},
    }
    whole = contract("av", provenance={"training": training})
    for found in (None, measured()[0]):
        body = render(whole, found, about=ABOUT["av"]).body
        provenance = body[body.index("## Provenance") :]
        assert "| trained with code | " + "f" * 40 in provenance
        assert "| av\\_sft.parquet, SHA-256 | " + "ab" * 32 in provenance
        assert "| continued from | mine/final |" in provenance and "cd" * 32 in provenance
    assert f"| the evaluation's own SHA-256 | {digest(found)} |" in provenance
    assert "| evaluated with code | " in provenance and found.data.sha256 in provenance


def test_the_citation_has_an_author_and_a_year():
    found, _ = measured()
    entry = render(contract("av"), found, about=ABOUT["av"]).body.split("```bibtex")[1]
    assert "author = {ada}," in entry and f"year = {{{found.created[:4]}}}," in entry
    entry = render(contract("av"), about=ABOUT["av"]).body.split("```bibtex")[1]
    assert "author = {ada}," in entry and "year" not in entry
    assert "author = {Ada L}" in render(contract("av"), about=About("ada/cat-av", author="Ada L")).body
    assert "author" not in render(contract("av"), about=About("demo/av")).body.split("```bibtex")[1]


def test_a_web_address_is_a_link_and_nothing_else_is():
    from cards.text import link

    assert link("https://huggingface.co/a_b") == "[huggingface.co/a\\_b](https://huggingface.co/a_b)"
    for address in ("javascript:alert(1)", "ftp://x/y", "http://", "https://a b"):
        assert "](" not in link(address)
    assert link('http://x/)"><img>').endswith("](http://x/%29%22%3E%3Cimg%3E)")
    assert "(https://huggingface.co/Solshine/gemma-4-e2b-nla-L23-ar-v0_0_1)" in seeds_card().body


EVIL = 'x|y"\n---\nlicense: mit\n# head\n<script>alert(1)</script> ![i](http://evil/x.png) `c` {{ 7*7 }} ${{a}}'


@pytest.mark.parametrize("role", ["av", "ar"])
def test_no_field_of_a_contract_or_evaluation_can_break_out(role):
    evil = contract(
        role,
        base_model=EVIL,
        quantization=EVIL,
        extraction_precision=EVIL,
        base_revision=EVIL,
        provenance={"training": {EVIL: EVIL, "list": [EVIL]}},
        **({"injection_char": "㊗"} if role == "av" else {}),
    )
    subject = published().subject.model_copy(update={"av": EVIL, "ar": EVIL, "layer": 3, "d_model": 24})
    found = published(
        subject=subject,
        published_at=EVIL,
        data=published().data.model_copy(update={"name": EVIL, "sha256": EVIL}),
        inputs={f"{role}/{EVIL}": EVIL},
        files={EVIL: EVIL},
        versions={"code": EVIL},
        created=EVIL,
    )
    card = render(evil, found, about=About("ada/cat", pair="ada/other", files={EVIL: 3}, author=EVIL))
    plain_text = re.sub(r"```.*?```", "", card.body, flags=re.DOTALL)
    assert "<script>" not in plain_text and "![i](" not in plain_text and "\n# head" not in card.body
    # 7 * 7, and not two digits of a hash.
    assert not re.search(r"(?<![0-9a-f])49(?![0-9a-f])", plain_text)
    assert "{{ 7*7 }}" not in re.sub(r"\\", "\\\\", plain_text)
    assert card.body.count("```") % 2 == 0
    again = ModelCard(card.text)
    assert again.data.license != "mit" and "alert" not in str(again.data.tags)
    assert again.text.count("Verdict: content-blind") == 1
    assert "](http" not in plain_text.replace("](https://huggingface.co/ada/other)", "").replace(METHOD, "")


def test_rendering_needs_no_torch():
    code = """
import sys
from cards import About, render
from nla_sdk.contract import Contract
facts = {"kind": "nla_model", "role": "ar", "base_model": "a/b", "d_model": 2, "layer": 1,
         "ar_template": "{explanation}>", "ar_num_blocks": 2}
render(Contract.from_dict(facts), about=About("ada/cat")).text
assert not {"torch", "transformers"} & set(sys.modules), "torch was imported"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
