"""AR: explanations → vectors. A truncated language model and a linear head on its last prompt token."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ..contract import Contract
from ..errors import (
    EmptyBatchError,
    HeadError,
    InputError,
    MissingFileError,
    TruncatedExplanationWarning,
    UnsafeFileError,
    first_line,
)
from .backbone import Backbone

HEAD_FILES = ("linear_head.safetensors", "linear_head.pt", "value_head.safetensors")
TOKENS_PER_BATCH = 4096


def load_head(folder: Path, d_model: int, *, bias: bool | None = None) -> nn.Linear:
    """Read the AR's head from `linear_head.safetensors`, `linear_head.pt` or `value_head.safetensors`.

    Args:
        folder: the AR's folder.
        d_model: both sides of the head.
        bias: what the contract's `head_bias` says; None: as found.
    Returns:
        A float32 Linear(d_model, d_model).
    Raises:
        MissingFileError, HeadError, UnsafeFileError.
    """
    path = next((folder / name for name in HEAD_FILES if (folder / name).is_file()), None)
    if path is None:
        raise MissingFileError(f"{folder} holds no AR head; expected one of {', '.join(HEAD_FILES)}.")
    tensors = _read_tensors(path)
    state = {str(key).rpartition(".")[2]: tensor for key, tensor in tensors.items()}
    if "weight" not in state or set(state) - {"weight", "bias"} or len(state) < len(tensors):
        found = sorted(map(str, tensors))
        raise HeadError(f"{path} holds tensors {found}; expected 'weight' and, with a bias, 'bias'.")
    found = "bias" in state
    if bias is not None and bias != found:
        raise HeadError(f"{path} has {'a' if found else 'no'} bias, the contract says head_bias: {str(bias).lower()}.")
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    expected = {"weight": (d_model, d_model)} | ({"bias": (d_model,)} if found else {})
    if shapes != expected:
        raise HeadError(f"{path} holds {shapes}; expected {expected} for d_model {d_model}.")
    head = nn.Linear(d_model, d_model, bias=found)
    head.load_state_dict({key: tensor.float() for key, tensor in state.items()})
    return head.eval().requires_grad_(False)


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise HeadError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle protocol, which is refused next
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            start = file.read(24)
        if not start.startswith((b"PK", b"\x80")):
            raise HeadError(
                f"{path} is no torch file: it starts with {start!r} (a Git LFS pointer or a web page in its place?). "
                "Download it again."
            ) from error
        raise UnsafeFileError(
            f"{path} is a pickle that would run code when read; only tensors are accepted, so it is refused. Ask its "
            "author for linear_head.safetensors; do not open the file with weights_only=False."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise HeadError(f"{path} is not a readable torch file: {first_line(error)}. Download it again.") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise HeadError(f"{path} holds a {type(state).__name__}; expected a state dict of a Linear layer.")
    return state


class Reconstructor:
    """The AR half of a pair.

    Args:
        backbone: the base (with the AR's adapter) or the AR's own full checkpoint.
        adapter: the adapter's name on the backbone; None for a full checkpoint.
        contract: the AR's, verified.
        head: Linear(d, d), float32.
        mean: float32 [d], the activation mean of a centred pair; None otherwise.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: str | None,
        contract: Contract,
        head: nn.Linear,
        mean: torch.Tensor | None = None,
    ) -> None:
        self.backbone = backbone
        self.adapter = adapter
        self.contract = contract
        self.head = head.to(backbone.device)
        self.mean = mean

    def __call__(self, explanations: Sequence[str]) -> torch.Tensor:
        """Vectors for explanations: float32 [n, d_model], on the CPU.

        A centred pair gives μ + centred_norm · û, in the units of raw activations; else the head's output, of which
        only the direction means anything. An empty string is a valid explanation: what it scores is the honest
        comparison.

        Warns:
            TruncatedExplanationWarning: an explanation did not fit `max_length`; its end was cut, the suffix was not.
        """
        if isinstance(explanations, str) or not all(isinstance(text, str) for text in explanations):
            raise InputError("Expected a list of explanations, each a string.")
        if not explanations:
            raise EmptyBatchError("The list of explanations is empty; expected at least one.")
        prompts = self.contract.ar_prompt_ids_batch(self.backbone.tokenizer, list(explanations))
        if cut := [row for row, (_, was_cut) in enumerate(prompts) if was_cut]:
            warnings.warn(
                f"{len(cut)} of {len(explanations)} explanations (first: row {cut[0]}) are longer than max_length "
                f"{self.contract.max_length} tokens allows; their ends were cut.",
                TruncatedExplanationWarning,
                stacklevel=3,
            )
        with torch.no_grad(), self.backbone.using(self.adapter):
            outputs = self.forward([ids for ids, _ in prompts])
        return self.finish(outputs).cpu()

    def forward(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Head outputs float32 [n, d] for tokenised prompts, in their order. The caller holds the backbone."""
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]), reverse=True)
        outputs: dict[int, torch.Tensor] = {}
        start = 0
        while start < len(order):
            width = len(prompts[order[start]])
            rows = order[start : start + max(1, TOKENS_PER_BATCH // width)]
            start += len(rows)
            states = last_token_states(self.backbone, [prompts[row] for row in rows], self.contract.ar_num_blocks - 1)
            outputs.update(zip(rows, self.head(states.float()), strict=True))
        return torch.stack([outputs[row] for row in range(len(prompts))])

    def finish(self, outputs: torch.Tensor) -> torch.Tensor:
        """From head outputs to vectors: un-centre where the contract says so."""
        if self.mean is None:
            return outputs
        directions = outputs / outputs.norm(dim=-1, keepdim=True)
        return self.mean.to(outputs.device) + self.contract.centred_norm * directions


def pad_right(prompts: Sequence[Sequence[int]], pad_id: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [n, longest], padded on the right, and the index [n] of each row's last real token."""
    width = max(len(ids) for ids in prompts)
    padded = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    for row, ids in enumerate(prompts):
        padded[row, : len(ids)] = torch.as_tensor(ids, dtype=torch.long)
    return padded, torch.tensor([len(ids) - 1 for ids in prompts])


def last_token_states(backbone: Backbone, prompts: Sequence[Sequence[int]], block: int) -> torch.Tensor:
    """The residual stream after `block` at each prompt's last token: [n, d_model]. The caller holds the backbone."""
    padded, last = pad_right(prompts)
    states = backbone.run_to_block(padded, block)
    return states[torch.arange(len(prompts), device=states.device), last.to(states.device)]
