"""A subsample through the injection controls, and through explanations with parts missing; in chunks, as the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from nla_sdk import NLAPair, metrics
from nla_sdk.claims.cutting import sentences
from nla_sdk.evaluation.measures import EVALUATED
from nla_sdk.evaluation.parts import Settings
from nla_sdk.sampling import Sampling

from ...label import extractive
from ..measures import texts
from ..measures.tables import drawn, next_of_another
from .clock import Clock
from .rows import reconstructed

VARIANTS_PER_CHUNK = 16
FIRST_WORDS = (5, 10, 20, 40)
ROUND_TRIPS = 4
VARIANTS = pa.schema(
    [
        ("row_id", pa.string()),
        ("doc_id", pa.string()),
        ("variant", pa.string()),  # zero, none, random, other; claim, claims_shuffled, … (see `compute`)
        ("number", pa.int32()),  # which claim, how many words, how many round trips
        ("text", pa.string()),
        ("status", pa.string()),
        ("cosine", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Evaluated:
    """What a variant needs to know of a row that was evaluated."""

    row_id: str
    document: str
    vector: np.ndarray
    text: str
    reconstruction: np.ndarray
    cosine: float


class Variants:
    """Injection controls and altered explanations of some evaluated rows: a stage.

    A chunk has the outputs "variants" and "timing".

    Args:
        rows: the finished rows table.
        paraphrase: says an explanation in other words, or gives None; None: not asked for.
    """

    def __init__(
        self,
        rows: pa.Table,
        settings: Settings,
        paraphrase: Callable[[str], str | None] | None = None,
        code: str = "",
    ) -> None:
        self.settings, self.paraphrase, self.code = settings, paraphrase, code
        evaluated = list(_evaluated(rows))
        most = max(settings.controls_n, settings.signal_n)
        following = next_of_another([row.document for row in evaluated])
        others = [None if at is None else evaluated[at] for at in following]
        picked = drawn(list(zip(evaluated, others, strict=True)), settings.seed)[:most]
        self.picked = [row for row, _ in picked]
        self.other = [other for _, other in picked]  # of another document
        firsts = range(0, len(self.picked), VARIANTS_PER_CHUNK)
        self.parts = [range(first, min(first + VARIANTS_PER_CHUNK, len(self.picked))) for first in firsts]
        self.sizes = [len(part) for part in self.parts]
        self.pair: NLAPair | None = None
        self._constant: dict[str, tuple[str, str, np.ndarray]] | None = None

    def __call__(self, number: int) -> dict[str, pa.Table]:
        clock, part = Clock(self.code), self.parts[number]
        found = [*self._controls(part, clock), *self._signal(part, clock)]
        return {"variants": pa.Table.from_pylist(found, schema=VARIANTS), "timing": clock.table()}

    def paraphrase_here(self, numbers: Sequence[int]) -> None:
        """Have the explanations of these chunks paraphrased now: keys and quotas do not go to other machines."""
        if self.paraphrase is not None:
            rows = [self.picked[at] for number in numbers for at in self.parts[number] if at < self.settings.signal_n]
            self.paraphrase = {row.text: self.paraphrase(row.text) for row in rows}.get

    # --- injection controls ---------------------------------------------------------------------------------------
    def _controls(self, part: range, clock: Clock) -> Iterator[dict]:
        numbers = [at for at in part if at < self.settings.controls_n]
        if not numbers:
            return
        rows = [self.picked[at] for at in numbers]
        written = clock.timed("controls", self._random, rows)
        vectors = clock.timed("controls", self._vectors, written)
        constant = clock.timed("controls", self._same_for_all)
        for at, row, one, vector in zip(numbers, rows, written, vectors, strict=True):
            yield self._record(row, "random", 0, str(one), one.status, vector)
            for name, (text, status, found) in constant.items():
                yield self._record(row, name, 0, text, status, found)
            if (other := self.other[at]) is not None:
                yield self._record(row, "other", 0, other.text, "ok", other.reconstruction)

    def _random(self, rows: Sequence[Evaluated]):
        """Explanations of random directions, of the norm that the row's own vector is injected at."""
        verbalizer = self.pair.verbalizer
        inputs = verbalizer.prepare(torch.from_numpy(np.stack([row.vector for row in rows])))
        directions = np.stack(
            [texts.generator(row.row_id, self.settings.seed, "random").normal(size=inputs.shape[1]) for row in rows]
        )
        directions = torch.from_numpy(directions).to(inputs)
        scaled = directions * (inputs.norm(dim=-1) / directions.norm(dim=-1))[:, None]
        return verbalizer.write(scaled, Sampling(self.settings.max_new_tokens))

    def _same_for_all(self) -> dict[str, tuple[str, str, np.ndarray]]:
        """What the AV writes for a zero vector, and with nothing injected."""
        if self._constant is None:
            write, sampling = self.pair.verbalizer.write, Sampling(self.settings.max_new_tokens)
            zero = write(torch.zeros(1, self.pair.d_model), sampling)[0]
            none = write(None, sampling)[0]
            self._constant = {
                name: (str(one), one.status, self._vectors([one])[0]) for name, one in (("zero", zero), ("none", none))
            }
        return self._constant

    # --- where the signal sits --------------------------------------------------------------------------------------
    def _signal(self, part: range, clock: Clock) -> Iterator[dict]:
        rows = [self.picked[at] for at in part if at < self.settings.signal_n]
        if not rows:
            return
        altered = [(row, *one) for row in rows for one in self._altered(row)]
        vectors = clock.timed("signal", self._vectors, [text for *_, text in altered])
        for (row, variant, number, text), vector in zip(altered, vectors, strict=True):
            yield self._record(row, variant, number, text, "ok", vector)
        yield from clock.timed("signal", self._again, rows)

    def _altered(self, row: Evaluated) -> Iterator[tuple[str, int, str]]:
        """variant, number and text; only those that differ from the whole and are not empty."""
        text, seed = row.text, self.settings.seed
        parts = sentences(text)
        if len(parts) > 1:
            yield from (("claim", at, texts.without(parts, at)) for at in range(len(parts)))
            yield "claims_shuffled", 0, texts.reordered(parts, row.row_id, seed, "claims")
        if len(text.split()) > 1:
            yield "words_shuffled", 0, texts.reordered(text.split(), row.row_id, seed, "words")
        quoted, prose = extractive.quotes(text), extractive.prose(text)
        if quoted and prose:
            yield "quotes_only", 0, quoted
            yield "prose_only", 0, prose
        for count in FIRST_WORDS:
            yield "first_words", count, texts.first_words(text, count)
        if self.paraphrase is not None and (said := self.paraphrase(text)):
            yield "paraphrased", 0, said

    def _again(self, rows: Sequence[Evaluated]) -> list[dict]:
        """Reconstructions explained and reconstructed again, scored against the first activation."""
        found = []
        vectors = {at: row.reconstruction for at, row in enumerate(rows)}
        for number in range(2, ROUND_TRIPS + 1):
            at_norm = np.stack([self._at_norm(vector, rows[at].vector) for at, vector in vectors.items()])
            written = self.pair.verbalizer(torch.from_numpy(at_norm), Sampling(self.settings.max_new_tokens))
            again = self._vectors(written)
            for at, one, vector in zip(list(vectors), written, again, strict=True):
                found.append(self._record(rows[at], "round_trip", number, str(one), one.status, vector))
            vectors = {at: vector for at, vector in zip(vectors, again, strict=True) if np.isfinite(vector).all()}
            if not vectors:
                break
        return found

    def _at_norm(self, reconstruction: np.ndarray, activation: np.ndarray) -> np.ndarray:
        """Of an AR without centring only the direction counts; the AV may need the norm (it subtracts a mean)."""
        if self.pair.reconstructor.mean is not None:
            return reconstruction
        return reconstruction * (np.linalg.norm(activation) / np.linalg.norm(reconstruction))

    def _vectors(self, said: Sequence[str]) -> np.ndarray:
        return reconstructed(self.pair, said) if said else np.zeros((0, self.pair.d_model), np.float32)

    @staticmethod
    def _record(row: Evaluated, variant: str, number: int, text: str, status: str, vector: np.ndarray) -> dict:
        cosine = float(metrics.cosine(vector, row.vector))
        return {
            "row_id": row.row_id,
            "doc_id": row.document,
            "variant": variant,
            "number": number,
            "text": text,
            "status": status,
            "cosine": cosine if np.isfinite(cosine) else None,
        }


def _evaluated(rows: pa.Table) -> Iterator[Evaluated]:
    names = ["row_id", "doc_id", "explanation", "status", "activation_vector", "reconstruction", "cosine_real"]
    for row in rows.select(names).to_pylist():
        if row["status"] in EVALUATED:
            yield Evaluated(
                row["row_id"],
                row["doc_id"],
                np.array(row["activation_vector"], np.float32),
                row["explanation"],
                np.array(row["reconstruction"], np.float32),
                row["cosine_real"],
            )
