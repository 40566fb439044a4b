"""What is known of published pairs: the entries by name, the partners of halves, the values that releases have."""

import hashlib
from importlib import resources

import pytest
import yaml

from nla_sdk.contract import Contract, family_of, guess_partner, known_faults, known_release, release_partner
from nla_sdk.contract.releases import catalogue
from nla_sdk.contract.releases.known import values_of
from nla_sdk.errors import UnstatedFactError

SEED_AV = "Solshine/gemma-4-e2b-nla-L23-av-v0_0_1"
SEED_AR = "Solshine/gemma-4-e2b-nla-L23-ar-v0_0_1"
V01_AV = "Solshine/gemma-4-e2b-nla-L23-av-v0_1_dd-step_250"
V01_AR = "Solshine/gemma-4-e2b-nla-L23-ar-v0_1-paraphrase-invariant"
TRAJECTORY = "Solshine/gemma-4-e2b-nla-L23-av-v0_1_x-trajectory"
GRPO = "Solshine/gemma-4-e2b-nla-L23-av-grpo-dense500"
AV_TEMPLATE = (
    "You are a meticulous AI researcher conducting an important investigation into activation vectors from a "
    "language model. Your overall task is to describe the semantic content of that activation vector.\n\n"
    "We will pass the vector enclosed in <concept> tags into your context. You must then produce an explanation for "
    "the vector, enclosed within <explanation> tags. The explanation consists of 2-3 text snippets describing that "
    "vector.\n\nHere is the vector:\n\n<concept>{injection_char}</concept>"
)


@pytest.mark.parametrize("repo", [SEED_AV, V01_AV, GRPO])
def test_the_avs_on_gemma_4_load_without_a_sidecar(repo):
    contract = Contract.from_dict({}, known=known_release(repo))
    assert contract.av_template == AV_TEMPLATE
    assert (contract.role, contract.base_model, contract.d_model, contract.layer) == (
        "av",
        "google/gemma-4-E2B",
        1536,
        23,
    )
    assert (contract.injection_char, contract.injection_token_id) == ("㊗", 249568)
    assert (contract.injection_left_neighbor_id, contract.injection_right_neighbor_id) == (236813, 954)
    assert contract.injection_scale == contract.mse_scale == 1536**0.5
    assert (contract.prompt_style, contract.quantization, contract.compute_dtype) == ("raw", "nf4", "float16")
    assert (contract.max_length, contract.max_new_tokens) == (512, 120)
    assert contract.origins["av_template"] == "release"


@pytest.mark.parametrize("repo", [SEED_AR, V01_AR])
def test_the_ars_on_gemma_4_load_without_a_sidecar(repo):
    contract = Contract.from_dict({}, known=known_release(repo))
    assert contract.ar_template == "Summary of the following text: <text>{explanation}</text> <summary>"
    assert (contract.role, contract.ar_num_blocks, contract.head_bias, contract.layer) == ("ar", 18, True, 23)


@pytest.mark.parametrize(
    ("name", "base", "d_model", "layer", "scale"),
    [
        ("nla-qwen2.5-7b-L20", "Qwen/Qwen2.5-7B-Instruct", 3584, 20, 150),
        ("nla-gemma3-12b-L32", "google/gemma-3-12b-it", 3840, 32, 80000),
        ("nla-gemma3-27b-L41", "google/gemma-3-27b-it", 5376, 41, 60000),
        ("Llama-3.3-70B-NLA-L53", "meta-llama/Llama-3.3-70B-Instruct", 8192, 53, 30),
    ],
)
def test_the_reference_pairs_are_known_as_far_as_the_facts_go(name, base, d_model, layer, scale):
    av, ar = known_release(f"kitft/{name}-av"), known_release(f"kitft/{name}-ar")
    for entry in (av, ar):
        assert (entry["base_model"], entry["d_model"], entry["layer"]) == (base, d_model, layer)
    assert (len(av["av_template"]), hashlib.sha256(av["av_template"].encode()).hexdigest()[:12]) == (
        520,
        "054c09450507",
    )
    assert (av["prompt_style"], ar["head_bias"], ar["ar_num_blocks"]) == ("chat", False, layer + 1)
    assert av["injection"]["scale"] == scale
    contract = Contract.from_dict({}, known=ar)
    assert (contract.ar_bos, contract.ar_final_norm, contract.ar_state) == (True, "dropped", "raw")
    sidecar = {"prompt_templates": {"critic": "{explanation}</text>"}, "role": "critic"}
    assert Contract.from_dict(sidecar, known=ar).ar_template == "{explanation}</text>"
    assert (av["pair"], ar["pair"]) == (f"kitft/{name}-ar", f"kitft/{name}-av")


