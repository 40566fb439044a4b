"""A base language model in memory: hold adapters on it, use one at a time, run it to a block and stop.

One `Backbone` serves all roles of a pair: AV and AR are two named LoRA adapters on it, the source model is the same
weights with adapters off. Switching adapters is state, so every use goes through `Backbone.using(name)`, which holds
the backbone's lock: two threads never run each other's adapter.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from ..errors import LayerError, LoadError
from ..io.quiet import quiet
from .logits import find_cap
from .weights.adapters import AdapterPlan, AdapterReport, read_adapter
from .weights.loading import find_blocks, load_model, pick_device, pick_dtype, text_config

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class _StopForward(Exception):
    """Raised by a hook once the block that is wanted has run, so that the rest is never computed."""


class Backbone:
    """A causal language model that holds adapters and can run to a block and stop.

    Attributes:
        model: the transformers model, without its towers.
        tokenizer: its tokenizer.
        ref: where it came from, for messages and contracts.
        blocks: its decoder blocks; block L's output is the residual stream "at layer L".
        d_model, num_blocks, device, dtype, quantization.
        lock: held during every use of the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        ref: str = "",
        device: torch.device | None = None,
        quantization: str | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.ref = ref
        config = text_config(model.config)
        self.blocks_name, self.blocks = find_blocks(model, config.num_hidden_layers)
        self.d_model: int = config.hidden_size
        self.num_blocks: int = len(self.blocks)
        self.embedding: nn.Module = model.get_input_embeddings()
        self.device = device or next(model.parameters()).device
        self.quantization = quantization
        self.lock = threading.RLock()
        self.reports: dict[str, AdapterReport] = {}
        self._peft = None
        self._active: str | None = None
        self._uses: list[str | None] = []

    @property
    def dtype(self) -> torch.dtype:
        """The dtype activations flow in: that of the input embedding."""
        return self.embedding.weight.dtype

    @property
    def precision(self) -> str:
        """What it runs at, as a contract's `extraction_precision` says it: nf4, float32, bfloat16, …"""
        return self.quantization or str(self.dtype).removeprefix("torch.")

    # --- loading ------------------------------------------------------------------------------------------------
    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        ref: str | None = None,
        quantization: str | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        compute_dtype: str | None = None,
        tokenizer_path: str | os.PathLike | None = None,
        trust_remote_code: bool = False,
        truncated: bool = False,
    ) -> Backbone:
        """Load a model folder.

        Args:
            path: a folder with config, safetensors and (unless `tokenizer_path` is given) tokenizer.
            ref: the name to show for it; default: the path.
            quantization: "nf4" (4 bits, double quantisation; CPU too) or None.
            device: "auto", or anything torch.device takes.
            dtype: "auto" or a dtype; with "nf4", what is computed in and what is not quantised is kept in.
            compute_dtype: what the contract says, used by `dtype="auto"`.
            truncated: accept a checkpoint without final norm and lm_head (an AR that is a full fine-tune).
        Raises:
            LoadError, OutOfMemoryError, QuantizationError, MissingFileError.
        """
        device = pick_device(device)
        dtype = pick_dtype(dtype, device, compute_dtype)
        model, tokenizer = load_model(
            Path(path),
            quantization=quantization,
            device=device,
            dtype=dtype,
            tokenizer_path=tokenizer_path,
            trust_remote_code=trust_remote_code,
            truncated=truncated,
        )
        return cls(model, tokenizer, ref=ref or str(path), device=device, quantization=quantization)

    # --- adapters -----------------------------------------------------------------------------------------------
    def load_adapter(self, name: str, folder: str | os.PathLike, *, num_blocks_run: int | None = None) -> AdapterReport:
        """Put a LoRA adapter from disk on the model under `name`, every tensor of it accounted for.

        Args:
            name: how `using` will call it.
            folder: holds `adapter_config.json` and `adapter_model.safetensors`.
            num_blocks_run: see `plan_adapter`.
        Raises:
            MissingFileError: one of the two files is not there.
            AdapterMismatchError: some tensors fit nowhere; the message lists them and nothing is changed.
        """
        config, plan, tensors = read_adapter(Path(folder), self.model, self.ref, num_blocks_run)
        with self.lock:
            self._add(name, config)
            self._fill(name, plan, tensors)
        parameters = sum(tensor.numel() for tensor in tensors.values())
        self.reports[name] = AdapterReport(loaded=len(tensors), parameters=parameters, inert=dict(plan.inert))
        return self.reports[name]

    def add_lora(self, name: str, config: LoraConfig) -> None:
        """Put a fresh, untrained adapter (a `peft.LoraConfig`) on the model under `name`."""
        with self.lock:
            self._add(name, config)

    def adapter_parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Live parameters of adapter `name`, by their name in the model."""
        marker = f".{name}."
        return {
            key: parameter
            for key, parameter in self.model.named_parameters()
            if marker in key and (".lora_" in key or ".modules_to_save." in key)
        }

    def adapter_state(self, name: str, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """Tensors of adapter `name` under PEFT's file names, on the CPU, cast to `dtype` if given."""
        state = {}
        for key, parameter in self.adapter_parameters(name).items():
            saved = key.replace(f".modules_to_save.{name}.", ".").replace(f".{name}.", ".")
            state[f"base_model.model.{saved}"] = parameter.detach().to("cpu", dtype or parameter.dtype).contiguous()
        return state

    def save_adapter(self, name: str, folder: str | os.PathLike, dtype: torch.dtype | None = None) -> None:
        """Write adapter `name` as PEFT's two files into an existing folder."""
        from safetensors.torch import save_file

        config = self._peft.peft_config[name]
        raw = config.to_dict()
        raw.update(base_model_name_or_path=self.ref, inference_mode=True)
        for key in ("target_modules", "modules_to_save", "exclude_modules"):
            if isinstance(raw.get(key), set):
                raw[key] = sorted(raw[key])
        text = json.dumps(raw, indent=2, sort_keys=True, default=str) + "\n"
        (Path(folder) / "adapter_config.json").write_text(text, encoding="utf-8")
        save_file(
            self.adapter_state(name, dtype), Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"}
        )

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[PreTrainedModel]:
        """Hold the model with `adapter` active (None: all adapters off). Nothing else runs on it meanwhile.

        A use inside a use gives the outer one its adapter back.
        """
        with self.lock:
            self._switch(adapter)
            self._uses.append(adapter)
            try:
                yield self.model
            finally:
                self._uses.pop()
                if self._uses:
                    self._switch(self._uses[-1])

    def _switch(self, adapter: str | None) -> None:
        if adapter is not None and (self._peft is None or adapter not in self._peft.peft_config):
            raise LoadError(f"{self.ref} holds no adapter {adapter!r}; load_adapter or add_lora comes first.")
        if adapter == self._active or self._peft is None:
            return
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if adapter is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(adapter, inference_mode=True)
        for parameter in trained:  # PEFT takes switching for a wish to train
            parameter.requires_grad_(True)
        self._active = adapter

    def _add(self, name: str, config: LoraConfig) -> None:
        from peft import PeftModel

        with quiet():
            if self._peft is None:
                self._peft = PeftModel(self.model, config, adapter_name=name)
            else:
                self._peft.add_adapter(name, config)
        self._active = name
        self._peft.set_adapter(name, inference_mode=True)
        self.model.eval()

    def _fill(self, name: str, plan: AdapterPlan, tensors: Mapping[str, torch.Tensor]) -> None:
        parameters = self.adapter_parameters(name)
        for key, (module, leaf) in plan.slots.items():
            matrix, _, weight = leaf.rpartition(".")
            live = f"{module}.{matrix}.{name}.{weight}" if matrix else f"{module}.modules_to_save.{name}.{leaf}"
            parameters.pop(live).data.copy_(tensors[key])
        if parameters:
            raise LoadError(f"PEFT made {len(parameters)} tensors that no file fills, first {min(parameters)}.")

    # --- running ------------------------------------------------------------------------------------------------
    def run_to_block(self, input_ids: torch.Tensor, block: int) -> torch.Tensor:
        """The residual stream after `block`, for every position; later blocks, final norm and lm_head never run.

        Rows of different lengths are padded on the RIGHT and no mask is passed: attention is causal, so no real token
        ever sees the padding, and each row's result does not depend on the batch it was in.

        Args:
            input_ids: int64 [batch, tokens], on any device.
            block: 0-indexed; the result equals transformers' `hidden_states[block + 1]` (but for the last block, where
                transformers returns the state after the final norm).
        Returns:
            [batch, tokens, d_model] in the model's dtype; with grad if grad is on.
        Raises:
            LayerError: no such block.
        """
        if not 0 <= block < self.num_blocks:
            raise LayerError(f"Block {block} does not exist: {self.ref} has blocks 0 to {self.num_blocks - 1}.")
        captured: list[torch.Tensor] = []

        def stop(module, args, output):
            captured.append(output[0] if isinstance(output, tuple) else output)
            raise _StopForward

        # Leaving by exception changes nothing in the model; a shorter `layers` would need another layer count in the
        # config, which masks, KV sharing and caches are made from.
        handle = self.blocks[block].register_forward_hook(stop)
        try:
            self.model(input_ids=input_ids.to(self.device), use_cache=False)
        except _StopForward:
            pass
        finally:
            handle.remove()
        return captured[0]

    # --- logits -------------------------------------------------------------------------------------------------
    @cached_property
    def cap(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """What the model does to its lm_head's product, elementwise: a scale, a soft cap, mostly nothing.

        Raises:
            LoadError: something that is not known here; see `find_cap`, which runs the model once.
        """
        with self.lock:
            return find_cap(self.model)

    def logits(self, states: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Logits as the model itself makes them, differentiable. The caller holds the backbone.

        Args:
            states: [..., d_model] after the final norm.
            tokens: int64 [k], the part of the vocabulary wanted; None: all of it.
        Returns:
            [..., k] or [..., vocabulary] in the lm_head's dtype.
        Raises:
            LoadError: see `cap`.
        """
        head = self.model.get_output_embeddings()
        states = states.to(head.weight.dtype)
        if tokens is None:
            return self.cap(head(states))
        if type(head) is not nn.Linear:  # quantised, or with an adapter on it: only its call knows all that it does
            return self.cap(head(states)[..., tokens])
        bias = None if head.bias is None else head.bias[tokens]
        return self.cap(functional.linear(states, head.weight[tokens], bias))
