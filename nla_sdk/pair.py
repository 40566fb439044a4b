"""NLAPair: load a pair, extract, explain, reconstruct, round-trip."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeVar, cast, overload

import torch

from .errors import InputError, MissingHalfError, PrecisionWarning
from .inputs import Chat, Progress, Texts, Writing, check_text_input, check_vector_input, is_text
from .io.origins import check_origin
from .model.extraction import Extractor, is_chat
from .model.injection import VectorsLike, as_vectors
from .model.reconstructor import Reconstructor
from .model.statistics.check import ActivationReport, check
from .model.verbalizer import Verbalizer
from .on_disk import OnDisk
from .results import Activations, Explanation, Results, RoundTrip, Score
from .sampling import Sampling, whole_number
from .scoring import score_rows, write_best

if TYPE_CHECKING:
    from typing_extensions import Unpack

HalfInMemory = TypeVar("HalfInMemory", Verbalizer, Reconstructor)


class NLAPair(OnDisk):
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
        check_text_input(text)
        source = self.source
        trained = self.contract.extraction_precision
        running = source.precision
        if trained and trained != running and not self._warned_precision:
            self._warned_precision = True
            warnings.warn(
                f"The source model runs in {running}; the pair was trained on activations read in {trained}. "
                "Directions differ slightly; compare scores within one precision only.",
                PrecisionWarning,
                stacklevel=2,
            )
        read = Extractor(source, self.source_adapter)(text, positions, layer=self.layer if layer is None else layer)
        origin = self.origin
        return replace(read, model=origin.model, revision=origin.revision, precision=running)

    def check_activations(self, vectors: VectorsLike | Activations, *, wait: bool = True) -> ActivationReport:
        """Whether vectors look like the activations this pair reads, and if not, what they probably are.

        Norm, mean direction and spread are compared with those of every state of the base, measured on short texts
        of many kinds (docs/evaluation.md says how well that works). A batch of 16 rows tells much more than one row.

        Args:
            vectors: [d_model] or [n, d_model], raw.
            wait: see `activation_statistics`; `explain` and `round_trip` do not wait.
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
        statistics, why = self.activation_statistics(wait=wait)
        if statistics is None:
            return ActivationReport("unknown", why)
        return check(statistics, rows, scaled=self.norm_matters)

    @overload
    def explain(
        self, activation: VectorsLike | Activations, *, n: Literal[1] = 1, **writing: Unpack[Writing]
    ) -> Explanation | Results[Explanation]: ...
    @overload
    def explain(
        self, activation: VectorsLike | Activations, *, n: int, **writing: Unpack[Writing]
    ) -> Results[Explanation] | Results[Results[Explanation]]: ...
    def explain(
        self,
        activation: VectorsLike | Activations,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        n: int = 1,
        best_of: int = 1,
        seed: int = 0,
        progress: Progress | None = None,
        force: bool = False,
    ) -> Explanation | Results[Explanation] | Results[Results[Explanation]]:
        """Put activations into words.

        Args:
            activation: [d_model] or [rows, d_model]; numpy, torch or list, any float dtype; raw. Or what `extract`
                returned, whose layer, model and precision are held against the pair's.
            max_new_tokens: default: the contract's.
            temperature: 0 is greedy.
            n: explanations per activation.
            best_of: write so many per activation and return the one from which the AR comes nearest to it, with its
                `score`. The first is greedy, the others are sampled (at temperature 0.7, if `temperature` is 0). Costs
                as many explanations.
            seed: of the sampling; a row's samples do not depend on the other rows.
            progress: called with the number of explanations just finished.
            force: take activations of another layer or model (with a warning), and be silent of suspect ones.
        Returns:
            An Explanation (a str with .status, .raw, .tokens, .score) for one vector, a list for a matrix; with n > 1 a
            list of n in place of each. The lists are Results: .to_pandas(), .to_arrow().
        Raises:
            MissingHalfError, ActivationShapeError, NonFiniteActivationError, ZeroActivationError, EmptyBatchError,
            ForeignActivationError, InputError (a setting out of range, or best_of with n > 1).
            InjectionError: the vector does not reach the AV's model. NonFiniteOutputError: it gives NaN or infinity.
        Warns:
            SuspectActivationsWarning: bare vectors look like something else than what the pair reads; see
                `check_activations`.
        Example:
            >>> pair.explain(acts.vectors[-1]).status  # doctest: +SKIP
            'ok'
        """
        vectors, single = self._activations(activation, force)
        best_of = whole_number("best_of", best_of, 1)
        if best_of != 1 and n != 1:
            raise InputError(f"n={n} and best_of={best_of}: ask for several explanations or for the best one.")
        sampling = Sampling(max_new_tokens, temperature, n, seed)
        if best_of == 1:
            written = Results(self._need(self.verbalizer, "explain", "AV")(vectors, sampling, progress=progress))
        else:
            written, _, _ = self._best(vectors, sampling, best_of, progress)
        rows = written if n == 1 else Results(written[start : start + n] for start in range(0, len(written), n))
        return rows[0] if single else rows

    def reconstruct(self, text: str | Sequence[str]) -> torch.Tensor:
        """Turn explanations back into activations.

        Args:
            text: an explanation, or a list of them. The empty string is allowed: it scores what any text would.
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
        vectors = reconstructor([text] if single else list(text))
        return vectors[0] if single else vectors

    @overload
    def round_trip(self, activation: str | Chat, **writing: Unpack[Writing]) -> RoundTrip: ...
    @overload
    def round_trip(self, activation: Texts, **writing: Unpack[Writing]) -> Results[RoundTrip]: ...
    @overload
    def round_trip(
        self, activation: VectorsLike | Activations, **writing: Unpack[Writing]
    ) -> RoundTrip | Results[RoundTrip]: ...
    def round_trip(
        self,
        activation: str | Chat | Texts | VectorsLike | Activations,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        best_of: int = 1,
        seed: int = 0,
        progress: Progress | None = None,
        force: bool = False,
    ) -> RoundTrip | Results[RoundTrip]:
        """Vector → explanation → vector, scored.

        Args:
            activation: [d_model] or [rows, d_model]; or a text (its last token is read), a chat, or a list of texts; or
                what `extract` returned.
            max_new_tokens, temperature, seed, progress, force: as in `explain`.
            best_of: as in `explain`; the score is that of the explanation chosen by it.
        Returns:
            One RoundTrip, or a list (Results) for a matrix or a list of texts.
        Raises:
            as `extract`, `explain` and `reconstruct`.
        """
        self._need(self.reconstructor, "round_trip", "AR")
        self._need(self.verbalizer, "round_trip", "AV")
        if is_text(activation):
            single = isinstance(activation, str) or is_chat(activation)
            # float16 overflows in some models: what is read from a text is looked at like what a caller brings.
            vectors, _ = as_vectors(self.extract(activation).vectors, self.d_model)
        else:  # a TypeGuard says nothing of what it does not hold for
            vectors, single = self._activations(cast("VectorsLike | Activations", activation), force)
        sampling = Sampling(max_new_tokens, temperature, seed=seed)
        written, reconstructions, scores = self._best(vectors, sampling, best_of, progress)
        trips = Results(
            RoundTrip(**score.to_row(), explanation=explanation, activation=vector.cpu(), reconstruction=reconstruction)
            for explanation, score, vector, reconstruction in zip(
                written, scores, vectors, reconstructions, strict=True
            )
        )
        return trips[0] if single else trips

    def score(
        self, text: str | Sequence[str], activation: VectorsLike | Activations, *, force: bool = False
    ) -> Score | Results[Score]:
        """How well explanations reconstruct activations: any text, not only the AV's own.

        Beside each score stands what no words (`gain`, `empty_cosine`) and the mean direction score on that very row.

        Args:
            text: one explanation, or as many as there are activations.
            activation: [d_model] or [n, d_model], or what `extract` returned.
            force: take activations of another layer or model, with a warning.
        Returns:
            One Score for one text and one vector; else a list (one text is scored against every vector,
            and so on).
        Raises:
            InputError: the numbers of texts and vectors do not match.
            ForeignActivationError: `extract` read them at another layer or from another model.
        """
        vectors, single_vector = self._origin_checked(activation, force)
        single_text = isinstance(text, str)
        reconstructions = self.reconstruct([text] if single_text else text)
        if len(reconstructions) != len(vectors) and 1 not in (len(reconstructions), len(vectors)):
            raise InputError(
                f"{len(reconstructions)} explanations and {len(vectors)} activations; expected as many of each."
            )
        rows = max(len(reconstructions), len(vectors))
        scores = self._score(reconstructions.expand(rows, -1), vectors.expand(rows, -1))
        return scores[0] if single_text and single_vector else scores

    # --- within -------------------------------------------------------------------------------------------------
    def _activations(self, activation: VectorsLike | Activations, force: bool) -> tuple[torch.Tensor, bool]:
        """Vectors [n, d_model] to explain, and whether a single one was given: of this pair's kind, or with a word."""
        vectors, single = self._origin_checked(activation, force)
        if not isinstance(activation, Activations) and not force:
            self.check_activations(vectors, wait=False).warn(stacklevel=3)
        return vectors, single

    def _origin_checked(self, activation: VectorsLike | Activations, force: bool) -> tuple[torch.Tensor, bool]:
        if not isinstance(activation, Activations):
            check_vector_input(activation)
            return as_vectors(activation, self.d_model)
        said = {name: getattr(activation, name) for name in ("layer", "model", "revision", "precision")}
        check_origin([("all rows", said)], self.origin, "The Activations", force=force)
        return as_vectors(activation.vectors, self.d_model)

    def _best(
        self, vectors: torch.Tensor, sampling: Sampling, best_of: int, progress: Progress | None
    ) -> tuple[Results[Explanation], torch.Tensor, Results[Score]]:
        """For each vector the best of `best_of` explanations (1: the only one), its reconstruction and its score."""
        best_of = whole_number("best_of", best_of, 1)
        reconstructor = self._need(self.reconstructor, "best_of" if best_of > 1 else "round_trip", "AR")
        verbalizer = self._need(self.verbalizer, "explain", "AV")
        if best_of == 1:
            written = verbalizer(vectors, sampling, progress=progress)
            reconstructions = reconstructor(written)
        else:
            written, reconstructions = write_best(verbalizer, reconstructor, vectors, sampling, best_of, progress)
        scores = self._score(reconstructions, vectors)
        if best_of > 1:
            written = [explanation.scored(score, best_of) for explanation, score in zip(written, scores, strict=True)]
        return Results(written), reconstructions, scores

    def _score(self, reconstructions: torch.Tensor, vectors: torch.Tensor) -> Results[Score]:
        """The rows' scores, each beside what no words and the mean direction score."""
        return score_rows(
            reconstructions,
            vectors,
            empty=self._need(self.reconstructor, "score", "AR").empty(),
            mean=self.mean_direction,
            baseline_mse=self.baseline_mse,
            matched=self.matched,
        )

    def _need(self, half: HalfInMemory | None, method: str, role: str) -> HalfInMemory:
        if half is None:
            raise MissingHalfError(f"{method} needs an {role}, and this pair has none: {self.missing}")
        return half
