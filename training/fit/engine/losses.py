"""Losses of both halves: of an AV's response tokens, and of an AR's directions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from nla_sdk.model.backbone import Backbone
from nla_sdk.model.batches import pad_right
from nla_sdk.model.verbalizer import Verbalizer
from nla_sdk.model.weights.loading import innermost


def response_states(
    verbalizer: Verbalizer, inputs: torch.Tensor, responses: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What predicts each response token after the AV's prompt, with the adapter that is on.

    Args:
        inputs: [n, d] or [n, markers, d], what is injected (`Verbalizer.prepare`).
        responses: tokens of each row.
    Returns:
        States [tokens, d] after the final norm, the tokens they predict, and the row of each.
    """
    backbone, prompt = verbalizer.backbone, verbalizer.prompt_ids
    padded, last = pad_right([[*prompt, *ids] for ids in responses])
    at = torch.arange(padded.shape[1] - 1)
    scored = ((at >= len(prompt) - 1) & (at < last[:, None])).to(backbone.device)
    padded = padded.to(backbone.device)
    decoder = getattr(backbone.model, backbone.model.base_model_prefix)
    states = verbalizer.injected(
        lambda: decoder(input_ids=padded, use_cache=False).last_hidden_state, verbalizer.default.positions, inputs
    )
    return states[:, :-1][scored], padded[:, 1:][scored], scored.nonzero()[:, 0]


