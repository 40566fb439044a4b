"""One training step on the meta device: the trainers' own forward, loss and backward on tensors without memory.

Nothing is computed, only shapes, so a 5B model's step takes a second or two on any machine; but every tensor the step
would allocate is seen by `Meter` as it comes and goes. That is what `training.fit.plan` takes activations from, rather
than from formulas, which know neither KV sharing nor per-layer inputs nor what PEFT upcasts.
"""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nla_sdk.errors import InputError, LoadError, first_line
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.quiet import quiet
from nla_sdk.model.weights.loading import drop_towers, leave_out_towers

from ...configs.fit import Train
from ..engine.base import checkpoint_gradients, lora_config
from ..engine.losses import ResponseLoss

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class Meter(TorchDispatchMode):
    """Bytes of the tensors that operations inside the block have made, now (`live`) and at most (`peak`).

    Works on any device; what is inside a kernel (cuBLAS workspaces, a fused attention's scratch) is not seen.

    Args:
        known: tensors that were there before, whose views are nothing new.
    """

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._storages = [tensor.untyped_storage() for tensor in known]  # held, so that no id is used twice
        self._seen = {id(storage) for storage in self._storages}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return True  # transformers asks whether no two texts are packed into a row; a meta tensor cannot say
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and id(tensor.untyped_storage()) not in self._seen:
                storage = tensor.untyped_storage()
                self._seen.add(id(storage))
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._freed, id(storage), storage.nbytes())
        return result

    def _freed(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size

    def take_peak(self) -> int:
        """The peak since it was last taken."""
        peak, self.peak = self.peak, self.live
        return peak


@dataclass(frozen=True)
class Step:
    """What a step allocates beyond weights, gradients and optimizer states, in bytes.

    Attributes:
        kept: alive from the forward to the backward (block inputs, or with no checkpointing all intermediates).
        loss: on top of `kept` while the loss is computed and differentiated: for an AV, a slice's logits.
        backward: on top of `kept` while blocks run, are recomputed and differentiated.
    """

    kept: int
    loss: int
    backward: int


def build(base_config: PretrainedConfig, dtype: torch.dtype, quantization: str | None) -> Backbone:
    """The base on the meta device, laid out as `Backbone.load` lays it out: no towers, 4-bit layers in the blocks.

    Raises:
        LoadError: transformers cannot build a causal language model from this config.
    """
    base_config = copy.deepcopy(base_config)
    leave_out_towers(base_config)
    try:
        with quiet(), torch.device("meta"):
            from transformers import AutoModelForCausalLM

            model = AutoModelForCausalLM.from_config(base_config, dtype=dtype)
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise LoadError(
            f"transformers builds no causal language model from this config: {first_line(error)}"
        ) from error
    drop_towers(model)
    if quantization is not None:
        for name, module in list(model.named_modules()):
            # As transformers chooses: every plain linear layer except the output embedding.
            if type(module) is nn.Linear and module is not model.get_output_embeddings():
                model.set_submodule(name, FourBit(module))
    return Backbone(model, None, device=torch.device("meta"), quantization=quantization)


def add_lora(backbone: Backbone, settings: Train, num_blocks: int | None) -> list[nn.Parameter]:
    """The trainers' adapter on `backbone`, trainable; its parameters.

    Raises:
        InputError: no linear layer has a name of `lora.targets`.
    """
    try:
        with torch.device(backbone.device):
            backbone.add_lora("plan", lora_config(settings, backbone, num_blocks))
    except ValueError as error:
        found = {
            name.rpartition(".")[2] for name, module in backbone.blocks.named_modules() if isinstance(module, nn.Linear)
        }
        raise InputError(
            f"lora.targets {settings.lora.targets} match no layer of this base; its blocks hold {sorted(found)}."
        ) from error
    parameters = list(backbone.adapter_parameters("plan").values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def dry_run(
    backbone: Backbone,
    head: nn.Linear | None,
    *,
    num_blocks: int,
    batch: int,
    length: int,
    scored: int,
    logit_slice: int,
    checkpointing: bool,
) -> Step:
    """Measure one step of a base with an adapter on it.

    Args:
        backbone: on the meta device, or a real one; it is left in training mode, to be thrown away.
        head: the AR's; None for an AV, whose loss is taken over the vocabulary.
        num_blocks: how many blocks run.
        batch, length: rows, and tokens in each.
        scored: response tokens of the whole batch; AV only.
        logit_slice: response tokens whose logits are alive at a time (each slice's gradient is taken at once).
        checkpointing: keep block inputs only and recompute a block for its backward (non-reentrant).
    """
    model, device = backbone.model, backbone.device
    trained = [parameter for module in (model, head) if module is not None for parameter in module.parameters()]
    for parameter in trained:
        if parameter.requires_grad:  # there from the micro-batch before, and counted as gradients by the plan
            parameter.grad = torch.zeros_like(parameter)
    known = [*trained, *model.buffers(), *(p.grad for p in trained if p.grad is not None)]
    if head is None:
        _ = backbone.cap  # looked up once a run (on a real device it takes a small forward), not in a step
    _as_on_a_gpu(model)
    if checkpointing:
        checkpoint_gradients(model)
    model.train()
    ids = torch.zeros(batch, length, dtype=torch.long, device=device)
    with Meter(known) as meter:
        if head is not None:
            states = backbone.run_to_block(ids, num_blocks - 1)[:, -1]
        else:
            decoder = getattr(model, model.base_model_prefix)
            states = decoder(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)[-scored:]
        kept, forward = meter.live, meter.take_peak()
        leaf = states.detach().requires_grad_()
        _loss(backbone, head, leaf, logit_slice).backward()
        loss = meter.take_peak()
        gradient, leaf.grad = leaf.grad, None
        states.backward(gradient)
        backward = max(forward, meter.take_peak())
    return Step(kept, loss - kept, backward - kept)


def _loss(backbone: Backbone, head: nn.Linear | None, states: torch.Tensor, logit_slice: int) -> torch.Tensor:
    if head is not None:
        return head(states.float()).square().sum()
    targets = torch.zeros(len(states), dtype=torch.long, device=states.device)
    return ResponseLoss(backbone, (), 0, logit_slice)(states, targets)


def _as_on_a_gpu(model: nn.Module) -> None:
    """Dropout as CUDA has it, with a mask of one byte; elsewhere it is made of parts, with one of four."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is nn.Dropout:
                setattr(parent, name, FusedDropout(module.p))


class FusedDropout(nn.Dropout):
    """Dropout as one operation, on whatever device."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.native_dropout(states, self.p, self.training)[0]


class FourBit(nn.Linear):
    """Stands for bitsandbytes' Linear4bit, whose weight is unpacked for each product and then dropped.

    Its parameters have the shape they are computed in; `packed_bytes` and `state_bytes` say what is stored.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    @property
    def packed_bytes(self) -> int:
        """Half a byte a weight."""
        return -(-self.weight.numel() // 2)

    @property
    def state_bytes(self) -> int:
        """Double-quantised scales: a byte for 64 weights, 4 bytes for 256 of those, two code tables and an offset."""
        scales = -(-self.weight.numel() // 64)
        return scales + 4 * -(-scales // 256) + 4 * (16 + 256) + 4

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        product = _Unpacked.apply(states, self.weight)
        return product if self.bias is None else product + self.bias


class _Unpacked(torch.autograd.Function):
    @staticmethod
    def forward(context, states, weight):
        context.packed = weight
        return states @ torch.empty_like(weight).T

    @staticmethod
    def backward(context, gradient):
        return gradient @ torch.empty_like(context.packed), None
