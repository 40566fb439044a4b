"""Labels read out of the activations themselves, by linear probes. `python -m training.label.readout --config …`

A label made of the text names what the text says; much of that is not in the vector, so an AV trained on it learns to
guess. These labels name what is there: which next tokens and which context words a ridge probe finds in the
activation, and of those the few whose own directions, taken together, come closest to it (orthogonal matching pursuit;
Pati, Rezaiifar and Krishnaprasad 1993). Nothing of a row's text enters its label but through its vector. The probes
are fitted on the training documents alone, held-out ones are only read.

Reads `<out>/split/*.parquet`, writes `<out>/readout.jsonl` (`text`, `explanation`, `labeler_model`) for a label
provider of kind `readout`. docs/demo-pair.md says what these labels gave, beside extractive ones.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.linalg
import scipy.sparse

from nla_sdk.claims.registers import register_of
from nla_sdk.errors import InputError
from nla_sdk.io.chunks import identity_of, is_finished
from nla_sdk.io.files import atomic, sha256_of
from nla_sdk.io.progress import progress_bar
from nla_sdk.io.sidecars import CARRIED, read_sidecar, write_sidecar
from nla_sdk.io.tables import read_table, usable_vectors

from ..configs.command import data_stage, run_command
from ..configs.config import READOUT, Config
from ..configs.data import Readout
from .extractive import alternatives, capital

VERSION = "readout-1"
FITTED_ON = ("av_sft", "ar_sft", "rl")
LABELLED = ("av_sft", "ar_sft", "validation", "eval")
LINE_BREAK = "\n"
_WORD = re.compile(r"[^\W\d_][\w'’-]*\w")


def run(config: Config, *, overwrite: bool = False, push_dataset: str | None = None) -> Path:
    """Fit the probes and write the labels; returns their file. `push_dataset` is not used: the tables hold the labels.

    Raises:
        InputError: a split is missing, or holds too little text for any probe.
    """
    settings = config.readout or Readout()
    paths = {name: config.out / "split" / f"{name}.parquet" for name in config.split.names}
    for path in paths.values():
        if not path.is_file():
            raise InputError(f"{path} does not exist: run `python -m training.data.split` first.")
    inputs = {path.name: sha256_of(path) for path in paths.values()}
    identity = identity_of({"version": VERSION, "settings": settings.model_dump(), "inputs": inputs})
    target = config.out / READOUT
    if is_finished(target, identity, overwrite=overwrite):
        return target
    tables = {name: _read(path) for name, path in paths.items()}
    rows = [row for name in FITTED_ON for row in tables[name][1]]
    probes = Probes.fit(np.concatenate([tables[name][0] for name in FITTED_ON]), rows, settings)
    count = 0
    with atomic(target) as sibling, sibling.open("w", encoding="utf-8") as file:
        for name in (one for one in LABELLED if one in tables):
            vectors, rows = tables[name]
            bar = progress_bar(len(rows), "row", f"readout {name}")
            for start in range(0, len(rows), 512):
                explanations = probes.explain(vectors[start : start + 512])
                for row, explanation in zip(rows[start : start + 512], explanations, strict=True):
                    label = {"text": row["detokenized_text_truncated"], "explanation": explanation}
                    file.write(json.dumps({**label, "labeler_model": VERSION}, ensure_ascii=False) + "\n")
                count += len(explanations)
                bar.update(len(explanations))
            bar.close()
    source = read_sidecar(paths["av_sft"])
    write_sidecar(
        target,
        {key: source[key] for key in CARRIED if key in source}
        | {
            "stage": "readout",
            "identity": identity,
            "sha256": sha256_of(target),
            "inputs": inputs,
            "config": settings.model_dump(),
            "next_tokens_known": len(probes.next_tokens.names),
            "words_known": len(probes.words.names),
            "rows": count,
        },
    )
    return target


def _read(path: Path) -> tuple[np.ndarray, list[dict]]:
    table = read_table(path, texts=("doc_id", "detokenized_text_truncated"))
    if "next_tokens" not in table.column_names:
        raise InputError(f"{path} has no column next_tokens: extract with extract.next_tokens of at least 1.")
    return usable_vectors(table, name=str(path)), table.select(
        ["doc_id", "detokenized_text_truncated", "next_tokens"]
    ).to_pylist()


@dataclass(frozen=True)
class Kind:
    """What one kind of probe knows.

    Attributes:
        names: [k] what it can name.
        readers: float32 [d, k]; a centred direction times these is how strongly each is found.
        atoms: float32 [k, d], of length 1: the direction that each adds.
    """

    names: list[str]
    readers: np.ndarray
    atoms: np.ndarray

    def candidates(self, directions: np.ndarray, count: int) -> np.ndarray:
        """int [n, count]: what is found most strongly in each row."""
        scores = directions @ self.readers
        count = min(count, scores.shape[1])
        return np.argsort(-scores, axis=1, kind="stable")[:, :count]


class Probes:
    """Linear readers of activations: `fit` on training rows, then `explain` any vectors of that layer.

    Example:
        >>> probes = Probes.fit(vectors, rows, Readout())  # doctest: +SKIP
        >>> probes.explain(vectors[:1])  # doctest: +SKIP
        ['"was", "is", "had" or "be" comes next. Expository prose about species, whale, metres, birds.']
    """

    def __init__(self, mean: np.ndarray, next_tokens: Kind, words: Kind, registers: Kind, settings: Readout) -> None:
        self.mean, self.next_tokens, self.words, self.registers = mean, next_tokens, words, registers
        self.settings = settings

    @classmethod
    def fit(cls, vectors: np.ndarray, rows: Sequence[Mapping], settings: Readout) -> Probes:
        """Fit on activations float32 [n, d] and, for each, doc_id, detokenized_text_truncated and next_tokens.

        Raises:
            InputError: no next token, or no word, occurs in `min_documents` documents.
        """
        directions = unit(vectors)
        mean = directions.mean(axis=0)
        directions -= mean
        features_of = {
            "next token": [_ranked(row["next_tokens"]) for row in rows],
            "word": [
                dict.fromkeys(context_words(row["detokenized_text_truncated"], settings.window), 1.0) for row in rows
            ],
        }
        documents = [row["doc_id"] for row in rows]
        tables = {}
        for what, features in features_of.items():
            names = frequent(features, documents, settings.min_documents)
            if not names:
                raise InputError(
                    f"No {what} occurs in {settings.min_documents} documents ({len(set(documents)):,} documents here): "
                    "give the probes more text, or lower readout.min_documents."
                )
            tables[what] = (names, matrix_of(features, names))
        registers = [register_of(row["detokenized_text_truncated"]) for row in rows]
        kinds = sorted(set(registers))
        readers = _Readers(directions, settings.shrinkage)
        # What both kinds of feature add, told apart from each other: one regression over all of them.
        atoms = fit_atoms(
            scipy.sparse.hstack([table for _, table in tables.values()]).tocsr(), directions, settings.penalty
        )
        (next_names, next_table), (word_names, word_table) = tables.values()
        return cls(
            mean,
            Kind(next_names, readers.of(next_table, settings.rarity), atoms[: len(next_names)]),
            Kind(word_names, readers.of(word_table, settings.rarity), atoms[len(next_names) :]),
            Kind(
                kinds,
                readers.of(matrix_of([{kind: 1.0} for kind in registers], kinds), 0.0),
                np.zeros((len(kinds), 0), np.float32),
            ),
            settings,
        )

    def explain(self, vectors: np.ndarray) -> list[str]:
        """One explanation each for raw activations, float32 [n, d]."""
        directions = unit(np.asarray(vectors, dtype=np.float32)) - self.mean
        settings = self.settings
        registers = self.registers.candidates(directions, 1)[:, 0]
        next_candidates = self.next_tokens.candidates(directions, settings.next_candidates)
        word_candidates = self.words.candidates(directions, settings.word_candidates)
        made = []
        for direction, register, *candidates in zip(
            directions, registers, next_candidates, word_candidates, strict=True
        ):
            tokens, words = self._pursue(direction, *candidates)
            following = alternatives([LINE_BREAK if token == "" else token for token in tokens])
            kind = self.registers.names[register]
            made.append(f"{capital(following)} comes next. {capital(kind)} about {', '.join(words)}.")
        return made

    def _pursue(self, direction: np.ndarray, tokens: np.ndarray, words: np.ndarray) -> tuple[list[str], list[str]]:
        """The next tokens and words, the most telling first, whose directions together come closest to `direction`."""
        settings = self.settings
        names = [self.next_tokens.names[token] for token in tokens] + [self.words.names[word] for word in words]
        atoms = np.concatenate([self.next_tokens.atoms[tokens], self.words.atoms[words]])
        is_token = np.arange(len(names)) < len(tokens)
        open_ = np.ones(len(names), dtype=bool)
        room = {True: settings.next_tokens, False: settings.words}
        picked: list[int] = []
        rest = direction
        while open_.any():
            best = int(np.argmax(np.where(open_, atoms @ rest, -np.inf)))
            picked.append(best)
            open_[best] = False
            kind = bool(is_token[best])
            room[kind] -= 1
            if not room[kind]:
                open_ &= is_token != kind
            if not kind:
                for other in np.flatnonzero(open_ & ~is_token):
                    open_[other] = not same_stem(names[best], names[other])
            # Least squares over all of them: a little shrinkage, for atoms that point nearly the same way.
            own = atoms[picked]
            rest = direction - own.T @ np.linalg.solve(own @ own.T + 1e-3 * np.eye(len(own)), own @ direction)
        return (
            [names[atom] for atom in picked if is_token[atom]],
            [names[atom] for atom in picked if not is_token[atom]],
        )


def context_words(text: str, window: int) -> list[str]:
    """The different content words among the last `window` words of `text`, in lower case.

    Example:
        >>> context_words("The cat sat on the cat's mat", 40)
        ['cat', 'sat', "cat's", 'mat']
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    words = [word.lower() for word in _WORD.findall(text)][-window:]
    return [word for word in dict.fromkeys(words) if len(word) > 2 and word not in ENGLISH_STOP_WORDS]