class ResponseLoss:
    """Cross-entropy of response tokens, over the whole vocabulary or an estimate of it.

    With `negatives` > 0 the normaliser is exact over `candidates` (every token of the responses at hand) and, for the
    rest of the vocabulary, estimated from tokens drawn anew each step, each standing for as many as it was drawn
    from. At 262,144 tokens the lm_head is more than half of a step; this makes it a twentieth.
    """

    def __init__(
        self, backbone: Backbone, candidates: Sequence[int], negatives: int, slice_size: int = 1 << 30
    ) -> None:
        self.backbone = backbone
        self.slice_size = slice_size
        device = innermost(backbone.head).weight.device
        _ = backbone.cap  # found here, and not at the first step: the model must not be sharded yet
        self.negatives = negatives
        vocabulary = backbone.vocabulary_size
        known = sorted(set(candidates))
        self.exact = not negatives or len(known) + negatives >= vocabulary
        if not self.exact:
            self.candidates = torch.tensor(known, device=device)
            self.index = torch.full((vocabulary,), -1, device=device)
            self.index[self.candidates] = torch.arange(len(self.candidates), device=device)
            rest = torch.ones(vocabulary, dtype=torch.bool, device=device)
            rest[self.candidates] = False
            self.rest = rest.nonzero()[:, 0]
        self._known: tuple[nn.Module, torch.Tensor, torch.Tensor | None] | None = None

    def __call__(
        self, states: torch.Tensor, targets: torch.Tensor, generator: torch.Generator | None = None, exact: bool = False
    ) -> torch.Tensor:
        """Summed loss of `states` [n, d] (after the final norm) against token ids [n].

        Logits are made for `slice_size` tokens at a time: all of them at once would be a gigabyte for a thousand tokens
        of Gemma's vocabulary.
        """
        # An adapter on the lm_head, which may have come after this was made, has a part in every logit: it makes all of
        # them, so that nothing is saved by drawing some. What is trained there gets its gradient from a plain sum only.
        head = self.backbone.head
        learns = any(parameter.requires_grad for parameter in head.parameters())
        plain = type(head) is nn.Linear and not learns
        whole = exact or self.exact or not plain or bool((self.index[targets] < 0).any())
        drawn = None
        if not whole:
            picked = torch.randint(len(self.rest), (self.negatives,), generator=generator)
            drawn = self.rest[picked.to(self.rest.device)]
        parts = list(zip(states.split(self.slice_size), targets.split(self.slice_size), strict=True))
        if torch.is_grad_enabled() and len(parts) > 1 and not learns:
            return _Sliced.apply(states, self.slice_size, lambda part, at: self._slice(part, parts[at][1], drawn))
        return sum(self._slice(part, wanted, drawn) for part, wanted in parts)

    def _slice(self, states: torch.Tensor, targets: torch.Tensor, drawn: torch.Tensor | None) -> torch.Tensor:
        if drawn is None:
            return functional.cross_entropy(self.backbone.logits(states).float(), targets, reduction="sum")
        # Tokens that occur as targets are never left to chance: of a target that no draw holds there would be no loss.
        # Of all others only the sum of exponentials matters, and a sample estimates that without bias.
        weights, bias = self._of_candidates()
        known = self.backbone.cap(functional.linear(states.to(weights.dtype), weights, bias))
        # Each drawn token stands for as many as it was drawn from: a factor on its exponential, so a term on its logit.
        other = self.backbone.logits(states, drawn) + math.log(len(self.rest) / self.negatives)
        return functional.cross_entropy(torch.cat([known, other], dim=1).float(), self.index[targets], reduction="sum")

    def _of_candidates(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The candidates' rows of the lm_head, which is plain and frozen: taken once, they cost more than a slice."""
        head = self.backbone.head
        if self._known is None or self._known[0] is not head:
            bias = None if head.bias is None else head.bias[self.candidates].detach().clone()
            self._known = (head, head.weight[self.candidates].detach().clone(), bias)
        return self._known[1:]


class _Sliced(torch.autograd.Function):
    """A sum over slices whose gradient is taken slice by slice in the forward pass, so that one slice's graph is alive
    at a time and nothing is computed twice. Right only because nothing but `states` is trained here."""

    @staticmethod
    def forward(ctx, states: torch.Tensor, size: int, of_slice) -> torch.Tensor:
        total, gradients = 0.0, []
        for at, part in enumerate(states.split(size)):
            part = part.detach().requires_grad_(True)
            with torch.enable_grad():
                loss = of_slice(part, at)
            gradients += torch.autograd.grad(loss, part)
            total = total + loss.detach()
        ctx.save_for_backward(torch.cat(gradients))
        return total

    @staticmethod
    def backward(ctx, outer: torch.Tensor):
        return ctx.saved_tensors[0] * outer, None, None


def in_turn(logits: torch.Tensor, drawn: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """What each of several draws without replacement was drawn from.

    Args:
        logits: [n, v].
        drawn: of each row int64 [k], k ≥ 1: the indices drawn, in their order.
    Returns:
        [draws, v], a row's logits for each of its draws, −inf at what had been drawn before it; int64 [draws], all of
        `drawn`.
    Example:
        >>> in_turn(torch.zeros(2, 3), [torch.tensor([0]), torch.tensor([2, 1])])
        (tensor([[0., 0., 0.],
                [0., 0., 0.],
                [0., 0., -inf]]), tensor([0, 2, 1]))
    """
    logits = logits.repeat_interleave(torch.tensor([len(of) for of in drawn], device=logits.device), dim=0)
    for draw, before in enumerate(of[:at] for of in drawn for at in range(len(of))):
        if len(before):
            logits[draw, before] = -torch.inf  # of the copy
    return logits, torch.cat(list(drawn))


def direction_loss(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """[n] `metrics.direction_mse` of each row, differentiable: 2 (1 − cos), [n, d] each."""
    return 2.0 * (1.0 - torch.cosine_similarity(predicted, target, dim=-1))


def contrastive_loss(
    predicted: torch.Tensor, own: torch.Tensor, batch: torch.Tensor, temperature: float
) -> torch.Tensor:
    """[n] InfoNCE (van den Oord et al. 2018): −log softmax over the batch's activations of cos(prediction, activation).

    Directions are centred on the batch's mean direction first, as retrieval is scored (`metrics.retrieval_ranks`):
    where everything points one way, plain cosine tells nothing apart. The activations are data, so a batch is whole
    however few of its rows are in this forward, and in every process.

    Args:
        predicted: [n, d].
        own: int64 [n], which row of `batch` is each one's.
        batch: [b, d].
        temperature: of the softmax.
    """
    units = functional.normalize(batch, dim=-1)
    centre = units.mean(dim=0)
    scores = functional.normalize(functional.normalize(predicted, dim=-1) - centre, dim=-1)
    scores = scores @ functional.normalize(units - centre, dim=-1).T
    return functional.cross_entropy(scores / temperature, own, reduction="none")
