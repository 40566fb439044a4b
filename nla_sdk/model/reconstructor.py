"""AR: explanations → vectors. A truncated language model and a linear head on its last prompt token."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import nn

from ..contract import Contract
from ..contract.prompts.tokens import check_embedded
from ..errors import EmptyBatchError, InputError, NonFiniteOutputError, TruncatedExplanationWarning
from .backbone import Backbone
from .batches import by_length, last_token_states
from .faults import first_rows, no_numbers


class Reconstructor:
    """The AR half of a pair.

    Args:
        backbone: the base (with the AR's adapter) or the AR's own full checkpoint.
        adapter: the adapter's name on the backbone; None for a full checkpoint.
        contract: the AR's, verified.
        head: Linear(d, d), float32.
        mean: float32 [d], the activation mean of a centred pair; None otherwise.
        ref: what messages call it.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: str | None,
        contract: Contract,
        head: nn.Linear,
        mean: torch.Tensor | None = None,
        ref: str | None = None,
    ) -> None:
        self.backbone = backbone
        self.ref = ref or f"the AR on {backbone.ref}"
        self.adapter = adapter
        self.contract = contract
        self.head = head.to(backbone.device)
        self.mean = mean
        self._empty: torch.Tensor | None = None

    def __call__(self, explanations: Sequence[str]) -> torch.Tensor:
        """Vectors for explanations: float32 [n, d_model], on the CPU.

        A centred pair gives μ + centred_norm · û, in the units of raw activations; else the head's output, of which
        only the direction means anything. An empty string is a valid explanation: what it scores is the honest
        comparison.

        Raises:
            InputError, EmptyBatchError: no list of strings.
            TextError: an explanation holds a token that the model has no embedding for.
            NonFiniteOutputError: see `refuse_lost`.
        Warns:
            TruncatedExplanationWarning: an explanation did not fit `max_length`; its end was cut, the suffix was not.
        """
        if isinstance(explanations, str) or not all(isinstance(text, str) for text in explanations):
            raise InputError("Expected a list of explanations, each a string.")
        if not explanations:
            raise EmptyBatchError("The list of explanations is empty; expected at least one.")
        prompts = self.contract.ar_prompt_ids_batch(self.backbone.tokenizer, list(explanations))
        for row, (ids, _) in enumerate(prompts):
            check_embedded(self.backbone.tokenizer, ids, self.backbone.vocabulary, f"The explanation in row {row}")
        if cut := [row for row, (_, was_cut) in enumerate(prompts) if was_cut]:
            warnings.warn(
                f"{len(cut)} of {len(explanations)} explanations (first: row {cut[0]}) are longer than max_length "
                f"{self.contract.max_length} tokens allows; their ends were cut.",
                TruncatedExplanationWarning,
                stacklevel=3,
            )
        with torch.no_grad(), self.backbone.using(self.adapter):
            outputs = self.forward([ids for ids, _ in prompts])
            self.refuse_lost(outputs, [ids for ids, _ in prompts])
        return self.finish(outputs).cpu()

    def empty(self) -> torch.Tensor:
        """The vector of no words at all, what every other is to be compared with: float32 [d_model], on the CPU.

        Computed once, whichever thread asks first.
        """
        if (found := self._empty) is None:
            with self.backbone.using(self.adapter):
                if (found := self._empty) is None:  # another thread may have been first
                    found = self._empty = self([""])[0]
        return found

    def reset(self) -> None:
        """Forget the vector of no words: to be called when adapter or head have changed."""
        self._empty = None

    def forward(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Head outputs float32 [n, d] for tokenised prompts, in their order. The caller holds the backbone."""
        outputs: dict[int, torch.Tensor] = {}
        for rows in by_length([len(ids) for ids in prompts]):
            states = last_token_states(self.backbone, [prompts[row] for row in rows], self.contract.ar_num_blocks - 1)
            outputs.update(zip(rows, self.head(states.float()), strict=True))
        return torch.stack([outputs[row] for row in range(len(prompts))])

    def refuse_lost(self, outputs: torch.Tensor, prompts: Sequence[Sequence[int]]) -> None:
        """Refuse head outputs [n, d] without a direction. The caller holds the backbone.

        Raises:
            NonFiniteOutputError: some are NaN or infinite, or all zeros; names the rows and the cause.
        """
        if lost := first_rows(~outputs.isfinite().all(dim=-1)):
            what, block = f"What {self.ref} reconstructs", self.contract.ar_num_blocks - 1
            raise no_numbers(what, lost, self.backbone, prompts[lost[0]], block=block)
        if lost := first_rows((outputs == 0).all(dim=-1)):
            raise NonFiniteOutputError(
                f"What {self.ref} reconstructs is all zeros, which has no direction: look at its head's weights.", lost
            )

    def finish(self, outputs: torch.Tensor) -> torch.Tensor:
        """From head outputs to vectors: un-centre where the contract says so."""
        if self.mean is None:
            return outputs
        # A centred AR was trained on directions of v − μ, so its output's length means nothing: the median length of
        # what is left of an activation stands for it, and μ is put back to be in the units of raw activations.
        directions = outputs / outputs.norm(dim=-1, keepdim=True)
        return self.mean.to(outputs.device) + self.contract.centred_norm * directions
