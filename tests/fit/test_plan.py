"""The memory plan says what a run takes: checked against real quantised weights, adapters, optimizers and steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import Gemma3TextConfig

from nla_sdk.errors import InputError, LoadError
from nla_sdk.model.backbone import Backbone
from tests import tiny
from tests.commands import invoke as invoke_command
from training.configs.config import Config
from training.configs.fit import Lora
from training.fit.plan import dry_run, footprint
from training.fit.plan import estimate as planning
from training.fit.plan.__main__ import command
from training.fit.plan.estimate import GIB, plan

E2B_CONFIG = Path(__file__).parents[2] / "training" / "configs" / "gemma4_e2b.yaml"
ROW = {"batch": 1, "length": 48, "response_tokens": 20}


def config_of(**changes) -> Config:
    lora = {"r": 8, "dropout": 0.05}
    halves = {
        "av": {"template": "{injection_char}", "lora": lora},
        "ar": {"template": "{explanation}", "num_blocks": 1, "lora": lora},
    }
    facts = {"base": "tiny/llama", "layer": 1, "out": "runs/none", "extract": {"sources": [{"corpus": "none"}]}}
    return Config.model_validate(facts | halves | changes)


def tiny_plan(role="av", config=None, base_config=None, **options):
    return plan(config or config_of(), role, base_config=base_config or tiny.llama_config(2), **(ROW | options))


def gemma_plan(role="av", **options):
    config = config_of(ar={"template": "{explanation}", "num_blocks": 4, "lora": {"r": 8}})
    return tiny_plan(role, config, tiny.gemma_config(), **options)


def sizes(planned) -> dict[str, int]:
    return {line.name: line.bytes for line in (*planned.lines, *planned.ram)}


# --- the seed's geometry ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def e2b():
    config, base = Config.load(E2B_CONFIG), tiny.e2b_config()
    return {
        role: plan(config, role, base_config=base, **planning.settings_of(config, role) | {"batch": 1})
        for role in ("av", "ar")
    }


@pytest.mark.parametrize("role", ["av", "ar"])
def test_gemma_4_e2b_trains_on_4_gib_with_its_table_in_ram(e2b, role):
    planned = e2b[role]
    assert " 1 × 512 tokens, LoRA r=64, nf4" in planned.title
    assert planned.fits and planned.total <= 4.0 * GIB and not planned.advice
    assert planned.total > 2.0 * GIB, "less would be a plan that forgot something"
    found = sizes(planned)
    assert found["per-layer embedding table"] == 262_144 * 8960 * 2 + 2  # and its scale
    assert 262_144 * 1536 * 2 < found["weights, bfloat16"] < 262_144 * 1536 * 2.01, "the tied embedding, once"


def test_its_adapters_are_the_released_ones(e2b):
    assert sizes(e2b["av"])["LoRA, fp32"] == 4 * 96_632_832  # 35 blocks, no k/v and double width where KV is shared
    per_block = 64 * ((1536 + 2048) + 2 * (1536 + 256) + (2048 + 1536))
    per_full_block = 64 * ((1536 + 4096) + 2 * (1536 + 512) + (4096 + 1536))
    shared = 64 * 2 * (1536 + 2048)  # blocks 15, 16, 17 have neither keys nor values of their own
    assert sizes(e2b["ar"])["LoRA, fp32"] == 4 * (12 * per_block + 3 * per_full_block + 3 * shared)


def test_its_table_can_be_read(e2b):
    text = e2b["av"].table()
    assert "peak, GPU" in text and "fits in 4.00 GiB" in text and "per-layer embedding table" in text
    assert all(len(line) <= 120 for line in text.splitlines())


# --- against what is really there ---------------------------------------------------------------------------------
def stored_bytes(backbone) -> int:
    """Of all parameters and buffers, tied ones once, with bitsandbytes' quantisation state."""
    tensors = {id(tensor): tensor for tensor in (*backbone.model.parameters(), *backbone.model.buffers())}
    total = sum(tensor.nbytes for tensor in tensors.values())
    for tensor in tensors.values():
        if state := getattr(tensor, "quant_state", None):
            parts = (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
            total += sum(part.nbytes for part in parts)
    return total


@pytest.mark.parametrize("quantization", ["nf4", None])
def test_weights_are_those_of_a_loaded_model(gemma_base, quantization):
    if quantization:
        pytest.importorskip("bitsandbytes")
    backbone = Backbone.load(gemma_base, quantization=quantization, device="cpu", dtype="bfloat16")
    found = sizes(gemma_plan(quantization=quantization, dtype="bfloat16", device="cpu"))
    planned = sum(found.get(name, 0) for name in ("weights, NF4", "their scales", "weights, bfloat16"))
    assert planned == pytest.approx(stored_bytes(backbone), rel=0.02)


def real_adapter(gemma_base, role, quantization=None, dtype="float32"):
    backbone = Backbone.load(gemma_base, quantization=quantization, device="cpu", dtype=dtype)
    half = getattr(config_of(), role)
    return backbone, dry_run.add_lora(backbone, half, 4 if role == "ar" else None)


@pytest.mark.parametrize("role", ["av", "ar"])
def test_adapters_gradients_and_adamw_states_are_those_of_a_real_step(gemma_base, role):
    backbone, parameters = real_adapter(gemma_base, role)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW(parameters)
    optimizer.step()
    states = [value for state in optimizer.state.values() for key, value in state.items() if key != "step"]
    found = sizes(gemma_plan(role, optimizer="adamw"))
    assert found["LoRA, fp32"] == sum(parameter.nbytes for parameter in parameters)
    assert found["their gradients, fp32"] == sum(parameter.grad.nbytes for parameter in parameters)
    assert found["their states, adamw"] == sum(state.nbytes for state in states)


def test_8_bit_states_are_those_bitsandbytes_makes():
    optimizers = pytest.importorskip("bitsandbytes").optim
    parameters = [nn.Parameter(torch.zeros(size)) for size in (4095, 4096, 5000, 70_001)]
    optimizer = optimizers.AdamW8bit(parameters)
    made = {}
    for at, parameter in enumerate(parameters):
        parameter.grad = torch.zeros_like(parameter)
        optimizer.init_state(optimizer.param_groups[0], parameter, 0, at)
        for key, value in optimizer.state[parameter].items():
            if isinstance(value, torch.Tensor):
                made[key if key.startswith("qmap") else (at, key)] = value.nbytes
    assert footprint.optimizer_bytes((4095, 4096, 5000, 70_001), "adamw8bit") == sum(made.values())


@pytest.mark.parametrize(
    ("role", "quantization", "checkpointing"), [("av", "nf4", True), ("ar", "nf4", True), ("av", None, False)]
)
def test_a_dry_step_allocates_what_a_real_step_does(gemma_base, role, quantization, checkpointing):
    if quantization:
        pytest.importorskip("bitsandbytes")
    real, _ = real_adapter(gemma_base, role, quantization, "bfloat16")
    dry = dry_run.build(tiny.gemma_config(), torch.bfloat16, quantization)
    dry_run.add_lora(dry, getattr(config_of(), role), 4 if role == "ar" else None)
    shape = {"num_blocks": 4 if role == "ar" else 6, "batch": 2, "length": 64, "scored": 40, "logit_slice": 16}
    steps = []
    for backbone in (dry, real):
        head = nn.Linear(tiny.D_MODEL, tiny.D_MODEL, device=backbone.device) if role == "ar" else None
        steps.append(dry_run.dry_run(backbone, head, **shape, checkpointing=checkpointing))
    planned, measured = steps
    assert planned.loss == measured.loss
    if checkpointing:
        assert planned.kept == measured.kept
    # Without a GPU at hand attention is planned as plain matrix products, the most any kernel takes.
    assert measured.kept <= planned.kept <= 1.5 * measured.kept
    assert measured.backward <= planned.backward <= 1.5 * measured.backward


def test_the_meter_sees_what_comes_and_goes():
    weight = torch.zeros(100, 100)
    with dry_run.Meter([weight]) as meter:
        view = weight.T
        assert (meter.live, meter.peak) == (0, 0)
        first = view + 1
        second = first[:50] * 2
        assert meter.live == meter.peak == 40_000 + 20_000
        del first
        assert (meter.live, meter.take_peak()) == (20_000, 60_000)
        assert meter.peak == 20_000
        del second
    assert meter.live == 0


# --- knobs --------------------------------------------------------------------------------------------------------
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    role=st.sampled_from(["av", "ar"]),
    knob=st.sampled_from(["length", "batch", "rank"]),
    pair=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    checkpointing=st.booleans(),
)
def test_more_never_takes_less(role, knob, pair, checkpointing):
    totals = []
    for value in sorted(pair):
        config = config_of()
        if knob == "rank":
            half = getattr(config, role)
            # In 32 bits: bitsandbytes takes 8 from 4096 numbers a tensor on, so that there more may take less.
            changed = half.model_copy(update={"lora": Lora(r=value), "optimizer": "adamw"})
            config = config.model_copy(update={role: changed})
        options = {} if knob == "rank" else {knob: value}
        totals.append(tiny_plan(role, config, checkpointing=checkpointing, **options).total)
    assert totals[0] <= totals[1] and (totals[0] < totals[1] or pair[0] == pair[1])


