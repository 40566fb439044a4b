"""transformer-lens' caches: `cache.cache_dict`, saved by torch or safetensors; hooks by name, [batch, seq, d]."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from ...errors import ActivationShapeError, InputError
from ..arrays import Entry
from ..faults import Question, SiteError
from ..kinds import Found, Stated
from ..places import Place

HOOK = re.compile(r"blocks\.\d+\.(?:.*\.)?hook_\w+|hook_(?:pos_)?embed|ln_final\.(?:.*\.)?hook_\w+")
OUTPUT = re.compile(r"blocks\.(\d+)\.hook_(?:resid_post|out)")
INPUT = re.compile(r"blocks\.(\d+)\.hook_(?:resid_pre|in)")
LOOKED_AT = 256  # rows in which it is seen whether a stream was centred
CENTRED_WITHIN = 0.05
"""|sum| / norm of a row that may be centred: bfloat16's rounding leaves some 0.02. Of any other row it is about 1."""


def captured(arrays: Mapping[str, Entry], place: Place, stated: Stated) -> Found | None:
    """The residual stream of one block out of a cache; None: the arrays are no hooks.

    Raises:
        SiteError: none of its hooks is the residual stream after a block.
        InputError: there is no such layer in it, or what is said of it cannot be.
        ActivationShapeError: an array that is no [batch, seq, d].
    """
    if not any(HOOK.fullmatch(one) for one in arrays):
        return None
    streams = _streams(arrays)
    if not streams:
        shown = ", ".join(list(arrays)[:4])
        raise SiteError(
            f"{place.name} holds {shown}{', …' if len(arrays) > 4 else ''}: none is the residual stream after a block. "
            "Keep blocks.L.hook_resid_post (or hook_out); hook_resid_pre of L + 1 is the same."
        )
    if isinstance(stated.layer, int) and stated.layer not in streams:
        raise InputError(
            f"{place.name} holds the residual stream of blocks {_listed(streams)}, not of {stated.layer}; say one of "
            "them with @layer."
        )
    if stated.layer is not None and not isinstance(stated.layer, int):
        raise InputError(f"{place.name}: a cache says the layer of each hook; say one of {_listed(streams)}.")
    said = stated.layer if stated.layer is not None or len(streams) > 1 else next(iter(streams))
    hook = streams[next(iter(streams)) if said is None else said]
    entry = arrays[hook]
    if not entry.is_float:
        raise ActivationShapeError(f"{place.name}: {hook} holds {entry.dtype}; expected floating-point numbers.")
    questions = []
    if said is None:
        choices = tuple(f"{layer}: {streams[layer]}" for layer in streams)
        questions.append(Question("layer", "it holds the residual stream of several blocks; or REF@layer", choices))
    labels = token_labels(entry.shape, f"{place.name}: {hook}")
    asked, how = _centred(entry, stated.centred, place.name)
    questions += asked
    taken = () if said is None else (f"{hook} is the output of block {said}",)
    return Found(
        tool="transformer-lens cache",
        count=entry.count,
        width=entry.shape[-1],
        read=lambda rows: entry.rows(rows, None),
        kind=stated.kind or "activation",
        layer=said,
        model=stated.model,
        labels=labels,
        assumed=(*taken, *how, *two_axes(entry.shape)),
        questions=tuple(questions),
        unknown=() if stated.model else ("the model that ran: a cache does not name it",),
    )


def _streams(arrays: Mapping[str, Entry]) -> dict[int, str]:
    """Block (-1: the embeddings) → the hook that is its output, or the next block's input."""
    found: dict[int, str] = {}
    for pattern, back in ((OUTPUT, 0), (INPUT, 1)):
        for name in arrays:
            if match := pattern.fullmatch(name):
                found.setdefault(int(match[1]) - back, name)
    return dict(sorted(found.items()))


def _listed(streams: Mapping[int, str]) -> str:
    return ", ".join(map(str, streams))


def token_labels(shape: Sequence[int], name: str) -> tuple[str, ...]:
    """A label of each row of [batch, seq, d] or [seq, d].

    Raises:
        ActivationShapeError: it has another number of axes, or no numbers.
    """
    if len(shape) not in (2, 3) or 0 in shape:
        raise ActivationShapeError(
            f"{name} has shape {tuple(shape)}; expected [batch, seq, d] or [seq, d] with at least one row."
        )
    texts, tokens = (1, shape[0]) if len(shape) == 2 else shape[:2]
    return tuple(f"text {text}, token {token}" for text in range(texts) for token in range(tokens))


def two_axes(shape: Sequence[int]) -> tuple[str, ...]:
    """What is taken for granted of [seq, d]."""
    return ("its two axes are the tokens of one text and d_model",) if len(shape) == 2 else ()


def _centred(entry: Entry, said: bool | None, name: str) -> tuple[list[Question], list[str]]:
    """Whether the stream was centred, as far as its numbers show: every row of a centred one sums to 0 but for
    rounding; a model's own stream does not, unless its weights were centred before they were published."""
    rows = entry.rows(range(min(entry.count, LOOKED_AT)), None).astype(np.float64)
    rows = rows[np.isfinite(rows).all(axis=1) & rows.any(axis=1)]
    sums = np.abs(rows.sum(axis=1)) / np.linalg.norm(rows, axis=1)
    if not len(sums):
        return [], []  # it holds no number to go by, and cannot be read
    if sums.max() > CENTRED_WITHIN:
        if said:
            raise InputError(
                f"{name}: centred=True, but its rows are not: the numbers of a centred row sum to 0. Leave it out."
            )
        return [], ["it was not centred: its rows do not sum to 0"]
    if said is None:
        why = "every row sums to 0: compatibility mode takes its mean out of a LayerNorm model's stream"
        choices = (
            "true: it was taken out, so rows are not quite the model's own",
            "false: they are the model's own, as RMSNorm models' always are",
        )
        return [Question("centred", why, choices)], []
    if said:
        return [], ["centred: every row lacks its mean over d_model, which the model's own stream has"]
    return [], ["not centred, as told, though every row sums to 0"]
