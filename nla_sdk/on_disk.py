"""A pair from disk or the Hub, and back onto disk: what `NLAPair` does beside its work."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .assembly import Assembly, assemble
from .engines.verbalizer import from_server, served
from .errors import ExportError, InputError, MissingHalfError
from .exporting.reference import DTYPES, Exported, export
from .halves.half import Half, present
from .halves.hub.naming import same_repository
from .halves.saving import save_halves
from .model.backbone import Backbone
from .publishing.publisher import Pushing, publisher
from .publishing.pushed import Pushed

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


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
        fast: bool | None = None,
        av_engine: str | None = None,
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
            fast: on a CPU in float32, blocks and the lm_head are computed from their weights in fewer steps, once that
                is seen to give the model's own numbers; the likeliest token is found by an 8-bit product and scored in
                float32 (docs/speed.md), where an 8-bit copy lies beside the base, as the demo base has one. True: such
                a copy is made in memory at load, d_model × vocabulary bytes. False: all as transformers has it.
            av_engine: address of a vLLM or SGLang server that holds the exported AV (docs/howto/engines.md): it writes
                the explanations. Of the AV only the contract, the tokenizer and the embedding table are read here; an
                AR is loaded only if `ar` names it. A key is taken from NLA_ENGINE_API_KEY.
        Raises:
            RepositoryError, ContractError, LoadError, WrongRoleError, MismatchedHalvesError: see nla_sdk.errors.
            MismatchedHalvesError: the source is of another width, depth or vocabulary than the base.
            MissingParentError: an adapter was trained on another checkpoint, which is not stated or not to be had.
            UnstatedPromptError: nobody says how the AV's prompt is put to the model; shows both ways.
            UnservableError, EngineError, ServedModelError: of `av_engine`, see `with_engine`.
        Warns:
            UnmatchedPairWarning: the halves do not name each other.
        """
        if av_engine is not None and av is None:
            raise InputError("av_engine writes an AV's explanations, and no AV was given; expected av=.")
        pair = assemble(
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
            load_av=None if av_engine is None else from_server(av_engine),
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
        pair.fast = fast
        for half in (pair.verbalizer, pair.reconstructor):
            if half is not None:
                half.fast = fast is not False
        if fast and pair.verbalizer is not None and av_engine is None:
            pair.verbalizer.backbone.rounded_head(make=True)
        return pair

    def with_engine(self, url: str) -> Self:
        """This pair, its explanations written by a server that holds the exported AV; all else is done here as before.

        What is sent are embeddings of the AV's prompt with the vector among them: the means, maps and norms of the
        contract are applied here, and outputs are read here. Greedy texts are the AV's own as far as the server's
        arithmetic gives the same likeliest tokens; sampled ones are the server's. The first texts are held against the
        AV in memory. docs/howto/engines.md says how to start a server, and what cannot be seen of it.

        Args:
            url: `http://HOST:PORT` of vLLM or SGLang. A key is taken from NLA_ENGINE_API_KEY.
        Returns:
            Another pair that shares what is in memory with this one.
        Raises:
            MissingHalfError: there is no AV.
            UnservableError: prompt embeddings do not say all that this AV needs, or it writes by a rule of its own.
            EngineError: nobody answers there, or it is started in a way that would give wrong texts.
            ServedModelError: it serves another model, as far as that shows.
        Example:
            >>> fast = pair.with_engine("http://127.0.0.1:8000")  # doctest: +SKIP
            >>> fast.explain(vectors)  # doctest: +SKIP
        """
        if self.verbalizer is None:
            raise MissingHalfError(f"with_engine needs an AV, and this pair was loaded without: {self.missing}")
        pair = copy.copy(self)
        pair.verbalizer = served(self.verbalizer, url)
        return pair

    def save_pretrained(
        self, folder: str | os.PathLike, *, overwrite: bool = False, push: str | None = None, **pushing: Unpack[Pushing]
    ) -> Path:
        """Write both halves as `folder/av` and `folder/ar`, loadable by `from_pretrained(folder)`.

        Weights are copied as they were loaded, contracts are written in canonical form. Nothing half-written is left
        under a final name.

        Args:
            overwrite: replace halves that stand there; anything else is never replaced.
            push: OWNER/NAME to publish them as, once they are written.
            pushing: of the push, as `push_to_hub` takes it.
        Returns:
            The folder.
        Raises:
            OccupiedFolderError: something stands there that may not be replaced; nothing has been written.
            InputError: the pair was loaded from there; or something is said of a push, and none is asked for.
            as `push_to_hub`: the folder is written and nothing, or not all, is published.
        """
        folder = Path(folder)
        if push is None and pushing:
            raise InputError(f"{next(iter(pushing))}= is of a push: say push='OWNER/NAME', or leave it out.")
        if push is not None:
            self._to_push(pushing.get("token"))  # what would be refused is refused before anything is written
        save_halves(self._as_run(), folder, pair_id=self._pair_id(), overwrite=overwrite)
        if push is not None:
            self.push_to_hub(push, **pushing)
        return folder

    def push_to_hub(
        self,
        repo: str,
        *,
        evaluation: str | os.PathLike | None = None,
        tables: Sequence[str | os.PathLike] = (),
        benchmark: str | None = None,
        notes: str | os.PathLike | None = None,
        licence: str | None = None,
        private: bool = False,
        token: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        revision: str | None = None,
        tag: str | None = None,
    ) -> list[Pushed]:
        """Publish the pair with its cards, as `python -m training.publish` does: the same checks, nobody is asked.

        What is published is what the halves were loaded from, not what became of it in memory: the files of their
        weights, whatever quantization, dtype or device they run at here, and their contracts with what was stated at
        loading (`contract=`, `source=`). Everything is checked before anything is sent; each repository gets one
        commit, read back file by file; the same call again completes what a fault left undone. docs/publishing.md.

        Args:
            repo: OWNER/NAME: `-av` and `-ar` are added (`-data` for tables); of a single half the name as it is.
            evaluation: `evaluation.json` of these very halves, with its tables beside it, or their folder. Without one
                the cards say "Not evaluated".
            tables: parquet files to publish as a dataset, with their sidecars.
            benchmark: a dataset on the Hub that holds the table the evaluation was measured on (of `tables` it is
                found): figures become entries in `.eval_results` then, too.
            notes: a text file of the author's own words for the cards.
            licence: an id of the Hub's list, where the base's is not known.
            private: make new repositories private.
            token: that may write; None: HF_TOKEN, or that of `hf auth login`.
            commit_message: the title begins with it.
            create_pr: open pull requests, on anybody's repositories.
            revision: the branch; default: main.
            tag: of the commits, as v0.1.0.
        Returns:
            The address of each repository (or pull request), a str with `.repo`, `.commit`, `.changed`, `.loads`.
        Raises:
            RefusedError: something does not hold, or files that nla-sdk did not put there would be replaced, or a
                published evaluation removed; names all of it, and nothing was sent.
            InputError: the halves do not name each other; the pair runs on another base than its contracts name; an
                argument makes no sense; or pip install "nla-sdk[publish,eval]" was not done.
            AccessTokenError: the token may not write there. PublishError: something was left undone; says what.
        Warns:
            PublishWarning: what was not checked, or what the card will say.
        Example:
            >>> pair.push_to_hub("ada/cat", evaluation="results/mine", private=True)[0].loads  # doctest: +SKIP
            'NLAPair.from_pretrained("ada/cat-av")'
        """
        halves = self._to_push(token)
        how = Pushing(
            evaluation=evaluation,
            tables=tables,
            benchmark=benchmark,
            notes=notes,
            licence=licence,
            private=private,
            token=token,
            commit_message=commit_message,
            create_pr=create_pr,
            revision=revision,
            tag=tag,
        )
        with publisher() as found:
            return found.push_halves(halves, repo, how=how)

    def _as_run(self) -> list[Half]:
        """The halves; their contracts name the fine-tune that activations are read from, if there is one."""
        halves = present(self.av, self.ar)
        if self.read_from is None:
            return halves
        said = {"source_model": self.read_from.ref}
        return [replace(half, contract=half.contract.replace(**said)) for half in halves]

    def _to_push(self, token: str | None) -> list[Half]:
        """The halves, if others who load them would have this pair.

        Raises:
            InputError: they would not.
        """
        halves = self._as_run()
        if not self.matched:
            raise InputError(
                f"{' and '.join(half.ref for half in halves)} do not name each other; published as a pair they would. "
                "Publish each alone: NLAPair.from_pretrained(av) or (None, ar), then push_to_hub."
            )
        stated = self.contract.base_model
        if self.base.commit is not None and not same_repository(self.base.ref, stated, token=token):
            raise InputError(
                f"This pair runs on {self.base.ref} (base=), and its contracts name {stated}, which others would load: "
                "load it with contract={'base_model': …} if it is of that base, or without base=."
            )
        return halves

    def export(
        self,
        folder: str | os.PathLike,
        layout: str = "reference",
        *,
        dtype: str = "float32",
        overwrite: bool = False,
        caller_subtracts_mean: bool = False,
    ) -> Exported:
        """Write the pair in another layout, for code that knows only that layout; from_pretrained reads it too.

        "reference" is the layout of the reference implementation and of servers that load its checkpoints: `folder/av`,
        a whole model with adapters merged in, and `folder/ar`, cut to its blocks, without final norm, with
        `value_head.safetensors`. The pair is written as it is in memory: load it in float32 for a float32 export that
        is exact to rounding; 4-bit weights are unpacked before anything is merged. What was written is read back with
        transformers alone and compared. docs/export.md says what is folded into the weights and what is refused.

        Args:
            layout: "reference".
            dtype: "float32" or "bfloat16", of the weights written.
            overwrite: replace halves that stand there; anything else is never replaced.
            caller_subtracts_mean: of a centred pair: export what reads v − μ, for a caller who subtracts μ, which lies
                beside. The layout has no place for it.
        Returns:
            What was written, how far it moved, and what was folded into the weights.
        Raises:
            ExportError: the layout cannot carry something of the pair, or the disk has no room; names it. Nothing has
                been written.
            OccupiedFolderError: something stands there that may not be replaced; nothing has been written.
            InputError: no such layout or dtype, or the pair was loaded from there.
        Example:
            >>> pair.export("exported", dtype="bfloat16", caller_subtracts_mean=True).ar_distance  # doctest: +SKIP
            0.012
        """
        if layout != "reference":
            raise InputError(f"layout={layout!r} is not known; expected 'reference'.")
        if dtype not in DTYPES:
            raise InputError(f"dtype={dtype!r} is not exported; expected {' or '.join(map(repr, DTYPES))}.")
        if self.verbalizer is not None and not isinstance(self.verbalizer.backbone, Backbone):
            raise ExportError("The AV's weights are with the server that writes its texts; load it without av_engine.")
        return export(
            self,
            Path(folder),
            dtype=dtype,
            overwrite=overwrite,
            caller_subtracts_mean=caller_subtracts_mean,
            pair_id=self._pair_id(),
        )

    def _pair_id(self) -> str | None:
        """What puts on record that both halves belong together, where they do not say so themselves."""
        halves = present(self.av, self.ar)
        ids = {half.contract.provenance.get("pair_id") for half in halves}
        if not self.matched or len(halves) < 2 or not (len(ids) > 1 or None in ids):
            return None
        return " + ".join(half.repo_id for half in halves)
