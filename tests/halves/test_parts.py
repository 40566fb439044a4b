"""What a half's weights consist of and sit on, on disk and on a Hub: adapters in subfolders, parents elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from nla_sdk import NLAPair
from nla_sdk.contract import Contract
from nla_sdk.errors import ContractMismatchError, MissingFileError, MissingParentError, UnstatedFactError
from nla_sdk.halves.fetch import fetch_half
from nla_sdk.halves.parts import refuse_unstated_parent, same_model, trained_on
from tests import reference, tiny
from tests.merged import merged

pytest_plugins = ["tests.hub.fixtures"]
LAYER = tiny.LLAMA_LAYER


@pytest.fixture(scope="module")
def llama(llama_base):
    return tiny.plain_model(llama_base)


@pytest.fixture
def release(tmp_path, llama_base, llama):
    """A repository with two adapters in subfolders, of which the AV's contract says that both are active."""
    repo = tmp_path / "release"
    tiny.lora_av(repo / "rl", llama_base, llama, layer=LAYER, seed=100, weights={"adapters": ["sft", "rl"]})
    tiny.write_adapter(repo / "sft", tiny.lora_tensors(llama, tiny.ATTENTION, 5000), tiny.ATTENTION, use_rslora=True)
    return repo


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def by_hand(pair, model, rows) -> list[str]:
    tokenizer = pair.verbalizer.backbone.tokenizer
    prompt, marker = reference.av_prompt(tokenizer), tokenizer.convert_tokens_to_ids(tiny.MARKER)
    written = [reference.write(model, prompt, marker, reference.scaled(row), 12) for row in rows]
    return [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in written]


def rows(count: int = 3) -> torch.Tensor:
    return tiny.random(count, tiny.D_MODEL, seed=8, scale=2.0)


# --- several adapters ---------------------------------------------------------------------------------------------
def test_adapters_of_one_repository_are_active_together(release, llama_base):
    pair = NLAPair.from_pretrained(release / "rl")
    expected = by_hand(pair, merged(llama_base, release / "sft", release / "rl"), rows())
    assert pair.explain(rows()) == expected
    assert expected != by_hand(pair, merged(llama_base, release / "rl"), rows()), "both must matter"
    assert [folder.name for folder in pair.av.adapters] == ["sft", "rl"]
    assert [pair.explain(row) for row in rows()] == expected


def test_a_contract_above_its_adapters_is_a_half(release, llama_base):
    shutil.move(release / "rl" / "nla_meta.yaml", release / "nla_meta.yaml")
    pair = NLAPair.from_pretrained(release)
    assert pair.explain(rows()) == by_hand(pair, merged(llama_base, release / "sft", release / "rl"), rows())


def test_adapters_of_a_repository_and_of_another_are_found_on_the_hub(hub, release, llama_base):
    tiny.write_sidecar(release / "rl", weights={"adapters": ["ada/warm/sft", "rl"]})
    hub.add("ada/release", {name: data for name, data in files(release).items() if name.startswith("rl/")})
    hub.add("ada/warm", {name: data for name, data in files(release).items() if name.startswith("sft/")})
    pair = NLAPair.from_pretrained("ada/release/rl")
    assert pair.explain(rows()) == by_hand(pair, merged(llama_base, release / "sft", release / "rl"), rows())


def test_a_half_of_several_adapters_is_saved_whole(release, tmp_path):
    pair = NLAPair.from_pretrained(release / "rl")
    expected = pair.explain(rows())
    pair.save_pretrained(tmp_path / "saved")
    shutil.rmtree(release)
    again = NLAPair.from_pretrained(tmp_path / "saved")
    assert again.explain(rows()) == expected
    assert Contract.load(tmp_path / "saved" / "av").weights_adapters == ["adapter_1", "adapter_2"]
    again.save_pretrained(tmp_path / "more")
    again.save_pretrained(tmp_path / "more", overwrite=True)


def test_an_adapter_that_is_named_and_not_there_is_an_error(release):
    shutil.rmtree(release / "sft")
    with pytest.raises(MissingFileError, match="has no folder sft"):
        NLAPair.from_pretrained(release / "rl")


def test_an_adapter_beside_the_contract_that_it_does_not_name_is_an_error(release):
    tiny.write_sidecar(release / "rl", weights={"adapters": ["sft"]})
    with pytest.raises(ContractMismatchError, match=r"`weights\.adapters` is \['sft'\], without the adapter that lies"):
        NLAPair.from_pretrained(release / "rl")


def test_a_contract_that_calls_an_adapter_full_is_refused(release):
    tiny.write_sidecar(release / "rl", weights="full")
    with pytest.raises(ContractMismatchError, match=r"`weights\.kind` is full, and .*rl holds a LoRA adapter"):
        NLAPair.from_pretrained(release / "rl")