def test_advice_names_only_what_helps_and_is_true():
    config = config_of(av={"template": "x", "lora": {"r": 64}})  # of less, 8 bits would be fp32 in so small a model
    options = {
        "config": config,
        "base_config": tiny.llama_config(2, vocab_size=4096),
        "cuda_context_gib": 0.0,
        "batch": 2,
        "optimizer": "adamw",
        "quantization": None,
    }
    options |= {"length": 200, "response_tokens": 100, "checkpointing": False}
    most = tiny_plan(gpu_gib=1e-9, **options)
    said = [line.split(":")[0] for line in most.advice]
    alone = {
        "batch 2 → 1": {"batch": 1},
        "length 200 → 100": {"length": 100},
        "gradient checkpointing": {"checkpointing": True},
        "the 8-bit optimizer": {"optimizer": "adamw8bit"},
        "an NF4 base": {"quantization": "nf4"},
    }
    assert {*alone, "lora.r 64 → 32"} <= set(said)
    totals = {name: tiny_plan(gpu_gib=1, **(options | change)).total for name, change in alone.items()}
    assert all(total < most.total for total in totals.values())
    in_order = [totals[name] for name in said if name in totals]
    assert in_order == sorted(in_order), "what brings most comes first"
    assert said[-1] == "all of these together" and most.advice[-1].endswith("does not fit")
    least = min(totals, key=totals.get)
    enough = tiny_plan(gpu_gib=totals[least] / GIB + 1e-9, **options)
    assert enough.advice[0].startswith(f"{least}:") and enough.advice[0].endswith(": fits")
    assert not any("together" in line for line in enough.advice)


