"""`NLAPair.check`: an explanation's claims, each with what speaks for it and how likely it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from threading import Event
from typing import TYPE_CHECKING, Any, TypedDict, overload

import torch

from ..calls.held import one_layer
from ..calls.inputs import Chat, Texts, check_text_input
from ..calls.rows import bare, refuse_other_layer
from ..calls.scoring import TEMPERATURE
from ..checking.contexts import contexts_of, partners_of, text_of_each
from ..checking.gathering import gather
from ..checking.meaning import embedder
from ..checking.parts import Context, Parts
from ..claims.calibration import Calibration
from ..claims.cutting import claims_of
from ..claims.receipts import RECEIPTS, Check, CheckedClaim, Receipt, ReceiptName
from ..claims.truth import supported
from ..errors import InputError
from ..halves.beside.claims import calibration_of
from ..model.injection import VectorsLike, as_vectors, rescale
from ..model.running.watching import Watch
from ..results import Activations, Explanation, Results
from ..sampling import Sampling, whole_number
from ..vectors.kinds import Vectors
from .steering import Steering

if TYPE_CHECKING:
    from typing_extensions import Unpack

ALWAYS: tuple[ReceiptName, ...] = ("ablation", "lens", "repeats")
WITH_TEXT: tuple[ReceiptName, ...] = ("in_text", "in_text_exact", "in_text_after", "model_agrees")
STRENGTH = 0.5  # of steering: at which the demo's source still goes on in sentences (docs/vectors.md)


class CheckOptions(TypedDict, total=False):
    """The keyword arguments of `check`."""

    position: int | Sequence[int]
    samples: int
    nearby: int
    dictionary: Vectors | None
    steering: bool
    meaning: Any
    seed: int
    force: bool
    layer: int | None
    cancel: Event | None


class Checking(Steering):
    """See `NLAPair`."""

    @property
    def calibration(self) -> Calibration | None:
        """What turns receipts into a probability (`claims.json`); None: nobody has measured it.

        Raises:
            MismatchedHalvesError: the file was fitted with other halves. EvaluationError: it is malformed or changed.
        """
        return self._calibration[0]

    @cached_property
    def _calibration(self) -> tuple[Calibration | None, str]:
        return calibration_of(self.av, self.ar)

    @overload
    def check(
        self,
        explanation: str,
        activation: VectorsLike | Activations | Vectors,
        text: str | Chat | Texts | None = None,
        **how: Unpack[CheckOptions],
    ) -> Check: ...
    @overload
    def check(
        self,
        explanation: list[str] | tuple[str, ...] | Sequence[Explanation],
        activation: VectorsLike | Activations | Vectors,
        text: str | Chat | Texts | None = None,
        **how: Unpack[CheckOptions],
    ) -> Results[Check]: ...
    def check(
        self,
        explanation: str | Sequence[str],
        activation: VectorsLike | Activations | Vectors,
        text: str | Chat | Texts | None = None,
        *,
        position: int | Sequence[int] = -1,
        samples: int = 0,
        nearby: int = 0,
        dictionary: Vectors | None = None,
        steering: bool = False,
        meaning: Any = None,
        seed: int = 0,
        force: bool = False,
        layer: int | None = None,
        cancel: Event | None = None,
    ) -> Check | Results[Check]:
        """Which of an explanation's words can be trusted: its claims, each with receipts and a probability.

        A receipt is a number beside what it is by chance (`nla_sdk.claims.receipts.RECEIPTS`, docs/claims.md). What a
        part that is not there would tell is absent, and `Check.missing` says why. The probability is that the text up
        to the position says the claim (a next token: that the source gives it at least 1 %), from receipts that need
        no text, as `claims.json` beside the AV has it; without that file there is none: `why_no_support` says so.

        Next tokens get no `ablation` unless their probability rests on it: it would cost as much as all else.

        Args:
            explanation: an explanation, or one for each activation.
            activation: [d_model] or [n, d_model], raw; or what `extract` returned, whose positions are taken then.
            text: that it was read in: a text, a chat, or one for each activation.
            position: of the activation in the text, or one for each; counted from 0 at the first token (BOS where there
                is one), below 0 from the end.
            samples: write so many further explanations of the activation (at temperature 0.7): do they say it too?
            nearby: explain so many positions of the text before it and as many behind: do they say it too?
            dictionary: directions with labels (`nla_sdk.vectors.load`): do labels of the nearest say it?
            steering: steer the source with what the AR makes of each claim: do its tokens become likelier?
            meaning: a sentence-transformers model, or its name: how near does a sentence of the text come?
            seed: of samples, and of claims that stand in another's place.
            force: take activations of another layer or model, with a warning.
            layer: that they are of, for a pair that reads several; default: that of the Activations.
            cancel: an event; once it is set the call raises CancelledCallError.
        Returns:
            A Check for one explanation, a list (Results) for a list of them: `.to_pandas()` has a row for each claim.
            In a list a claim's numbers by chance are of another row: of another text where texts are given.
        Raises:
            InputError: numbers of explanations, activations, texts or positions that do not match; `nearby` without
                text; directions in place of activations; no sentence-transformers.
            MissingHalfError: `samples` or `nearby` without an AV. PositionError; others as `score` and `extract`.
            MismatchedHalvesError, EvaluationError: the pair's `claims.json` is another's, or was changed.
        Example:
            >>> trip = pair.round_trip("The cat sat on the mat.")  # doctest: +SKIP
            >>> pair.check(trip.explanation, trip.activation, "The cat sat on the mat.")  # doctest: +SKIP
        """
        single = isinstance(explanation, str)
        check_text_input(explanation, "explanation")
        given = [explanation] if single else _list_of(explanation)
        # What is in no form of the contract's claims nothing that is known to be meant as a claim.
        words = ["" if isinstance(one, Explanation) and not one.parsed else one for one in given]
        vectors, layer = self._to_check(activation, words, layer, force)
        watch, read = Watch(cancel=cancel), activation if isinstance(activation, Activations) else None
        texts = text_of_each(text, None if read is None else read.texts, len(words))
        contexts, places = None, []
        if texts is not None:
            check_text_input(text)
            contexts, places = contexts_of(texts, self._positions(position, read, len(words)), self._tokenizer)
        samples, nearby = whole_number("samples", samples, 0), whole_number("nearby", nearby, 0)
        if dictionary is not None and not isinstance(dictionary, Vectors):
            raise InputError(f"dictionary is a {type(dictionary).__name__}; expected directions with labels.")
        calibration, why = self._calibration
        if layer not in (None, self.layer):
            calibration, why = None, f"its probabilities are of layer {self.layer}, and this is layer {layer}"
        which: set[ReceiptName] = {
            *ALWAYS,
            *(() if calibration is None else (one for one in RECEIPTS if one in calibration.needed)),
        }
        which |= set(WITH_TEXT) if contexts is not None else set()
        asked: dict[ReceiptName, Any] = {
            "recurs_in_samples": samples,
            "recurs_nearby": nearby,
            "dictionary": dictionary is not None,
            "steering": steering,
            "in_text_meaning": meaning is not None,
        }
        which |= {name for name, wanted in asked.items() if wanted}
        parts = Parts.of(self)
        parts = replace(
            parts,
            encode=None if meaning is None else embedder(meaning),
            towards=self._towards() if steering else None,
            chance={} if calibration is None else calibration.chance,
            baseline_mse=parts.baseline_mse if calibration is None else calibration.baseline_mse,
        )
        found = gather(
            parts,
            words,
            vectors,
            which=which,
            texts=contexts,
            partners=partners_of(words, texts),
            layers=[layer] * len(words),
            nearby=self._around(texts, places, nearby, layer, watch) if nearby else None,
            samples=self._sampled(vectors, samples, layer, seed, watch) if samples else None,
            dictionary=dictionary,
            spared=_spared(calibration),
            seed=seed,
            watch=watch,
        )
        checks = Results(
            _checked(of, text, receipts, calibration, why, found.unit, found.missing, context)
            for of, text, receipts, context in zip(given, words, found, contexts or [None] * len(words), strict=True)
        )
        return checks[0] if single else checks

    def _to_check(
        self, activation: Any, words: Sequence[str], layer: int | None, force: bool
    ) -> tuple[torch.Tensor, int | None]:
        """The vectors, one for each explanation, and the layer they are of where it is not the pair's only one."""
        given, kind = self._given(activation, None, force)
        if kind != "activation":
            raise InputError(f"These are {kind}s, which no text says anything of: check explanations of activations.")
        contract = self.contract
        given, own = bare(given, contract, self.origin, force)
        own = one_layer(activation, contract) if isinstance(activation, Vectors) else own
        vectors, _ = as_vectors(given, self.d_model)
        if layer is not None and not force:
            refuse_other_layer(layer, own, "the Activations were")
        if len(vectors) != len(words):
            raise InputError(f"{len(words)} explanations and {len(vectors)} activations; expected as many of each.")
        return vectors, own if layer is None else layer

    @property
    def _tokenizer(self) -> Any:
        """The source's, or of a source that is not in memory the halves'."""
        return (self.base.in_memory or self._halves[0].backbone).tokenizer

    def _positions(self, position: Any, read: Activations | None, count: int) -> list[int]:
        """One for each row: what is said, else what the Activations know."""
        if not hasattr(position, "__iter__"):
            at = whole_number("position", position)
            return list(read.positions) if at == -1 and read is not None else [at] * count
        several = [whole_number("position", one) for one in position]
        if len(several) != count:
            raise InputError(f"{len(several)} positions and {count} activations; expected one, or as many.")
        return several

    def _around(
        self, texts: Sequence[Any] | None, places: Sequence[int], nearby: int, layer: int | None, watch: Watch
    ) -> list[list[Explanation]]:
        """Explanations of the positions about each row's own; not of BOS, which is of no text."""
        if texts is None:
            raise InputError(f"nearby={nearby} needs the text that the activation was read in: pass text=.")
        first = int(self._tokenizer.bos_token_id is not None)
        read, counts = [], []
        for text, at in zip(texts, places, strict=True):
            [[context], _] = contexts_of([text], [-1], self._tokenizer)
            last = len(context.ids or ())
            wanted = [one for one in range(max(first, at - nearby), min(last, at + nearby + 1)) if one != at]
            counts.append(len(wanted))
            if wanted:
                read.append(self._extract(text, wanted, layer).vectors)
        written = iter(self._explained(torch.cat(read), 1, 0.0, 0, layer, watch) if read else [])
        return [[next(written) for _ in range(count)] for count in counts]

    def _sampled(
        self, vectors: torch.Tensor, samples: int, layer: int | None, seed: int, watch: Watch
    ) -> list[list[Explanation]]:
        """Further explanations of each row."""
        written = self._explained(vectors, samples, TEMPERATURE, seed, layer, watch)
        return [written[at : at + samples] for at in range(0, len(written), samples)]

    def _explained(
        self, vectors: torch.Tensor, n: int, temperature: float, seed: int, layer: int | None, watch: Watch
    ) -> list[Explanation]:
        rows = self._rows(vectors, layer, True)
        return self._written(rows, self._fields(rows), Sampling(None, temperature, n, seed), watch)

    def _towards(self) -> Callable[[Sequence[str]], torch.Tensor]:
        """Texts → what is added to the source's stream, as `steer` does at strength 0.5."""
        known = self._known()

        def towards(texts: Sequence[str]) -> torch.Tensor:
            return STRENGTH * rescale(known.rest_of_texts(texts, None), known.mean_of(None).spread)

        return towards