def test_repositories_match_in_any_letter_case_and_unknown_ones_not_at_all():
    assert known_release(SEED_AR.upper()) == known_release(SEED_AR)
    assert known_release("owner/other") is None
    assert release_partner("owner/other") is None


@pytest.mark.parametrize(
    ("folder", "norm"),
    [
        ("step_000050", "sqrt_d"),
        ("r80_step_000100", "sqrt_d"),
        ("inj20k_step_000050", 20000),
        ("norms_inj20k_cumstep_000100", 20000),
        ("short_hybrid_000050", 20000),
    ],
)
def test_each_folder_of_the_trajectory_has_its_own_norm(folder, norm):
    contract = Contract.from_dict({}, known=known_release(TRAJECTORY, folder))
    assert contract.injection_scale == (1536**0.5 if norm == "sqrt_d" else norm)
    assert bool(known_faults(TRAJECTORY, folder)) is (norm == 20000)


def test_a_trajectory_without_its_folder_has_no_norm_of_a_sibling():
    with pytest.raises(UnstatedFactError, match="`injection.site` is not stated"):
        Contract.from_dict({}, known=known_release(TRAJECTORY))


def test_what_stands_in_a_subfolder_that_no_entry_speaks_of_is_not_known():
    assert known_release(SEED_AV, "step_50") is None and known_faults(SEED_AV, "step_50") == []
    assert known_release(SEED_AV, "") == known_release(SEED_AV)
    assert known_release(TRAJECTORY, "elsewhere/step_50") is None


def test_a_name_with_a_star_stands_for_several_and_a_full_name_goes_before_it():
    assert family_of("adamkarvonen/checkpoints_cls_only_addition_Qwen3-8B") == "oracle"
    assert known_release("adamkarvonen/checkpoints_cls_only_addition_Qwen3-8B")["injection"]["rule"] == "add"
    assert known_release("adamkarvonen/checkpoints_latentqa_only_Qwen3-8B")["injection"]["rule"] == "replace"
    assert known_release("adamkarvonen/checkpoints_latentqa_cls_past_lens_addition_qwen3-14b")["layer"] == 20
    assert family_of("owner/other") is None


def test_the_values_of_a_fact_come_with_their_releases_also_where_only_a_subfolder_has_them():
    rules = values_of("injection_rule")
    assert set(rules) == {"add", "replace"}
    assert "kitft/nla-qwen2.5-7b-L20-av" in rules["replace"] and "ceselder/nanonla-l24-av-qwen3-8b" in rules["add"]
    assert f"{TRAJECTORY}/inj20k_*" in values_of("injection_scale")[20000]
    assert set(values_of("ar_final_norm")) == {"dropped"} and set(values_of("ar_bos")) == {True, False}


def test_an_entry_is_the_callers_own():
    known_release(SEED_AV)["d_model"] = 5
    assert known_release(SEED_AV)["d_model"] == 1536


@pytest.mark.parametrize(
    ("repo", "partner"),
    [(SEED_AV, SEED_AR), (SEED_AR, SEED_AV), (V01_AV, V01_AR), (V01_AR, V01_AV), (TRAJECTORY, None), (GRPO, None)],
)
def test_partners_of_known_releases(repo, partner):
    assert release_partner(repo) == release_partner(repo.lower()) == partner


@pytest.mark.parametrize(
    ("repo", "partner"),
    [
        (SEED_AV, SEED_AR),
        (SEED_AR, SEED_AV),
        ("kitft/Llama-3.3-70B-NLA-L53-av", "kitft/Llama-3.3-70B-NLA-L53-ar"),
        ("owner/lm-AR", "owner/lm-AV"),
        ("my-av-owner/lm-ar-v1", "my-av-owner/lm-av-v1"),
        ("lm-av", "lm-ar"),
        ("owner/average-army", None),
        ("owner/lm-av-ar", None),
        ("owner/lm", None),
    ],
)
def test_partners_are_guessed_from_the_name(repo, partner):
    assert guess_partner(repo) == partner


def test_libyaml_reads_the_data_on_releases_as_python_does():
    folder = resources.files("nla_sdk.contract.releases").joinpath("data")
    text = "\n".join(file.read_text("utf-8") for file in sorted(folder.iterdir(), key=lambda file: file.name))
    plain = {family: content for family, content in yaml.safe_load(text).items() if not family.startswith("_")}
    assert catalogue._document() == plain
