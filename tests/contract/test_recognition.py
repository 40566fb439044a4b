"""A local copy of a release recognised by its facts, for both halves, and never by its folder's name."""

from __future__ import annotations

import pytest

from nla_sdk.contract import Contract, known_release
from nla_sdk.contract.releases.known import recognise
from nla_sdk.errors import UnstatedFactError, UnstatedPromptError

REFERENCE = "kitft/nla-qwen2.5-7b-L20"
EASYNLA = "ceselder/nanonla-l24-av-qwen3-8b"


def place(entry: dict) -> dict:
    """What the sidecars of all families state: base, layer, width."""
    return {
        "base_checkpoint": entry["base_model"],
        "d_model": entry["d_model"],
        "extraction": {"layer_index": entry["layer"]},
    }


def of_av(repo: str, scale: float | None = None, folder: str | None = None) -> dict:
    entry = known_release(repo, folder)
    sidecar = {"kind": "nla_model", "role": "av", **place(entry)}
    sidecar["tokens"] = {name: entry[name] for name in ("injection_char", "injection_token_id")}
    sidecar["prompt_templates"] = {"av": entry["av_template"]}
    sidecar["extraction"]["injection_scale"] = scale
    return sidecar


def of_ar(repo: str, folder: str | None = None) -> dict:
    """In the reference dialect, whose depth is the index of the last block."""
    entry = known_release(repo, folder)
    sidecar = {
        "kind": "nla_model",
        "role": "ar",
        **place(entry),
        "ar": {"num_hidden_layers": entry["ar_num_blocks"] - 1},
    }
    return sidecar | {"prompt_templates": {"ar": entry["ar_template"]}}


@pytest.mark.parametrize("name", [REFERENCE, "kitft/nla-gemma3-27b-L41", "kitft/Llama-3.3-70B-NLA-L53"])
def test_a_copy_of_a_reference_pair_is_recognised_on_both_sides(name):
    entry = known_release(f"{name}-av")
    av = Contract.from_dict(of_av(f"{name}-av", entry["injection"]["scale"]))
    assert (av.prompt_style, av.injection.site, av.origins["prompt_style"]) == ("chat", "embedding", "release")
    ar = Contract.from_dict(of_ar(f"{name}-ar"))
    assert (ar.ar_bos, ar.ar_final_norm, ar.ar_state) == (True, "dropped", "raw")
    assert ar.origins["ar_final_norm"] == "release" and ar.pair is None


def test_a_sidecar_without_an_injection_is_of_no_family():
    """EasyNLA's sidecars say nothing of Add@1, and tiny-nla's of the same base and marker leave the scale null."""
    for repo, folder in ((EASYNLA, None), ("TuHan/tiny-nla", "nla/actor")):
        with pytest.raises(UnstatedFactError, match="`injection.site` is not stated") as refused:
            Contract.from_dict(of_av(repo, folder=folder))
        assert "embedding (" in str(refused.value) and "block (" in str(refused.value)


def test_a_sidecar_without_an_injection_is_recognised_once_it_is_stated():
    add = {"injection": {"site": "block", "block": 1, "rule": "add", "norm": "match"}}
    contract = Contract.from_dict(of_av(EASYNLA), given=add)
    assert (contract.prompt_style, contract.origins["prompt_style"]) == ("chat", "release")
    assert contract.injection.site == "block" and contract.activation_mean is None
    overwrites = Contract.from_dict(of_av(EASYNLA), given={"injection_scale": 300})
    assert overwrites.prompt_style == "chat" and overwrites.injection.site == "embedding"
    with pytest.raises(UnstatedPromptError, match="not its injection_scale"):
        Contract.from_dict(of_av(EASYNLA), given={"injection_scale": 160})


@pytest.mark.parametrize("of", ["kameshr", "nla-at-home"])
def test_families_of_one_base_layer_and_marker_are_not_taken_for_each_other(of):
    """Rows of Qwen2.5-7B at layer 20 with ㈎: the reference's fits neither another scale nor another template."""
    sidecar = of_av(f"{REFERENCE}-av", 150)
    if of == "kameshr":
        sidecar["extraction"]["injection_scale"] = 95.5
    else:
        sidecar["prompt_templates"]["av"] = known_release("anicka/nla-qwen2.5-7b-L20-av-v2")["av_template"].replace(
            "{depth}", "73"
        )
    with pytest.raises(UnstatedPromptError, match="Base, layer and marker are those of"):
        Contract.from_dict(sidecar)


def test_a_copy_that_fits_a_family_and_one_trained_on_from_it_gets_only_what_both_say():
    """The reference's AV, and those trained on from it that write untagged lines, have one sidecar."""
    contract = Contract.from_dict(of_av(f"{REFERENCE}-av", 150))
    assert contract.prompt_style == "chat" and contract.output_form is None and contract.max_new_tokens is None


def test_reconstructors_of_two_families_at_one_layer_are_left_open():
    """kitft and achand45 at layer 32 of Gemma 3: one prompt begins with BOS, the other does not.

    Both drop the norm, but that alone is not filled in: it would hide that the rest is open.
    """
    sidecar = of_ar("kitft/nla-gemma3-12b-L32-ar")
    assert sidecar == of_ar("achand45/gemma-3-12b-it-nla-L32", "rl_vllm/critic_latest")
    facts, near = recognise(
        {
            "role": "ar",
            "base_model": "google/gemma-3-12b-it",
            "layer": 32,
            "d_model": 3840,
            "ar_num_blocks": 33,
            "ar_template": known_release("kitft/nla-gemma3-12b-L32-ar")["ar_template"],
        }
    )
    assert facts == {}
    assert near.startswith("What is stated fits kitft/nla-gemma3-12b-L32-ar, achand45/") and "ar_bos" in near
    with pytest.raises(UnstatedFactError, match="`ar.final_norm` is not stated"):
        Contract.from_dict(sidecar)


def test_a_reconstructor_in_our_own_form_says_how_it_reads_and_is_of_no_release():
    """`ar_num_blocks` is our key, and what it leaves out means what docs/contract.md says."""
    entry = known_release("syvb/nanonla-qwen3-8b-L24-ar")
    own = {name: entry[name] for name in ("role", "base_model", "d_model", "layer", "ar_template", "ar_num_blocks")}
    contract = Contract.from_dict(own)
    assert (contract.ar_bos, contract.ar_state) == (True, "raw")


@pytest.mark.parametrize("change", [{"base_model": "owner/other"}, {"layer": 3}, {"d_model": 64}])
def test_a_reconstructor_at_another_place_is_none_of_them(change):
    entry = known_release(f"{REFERENCE}-ar")
    values = {name: entry[name] for name in ("role", "base_model", "layer", "d_model", "ar_template", "ar_num_blocks")}
    assert recognise(values)[0]["ar_bos"] is True
    assert recognise(values | change) == ({}, "")


def test_a_reconstructor_of_another_depth_is_a_near_miss():
    entry = known_release(f"{REFERENCE}-ar")
    values = {name: entry[name] for name in ("role", "base_model", "layer", "d_model", "ar_template", "ar_num_blocks")}
    facts, near = recognise(values | {"ar_num_blocks": 20})
    assert facts == {} and near == f"Base and layer are those of {REFERENCE}-ar, but not its ar_num_blocks"
