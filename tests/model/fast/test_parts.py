"""What is read from a linear layer gives what its own call gives; what only its call knows is not read."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils import parametrizations

from nla_sdk.model.fast.parts import FEW, Part, Stacked, hooked, read_part
from tests import tiny

IN, OUT = 48, 40


def linear(out: int = OUT, *, bias: bool = False, seed: int = 1) -> nn.Linear:
    made = nn.Linear(IN, out, bias=bias)
    with torch.no_grad():
        for at, parameter in enumerate(made.parameters()):
            parameter.copy_(tiny.random(*parameter.shape, seed=seed + at))
    return made


def adapted(*names: str, bias: bool = False, out: int = OUT, seed: int = 1, **config) -> nn.Module:
    """PEFT's layer around a linear one, with random numbers in all that it adds; ranks differ by name."""
    holder = nn.ModuleDict({"layer": linear(out, bias=bias, seed=seed)})
    with torch.random.fork_rng():
        for at, name in enumerate(names):
            described = {"r": 3 + at, "lora_alpha": 5 + at, "target_modules": ["layer"], **config}
            inject_adapter_in_model(LoraConfig(**described), holder, adapter_name=name)
    layer = holder["layer"]
    with torch.no_grad():
        for at, (name, parameter) in enumerate(layer.named_parameters()):
            if "lora" in name and "magnitude" not in name:
                parameter.copy_(tiny.random(*parameter.shape, seed=seed + 10 + at))
    return layer.eval()


def given(part: Part, x: torch.Tensor) -> torch.Tensor:
    """y = W x + b + Σ Bᵢ (Aᵢ x), in float64."""
    y = x.double() @ part.weight.double().T
    y = y if part.bias is None else y + part.bias.double()
    return y if part.down is None else y + x.double() @ part.down.double().T @ part.up.double().T


LAYERS = {
    "plain": lambda: linear(),
    "with bias": lambda: linear(bias=True),
    "LoRA": lambda: adapted("a"),
    "LoRA with bias": lambda: adapted("a", bias=True),
    "rsLoRA": lambda: adapted("a", use_rslora=True),
    "dropout, not at work": lambda: adapted("a", lora_dropout=0.5),
    "one of two on": lambda: switched(adapted("a", "b"), ["b"]),
    "two on": lambda: switched(adapted("a", "b"), ["a", "b"]),
    "none of its own on": lambda: switched(adapted("a"), ["other"]),
    "off": lambda: switched(adapted("a", "b"), None),
    "half-precision LoRA": lambda: halved(adapted("a")),
}


def switched(layer: nn.Module, names: list[str] | None) -> nn.Module:
    if names is None:
        layer.enable_adapters(False)
    elif names == ["other"]:
        layer._active_adapter = names
    else:
        layer.set_adapter(names)
    return layer


def halved(layer: nn.Module) -> nn.Module:
    for one in (layer.lora_A["a"], layer.lora_B["a"]):
        one.to(torch.bfloat16).to(torch.float32)  # numbers that bfloat16 holds
    return layer


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_a_layer_gives_the_same_from_its_numbers(name):
    layer, x = LAYERS[name](), tiny.random(7, IN, seed=5)
    part = read_part(layer)
    own = layer(x)
    torch.testing.assert_close(given(part, x).float(), own, rtol=1e-5, atol=1e-4)
    for rows in (1, 7, FEW, FEW + 3):
        many = tiny.random(rows, IN, seed=6)
        torch.testing.assert_close(Stacked([part])(many)[0], layer(many), rtol=1e-5, atol=1e-4)


def test_a_layer_without_an_adapter_on_is_the_bases_own_weight():
    layer = switched(adapted("a"), None)
    part = read_part(layer)
    assert part.weight is layer.base_layer.weight and part.down is None and part.up is None


def test_what_is_trained_meanwhile_is_read_anew():
    layer, x = adapted("a"), tiny.random(3, IN, seed=5)
    read_part(layer)
    with torch.no_grad():
        layer.lora_B["a"].weight.mul_(3)
        layer.set_scale("a", 7.0)
        torch.testing.assert_close(given(read_part(layer), x).float(), layer(x), rtol=1e-5, atol=1e-4)


def with_hook(layer: nn.Module, of=lambda layer: layer, pre: bool = False) -> nn.Module:
    register = of(layer).register_forward_pre_hook if pre else of(layer).register_forward_hook
    register(lambda module, *seen: None)
    return layer


def replaced(layer: nn.Module, of=lambda layer: layer) -> nn.Module:
    of(layer).forward = of(layer).forward
    return layer


