"""Statistics that are measured once for a base, layer and precision, and kept in this SDK's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..errors import DamagedFileError
from ..io.files import atomic
from ..io.progress import say
from ..model.backbone import Backbone
from ..model.statistics.measure import TEXTS, measure
from ..model.statistics.states import FORMAT, ActivationStatistics
from .demo_base import cache_root

if TYPE_CHECKING:
    from .half import Half
    from .memory.bases import Base

QUICK = 10**9  # parameters of a base that a CPU measures in a minute or two


def kept(
    backbone: Backbone, layer: int, files: Path, *, measured: bool = True, told: bool = True
) -> ActivationStatistics | None:
    """Read them from the cache, or measure and keep them.

    Args:
        backbone: the base in memory.
        files: its folder, which tells it from others by the names, sizes and times of its files.
        measured: False: None where they are not in the cache.
        told: say that it is being measured; False: where a progress bar stands already.
    """
    listing = sorted((file.name, file.stat().st_size) for file in files.iterdir() if file.is_file())
    listing += [(str(files.resolve()), max((int(file.stat().st_mtime) for file in files.iterdir()), default=0))]
    texts = hashlib.sha256(TEXTS.read_bytes()).hexdigest()
    key = hashlib.sha256(repr((listing, layer, backbone.precision, texts, FORMAT)).encode()).hexdigest()[:24]
    file = cache_root() / "statistics" / f"{key}.safetensors"
    if file.is_file():
        try:
            return replace(ActivationStatistics.load(file), base_model=backbone.ref)  # one folder has many names
        except DamagedFileError:
            pass  # measured again, and written over
    if not measured:
        return None
    if told:
        say(f"measuring what activations of {backbone.ref}, layer {layer}, look like (once)")
    found = measure(backbone, layer)
    try:
        with atomic(file) as sibling:
            found.save(sibling)
    except OSError:
        pass  # a cache that cannot be written costs the next process the same seconds
    return found


def statistics_of(halves: Sequence[Half], base: Base, *, wait: bool) -> ActivationStatistics | None:
    """Those that a half's contract names, else those cached, else measured if the base is in memory.

    Args:
        wait: for a large base on a CPU.
    """
    for half in halves:
        if half.contract.activation_statistics is not None:
            file = half.folder / half.contract.activation_statistics
            found = ActivationStatistics.load(file)
            contract = half.contract
            found.belongs(contract.base_model, cast(int, contract.layer), cast(int, contract.d_model), str(file))
            return found
    if any(half.contract.activation_map or half.contract.reconstruction_map for half in halves):
        return None  # what is read is mapped from another model's space, of which the base knows nothing
    return statistics_at(base, cast(int, halves[0].contract.layer), wait=wait)


def statistics_at(base: Base, layer: int, *, wait: bool = False) -> ActivationStatistics | None:
    """Those of any layer of a base that is in memory: cached, or measured now.

    Args:
        wait: for a large base on a CPU.
    """
    if (backbone := base.in_memory) is None:
        return None
    quick = backbone.device.type != "cpu" or sum(p.numel() for p in backbone.model.parameters()) < QUICK
    return kept(backbone, layer, cast(Path, base.path), measured=quick or wait)