def test_an_adapter_without_a_config_needs_alpha_and_rslora_stated(release):
    shutil.move(release / "rl" / "adapter_model.safetensors", release / "rl" / "ar_lora_value_head.safetensors")
    (release / "rl" / "adapter_config.json").unlink()
    tiny.write_sidecar(release / "rl", weights={"kind": "lora"})
    with pytest.raises(UnstatedFactError, match=r"`weights\.alpha` is not stated: the adapter's alpha"):
        NLAPair.from_pretrained(release / "rl", contract={"weights.rslora": True})


# --- parents ------------------------------------------------------------------------------------------------------
@pytest.fixture
def on_parent(tmp_path, llama_base, llama):
    """An AV adapter that sits on a full checkpoint in the folder beside it, and an AR on the base."""
    repo = tmp_path / "rl"
    tuned = tiny.write_adapter(tmp_path / "w", tiny.lora_tensors(llama, tiny.ATTENTION, 5000), tiny.ATTENTION)
    merged(llama_base, tuned).save_pretrained(repo / "av_base")  # without a tokenizer
    tiny.lora_av(repo / "av", llama_base, llama, layer=LAYER, seed=100, weights={"parent": "av_base"})
    tiny.lora_ar(repo / "ar", llama_base, llama, layer=LAYER, blocks=2)
    shutil.copytree(llama_base, tmp_path / "tokens")
    for file in llama_base.glob("*token*"):
        shutil.copy(file, repo / "av")
    return repo


def test_an_adapter_runs_on_its_parent_and_all_else_on_the_base(on_parent, llama_base):
    pair = NLAPair.from_pretrained(on_parent / "av", on_parent / "ar")
    assert pair.explain(rows()) == by_hand(pair, merged(on_parent / "av_base", on_parent / "av"), rows())
    assert pair.explain(rows()) != by_hand(pair, merged(llama_base, on_parent / "av"), rows())
    assert pair.verbalizer.backbone is not pair.source and pair.reconstructor.backbone is pair.source
    ids = pair.source.tokenizer("<bos>Go", add_special_tokens=False).input_ids
    expected = reference.states(reference.load(llama_base), ids, LAYER)
    assert reference.distance(pair.extract("Go", "all").vectors, expected) < 1e-4


def test_a_parent_in_another_repository_is_fetched(hub, on_parent):
    hub.add("ada/warm", {f"av/{name}": data for name, data in files(on_parent / "av_base").items()})
    tiny.write_sidecar(on_parent / "av", weights={"parent": "ada/warm/av"})
    hub.add("ada/rl", files(on_parent / "av"))
    pair = NLAPair.from_pretrained("ada/rl")
    assert pair.explain(rows()) == by_hand(pair, merged(on_parent / "av_base", on_parent / "av"), rows())
    assert hub.downloads("ada/warm") == {"av/config.json", "av/generation_config.json", "av/model.safetensors"}


def test_a_parent_that_is_not_there_is_never_replaced_by_the_base(hub, on_parent):
    tiny.write_sidecar(on_parent / "av", weights={"parent": "ada/warm/av"})
    said = (
        r"was trained on top of ada/warm/av, and that could not be had: .*contract=\{'weights\.parent': 'owner/name'\}"
    )
    with pytest.raises(MissingParentError, match=said):
        NLAPair.from_pretrained(on_parent / "av")


def test_a_parent_that_is_an_adapter_is_refused_with_what_may_be_meant(on_parent, tmp_path):
    tiny.write_sidecar(on_parent / "av", weights={"parent": "ar"})
    with pytest.raises(MissingParentError, match=r"which is a LoRA adapter and no full checkpoint.*weights\.adapters"):
        NLAPair.from_pretrained(on_parent / "av")


def test_a_half_on_a_parent_is_saved_with_it(on_parent, tmp_path):
    pair = NLAPair.from_pretrained(on_parent / "av", on_parent / "ar")
    expected = pair.explain(rows())
    pair.save_pretrained(tmp_path / "saved")
    shutil.rmtree(on_parent)
    assert NLAPair.from_pretrained(tmp_path / "saved").explain(rows()) == expected


