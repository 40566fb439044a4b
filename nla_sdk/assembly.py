"""The halves of a pair and their base, found, checked against each other and loaded: what an `NLAPair` works with."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from .contract import Contract
from .errors import MismatchedHalvesError, NonFiniteOutputError, UnmatchedPairWarning
from .halves import fetch
from .halves.half import Half, check_halves, find_halves
from .io.origins import Origin
from .model.backbone import Backbone
from .model.reconstructor import Reconstructor
from .model.statistics.states import STATISTICS_FILE, ActivationStatistics
from .model.verbalizer import Verbalizer
from .model.weights.adapters.reading import AdapterReport
from .model.weights.heads import load_head, load_mean
from .model.weights.transforms import Transform
from .results import html_table

QUICK = 10**9  # parameters of a base that a CPU measures in a minute or two


class Base:
    """The model that both halves were trained on, loaded when it is first asked for.

    Args:
        ref: Hub id or folder.
        revision: of the Hub repository.
        where: cache_dir, token, local_files_only, as for `fetch_base`.
        options: how to load it, as for `Backbone.load`.
    Attributes:
        path: where its files are; None until it is loaded.
        commit: of the Hub repository they are from; None until then, and for a folder.
    """

    def __init__(self, ref: str, *, revision: str | None, where: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        self.ref, self.revision = ref, revision
        self.path: Path | None = None
        self.commit: str | None = None
        self._where, self._options = where, options
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
                files = fetch.fetch_base(self.ref, revision=self.revision, **self._where)
                self.ref = files.ref  # of a renamed repository its present name
                self._backbone = Backbone.load(files.path, ref=self.ref, **self._options)
                self.path, self.commit = files.path, files.commit
            return self._backbone


@dataclass(eq=False, repr=False)
class Assembly:
    """A pair's parts, and what they say of it.

    Attributes:
        av, ar: the halves as they lie on disk: what they were called, their folder, contract and commit. None for one
            that the pair was loaded without.
        missing: why a half is not there; "" where both are.
        base: the model that activations are read from, and where it lies.
        verbalizer, reconstructor: the halves in memory, for what `NLAPair` does not offer.
        matched: whether the halves name each other; the scores of a mixed pair mean little.
    """

    av: Half | None
    ar: Half | None
    missing: str
    base: Base
    verbalizer: Verbalizer | None
    reconstructor: Reconstructor | None
    matched: bool
    _warned_precision: bool = field(default=False, init=False)
    _statistics: ActivationStatistics | None = field(default=None, init=False)
    _unmeasurable: str = field(default="", init=False)

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
        contract = self.av_contract or self.ar_contract
        assert contract is not None, "a pair has at least one half"
        return contract

    @property
    def layer(self) -> int:
        """The block whose output the pair reads, 0-indexed."""
        return cast(int, self.contract.layer)  # no checkpoint is read without one

    @property
    def d_model(self) -> int:
        """The length of an activation."""
        return cast(int, self.contract.d_model)  # likewise

    @property
    def baseline_mse(self) -> float | None:
        """mse of predicting the mean direction, from the contract; None where it has none."""
        for contract in (self.ar_contract, self.av_contract):
            if contract is not None and contract.baseline_mse is not None:
                return contract.baseline_mse
        return None

    @property
    def mean_direction(self) -> torch.Tensor | None:
        """The direction of the mean activation: float32 [d_model], of length 1, on the CPU.

        None where the pair does not know it: it is not centred and has no statistics.
        """
        for half in (self.reconstructor, self.verbalizer):
            if half is not None and half.mean is not None and (length := half.mean.float().norm()) > 0:
                return (half.mean.float() / length).cpu()
        statistics, _ = self.activation_statistics()
        return None if statistics is None else statistics.mean_direction

    @property
    def origin(self) -> Origin:
        """Where the activations that the pair reads come from: model, revision, layer, precision."""
        source = self.base.in_memory or next(
            half.backbone for half in (self.verbalizer, self.reconstructor) if half is not None
        )
        return Origin(
            layer=self.layer,
            model=self.base.ref,
            revision=self.base.commit or self.base.revision,
            precision=source.precision,
            trained=self.contract.extraction_precision,
            also=(str(self.contract.base_model),),
        )

    @property
    def norm_matters(self) -> bool:
        """Whether a vector of another norm but the same direction is other words to the AV."""
        if self.verbalizer is None:
            return False
        transform, norm = self.verbalizer.transform, self.verbalizer.injection.norm
        shifted = bool(transform.means) or (transform.map is not None and transform.map.bias is not None)
        return shifted or norm in ("raw", "multiply")

    def activation_statistics(self, *, wait: bool = False) -> tuple[ActivationStatistics | None, str]:
        """What right activations look like, or None and why that is not known.

        They are in the file that a contract names; of a pair without one they are measured on the base, once for a
        base, layer and precision, and kept in this SDK's cache. A base is not loaded for their sake.

        Args:
            wait: measure a base of more than a billion parameters on a CPU too, which takes minutes.
        Raises:
            MismatchedHalvesError, DamagedFileError: the file is another pair's, or damaged.
        """
        if self._statistics is None and not self._unmeasurable:
            try:
                halves = [half for half in (self.av, self.ar) if half is not None]
                self._statistics = statistics_of(halves, self.base, wait=wait)
            except NonFiniteOutputError as error:  # which explaining says better, as an error
                self._unmeasurable = str(error)
        if self._statistics is None:
            no_base = (
                "no statistics lie beside the contract, and the base they would be measured on is not loaded, or so "
                "large that it is measured on a CPU only when asked (pair.check_activations)"
            )
            return None, self._unmeasurable or no_base
        return self._statistics, ""

    @property
    def adapter_reports(self) -> dict[str, AdapterReport]:
        """What became of every adapter tensor, by role."""
        halves = {"av": self.verbalizer, "ar": self.reconstructor}
        return {role: half.backbone.reports[half.adapter] for role, half in halves.items() if half and half.adapter}

    @property
    def source(self) -> Backbone:
        """The model activations are read from: the shared base, or, for full checkpoints, loaded when first needed."""
        return self.base.load()

    @property
    def base_path(self) -> Path:
        """Where the base's files are on this disk; of full checkpoints whose base nobody needed yet, the first half's.

        Example:
            >>> AutoConfig.from_pretrained(pair.base_path)  # doctest: +SKIP
        """
        return self.base.path or next(half.folder for half in (self.av, self.ar) if half is not None)

    def __repr__(self) -> str:
        facts = self._facts()
        halves = ", ".join(f"{role}={facts[role]!r}" for role in ("av", "ar") if facts[role])
        return (
            f"NLAPair({halves}{'' if self.matched else ', matched=False'},\n"
            f"  layer {self.layer} of {self.base.ref}, d_model {self.d_model}, {facts['running']})"
        )

    def _repr_html_(self) -> str:
        return html_table([self._facts()])

    def _facts(self) -> dict[str, Any]:
        backbone = next(half.backbone for half in (self.verbalizer, self.reconstructor) if half is not None)
        return {
            "av": self.av and self.av.ref,
            "ar": self.ar and self.ar.ref,
            "base": self.base.ref,
            "layer": self.layer,
            "d_model": self.d_model,
            "running": f"{backbone.precision} on {backbone.device}",
            "matched": self.matched,
        }


def statistics_of(halves: Sequence[Half], base: Base, *, wait: bool) -> ActivationStatistics | None:
    """Those that a half's contract names, else those bundled or cached, else measured if the base is in memory.

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
    bundled = halves[0].folder.parent / STATISTICS_FILE
    if halves[0].ref == "demo" and bundled.is_file():
        return ActivationStatistics.load(bundled)
    if (backbone := base.in_memory) is None:
        return None
    from .halves.measured import kept

    quick = backbone.device.type != "cpu" or sum(p.numel() for p in backbone.model.parameters()) < QUICK
    return kept(backbone, cast(int, halves[0].contract.layer), cast(Path, base.path), measured=quick or wait)


