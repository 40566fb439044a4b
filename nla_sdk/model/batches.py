"""Rows of different lengths in batches: which run together, how they are padded, the states of tokens that are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from .backbone import Backbone
from .fast.blocks import CLOSE, Blocks, read_blocks
from .fast.branching import Layout, branched
from .fast.whole import run_beginning, states_at

TOKENS_PER_BATCH = 4096
FEWER_TOKENS = 2048  # of a batch that runs on a CPU: it fills the cores, and fewer rows wait for a longer one
WORTH_SHARING = 6  # tokens: less, as BOS alone, costs more than it saves
PROBED = 32  # tokens that both ways are compared on


def by_length(lengths: Sequence[int], tokens_per_batch: int | None = None) -> Iterator[list[int]]:
    """Indices of rows to run together, longest first and ties in order, so that little is padded.

    Args:
        lengths: tokens of each row, at least 1.
        tokens_per_batch: how many a padded batch may hold (a longer row runs alone); default: `TOKENS_PER_BATCH`.
    Example:
        >>> list(by_length([3, 8, 4, 4], tokens_per_batch=12))
        [[1], [2, 3, 0]]
    """
    budget = tokens_per_batch or TOKENS_PER_BATCH
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    while order:
        size = max(1, budget // lengths[order[0]])
        yield order[:size]
        order = order[size:]


def pad_right(prompts: Sequence[Sequence[int]], pad_id: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [n, longest], padded on the right, and the index [n] of each row's last real token."""
    width = max(len(ids) for ids in prompts)
    padded = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    for row, ids in enumerate(prompts):
        padded[row, : len(ids)] = torch.as_tensor(ids, dtype=torch.long)
    return padded, torch.tensor([len(ids) - 1 for ids in prompts])


def token_states(
    backbone: Backbone, prompts: Sequence[Sequence[int]], block: int, positions: Sequence[int] | None = None
) -> torch.Tensor:
    """The residual stream after `block` at one token of each prompt: [n, d_model]. The caller holds the backbone.

    Args:
        positions: the token of each; None: the last.
    """
    padded, last = pad_right(prompts)
    states = backbone.run_to_block(padded, block)
    wanted = last if positions is None else torch.tensor(positions)
    return states[torch.arange(len(prompts), device=states.device), wanted.to(states.device)]


def read_states(
    backbone: Backbone,
    rows: Sequence[Sequence[int]],
    wanted: Sequence[Sequence[int]],
    block: int,
    *,
    fast: bool = True,
) -> list[torch.Tensor]:
    """The residual stream after `block` at some tokens of each row of token ids, without gradients: for each a tensor
    [len(wanted[i]), d_model] in the model's dtype. The caller holds the backbone.

    Attention is causal, so what a row shares with others from its beginning on is run once: a row that is the
    beginning of another is read where the other one runs. Between two batches others have their turn.

    Args:
        wanted: positions in each row, each at least 0; none at all gives [0, d_model].
        fast: from the model's weights where that is known to be the same (`fast.blocks`).
    """
    within = merged(rows)
    asked: dict[int, list[int]] = {}
    for row, positions in enumerate(wanted):
        asked.setdefault(within[row], []).extend(positions)
    asked = {run: sorted(set(positions)) for run, positions in asked.items() if positions}
    blocks = fast_blocks(backbone, [rows[run] for run in asked], block) if fast else None
    found = (
        _by_the_model(backbone, rows, asked, block) if blocks is None else _from_weights(backbone, blocks, rows, asked)
    )
    place_of = {(run, position): at for run, positions in asked.items() for at, position in enumerate(positions)}
    none = torch.empty(0, backbone.d_model, dtype=backbone.dtype, device=backbone.device)
    result = []
    for row, positions in enumerate(wanted):
        run = within[row]
        places = [place_of[run, position] for position in positions]
        states = found[run] if places else none
        result.append(states[torch.tensor(places, dtype=torch.long, device=states.device)])
    return result


def merged(rows: Sequence[Sequence[int]]) -> list[int]:
    """For each row the number of the one to run in its place: itself, an equal one, or a longer one that begins so.

    Example:
        >>> merged([[2, 5], [2, 5, 7], [2, 8], [2, 5]])
        [1, 1, 2, 1]
    """
    order = sorted(range(len(rows)), key=lambda row: (list(rows[row]), -row))
    within = list(range(len(rows)))
    for row, following in zip(reversed(order[:-1]), reversed(order[1:]), strict=True):
        longer = rows[within[following]]
        if list(longer[: len(rows[row])]) == list(rows[row]):
            within[row] = within[following]
    return within