# --- what an adapter says it was trained on -------------------------------------------------------------------------
def says(folder: Path, name: str | None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": name}))
    return folder


@pytest.mark.parametrize(
    "said",
    [
        "Qwen/Qwen3-8B",
        "qwen/qwen3-8b",
        "unsloth/Qwen3-8B",
        "unsloth/Qwen3-8B-unsloth-bnb-4bit",
        "somebody/Qwen3-8B-FP8",
        "/root/models/sft",
        "./out",
        "outputs/sft",
        "train/sft/step_300",
        "runs/checkpoint-500",
        "merged",
        "C:\\models\\sft",
        "",
        None,
    ],
)
def test_the_base_its_mirrors_and_folders_of_training_pass(tmp_path, said):
    refuse_unstated_parent(says(tmp_path, said), "ada/av", "Qwen/Qwen3-8B", None, local_files_only=True)


@pytest.mark.parametrize("said", ["ceselder/nanonla-av", "Qwen/Qwen3-4B", "Qwen/Qwen3-8B-Base", "ada/qwen3-8b-sft"])
def test_another_repository_is_an_unstated_parent(tmp_path, said):
    folder = says(tmp_path, said)
    message = rf"ada/av: its adapter_config.json says it was trained on {said}, and it is of the base Qwen/Qwen3-8B"
    with pytest.raises(MissingParentError, match=message) as caught:
        refuse_unstated_parent(folder, "ada/av", "Qwen/Qwen3-8B", None, local_files_only=True)
    assert f"contract={{'weights.parent': '{said}'}}" in str(caught.value)
    refuse_unstated_parent(folder, "ada/av", "Qwen/Qwen3-8B", said, local_files_only=True)
    refuse_unstated_parent(folder, "ada/av", "Qwen/Qwen3-8B", f"{said}/av", local_files_only=True)
    refuse_unstated_parent(folder, "ada/av", "Qwen/Qwen3-8B", "base", local_files_only=True)


def test_a_stated_parent_that_is_not_the_one_it_was_trained_on_is_refused(tmp_path):
    with pytest.raises(MissingParentError, match="trained on lab/sft-1, and it is stated to sit on lab/sft-2"):
        refuse_unstated_parent(says(tmp_path, "lab/sft-1"), "a", "Qwen/Qwen3-8B", "lab/sft-2", local_files_only=True)


def test_names_of_one_model():
    assert same_model("unsloth/Meta-Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct")
    assert not same_model("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct")


def test_what_is_no_config_says_nothing_here(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{")
    assert trained_on(tmp_path) is None


def test_the_word_base_puts_an_adapter_on_the_base(hub, on_parent, llama_base):
    hub.add("lab/model", files(llama_base))
    tiny.write_sidecar(on_parent / "av", "weights", base_model="lab/model")
    config = on_parent / "av" / "adapter_config.json"
    config.write_text(config.read_text().replace('"tiny"', '"lab/warm-start"'))
    with pytest.raises(MissingParentError, match="trained on lab/warm-start, and it is of the base lab/model"):
        NLAPair.from_pretrained(on_parent / "av")
    pair = NLAPair.from_pretrained(on_parent / "av", contract={"weights.parent": "base"})
    assert pair.explain(rows()) == by_hand(pair, merged(llama_base, on_parent / "av"), rows())


# --- a table's sidecar beside a checkpoint ----------------------------------------------------------------------------
def test_a_tables_sidecar_is_used_once_somebody_says_what_it_lies_beside(on_parent, llama_base):
    """EasyNLA leaves the sidecar of its training table beside a checkpoint, which does not say how that is run."""
    folder = on_parent / "av"
    tiny.write_sidecar(folder, "role", "injection_scale", "weights", kind="nla_dataset")
    with pytest.raises(UnstatedFactError, match=r"`injection\.site` is not stated"):
        NLAPair.from_pretrained(folder)
    stated = {"role": "av", "injection": {"site": "embedding", "norm": "sqrt_d"}}
    pair = NLAPair.from_pretrained(folder, contract=stated)
    assert pair.explain(rows()) == by_hand(pair, merged(llama_base, folder), rows())


def test_new_names_are_downloaded_and_no_other_pickles(hub):
    wanted = {"ar_meta.json", "ao_config.json", "nla_config.json", "training_config.yaml", "value_head.pt"}
    wanted |= {"value_heads.pt"}
    wanted |= {"layer_means.pt", "centre_mean.npy", "value_heads.safetensors", "adapter_config.json"}
    wanted |= {"adapter_model.safetensors"}
    unwanted = {"optimizer.pt", "scheduler.pt", "trainer_state.pt", "modeling.py"}
    hub.add("ada/av", {name: f"content of {name}" for name in wanted | unwanted})
    assert {path.name for path in fetch_half("ada/av").path.iterdir()} == wanted


def test_an_ars_lora_with_its_head_is_a_checkpoint(tmp_path):
    (tmp_path / "ar_lora_value_head.safetensors").write_bytes(b"x")
    assert fetch_half(tmp_path).path == tmp_path
