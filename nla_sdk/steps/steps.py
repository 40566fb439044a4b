"""What the methods of a pair do in steps: rows made of what they are given, words written, read back, scored."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch

from ..calls.asking import needed, slice_of
from ..calls.comparing import Signs, as_signs, turned
from ..calls.directions import MeanOf, Shown, as_shown, beside, centred, means, shown
from ..calls.held import layers_of, model_types, refuse_foreign
from ..calls.inputs import Mean, check_text_input
from ..calls.rows import Layers, Rows, by_layer, explained, fields_of, is_read, layer_of_each, scored
from ..calls.scoring import score_rows, write_best
from ..contract.prompts.fields import readable_block
from ..errors import (
    InputError,
    NonFiniteOutputError,
    PrecisionWarning,
    UnseenValueError,
)
from ..model.extraction import Extractor, is_chat, tokenize
from ..model.reconstructor import Reconstructor
from ..model.running.watching import UNWATCHED, Watch
from ..model.statistics.check import ActivationReport, check
from ..model.statistics.means import ActivationMean
from ..model.statistics.plain import look
from ..model.verbalizer import Verbalizer
from ..on_disk import OnDisk
from ..results import Activations, Explanation, Results, Score
from ..sampling import Sampling, whole_number
from ..vectors.kinds import Kind, Vectors, as_kind

HalfInMemory = TypeVar("HalfInMemory", Verbalizer, Reconstructor)
Fields = list[dict[str, str]] | None


class Steps(OnDisk):
    """See `NLAPair`."""

    # --- what is given ----------------------------------------------------------------------------------------------
    def _rows(
        self,
        activation: Any,
        layer: Layers | None,
        force: bool,
        kind: Kind | None = None,
        direction: Shown | None = None,
        mean: Mean = None,
        signs: Signs = "+",
    ) -> Rows:
        """What is to be explained, a prompt a row: of this pair's kind, or with a word."""
        contract = self._need(self.verbalizer, "explain", "AV").contract
        self._refuse_one_layer(layer)
        given, kind = self._given(activation, kind, force)
        rows = explained(given, contract, self.origin, width=self.d_model, force=force)
        return self._as_kind(activation, rows, kind, layer, direction, mean, force, signs)

    def _given(self, activation: Any, kind: Kind | None, force: bool) -> tuple[Any, Kind]:
        """What is read of `Vectors`, held against the pair, and of which kind everything is."""
        if isinstance(activation, Vectors):
            refuse_foreign(activation, self.origin, self.model_types, force=force)
            return activation.vectors, activation.kind if kind is None else as_kind(kind)
        kind = "activation" if kind is None else as_kind(kind)
        if kind != "activation" and is_read(activation):
            raise InputError(f"kind={kind!r}, but what `extract` returned are activations; leave kind= out.")
        return activation, kind

    @property
    def model_types(self) -> tuple[str, ...]:
        """The model types that the base's config has: of the whole, and of its text part."""
        return model_types((self.base.in_memory or self._halves[0].backbone).model.config)

    def _as_kind(
        self,
        activation: Any,
        rows: Rows,
        kind: Kind,
        layer: Layers | None,
        direction: Shown | None,
        mean: Mean,
        force: bool,
        signs: Signs = "+",
    ) -> Rows:
        """The rows as what they are: their layers, looked at or to be shown as directions."""
        verbalizer = self._need(self.verbalizer, "explain", "AV")
        if isinstance(activation, Vectors):
            rows = replace(rows, layers=layers_of(activation, rows, verbalizer.contract))
        rows = replace(rows.of_layers(layer, force=force), kind=kind)
        how, signs = as_shown(direction, kind, mean), as_signs(signs, kind)
        if kind == "activation":
            self._look_at(activation, rows, force)
            return rows
        mean_of = self._mean_of(mean, force)
        return shown(turned(rows, signs), how, verbalizer.transform, verbalizer.injection, mean_of)

    @property
    def _halves(self) -> list[Verbalizer | Reconstructor]:
        """Those that there are, the AR first."""
        return [half for half in (self.reconstructor, self.verbalizer) if half is not None]

    def _own_mean(self, layer: int | None) -> ActivationMean | None:
        """The mean that lies beside the halves; None: there is none of this layer."""
        try:
            return beside(self._halves, self.origin.layer if layer is None else layer)
        except UnseenValueError:
            return None

    def _mean_of(self, given: Mean, force: bool = False) -> MeanOf:
        """See `directions.means`."""
        return means(given, self._halves, self.origin, self.d_model, self.activation_statistics, force=force)

    def _look_at(self, activation: Any, rows: Rows, force: bool) -> None:
        """Warn of bare vectors that look like something else than what the pair reads, layer by layer."""
        first = activation[0] if isinstance(activation, (list, tuple)) else activation
        if force or isinstance(first, Activations):
            return
        for layer, at in by_layer(rows.layers):
            vectors = torch.cat([rows.vectors[row].reshape(-1, self.d_model) for row in at])
            self._report(vectors, wait=False, layer=layer).warn(stacklevel=4)

    def _report(self, vectors: torch.Tensor, *, wait: bool, layer: int | None) -> ActivationReport:
        """See `NLAPair.check_activations`."""
        why, statistics = f"what the pair's activations look like is known of layer {self.layer}", None
        if layer in (None, self.layer):
            statistics, why = self.activation_statistics(wait=wait)
        odd = look(vectors, self._own_mean(layer) if statistics is None else None)
        if statistics is None or (odd is not None and not odd.rows):
            return odd or ActivationReport("unknown", why)
        report = check(statistics, vectors, scaled=self.norm_matters)
        if odd is not None:
            return replace(odd, rows=tuple(sorted({**dict(report.rows), **dict(odd.rows)}.items())))
        if self.read_from is not None and not report.ok:
            compared = (
                f"{report.cause} (compared with the base {self.base.ref}, not its fine-tune {self.read_from.ref})"
            )
            return replace(report, cause=compared)
        return report

    def _read(self, text: Any, layer: Layers | None) -> Activations | list[Activations]:
        """The last token's activation of each text, at each layer that a prompt takes a vector of."""
        how = self._need(self.verbalizer, "explain", "AV").contract.injection
        self._refuse_one_layer(layer)
        if how is not None and how.layers is not None:
            return [self._extract(text, -1, one) for one in how.layers]
        self.require_layers(layer)
        if layer is None or not hasattr(layer, "__iter__"):
            return self._extract(text, -1, cast("int | None", layer))
        texts = [text] if isinstance(text, str) or is_chat(text) else list(text)
        layers = layer_of_each(layer, len(texts), "texts")
        return [self._extract(one, -1, at) for one, at in zip(texts, layers, strict=True)]

    def _read_rows(self, text: Any, layer: Layers | None, force: bool, kind: Kind | None) -> Rows:
        """What is to be explained of texts, a prompt each: the activation of its last token.

        Raises:
            InputError: it is said to be of another kind.
        """
        if kind not in (None, "activation"):
            raise InputError(f"kind={kind!r}, and what is read of a text is an activation; leave kind= out.")
        rows = self._rows(self._read(text, layer), None, force)
        return replace(rows, single=isinstance(text, str) or is_chat(text))

    def _refuse_one_layer(self, layer: Layers | None) -> None:
        """Refuse a layer said of all vectors of a prompt whose markers have one each."""
        how = self._need(self.verbalizer, "explain", "AV").contract.injection
        if layer is not None and how is not None and how.layers is not None:
            raise InputError(f"layer={layer}: its prompt takes a vector of each of the layers {list(how.layers)}.")

    def _read_sets(self, text: Any, positions: Any, layer: Layers | None) -> Activations | list[Activations]:
        """Of each text what stands at its positions, a set each; `(a, b)` is a slice."""
        single = isinstance(text, str) or is_chat(text)
        texts = [text] if single else list(text)
        self.require_layers(layer)
        read = []
        for one, at in zip(texts, layer_of_each(layer, len(texts), "texts"), strict=True):
            where = positions
            if isinstance(positions, tuple) and (isinstance(one, str) or is_chat(one)):
                where = slice_of(positions, len(tokenize(self.source.tokenizer, one)))
            read.append(self._extract(one, where, at))
        return read[0] if single else read

    def require_layers(self, layer: Layers | None) -> None:
        """Refuse layers that were never trained, before a text is read at them.

        Raises:
            UnseenValueError, LayerError: lists those that were.
        """
        verbalizer = self._need(self.verbalizer, "explain", "AV")
        contract, blocks = verbalizer.contract, verbalizer.backbone.num_blocks
        each = cast("Sequence[int]", layer) if hasattr(layer, "__iter__") else [] if layer is None else [layer]
        for one in dict.fromkeys(each):
            readable_block(contract, cast(int, one), blocks)

    def _extract(self, text: Any, positions: Any, layer: int | None) -> Activations:
        """See `NLAPair.extract`."""
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
                stacklevel=3,
            )
        extractor = Extractor(source, self.source_adapter, fast=self.fast is not False)
        read = extractor(text, positions, layer=self.layer if layer is None else layer)
        origin = self.origin
        return replace(read, model=origin.model, revision=origin.revision, precision=running)

    def _fields(self, rows: Rows, questions: Sequence[str] | None = None, model_tag: str | None = None) -> Fields:
        """What stands in the fields of each row's prompt."""
        verbalizer = self._need(self.verbalizer, "explain", "AV")
        blocks = verbalizer.backbone.num_blocks
        return fields_of(verbalizer.contract, rows.layers, blocks, questions=questions, model_tag=model_tag)

    # --- what is made of it -----------------------------------------------------------------------------------------
    def _written(self, rows: Rows, fields: Fields, sampling: Sampling, watch: Watch = UNWATCHED) -> list[Explanation]:
        """`sampling.n` explanations of each row together; transforms before the injection may depend on its layer."""
        verbalizer = self._need(self.verbalizer, "explain", "AV")
        made: dict[int, list[Explanation]] = {}
        n = sampling.n
        for layer, at in by_layer(rows.layers):
            given = rows.vectors if rows.shown is None else rows.shown
            part = given[at] if isinstance(given, torch.Tensor) else [given[row] for row in at]
            said = None if fields is None else [fields[row] for row in at]
            seen = watch.numbered(lambda row, at=at, n=n: at[row // n] * n + row % n)
            how = {"fields": said, "layer": layer, "directions": rows.directions, "watch": seen}
            try:
                texts = verbalizer(part, sampling, **how)
            except NonFiniteOutputError as error:
                raise error.numbered(lambda row, at=at: at[row]) from None
            made.update((row, texts[place * n : (place + 1) * n]) for place, row in enumerate(at))
        return [text for row in range(len(rows)) for text in made[row]]

    def _best(
        self, rows: Rows, fields: Fields, sampling: Sampling, best_of: int, watch: Watch, mean: Mean = None
    ) -> tuple[Results[Explanation], torch.Tensor, Results[Score]]:
        """For each row the best of `best_of` explanations (1: the only one), its reconstruction and its score."""
        best_of = whole_number("best_of", best_of, 1)
        self._need(self.reconstructor, "best_of" if best_of > 1 else "round_trip", "AR")
        verbalizer = self._need(self.verbalizer, "explain", "AV")
        vectors = scored(rows, verbalizer.contract, self.layer)
        mean_of = None if rows.kind == "activation" else self._mean_of(mean)
        compared = self._compared(vectors, rows.layers) if mean_of is None else vectors

        def write(how: Sampling) -> list[Explanation]:
            return self._written(rows, fields, how, watch if best_of == 1 else replace(watch, on_text=None))

        def read(texts: Sequence[str], layers: Sequence[int | None]) -> torch.Tensor:
            made = self._reconstructed(texts, layers, watch)
            return made if mean_of is None else self._centred(made, layers, mean_of)

        if best_of == 1:
            written = write(sampling)
            reconstructions = read(written, rows.layers)
        else:
            written, reconstructions = write_best(write, read, compared, rows.layers, sampling, best_of)
            if watch.on_text is not None:
                for at, text in enumerate(written):
                    watch.on_text(at, str(text))
        scores = self._score(reconstructions, vectors, rows.layers, mean_of)
        if best_of > 1:
            written = [explanation.scored(score, best_of) for explanation, score in zip(written, scores, strict=True)]
        return Results(written), reconstructions, scores

    def _reconstructed(
        self, texts: Sequence[str], layers: Sequence[int | None], watch: Watch = UNWATCHED
    ) -> torch.Tensor:
        """The AR's vectors [n, d_model], each of the layer that its row was read from."""
        reconstructor = self._need(self.reconstructor, "reconstruct", "AR")
        if all(layer is None for layer in layers):
            return reconstructor(texts, watch=watch)
        made: dict[int, torch.Tensor] = {}
        for layer, at in by_layer(layers):
            made.update(zip(at, reconstructor([texts[row] for row in at], layer=layer, watch=watch), strict=True))
        return torch.stack([made[row] for row in range(len(texts))])

    def _compared(self, vectors: torch.Tensor, layers: Sequence[int | None]) -> torch.Tensor:
        """What the AR's vectors are compared with, see `Reconstructor.compared`."""
        known = None if self.verbalizer is None else self.verbalizer.transform
        return self._need(self.reconstructor, "score", "AR").compared(vectors, layers, known=known)

    def _centred(self, outputs: torch.Tensor, layers: Sequence[int | None], mean_of: MeanOf) -> torch.Tensor:
        """See `directions.centred`."""
        return centred(outputs, layers, self._need(self.reconstructor, "score", "AR"), mean_of)

    def _score(
        self,
        reconstructions: torch.Tensor,
        vectors: torch.Tensor,
        layers: Sequence[int | None],
        mean_of: MeanOf | None = None,
    ) -> Results[Score]:
        """The rows' scores, each beside what no words and the mean direction score.

        Args:
            mean_of: of directions, whose `reconstructions` are centred: there is no mean to compare with, and no FVE.
        """
        reconstructor = self._need(self.reconstructor, "score", "AR")
        own = all(layer in (None, self.layer) for layer in layers)
        empty = (
            reconstructor.empty()
            if all(layer is None for layer in layers)
            else self._reconstructed([""] * len(layers), layers)
        )
        if mean_of is not None:
            empty = self._centred(empty.expand(len(layers), -1), layers, mean_of)
            return score_rows(reconstructions, vectors, empty=empty, mean=None, baseline_mse=None, matched=self.matched)
        return score_rows(
            reconstructions,
            self._compared(vectors, layers),
            empty=empty,
            # Both are of the contract's layer; and of what is left over the mean, the mean says nothing.
            mean=self.mean_direction if own and not reconstructor.gives_rest else None,
            baseline_mse=self.baseline_mse if own else None,
            matched=self.matched,
        )

    def _need(self, half: HalfInMemory | None, method: str, role: str) -> HalfInMemory:
        return needed(half, method, role, self.missing)