def fast_blocks(backbone: Backbone, rows: Sequence[Sequence[int]], block: int) -> Blocks | None:
    """The model's blocks up to `block` as plain functions; None: the model itself is to be run.

    The first time with an adapter they are compared with the model, on the beginning of the longest row.
    """
    if not rows or torch.is_grad_enabled():
        return None
    probe, longest = list(max(rows, key=len))[:PROBED], max(map(len, rows))
    if len(probe) < 3:
        return None  # of one token attention is the same whatever it does
    blocks = read_blocks(backbone, block + 1)
    if blocks is None or (blocks.window is not None and longest > blocks.window):
        return None
    key = "whole", block, backbone.active
    if key not in backbone.alike:
        ids = torch.tensor([probe])
        own = backbone.run_to_block(ids, block)[0]
        found = states_at(blocks, ids, [range(len(probe))])[0]
        # Of each token by itself: the first one's state may be a thousand times as large as all others.
        backbone.alike[key] = bool(((found - own).norm(dim=1) <= CLOSE * own.norm(dim=1)).all())
    return blocks if backbone.alike[key] else None


def _by_the_model(
    backbone: Backbone, rows: Sequence[Sequence[int]], asked: dict[int, list[int]], block: int
) -> dict[int, torch.Tensor]:
    found = {}
    runs, pace = list(asked), backbone.pace()
    for batch in by_length([len(rows[run]) for run in runs]):
        padded, _ = pad_right([rows[runs[at]] for at in batch])
        states = backbone.run_to_block(padded, block)
        for place, at in enumerate(batch):
            run = runs[at]
            found[run] = states[place, torch.tensor(asked[run], device=states.device)]
        if len(found) < len(runs):
            pace.step()
    return found


def _from_weights(
    backbone: Backbone, blocks: Blocks, rows: Sequence[Sequence[int]], asked: dict[int, list[int]]
) -> dict[int, torch.Tensor]:
    found = {}
    runs, pace = list(asked), backbone.pace()
    common = len(shared_beginning([rows[run] for run in runs])) if len(runs) > 1 else 0
    common = min(common, *(positions[0] for positions in asked.values()))
    common = common if common >= WORTH_SHARING else 0
    beginning = run_beginning(blocks, rows[runs[0]][:common])
    rest = {run: rows[run][common : asked[run][-1] + 1] for run in runs}
    if (sequences := branched(rest)) is not None:
        for batch in by_length([len(one.ids) for one in sequences], FEWER_TOKENS):
            part = [sequences[at] for at in batch]
            layout = Layout.of(part, 0 if beginning is None else beginning.length)
            texts = [[(run, path[at - common]) for run, path in one.paths.items() for at in asked[run]] for one in part]
            wanted = [[common + place for _, place in one] for one in texts]
            states = states_at(blocks, layout.ids, wanted, beginning, layout)
            for one, of_sequence in zip(texts, states, strict=True):
                # NaN reaches whatever it is masked from: whose it is is seen of each text by itself.
                if of_sequence.isfinite().all():
                    counts = [len(asked[run]) for run in dict.fromkeys(run for run, _ in one)]
                    found.update(zip(dict.fromkeys(run for run, _ in one), of_sequence.split(counts), strict=True))
            if len(found) < len(asked):
                pace.step()
        runs = [run for run in runs if run not in found]
    for batch in by_length([len(rest[run]) for run in runs], FEWER_TOKENS):
        padded, _ = pad_right([rest[runs[at]] for at in batch])
        states = states_at(blocks, padded, [asked[runs[at]] for at in batch], beginning)
        found.update((runs[at], one) for at, one in zip(batch, states, strict=True))
        if len(found) < len(asked):
            pace.step()
    return found


def shared_beginning(rows: Sequence[Sequence[int]]) -> Sequence[int]:
    """What all rows begin with. Of several rows in order the first and the last share the least."""
    least, most = min(rows, key=list), max(rows, key=list)
    for at, (one, other) in enumerate(zip(least, most, strict=False)):
        if one != other:
            return least[:at]
    return least
