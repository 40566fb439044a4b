"""`NLAPair.compare`: two vectors in words, and what lies between them."""

from __future__ import annotations

from threading import Event
from typing import Any, Literal

from ..calls.asking import require_default
from ..calls.comparing import Comparison, compared, difference, turned
from ..calls.directions import Shown, as_shown, shown
from ..calls.inputs import Mean, OnText, Progress, is_text
from ..calls.rows import Layers, Rows
from ..errors import InputError
from ..model.running.watching import Watch
from ..results import Results
from ..sampling import Sampling
from ..vectors.kinds import Kind, Vectors
from .steps import Steps


class Comparing(Steps):
    """See `NLAPair`."""

    def compare(
        self,
        a: Any,
        b: Any,
        *,
        signs: Literal["+", "±"] = "+",
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
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
    ) -> Comparison | Results[Comparison]:
        """Two vectors in words, and their difference a − b: its length, and its words as those of a difference.

        Args:
            a, b: [d_model] or [rows, d_model], Activations or Vectors, as `explain` takes them; or a text each (its
                last token is read), a chat, or a list of texts. As many of each, or one of either.
            signs: "+": a − b; "±": b − a too.
            kind: of a and b; directions are brought to length 1 before they are subtracted.
            direction, mean: how the difference is shown, and directions: see `explain`.
            max_new_tokens, temperature, seed, progress, cancel, force, layer, model_tag: as in `explain`.
            on_text: as in `explain`; numbers are of the explanations of a, then of b, then of the differences.
        Returns:
            A Comparison, with .a .b .difference .reverse .norm .cosine .vector; a list (Results) for matrices.
        Raises:
            InputError: a and b are of two kinds or layers, or of numbers that do not match.
            ZeroActivationError: they are equal. Others as `explain` and `extract`.
        Example:
            >>> pair.compare("The soup was hot", "The soup was cold", signs="±").difference  # doctest: +SKIP
        """
        verbalizer = self._need(self.verbalizer, "compare", "AV")
        require_default(verbalizer.contract, verbalizer.ref)
        sampling = Sampling(max_new_tokens, temperature, seed=seed)

        def rows_of(given: Any) -> Rows:
            if is_text(given):
                return self._read_rows(given, layer, force, kind)
            of = given.kind if isinstance(given, Vectors) and kind is None else kind
            turning = {} if of in (None, "activation") else {"direction": direction, "mean": mean}
            return self._rows(given, layer, force, kind, **turning)

        if signs not in ("+", "±"):
            raise InputError(f"signs={signs!r}: expected '+' (a − b) or '±' (b − a too).")
        how = as_shown(direction, "difference")
        first, second = rows_of(a), rows_of(b)
        between = difference(first, second)
        mean_of = self._mean_of(mean, force)
        seen = shown(turned(between, signs), how, verbalizer.transform, verbalizer.injection, mean_of)
        watch, words = Watch(progress, on_text, cancel), []
        for rows in (first, second, seen):
            so_far = sum(map(len, words))
            numbered = watch.numbered(lambda row, so_far=so_far: so_far + row)
            words.append(self._written(rows, self._fields(rows, model_tag=model_tag), sampling, numbered))
        return compared(first, second, between, words, signs)
