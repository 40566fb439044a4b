"""AV supervised training: activation → explanation. `python -m training.fit.av --config training/configs/demo.yaml`

Next-token loss on response tokens only, and logits computed for those only; the activation goes in through the same
hook as at inference. Reads `<out>/av_sft.parquet` and `eval.parquet`, checkpoints every `save_interval` steps,
resumes where it was, logs the held-out loss with true vectors against the loss with vectors shuffled among rows (the
gap is the signal, not the loss), and leaves loadable halves in `<out>/av`, the best of them as `final/`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch.nn import functional

from nla_sdk.errors import InputError
from nla_sdk.io.files import read_vectors
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.injection import inject
from nla_sdk.model.reconstructor import pad_right
from nla_sdk.model.verbalizer import OPEN_TAG, Verbalizer, end_token_ids

from ..configs.config import Config
from ..data.statistics import Statistics
from ..data.tables.columns import target_text
from ..runs.command import run_command, trainer_command
from .checkpoints import add_adapter, train

ADAPTER = "av"


def load_rows(path: Path, sources: Sequence[str], max_rows: int | None = None):
    """Rows of a training table whose label is of one of `sources`: (vectors float32 [n, d], list of dicts).

    Of more than `max_rows`, evenly spaced ones: a table lies in its corpus's order, and its beginning is of one kind of
    text.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: run `python -m training.data.build` first.")
    table = pq.read_table(path)
    vectors = torch.from_numpy(read_vectors(table).copy())
    rows = table.drop_columns(["activation_vector"]).to_pylist()
    kept = [i for i, row in enumerate(rows) if kind_of(row["labeler_model"]) in sources]
    if not kept:
        raise InputError(f"{path} holds no rows with labels from {', '.join(sources)}.")
    if max_rows is not None and max_rows < len(kept):
        kept = [kept[at] for at in np.linspace(0, len(kept) - 1, max_rows).astype(int)]
    return vectors[kept], [rows[i] for i in kept]


def kind_of(labeler: str) -> str:
    """extractive, readout, expert, on_policy or written, from a row's `labeler_model`."""
    for kind in ("extractive", "readout", "expert"):
        if labeler.startswith(kind):
            return kind
    return "on_policy" if labeler.startswith("av:") else "written"


class ResponseLoss:
    """Cross-entropy of response tokens, over the whole vocabulary or an estimate of it.

    With `negatives` > 0 the normaliser is exact over `candidates` (every token of the responses at hand) and, for the
    rest of the vocabulary, estimated from tokens drawn anew each step, each standing for as many as it was drawn
    from. At 262,144 tokens the lm_head is more than half of a step; this makes it a twentieth.
    """

    def __init__(
        self, backbone: Backbone, candidates: Sequence[int], negatives: int, slice_size: int = 1 << 30
    ) -> None:
        self.head = backbone.model.get_output_embeddings()
        self.slice_size = slice_size
        device = self.head.weight.device
        self.cap = backbone.cap
        self.negatives = negatives
        vocabulary = self.head.weight.shape[0]
        known = sorted(set(candidates))
        self.exact = not negatives or len(known) + negatives >= vocabulary
        if not self.exact:
            self.candidates = torch.tensor(known, device=device)
            self.index = torch.full((vocabulary,), -1, device=device)
            self.index[self.candidates] = torch.arange(len(self.candidates), device=device)
            rest = torch.ones(vocabulary, dtype=torch.bool, device=device)
            rest[self.candidates] = False
            self.rest = rest.nonzero()[:, 0]
            self.weights = self.head.weight[self.candidates].detach().clone()

    def __call__(
        self, states: torch.Tensor, targets: torch.Tensor, generator: torch.Generator | None = None, exact: bool = False
    ) -> torch.Tensor:
        """Summed loss of `states` [n, d] (after the final norm) against token ids [n].

        Logits are made for `slice_size` tokens at a time: all of them at once would be a gigabyte for a thousand tokens
        of Gemma's vocabulary.
        """
        whole = exact or self.exact or bool((self.index[targets] < 0).any())
        drawn = None
        if not whole:
            picked = torch.randint(len(self.rest), (self.negatives,), generator=generator)
            drawn = self.rest[picked.to(self.rest.device)]
        parts = list(zip(states.split(self.slice_size), targets.split(self.slice_size), strict=True))
        if torch.is_grad_enabled() and len(parts) > 1:
            return _Sliced.apply(states, self.slice_size, lambda part, at: self._slice(part, parts[at][1], drawn))
        return sum(self._slice(part, wanted, drawn) for part, wanted in parts)

    def _slice(self, states: torch.Tensor, targets: torch.Tensor, drawn: torch.Tensor | None) -> torch.Tensor:
        if drawn is None:
            logits = self.cap(self.head(states.to(self.head.weight.dtype)))
            return functional.cross_entropy(logits.float(), targets, reduction="sum")
        states = states.to(self.weights.dtype)
        known = self.cap(states @ self.weights.T)
        other = self.cap(states @ self.head.weight[drawn].T) + math.log(len(self.rest) / self.negatives)
        return functional.cross_entropy(torch.cat([known, other], dim=1).float(), self.index[targets], reduction="sum")


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


