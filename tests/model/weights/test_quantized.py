"""Checkpoints that are stored quantised, and rows that do not depend on their batch, in every precision."""

from __future__ import annotations

import importlib.util
import json
import shutil
import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from nla_sdk import NLAPair
from nla_sdk.errors import PrecisionWarning, QuantizationError, SlowWarning
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.weights import quantized
from nla_sdk.model.weights.quantized import agreed, stored_quantization
from tests import reference, tiny

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="4 bits are bitsandbytes'"
)
TEXTS = [("the cat sat on the mat, " * 6)[:size] for size in (3, 17, 40, 64, 90, 121)]
# What a row may move by when it shares its batch: another shape of a matrix product rounds its sums otherwise.
ROUNDING = {"float32": 5e-6, "float16": 6e-3, "bfloat16": 3e-2}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases") / "llama"
    return tiny.save_model(folder, tiny.llama_config(), tiny.tokenizer(), seed=41)


@pytest.fixture(scope="module")
def pair(base, tmp_path_factory):
    return tiny.lora_pair(tmp_path_factory.mktemp("pairs"), base, tiny.plain_model(base), layer=1, blocks=2)


@pytest.fixture(scope="module")
def stored(base, tmp_path_factory):
    """The base as repositories called …-bnb-4bit hold it: by kind."""
    root = tmp_path_factory.mktemp("stored")
    for kind in ("nf4", "fp4"):
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=kind,
            bnb_4bit_compute_dtype=torch.bfloat16,
            bnb_4bit_use_double_quant=kind == "nf4",
        )
        model = AutoModelForCausalLM.from_pretrained(
            base, quantization_config=config, dtype=torch.bfloat16, device_map={"": "cpu"}
        )
        model.save_pretrained(root / kind)
        tiny.tokenizer().save_pretrained(root / kind)
    return root


def with_config(base, folder, quantization):
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    return folder


# --- recognised, refused --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "quant_method": "bitsandbytes"}, "nf4"),
        ({"_load_in_4bit": True, "bnb_4bit_quant_type": "NF4"}, "nf4"),
        ({"load_in_4bit": True, "quant_method": "bitsandbytes"}, "fp4"),
        ({"load_in_8bit": True, "load_in_4bit": False, "quant_method": "bitsandbytes"}, "int8"),
        *(({"quant_method": name}, name) for name in ("gptq", "awq", "fp8", "compressed-tensors", "mxfp4", "hqq")),
        ({}, "an unnamed quantisation"),
    ],
)
def test_what_a_folder_is_stored_in_is_told_by_its_config(tmp_path, config, expected):
    for values in ({"quantization_config": config}, {"text_config": {"quantization_config": config}}):
        (tmp_path / "config.json").write_text(json.dumps(values))
        assert stored_quantization(tmp_path) == expected


