"""The offline labeler: an explanation from the text itself and the base model's own next-token guesses. No LLM.

It writes what the model must hold at this point, most readable part first: the likeliest next tokens, the exact words
just read, then the register and the keywords of the context. In sentences: bare keyword lists taught the AV to repeat
one word. In one wording: which of several a text gets cannot be read from its activation, and few words around the
content leave room for more of it. Deterministic: the same text, guesses and version give the same label.

    >>> explain("The cat sat on the", [" mat", " floor", " bed"])
    '"mat", "floor" or "bed" comes next, after "cat sat on the". Expository prose about sat, cat.'
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from nla_sdk.claims.registers import register_of

VERSION = "extractive-3"
NEXT_TOKENS = 5
ENDING_WORDS = 4
KEYWORDS = 4

ENDS = frozenset({"<eos>", "</s>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>"})
"""Spelled out in a label, such a token would end the label when it is tokenised."""

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
    about = ", ".join(keywords(context)) or "nothing yet"
    following = capital(alternatives(next_tokens))
    return f'{following} comes next, after "{_one_line(ending)}". {capital(register_of(text))} about {about}.'


def capital(text: str) -> str:
    """`text` with its first letter large."""
    return text[0].upper() + text[1:]


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


def alternatives(tokens: Sequence[str]) -> str:
    """`"mat", "floor" or "bed"`, of up to five tokens.

    Example:
        >>> alternatives(["mat", " ", "<eos>"])
        '"mat", a line break or the end of the text'
    """
    shown = list(dict.fromkeys(map(_alternative, tokens)))
    *others, last = shown[:NEXT_TOKENS] or ["anything"]
    return f"{', '.join(others)} or {last}" if others else last


def _alternative(token: str) -> str:
    if token.strip() in ENDS:
        return "the end of the text"
    return f'"{_one_line(token)}"' if token.strip() else "a line break"


def _one_line(text: str) -> str:
    return " ".join(text.split())


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