def same_stem(one: str, other: str) -> bool:
    """Whether two words are forms of one, by their first letters.

    Example:
        >>> same_stem("job", "jobs"), same_stem("association", "associated"), same_stem("computer", "company")
        (True, True, False)
    """
    short, long = sorted((one.lower(), other.lower()), key=len)
    if long.startswith(short):
        return len(long) - len(short) < 4
    alike = next((place for place, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    return alike >= max(4, len(long) - 3)


def frequent(features: Sequence[Iterable[str]], documents: Sequence[str], least: int) -> list[str]:
    """What occurs in at least `least` different documents, in alphabetical order."""
    seen: set[tuple[str, str]] = set()
    counts: Counter[str] = Counter()
    for names, document in zip(features, documents, strict=True):
        for name in names:
            if (name, document) not in seen:
                seen.add((name, document))
                counts[name] += 1
    return sorted(name for name, count in counts.items() if count >= least)


def _ranked(tokens: Iterable[str]) -> dict[str, float]:
    """Likelier ones weigh more. White space alone is the empty name: a line break, say."""
    return {token: (1 + rank) ** -0.5 for rank, token in enumerate(dict.fromkeys(token.strip() for token in tokens))}


def matrix_of(features: Sequence[Mapping[str, float]], names: Sequence[str]) -> scipy.sparse.csr_matrix:
    """Float32 [rows, names]: the value of each name in each row; others are left out.

    Args:
        names: in alphabetical order, which is the vectorizer's.
    """
    from sklearn.feature_extraction import DictVectorizer

    return DictVectorizer(dtype=np.float32).fit([dict.fromkeys(names, 1.0)]).transform(features)


class _Readers:
    """Ridge regressions from directions to features; the covariance is factored once."""

    def __init__(self, directions: np.ndarray, shrinkage: float) -> None:
        self.directions = directions
        covariance = (directions.T @ directions).astype(np.float64) / len(directions)
        covariance[np.diag_indices_from(covariance)] += shrinkage * np.trace(covariance) / len(covariance)
        self.factor = scipy.linalg.cho_factor(covariance)

    def of(self, features: scipy.sparse.csr_matrix, rarity: float) -> np.ndarray:
        """float32 [d, k]. With `rarity` > 0 scores are divided by frequency to that power, or all rows named the
        commonest features; with 0 the readers find what is likeliest, less its frequency."""
        shares = np.asarray(features.mean(axis=0), dtype=np.float64).ravel()
        products = np.asarray((features.T @ self.directions).T, dtype=np.float64) / len(self.directions)
        readers = scipy.linalg.cho_solve(self.factor, products)
        return (readers / (shares + 2e-3) ** rarity).astype(np.float32)


def fit_atoms(features: scipy.sparse.csr_matrix, directions: np.ndarray, penalty: float) -> np.ndarray:
    """float32 [k, d], of length 1: what each feature adds to a direction."""
    return unit(fit_directions(features, directions, penalty))


def fit_directions(features: scipy.sparse.csr_matrix, directions: np.ndarray, penalty: float) -> np.ndarray:
    """float32 [k, d]: the ridge regression from features [n, k] to directions [n, d]."""
    gram = (features.T @ features).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += penalty
    products = np.asarray(features.T @ directions, dtype=np.float64)
    return scipy.linalg.solve(gram, products, assume_a="pos").astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; a row of zeros stays one."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1.0)


if __name__ == "__main__":
    run_command(data_stage(run))
