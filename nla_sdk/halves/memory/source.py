"""A source of one's own: a fine-tune of the base, full or an adapter, that activations are read from."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerBase

from ...contract import SIDECAR_NAME
from ...errors import LoadError, MismatchedHalvesError, first_line
from ...model.backbone import Backbone
from ...model.weights.loading import NO_MODEL, text_config
from ...model.weights.tokenizers import load_tokenizer
from ..fetch import Files, fetch_half
from ..parts import is_adapter, refuse_unstated_parent
from .bases import Base, holds_tokenizer


class Source:
    """What a pair reads in place of its base. An adapter sits on the base itself, and is on while it is read only.

    Args:
        ref: Hub id, `owner/name/sub`, or folder.
        base: the pair's.
        like: the model that it must be like, in memory; None where there is none to compare with.
        d_model: the pair's.
        where: cache_dir, token, local_files_only, as for `fetch_half`.
        options: how to load it, as for `Backbone.load`.
    Attributes:
        ref, commit: as for `Base`.
    """

    def __init__(
        self,
        ref: str,
        base: Base,
        *,
        like: Callable[[], Backbone | None],
        d_model: int,
        where: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        self.ref = ref
        self.commit: str | None = None
        self._base, self._like, self._d_model = base, like, d_model
        self._where, self._options = where, options
        self._files: Files | None = None
        self._loaded: tuple[Backbone, str | None] | None = None
        self._lock = threading.Lock()

    def find(self) -> Files:
        """Its files, once they are seen to be of a fine-tune of the base.

        Raises:
            RepositoryError: it could not be had.
            MismatchedHalvesError: another width, number of blocks or vocabulary. MissingParentError: an adapter of
                another model.
        """
        if self._files is None:
            files = fetch_half(self.ref, **self._where)
            if (files.path / SIDECAR_NAME).is_file():
                raise MismatchedHalvesError(
                    f"The source {self.ref} holds a {SIDECAR_NAME}: it is a half of a pair, not a fine-tune whose "
                    "activations are to be read. Pass the fine-tune, as a folder, owner/name or an adapter of the base."
                )
            if is_adapter(files.path):
                refuse_unstated_parent(
                    files.path,
                    f"The source {self.ref}",
                    self._base.ref,
                    None,
                    instead="Merge it into that model, and pass the merged one as source=.",
                    **self._where,
                )
            else:
                self._refuse_other(files.path)
            self.ref, self.commit, self._files = files.ref, files.commit, files
        return self._files

    def load(self) -> tuple[Backbone, str | None]:
        """The model, and the name of the adapter on it that is on while it is read; None: all are off."""
        with self._lock:
            if self._loaded is None:
                files = self.find()
                if is_adapter(files.path):
                    backbone = self._base.load()
                    name = backbone.hold("source", files.path)
                    weakref.finalize(self, backbone.let_go, name).atexit = False
                    self._loaded = backbone, name
                else:
                    like = self._like()
                    spare = None if like is None else like.tokenizer_folder
                    model = Base(self.ref, where=self._where, options=self._options, files=files, tokenizer=spare)
                    self._loaded = model.load(), None
            return self._loaded

    def _refuse_other(self, folder: Path) -> None:
        try:
            config = text_config(AutoConfig.from_pretrained(folder))
        except NO_MODEL as error:
            raise LoadError(f"The source {self.ref} has no config that can be read: {first_line(error)}") from error
        like = self._like()
        found = {"d_model": config.hidden_size, "number of blocks": config.num_hidden_layers}
        wanted = {"d_model": self._d_model, "number of blocks": None if like is None else like.num_blocks}
        for what, here in wanted.items():
            if here is not None and found[what] != here:
                raise MismatchedHalvesError(
                    f"The source {self.ref} has {what} {found[what]}, the pair's base {self._base.ref} has {here}: it "
                    "is no fine-tune of that base. Pass one as source=."
                )
        if like is None or not holds_tokenizer(folder):
            return
        if (token := _other_token(load_tokenizer(folder), like.tokenizer)) is not None:
            raise MismatchedHalvesError(
                f"The source {self.ref} has another vocabulary than the pair's base {self._base.ref} (token "
                f"{token!r}), so what it reads is not what the pair knows. Pass a fine-tune of that base as source=."
            )


def _other_token(source: PreTrainedTokenizerBase, base: PreTrainedTokenizerBase) -> str | None:
    """The first token of the base that the source has not, or under another id; further ones may have been added."""
    theirs = source.get_vocab()
    return next((token for token, number in base.get_vocab().items() if theirs.get(token) != number), None)
