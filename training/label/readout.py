"""Labels read out of the activations themselves, by linear probes. `python -m training.label.readout --config …`

A label made of the text names what the text says; much of that is not in the vector, so an AV trained on it learns to
guess. These labels name what is there: which next tokens and which context words a ridge probe finds in the
activation, and of those the few whose own directions, taken together, come closest to it (orthogonal matching pursuit;
Pati, Rezaiifar and Krishnaprasad 1993), the most telling first and none that adds hardly anything. The probes are
fitted on the training documents alone, held-out ones are only read.

A label claims only what the vector makes one `sure` of (`.confidence`): next tokens that the source has among its
likeliest, and as what the text is about words that it has. Of the other words, which the probes take the vector for and
which carry much of it (docs/demo-pair.md), it says that they are related. All of it depends on the vector alone, so
that an AV can learn to say it: labels that name what is so, whether it can be read there or not, teach guessing.

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

from nla_sdk.claims.forms.sections import say
from nla_sdk.claims.registers import register_of
from nla_sdk.claims.words import stems
from nla_sdk.errors import InputError
from nla_sdk.io.chunks import identity_of, is_finished
from nla_sdk.io.files import atomic, sha256_of
from nla_sdk.io.progress import progress_bar
from nla_sdk.io.sidecars import CARRIED, read_sidecar, write_sidecar
from nla_sdk.io.tables import read_table, usable_vectors

from ..configs.command import data_stage, run_command
from ..configs.config import READOUT, Config
from ..configs.data import Readout
from .confidence import Confidence

VERSION = "readout-3"
FITTED_ON = ("av_sft", "ar_sft", "rl")
LABELLED = ("av_sft", "ar_sft", "validation", "eval")
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
                part = rows[start : start + 512]
                documents = [row["doc_id"] for row in part] if name in FITTED_ON else None
                explanations = probes.explain(vectors[start : start + 512], documents)
                for row, explanation in zip(part, explanations, strict=True):
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

    def found(self, directions: np.ndarray) -> np.ndarray:
        """float32 [n, k]: how strongly each is found in each row."""
        return directions @ self.readers


class Probes:
    """Readers of activations: `fit` on training rows, then `explain` any vectors of that layer.

    Example:
        >>> probes = Probes.fit(vectors, rows, Readout())  # doctest: +SKIP
        >>> probes.explain(vectors[:1])  # doctest: +SKIP
        ['Next: "was" (or "is"). About: species, lobster. Related: whale, birds. Style: expository prose.']
    """

    def __init__(
        self,
        mean: np.ndarray,
        next_tokens: Kind,
        words: Kind,
        registers: Kind,
        confidence: Confidence,
        spelled: Mapping[str, str],
        settings: Readout,
    ) -> None:
        self.mean, self.next_tokens, self.words, self.registers = mean, next_tokens, words, registers
        self.confidence, self.spelled, self.settings = confidence, spelled, settings

    @classmethod
    def fit(cls, vectors: np.ndarray, rows: Sequence[Mapping], settings: Readout) -> Probes:
        """Fit on activations float32 [n, d] and, for each, doc_id, detokenized_text_truncated and next_tokens.

        Raises:
            InputError: no next token, or no word, occurs in `min_documents` documents.
        """
        directions = unit(vectors)
        mean = directions.mean(axis=0)
        directions -= mean
        spelled = [spellings(row["detokenized_text_truncated"], settings.window) for row in rows]
        features_of = {
            "next token": [_ranked(row["next_tokens"]) for row in rows],
            "word": [dict.fromkeys(words, 1.0) for words in spelled],
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
        in_text = _in_text([row["detokenized_text_truncated"] for row in rows], word_names)
        kind_of = np.repeat([0, 1], [len(next_names), len(word_names)])
        confidence = Confidence.fit(
            directions, scipy.sparse.hstack([next_table > 0, in_text]).tocsr(), documents, kind_of
        )
        return cls(
            mean,
            Kind(next_names, readers.of(next_table, settings.rarity), atoms[: len(next_names)]),
            Kind(word_names, readers.of(word_table, settings.rarity), atoms[len(next_names) :]),
            Kind(
                kinds,
                readers.of(matrix_of([{kind: 1.0} for kind in registers], kinds), 0.0),
                np.zeros((len(kinds), 0), np.float32),
            ),
            confidence,
            _usual(spelled),
            settings,
        )

    def explain(self, vectors: np.ndarray, documents: Sequence[str] | None = None) -> list[str]:
        """One explanation each for raw activations, float32 [n, d].

        Args:
            documents: of rows that the probes were fitted on; None: of others.
        """
        directions = unit(np.asarray(vectors, dtype=np.float32)) - self.mean
        registers = self.registers.found(directions).argmax(axis=1)
        tokens, words = self.next_tokens.found(directions), self.words.found(directions)
        sure = self.confidence.of(directions, documents)
        sure_tokens, sure_words = np.split(sure, [tokens.shape[1]], axis=1)
        settings, made = self.settings, []
        for at, direction in enumerate(directions):
            strongest = _largest(tokens[at], settings.next_candidates)
            likely = strongest[sure_tokens[at, strongest] >= settings.sure]
            likely = likely if len(likely) else sure_tokens[at].argmax(keepdims=True)
            there = np.flatnonzero(sure_words[at] >= settings.sure)
            known = np.union1d(there, _largest(words[at], settings.word_candidates))
            following, named = self._pursue(direction, likely, known, 1.0 + settings.preference * np.isin(known, there))
            claimed = {self.words.names[word] for word in there}
            about = [self.spelled[word] for word in named if word in claimed]
            related = [self.spelled[word] for word in named if word not in claimed]
            style = self.registers.names[registers[at]]
            made.append(say([token or "\n" for token in following], about, style, related=related))
        return made

    def _pursue(
        self, direction: np.ndarray, tokens: np.ndarray, words: np.ndarray, weights: np.ndarray
    ) -> tuple[list[str], list[str]]:
        """The next tokens and words, the most telling first, whose directions together come closest to `direction`.

        What a word adds counts times its weight. One that brings the direction less than `least_gain` of its squared
        length nearer is passed by, but for the first token and the first `least_words` words. No word is named twice,
        or in two forms.
        """
        settings = self.settings
        names = [self.next_tokens.names[token] for token in tokens] + [self.words.names[word] for word in words]
        atoms = np.concatenate([self.next_tokens.atoms[tokens], self.words.atoms[words]])
        is_token = np.arange(len(names)) < len(tokens)
        weights = np.concatenate([np.ones(len(tokens)), weights])
        open_ = np.ones(len(names), dtype=bool)
        room, least = {True: settings.next_tokens, False: settings.words}, {True: 1, False: settings.least_words}
        picked: list[int] = []
        rest, whole = direction, float(direction @ direction)
        left = whole
        while open_.any():
            best = int(np.argmax(np.where(open_, weights * (atoms @ rest), -np.inf)))
            kind = bool(is_token[best])
            open_[best] = False
            # Least squares over all of them: a little shrinkage, for atoms that point nearly the same way.
            own = atoms[[*picked, best]]
            after = direction - own.T @ np.linalg.solve(own @ own.T + 1e-3 * np.eye(len(own)), own @ direction)
            gained = weights[best] * (left - float(after @ after))
            if least[kind] <= 0 and gained < settings.least_gain * whole:
                continue
            picked.append(best)
            rest, left = after, float(after @ after)
            room[kind] -= 1
            least[kind] -= 1
            if not room[kind]:
                open_ &= is_token != kind
            for other in np.flatnonzero(open_):
                alike = same_stem if not kind and not is_token[other] else _same
                open_[other] = not alike(names[best], names[other])
        return (
            [names[atom] for atom in picked if is_token[atom]],
            [names[atom] for atom in picked if not is_token[atom]],
        )


def spellings(text: str, window: int) -> dict[str, str]:
    """The different content words among the last `window` words of `text`, in lower case, and as the text spells each.

    A capital that only begins a sentence is not the word's own.

    Example:
        >>> spellings("The cat sat on Anna's mat. Cats do", 40)
        {'cat': 'cat', 'sat': 'sat', "anna's": "Anna's", 'mat': 'mat', 'cats': 'cats'}
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    found: dict[str, str] = {}
    for match in list(_WORD.finditer(text))[-window:]:
        word, lower, before = match[0], match[0].lower(), text[: match.start()].rstrip(" \t\"'“‘(*-")
        if len(lower) < 3 or lower in ENGLISH_STOP_WORDS:
            continue
        begins = not before or before[-1] in ".!?:\n"
        if not begins:
            found[lower] = word
        else:
            found.setdefault(lower, lower if word[1:].islower() else word)
    return found


def _usual(spelled: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Of each word the spelling that most rows have."""
    counts: dict[str, Counter[str]] = {}
    for words in spelled:
        for lower, said in words.items():
            counts.setdefault(lower, Counter())[said] += 1
    return {lower: min(said, key=lambda one: (-said[one], one)) for lower, said in counts.items()}


def _in_text(texts: Sequence[str], names: Sequence[str]) -> scipy.sparse.csr_matrix:
    """[texts, names]: 1 where a text has a word by its stem, which is when the claim of it holds."""
    of_stem: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        for stem in set(stems(name)):
            of_stem.setdefault(stem, []).append(at)
    there = [sorted({at for stem in set(stems(text)) for at in of_stem.get(stem, ())}) for text in texts]
    rows, columns = np.repeat(np.arange(len(texts)), [len(one) for one in there]), [at for one in there for at in one]
    ones = np.ones(len(columns), np.float32)
    return scipy.sparse.csr_matrix((ones, (rows, columns)), shape=(len(texts), len(names)))


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """int [count]: the places of the largest scores, the largest first."""
    return np.argsort(-scores, kind="stable")[:count]


def _same(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()


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