def _list_of(explanations: Any) -> list[str]:
    """A list, each of it an explanation."""
    if not isinstance(explanations, Iterable):
        raise InputError(
            f"explanation is a {type(explanations).__name__}; expected an explanation, or one for each activation."
        )
    given = list(explanations)
    if bad := [one for one in given if not isinstance(one, str)]:
        raise InputError(f"One of the explanations is a {type(bad[0]).__name__}; expected strings.")
    return given


def _spared(calibration: Calibration | None) -> dict[ReceiptName, list[str]]:
    """The kinds of claims that do without some of what the AR says: where no probability rests on it.

    Next tokens stand first, so that without one nearly all is read again: half of a check's cost, for a receipt that
    tells them apart less well than the lens (AUROC 0.61 and 0.84 on the demo).
    """
    if calibration is None:
        return {"ablation": ["next token"]}
    ablation = ["next token"] if "next token" in calibration.does_without("ablation") else []
    return {"ablation": ablation, "alone": calibration.does_without("alone")}


def _checked(
    explanation: str,
    words: str,
    receipts: Sequence[Mapping[ReceiptName, Receipt]],
    calibration: Calibration | None,
    why: str,
    unit: str | None,
    missing: Mapping[ReceiptName, str],
    context: Context | None,
) -> Check:
    claims = []
    for claim, own in zip(claims_of(words), receipts, strict=True):
        reason = why if calibration is None else calibration.why_not(claim.kind, own)
        support = None if calibration is None else calibration.support(claim.kind, own)
        agrees = own["model_agrees"].value if "model_agrees" in own else None
        holds = None if context is None else supported(claim, context.before, agrees)
        claims.append(CheckedClaim(claim, own, support, reason, holds))
    if calibration is not None and claims and all(one.support is None for one in claims):
        why = claims[0].why_no_support or ""
    if not claims:
        status = f" (status {explanation.status})" if isinstance(explanation, Explanation) else ""
        why, missing = f"the explanation claims nothing{status}", {}
    return Check(explanation, claims, why or None, unit, {str(name): told for name, told in missing.items()})
