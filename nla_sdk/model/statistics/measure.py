"""Measure a base's states on a small set of varied texts; done once for a base, layer and precision.

The texts (`texts.txt`) are short passages of many kinds: prose, dialogue, code, tables, numbers, mathematics, a dozen
languages. Thresholds are measured on the half of them that the projection was not made from, and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ...errors import NonFiniteOutputError
from ..backbone import Backbone
from ..batches import by_length, pad_right
from ..extraction import Extractor, tokenize
from ..running.norm import find_final_norm
from .means import ActivationMean
from .states import SIZES, ActivationStatistics, block_state, describe, likelihood, margins

TEXTS = Path(__file__).with_name("texts.txt")
LONGEST = 72  # tokens of a text that are read
NUMBERS = 2**28  # of all states together: a GiB; of wide and deep models fewer tokens are kept
TEXTS_AT_ONCE = 32
EVERY = 7  # texts one is read with padding too; odd, so that both halves of the texts have some
PADDED = 8  # padding tokens read at, on either side
SHRINKAGE = 0.01  # of the covariance towards a multiple of the identity, which it is far from having the rows for
SLACK = 1.5  # what no right row came near: the worst of a few thousand rows, and half as much again
ALARMS = 0.01  # of right batches that a threshold lets pass as suspects


def built_in_texts() -> list[str]:
    """The passages that are measured where no others are given."""
    return TEXTS.read_text(encoding="utf-8").strip("\n").split("\n%%\n")


def measure(backbone: Backbone, layer: int, texts: Sequence[str] = ()) -> ActivationStatistics:
    """Read every state of the base on texts of many kinds.

    Args:
        backbone: the base; it is run with its adapters off, held meanwhile.
        layer: the pair's.
        texts: measured beside the built-in ones.
    Raises:
        NonFiniteOutputError: the layer's own activations hold NaN or infinity. Another state that does is left out.
    """
    rows = [tokenize(backbone.tokenizer, text)[:LONGEST] for text in [*built_in_texts(), *texts]]
    with torch.no_grad(), backbone.using(None):
        readings = _readings(backbone, [ids for ids in rows if len(ids) > 2], layer)
    readings = _within(_finite(readings, backbone, layer), NUMBERS // backbone.d_model)
    states = tuple(dict.fromkeys(name for reading in readings for name in reading))
    own = states.index(block_state(layer))
    described = [{name: describe(rows) for name, rows in reading.items()} for reading in readings]
    beaten, nearest = [], []
    for half in (0, 1):
        projection, centres = _discriminants(described[half::2], states)
        for reading in described[1 - half :: 2]:
            distances = _distances(reading[states[own]], projection, centres)
            nearest.append(distances.amin(1))
            beaten.append(margins(likelihood(distances, centres.shape[1]), own))
    projection, centres = _discriminants(described, states)
    rows = torch.cat([reading[states[own]] for reading in readings])
    norms = rows.norm(dim=-1).log()
    return ActivationStatistics(
        base_model=backbone.ref,
        layer=layer,
        precision=backbone.precision,
        states=states,
        projection=projection.float(),
        centres=centres.float(),
        mean=rows.mean(0),
        log_norm=torch.quantile(norms, torch.tensor([0.01, 0.5, 0.99])),
        thresholds=torch.tensor([max(0.0, _quantile(beaten, size)) for size in SIZES]),
        certain=max(0.0, float(torch.cat(beaten).max())) * SLACK,
        far=float(torch.cat(nearest).max()) * SLACK,
    )


def measure_mean(
    read: Extractor, layer: int, texts: Sequence[str] = (), told: Callable[[int], None] | None = None
) -> ActivationMean:
    """The mean of a model's activations at a layer, and how far they lie from it, over texts.

    Every token of every text is read but the first, which is an attention sink. Of many tokens every n-th is kept, so
    that a GiB holds them.

    Args:
        texts: default: the built-in ones.
        told: called with the number of texts just read.
    Raises:
        LayerError, TextError, NonFiniteOutputError: as `Extractor`; InputError: the texts hold too few tokens.
    """
    backbone = read.backbone
    texts = list(texts) or built_in_texts()
    tokens = sum(len(tokenize(backbone.tokenizer, text)) - 1 for text in texts)
    step, kept, seen = -(-tokens // (NUMBERS // backbone.d_model)) or 1, [], 0
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        part = texts[start : start + TEXTS_AT_ONCE]
        found = read(part, "all", layer=layer)
        rows = found.vectors[torch.tensor(found.positions) > 0]
        kept.append(rows[-seen % step :: step])
        seen += len(rows)
        if told is not None:
            told(len(part))
    facts = {"layer": layer, "model": backbone.ref, "precision": backbone.precision}
    return ActivationMean.of(torch.cat(kept), origin=f"the mean measured on {backbone.ref}", **facts)


# --- reading ----------------------------------------------------------------------------------------------------------
def _readings(backbone: Backbone, texts: Sequence[list[int]], layer: int) -> list[dict[str, torch.Tensor]]:
    """Of each text float32 rows of every state it has, first tokens left out: they are attention sinks."""
    tokenizer, own, last = backbone.tokenizer, block_state(layer), block_state(backbone.num_blocks - 1)
    whole = _states(backbone, texts, backbone.num_blocks - 1)
    readings = [{name: rows[1:] for name, rows in found.items()} for found in whole]
    if (norm := find_final_norm(backbone.model, backbone.blocks_name)) is not None:
        normed = {"final norm": last} | ({} if own == last else {"final norm of the layer": own})
        for reading in readings:
            for name, of in normed.items():
                reading[name] = norm(reading[of].to(backbone.device, backbone.dtype)).float().cpu()
    if all(ids[0] == tokenizer.bos_token_id for ids in texts):
        for reading, found in zip(readings, _states(backbone, [ids[1:] for ids in texts], layer), strict=True):
            reading["no BOS"] = found[own][1:]
        for reading, found in zip(readings, whole, strict=True):
            reading["BOS"] = found[own][:1]
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if pad is not None:
        few = range(0, len(texts), EVERY)
        right = _states(backbone, [[*texts[at], *[pad] * PADDED] for at in few], layer)
        left = _states(backbone, [[*[pad] * PADDED, *texts[at]] for at in few], layer)
        for at, after, before in zip(few, right, left, strict=True):
            readings[at]["right padding"] = after[own][-PADDED:]
            readings[at]["left padding"] = before[own][1:PADDED]
    return readings


def _states(backbone: Backbone, texts: Sequence[list[int]], block: int) -> list[dict[str, torch.Tensor]]:
    """Of each text float32 [tokens, d_model] on the CPU: the embedding and the output of every block up to `block`."""
    found: list[dict[str, torch.Tensor]] = [{} for _ in texts]
    for batch in by_length([len(ids) for ids in texts]):
        padded, _ = pad_right([texts[at] for at in batch])
        with _watched(backbone.blocks) as seen:
            seen[block_state(block)] = backbone.run_to_block(padded, block)
        for place, at in enumerate(batch):
            found[at] = {name: rows[place, : len(texts[at])].float().cpu() for name, rows in seen.items()}
    return found


@contextmanager
def _watched(blocks: nn.ModuleList) -> Iterator[dict[str, torch.Tensor]]:
    """While open, what goes into the first block and comes out of every one."""
    seen: dict[str, torch.Tensor] = {}

    def entered(module, args, kwargs):
        seen["embedding"] = args[0] if args else kwargs["hidden_states"]

    def left(number: int):
        def hook(module, args, output):
            seen[block_state(number)] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [blocks[0].register_forward_pre_hook(entered, with_kwargs=True)]
    handles += [block.register_forward_hook(left(number)) for number, block in enumerate(blocks)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _finite(readings: list[dict[str, torch.Tensor]], backbone: Backbone, layer: int) -> list[dict[str, torch.Tensor]]:
    """The states that hold numbers only: float16 overflows in some models, from some block on."""
    lost = {name for reading in readings for name, rows in reading.items() if not rows.isfinite().all()}
    if block_state(layer) in lost:
        raise NonFiniteOutputError(
            f"What {backbone.ref} computes at layer {layer} in {backbone.precision} holds NaN or infinity for some "
            "texts, so nobody can say what right activations look like. Load it in bfloat16 or float32."
        )
    return [{name: rows for name, rows in reading.items() if name not in lost} for reading in readings]


def _within(readings: list[dict[str, torch.Tensor]], most: int) -> list[dict[str, torch.Tensor]]:
    """Every n-th row, so that there are at most `most` of all texts and states together."""
    rows = sum(len(rows) for reading in readings for rows in reading.values())
    step = -(-rows // most)
    return [{name: rows[::step] for name, rows in reading.items()} for reading in readings]


# --- telling states apart ---------------------------------------------------------------------------------------------
def _discriminants(
    readings: Sequence[dict[str, torch.Tensor]], states: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fisher's discriminants: float64 projection [d + 1, k] to unit covariance, and the states' centres [S, k]."""
    rows = {name: torch.cat([reading[name] for reading in readings if name in reading]) for name in states}
    means = torch.stack([rows[name].mean(0) for name in states])
    within = torch.zeros(means.shape[1], means.shape[1], dtype=torch.float64)
    for name, mean in zip(states, means, strict=True):
        # A copy of the rows at a time: a wide and deep model's are a GiB.
        centred = rows.pop(name) - mean
        within += centred.T @ centred / len(centred)
    within /= len(states)
    size = within.diagonal().mean()
    within = (1 - SHRINKAGE) * within + SHRINKAGE * size * torch.eye(len(within), dtype=torch.float64)
    factor = torch.linalg.cholesky(within)
    whitened = torch.linalg.solve_triangular(factor, (means - means.mean(0)).T, upper=False).T
    rank = min(len(states) - 1, means.shape[1])
    directions = torch.linalg.svd(whitened, full_matrices=False).Vh[:rank].T
    projection = torch.linalg.solve_triangular(factor.T, directions, upper=True)
    return projection, means @ projection


def _distances(described: torch.Tensor, projection: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    return (((described @ projection)[:, None] - centres) ** 2).sum(-1)


def _quantile(beaten: Sequence[torch.Tensor], size: int) -> float:
    """The margin that all but `ALARMS` of the batches of `size` neighbouring rows stay below.

    Neighbours in one text are the hardest of right batches: what is odd about one is odd about all.
    """
    worst = [rows.unfold(0, min(size, len(rows)), 1).mean(-1).amax(1) if len(rows) else rows.amax(1) for rows in beaten]
    return float(torch.quantile(torch.cat(worst), 1 - ALARMS))
