"""Every tensor of an adapter goes where it belongs, is shown to have no effect, or stops the adapter from loading."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nla_sdk import NLAPair
from nla_sdk.errors import AdapterMismatchError, LoadError, MissingFileError
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.weights.adapters.plan import plan_adapter
from tests import reference, tiny

NESTED, FLAT = "model.language_model.layers", "model.layers"
TEXT = "The cat sat on the mat."


@pytest.fixture(scope="module")
def folder(tmp_path_factory, gemma_base, gemma):
    """An adapter on every linear layer, with norms."""
    return tiny.lora_av(tmp_path_factory.mktemp("adapter") / "av", gemma_base, gemma, layer=4, norms=True)


@pytest.fixture
def copy(tmp_path, folder):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture
def backbone(gemma_base):
    return Backbone.load(gemma_base, device="cpu")


def states(backbone, adapter=None, block=tiny.GEMMA_BLOCKS - 1) -> torch.Tensor:
    ids = torch.tensor([backbone.tokenizer(TEXT).input_ids])
    with torch.no_grad(), backbone.using(adapter):
        return backbone.run_to_block(ids, block)[0]


def expected_states(backbone, base, adapter) -> torch.Tensor:
    ids = backbone.tokenizer(TEXT).input_ids
    return reference.states(reference.load(base, adapter), ids, tiny.GEMMA_BLOCKS - 1)


def configure(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_tensors(folder, change) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


# --- it goes where it belongs -------------------------------------------------------------------------------------
def test_an_adapter_acts_as_peft_makes_it_act(backbone, folder, gemma_base):
    bare = states(backbone)
    report = backbone.load_adapter("av", folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    assert (report.loaded, report.parameters) == (len(tensors), sum(tensor.numel() for tensor in tensors.values()))
    assert not report.inert
    adapted = states(backbone, "av")
    assert reference.distance(adapted, expected_states(backbone, gemma_base, folder)) < 1e-4
    assert reference.distance(adapted, bare) > 0.1
    assert torch.equal(states(backbone), bare), "with adapters off nothing of it is left"


@pytest.mark.parametrize("layout", ["base_model.model.", ""])
def test_an_adapter_saved_under_another_nesting_goes_to_the_same_place(backbone, copy, folder, gemma_base, layout):
    tiny.rename_tensors(copy, lambda key: layout + key.removeprefix("base_model.model.").replace(NESTED, FLAT))
    assert backbone.load_adapter("av", copy).loaded == len(load_file(folder / "adapter_model.safetensors"))
    assert reference.distance(states(backbone, "av"), expected_states(backbone, gemma_base, folder)) < 1e-4


def test_and_the_other_way_round(tmp_path, llama_base):
    model = tiny.plain_model(llama_base)
    folder = tiny.lora_av(tmp_path / "av", llama_base, model, layer=1, norms=True)
    expected = reference.load(llama_base, folder)
    renamed = shutil.copytree(folder, tmp_path / "renamed")
    tiny.rename_tensors(renamed, lambda key: key.replace(FLAT, NESTED))
    backbone = Backbone.load(llama_base, device="cpu")
    assert backbone.load_adapter("av", renamed).loaded == len(load_file(folder / "adapter_model.safetensors"))
    block = tiny.LLAMA_BLOCKS - 1
    found = states(backbone, "av", block)
    assert reference.distance(found, reference.states(expected, backbone.tokenizer(TEXT).input_ids, block)) < 1e-4


def test_a_saved_norm_outside_the_blocks_is_found_under_another_nesting_too(backbone, copy):
    norm = torch.full((tiny.D_MODEL,), 3.0)
    change_tensors(copy, lambda tensors: tensors.update({"base_model.model.model.norm.weight": norm}))
    backbone.load_adapter("av", copy)
    live = backbone.model.model.language_model.norm
    with backbone.using("av"):
        assert torch.equal(live.modules_to_save["av"].weight, norm)
    assert not torch.equal(live.original_module.weight, norm)


@pytest.mark.parametrize("nesting", [NESTED, FLAT])
def test_ranks_and_alphas_given_by_pattern_are_read_under_the_names_of_the_file(
    backbone, copy, folder, gemma_base, nesting
):
    special = f"{NESTED}.2.self_attn.q_proj"
    key = f"base_model.model.{special}.lora_"

    def narrow(tensors):
        tensors[f"{key}A.weight"], tensors[f"{key}B.weight"] = (
            tensors[f"{key}A.weight"][:4].clone(),
            tensors[f"{key}B.weight"][:, :4].clone(),
        )

    change_tensors(copy, narrow)
    configure(copy, rank_pattern={special: 4}, alpha_pattern={special: 64})
    expected = reference.load(gemma_base, copy)  # cached before the copy is renamed
    renamed = special.replace(NESTED, nesting)
    configure(copy, rank_pattern={renamed: 4}, alpha_pattern={renamed: 64})
    tiny.rename_tensors(copy, lambda name: name.replace(NESTED, nesting))
    backbone.load_adapter("av", copy)
    ids = backbone.tokenizer(TEXT).input_ids
    expected = reference.states(expected, ids, tiny.GEMMA_BLOCKS - 1)
    assert reference.distance(states(backbone, "av"), expected) < 1e-4


def test_two_adapters_with_the_same_saved_norms_each_have_their_own(backbone, folder, tmp_path, gemma_base, gemma):
    other = tiny.lora_av(tmp_path / "other", gemma_base, gemma, layer=4, norms=True, seed=40_000)
    bare = states(backbone)
    backbone.load_adapter("one", folder)
    backbone.load_adapter("two", other)
    for _ in range(2):
        assert reference.distance(states(backbone, "one"), expected_states(backbone, gemma_base, folder)) < 1e-4
        assert reference.distance(states(backbone, "two"), expected_states(backbone, gemma_base, other)) < 1e-4
        assert torch.equal(states(backbone), bare)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tensors_act_as_their_values_in_fp32(backbone, copy, tmp_path, gemma_base, dtype):
    change_tensors(copy, lambda tensors: tensors.update({key: tensor.to(dtype) for key, tensor in tensors.items()}))
    backbone.load_adapter("av", copy)
    assert all(parameter.dtype == torch.float32 for parameter in backbone.adapter_parameters("av").values())
    same = shutil.copytree(copy, tmp_path / "same in fp32")
    change_tensors(same, lambda tensors: tensors.update({key: tensor.float() for key, tensor in tensors.items()}))
    assert reference.distance(states(backbone, "av"), expected_states(backbone, gemma_base, same)) < 1e-4


def test_an_adapter_written_again_is_the_same_adapter(backbone, folder, tmp_path, gemma_base):
    backbone.load_adapter("av", folder)
    backbone.save_adapter("av", tmp_path)
    written, original = (load_file(f / "adapter_model.safetensors") for f in (tmp_path, folder))
    assert written.keys() == original.keys()
    assert all(torch.equal(written[key], original[key]) for key in original)
    again = Backbone.load(gemma_base, device="cpu")
    again.load_adapter("av", tmp_path)
    torch.testing.assert_close(states(again, "av"), states(backbone, "av"))
    assert reference.distance(expected_states(backbone, gemma_base, tmp_path), states(backbone, "av")) < 1e-4


# --- it has no effect ---------------------------------------------------------------------------------------------
def test_what_has_no_effect_is_left_out_and_listed_with_the_reason(backbone, copy, gemma_base, folder):
    prefix, vector = "base_model.model.model", torch.ones(tiny.D_MODEL)
    a, b = torch.ones(tiny.RANK, tiny.D_MODEL), torch.ones(64, tiny.RANK)
    inert = {
        f"{prefix}.vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight": (a, "vision or audio tower"),
        f"{prefix}.audio_tower.layers.99.norm.weight": (vector, "vision or audio tower"),
        f"{prefix}.language_model.layers.4.self_attn.k_proj.lora_A.weight": (a, "block 4 takes its keys and values"),
        f"{prefix}.language_model.layers.4.self_attn.k_proj.lora_B.weight": (b, "block 4 takes its keys and values"),
        f"{prefix}.language_model.layers.5.self_attn.k_norm.weight": (vector, "block 5 takes its keys and values"),
        f"{prefix}.language_model.layers.0.self_attn.v_norm.weight": (vector, "has no parameters"),
    }
    change_tensors(copy, lambda tensors: tensors.update({key: tensor.clone() for key, (tensor, _) in inert.items()}))
    report = backbone.load_adapter("av", copy)
    assert report.inert.keys() == inert.keys()
    for key, (_, reason) in inert.items():
        assert reason in report.inert[key]
    assert reference.distance(states(backbone, "av"), expected_states(backbone, gemma_base, folder)) < 1e-4


def test_blocks_that_never_run_are_left_out_and_listed(pair):
    report = pair.adapter_reports["ar"]
    assert {re.search(r"layers\.(\d+)", key)[1] for key in report.inert} == {"5"}
    assert set(report.inert.values()) == {"block 5 never runs (the AR stops after block 4)"}
    assert not any(".layers.5." in key for key in pair.reconstructor.backbone.adapter_parameters("ar"))
    assert not pair.adapter_reports["av"].inert


# --- it is refused ------------------------------------------------------------------------------------------------
def drop(part):
    return lambda tensors: [tensors.pop(key) for key in list(tensors) if part in key]


def rename(old, new):
    return lambda tensors: tensors.update(
        {key.replace(old, new): tensors.pop(key) for key in list(tensors) if old in key}
    )


def reshape(part, shape):
    return lambda tensors: tensors.update({key: torch.ones(shape) for key in list(tensors) if part in key})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            rename("layers.2.self_attn.q_proj", "layers.2.self_attn.query"),
            r"2 of 90 adapter tensors in .* fit nowhere in .*Gemma4ForConditionalGeneration\), so the adapter is not "
            r"loaded:\n  .*layers\.2\.self_attn\.query\.lora_A\.weight: no module .*\n.*lora_B"
            r"(.|\n)*check the contract's base_model",
        ),
        (rename("layers.5.", "layers.6."), r"block 6 of a model with 6 blocks(.|\n)*… and \d+ more"),
        (rename("layers.", "stages."), "no module 'model.language_model.stages.0"),
        (rename("lora_A", "lora_X"), "no module|not the name of a LoRA matrix"),
        (
            reshape("layers.1.mlp.up_proj.lora_A", (tiny.RANK, 96)),
            r"shape \(8, 96\) does not fit .*up_proj', which is 64 → 128",
        ),
        (
            reshape("layers.1.mlp.up_proj.lora_B", (96, tiny.RANK)),
            r"shape \(96, 8\) does not fit .*up_proj', which is 64 → 128",
        ),
        (reshape("layers.1.input_layernorm", (96,)), r"shape \(96,\), the model's .*input_layernorm' has \(64,\)"),
        (drop("layers.3.mlp.up_proj.lora_B"), r"3\.mlp\.up_proj: lora_B\.weight is missing, half a LoRA is not loaded"),
        (drop("layers.3.mlp.up_proj.lora_A"), r"3\.mlp\.up_proj: lora_A\.weight is missing, half a LoRA is not loaded"),
        (drop("layers.3.mlp"), r"3\.mlp\.up_proj: adapter_config\.json targets it, the file has no tensors for it"),
        (
            reshape("layers.1.mlp.up_proj.lora_A", (4, 64)),
            r"1\.mlp\.up_proj: rank 4 and 8, adapter_config\.json says 8",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_and_leaves_the_model_as_it_was(
    backbone, copy, folder, change, message
):
    bare, modules = states(backbone), [name for name, _ in backbone.model.named_modules()]
    change_tensors(copy, change)
    with pytest.raises(AdapterMismatchError, match=message):
        backbone.load_adapter("av", copy)
    assert [name for name, _ in backbone.model.named_modules()] == modules
    assert torch.equal(states(backbone), bare)
    assert not backbone.reports
    backbone.load_adapter("av", folder)  # and one that fits can still be loaded


def test_another_rank_than_the_configs_is_refused(backbone, copy):
    configure(copy, r=16)
    with pytest.raises(
        AdapterMismatchError, match=r"do not agree:\n  .*: rank 8, adapter_config.json says 16(.|\n)*Download it"
    ):
        backbone.load_adapter("av", copy)


@pytest.mark.parametrize("fields", [{"target_modules": ["v_proj"]}, {"exclude_modules": ["q_proj"]}])
def test_tensors_that_the_config_leaves_out_are_neither_dropped_nor_applied(backbone, copy, fields):
    configure(copy, **fields)
    with pytest.raises(AdapterMismatchError, match=r"q_proj: the file has tensors for it, .* does not target it"):
        backbone.load_adapter("av", copy)


def test_an_adapter_without_any_effect_is_refused(backbone, copy):
    change_tensors(copy, drop("layers."))
    change_tensors(copy, lambda tensors: tensors.update({"model.vision_tower.q.lora_A.weight": torch.ones(1)}))
    with pytest.raises(AdapterMismatchError, match="No tensor of .*adapter_model.safetensors has any effect on"):
        backbone.load_adapter("av", copy)


def test_an_adapter_for_another_base_is_refused_by_the_pair(tmp_path, copy, llama_base):
    with pytest.raises(AdapterMismatchError, match="fit nowhere in .*LlamaForCausalLM(.|\n)*or pass base="):
        NLAPair.from_pretrained(copy, base=llama_base)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_both_files_are_needed(backbone, copy, name):
    (copy / name).unlink()
    with pytest.raises(MissingFileError, match=f"holds no {name}; expected a PEFT LoRA adapter"):
        backbone.load_adapter("av", copy)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("adapter_config.json", "{", "adapter_config.json is not valid JSON"),
        ("adapter_config.json", '{"peft_type": "IA3"}', "describes 'IA3'; expected peft_type 'LORA'"),
        ("adapter_config.json", "[]", "describes 'list'; expected peft_type 'LORA'"),
        ("adapter_model.safetensors", "version https://git-lfs", "is a Git LFS pointer"),
    ],
)
def test_damaged_files_are_refused_by_name(backbone, copy, name, content, message):
    (copy / name).write_text(content)
    with pytest.raises(LoadError, match=message):
        backbone.load_adapter("av", copy)


# --- the seed's geometry ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def e2b():
    """Gemma-4-E2B's text model as modules without memory."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(tiny.e2b_config())


