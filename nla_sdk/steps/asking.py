"""`NLAPair.ask`: questions to an activation oracle."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event

from ..calls.asking import answers, asked, require_oracle, spread
from ..calls.directions import Shown
from ..calls.inputs import Chat, Mean, OnText, Progress, Texts, is_text
from ..calls.rows import Layers
from ..model.injection import VectorsLike
from ..model.running.watching import Watch
from ..results import Activations, Answer, Results
from ..sampling import Sampling
from ..vectors.kinds import Kind, Vectors
from .steps import Steps


class Asking(Steps):
    """See `NLAPair`."""

    def ask(
        self,
        vectors: VectorsLike | Activations | Sequence[Activations] | Vectors | str | Chat | Texts,
        question: str | Sequence[str],
        *,
        layer: Layers | None = None,
        positions: int | str | Sequence[int] | tuple[int, int] = -1,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        n: int = 1,
        seed: int = 0,
        progress: Progress | None = None,
        on_text: OnText | None = None,
        cancel: Event | None = None,
        force: bool = False,
        kind: Kind | None = None,
        direction: Shown | None = None,
        mean: Mean = None,
    ) -> Answer | Results[Answer] | Results[Results[Answer]]:
        """Ask an activation oracle a question about activations.

        All vectors of a matrix stand in one prompt, in their order, a marker each: one set of vectors, one answer.

        Args:
            vectors: a set: [d_model], [n, d_model], Activations or Vectors; or several: [sets, n, d_model], or a list
                of [n, d_model] or Activations (n may differ). Raw. Or a text, a chat or a list of them, which is read
                at `positions` and `layer`: a set each.
            question: one for all sets, or a list: one a set, or all of one set.
            layer: the block that the vectors are of (of a text: that is read), one for all or one a set, among the
                contract's `layers`; the prompt says it. Default: that of the Activations, or the contract's.
            positions: of a text: (a, b), a tuple of two: the tokens a … b − 1, as a slice; an index, a list of indices,
                "all". Default: the last token.
            max_new_tokens, temperature, n, seed, progress, on_text, cancel, force, kind, direction, mean: as in
                `explain`; answers are numbered by sets, then samples.
        Returns:
            An Answer (a str with .question, .layer, .status, .raw) for one set and one question, else a list of them
            (Results); with n > 1 a list of n in place of each.
        Raises:
            NotAnOracleError: the prompt of this pair has no place for a question.
            UnseenValueError: a layer (or a question) that it was not trained with; lists those that it was.
            MissingHalfError, ActivationShapeError, NonFiniteActivationError, ZeroActivationError, EmptyBatchError,
            PositionError, ForeignActivationError, InputError, CancelledCallError, as `explain` and `extract`.
        Warns:
            SuspectActivationsWarning: as `explain`, of bare vectors.
        Example:
            >>> oracle = NLAPair.from_pretrained("adamkarvonen/…Qwen3-8B")  # doctest: +SKIP
            >>> oracle.ask("She walked to the bank of the river", "What is near?", layer=18, positions=(4, 8))
            ... # doctest: +SKIP
            'Water.'
        """
        verbalizer = self._need(self.verbalizer, "ask", "AV")
        require_oracle(verbalizer.contract, verbalizer.ref)
        sampling = Sampling(max_new_tokens, temperature, n, seed)
        if is_text(vectors):
            vectors, layer = self._read_sets(vectors, positions, layer), None
        given, kind = self._given(vectors, kind, force)
        rows = asked(given, verbalizer.contract, self.origin, width=self.d_model, force=force)
        rows = self._as_kind(vectors, rows, kind, layer, direction, mean, force)
        rows, questions = spread(rows, question)
        fields = self._fields(rows, questions)
        written = self._written(rows, fields, sampling, Watch(progress, on_text, cancel))
        layers = [self.layer if one is None else one for one in rows.layers]
        each = answers(written, questions, layers, n)
        return each[0] if rows.single else each
