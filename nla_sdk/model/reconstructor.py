"""AR: explanations → vectors. Some blocks of a language model, and a linear head on one token of the prompt.

Between the two stands what the contract says: the base's final norm or not, the state as it is or rescaled to √d_model.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..contract import Contract
from ..contract.prompts.tokens import check_embedded
from ..errors import (
    EmptyBatchError,
    HeadError,
    InputError,
    MissingMeanError,
    NonFiniteOutputError,
    TruncatedExplanationWarning,
    UnseenValueError,
)
from .backbone import Backbone
from .batches import by_length, read_states, token_states
from .faults import first_rows, no_numbers
from .running.reading import Reading, ReadTogether
from .running.watching import UNWATCHED, Watch
from .weights.transforms import Transform

_CUT = {
    "explanation": "their ends were cut",
    "left": "the beginnings of their prompts were cut",
    "right": "the ends of their prompts were cut",
}


class Reconstructor:
    """The AR half of a pair.

    Args:
        backbone: the base (with the AR's adapter) or the AR's own full checkpoint.
        adapter: the adapter's name on the backbone; None for a full checkpoint.
        contract: the AR's, verified.
        head: Linear(d, d), float32; one for each layer that it reconstructs; or None: the state is the vector.
        transform: how what the head gives becomes a vector of the source; None: it is one.
        ref: what messages call it.
        fast: from the model's weights where that is known to be the same (`fast.blocks`), without gradients.
    Raises:
        HeadError: a layer's head needs a block that the contract says does not run.
        LoadError: the contract keeps a final norm that is not found.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: str | None,
        contract: Contract,
        head: nn.Linear | Mapping[int, nn.Linear] | None,
        transform: Transform | None = None,
        ref: str | None = None,
        fast: bool = True,
    ) -> None:
        self.backbone, self.fast = backbone, fast
        self.ref = ref or f"the AR on {backbone.ref}"
        self.adapter = adapter
        self.head = head.to(backbone.device) if isinstance(head, nn.Linear) else None
        self.heads = {at: one.to(backbone.device) for at, one in head.items()} if isinstance(head, Mapping) else None
        if self.heads is not None:
            if (last := max(self.heads)) >= contract.ar_num_blocks:
                raise HeadError(
                    f"{self.ref} has a head for layer {last}, which reads the output of block {last}; `ar_num_blocks` "
                    f"is {contract.ar_num_blocks}. Correct it to at least {last + 1}."
                )
            if contract.layers is None:
                if contract.layer not in self.heads:
                    known = ", ".join(map(str, sorted(self.heads)))
                    raise HeadError(
                        f"{self.ref} has heads for layers {known} and its contract's `layer` is {contract.layer}. Say "
                        f"which is meant unless another is said: contract={{'layer': {min(self.heads)}}}."
                    )
                contract = contract.replace(layers=sorted(self.heads))
        self.contract = contract
        self.transform = transform or Transform(d_source=backbone.d_model)
        if contract.ar_final_norm == "kept":
            _ = backbone.final_norm  # found now, or refused
        self._empty: dict[object, torch.Tensor] = {}  # by layer, and by what autocast computes in
        self.together = ReadTogether()

    @property
    def mean(self) -> torch.Tensor | None:
        """What is put back for the contract's layer, float32 [d_source]; None: nothing is."""
        if self.transform.centred_norm is None:
            return None
        means = self.transform.means
        return means.get(None, means.get(self.contract.layer))

    @property
    def gives_rest(self) -> bool:
        """Whether it gives directions of what is left of activations over a mean that it does not know."""
        return self.contract.ar_target == "centred" and not self.transform.means

    def __call__(
        self, explanations: Sequence[str], *, layer: int | None = None, watch: Watch = UNWATCHED
    ) -> torch.Tensor:
        """Vectors for explanations: float32 [n, d_source], on the CPU.

        A centred pair gives μ + centred_norm · û, in the units of raw activations; else the head's output, of which
        only the direction means anything (without the mean's file a direction of v − μ, see `gives_rest`). An empty
        string is a valid explanation: what it scores is the honest comparison. Texts of calls from several threads are
        read in one batch.

        Args:
            layer: the block whose vectors they are of, where the AR knows several; default: the contract's.
            watch: may call it off.
        Raises:
            CancelledCallError: it was called off before the texts were read.
            InputError, EmptyBatchError: no list of strings.
            UnseenValueError: it was not trained for that layer. LayerError: there is no such block.
            TextError: an explanation holds a token that the model has no embedding for.
            MarkerError: it reads at a marker, which was cut off.
            NonFiniteOutputError: see `refuse_lost`.
        Warns:
            TruncatedExplanationWarning: an explanation did not fit `max_length`, and what was cut.
        """
        if isinstance(explanations, str) or not all(isinstance(text, str) for text in explanations):
            raise InputError("Expected a list of explanations, each a string.")
        if not explanations:
            raise EmptyBatchError("The list of explanations is empty; expected at least one.")
        self._head_of(layer)
        prompts = self.prompts(explanations, layer=layer)
        for row, (ids, _) in enumerate(prompts):
            check_embedded(self.backbone.tokenizer, ids, self.backbone.vocabulary, f"The explanation in row {row}")
        if cut := [row for row, (_, was_cut) in enumerate(prompts) if was_cut]:
            warnings.warn(
                f"{len(cut)} of {len(explanations)} explanations (first: row {cut[0]}) are longer than max_length "
                f"{self.contract.max_length} tokens allows; {_CUT[self.contract.ar_truncation]}.",
                TruncatedExplanationWarning,
                stacklevel=3,
            )
        with torch.no_grad():
            outputs = self.together.read(Reading(self, [ids for ids, _ in prompts], layer, watch))
            return self.finish(outputs.float(), layer).cpu()  # under autocast a head gives what that computes in

    def compared(
        self, vectors: torch.Tensor, layer: int | Sequence[int | None] | None = None, *, known: Transform | None = None
    ) -> torch.Tensor:
        """What its vectors are compared with: raw activations as they are, or where it `gives_rest`, less their mean.

        Args:
            vectors: float32 [n, d_source], raw.
            layer: the block they were read from, or one for each; default: the contract's.
            known: the AV's transform, whose mean is taken.
        Raises:
            MissingMeanError: it gives what is left over a mean, and nobody has that mean.
            UnseenValueError: there are means, and none of that layer.
        """
        if not self.gives_rest:
            return vectors
        if known is None or not known.means:
            raise MissingMeanError(
                f"{self.ref} gives directions of what is left of an activation over the mean (`ar.target: centred`), "
                "and no file of that mean is named, so a cosine with raw activations means nothing. Put the file "
                "beside the contract and name it: contract={'activation_mean': …}, with `centred_norm`."
            )
        layers = layer if isinstance(layer, Sequence) else [layer] * len(vectors)
        return torch.stack([row - known.mean(at).to(row.device) for row, at in zip(vectors, layers, strict=True)])

    def prompts(self, explanations: Sequence[str], *, layer: int | None = None) -> list[tuple[list[int], bool]]:
        """Each explanation's prompt as token ids, and whether it was cut.

        Raises:
            UnseenValueError, LayerError: see `__call__`.
        """
        # A checkpoint of its own may have been cut to the blocks it runs: how many its base has, it does not tell.
        num_blocks = None if self.adapter is None else self.backbone.num_blocks
        fields = self.contract.field_values(layer=layer, num_blocks=num_blocks)
        return self.contract.ar_prompt_ids_batch(self.backbone.tokenizer, list(explanations), fields=fields)

    def empty(self, layer: int | None = None) -> torch.Tensor:
        """The vector of no words at all, what every other is to be compared with: float32 [d_source], on the CPU.

        Computed once for a layer, whichever thread asks first.
        """
        layer = self.contract.layer if layer is None else layer
        key = layer, self.backbone.active[2]
        if (found := self._empty.get(key)) is None:
            with self.backbone.using(self.adapter):
                if (found := self._empty.get(key)) is None:  # another thread may have been first
                    asked = None if layer == self.contract.layer else layer
                    found = self._empty[key] = self([""], layer=asked)[0]
        return found

    def reset(self) -> None:
        """Forget the vectors of no words: to be called when adapter or head have changed."""
        self._empty.clear()

    def forward(self, prompts: Sequence[Sequence[int]], layer: int | None = None) -> torch.Tensor:
        """Head outputs float32 [n, d] for tokenised prompts, in their order; differentiable. The caller holds the
        backbone."""
        head, block = self._head_of(layer), self.block(layer)
        positions = [self.contract.reading_position(ids) for ids in prompts]
        if not torch.is_grad_enabled():
            wanted = [[position] for position in positions]
            states = torch.cat(read_states(self.backbone, prompts, wanted, block, fast=self.fast))
            states = self.prepare(states)
            return states if head is None else head(states)
        outputs: dict[int, torch.Tensor] = {}
        for rows in by_length([len(ids) for ids in prompts]):
            states = self.prepare(
                token_states(self.backbone, [prompts[row] for row in rows], block, [positions[row] for row in rows])
            )
            outputs.update(zip(rows, states if head is None else head(states), strict=True))
        return torch.stack([outputs[row] for row in range(len(prompts))])

    def block(self, layer: int | None = None) -> int:
        """The last block that runs for a layer: `ar_num_blocks` − 1, or with a head for each layer that very block."""
        if self.heads is not None:
            return self._layer(layer)
        return self.contract.ar_num_blocks - 1

    def prepare(self, states: torch.Tensor) -> torch.Tensor:
        """States [n, d] after the last block → what the head takes, float32: through the final norm and to length
        √d_model, where the contract says so. The caller holds the backbone."""
        if self.contract.ar_final_norm == "kept":
            states = self.backbone.final_norm(states)
        states = states.float()
        if self.contract.ar_state == "sqrt_d":
            states = states * (math.sqrt(states.shape[-1]) / states.norm(dim=-1, keepdim=True))
        return states

    def _layer(self, layer: int | None) -> int:
        return self.contract.layer if layer is None else layer

    def _head_of(self, layer: int | None) -> nn.Linear | None:
        if self.heads is None:
            says = {"depth", "layer"} & set(self.contract.fields) or set(self.transform.means) - {None}
            several = self.contract.layers is not None and layer not in (None, self.contract.layer)
            if several and not says:
                # What came back would be the contract's layer under another's name.
                raise UnseenValueError(
                    f"{self.ref} reconstructs layer {self.contract.layer} only, and layer {layer} was asked for: it "
                    "has one head, and nothing in its prompt says a layer."
                )
            return self.head
        if (wanted := self._layer(layer)) not in self.heads:
            raise UnseenValueError(
                f"{self.ref} has no head for layer {wanted}: only for {', '.join(map(str, sorted(self.heads)))}. Pass "
                "layer= one of them."
            )
        return self.heads[wanted]

    def refuse_lost(self, outputs: torch.Tensor, prompts: Sequence[Sequence[int]], layer: int | None = None) -> None:
        """Refuse head outputs [n, d] without a direction. The caller holds the backbone.

        Raises:
            NonFiniteOutputError: some are NaN or infinite, or all zeros; names the rows and the cause.
        """
        if lost := first_rows(~outputs.isfinite().all(dim=-1)):
            what, block = f"What {self.ref} reconstructs", self.block(layer)
            raise no_numbers(what, lost, self.backbone, prompts[lost[0]], block=block)
        if lost := first_rows((outputs == 0).all(dim=-1)):
            raise NonFiniteOutputError(
                f"What {self.ref} reconstructs is all zeros, which has no direction: look at its head's weights.", lost
            )

    def finish(self, outputs: torch.Tensor, layer: int | None = None) -> torch.Tensor:
        """From head outputs to vectors of the source: mapped back, un-whitened and un-centred where the contract says
        so (`Transform.undo`)."""
        return self.transform.undo(outputs, layer)