def shapes_of(model, pattern: str, rank: int = 64) -> dict[str, tuple[int, int]]:
    """The tensors that training this pattern leaves behind."""
    shapes = {}
    for name, module in model.named_modules():
        if re.fullmatch(pattern, name):
            shapes[f"base_model.model.{name}.lora_A.weight"] = (rank, module.in_features)
            shapes[f"base_model.model.{name}.lora_B.weight"] = (module.out_features, rank)
    return shapes


@pytest.mark.parametrize(
    ("pattern", "tensors", "parameters"), [(tiny.ATTENTION, 200, 21_430_272), (tiny.EVERY_LINEAR, 410, 96_632_832)]
)
@pytest.mark.parametrize("nesting", [NESTED, FLAT])
def test_on_e2b_the_released_adapters_are_accounted_for_to_the_last_tensor(e2b, pattern, tensors, parameters, nesting):
    shapes = {key.replace(NESTED, nesting): shape for key, shape in shapes_of(e2b, pattern).items()}
    assert len(shapes) == tensors
    assert sum(a * b for a, b in shapes.values()) == parameters
    plan = plan_adapter(e2b, shapes)
    assert (len(plan.slots), plan.inert, plan.misfits) == (tensors, {}, {})
    assert len({*plan.slots.values()}) == tensors, "no two tensors go to one place"
    assert all(module.startswith(f"{NESTED}.") for module, _ in plan.slots.values())


def test_on_e2b_the_ar_takes_its_18_blocks_and_lists_the_rest(e2b):
    shapes = shapes_of(e2b, tiny.ATTENTION)
    plan = plan_adapter(e2b, shapes, num_blocks_run=18)
    assert not plan.misfits
    assert plan.slots.keys() | plan.inert.keys() == shapes.keys()
    blocks = {key: int(re.search(r"layers\.(\d+)", key)[1]) for key in shapes}
    assert all((blocks[key] < 18) == (key in plan.slots) for key in shapes)
    assert len(plan.slots) == 2 * (2 * 18 + 2 * 15), "q and o of 18 blocks, k and v of the 15 that have their own"
    assert plan.inert[f"base_model.model.{NESTED}.18.self_attn.q_proj.lora_A.weight"].startswith("block 18 never runs")


def test_on_e2b_k_and_v_of_kv_shared_blocks_are_inert(e2b):
    key = f"base_model.model.{NESTED}.15.self_attn.k_proj.lora_A.weight"
    assert "earlier block" in plan_adapter(e2b, {key: (64, 1536)}).inert[key]