def test_advice_keeps_quiet_about_what_is_set_or_brings_nothing():
    advice = tiny_plan("ar", gpu_gib=1e-9, optimizer="adamw8bit", quantization="nf4").advice
    assert advice and not [
        line for line in advice if line.startswith(("batch", "logit", "gradient", "the 8", "an NF4"))
    ]
    smallest = config_of(ar={"template": "{explanation}", "lora": {"r": 1}})
    advice = tiny_plan("ar", smallest, gpu_gib=1e-9, length=1).advice
    assert advice == ("none of the settings: it takes a smaller base or more memory",)


def test_logits_cost_by_the_slice():
    base = tiny.llama_config(2, vocab_size=32_768)
    options = {"base_config": base, "length": 100, "response_tokens": 80}
    logits = [sizes(tiny_plan(logit_slice=size, **options))["logits"] for size in (20, 40, 80, 160)]
    assert logits[1] == pytest.approx(2 * logits[0], rel=0.02) and logits[2] == pytest.approx(4 * logits[0], rel=0.02)
    assert logits[3] == logits[2], "a slice is never more than there is"


# --- other bases, other devices -----------------------------------------------------------------------------------
GEMMA_3 = Gemma3TextConfig(
    vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=32, sliding_window=8,
)  # fmt: skip


@pytest.mark.parametrize(("role", "base"), [("av", GEMMA_3), ("ar", GEMMA_3), ("ar", tiny.llama_config(2))])
def test_other_families_need_no_table_in_ram(role, base):
    planned = tiny_plan(role, base_config=base)
    assert planned.fits and [line.name for line in planned.ram] == ["while loading"]
    assert {"LoRA, fp32", "kept for the backward", "backward of a block"} <= sizes(planned).keys()


def test_on_a_cpu_all_is_ram():
    gpu, cpu = gemma_plan(), gemma_plan(device="cpu", quantization=None)
    assert "CUDA context" in sizes(gpu) and "CUDA context" not in sizes(cpu)
    assert "per-layer embedding table" in sizes(gpu) and "per-layer embedding table" not in sizes(cpu)
    assert not cpu.ram and "peak, RAM" in cpu.table()
    assert {"weights, float32", "their states, adamw"} <= sizes(cpu).keys()
    backbone = dry_run.build(tiny.gemma_config(), torch.float32, None)
    tensors = {id(tensor): tensor for tensor in (*backbone.model.parameters(), *backbone.model.buffers())}
    assert sizes(cpu)["weights, float32"] == sum(tensor.nbytes for tensor in tensors.values())


