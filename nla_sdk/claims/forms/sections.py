"""The form of sections: Next: "mat" (or "bed"). After: "the last words". About: sat, cat. Related: dog. Style: fiction.

One form, so that a reader finds everything where it was in the last explanation, and a program can take it apart. What
is likeliest, or tells most, comes first. A section that has nothing to say is left out. `About` has words that are
claimed to stand in the text, `Related` words that the vector is like and that need not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .claim import END, LINE_BREAK, Claim, ClaimKind, claim_at, places

NAMES = ("Next", "After", "About", "Related", "Style")
ENDS = frozenset({"<eos>", "</s>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>"})
"""Spelled out in a label, such a token would end the label when it is tokenised."""

_SECTION = re.compile(rf"({'|'.join(NAMES)}):[ \t]+(?=\S)")
_ITEM = rf'(?="|(?:{LINE_BREAK}|{END}))'
_OPENS = re.compile(rf'"|{LINE_BREAK}|{END}', re.IGNORECASE)
_OTHERS = re.compile(rf" \(or {_ITEM}", re.IGNORECASE)
_FURTHER = re.compile(rf", {_ITEM}", re.IGNORECASE)
_STOP = re.compile(r"\.(?=\s|$)")
_OTHERS_STOP = re.compile(r"\)\.(?=\s|$)")
_SPACE = re.compile(r"\s+")
_ONE_WORD = re.compile(r"[^,\s](?:[^,]*[^,\s])?")
_LISTED = re.compile(rf"[^\n]*?\.(?=\s+(?:{'|'.join(NAMES)}):|\s*$)")


def say(
    next_tokens: Sequence[str],
    words: Sequence[str] = (),
    style: str | None = None,
    *,
    after: str | None = None,
    related: Sequence[str] = (),
) -> str:
    """An explanation of this form.

    Args:
        next_tokens: likeliest first; a token of white space is said as "a line break".
        words: that the text has, most telling first; none has a comma.
        style: a register, with its article or without.
        after: the last words read.
        related: words that are near what was read, most telling first.
    Example:
        >>> say([" mat", "<eos>"], ["sat", "cat"], "a narrative about a person", related=["dog"])
        'Next: "mat" (or the end of the text). About: sat, cat. Related: dog. Style: narrative about a person.'
    """
    tokens = list(dict.fromkeys(map(_said, next_tokens)))
    ending, register = f'"{one_line(after)}"' if after else "", bare(style) if style else ""
    return " ".join(_sections(tokens, ending, words, related, register))


def _sections(tokens: Sequence[str], after: str, words: Sequence[str], related: Sequence[str], style: str) -> list[str]:
    others = f" (or {', '.join(tokens[1:])})" if tokens[1:] else ""
    following = f"{tokens[0]}{others}" if tokens else ""
    each = zip(NAMES, (following, after, ", ".join(words), ", ".join(related), style), strict=True)
    return [f"{name}: {said}." for name, said in each if said]


def bare(style: str) -> str:
    """A register without its article: "a worked sum" is said as "worked sum"."""
    return re.sub(r"^an? ", "", style, flags=re.IGNORECASE)


def _said(token: str) -> str:
    if token.strip() in ENDS:
        return END
    return f'"{one_line(token)}"' if token.strip() else LINE_BREAK


def one_line(text: str) -> str:
    """`text` with single spaces only."""
    return " ".join(text.split())


def read(text: str) -> list[Claim]:
    """The claims of this form; none where the text has another.

    Read from left to right, never back: anybody may send an explanation, of any length.
    """
    found: list[Claim] = []
    at, last = len(text) - len(text.lstrip()), -1
    while (section := _SECTION.match(text, at)) is not None:
        number = NAMES.index(section[1])
        end = _READERS[number](text, section.end(), found) if number > last else None
        if end is None:
            return []
        last = number
        space = _SPACE.match(text, end)
        at = space.end() if space else end
    kinds = {claim.kind for claim in found}
    # A word with a colon before a sentence is nobody's form.
    words = "word" in kinds or "related word" in kinds
    return found if at == len(text) and ("next token" in kinds or (words and "register" in kinds)) else []


def _next(text: str, at: int, found: list[Claim]) -> int | None:
    """The listed tokens from `at` on; where the section ends, after its full stop, or None."""
    first = True
    while (opens := _OPENS.match(text, at)) is not None:
        if opens[0] == '"':
            closes = (one for one in places(text, '"', at + 2) if _after_item(text, one + 1, first))
            if (stop := next(closes, None)) is None:
                return None
            found.append(claim_at(text, "next token", at + 1, stop))
            at = stop + 1
        else:
            found.append(claim_at(text, "next token", at, opens.end()))
            at = opens.end()
        following = _after_item(text, at, first)
        if following is None:
            return None
        if following[0].endswith("."):
            return following.end()
        at, first = following.end(), False
    return None


def _after_item(text: str, at: int, first: bool) -> re.Match[str] | None:
    """What may stand behind a token: the end of the list, or what another one follows."""
    if first:
        return _STOP.match(text, at) or _OTHERS.match(text, at)
    return _OTHERS_STOP.match(text, at) or _FURTHER.match(text, at)


def _after(text: str, at: int, found: list[Claim]) -> int | None:
    if not text.startswith('"', at):
        return None
    stop = next((one for one in places(text, '"', at + 1) if _STOP.match(text, one + 1)), None)
    if stop is None:
        return None
    found.append(claim_at(text, "quote", at + 1, stop))
    return stop + 2


def _about(text: str, at: int, found: list[Claim]) -> int | None:
    return _words(text, at, found, "word")


def _related(text: str, at: int, found: list[Claim]) -> int | None:
    return _words(text, at, found, "related word")


def _words(text: str, at: int, found: list[Claim], kind: ClaimKind) -> int | None:
    listed = _LISTED.match(text, at)
    if listed is None:
        return None
    for match in _ONE_WORD.finditer(text, at, listed.end() - 1):
        found.append(claim_at(text, kind, *match.span()))
    return listed.end()


def _style(text: str, at: int, found: list[Claim]) -> int | None:
    end = len(text.rstrip())
    if not text.startswith(".", end - 1) or end - 1 <= at or "\n" in text[at:end]:
        return None
    found.append(claim_at(text, "register", at, end - 1))
    return end


_READERS = (_next, _after, _about, _related, _style)


def without(text: str, claim: Claim, claims: Sequence[Claim]) -> str:
    """An explanation of this form without one of its claims; a section that nothing is left of goes.

    Args:
        claims: all of `text`, as `read` gives them.
    """
    left: dict[str, list[str]] = {}
    for one in claims:
        if one != claim:
            quoted = one.kind in ("next token", "quote") and text[one.start - 1 : one.start] == '"'
            left.setdefault(one.kind, []).append(f'"{one.text}"' if quoted else one.text)
    after, style = left.get("quote", [""])[0], left.get("register", [""])[0]
    tokens, words, related = (left.get(kind, []) for kind in ("next token", "word", "related word"))
    return " ".join(_sections(tokens, after, words, related, style))
