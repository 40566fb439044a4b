"""SAELens: `cfg.json` beside `sae_weights.safetensors`, the directions in the rows of W_dec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..faults import SiteError, VectorFileError
from ..kinds import Found, Stated
from ..places import Place, Rows
from .sites import Changed, dictionary, part, text

CONFIG, WEIGHTS, WHITENING = "cfg.json", "sae_weights.safetensors", "activation_whitening.safetensors"
HEADS = ("hook_head_index", "hook_point_head_index")
"""The head that a dictionary is of, as version 3 and later, and as version 2 called it."""
TWO_SIDED = "the sign is the row's own: an AbsTopK feature is active with either sign"


def read(place: Place, stated: Stated) -> Found | None:
    """A dictionary of SAELens, of any version.

    Raises:
        SiteError: of another site than the residual stream, or in whitened coordinates that nothing here undoes.
        VectorFileError: the files do not fit each other.
    """
    if not (place.has(CONFIG) and place.has(WEIGHTS)):
        return None
    cfg = place.json(CONFIG)
    said = {**cfg, **part(cfg, "metadata")}  # version 6 has a part of its own for what stood beside the rest before
    site = text(said, "hook_name") or text(said, "hook_point")  # the latter: version 2
    _refuse_others(place, said, site)
    rows, assumed = place.matrix(WEIGHTS, "W_dec"), ()
    if text(said, "normalize_activations") == "covariance_whitening":
        rows, assumed = _unwhitened(place, rows), (f"rows taken out of whitened coordinates by {WHITENING}",)
    if text(said, "architecture") == "abstopk":
        assumed += (TWO_SIDED,)
    version = text(said, "sae_lens_version") or text(said, "sae_lens_training_version")
    return dictionary(
        place,
        stated,
        f"sae-lens {version or 'before 6'}",
        rows,
        site,
        silence=f"{CONFIG} has {'no hook_name' if site is None else f'hook_name {site}, which is no known site'}",
        width=said.get("d_in"),
        model=text(said, "model_name"),
        assumed=assumed,
    )


def _refuse_others(place: Place, said: Mapping[str, Any], site: str | None) -> None:
    written = text(said, "hook_name_out")
    if "transcoder" in (text(said, "architecture") or "") or said.get("is_transcoder") or written not in (None, site):
        raise SiteError(
            f"{place.name} is a transcoder: its rows are what is written at {written or 'another site'} for what was "
            f"read at {site}, no directions of the stream after a block."
        )
    head = next((said[key] for key in HEADS if said.get(key) is not None), None)
    if head is not None:
        raise SiteError(f"{place.name} is of head {head} of {site} alone, not of the residual stream.")
    if text(said, "reshape_activations") == "hook_z":
        raise SiteError(f"{place.name} is of hook_z, the heads' outputs side by side, not of the residual stream.")


def _unwhitened(place: Place, rows: Rows) -> Rows:
    """Rows times the inverse of the whitening: x = z · inverse_matrix + mean, and a direction has no mean in it."""
    if not place.has(WHITENING):
        raise SiteError(
            f"{place.name} was saved in mid-training, its rows in whitened coordinates (covariance_whitening), and "
            f"{WHITENING}, which takes them back, is not beside it. Take that folder, or the final one."
        )
    matrix, square = place.matrix(WHITENING, "inverse_matrix"), rows.shape[-1:] * 2
    if matrix.shape != square:
        raise VectorFileError(
            f"{place.name}: inverse_matrix of {WHITENING} is {list(matrix.shape)}; expected {list(square)}."
        )

    def back(found: np.ndarray) -> np.ndarray:
        return found.astype(np.float64) @ matrix(range(matrix.shape[0])).astype(np.float64)

    return Changed(rows, back)
