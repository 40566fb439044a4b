"""The model's part of an evaluation: every text is written and every reconstruction made here, once, in chunks.

`Rows` explains each activation and reconstructs it from the explanation and from what is put in its place. `Variants`
takes a subsample through the injection controls and through explanations with parts missing. Both write chunks: a run
that was killed goes on at the chunk it was in. Nothing is judged here; `compute` does that, from the tables alone.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch

from nla_sdk import NLAPair, metrics
from nla_sdk.claims.cutting import sentences
from nla_sdk.evaluation.measures import EVALUATED
from nla_sdk.evaluation.parts import Settings
from nla_sdk.io.chunks import Chunks
from nla_sdk.io.progress import progress_bar
from nla_sdk.io.tables import vector_column
from nla_sdk.sampling import Sampling

from ..label import extractive
from .heldout import Heldout
from .measures import texts
from .measures.tables import EMPTY, drawn, next_of_another, numbers_or_null

ROWS_PER_CHUNK = 128  # twice what is written at a time: where a row ends another one takes its place
VARIANTS_PER_CHUNK = 16
FIRST_WORDS = (5, 10, 20, 40)
ROUND_TRIPS = 4
Result = TypeVar("Result")
TIMING = pa.schema([("part", pa.string()), ("seconds", pa.float64()), ("tokens", pa.int64()), ("code", pa.string())])


@dataclass
class Clock:
    """Seconds and written tokens by part, and the code that ran, stored with each chunk for runs that go on from it."""

    code: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    def timed(self, part: str, work: Callable[..., Result], *arguments: Any) -> Result:
        """What `work(*arguments)` returns; its seconds count for `part`."""
        start = time.perf_counter()
        result = work(*arguments)
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start
        return result

    def table(self) -> pa.Table:
        """A row a part, for the chunk."""
        rows = [
            {"part": part, "seconds": seconds, "tokens": self.tokens.get(part, 0), "code": self.code}
            for part, seconds in self.seconds.items()
        ]
        return pa.Table.from_pylist(rows, schema=TIMING)


class Rows:
    """Every held-out activation through the pair, and the AR on what is put in the explanation's place.

    Args:
        without_end: the row's source text without its last tokens, for the rows table; None: source texts stay out.
        code: version of the code that runs.
    """

    def __init__(
        self,
        pair: NLAPair,
        heldout: Heldout,
        settings: Settings,
        without_end: Sequence[str] | None = None,
        code: str = "",
    ) -> None:
        self.pair, self.heldout, self.settings, self.without_end = pair, heldout, settings, without_end
        self.code = code
        self._unrelated: dict[str, np.ndarray] | None = None
        self._empty: np.ndarray | None = None

    def measure(self, chunks: Chunks, progress: bool = True) -> None:
        """Make the chunks that are missing: outputs "rows" and "timing"."""
        with progress_bar(len(self.heldout), "row", "round trips", shown=progress) as bar:
            for index, first in enumerate(range(0, len(self.heldout), ROWS_PER_CHUNK)):
                part = range(first, min(first + ROWS_PER_CHUNK, len(self.heldout)))
                if not chunks.has(index):
                    clock = Clock(self.code)
                    table = self._chunk(part, clock)
                    chunks.write(index, {"rows": table, "timing": clock.table()})
                bar.update(len(part))

    def _chunk(self, part: range, clock: Clock) -> pa.Table:
        heldout, seed = self.heldout, self.settings.seed
        vectors, usable = heldout.vectors[part.start : part.stop], heldout.usable[part.start : part.stop]
        ids = heldout.row_ids[part.start : part.stop]
        written = {}
        if usable.any():
            outputs = clock.timed("explain", self._explain, vectors[usable])
            written = dict(zip(np.flatnonzero(usable).tolist(), outputs, strict=True))
            clock.tokens["explain"] = sum(one.tokens for one in outputs)
        said = [str(written[at]) if at in written else "" for at in range(len(part))]
        status = [written[at].status if at in written else "failed" for at in range(len(part))]
        there = np.array([one in EVALUATED for one in status])
        own, there = clock.timed("reconstruct", self._reconstruct, said, there)
        status = [
            "failed" if one in EVALUATED and not ok else one for one, ok in zip(status, there.tolist(), strict=True)
        ]
        columns: dict[str, pa.Array] = {
            "row_id": pa.array(ids),
            "doc_id": pa.array(heldout.documents[part.start : part.stop]),
            "status": pa.array(status),
            "explanation": pa.array(said),
            "explanation_raw": pa.array([written[at].raw if at in written else "" for at in range(len(part))]),
            "tokens_written": pa.array(
                [written[at].tokens if at in written else 0 for at in range(len(part))], pa.int32()
            ),
            "ar_cut": pa.array(self._cut(said)),
            "activation_vector": vector_column(vectors),
            "reconstruction": vector_column(own, there),
            "cosine_real": self._cosines(own, vectors, there),
        }
        clock.timed("ablation", self._prepare)
        columns["cosine_empty"] = self._cosines(np.broadcast_to(self._empty, vectors.shape), vectors, usable)
        replaced = np.stack([self._unrelated[texts.unrelated(name, seed)] for name in ids])
        columns["cosine_unrelated"] = self._cosines(replaced, vectors, there)
        nonsense = [texts.nonsense(text, name, seed) for text, name in zip(said, ids, strict=True)]
        replaced, ok = clock.timed("ablation", self._reconstruct, nonsense, there)
        columns["cosine_nonsense"] = self._cosines(replaced, vectors, ok)
        if heldout.labels is not None:
            labels = heldout.labels[part.start : part.stop]
            labelled = usable & np.array([bool(text) for text in labels])
            replaced, ok = clock.timed("labels", self._reconstruct, labels, labelled)
            columns["label"] = pa.array(labels)
            columns["label_reconstruction"] = vector_column(replaced, ok)
            columns["cosine_label"] = self._cosines(replaced, vectors, ok)
        if heldout.families is not None:
            columns["source_family"] = pa.array(heldout.families[part.start : part.stop])
        if heldout.tokens is not None:
            columns["n_raw_tokens"] = pa.array(heldout.tokens[part.start : part.stop], pa.int32())
        if self.without_end is not None:
            columns["detokenized_text_truncated"] = pa.array(heldout.texts[part.start : part.stop])
            columns["text_without_end"] = pa.array(list(self.without_end[part.start : part.stop]))
        return pa.table(columns).replace_schema_metadata({EMPTY: b64encode(self._empty.astype("<f4").tobytes())})

    def _cut(self, said: Sequence[str]) -> list[bool]:
        """Whether the AR reads a beginning of the explanation only: the rest does not fit its max_length."""
        ar = self.pair.reconstructor
        if ar.contract.max_length is None:
            return [False] * len(said)
        return [cut for _, cut in ar.contract.ar_prompt_ids_batch(ar.backbone.tokenizer, list(said))]

    def _explain(self, vectors: np.ndarray):
        return self.pair.verbalizer(torch.from_numpy(vectors.copy()), Sampling(self.settings.max_new_tokens))

    def _prepare(self) -> None:
        """What is the same for every row: all of it at once, so that no reconstruction depends on where a run began."""
        if self._empty is None:
            sentences = texts.unrelated_sentences()
            found = reconstructed(self.pair, sentences)
            self._unrelated = dict(zip(sentences, found, strict=True))
            self._empty = reconstructed(self.pair, [""])[0]

    def _reconstruct(self, said: Sequence[str], there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[n, d], and which rows of it are vectors with a direction."""
        found = np.full((len(said), self.heldout.vectors.shape[1]), np.nan, dtype=np.float32)
        if there.any():
            found[there] = reconstructed(self.pair, [text for text, ok in zip(said, there, strict=True) if ok])
        return found, there & np.isfinite(found).all(axis=1) & (found != 0).any(axis=1)

    @staticmethod
    def _cosines(found: np.ndarray, vectors: np.ndarray, there: np.ndarray) -> pa.Array:
        values = np.zeros(len(found))
        if there.any():
            values[there] = metrics.cosine(found[there], vectors[there])
        return numbers_or_null(np.where(there & np.isfinite(values), values, np.nan))