def response_states(
    verbalizer: Verbalizer, inputs: torch.Tensor, responses: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What predicts each response token after the AV's prompt, with the adapter that is on.

    Args:
        inputs: [n, d], what is injected (`Verbalizer.prepare`).
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
    with inject(backbone.embedding, verbalizer.marker, inputs.to(backbone.device)):
        states = decoder(input_ids=padded, use_cache=False).last_hidden_state
    return states[:, :-1][scored], padded[:, 1:][scored], scored.nonzero()[:, 0]


class Trainer:
    """Holds the model, the rows and the loss; `python -m training.fit.av` runs it."""

    def __init__(self, config: Config, backbone: Backbone) -> None:
        self.config, self.backbone, settings = config, backbone, config.av
        self.statistics = Statistics.load(config.out)
        self.contract = self.statistics.contract(config, backbone, ADAPTER)
        self.verbalizer = Verbalizer(backbone, ADAPTER, self.contract, self.statistics.mean if config.centred else None)
        self.tables = [config.out / "av_sft.parquet"]
        vectors, rows = load_rows(self.tables[0], settings.sources, settings.max_rows)
        if "expert" in settings.sources:
            self.tables.append(config.out / "expert.parquet")
            own, chosen = load_rows(self.tables[-1], ["expert"])
            vectors, rows = torch.cat([vectors, own]), rows + chosen
        held_out, self.eval_rows = load_rows(config.out / "eval.parquet", settings.sources, settings.eval_rows)
        targets, self.eval_targets = self._tokenize(rows), self._tokenize(self.eval_rows)
        room = settings.max_length - len(self.verbalizer.prompt_ids)
        fitting = [at for at, ids in enumerate(targets) if len(ids) <= room]
        if not fitting:
            raise InputError(f"No response fits into av.max_length ({settings.max_length}) beside the prompt.")
        self.rows, self.targets = [rows[at] for at in fitting], [targets[at] for at in fitting]
        self.left_out = len(rows) - len(fitting)
        self.inputs, self.eval_inputs = self.verbalizer.prepare(vectors[fitting]), self.verbalizer.prepare(held_out)
        seen = [token for ids in [*self.targets, *self.eval_targets] for token in ids]
        self.loss = ResponseLoss(backbone, seen, settings.sampled_negatives, settings.logit_slice)
        self.parameters = add_adapter(backbone, ADAPTER, settings, config.seed)
        self.groups = [{"params": list(self.parameters.values()), "lr": settings.lr}]
        self.lengths = [len(ids) for ids in self.targets]
        self.head = None

    def _tokenize(self, rows) -> list[list[int]]:
        texts = [target_text(row["response"], self.contract.av_template) for row in rows]
        ids = self.backbone.tokenizer(texts, add_special_tokens=False).input_ids
        if self.contract.av_template.endswith(OPEN_TAG):
            return ids
        end = min(end_token_ids(self.backbone))
        return [[*row, end] for row in ids]

    def batch_loss(
        self, inputs: torch.Tensor, targets: list[list[int]], generator=None, exact: bool = False
    ) -> torch.Tensor:
        """Summed loss over the response tokens of some rows: prepared activations [n, d] and response tokens."""
        self.backbone.model.train(torch.is_grad_enabled())
        states, tokens, _ = response_states(self.verbalizer, inputs, targets)
        return self.loss(states, tokens, generator, exact)

    def share_of_loss(self, rows: Sequence[int], step: int, batch: Sequence[int]) -> torch.Tensor:
        """What `rows` contribute to the mean loss over all response tokens of `batch`."""
        draw = torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        total = self.batch_loss(self.inputs[list(rows)], [self.targets[row] for row in rows], draw)
        return total / sum(len(self.targets[row]) for row in batch)

    def tokens(self, batch: Sequence[int]) -> int:
        """Tokens of a batch, prompts included, padding not."""
        return sum(len(self.verbalizer.prompt_ids) + len(self.targets[row]) for row in batch)

    def evaluate(self) -> dict[str, float]:
        """Exact held-out loss with true vectors and with vectors shuffled among rows, and the gap."""
        result = {}
        size = self.config.av.micro_batch or self.config.av.batch_size
        shuffled = self.eval_inputs.roll(1, dims=0)
        with torch.no_grad(), self.backbone.using(ADAPTER):
            for name, inputs in (("heldout_loss", self.eval_inputs), ("heldout_loss_shuffled", shuffled)):
                total = 0.0
                for start in range(0, len(inputs), size):
                    targets = self.eval_targets[start : start + size]
                    total += self.batch_loss(inputs[start : start + size], targets, exact=True).item()
                result[name] = total / sum(map(len, self.eval_targets))
        result["heldout_gap"] = result["heldout_loss_shuffled"] - result["heldout_loss"]
        return result


def run(config: Config, *, name: str = ADAPTER) -> Path:
    """Train the AV; returns the folder of the best half.

    Args:
        name: of the run, a folder in `config.out`.
    """
    return train(config, ADAPTER, Trainer, name, metric=("heldout_loss", False))


if __name__ == "__main__":
    from .plan.estimate import show

    run_command(trainer_command(run, "av", show))
