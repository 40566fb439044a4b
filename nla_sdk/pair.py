"""NLAPair: load a pair, extract, explain, reconstruct, round-trip."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Literal, overload

import torch

from .calls.asking import require_default
from .calls.comparing import Signs, labelled, signs_of
from .calls.directions import Shown, as_shown
from .calls.held import one_layer
from .calls.inputs import (
    Chat,
    Mean,
    OnText,
    Progress,
    Texts,
    Writing,
    check_text_input,
    check_vector_input,
    is_text,
)
from .calls.rows import Layers, bare, refuse_other_layer, scored
from .calls.scoring import DirectionTrip
from .errors import InputError
from .model.injection import VectorsLike, as_vectors
from .model.running.watching import Watch
from .model.statistics.check import ActivationReport
from .results import Activations, Explanation, Results, RoundTrip, Score
from .sampling import Sampling, whole_number
from .steps.asking import Asking
from .steps.checking import Checking
from .steps.comparing import Comparing
from .vectors.kinds import Kind, Vectors

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .serve.widget import Page


class NLAPair(Asking, Comparing, Checking):
    """An AV and an AR (or one of them) with the model whose activations they read.

    Build it with `from_pretrained`. LoRA halves and the source model share one base in memory; a half that is a full
    checkpoint has a model of its own. All methods may be called from several threads. What the pair is (its contract,
    layer, halves, base) stands in `Assembly`.

    Example:
        >>> pair = NLAPair.from_pretrained("demo")
        >>> acts = pair.extract("The cat sat on the mat.")
        >>> trip = pair.round_trip(acts.vectors[-1])
        >>> trip.explanation, trip.status, trip.gain
    """

    # --- doing --------------------------------------------------------------------------------------------------
    def extract(
        self, text: str | Chat | Texts, positions: int | str | Sequence[int] = -1, layer: int | None = None
    ) -> Activations:
        """Read activations of the source model: the base with all adapters off, or the pair's `source`.

        Args:
            text: a string, a chat (list of {"role", "content"}), or a list of those.
            positions: -1 (the last token), another index, "all", or a list of indices.
            layer: default: the pair's.
        Returns:
            Activations, vectors float32 [n, d_model], raw.
        Raises:
            EmptyBatchError, PositionError, LayerError, InputError; TextError: half a surrogate pair, NUL, a token
            that the model has no embedding for.
            NonFiniteOutputError: the source gives NaN or infinity; names the texts and the cause.
        Warns:
            PrecisionWarning: once, if the source runs at another precision than the pair was trained on.
        """
        return self._extract(text, positions, layer)

    def check_activations(
        self, vectors: VectorsLike | Activations, *, wait: bool = True, layer: int | None = None
    ) -> ActivationReport:
        """Whether vectors look like the activations this pair reads, and if not, what they probably are.

        Norm, mean direction and spread are compared with those of every state of the base, measured on short texts
        of many kinds (docs/evaluation.md says how well that works). A batch of 16 rows tells much more than one row.
        Of a pair with a `source` they are compared with the base's all the same, and the cause says so.

        Args:
            vectors: [d_model] or [n, d_model], raw.
            wait: see `activation_statistics`; `explain`, `ask` and `round_trip` do not wait.
            layer: that they are said to be of; default: the pair's. Of another nothing is known but what is measured on
                the base.
        Returns:
            An ActivationReport: `.verdict` is "ok", "suspect" or "unknown" (no statistics beside the contract, and no
            base in memory to measure), `.cause` says why.
        Raises:
            ActivationShapeError, NonFiniteActivationError, ZeroActivationError, EmptyBatchError.
            MismatchedHalvesError, DamagedFileError: the file of statistics is another's, or damaged.
        Example:
            >>> pair.check_activations(hidden_states[12][0]).cause  # doctest: +SKIP
            'they look like the output of block 11, hidden_states[12] (off by one); the pair reads …'
        """
        vectors = vectors.vectors if isinstance(vectors, Activations) else vectors
        check_vector_input(vectors)
        rows, _ = as_vectors(vectors, self.d_model)
        return self._report(rows, wait=wait, layer=layer)

    @overload
    def explain(
        self,
        activation: VectorsLike | Activations | Vectors,
        *,
        n: Literal[1] = 1,
        signs: Literal["+", "-"] = "+",
        **writing: Unpack[Writing],
    ) -> Explanation | Results[Explanation]: ...
    @overload
    def explain(
        self, activation: VectorsLike | Activations | Vectors, *, n: int, signs: Signs = "+", **writing: Unpack[Writing]
    ) -> Results[Explanation] | Results[Results[Explanation]]: ...
    @overload
    def explain(
        self, activation: VectorsLike | Activations | Vectors, *, signs: Literal["±"], **writing: Unpack[Writing]
    ) -> Results[Explanation] | Results[Results[Explanation]]: ...
    def explain(
        self,
        activation: VectorsLike | Activations | Vectors,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        n: int = 1,
        best_of: int = 1,
        seed: int = 0,
        progress: Progress | None = None,
        on_text: OnText | None = None,
        cancel: Event | None = None,
        force: bool = False,
        layer: Layers | None = None,
        model_tag: str | None = None,
        kind: Kind | None = None,
        direction: Shown | None = None,
        mean: Mean = None,
        signs: Signs = "+",
    ) -> Explanation | Results[Explanation] | Results[Results[Explanation]]:
        """Put activations or directions into words. An oracle is asked the question that its contract has for it.

        Args:
            activation: [d_model] or [rows, d_model]; numpy, torch or list, any float dtype; raw. Or what `extract`
                returned (or a list of that), whose layer, model and precision are held against the pair's; or `Vectors`
                (`nla_sdk.vectors.load`), which know their kind too. Of a pair whose prompt takes k vectors: [k,
                d_model] or [rows, k, d_model]; where each is of a layer of its own, a list of Activations of the same
                places, one a layer.
            max_new_tokens: default: the contract's.
            temperature: 0 is greedy.
            n: explanations per activation.
            best_of: write so many per activation and return the one from which the AR comes nearest to it, with its
                `score`. The first is greedy, the others are sampled (at temperature 0.7, if `temperature` is 0). Costs
                as many explanations.
            seed: of the sampling; a row's samples do not depend on the other rows.
            progress: called with the number of explanations just finished.
            on_text: called with an explanation's number (rows, then signs, then samples, counted through) and its text
                so far, as often as that grows, from whichever thread writes it. With `best_of` once, with what was
                chosen. What it raises ends this call and no other.
            cancel: an event; once it is set the call raises CancelledCallError, whatever it was at.
            force: take activations of another layer or model (with a warning), and be silent of suspect ones.
            layer: the block that they were read from, one for all or one a row, of a pair that reads several: its
                prompt says it. Default: that of the Activations, or the contract's.
            model_tag: of a pair that reads several models, which of them they are of.
            kind: "activation", "direction" (a dictionary's row, a probe: no mean in it, any length) or "difference" (of
                activations: no mean in it). Default: that of the Vectors, else "activation".
            direction: how directions and differences are shown: "raw": as they are, no mean subtracted; "mean+": μ +
                centred norm · û, an activation that differs from the mean in this direction. Default: "raw" if the AV
                is centred, else "mean+", as it has never read a vector without the mean (docs/vectors.md).
            mean: μ and the centred norm, as `nla mean` writes them, where the pair does not know its own.
            signs: of directions whose sign is not known: "±" explains each as it is and turned round.
        Returns:
            An Explanation (a str with .status, .raw, .tokens, .score) for one vector, a list for a matrix; with n > 1 a
            list of n in place of each, with signs="±" a list of n for each sign (`Signed`, with .sign). The lists are
            Results: .to_pandas(), .to_arrow().
        Raises:
            MissingHalfError, ActivationShapeError, NonFiniteActivationError, ZeroActivationError, EmptyBatchError,
            ForeignActivationError, InputError (a setting out of range, or best_of with n > 1).
            UnseenValueError, LayerError: a layer that the pair was not trained to read, or that its base lacks.
            InjectionError: the vector does not reach the AV's model. NonFiniteOutputError: it gives NaN or infinity.
            MissingMeanError: a direction is shown over the mean, or scored (`best_of`), and nobody knows it.
            CancelledCallError: `cancel` was set.
        Warns:
            SuspectActivationsWarning: bare vectors look like something else than what the pair reads; see
                `check_activations`.
        Example:
            >>> pair.explain(acts.vectors[-1]).status  # doctest: +SKIP
            'ok'
        """
        verbalizer = self._need(self.verbalizer, "explain", "AV")
        require_default(verbalizer.contract, verbalizer.ref)
        rows = self._rows(activation, layer, force, kind, direction, mean, signs)
        fields = self._fields(rows, model_tag=model_tag)
        best_of = whole_number("best_of", best_of, 1)
        if best_of != 1 and n != 1:
            raise InputError(f"n={n} and best_of={best_of}: ask for several explanations or for the best one.")
        sampling, watch = Sampling(max_new_tokens, temperature, n, seed), Watch(progress, on_text, cancel)
        if best_of == 1:
            written = Results(self._written(rows, fields, sampling, watch))
        else:
            written, _, _ = self._best(rows, fields, sampling, best_of, watch, mean)
        written = Results(labelled(written, signs, n))
        several = n * len(signs_of(signs))
        each = written
        if several > 1:
            each = Results(written[start : start + several] for start in range(0, len(written), several))
        return each[0] if rows.single else each

    def reconstruct(self, text: str | Sequence[str], *, layer: int | None = None) -> torch.Tensor:
        """Turn explanations back into activations.

        Args:
            text: an explanation, or a list of them. The empty string is allowed: it scores what any text would.
            layer: that they are of, for an AR that reconstructs several; default: the contract's.
        Returns:
            float32 [d_model], or [n, d_model] for a list, on the CPU. Without centring only the direction counts.
        Raises:
            MissingHalfError, EmptyBatchError, InputError, NonFiniteOutputError; TextError as in `extract`.
        Warns:
            TruncatedExplanationWarning.
        """
        reconstructor = self._need(self.reconstructor, "reconstruct", "AR")
        check_text_input(text, "explanation")
        single = isinstance(text, str)
        if not single and not isinstance(text, Sequence):
            raise InputError(f"Expected an explanation or a list of them, got a {type(text).__name__}.")
        vectors = reconstructor([text] if single else list(text), layer=layer)
        return vectors[0] if single else vectors

    @overload
    def round_trip(self, activation: str | Chat, **writing: Unpack[Writing]) -> RoundTrip: ...
    @overload
    def round_trip(self, activation: Texts, **writing: Unpack[Writing]) -> Results[RoundTrip]: ...
    @overload
    def round_trip(
        self, activation: VectorsLike | Activations | Vectors, **writing: Unpack[Writing]
    ) -> RoundTrip | Results[RoundTrip]: ...
    def round_trip(
        self,
        activation: str | Chat | Texts | VectorsLike | Activations | Vectors,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        best_of: int = 1,
        seed: int = 0,
        progress: Progress | None = None,
        on_text: OnText | None = None,
        cancel: Event | None = None,
        force: bool = False,
        layer: Layers | None = None,
        model_tag: str | None = None,
        kind: Kind | None = None,
        direction: Shown | None = None,
        mean: Mean = None,
    ) -> RoundTrip | Results[RoundTrip]:
        """Vector → explanation → vector, scored.

        A direction is scored against what the AR's vector has over the mean (its `reconstruction` is that): cosine,
        mse and gain are of the two, FVE and the mean's own cosine are not defined and None.

        Args:
            activation: as in `explain`; or a text (its last token is read, at `layer`), a chat, or a list of texts.
            max_new_tokens, temperature, seed, progress, on_text, cancel, force, layer, model_tag: as in `explain`.
            kind, direction, mean: as in `explain`.
            best_of: as in `explain`; the score is that of the explanation chosen by it.
        Returns:
            One RoundTrip, or a list (Results) for a matrix or a list of texts.
        Raises:
            as `extract`, `explain` and `reconstruct`.
        """
        self._need(self.reconstructor, "round_trip", "AR")
        verbalizer = self._need(self.verbalizer, "round_trip", "AV")
        require_default(verbalizer.contract, verbalizer.ref)
        if is_text(activation):
            as_shown(direction, "activation", mean)
            rows = self._read_rows(activation, layer, force, kind)
        else:
            rows = self._rows(activation, layer, force, kind, direction, mean)
        vectors = scored(rows, verbalizer.contract, self.layer)
        fields = self._fields(rows, model_tag=model_tag)
        sampling, watch = Sampling(max_new_tokens, temperature, seed=seed), Watch(progress, on_text, cancel)
        written, reconstructions, scores = self._best(rows, fields, sampling, best_of, watch, mean)
        make = RoundTrip if rows.kind == "activation" else partial(DirectionTrip, kind=rows.kind)
        trips = Results(
            make(**score.to_row(), explanation=explanation, activation=vector.cpu(), reconstruction=reconstruction)
            for explanation, score, vector, reconstruction in zip(
                written, scores, vectors, reconstructions, strict=True
            )
        )
        return trips[0] if rows.single else trips

    def score(
        self,
        text: str | Sequence[str],
        activation: VectorsLike | Activations | Vectors,
        *,
        force: bool = False,
        layer: int | None = None,
        kind: Kind | None = None,
        mean: Mean = None,
    ) -> Score | Results[Score]:
        """How well explanations reconstruct activations: any text, not only the AV's own.

        Beside each score stands what no words (`gain`, `empty_cosine`) and the mean direction score on that very row.
        Directions are scored as in `round_trip`.

        Args:
            text: one explanation, or as many as there are activations.
            activation: [d_model] or [n, d_model], or what `extract` returned.
            force: take activations of another layer or model, with a warning.
            layer: that they are of, for an AR that reconstructs several; default: that of the Activations.
            kind, mean: as in `explain`.
        Returns:
            One Score for one text and one vector; else a list (one text is scored against every vector,
            and so on).
        Raises:
            InputError: the numbers of texts and vectors do not match.
            ForeignActivationError: `extract` read them at another layer or from another model.
            MissingMeanError: they are directions, and nobody knows the mean.
        """
        contract = self.ar_contract or self.contract
        read, kind = self._given(activation, kind, force)
        given, own = bare(read, contract, self.origin, force)
        own = one_layer(activation, contract) if isinstance(activation, Vectors) else own
        vectors, single_vector = as_vectors(given, self.d_model)
        if layer is not None and not force:
            refuse_other_layer(layer, own, "the Activations were")
        layer = own if layer is None else layer
        single_text = isinstance(text, str)
        reconstructions = self.reconstruct([text] if single_text else text, layer=layer)
        if len(reconstructions) != len(vectors) and 1 not in (len(reconstructions), len(vectors)):
            raise InputError(
                f"{len(reconstructions)} explanations and {len(vectors)} activations; expected as many of each."
            )
        as_shown(None, kind, mean)
        rows, mean_of = max(len(reconstructions), len(vectors)), None
        if kind != "activation":
            mean_of = self._mean_of(mean, force)
            reconstructions = self._centred(reconstructions, [layer] * len(reconstructions), mean_of)
        scores = self._score(reconstructions.expand(rows, -1), vectors.expand(rows, -1), [layer] * rows, mean_of)
        return scores[0] if single_text and single_vector else scores

    # --- looking ------------------------------------------------------------------------------------------------
    def show(self, text: str = "", *, height: int = 720) -> Page:
        """The page of `nla serve` in a notebook, on this pair: no server, no port.

        Args:
            text: that it begins with.
            height: pixels.
        Returns:
            A widget, which a notebook shows where it is a cell's last line.
        Raises:
            InputError: pip install "nla-sdk[notebook]" was not done.
        Example:
            >>> pair.show("The cat sat on the mat.")  # doctest: +SKIP
        """
        from .serve.widget import Page

        return Page(self, text, height)
