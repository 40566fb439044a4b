"""NLAPair: load a pair, extract, explain, reconstruct, round-trip."""

from __future__ import annotations

import os
import shutil
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from . import metrics
from .contract import Contract
from .errors import (
    EmptyBatchError,
    InputError,
    MismatchedHalvesError,
    MissingHalfError,
    PrecisionWarning,
    UnmatchedPairWarning,
)
from .halves import fetch as hub
from .halves.half import Half, find_partner
from .model.adapters import AdapterReport
from .model.backbone import Backbone
from .model.extraction import Activations, Extractor, is_chat
from .model.heads import load_head, load_mean
from .model.injection import as_vectors
from .model.reconstructor import Reconstructor
from .model.verbalizer import Verbalization, Verbalizer

SAMPLING_TEMPERATURE = 0.7  # of the candidates of `best_of`, where no other is asked for


@dataclass(frozen=True)
class Score:
    """How near a reconstruction came to an activation.

    Attributes:
        cosine: of raw directions, −1 to 1. Does not compare across layers or models.
        mse: 2 (1 − cosine), 0 to 4; unrelated directions 2.
        fve: 1 − mse / baseline_mse; None where the contract has no `baseline_mse`. 0 is what the mean direction scores.
        matched: whether the two halves name each other; the score of a mixed pair means little.
    """

    cosine: float
    mse: float
    fve: float | None
    matched: bool


@dataclass(frozen=True)
class RoundTrip(Score):
    """An activation's way through the pair: vector → explanation → vector.

    Attributes:
        explanation: what the AV wrote, tags removed.
        raw: its output as decoded.
        status: "ok", "empty" or "truncated" (no end within `max_new_tokens`).
        activation, reconstruction: float32 [d_model].
        best_of: among how many explanations this one was chosen by its score; 1: it is the only one written.
    """

    explanation: str
    raw: str
    status: str
    activation: torch.Tensor
    reconstruction: torch.Tensor
    best_of: int = 1


class ChosenExplanation(str):
    """An explanation that scored best among several of one activation; a str, with the score it was chosen by.

    Attributes:
        score: the best of `best_of` scores, so a little better than the AV's words deserve. Compare with other choices
            among as many only.
        best_of: how many were written.
    """

    score: Score
    best_of: int

    def __new__(cls, text: str, score: Score, best_of: int) -> ChosenExplanation:
        chosen = super().__new__(cls, text)
        chosen.score, chosen.best_of = score, best_of
        return chosen


