"""A base language model in memory: hold adapters on it, use one at a time, run it to a block and stop.

One `Backbone` serves all roles of a pair, and all pairs of one base: AV and AR are named LoRA adapters on it, the
source model is the same weights with adapters off. Every use goes through `Backbone.using(name)`: `AdapterHolder`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from ..contract.injection import Injection
from ..errors import InjectionError, LayerError, LoadError, NonFiniteOutputError
from .fast.head import Head, read_head
from .fast.shortlist import Rounded
from .fast.stored import NAME as ROUNDED_NAME
from .fast.stored import load_rounded
from .running.logits import find_cap, head_dtype, undisturbed, vocabulary_size
from .running.norm import find_final_norm
from .running.partial import entering, leaving
from .weights.adapters.holding import AdapterHolder
from .weights.finite import refuse_non_finite, weights_of
from .weights.leftovers import FINAL_NORMS
from .weights.loading import find_blocks, innermost, load_model, pick_device, pick_dtype, text_config
from .weights.quantized import agreed, say_slow, stored_quantization
from .weights.tokenizers import used

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Backbone(AdapterHolder):
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
        super().__init__(model.eval().requires_grad_(False), ref)
        self.tokenizer = tokenizer
        config = text_config(model.config)
        self.blocks_name, self.blocks = find_blocks(model, config.num_hidden_layers)
        self.d_model: int = config.hidden_size
        self.num_blocks: int = len(self.blocks)
        self.device = device or next(model.parameters()).device
        self.quantization = quantization
        self.tokenizer_folder: Path | None = None
        self._rounded_file: Path | None = None  # where a copy in 8 bits may lie, until it is looked for
        self._rounded: tuple[torch.Tensor, int, Rounded] | None = None  # of which weight, and as it was when
        self._head_ways: dict[tuple[str, int, int], str] = {}
        self.alike: dict[object, bool] = {}  # whether a computation from weights, with these adapters, is the model's

    @property
    def embedding(self) -> nn.Module:
        """The input embedding as the model has it now: an adapter may have put a module of its own in its place."""
        return self.model.get_input_embeddings()

    @property
    def final_norm(self) -> nn.Module:
        """What the last block's output goes into, as the model has it now.

        Raises:
            LoadError: nothing beside the blocks is called as one.
        """
        if (norm := find_final_norm(self.model, self.blocks_name)) is None:
            raise LoadError(
                f"{self.ref} ({type(self.model).__name__}) has no final norm by a known name beside its blocks "
                f"({', '.join(FINAL_NORMS)}), and its contract calls for one: it cannot be run as it was trained."
            )
        return norm

    @property
    def head(self) -> nn.Module:
        """The lm_head as the model has it now; see `embedding`."""
        return self.model.get_output_embeddings()

    @property
    def vocabulary_size(self) -> int:
        """How many tokens the lm_head scores."""
        return vocabulary_size(self.head)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype activations flow in: that of the input embedding."""
        return innermost(self.embedding).weight.dtype

    @cached_property
    def vocabulary(self) -> int:
        """How many tokens there are embeddings for: a tokenizer may give ids from this one on (Gemma 3's does)."""
        config = text_config(self.model.config)
        rows = innermost(self.embedding).weight.shape[0]
        # Gemma 4 looks every token up in a second embedding, which may be the smaller one.
        second = getattr(config, "hidden_size_per_layer_input", 0) and config.vocab_size_per_layer_input
        return min(rows, second or rows)

    @property
    def tokenizer_used(self) -> str | None:
        """What reads texts, for a contract: tokenizer.json ("file"), transformers' class ("class"); None: unknown."""
        return None if self.tokenizer_folder is None else used(self.tokenizer, self.tokenizer_folder)

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
        reads: str | None = None,
        probes: Iterable[str] = (),
        check_weights: bool = False,
    ) -> Backbone:
        """Load a model folder.

        Args:
            path: a folder with config, safetensors and (unless `tokenizer_path` is given) tokenizer.
            ref: the name to show for it; default: the path.
            quantization: "nf4" (4 bits, double quantisation; CPU too), None, or "auto": as the folder stores it. One
                that is stored in 4 bits runs in those only.
            device: "auto", or anything torch.device takes.
            dtype: "auto" or a dtype; with "nf4", what is computed in and what is not quantised is kept in.
            compute_dtype: what the contract says, used by `dtype="auto"`.
            truncated: accept a checkpoint without final norm and lm_head (an AR that is a full fine-tune).
            reads, probes: which tokenizer, and what texts to compare on, see `load_tokenizer`.
            check_weights: look for NaN and infinity in every weight, which reads all of them.
        Raises:
            LoadError, DeviceError, OutOfMemoryError, QuantizationError, MissingFileError, NonFiniteWeightsError.
        """
        device = pick_device(device)
        stored = stored_quantization(Path(path))
        quantization = agreed(quantization, stored, ref or str(path))
        dtype = pick_dtype(dtype, device, compute_dtype)
        model, tokenizer = load_model(
            Path(path),
            quantization=quantization,
            device=device,
            dtype=dtype,
            tokenizer_path=tokenizer_path,
            trust_remote_code=trust_remote_code,
            truncated=truncated,
            stored=stored is not None,
            reads=reads,
            probes=probes,
        )
        if check_weights:
            refuse_non_finite(weights_of(model), path)
        backbone = cls(model, tokenizer, ref=ref or str(path), device=device, quantization=quantization)
        backbone.tokenizer_folder = Path(tokenizer_path or path)
        backbone._rounded_file = Path(path) / ROUNDED_NAME
        say_slow(quantization, device)
        return backbone

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
        state = leaving(self.blocks[block], lambda: self.model(input_ids=input_ids.to(self.device), use_cache=False))
        assert state is not None, "every block runs in a whole forward"
        return state

    def run_through(self, input_ids: torch.Tensor, block: int | None) -> None:
        """Run a prompt up to `block` (None: to the end) for what hooks see of it, as `entering` runs it."""
        with undisturbed(self.model):
            if block is None:
                self.model(input_ids=input_ids.to(self.device), use_cache=False)
            else:
                self.run_to_block(input_ids, block)

    def site(self, how: Injection) -> nn.Module:
        """The module whose output a vector is put into, as the model has it now."""
        return self.embedding if how.block is None else self.blocks[how.block]

    def entering(self, forward: Callable[[], object], block: int = 0) -> torch.Tensor:
        """What `forward` hands to `block` (`num_blocks`: to the final norm): [rows, tokens, d_model]; it ends there.

        Gradients and dropout are off, so that no random number is drawn. The caller holds the backbone.

        Raises:
            InjectionError: `forward` never came there.
        """
        module = self.blocks[block] if block < self.num_blocks else self.final_norm
        with undisturbed(self.model):
            state = entering(module, forward)
        if state is None:
            place = "first block" if block == 0 else "final norm" if block == self.num_blocks else f"block {block}"
            raise InjectionError(f"The {place} of {self.ref} never ran, so nothing injected can reach the model.")
        return state

    # --- logits -------------------------------------------------------------------------------------------------
    @cached_property
    def cap(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """What the model does to its lm_head's product, elementwise: a scale, a soft cap, mostly nothing.

        Raises:
            LoadError: something that is not known here; see `find_cap`, which runs the model once.
        """
        with self.lock:
            self._sweep()
            self._uses.append(self._active)  # a caller may have it on without `using`
            try:
                with self.using(None):  # what is done to the product is the base's, whatever adapter came first
                    return find_cap(self.model)
            finally:
                self._switch(self._uses.pop())

    def fast_head(self, tokens: torch.Tensor | None = None) -> Head | None:
        """The lm_head (of some tokens) as it computes now, where its products are known. The caller holds the
        backbone."""
        return read_head(self, self.rounded_head(), self._head_ways, tokens)

    def rounded_head(self, *, make: bool = False) -> Rounded | None:
        """The lm_head's weight in 8 bits, for shortlists; None: there is none of it.

        Args:
            make: round it now, one byte a number in memory, where no copy lies beside the model.
        """
        weight = getattr(innermost(self.head), "weight", None)
        if self._rounded is not None and (self._rounded[0] is not weight or self._rounded[1] != weight._version):
            self._rounded = None  # another module has taken its place, or somebody has written into it
        if self._rounded_file is not None and isinstance(weight, torch.Tensor):
            if (stored := load_rounded(self._rounded_file, weight)) is not None:
                self._rounded = weight, weight._version, stored
            self._rounded_file = None  # looked at once
        if self._rounded is None and make and isinstance(weight, nn.Parameter) and weight.dtype == torch.float32:
            self._rounded = weight, weight._version, Rounded.of(weight)
        return None if self._rounded is None else self._rounded[2]

    @cached_property
    def known_cap(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """`cap`; None: what the model does is not known here, or it gives no number that would tell."""
        try:
            return self.cap
        except (LoadError, NonFiniteOutputError):
            return None

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
        head = self.head
        states = states.to(head_dtype(head))
        if tokens is None:
            return self.cap(head(states))
        if type(head) is not nn.Linear:  # quantised, or with an adapter on it: only its call knows all that it does
            return self.cap(head(states)[..., tokens])
        bias = None if head.bias is None else head.bias[tokens]
        return self.cap(functional.linear(states, head.weight[tokens], bias))
