"""The form of sentences: "x", "y" or "z" comes next, after "the last words". A register about word, word.

Labels had it before they had sections, and pairs that were trained on them write it.
"""

from __future__ import annotations

import re

from ..registers import REGISTERS
from .claim import END, LINE_BREAK, Claim, breaks, claim_at, places

_NEXT = re.compile(r"(?<!\s)\s+comes? next(?=[\s.,]|$)", re.IGNORECASE)  # from where white space begins, once
_OPENS = re.compile(rf'"|(?:{LINE_BREAK}|{END})', re.IGNORECASE)
_BETWEEN = re.compile(rf'(?:, | or )(?="|(?:{LINE_BREAK}|{END}))', re.IGNORECASE)
_ABOUT = " about "
_ONE_WORD = re.compile(r"[^,\s](?:[^,]*[^,\s])?")


def read(text: str) -> list[Claim]:
    """The claims of this form; none where the text has another.

    Read from left to right, never back: anybody may send an explanation, of any length.
    """
    following = _NEXT.search(text)
    if following is None or not (found := _tokens(text, following.start())):
        return []
    at = following.end()
    if text.startswith(', after "', at):
        start = at + len(', after "')
        end = next((one for one in places(text, '"', start) if re.match(r"\.(?:\s|$)", text[one + 1 : one + 3])), None)
        if end is None:
            return []
        found.append(claim_at(text, "quote", start, end))
        at = end + 1
    rest = text[at:].lstrip(".").strip()
    if not rest:
        return found
    start = text.index(rest, at)
    # Those that labels name first: "A narrative about a person about …" has the word twice.
    known = (start + len(name) for name in REGISTERS if rest.lower().startswith(name + _ABOUT))
    about = max(known, default=text.find(_ABOUT, at))
    if (
        about < 0
        or not rest[0].isupper()
        or any(stop < len(text.rstrip()) for stop, _ in breaks(text, start, len(text)))
    ):
        return []
    found.append(claim_at(text, "register", start, about))
    words = text[about + len(_ABOUT) :].rstrip()
    for match in _ONE_WORD.finditer(words.removesuffix(".")):
        found.append(claim_at(text, "word", *(about + len(_ABOUT) + one for one in match.span())))
    return found


def _tokens(text: str, end: int) -> list[Claim]:
    """The next tokens listed before `end`, such as `"mat", "sofa" or a line break`; none where it is no such list."""
    found, at = [], len(text) - len(text.lstrip())
    while True:
        opens = _OPENS.match(text, at)
        if opens is None:
            return []
        if opens[0] != '"':
            start, stop, after = at, opens.end(), opens.end()
        else:
            start = at + 1
            closes = (
                one for one in places(text, '"', start + 1, end) if one + 1 == end or _BETWEEN.match(text, one + 1)
            )
            if (stop := next(closes, -1)) < 0:
                return []
            after = stop + 1
        found.append(claim_at(text, "next token", start, stop))
        if after == end:
            return found
        between = _BETWEEN.match(text, after)
        if between is None or between.end() > end:
            return []
        at = between.end()
