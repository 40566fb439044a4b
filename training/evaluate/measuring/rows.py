"""Every text that is written for a held-out activation and every reconstruction, made here, once, in chunks.

Each activation is explained, and reconstructed from the explanation and from what is put in its place. Nothing is
judged here; `compute` does that, from the tables alone.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from nla_sdk import NLAPair, metrics
from nla_sdk.evaluation.measures import EVALUATED
from nla_sdk.evaluation.parts import Settings
from nla_sdk.io.tables import vector_column
from nla_sdk.sampling import Sampling

from ..heldout import Heldout
from ..measures import texts
from ..measures.tables import EMPTY, numbers_or_null
from .clock import Clock

ROWS_PER_CHUNK = 128  # twice what is written at a time: where a row ends another one takes its place


class Rows:
    """Every held-out activation through the pair, and the AR on what is put in the explanation's place: a stage.

    A chunk has the outputs "rows" and "timing".

    Args:
        without_end: the row's source text without its last tokens, for the rows table; None: source texts stay out.
        code: version of the code that runs.
    """

    def __init__(
        self,
        heldout: Heldout,
        settings: Settings,
        without_end: Sequence[str] | None = None,
        code: str = "",
    ) -> None:
        self.heldout, self.settings, self.without_end, self.code = heldout, settings, without_end, code
        firsts = range(0, len(heldout), ROWS_PER_CHUNK)
        self.parts = [range(first, min(first + ROWS_PER_CHUNK, len(heldout))) for first in firsts]
        self.sizes = [len(part) for part in self.parts]
        self.pair: NLAPair | None = None
        self._unrelated: dict[str, np.ndarray] | None = None
        self._empty: np.ndarray | None = None

    def __call__(self, number: int) -> dict[str, pa.Table]:
        clock = Clock(self.code)
        table = self._chunk(self.parts[number], clock)
        return {"rows": table, "timing": clock.table()}

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
