"""The offline labeler: an explanation from the text itself and the base model's own next-token guesses. No LLM.

It writes what the model must hold at this point, most telling part first: the likeliest next tokens, the exact words
just read, then the keywords of the context and the register. In one form (`nla_sdk.claims.forms.sections`): which of
several a text gets cannot be read from its activation, and few words around the content leave room for more of it.
Deterministic: the same text, guesses and version give the same label.

    >>> explain("The cat sat on the", [" mat", " floor", " bed"])
    'Next: "mat" (or "floor", "bed"). After: "cat sat on the". About: sat, cat. Style: expository prose.'
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from nla_sdk.claims.forms.sections import say
from nla_sdk.claims.registers import register_of

VERSION = "extractive-4"
NEXT_TOKENS = 5
ENDING_WORDS = 4
KEYWORDS = 4

_WORD = re.compile(r"[^\W\d_][\w'’-]*\w|\w")
_QUOTED = re.compile(r'"([^"]*)"|“([^”]*)”|«([^»]*)»|`([^`]*)`')


def explain(text: str, next_tokens: Sequence[str]) -> str:
    """One explanation for the last token of `text`.

    Args:
        text: the exact prefix the activation was read at the end of.
        next_tokens: the base model's likeliest next tokens, likeliest first (up to five are used).
    Raises:
        ValueError: empty text.
    """
    if not text.strip():
        raise ValueError("The text is empty; there is nothing to label.")
    words = text.split()
    ending = " ".join(words[-ENDING_WORDS:])
    if len(ending) > 60:  # code and URLs have endless "words"
        ending = ending[-60:].lstrip()
    context = " ".join(words[:-1]) if len(words) > ENDING_WORDS else text
    different = dict.fromkeys(token.strip() or "\n" for token in next_tokens)
    return say(list(different)[:NEXT_TOKENS], keywords(context), register_of(text), after=ending)


def keywords(text: str, count: int = KEYWORDS) -> list[str]:
    """The `count` most telling words of `text`: frequent, long or capitalised mid-sentence, late rather than early."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    matches = list(_WORD.finditer(text))
    counts = Counter(match[0].lower() for match in matches)
    score: dict[str, float] = {}
    shown: dict[str, str] = {}
    for index, match in enumerate(matches):
        word, lower = match[0], match[0].lower()
        if len(lower) < 3 or lower in ENGLISH_STOP_WORDS:
            continue
        starts_sentence = match.start() == 0 or text[: match.start()].rstrip()[-1:] in {".", "!", "?", '"', ":"}
        named = word[0].isupper() and not starts_sentence
        recency = (index + 1) / len(matches)
        score[lower] = counts[lower] ** 0.5 * (min(len(lower), 9) / 6 + (0.8 if named else 0.0)) * (0.6 + recency)
        shown[lower] = word if named else shown.get(lower, lower)
    best = sorted(score, key=lambda lower: (-score[lower], lower))[:count]
    return [shown[lower] for lower in best]


# --- what a reader of labels takes apart --------------------------------------------------------------------------
def quotes(text: str) -> str:
    """Its quoted spans alone, without the quote marks; empty where it has none."""
    found = ("".join(groups).strip() for groups in _QUOTED.findall(text))
    return " ".join(span for span in found if span)


def prose(text: str) -> str:
    """It without its quoted spans.

    Example:
        >>> prose('Ends in "the city of". Likely next: "Paris".')
        'Ends in . Likely next: .'
    """
    return " ".join(_QUOTED.sub(" ", text).split()).strip()
