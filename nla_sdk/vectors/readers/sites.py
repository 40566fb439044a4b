"""Of which block vectors are, by the name of their site; what other sites are; what is known of a dictionary."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import InputError
from ..faults import Question, SiteError, VectorFileError
from ..kinds import RESIDUAL, Found, Stated
from ..places import Place, Rows

EMBEDDINGS = -1
_TRANSFORMER_LENS = re.compile(r"blocks\.(\d{1,4})\.(\S+)", re.IGNORECASE)
_MODULE = re.compile(
    r"(?:(?:base_model|model|transformer|gpt_neox|language_model|decoder|backbone)\.)*"
    r"(?:layers|layer|h|blocks)\.(\d{1,4})(?:\.(\S+))?",
    re.IGNORECASE,
)
_EMBEDDING = re.compile(r"hook_embed|(?:\w+\.)*(?:embed_tokens|embed_in|wte)(?:\.output)?", re.IGNORECASE)
_AFTER, _BEFORE = ("hook_resid_post", "hook_out", "output", None), ("hook_resid_pre", "hook_in", "input")
_OTHERS = (  # what the rest of a name holds → what is there
    (r"hook_z|o_proj\.input", "the heads' outputs before the output projection, even where the width is the model's"),
    (r"resid_mid", "the stream between attention and MLP"),
    (r"attn|attention", "attention's own input or output"),
    (r"mlp|feed_?forward|ffn", "the MLP's own input, neurons or output"),
    (r"ln|norm", "the stream behind a norm"),
)
SITE = (f"{RESIDUAL}: the residual stream after the block that layer names (-1: the embeddings)",)


def layer_of(site: str, where: str) -> int | None:
    """The block whose output a site is, by its name in transformer-lens or a module's in transformers.

    Args:
        site: such as `blocks.8.hook_resid_pre` (the output of block 7), `model.layers.8`, `h.8`, `embed_tokens`.
        where: whose it is, for the message.
    Returns:
        -1: the embeddings. None: the name says nothing of the kind.
    Raises:
        SiteError: it is another site.
    Example:
        >>> layer_of("blocks.8.hook_resid_pre", "sae")
        7
    """
    if _EMBEDDING.fullmatch(site):
        return EMBEDDINGS
    found = _TRANSFORMER_LENS.fullmatch(site) or _MODULE.fullmatch(site)
    if found is None:
        return None
    block, rest = int(found[1]), found[2] and found[2].lower()
    if rest in _AFTER:
        return block
    if rest in _BEFORE:
        return block - 1
    what = next((what for pattern, what in _OTHERS if re.search(pattern, rest)), "inside a block")
    raise SiteError(f"{where} is of {site}: {what}. Pairs read the residual stream after a block.")


def dictionary(
    place: Place,
    stated: Stated,
    tool: str,
    rows: Rows,
    site: str | None,
    *,
    silence: str,
    layer_silence: str = "nor this",
    width: object = None,
    model: str | None = None,
    assumed: tuple[str, ...] = (),
) -> Found:
    """Rows of a dictionary as directions of the residual stream.

    Args:
        site: its name, as the files say it; None: they do not.
        silence, layer_silence: what they say in its place: clauses, for the questions of site and layer.
        width: numbers in a row, where a config says so.
    Raises:
        SiteError: of another site. VectorFileError: no matrix, or not of this width.
        InputError: layers were said that are not one for each row.
    """
    if len(rows.shape) != 2 or min(rows.shape) < 1 or (type(width) is int and rows.shape[1] != width):
        wanted = f"rows of {width}" if type(width) is int else "rows"
        raise VectorFileError(f"{place.name}: its decoder has shape {list(rows.shape)}; expected {wanted}.")
    layer, questions = None if site is None else layer_of(site, place.name), []
    if stated.site not in (None, RESIDUAL):
        raise SiteError(f"{place.name} was said to be of {stated.site}; pairs read the residual stream after a block.")
    if layer is None:
        if stated.site is None:
            questions.append(Question("site", silence, SITE))
        if stated.layer is None:
            questions.append(Question("layer", layer_silence))
    elif stated.layer not in (None, layer):
        assumed += (f"layer {stated.layer}, as was said; the files say {site}",)
    said = stated.layer if stated.layer is None or isinstance(stated.layer, int) else tuple(stated.layer)
    if isinstance(said, tuple) and len(said) != rows.shape[0]:
        raise InputError(f"{place.name} has {rows.shape[0]:,} vectors, and {len(said):,} layers were given.")
    model = stated.model or model
    return Found(
        tool,
        rows.shape[0],
        rows.shape[1],
        rows,
        stated.kind or "direction",
        layer if said is None else said,
        model=model,
        assumed=assumed,
        questions=tuple(questions),
        unknown=() if model else ("the model",),
    )


class Changed:
    """Rows with something done to them."""

    def __init__(self, rows: Rows, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.shape, self._rows, self._change = rows.shape, rows, change

    def __call__(self, rows: Sequence[int]) -> np.ndarray:
        return self._change(self._rows(rows))


def text(settings: Mapping[str, Any], key: str) -> str | None:
    """A setting that is a text; None: it is not there, empty, or something else."""
    found = settings.get(key)
    return found.strip() if isinstance(found, str) and found.strip() else None


def part(settings: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A setting that holds settings; empty where it does not."""
    found = settings.get(key)
    return found if isinstance(found, Mapping) else {}