Pair = TypeVar("Pair", bound=Assembly)


def assemble(
    kind: type[Pair],
    av: str | os.PathLike | None,
    ar: str | os.PathLike | None,
    *,
    base: str | os.PathLike | None,
    quantization: str | None,
    device: str | torch.device,
    dtype: str | torch.dtype,
    revision: str | None,
    subfolder: str | None,
    trust_remote_code: bool,
    contract: Mapping[str, Any] | None,
    check_weights: bool,
    **where: Any,
) -> Pair:
    """Find and load a pair; arguments, errors and warnings are those of `NLAPair.from_pretrained`."""
    av_half, ar_half, missing = find_halves(av, ar, revision=revision, subfolder=subfolder, given=contract, **where)
    halves = [half for half in (av_half, ar_half) if half is not None]
    matched = True
    if av_half is not None and ar_half is not None:
        check_halves(av_half, ar_half, **where)
        matched = av_half.names(ar_half) or ar_half.names(av_half)
        matched = matched or av_half.names_once(ar_half, **where) or ar_half.names_once(av_half, **where)
        if not matched:
            warnings.warn(
                f"{av_half.ref} and {ar_half.ref} do not name each other as partners; a score of this mixed pair "
                "says little about either (RoundTrip.matched is False).",
                UnmatchedPairWarning,
                stacklevel=3,
            )
    first = halves[0].contract
    if quantization == "auto":
        quantization = next((half.contract.quantization for half in halves if half.contract.quantization), "auto")
    options = {
        "quantization": quantization,
        "device": device,
        "dtype": dtype,
        "compute_dtype": first.compute_dtype,
        "trust_remote_code": trust_remote_code,
        "check_weights": check_weights,
    }
    reading = _reading([half for half in halves if half.is_adapter] or halves[:1])
    source = Base(
        str(first.base_model if base is None else base),
        revision=first.base_revision if base is None else None,
        where=where,
        options={**options, **reading},
    )
    verbalizer = _load_av(av_half, source, options) if av_half else None
    reconstructor = _load_ar(ar_half, source, options) if ar_half else None
    if verbalizer and reconstructor and matched:
        _check_means(verbalizer, reconstructor)
    return kind(
        av=av_half,
        ar=ar_half,
        missing=missing,
        base=source,
        verbalizer=verbalizer,
        reconstructor=reconstructor,
        matched=matched,
    )