class NLAPair:
    """An AV and an AR (or one of them) with the model whose activations they read.

    Build it with `from_pretrained`. LoRA halves and the source model share one base in memory; a half that is a full
    checkpoint has a model of its own. All methods may be called from several threads.

    Example:
        >>> pair = NLAPair.from_pretrained("demo")
        >>> acts = pair.extract("The cat sat on the mat.")
        >>> trip = pair.round_trip(acts.vectors[-1])
        >>> trip.explanation, trip.fve
    """

    def __init__(
        self,
        av: Half | None,
        ar: Half | None,
        *,
        verbalizer: Verbalizer | None,
        reconstructor: Reconstructor | None,
        source: Backbone | None,
        load_source,
        matched: bool,
        missing: str = "",
    ) -> None:
        self._av, self._ar = av, ar
        self.verbalizer, self.reconstructor = verbalizer, reconstructor
        self._source, self._load_source = source, load_source
        self._source_lock = threading.Lock()
        self._warned_precision = False
        self.matched = matched
        self._missing = missing

    # --- loading ------------------------------------------------------------------------------------------------
    @classmethod
    def from_pretrained(
        cls,
        av: str | os.PathLike | None,
        ar: str | os.PathLike | None = None,
        *,
        base: str | os.PathLike | None = None,
        quantization: str | None = "auto",
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        revision: str | None = None,
        subfolder: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
    ) -> NLAPair:
        """Load a pair.

        Args:
            av: Hub id ("owner/name", "owner/name/sub/folder"), folder, or "demo". A folder that `save_pretrained` wrote
                holds both halves. None: only an AR.
            ar: likewise. None: found from the AV's contract, a known release, or its name; where there is none, the
                methods that need it say so.
            base: the base model, if not the one the contract names: Hub id or folder.
            quantization: "auto" (what the contract says), "nf4" (4 bits; CPU too) or None.
            device: "auto", "cpu", "cuda", …
            dtype: "auto", or a floating dtype.
            revision, subfolder: of the first half given.
            cache_dir, token, local_files_only: as in huggingface_hub.
            trust_remote_code: run code from the base's or a full checkpoint's repository.
        Raises:
            RepositoryError, ContractError, LoadError, WrongRoleError, MismatchedHalvesError: see nla_sdk.errors.
        Warns:
            UnmatchedPairWarning: the halves do not name each other.
        """
        where = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
        av_half, ar_half, missing = _find_halves(av, ar, revision, subfolder, where)
        halves = [half for half in (av_half, ar_half) if half is not None]
        matched = len(halves) < 2 or av_half.names(ar_half) or ar_half.names(av_half)
        if len(halves) == 2:
            _check_halves(av_half, ar_half)
            if not matched:
                warnings.warn(
                    f"{av_half.ref} and {ar_half.ref} do not name each other as partners; a score of this mixed pair "
                    "says little about either (RoundTrip.matched is False).",
                    UnmatchedPairWarning,
                    stacklevel=2,
                )
        first = halves[0].contract
        if quantization == "auto":
            quantization = next((half.contract.quantization for half in halves if half.contract.quantization), None)
        options = {
            "quantization": quantization,
            "device": device,
            "dtype": dtype,
            "compute_dtype": first.compute_dtype,
            "trust_remote_code": trust_remote_code,
        }

        def load_base() -> Backbone:
            wanted = str(base) if base is not None else first.base_model
            pinned = None if base is not None else first.base_revision
            files = hub.fetch_base(wanted, revision=pinned, **where)
            return Backbone.load(files.path, ref=wanted, **options)

        shared = load_base() if any(half.is_adapter for half in halves) else None
        verbalizer = _load_av(av_half, shared, options) if av_half else None
        reconstructor = _load_ar(ar_half, shared, options) if ar_half else None
        return cls(
            av_half,
            ar_half,
            verbalizer=verbalizer,
            reconstructor=reconstructor,
            source=shared,
            load_source=load_base,
            matched=matched,
            missing=missing,
        )

    def save_pretrained(self, folder: str | os.PathLike) -> Path:
        """Write both halves as `folder/av` and `folder/ar`, loadable by `from_pretrained(folder)`.

        Weights are copied as they were loaded, contracts are written in canonical form. Nothing half-written is left
        under a final name.
        """
        folder = Path(folder)
        pair_id = None
        if self.matched and self._av is not None and self._ar is not None:
            ids = {half.contract.provenance.get("pair_id") for half in (self._av, self._ar)}
            pair_id = f"{self._av.repo_id} + {self._ar.repo_id}" if len(ids) > 1 or None in ids else None
        for name, half in (("av", self._av), ("ar", self._ar)):
            if half is None:
                continue
            final, temporary = folder / name, folder / f".{name}.{os.getpid()}.tmp"
            if final.resolve() == half.folder.resolve():
                raise InputError(f"{final} is where this pair was loaded from; save it elsewhere.")
            try:
                half.copy_to(temporary, pair_id)
                for file in temporary.iterdir():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
                if final.exists():
                    shutil.rmtree(final)
                temporary.rename(final)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return folder

    # --- what it is ---------------------------------------------------------------------------------------------
    @property
    def av_contract(self) -> Contract | None:
        """The AV's contract, verified against the tokenizer."""
        return self.verbalizer.contract if self.verbalizer else None

    @property
    def ar_contract(self) -> Contract | None:
        """The AR's contract, verified against the tokenizer."""
        return self.reconstructor.contract if self.reconstructor else None

    @property
    def contract(self) -> Contract:
        """The contract of whichever half there is, the AV's first: for what both agree on (base, layer, d_model)."""
        return self.av_contract or self.ar_contract

    @property
    def layer(self) -> int:
        """The block whose output the pair reads, 0-indexed."""
        return self.contract.layer

    @property
    def d_model(self) -> int:
        """The length of an activation."""
        return self.contract.d_model

    @property
    def baseline_mse(self) -> float | None:
        """mse of predicting the mean direction, from the contract; None where it has none."""
        for contract in (self.ar_contract, self.av_contract):
            if contract is not None and contract.baseline_mse is not None:
                return contract.baseline_mse
        return None

    @property
    def adapter_reports(self) -> dict[str, AdapterReport]:
        """What became of every adapter tensor, by role."""
        halves = {"av": self.verbalizer, "ar": self.reconstructor}
        return {role: half.backbone.reports[half.adapter] for role, half in halves.items() if half and half.adapter}

    @property
    def source(self) -> Backbone:
        """The model activations are read from: the shared base, or, for full checkpoints, loaded when first needed."""
        with self._source_lock:
            if self._source is None:
                self._source = self._load_source()
            return self._source

    # --- doing --------------------------------------------------------------------------------------------------
    def extract(self, text, positions: int | str | Sequence[int] = -1, layer: int | None = None) -> Activations:
        """Read activations of the source model (the base with all adapters off).

        Args:
            text: a string, a chat (list of {"role", "content"}), or a list of those.
            positions: -1 (the last token), another index, "all", or a list of indices.
            layer: default: the pair's.
        Returns:
            Activations, vectors float32 [n, d_model], raw.
        Raises:
            EmptyBatchError, PositionError, LayerError, InputError.
        Warns:
            PrecisionWarning: once, if the source runs at another precision than the pair was trained on.
        """
        source = self.source
        trained = self.contract.extraction_precision
        running = source.quantization or str(source.dtype).removeprefix("torch.")
        if trained and trained != running and not self._warned_precision:
            self._warned_precision = True
            warnings.warn(
                f"The source model runs in {running}; the pair was trained on activations read in {trained}. "
                "Directions differ slightly; compare scores within one precision only.",
                PrecisionWarning,
                stacklevel=2,
            )
        return Extractor(source)(text, positions, layer=self.layer if layer is None else layer)

    def explain(
        self,
        activation,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        n: int = 1,
        best_of: int = 1,
        seed: int = 0,
        progress=None,
    ) -> str | list[str] | list[list[str]]:
        """Put activations into words.

        Args:
            activation: [d_model] or [rows, d_model]; numpy, torch or list, any float dtype; raw.
            max_new_tokens: default: the contract's.
            temperature: 0 is greedy.
            n: explanations per activation.
            best_of: write so many per activation and return the one from which the AR comes nearest to it, as a
                ChosenExplanation with its score. The first is greedy, the others are sampled (at temperature 0.7, if
                `temperature` is 0). Costs as many explanations.
            seed: of the sampling; a row's samples do not depend on the other rows.
            progress: called with the number of explanations just finished.
        Returns:
            A string for one vector, a list for a matrix; with n > 1 a list of n strings in place of each string.
        Raises:
            MissingHalfError, ActivationShapeError, NonFiniteActivationError, ZeroActivationError, EmptyBatchError,
            InputError (best_of below 1, or with n > 1).
        """
        vectors, single = as_vectors(activation, self.d_model)
        if best_of != 1:
            if n != 1:
                raise InputError(f"n={n} and best_of={best_of}: ask for several explanations or for the best one.")
            written, reconstructions = self._best(
                vectors, best_of, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, progress=progress
            )
            scores = self._scores(reconstructions, vectors)
            chosen = [ChosenExplanation(one.text, score, best_of) for one, score in zip(written, scores, strict=True)]
            return chosen[0] if single else chosen
        written = self._verbalize(
            vectors, max_new_tokens=max_new_tokens, temperature=temperature, n=n, seed=seed, progress=progress
        )
        texts = [one.text for one in written]
        rows = texts if n == 1 else [texts[at : at + n] for at in range(0, len(texts), n)]
        return rows[0] if single else rows

    def reconstruct(self, text: str | Sequence[str]) -> torch.Tensor:
        """Turn explanations back into activations.

        Args:
            text: an explanation, or a list of them. The empty string is allowed: it scores what any text would.
        Returns:
            float32 [d_model], or [n, d_model] for a list, on the CPU. Without centring only the direction counts.
        Raises:
            MissingHalfError, EmptyBatchError, InputError.
        Warns:
            TruncatedExplanationWarning.
        """
        reconstructor = self._need(self.reconstructor, "reconstruct", "AR")
        single = isinstance(text, str)
        if not single and not isinstance(text, Sequence):
            raise InputError(f"Expected an explanation or a list of them, got a {type(text).__name__}.")
        vectors = reconstructor([text] if single else list(text))
        return vectors[0] if single else vectors

    def round_trip(
        self,
        activation,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        best_of: int = 1,
        seed: int = 0,
        progress=None,
    ) -> RoundTrip | list[RoundTrip]:
        """Vector → explanation → vector, scored.

        Args:
            activation: [d_model] or [rows, d_model]; or a text (its last token is read), a chat, or a list of texts.
            best_of: as in `explain`; the score is that of the explanation chosen by it.
        Returns:
            One RoundTrip, or a list for a matrix or a list of texts.
        Raises:
            as `extract`, `explain` and `reconstruct`.
        """
        self._need(self.reconstructor, "round_trip", "AR")
        self._need(self.verbalizer, "round_trip", "AV")
        if _is_text(activation):
            single = isinstance(activation, str) or is_chat(activation)
            vectors = self.extract(activation).vectors
        else:
            vectors, single = as_vectors(activation, self.d_model)
        written, reconstructions = self._best(
            vectors, best_of, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, progress=progress
        )
        scores = self._scores(reconstructions, vectors)
        trips = [
            RoundTrip(
                cosine=score.cosine,
                mse=score.mse,
                fve=score.fve,
                matched=score.matched,
                explanation=one.text,
                raw=one.raw,
                status=one.status,
                activation=vector.cpu(),
                reconstruction=reconstruction,
                best_of=best_of,
            )
            for one, score, vector, reconstruction in zip(written, scores, vectors, reconstructions, strict=True)
        ]
        return trips[0] if single else trips

    def score(self, text: str | Sequence[str], activation) -> Score | list[Score]:
        """How well explanations reconstruct activations: any text, not only the AV's own.

        Args:
            text: one explanation, or as many as there are activations.
            activation: [d_model] or [n, d_model].
        Returns:
            One Score for one text and one vector; else a list (one text is scored against every vector, and so on).
        Raises:
            InputError: the numbers of texts and vectors do not match.
        """
        vectors, single_vector = as_vectors(activation, self.d_model)
        single_text = isinstance(text, str)
        reconstructions = self.reconstruct([text] if single_text else text)
        if len(reconstructions) != len(vectors) and 1 not in (len(reconstructions), len(vectors)):
            raise InputError(
                f"{len(reconstructions)} explanations and {len(vectors)} activations; expected as many of each."
            )
        rows = max(len(reconstructions), len(vectors))
        scores = self._scores(reconstructions.expand(rows, -1), vectors.expand(rows, -1))
        return scores[0] if single_text and single_vector else scores

    # --- within -------------------------------------------------------------------------------------------------
    def _verbalize(self, vectors: torch.Tensor, **options) -> list[Verbalization]:
        return self._need(self.verbalizer, "explain", "AV")(vectors, **options)

    def _best(
        self, vectors: torch.Tensor, best_of: int, *, temperature: float, **options
    ) -> tuple[list[Verbalization], torch.Tensor]:
        """For each vector the best of `best_of` verbalizations by the AR's cosine, and its reconstruction [n, d]."""
        if best_of < 1:
            raise InputError(f"best_of={best_of}: expected at least 1.")
        self._need(self.reconstructor, "best_of" if best_of > 1 else "round_trip", "AR")
        if best_of == 1:
            written = self._verbalize(vectors, temperature=temperature, **options)
            return written, self.reconstruct([one.text for one in written])
        greedy = self._verbalize(vectors, temperature=0.0, **options)
        sampled = self._verbalize(vectors, temperature=temperature or SAMPLING_TEMPERATURE, n=best_of - 1, **options)
        size = best_of - 1
        candidates = [
            one for row, first in enumerate(greedy) for one in (first, *sampled[row * size : (row + 1) * size])
        ]
        number: dict[str, int] = {}
        places = [number.setdefault(one.text, len(number)) for one in candidates]
        made = self.reconstruct(list(number))[places].view(len(vectors), best_of, -1)
        cosines = np.nan_to_num(metrics.cosine(made, vectors.cpu()[:, None]), nan=-np.inf)
        best = cosines.argmax(axis=1).tolist()  # of equals the first: the greedy one
        chosen = [candidates[row * best_of + at] for row, at in enumerate(best)]
        return chosen, torch.stack([made[row, at] for row, at in enumerate(best)])

    def _scores(self, reconstructions: torch.Tensor, vectors: torch.Tensor) -> list[Score]:
        cosines = metrics.cosine(reconstructions.cpu(), vectors.cpu())
        baseline = self.baseline_mse
        return [
            Score(
                cosine=float(cosine),
                mse=(mse := 2.0 * (1.0 - float(cosine))),
                fve=None if baseline is None else metrics.fve(mse, baseline),
                matched=self.matched,
            )
            for cosine in cosines
        ]

    def _need(self, half, method: str, role: str):
        if half is None:
            raise MissingHalfError(f"{method} needs an {role}, and this pair has none: {self._missing}")
        return half