def merged(layer: nn.Module) -> nn.Module:
    layer.merge()
    return layer


class Other(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def four_bits() -> nn.Module:
    from bitsandbytes.nn import Linear4bit

    return Linear4bit(IN, OUT, bias=False)


NOT_READ = {
    "DoRA": lambda: adapted("a", use_dora=True),
    "DoRA beside LoRA": lambda: switched(two_kinds(), ["a", "b"]),
    "merged": lambda: merged(adapted("a")),
    "merged and off": lambda: switched(merged(adapted("a")), None),
    "dropout at work": lambda: adapted("a", lora_dropout=0.5).train(),
    "a bias of LoRA's": lambda: adapted("a", bias=True, lora_bias=True),
    "a hook": lambda: with_hook(linear()),
    "a pre-hook": lambda: with_hook(linear(), pre=True),
    "another forward": lambda: replaced(linear()),
    "a hook on an adapted layer": lambda: with_hook(adapted("a")),
    "a hook on the layer in it": lambda: with_hook(adapted("a"), lambda layer: layer.base_layer),
    "a hook on A": lambda: with_hook(adapted("a"), lambda layer: layer.lora_A["a"]),
    "a hook on B": lambda: with_hook(adapted("a"), lambda layer: layer.lora_B["a"], pre=True),
    "a hook on dropout": lambda: with_hook(adapted("a"), lambda layer: layer.lora_dropout["a"]),
    "another forward in it": lambda: replaced(adapted("a"), lambda layer: layer.base_layer),
    "bfloat16": lambda: linear().to(torch.bfloat16),
    "float64": lambda: linear().double(),
    "nowhere": lambda: linear().to("meta"),
    "a subclass": lambda: Other(IN, OUT),
    "a parametrisation": lambda: parametrizations.weight_norm(linear()),
    "four bits": four_bits,
    "no layer": lambda: nn.Identity(),
}


def two_kinds() -> nn.Module:
    holder = nn.ModuleDict({"layer": linear()})
    with torch.random.fork_rng():
        for name, dora in (("a", False), ("b", True)):
            config = LoraConfig(r=2, target_modules=["layer"], use_dora=dora)
            inject_adapter_in_model(config, holder, adapter_name=name)
    return holder["layer"].eval()


@pytest.mark.parametrize("name", NOT_READ)
def test_what_only_its_own_call_knows_is_not_read(name):
    assert read_part(NOT_READ[name]()) is None


def test_a_layer_is_read_again_once_its_hook_is_gone():
    layer = linear()
    handle = layer.register_forward_hook(lambda module, args, output: output + 1)
    assert hooked(layer) and read_part(layer) is None
    handle.remove()
    assert not hooked(layer) and read_part(layer) is not None


def test_no_layer_is_read_while_autocast_is_on_or_every_module_is_watched():
    layer = linear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert read_part(layer) is None
    for register in (register_module_forward_hook, register_module_forward_pre_hook):
        handle = register(lambda module, *seen: None)
        assert hooked(layer) and read_part(layer) is None
        handle.remove()
    assert read_part(layer) is not None


@pytest.mark.parametrize("rows", [1, 2, 5, FEW, FEW + 1, 300])
@torch.no_grad()
def test_layers_in_one_call_give_what_each_gives(rows):
    # Some with adapters of other ranks, some with none, some with a bias: the low-rank parts stand on a diagonal.
    layers = [
        linear(24, seed=20),
        adapted("a", out=40, seed=30),
        linear(16, bias=True, seed=40),
        switched(adapted("a", "b", out=56, seed=50, bias=True), ["a", "b"]),
    ]
    for some in (layers, layers[:1], layers[1:2], layers[::2], layers[::-1]):
        x = tiny.random(rows, IN, seed=60)
        before = x.clone()
        stacked = Stacked([read_part(layer) for layer in some])
        for _ in range(2):
            for found, layer in zip(stacked(x), some, strict=True):
                assert found.shape == (rows, layer.out_features)
                torch.testing.assert_close(found, layer(x), rtol=1e-5, atol=1e-4)
        assert torch.equal(x, before)


@torch.no_grad()
def test_rows_do_not_depend_on_the_others():
    stacked = Stacked([read_part(adapted("a")), read_part(linear(seed=3))])
    x = tiny.random(6, IN, seed=5)
    x[3] *= 50
    for whole, alone in zip(stacked(x), stacked(x[:1]), strict=True):
        torch.testing.assert_close(whole[:1], alone, rtol=1e-5, atol=1e-5)