def _check_means(av: Verbalizer, ar: Reconstructor) -> None:
    """Of a pair that is centred on both sides the AR puts back what the AV takes off.

    Raises:
        MismatchedHalvesError: their means differ by more than rounding.
    """
    if av.mean is None or ar.mean is None:  # an AR of raw directions beside a centred AV is a pair like any other
        return
    distance = float((av.mean - ar.mean).norm() / av.mean.norm())
    if not distance <= 0.01:
        raise MismatchedHalvesError(
            f"{av.ref} and {ar.ref} name each other, and their activation means differ by {distance:.0%} of their "
            "length: one takes off what the other does not put back. One file is of another training; download both "
            "again."
        )


def _reading(halves: Sequence[Half]) -> dict[str, Any]:
    """How texts become tokens for these halves, as `Backbone.load` takes it; they share one tokenizer.

    Raises:
        MismatchedHalvesError: one reads with the file's tokenizer, the other with the class.
    """
    choices = {half.ref: half.contract.tokenizer for half in halves if half.contract.tokenizer}
    if len(set(choices.values())) > 1:
        said = " and ".join(f"{ref} `tokenizer: {choice}`" for ref, choice in choices.items())
        raise MismatchedHalvesError(f"{said} ask for two tokenizers of one base. Load them one by one.")
    probes = [text for half in halves for text in half.contract.prompt_texts()]
    return {"reads": next(iter(choices.values()), None), "probes": probes}


def _load_av(half: Half, base: Base, options: Mapping[str, Any]) -> Verbalizer:
    backbone, adapter = _backbone_of(half, "av", base, options, None)
    contract = half.contract.verify(backbone.tokenizer, backbone.vocabulary)
    return Verbalizer(backbone, adapter, contract, Transform.load(half.folder, contract), f"the AV {half.ref}")


def _load_ar(half: Half, base: Base, options: Mapping[str, Any]) -> Reconstructor:
    backbone, adapter = _backbone_of(half, "ar", base, options, half.contract.ar_num_blocks)
    contract = half.contract.verify(backbone.tokenizer, backbone.vocabulary)
    if (blocks := cast(int, contract.ar_num_blocks)) > backbone.num_blocks:
        raise MismatchedHalvesError(
            f"The AR {half.ref} runs {blocks} blocks, its model {backbone.ref} has {backbone.num_blocks}."
        )
    head = load_head(half.folder, backbone.d_model, bias=contract.head_bias)
    return Reconstructor(backbone, adapter, contract, head, load_mean(half.folder, contract), f"the AR {half.ref}")


def _backbone_of(
    half: Half, role: str, base: Base, options: Mapping[str, Any], num_blocks_run: int | None
) -> tuple[Backbone, str | None]:
    """The model that a half runs on and its adapter's name there; a full checkpoint is its own and has none."""
    if half.is_adapter:
        backbone = base.load()
        backbone.load_adapter(role, half.folder, num_blocks_run=num_blocks_run)
    else:
        backbone = Backbone.load(half.folder, ref=half.ref, truncated=role == "ar", **options, **_reading([half]))
    if backbone.d_model != half.contract.d_model:
        raise MismatchedHalvesError(
            f"{half.ref} is for d_model {half.contract.d_model}; {backbone.ref} has {backbone.d_model}. Wrong base "
            "model?"
        )
    return backbone, role if half.is_adapter else None