def _is_text(value) -> bool:
    """Whether `value` is a text, a chat, or a list of texts or chats, rather than numbers."""
    if isinstance(value, str):
        return True
    if isinstance(value, (list, tuple)):
        if not value:
            raise EmptyBatchError("The list is empty; expected activations or texts.")
        return isinstance(value[0], (str, Mapping)) or is_chat(value[0])
    return False


def _find_halves(av, ar, revision, subfolder, where) -> tuple[Half | None, Half | None, str]:
    """Both halves, or one and why the other is missing."""
    if av is None and ar is None:
        raise InputError("Neither an AV nor an AR was given; expected at least one Hub id, folder or 'demo'.")
    av_half = ar_half = None
    missing = ""
    first = {"revision": revision, "subfolder": subfolder}
    if av is not None:
        inside = [Path(av) / "av", Path(av) / "ar"]  # as save_pretrained writes them
        is_pair = str(av) != "demo" and any(half.is_dir() for half in inside)
        if is_pair and ar is None and subfolder is None and not (Path(av) / "nla_meta.yaml").exists():
            av, ar = (half if half.is_dir() else None for half in inside)
    if av is not None:
        av_half = Half.find(str(av), "av", **first, **where)
        first = {}
    if str(av) == "demo" and ar is None:
        ar = "demo"
    if ar is not None:
        ar_half = Half.find(str(ar), "ar", **first, **where)
    if av_half is None:
        av_half, missing = find_partner(ar_half, **where)
    elif ar_half is None:
        ar_half, missing = find_partner(av_half, **where)
    return av_half, ar_half, missing


