"""The base model that halves sit on: loaded when first asked for, once for all pairs of this process that use it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...model.backbone import Backbone
from ...model.weights.finite import refuse_non_finite, weights_of
from ...model.weights.loading import pick_device, pick_dtype
from ...model.weights.quantized import agreed, stored_quantization
from ...model.weights.tokenizers import load_tokenizer, used
from .. import fetch
from ..fetch import TOKENIZER_FILES, Files

_shared: weakref.WeakValueDictionary[tuple, Backbone] = weakref.WeakValueDictionary()
_probed: weakref.WeakKeyDictionary[Backbone, set[str]] = weakref.WeakKeyDictionary()
_loading: dict[tuple, threading.Lock] = {}
_lock = threading.Lock()


class Base:
    """A model that halves were trained on, loaded when it is first asked for.

    Args:
        ref: Hub id or folder.
        revision: of the Hub repository.
        where: cache_dir, token, local_files_only, as for `fetch_base`.
        options: how to load it, as for `Backbone.load`.
        files: where it has been found already.
        tokenizer: a folder whose tokenizer is read if the base's own holds none.
    Attributes:
        path: where its files are; None until it is loaded.
        commit: of the Hub repository they are from; None until then, and for a folder.
    """

    def __init__(
        self,
        ref: str,
        *,
        revision: str | None = None,
        where: Mapping[str, Any],
        options: Mapping[str, Any],
        files: Files | None = None,
        tokenizer: Path | None = None,
    ) -> None:
        self.ref, self.revision = ref, revision
        self.path: Path | None = None
        self.commit: str | None = None
        self._where, self._options = where, options
        self._files, self._tokenizer = files, tokenizer
        self._backbone: Backbone | None = None
        self._lock = threading.Lock()

    @property
    def in_memory(self) -> Backbone | None:
        """The model, if it has been loaded."""
        return self._backbone

    def load(self) -> Backbone:
        """The model in memory, the same one for all who ask."""
        with self._lock:
            if self._backbone is None:
                files = self._files or fetch.fetch_base(self.ref, revision=self.revision, **self._where)
                self.ref = files.ref  # of a renamed repository its present name
                tokenizer = None if holds_tokenizer(files.path) else self._tokenizer
                self._backbone = shared(files, tokenizer_path=tokenizer, **self._options)
                self.path, self.commit = files.path, files.commit
            return self._backbone


def holds_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer lies in a folder."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES[:2])


def shared(
    files: Files,
    *,
    quantization: str | None,
    device: Any,
    dtype: Any,
    compute_dtype: str | None,
    trust_remote_code: bool,
    check_weights: bool = False,
    reads: str | None = None,
    probes: list[str] | tuple[str, ...] = (),
    tokenizer_path: Path | None = None,
) -> Backbone:
    """A model that this process holds already, if it is of the same files and runs alike; else it is loaded.

    Arguments are those of `Backbone.load`. It is freed with the last pair that uses it.
    """
    device = pick_device(device)
    dtype = pick_dtype(dtype, device, compute_dtype)
    quantization = agreed(quantization, stored_quantization(files.path), files.ref)
    listing = tuple(
        sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files.path.iterdir() if f.is_file())
    )
    key = (files.path.resolve(), files.commit, listing, quantization, device, dtype, trust_remote_code, tokenizer_path)
    with _lock:
        lock = _loading.setdefault(key, threading.Lock())
    with lock:  # two threads that want one model load it once; others load theirs meanwhile
        read_from = tokenizer_path or files.path
        for one in (key, (*key, reads)):  # of two tokenizers each has a model of its own
            backbone = _shared.get(one)
            if backbone is not None and _reads_alike(backbone, read_from, reads, probes, trust_remote_code):
                if check_weights:
                    refuse_non_finite(weights_of(backbone.model), files.path)
                return backbone
        backbone = Backbone.load(
            files.path,
            ref=files.ref,
            quantization=quantization,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            check_weights=check_weights,
            reads=reads,
            probes=probes,
            tokenizer_path=tokenizer_path,
        )
        _shared[(*key, reads) if key in _shared else key] = backbone
        _probed[backbone] = set(probes)
        return backbone


def _reads_alike(backbone: Backbone, path: Path, reads: str | None, probes: Any, trust_remote_code: bool) -> bool:
    """Whether a model's tokenizer is the one that would be loaded for these texts."""
    has = used(backbone.tokenizer, path)
    if reads is not None or has is None:
        return has is None or has == reads
    seen = _probed.setdefault(backbone, set())
    if not set(probes) <= seen:
        wanted = load_tokenizer(path, probes=probes, trust_remote_code=trust_remote_code)
        if used(wanted, path) != has or type(wanted) is not type(backbone.tokenizer):
            return False
        seen |= set(probes)
    return True