def test_the_configs_own_settings_are_read():
    config = config_of(av={"template": "x", "max_new_tokens": 33})
    read = planning.settings_of(config, "av")
    assert (read["length"], read["response_tokens"], read["quantization"]) == (512, 33, "nf4")
    assert planning.settings_of(config, "ar")["length"] == config.ar.max_length

    assert (read["batch"], read["checkpointing"], read["optimizer"]) == (1, True, "adamw8bit")
    own = {"quantization": None, "gradient_checkpointing": False, "micro_batch": None, "batch_size": 8}
    read = planning.settings_of(config_of(av={"template": "x", **own}), "av")
    assert (read["quantization"], read["checkpointing"], read["batch"]) == (None, False, 8)


# --- refused ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"role": "critic"}, "role is 'critic'; expected 'av' or 'ar'"),
        ({"length": 0}, "length is 0; expected more than 0"),
        ({"batch": -1}, "batch is -1"),
        ({"gpu_gib": 0}, "gpu_gib is 0"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'; expected 'adamw8bit' or 'adamw'"),
        ({"quantization": "int8"}, "quantization is 'int8'; expected 'nf4' or None"),
        ({"config": config_of(layer=6, ar={"template": "x"}), "role": "ar"}, "run 7 blocks; this base has 2"),
        (
            {"config": config_of(av={"template": "x", "lora": {"targets": ["c_attn"]}})},
            r"targets \['c_attn'\] match no layer of this base; its blocks hold \['down_proj', .*'v_proj'\]",
        ),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        tiny_plan(**options)


def test_a_config_of_no_language_model_is_refused():
    from transformers import ViTConfig

    with pytest.raises(LoadError, match="builds no causal language model"):
        tiny_plan(base_config=ViTConfig())


# --- command line -------------------------------------------------------------------------------------------------
@pytest.fixture
def run(tmp_path):
    """Arguments → exit code, stdout, stderr; the config and the base's config.json are on disk."""
    (tmp_path / "pair.yaml").write_text(json.dumps(json.loads(config_of().model_dump_json())), encoding="utf-8")
    tiny.llama_config(2).save_pretrained(tmp_path)

    def invoke(*arguments, base=True):
        given = ["--config", str(tmp_path / "pair.yaml"), "--length", "48", *map(str, arguments)]
        result = invoke_command(command, *given, *(["--base-config", tmp_path / "config.json"] if base else []))
        return result.exit_code, result.stdout, result.stderr

    invoke.folder = tmp_path
    return invoke


def test_exit_code_0_fits_1_does_not(run):
    code, out, _ = run()
    assert code == 0 and "AV of tiny/llama" in out and "AR of tiny/llama" in out and "DOES NOT" not in out
    code, out, _ = run("--gpu-gib", 0.1, "--role", "ar")
    assert code == 1 and "AV of" not in out and "DOES NOT FIT in 0.10 GiB" in out and "What would help" in out


def broken(run, text):
    (run.folder / "broken.json").write_text(text, encoding="utf-8")
    return "--base-config", run.folder / "broken.json"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda run: ["--role", "critic"], "--role is 'critic'"),
        (lambda run: ["--batch", 0], "batch is 0"),
        (lambda run: ["--device", "tpu"], "device is 'tpu'"),
        (lambda run: ["--config", run.folder / "none.yaml"], "Cannot read the config"),
        (lambda run: ["--base-config", run.folder / "none.json"], "is no file; expected the config.json"),
        (lambda run: broken(run, "{"), "is no config.json that transformers can read"),
        (lambda run: broken(run, '{"model_type": "abacus"}'), "is no config.json that transformers can read"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, arguments, message):
    extra = arguments(run)
    code, out, err = run(*extra, base="--base-config" not in extra)
    assert code == 2 and not out
    assert err.startswith("error: ") and message in err and len(err.strip().splitlines()) == 1


def test_the_bases_config_is_found_by_its_name(run, monkeypatch):
    text = (run.folder / "pair.yaml").read_text(encoding="utf-8")
    (run.folder / "pair.yaml").write_text(text.replace("tiny/llama", str(run.folder)), encoding="utf-8")
    assert run("--role", "ar", base=False)[0] == 0, "a folder, which need not hold weights"
    (run.folder / "pair.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, _, err = run(base=False)
    assert code == 2 and len(err.strip().splitlines()) == 1
    assert "tiny/llama is not in the cache" in err and "as --base-config" in err