def reconstructed(pair: NLAPair, said: Sequence[str]) -> np.ndarray:
    """The AR's vectors for texts, float32 [n, d]."""
    return pair.reconstruct(list(said)).numpy()


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
    """Injection controls and altered explanations of some evaluated rows.

    Args:
        rows: the finished rows table.
        paraphrase: says an explanation in other words, or gives None; None: not asked for.
    """

    def __init__(
        self,
        pair: NLAPair,
        rows: pa.Table,
        settings: Settings,
        paraphrase: Callable[[str], str | None] | None = None,
        code: str = "",
    ) -> None:
        self.pair, self.settings, self.paraphrase, self.code = pair, settings, paraphrase, code
        evaluated = list(_evaluated(rows))
        most = max(settings.controls_n, settings.signal_n)
        following = next_of_another([row.document for row in evaluated])
        others = [None if at is None else evaluated[at] for at in following]
        picked = drawn(list(zip(evaluated, others, strict=True)), settings.seed)[:most]
        self.picked = [row for row, _ in picked]
        self.other = [other for _, other in picked]  # of another document
        self._constant: dict[str, tuple[str, str, np.ndarray]] | None = None

    def measure(self, chunks: Chunks, progress: bool = True) -> None:
        """Make the chunks that are missing: outputs "variants" and "timing"."""
        with progress_bar(len(self.picked), "row", "controls and signal", shown=progress) as bar:
            for index, first in enumerate(range(0, len(self.picked), VARIANTS_PER_CHUNK)):
                part = range(first, min(first + VARIANTS_PER_CHUNK, len(self.picked)))
                if not chunks.has(index):
                    clock = Clock(self.code)
                    found = [*self._controls(part, clock), *self._signal(part, clock)]
                    table = pa.Table.from_pylist(found, schema=VARIANTS)
                    chunks.write(index, {"variants": table, "timing": clock.table()})
                bar.update(len(part))

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
