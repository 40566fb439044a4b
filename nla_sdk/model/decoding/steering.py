"""A model writes on from prompts while vectors are added to its residual stream, beside what it writes without.

Prompts of one length run together, so nothing is ever padded, and rows that have ended leave the batch. What is without
a vector runs without a hook: it is the model's own, to the bit. It is no `generate` of transformers', which takes from
the model's generation config what is not said (top_k, penalties) and draws all rows of a batch from one generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import nn

from ...contract.injection import Injection
from ...errors import InjectionError, NonFiniteOutputError
from ...sampling import Sampling
from ..backbone import Backbone
from ..faults import first_rows, no_numbers
from ..injection import placed
from ..running.watching import UNWATCHED, Watch
from .drawing import draw, end_token_ids, row_generator

ROWS_PER_BATCH = 32
SHOWN = 10  # of the tokens whose probabilities moved
_ADDED = Injection("block", None, "add", "raw")


@dataclass(frozen=True, eq=False)
class Ask:
    """One prompt, and what is added while it is gone on from.

    Attributes:
        ids: the prompt's token ids, with its BOS.
        block: after which it is added.
        vector: float32 [d_model]; None: nothing is.
    """

    ids: tuple[int, ...]
    block: int
    vector: torch.Tensor | None


@dataclass(frozen=True)
class Written:
    """What the model wrote, without and with.

    Attributes:
        plain, steered: token ids, without an end token.
        moved: of the first token written: ids whose probability moved most, with it without and with.
    """

    plain: list[int]
    steered: list[int]
    moved: list[tuple[int, float, float]]


class Adding:
    """While open, each row's vector is added to what a block gives.

    The first call is the prompt's: all positions get it but the first `spared`. A block may be given the last positions
    only: Gemma 4's later ones, which make no keys of their own, run for those whose logits are wanted. Later calls are
    of tokens written since, and all get it. The sum is made in float32 and cast once.

    Args:
        block: the module, and `where` it stands, for messages.
        vectors: float32 [rows, d_model].
        length: tokens of the prompt.
        spared: how many of its first positions get nothing: BOS.
    Raises:
        InjectionError: the block never ran, or what it gives is not [rows, tokens, d_model].
    """

    def __init__(self, block: nn.Module, vectors: torch.Tensor, length: int, spared: int, where: str) -> None:
        self.block, self.vectors, self.where = block, vectors[:, None], where
        self.length, self.spared = length, spared
        self.calls = 0

    def __enter__(self) -> Adding:
        self.handle = self.block.register_forward_hook(self._add)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.handle.remove()
        if not self.calls and kind is None:
            raise InjectionError(
                f"Nothing was added: {self.where} was never called, so it wrote what it always writes."
            )

    def keep(self, going: Sequence[int]) -> None:
        """Only these rows are still there."""
        self.vectors = self.vectors[list(going)]

    def _add(self, module, args, output):
        states = output[0] if isinstance(output, tuple) else output
        if states.ndim != 3 or len(states) != len(self.vectors) or states.shape[-1] != self.vectors.shape[-1]:
            rows, _, width = self.vectors.shape
            raise InjectionError(
                f"Nothing was added: {self.where} gives states of shape {tuple(states.shape)}; expected [{rows}, "
                f"tokens, {width}], so it is not known here which of them is the residual stream."
            )
        first = self.length - states.shape[1]  # the position in the prompt of what is given
        spared = 0 if self.calls else max(0, self.spared - first)
        self.calls += 1
        made = placed(states[:, spared:], self.vectors.to(states.device), _ADDED)
        states = torch.cat([states[:, :spared], made], dim=1) if spared else made
        return (states, *output[1:]) if isinstance(output, tuple) else states


def adding(backbone: Backbone, block: int, vectors: torch.Tensor, length: int, *, spare_bos: bool = True) -> Adding:
    """Vectors float32 [rows, d_model] added after a block, at all positions of a prompt of `length` tokens but BOS.

    BOS is left alone: its state is an attention sink, in many models of a norm hundreds of times that of others, and
    all later positions read it.
    """
    spared = int(spare_bos and backbone.tokenizer.bos_token_id is not None)
    return Adding(backbone.blocks[block], vectors, length, spared, f"block {block} of {backbone.ref}")


def write_both(
    backbone: Backbone, asks: Sequence[Ask], sampling: Sampling, limit: int, watch: Watch = UNWATCHED
) -> list[Written]:
    """Go on from each prompt without and with its vector. The caller holds the backbone, without gradients.

    Args:
        sampling: at a temperature above 0 both draw with the same random numbers, which depend on the prompt and the
            seed only.
        limit: most tokens of each.
        watch: may call it off.
    Raises:
        NonFiniteOutputError: the model gives NaN or infinity; names the asks, and whether the vector is the cause.
        InjectionError: see `Adding`. CancelledCallError: `watch` has called it off.
    """
    found: dict[int, Written] = {}
    for rows in _batches(asks):
        prompts = list(dict.fromkeys(asks[row].ids for row in rows))
        plain = {}
        try:
            written, logits = write(backbone, prompts, None, sampling, limit, watch=watch)
        except NonFiniteOutputError as error:
            ids = prompts[error.rows[0]]
            lost = [row for row in rows if asks[row].ids in {prompts[at] for at in error.rows}]
            raise no_numbers(f"What {backbone.ref} computes", lost, backbone, ids) from None
        plain = {ids: (written[at], logits[at]) for at, ids in enumerate(prompts)}
        for row in rows:
            if asks[row].vector is None:
                own = plain[asks[row].ids][0]
                found[row] = Written(own, own, [])
        for block in dict.fromkeys(asks[row].block for row in rows):
            part = [row for row in rows if asks[row].block == block and asks[row].vector is not None]
            if not part:
                continue
            vectors = torch.stack([vector for row in part if (vector := asks[row].vector) is not None])
            add = adding(backbone, block, vectors, len(asks[rows[0]].ids))
            try:
                written, logits = write(backbone, [asks[row].ids for row in part], add, sampling, limit, watch=watch)
            except NonFiniteOutputError as error:
                raise error.numbered(lambda at, part=part: part[at]) from None
            for at, row in enumerate(part):
                own, before = plain[asks[row].ids]
                found[row] = Written(own, written[at], _moved(before, logits[at]))
    return [found[row] for row in range(len(asks))]


def write(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    add: Adding | None,
    sampling: Sampling,
    limit: int,
    *,
    on_token: Callable[[int, int], None] | None = None,
    watch: Watch = UNWATCHED,
) -> tuple[list[list[int]], torch.Tensor]:
    """Go on from prompts of one length. The caller holds the backbone, without gradients and with nothing of its own on
    it: others have their turn between two steps.

    Args:
        on_token: called with the row and the token, of each that is written.
        watch: may call it off.
    Returns:
        The tokens written for each, without an end token, and the logits of each first one: float32 [rows, vocabulary],
        on the CPU.
    Raises:
        NonFiniteOutputError: names the rows. CancelledCallError: `watch` has called it off.
    """
    ends, alive = end_token_ids(backbone), list(range(len(prompts)))
    written: list[list[int]] = [[] for _ in prompts]
    generators = None
    if sampling.temperature > 0:
        generators = [row_generator(torch.tensor(list(ids)), sampling.seed, 0) for ids in prompts]
    tokens = torch.tensor([list(ids) for ids in prompts], device=backbone.device)
    first = cache = None
    pace = backbone.pace(watch.check)
    while alive:
        watch.check()
        with add or nullcontext():
            given = backbone.model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits, cache = given.logits[:, -1], given.past_key_values
        first = logits.float().cpu() if first is None else first
        chosen = draw(logits, sampling.temperature, generators, alive)
        # NaN is the largest to argmax, so the number chosen tells of the whole row.
        if lost := first_rows(~logits.gather(1, chosen[:, None])[:, 0].isfinite()):
            raise NonFiniteOutputError(
                f"What {backbone.ref} computes with the vector added is NaN or infinite in {backbone.precision}. "
                "Take a smaller strength, or load it in bfloat16 or float32.",
                [alive[at] for at in lost],
            )
        going = []
        for at, (row, token) in enumerate(zip(alive, chosen.tolist(), strict=True)):
            if token in ends:
                continue
            written[row].append(token)
            if on_token is not None:
                on_token(row, token)
            if len(written[row]) < limit:
                going.append(at)
        if going and len(going) < len(alive):
            kept = torch.tensor(going, device=chosen.device)
            cache.batch_select_indices(kept.to(backbone.device))
            chosen = chosen[kept]
            if add is not None:
                add.keep(going)
        alive = [alive[at] for at in going]
        tokens = chosen[:, None]
        if alive:
            pace.step()
    assert first is not None, "there is at least one prompt"
    return written, first


def _batches(asks: Sequence[Ask]) -> Iterator[list[int]]:
    """Numbers of asks whose prompts are of one length, so many at a time; equal prompts side by side."""
    order = sorted(range(len(asks)), key=lambda row: (len(asks[row].ids), asks[row].ids))
    for _, of_a_length in groupby(order, key=lambda row: len(asks[row].ids)):
        rows = list(of_a_length)
        yield from (rows[at : at + ROWS_PER_BATCH] for at in range(0, len(rows), ROWS_PER_BATCH))


def _moved(before: torch.Tensor, after: torch.Tensor) -> list[tuple[int, float, float]]:
    """Of two rows of logits the tokens whose probabilities differ most, with both."""
    plain, steered = before.softmax(-1), after.softmax(-1)
    largest = (steered - plain).abs().topk(min(SHOWN, len(plain))).indices
    return [(int(token), float(plain[token]), float(steered[token])) for token in largest]
