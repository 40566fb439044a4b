"""What a vector is like: probes that find next tokens and words, and the few that together come closest to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nla_sdk.claims.forms.sections import say
from nla_sdk.claims.registers import register_of
from nla_sdk.errors import InputError

from ...configs.data import Readout
from .confidence import Confidence
from .ridge import Readers, fit_atoms, frequent, matrix_of, ranked, unit
from .words import in_texts, same, same_stem, spellings, usual


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
        from scipy.sparse import hstack

        directions = unit(vectors)
        mean = directions.mean(axis=0)
        directions -= mean
        spelled = [spellings(row["detokenized_text_truncated"], settings.window) for row in rows]
        features_of = {
            "next token": [ranked(row["next_tokens"]) for row in rows],
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
        readers = Readers(directions, settings.shrinkage)
        # What both kinds of feature add, told apart from each other: one regression over all of them.
        atoms = fit_atoms(hstack([table for _, table in tables.values()]).tocsr(), directions, settings.penalty)
        (next_names, next_table), (word_names, word_table) = tables.values()
        in_text = in_texts([row["detokenized_text_truncated"] for row in rows], word_names)
        kind_of = np.repeat([0, 1], [len(next_names), len(word_names)])
        confidence = Confidence.fit(directions, hstack([next_table > 0, in_text]).tocsr(), documents, kind_of)
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
            usual(spelled),
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
            strongest = _largest(words[at], settings.word_candidates)
            known = np.union1d(there, strongest[sure_words[at, strongest] >= settings.plausible])
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
                alike = same_stem if not kind and not is_token[other] else same
                open_[other] = not alike(names[best], names[other])
        return (
            [names[atom] for atom in picked if is_token[atom]],
            [names[atom] for atom in picked if not is_token[atom]],
        )


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """int [count]: the places of the largest scores, the largest first."""
    return np.argsort(-scores, kind="stable")[:count]
