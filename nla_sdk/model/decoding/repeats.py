"""What a text has said, read token by token, so that no item is said twice (`output.no_repeats` of a contract).

An item is what stands between straight quote marks, and each piece of a list after "About: " or " about ". A token is
refused if the text with it, read as though it ended there, has an item twice: then no text has, wherever it ends. It is
refused too if it begins an item as an earlier one began whose first token was not all of it: what can only go on to the
same word would be begun and cut off. Items are compared without white space around them and casefolded.
"""

from __future__ import annotations

import re

from ...claims.registers import REGISTERS

_OPENS = re.compile(r'"|\bStyle: |\b(?:About|Related): | about ')
_SENTENCE_END = re.compile(r"\.(?=\s|$)|\n")
_PIECE_END = re.compile(rf",|{_SENTENCE_END.pattern}")
# Those that have " about " in them: what stands before it, and after.
_REGISTERS = [(head, tail) for head, about, tail in (name.partition(" about ") for name in REGISTERS) if about]
_BLANK = " "  # the key of a quote that holds nothing but white space; no other key has white space at its ends


def items(text: str) -> tuple[list[str], int]:
    """The items of a text, as they are compared, and where the last one began if it may go on; else −1.

    A piece of a list ends at a comma, the list at a line break or a full stop that white space or the text's end
    follows; a piece with nothing in it is "". An opening quote mark has a character behind it that closes nothing, and
    of several in a row the last closes: three are the item of one. What is still open is an item as far as it is there.
    A register's own words are none ("A narrative about a person about cats"), and in a sentence that begins with
    "Style: " there is none.

    Example:
        >>> items('Next: "Paris" (or "the"). About: french, Tower. Style: narrative about a person.')[0]
        ['paris', 'the', 'french', 'tower']
        >>> items('"Paris" comes next. A narrative about a person about french, tow')
        (['paris', 'french', 'tow'], 60)
    """
    found: list[str] = []
    at = 0
    while opens := _OPENS.search(text, at):
        at = opens.end()
        if opens[0] == '"':
            end = text.find('"', at + 1)
            if end < 0:
                key = _key(text[at:])
                return ([*found, key], at) if key else (found, at)
            while text.startswith('"', end + 1):  # of several marks in a row the last closes: a token may end in one
                end += 1
            found.append(_key(text[at:end]) or _BLANK)
            at = end + 1
        elif opens[0] == "Style: ":
            if (ends := _SENTENCE_END.search(text, at)) is None:
                break
            at = ends.end()
        elif (rest := _register(text, opens.start(), at)) is not None:
            at = rest
        else:
            while True:
                ends = _PIECE_END.search(text, at)
                key = _key(text[at : ends.start() if ends else None])
                if ends is None:
                    return ([*found, key], at) if key else (found, at)
                found.append(key)
                at = ends.end()
                if ends[0] != ",":
                    break
    return found, -1


def _key(text: str) -> str:
    return text.strip().casefold()


def _register(text: str, start: int, end: int) -> int | None:
    """Where to go on behind the register whose " about " stands from `start` to `end`; None: it is of no register, and
    a list begins."""
    before, behind = text[:start].casefold(), text[end:].casefold()
    for head, tail in _REGISTERS:
        if before.endswith(head):
            if behind.startswith(f"{tail} about "):
                return end + len(tail)
            if f"{tail} about ".startswith(behind):
                return len(text)
    return None


class Said:
    """What one text has said so far."""

    def __init__(self) -> None:
        self._begun: set[str] = set()  # first tokens of items
        self._last = -1, ""  # where the item that is open began, and its key

    def takes(self, text: str) -> bool:
        """Go on to `text`, which is a token longer; False: it is refused, and nothing has changed.

        Example:
            >>> said = Said()
            >>> [said.takes(text) for text in ('About: wa', 'About: water, ', 'About: water, wa', 'About: water, sea')]
            [True, True, False, True]
        """
        found, at = items(text)
        # Nothing at all is no piece of a list, so it counts as said.
        if len({"", *found}) <= len(found):
            return False
        key = _key(text[at:]) if at >= 0 else ""
        if key and (self._last[0] != at or not self._last[1]):  # this token is its first
            if key in self._begun and any(character.isalnum() for character in key):
                return False
            self._begun.add(key)
        self._last = at, key
        return True