def _check_halves(av: Half, ar: Half) -> None:
    for name in ("base_model", "d_model", "layer"):
        ours, theirs = getattr(av.contract, name), getattr(ar.contract, name)
        if str(ours).lower() != str(theirs).lower():
            raise MismatchedHalvesError(
                f"The AV {av.ref} has {name} {ours}, the AR {ar.ref} has {theirs}: they read different vectors, so "
                "a round trip through both has no meaning. Use halves of one pair."
            )


def _load_av(half: Half, shared: Backbone | None, options: dict) -> Verbalizer:
    backbone, adapter = _backbone_of(half, "av", shared, options, None)
    contract = half.contract.verify(backbone.tokenizer)
    return Verbalizer(backbone, adapter, contract, load_mean(half.folder, contract))


def _load_ar(half: Half, shared: Backbone | None, options: dict) -> Reconstructor:
    backbone, adapter = _backbone_of(half, "ar", shared, options, half.contract.ar_num_blocks)
    contract = half.contract.verify(backbone.tokenizer)
    if contract.ar_num_blocks > backbone.num_blocks:
        raise MismatchedHalvesError(
            f"The AR {half.ref} runs {contract.ar_num_blocks} blocks, its model {backbone.ref} has "
            f"{backbone.num_blocks}."
        )
    head = load_head(half.folder, contract.d_model, bias=contract.head_bias)
    return Reconstructor(backbone, adapter, contract, head, load_mean(half.folder, contract))


def _backbone_of(half: Half, role: str, shared, options, num_blocks_run) -> tuple[Backbone, str | None]:
    if half.is_adapter:
        backbone = shared
        backbone.load_adapter(role, half.folder, num_blocks_run=num_blocks_run)
    else:
        backbone = Backbone.load(half.folder, ref=half.ref, truncated=role == "ar", **options)
    if backbone.d_model != half.contract.d_model:
        raise MismatchedHalvesError(
            f"{half.ref} is for d_model {half.contract.d_model}; {backbone.ref} has {backbone.d_model}. Wrong base "
            "model?"
        )
    return backbone, role if half.is_adapter else None
