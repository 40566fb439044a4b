"""A pair from disk or the Hub, and back onto disk: what `NLAPair` does beside its work."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .assembly import Assembly, assemble
from .halves.saving import save_halves

if TYPE_CHECKING:
    from typing_extensions import Self


class OnDisk(Assembly):
    """Loading and saving; see `NLAPair`."""

    @classmethod
    def from_pretrained(
        cls,
        av: str | os.PathLike | None,
        ar: str | os.PathLike | None = None,
        *,
        base: str | os.PathLike | None = None,
        source: str | os.PathLike | None = None,
        quantization: str | None = "auto",
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        revision: str | None = None,
        subfolder: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        contract: Mapping[str, Any] | None = None,
        check_weights: bool = False,
    ) -> Self:
        """Load a pair.

        Args:
            av: Hub id ("owner/name", "owner/name/sub/folder"), folder, or "demo". A folder that `save_pretrained` wrote
                holds both halves. None: only an AR.
            ar: likewise. None: found from the AV's contract, a known release, or its name; where there is none, the
                methods that need it say so.
            base: the base model, if not the one the contract names: Hub id or folder.
            source: a fine-tune of the base that activations are read from, in the base's place: a full checkpoint or a
                LoRA adapter (Hub id, "owner/name/sub" or folder). The pair stays the base's. Default: the contract's
                `source_model`, else the base.
            quantization: "auto" (what the contract says), "nf4" (4 bits; CPU too) or None.
            device: "auto", "cpu", "cuda", …
            dtype: "auto", or a floating dtype.
            revision, subfolder: of the first half given.
            cache_dir, token, local_files_only: as in huggingface_hub.
            trust_remote_code: run code from the base's or a full checkpoint's repository.
            contract: what the halves' `nla_meta.yaml` do not say, or say wrong: keys of docs/contract.md (under any of
                their names), of whichever half has a use for them; `{"prompt_style": "chat"}`.
            check_weights: look for NaN and infinity in the base and in full checkpoints too, which reads every weight
                of them; adapters, heads and means are always looked at.
        Raises:
            RepositoryError, ContractError, LoadError, WrongRoleError, MismatchedHalvesError: see nla_sdk.errors.
            MismatchedHalvesError: the source is of another width, depth or vocabulary than the base.
            MissingParentError: an adapter was trained on another checkpoint, which is not stated or not to be had.
            UnstatedPromptError: nobody says how the AV's prompt is put to the model; shows both ways.
        Warns:
            UnmatchedPairWarning: the halves do not name each other.
        """
        return assemble(
            cls,
            av,
            ar,
            base=base,
            source=source,
            quantization=quantization,
            device=device,
            dtype=dtype,
            revision=revision,
            subfolder=subfolder,
            trust_remote_code=trust_remote_code,
            contract=contract,
            check_weights=check_weights,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )

    def save_pretrained(self, folder: str | os.PathLike, *, overwrite: bool = False) -> Path:
        """Write both halves as `folder/av` and `folder/ar`, loadable by `from_pretrained(folder)`.

        Weights are copied as they were loaded, contracts are written in canonical form. Nothing half-written is left
        under a final name.

        Args:
            overwrite: replace halves that stand there; anything else is never replaced.
        Returns:
            The folder.
        Raises:
            OccupiedFolderError: something stands there that may not be replaced; nothing has been written.
            InputError: the pair was loaded from there.
        """
        folder = Path(folder)
        halves = [half for half in (self.av, self.ar) if half is not None]
        if self.read_from is not None:
            said = {"source_model": self.read_from.ref}
            halves = [replace(half, contract=half.contract.replace(**said)) for half in halves]
        pair_id = None
        if self.matched and len(halves) == 2:
            ids = {half.contract.provenance.get("pair_id") for half in halves}
            pair_id = " + ".join(half.repo_id for half in halves) if len(ids) > 1 or None in ids else None
        save_halves(halves, folder, pair_id=pair_id, overwrite=overwrite)
        return folder
