"""The tokens of a vocabulary that a claim names."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ..claims.forms.claim import END, LINE_BREAK, Claim
from ..claims.words import content_words
from ..model.backbone import Backbone
from ..model.decoding.drawing import end_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_known: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, dict[str, tuple[int, ...]]] = weakref.WeakKeyDictionary()


class Names:
    """Claims' tokens, by a backbone's tokenizer. Of next tokens every token whose text is the claim's, white space
    aside; of other claims the first token of each content word, with a space before it and without."""

    def __init__(self, backbone: Backbone) -> None:
        self.tokenizer, self.size = backbone.tokenizer, backbone.vocabulary_size
        self.ends = tuple(sorted(at for at in end_token_ids(backbone) if at < self.size))
        self._first: dict[str, tuple[int, ...]] = {}

    def tokens(self, claim: Claim) -> list[tuple[int, ...]]:
        """The ids that each of its words may begin with, of a next token all ids that are it; none of a register."""
        if claim.kind == "register":
            return []
        if claim.kind != "next token":
            return [ids for word in content_words(claim.text) if (ids := self._first_of(word))]
        text = " ".join(claim.text.split())
        if text.lower() == END:
            return [self.ends] if self.ends else []
        found = self._by_text().get("\n" if text.lower() == LINE_BREAK else text, ())
        return [ids] if (ids := tuple(at for at in found if at < self.size)) else []

    def learn(self, claims: Iterable[Claim]) -> None:
        """Take the words of many claims apart in one call of the tokenizer."""
        words = {
            word for one in claims if one.kind not in ("register", "next token") for word in content_words(one.text)
        }
        if new := sorted(words - set(self._first)):
            ids = self.tokenizer([form for word in new for form in (word, f" {word}")], add_special_tokens=False)
            first = [one[0] if one else None for one in ids.input_ids]
            for at, word in enumerate(new):
                both = {one for one in first[2 * at : 2 * at + 2] if one is not None and one < self.size}
                self._first[word] = tuple(sorted(both))

    def _first_of(self, word: str) -> tuple[int, ...]:
        if word not in self._first:
            self.learn([Claim(word, "word", 0, len(word))])
        return self._first.get(word, ())

    def _by_text(self) -> Mapping[str, tuple[int, ...]]:
        """Ids by their tokens' text, white space aside; "\n": white space with a line break. Read once a tokenizer."""
        if (found := _known.get(self.tokenizer)) is None:
            by_text: dict[str, list[int]] = defaultdict(list)
            for at, text in enumerate(_decoded(self.tokenizer)):
                by_text[" ".join(text.split()) or ("\n" if "\n" in text else " ")].append(at)
            found = _known[self.tokenizer] = {text: tuple(ids) for text, ids in by_text.items()}
        return found


def _decoded(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    each = [[at] for at in range(len(tokenizer))]
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is not None:  # a third of the time
        return core.decode_batch(each, skip_special_tokens=False)
    return tokenizer.batch_decode(each)
