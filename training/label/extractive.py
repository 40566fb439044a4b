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


def register_of(text: str) -> str:
    """What kind of text this is, by its surface: a few words."""
    letters = max(len(text), 1)
    if re.search(r"^\s*(def |class |import |from \w+ import|return |>>> )", text, re.MULTILINE):
        return "Python code"
    if text.count("`") >= 2 and re.search(r"^- ", text, re.MULTILINE):
        return "command-line help"
    if text.count("``") >= 2 or re.search(r"[a-z]\(\)|\w_\w|::", text):
        return "technical documentation"
    if re.search(r"\d\s*[-+*/x=]\s*\$?\d|How (many|much)", text):
        return "a worked sum"
    if re.search(r"\b(patients?|clinical|treatment|cohort|diagnos\w+|p ?[<=] ?0|95% CI|surg\w+|disease)\b", text):
        return "a medical study"
    if re.search(r"\b(I|we|our|my)\b", text) and re.search(
        r"\b(Congress|nation|citizens|Government|freedom|America\w*|peace|country)\b", text
    ):
        return "a political speech"
    if text.count('"') + text.count("“") + text.count("'") >= 4 and re.search(
        r"\b(said|asked|cried|replied|I|you)\b", text
    ):
        return "dialogue in a story"
    if sum(char.isdigit() for char in text) / letters > 0.03:
        return "a factual account with figures"
    if re.search(r"\b(he|she|his|her|him)\b", text) and re.search(r"\b\w+ed\b", text):
        return "a narrative about a person"
    if re.search(r"\b(I|me|my)\b", text):
        return "a first-person narrative"
    return "expository prose"


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