@pytest.mark.parametrize("content", ["{}", '{"quantization_config": null}', "[1]", "no json", None])
def test_what_states_no_quantisation_has_none(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert stored_quantization(tmp_path) is None


@pytest.mark.parametrize("value", ["nf4", ["nf4"], 5, True, False])
def test_a_quantization_config_that_is_no_mapping_is_named(base, pair, tmp_path, value):
    folder = with_config(base, tmp_path / "base", value)
    with pytest.raises(QuantizationError, match=r"config\.json: quantization_config is .*; expected a mapping"):
        NLAPair.from_pretrained(pair, base=folder)


@needs_bitsandbytes
def test_plain_weights_under_a_config_of_four_bits_are_named_and_not_blamed_on_the_adapter(base, pair, tmp_path):
    folder = with_config(base, tmp_path / "base", {"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(QuantizationError, match=r"stored in 4 bits, and model\.layers\.0\..*weight is not"):
        NLAPair.from_pretrained(pair, base=folder)


@pytest.mark.parametrize("kind", ["int8", "gptq", "awq", "fp8", "compressed-tensors", "an unnamed quantisation"])
@pytest.mark.parametrize("asked", ["auto", "nf4", None])
def test_kinds_that_cannot_be_promised_are_refused_by_name(kind, asked):
    with pytest.raises(QuantizationError, match=rf"ada/lm is stored quantised \({kind}\).*Pass base="):
        agreed(asked, kind, "ada/lm")


@pytest.mark.parametrize(
    ("asked", "kind", "expected"),
    [
        ("auto", None, None),
        (None, None, None),
        ("nf4", None, "nf4"),
        ("auto", "nf4", "nf4"),
        ("nf4", "nf4", "nf4"),
        ("auto", "fp4", "fp4"),
        ("fp4", "fp4", "fp4"),
    ],
)
def test_what_was_asked_for_and_what_is_stored_agree(asked, kind, expected):
    assert agreed(asked, kind, "lm") == expected


@pytest.mark.parametrize(("asked", "kind"), [(None, "nf4"), ("nf4", "fp4"), ("fp4", "nf4"), (None, "fp4")])
def test_what_is_stored_cannot_be_had_otherwise(asked, kind):
    with pytest.raises(QuantizationError, match=rf"is stored in {kind} and was asked for .* quantization='auto'"):
        agreed(asked, kind, "lm")


@pytest.mark.parametrize("method", ["gptq", "fp8", "compressed-tensors"])
def test_a_pair_on_such_a_base_is_refused_before_weights_are_read(pair, base, tmp_path, method):
    folder = shutil.copytree(base, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": method}}))
    (folder / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(QuantizationError, match=method):
        NLAPair.from_pretrained(pair, base=folder, device="cpu")


# --- held -----------------------------------------------------------------------------------------------------------
@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_base_stored_in_4_bits_computes_in_the_dtype_asked_for_and_says_what_it_is(stored, kind, dtype):
    plain = AutoModelForCausalLM.from_pretrained(stored / kind, dtype=torch.float32, device_map={"": "cpu"})
    assert plain.dtype == torch.bfloat16, "transformers follows dtype= now: hold_to may go"
    backbone = Backbone.load(stored / kind, device="cpu", dtype=dtype, quantization="auto")
    wanted = getattr(torch, dtype)
    assert (backbone.quantization, backbone.dtype) == (kind, wanted)
    layers = [module for module in backbone.model.modules() if type(module).__name__ == "Linear4bit"]
    assert len(layers) == 7 * tiny.LLAMA_BLOCKS
    assert {layer.compute_dtype for layer in layers} == {layer.weight.quant_state.dtype for layer in layers} == {wanted}
    others = {parameter.dtype for parameter in backbone.model.parameters() if type(parameter).__name__ != "Params4bit"}
    assert others == {wanted}


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_its_states_are_those_of_the_stored_weights_unpacked(stored, base, kind):
    from bitsandbytes.functional import dequantize_4bit

    backbone = Backbone.load(stored / kind, device="cpu", dtype="float32", quantization="auto")
    plain = tiny.plain_model(base)
    packed = dict(backbone.model.named_modules())
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            layer = packed[name.rpartition(".")[0]]
            weight = layer.weight
            if type(weight).__name__ == "Params4bit":
                weight = dequantize_4bit(weight.data, weight.quant_state)
            parameter.copy_(weight)
    ids = backbone.tokenizer(TEXTS[3]).input_ids
    with torch.no_grad():
        found = backbone.run_to_block(torch.tensor([ids]), 1)[0]
        expected = plain(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0]
    assert reference.distance(found, expected) < 1e-5


@needs_bitsandbytes
def test_a_pair_on_it_says_nf4_and_what_it_was_trained_in(stored, pair, tmp_path):
    folder = shutil.copytree(pair, tmp_path / "pair")
    for half in ("av", "ar"):
        tiny.write_sidecar(folder / half, extraction_precision="float32")
    loaded = NLAPair.from_pretrained(folder, base=stored / "nf4", device="cpu")
    assert "nf4 on cpu" in repr(loaded)
    with pytest.warns(PrecisionWarning, match="runs in nf4; the pair was trained on activations read in float32"):
        loaded.extract("cat")
    with pytest.raises(QuantizationError, match="stored in nf4 and was asked for without quantisation"):
        NLAPair.from_pretrained(folder, base=stored / "nf4", device="cpu", quantization=None)


@needs_bitsandbytes
def test_that_4_bits_on_a_cpu_are_slow_is_said_once(base, monkeypatch):
    monkeypatch.setattr(quantized, "_said", False)
    with pytest.warns(SlowWarning, match="nf4 on a CPU is slow"):
        Backbone.load(base, device="cpu", quantization="nf4")
    with warnings.catch_warnings():
        warnings.simplefilter("error", SlowWarning)
        Backbone.load(base, device="cpu", quantization="nf4")


# --- no row depends on its batch ------------------------------------------------------------------------------------
PRECISIONS = [
    *((None, dtype) for dtype in ROUNDING),
    *(("nf4", "float32"), ("stored nf4", "bfloat16"), ("stored fp4", "float16")),
]


@pytest.mark.parametrize(("kind", "dtype"), PRECISIONS)
def test_no_row_depends_on_its_batch(pair, stored, kind, dtype):
    if kind is not None:
        pytest.importorskip("bitsandbytes")
    base = stored / kind.removeprefix("stored ") if kind and "stored" in kind else None
    how = "auto" if base else kind
    loaded = NLAPair.from_pretrained(pair, base=base, device="cpu", dtype=dtype, quantization=how)
    together, alone = loaded.extract(TEXTS).vectors, torch.cat([loaded.extract(text).vectors for text in TEXTS])
    assert _apart(together, alone) < ROUNDING[dtype]
    together, alone = loaded.reconstruct(TEXTS), torch.stack([loaded.reconstruct(text) for text in TEXTS])
    assert _apart(together, alone) < ROUNDING[dtype]
    vectors = tiny.random(6, tiny.D_MODEL, seed=3)
    together, alone = loaded.explain(vectors), [loaded.explain(vector) for vector in vectors]
    same = sum(one == other for one, other in zip(together, alone, strict=True))
    assert same >= (6 if dtype == "float32" else 4)  # rounding turns a choice between two near equals


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max())
