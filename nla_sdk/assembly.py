"""The halves of a pair and their base, found, checked against each other and loaded: what an `NLAPair` works with."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from .contract import Contract
from .contract.releases.known import family_of
from .errors import MismatchedHalvesError, NonFiniteOutputError, UnmatchedPairWarning
from .halves.half import Half, check_halves, find_halves, present
from .halves.hub.references import local_folder
from .halves.measured import statistics_of
from .halves.memory.bases import Base, holds_tokenizer
from .halves.memory.source import Source
from .halves.parts import refuse_unstated_parent
from .io.origins import Origin
from .io.rows.shown import html_table
from .model.backbone import Backbone
from .model.reconstructor import Reconstructor
from .model.statistics.states import ActivationStatistics
from .model.verbalizer import Verbalizer
from .model.weights.adapters.config import AdapterFacts
from .model.weights.adapters.reading import AdapterReport
from .model.weights.heads import read_heads
from .model.weights.leftovers import refuse_lost_norm
from .model.weights.transforms import Transform


@dataclass(eq=False, repr=False)
class Assembly:
    """A pair's parts, and what they say of it.

    Attributes:
        av, ar: the halves on disk: name, folder, contract, commit. None for one that the pair was loaded without.
        missing: why a half is not there; "" where both are.
        base: the model that the halves were trained on, and where it lies.
        read_from: a fine-tune of it that activations are read from; None: the base.
        fast: as `from_pretrained` was told.
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
    read_from: Source | None = None
    fast: bool | None = field(default=None, init=False)
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
        """The length of an activation: d_model, unless a map of the contract is from another model's."""
        half = self.verbalizer or self.reconstructor
        return cast(int, self.contract.d_model) if half is None else half.transform.d_source

    @property
    def baseline_mse(self) -> float | None:
        """mse of predicting the mean direction, from the contract; None where it has none."""
        said = (contract.baseline_mse for contract in (self.ar_contract, self.av_contract) if contract is not None)
        return next((one for one in said if one is not None), None)

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
        halves = [half for half in (self.verbalizer, self.reconstructor) if half is not None]
        running, source = self.base.in_memory or halves[0].backbone, self.read_from
        return Origin(
            layer=self.layer,
            model=self.base.ref if source is None else source.ref,
            revision=self.base.commit or self.base.revision if source is None else source.commit,
            precision=running.precision,
            trained=self.contract.extraction_precision,
            also=(str(self.contract.base_model),) if source is None else (),
            base=None if source is None else self.base.ref,
            layers=tuple(layers) if isinstance(layers := self.contract.layers, list) else layers,
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
                self._statistics = statistics_of(present(self.av, self.ar), self.base, wait=wait)
            except NonFiniteOutputError as error:  # which explaining says better, as an error
                self._unmeasurable = str(error)
        if self._statistics is None:
            no_base = (
                "no statistics lie beside the contract, and the base they would be measured on is another model than "
                "what is read, not loaded, or so large that a CPU measures it only when asked (pair.check_activations)"
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
        """The model activations are read from: the shared base, or, for full checkpoints, loaded when first needed.

        Of a pair with a source of its own (`read_from`) that one; if it is an adapter, the base that it sits on.
        """
        return self.base.load() if self.read_from is None else self.read_from.load()[0]

    @property
    def source_adapter(self) -> str | None:
        """The adapter that is on while activations are read; None: all are off."""
        return None if self.read_from is None else self.read_from.load()[1]

    @property
    def base_path(self) -> Path:
        """Where the base's files are on this disk; of full checkpoints whose base nobody needed yet, the first half's.

        Example:
            >>> AutoConfig.from_pretrained(pair.base_path)  # doctest: +SKIP
        """
        return self.base.path or present(self.av, self.ar)[0].folder

    def __repr__(self) -> str:
        facts = self._facts()
        halves = ", ".join(f"{role}={facts[role]!r}" for role in ("av", "ar") if facts[role])
        return (
            f"NLAPair({halves}{'' if self.matched else ', matched=False'},\n"
            f"  layer {self.layer} of {facts['source']}, d_model {self.d_model}, {facts['running']})"
        )

    def _repr_html_(self) -> str:
        return html_table([self._facts()])

    def _facts(self) -> dict[str, Any]:
        backbone = next(half.backbone for half in (self.verbalizer, self.reconstructor) if half is not None)
        return {
            "av": self.av and self.av.ref,
            "ar": self.ar and self.ar.ref,
            "base": self.base.ref,
            "source": self.base.ref if self.read_from is None else f"{self.read_from.ref} (a fine-tune of the base)",
            "layer": self.layer,
            "d_model": self.d_model,
            "running": getattr(self.verbalizer, "running", f"{backbone.precision} on {backbone.device}"),
            "matched": self.matched,
        }


Pair = TypeVar("Pair", bound=Assembly)


def assemble(
    kind: type[Pair],
    av: str | os.PathLike | None,
    ar: str | os.PathLike | None,
    *,
    base: str | os.PathLike | None,
    source: str | os.PathLike | None,
    quantization: str | None,
    device: str | torch.device,
    dtype: str | torch.dtype,
    revision: str | None,
    subfolder: str | None,
    trust_remote_code: bool,
    contract: Mapping[str, Any] | None,
    check_weights: bool,
    load_av: Callable[..., Verbalizer] | None,
    **where: Any,
) -> Pair:
    """Find and load a pair; arguments, errors and warnings are those of `NLAPair.from_pretrained`."""
    alone = {"given": contract, "alone": load_av is not None}
    av_half, ar_half, missing = find_halves(av, ar, revision=revision, subfolder=subfolder, **alone, **where)
    halves = present(av_half, ar_half)
    matched = True
    if av_half is not None and ar_half is not None:
        check_halves(av_half, ar_half, **where)
        matched = av_half.names(ar_half) or ar_half.names(av_half)
        matched = matched or av_half.names_once(ar_half, **where) or ar_half.names_once(av_half, **where)
        if not matched:
            families = {half.ref: family_of(half.repo_id) for half in (av_half, ar_half)}
            known = [f"{ref} is of the family {name}" for ref, name in families.items() if name]
            recipes = f" ({', '.join(known)})" if len(set(families.values())) > 1 else ""
            warnings.warn(
                f"{av_half.ref} and {ar_half.ref} do not name each other as partners{recipes}; a score of this mixed "
                "pair says little about either (RoundTrip.matched is False).",
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
    # What sits on the base reads it with one tokenizer; of full checkpoints each has its own.
    sharing = [half for half in halves if half.is_adapter and half.parent is None]
    options |= _reading(sharing or halves[:1])
    under = Base(
        str(first.base_model if base is None else base),
        revision=first.base_revision if base is None else None,
        where=where,
        options=options,
    )
    for half in halves:
        for folder in half.adapters:
            # A folder here goes by no repository's name: then it is what its contract says.
            called = str(half.contract.base_model) if local_folder(under.ref) else under.ref
            refuse_unstated_parent(folder, half.ref, called, half.contract.weights_parent, **where)
    verbalizer = (load_av or _load_av)(av_half, under, options, where) if av_half else None
    reconstructor = _load_ar(ar_half, under, options, where) if ar_half else None
    if verbalizer and reconstructor and matched:
        _check_means(verbalizer, reconstructor)
    stated = source or next((half.contract.source_model for half in halves if half.contract.source_model), None)
    read_from = None
    if stated is not None:
        read_from = Source(
            os.fspath(stated),
            under,
            like=lambda: under.in_memory or (verbalizer.backbone if verbalizer else None),
            d_model=cast(int, first.d_model),
            where=where,
            options=options,
        )
        if source is not None:  # one that a contract names is looked for when it is read
            read_from.find()
    return kind(
        av=av_half,
        ar=ar_half,
        missing=missing,
        base=under,
        verbalizer=verbalizer,
        reconstructor=reconstructor,
        matched=matched,
        read_from=read_from,
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


def _load_av(half: Half, base: Base, options: Mapping[str, Any], where: Mapping[str, Any]) -> Verbalizer:
    with _in_memory(half, base, options, where) as (backbone, adapter, contract):
        transform = Transform.load(half.folder, contract)
        verbalizer = Verbalizer(backbone, adapter, contract, transform, f"the AV {half.ref}")
        _let_go_with(verbalizer)
        return verbalizer


def _load_ar(half: Half, base: Base, options: Mapping[str, Any], where: Mapping[str, Any]) -> Reconstructor:
    with _in_memory(half, base, options, where) as (backbone, adapter, contract):
        if (blocks := cast(int, contract.ar_num_blocks)) > backbone.num_blocks:
            raise MismatchedHalvesError(
                f"The AR {half.ref} runs {blocks} blocks, its model {backbone.ref} has {backbone.num_blocks}."
            )
        if contract.ar_final_norm == "kept" and not half.is_adapter:
            refuse_lost_norm(half.folder)
        head, transform = read_heads(half.folder, contract), Transform.load(half.folder, contract)
        reconstructor = Reconstructor(backbone, adapter, contract, head, transform, f"the AR {half.ref}")
        _let_go_with(reconstructor)
        return reconstructor


def _let_go_with(half: Verbalizer | Reconstructor) -> None:
    """The base is shared with other pairs: an adapter leaves it with the half that it is of."""
    if half.adapter is not None:
        weakref.finalize(half, half.backbone.let_go, half.adapter).atexit = False


@contextmanager
def _in_memory(
    half: Half, base: Base, options: Mapping[str, Any], where: Mapping[str, Any]
) -> Iterator[tuple[Backbone, str | None, Contract]]:
    """The model that a half runs on, its adapter's name there (a full checkpoint has none), its verified contract.

    What is raised inside takes the adapter off again.
    """
    adapter, contract = None, half.contract
    if half.parent is not None:
        files = half.parent
        spare = next((folder for folder in (half.folder, *half.adapters) if holds_tokenizer(folder)), None)
        parent = Base(files.ref, where=where, options={**options, **_reading([half])}, files=files, tokenizer=spare)
        backbone = parent.load()
    elif half.is_adapter:
        backbone = base.load()
    else:
        backbone = Backbone.load(
            half.folder, ref=half.ref, truncated=half.role == "ar", **{**options, **_reading([half])}
        )
    if half.is_adapter:
        facts = AdapterFacts(contract.weights_alpha, contract.weights_rslora)
        adapter = backbone.hold(half.role, half.adapters, num_blocks_run=contract.ar_num_blocks, facts=facts)
    try:
        if backbone.d_model != contract.d_model:
            raise MismatchedHalvesError(
                f"{half.ref} is for d_model {contract.d_model}; {backbone.ref} has {backbone.d_model}. Wrong base "
                "model?"
            )
        yield backbone, adapter, contract.verify(backbone.tokenizer, backbone.vocabulary)
    except BaseException:
        if adapter is not None:
            backbone.let_go(adapter)
        raise
