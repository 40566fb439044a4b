"""sparsify of EleutherAI: `HOOKPOINT/cfg.json` beside `sae.safetensors`, the directions in the rows of W_dec."""

from __future__ import annotations

import re

from ..faults import SiteError
from ..kinds import Found, Stated
from ..places import Place, json_object
from .sites import dictionary, text

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
TWO_SIDED = "the sign is the row's own: a signed coder's feature is active with either sign"


def read(place: Place, stated: Stated) -> Found | None:
    """A sparse coder of sparsify; only its folder's name says of which module's output it is.

    Raises:
        SiteError: a transcoder, or of a module inside a block.
        VectorFileError: the files do not fit each other.
    """
    if not (place.has(CONFIG) and place.has(WEIGHTS)):
        return None
    cfg = place.json(CONFIG)
    if cfg.get("transcode") or cfg.get("skip_connection"):
        raise SiteError(
            f"{place.name} is a transcoder: its rows are what a module writes, not directions of the stream."
        )
    parts = [part for part in place.path.parts if not re.fullmatch(r"seed\d+", part)]
    site = parts[-1] if parts else ""
    above = place.outer("config.json")
    run = json_object(above) if above else {}
    return dictionary(
        place,
        stated,
        "eai-sparsify",
        place.matrix(WEIGHTS, "W_dec"),  # its size is the tensor's: num_latents is 0 where expansion_factor made it
        site,
        silence=f"its folder would, and is called {site!r}",
        width=cfg.get("d_in"),
        model=text(run, "model") if "sae" in run else None,
        assumed=(TWO_SIDED,) if cfg.get("signed") else (),
    )
