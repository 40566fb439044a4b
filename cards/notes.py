"""What people write into a card: the author's notes, made harmless, and sections by hand that outlive a rendering.

Two readers depend on the same question, where fenced code begins and ends (a `<` is text outside and code inside, a
marker counts outside and is an example inside), so one follower of fences answers it for both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from .errors import CardError

Place = Literal["text", "code", "notes", "kept", "marker"]
MARKER = re.compile(r"[ \t]*<!--\s*(/?)(keep|notes)\s*-->[ \t]*", re.IGNORECASE)
ANY_KEEP = re.compile(r"<!--\s*/?keep\s*-->", re.IGNORECASE)
# What may stand before a block of text on its line: quotation marks, bullets, numbers.
_CONTAINERS = r"(?:[ \t>]|[-+*](?=[ \t])|\d{1,9}[.)](?=[ \t]))*"
_HEADING = re.compile(rf"^({_CONTAINERS})(#{{1,6}})(?=[ \t]|$)")
_UNDERLINE = re.compile(r"^([ \t>]*)(?:=+|-+)[ \t]*$")
# A `[` that may begin a link definition: its label ends in `]:`, or not on this line.
_DEFINITION = re.compile(rf"^({_CONTAINERS})\[(?!(?:[^\[\]\\]|\\.)*(?:\[|\](?!:)))")


class Fences:
    """Follows fenced code from line to line, as CommonMark has it.

    Attributes:
        open: the fence that began the code we are in; None outside.
    """

    def __init__(self) -> None:
        self.open: str | None = None

    def hold(self, line: str) -> bool:
        """Whether the next line is code, or a fence around it."""
        mark = re.fullmatch(r" {0,3}(`{3,}|~{3,})(.*)", line)
        if self.open is None:
            if mark and not ("`" in mark[1] and "`" in mark[2]):
                self.open = mark[1]
            return self.open is not None
        if mark and mark[1].startswith(self.open) and not mark[2].strip(" \t"):
            self.open = None
        return True


def tame(notes: str) -> str:
    """The author's notes as a section of a card: headings below the section's, no HTML, no definitions, fences closed.

    A link definition would turn words of the whole card into links. A fence is moved to the line's beginning, because
    only there it is sure to be in no list, which would end the code where the list ends.
    """
    fences, lines = Fences(), []
    for line in re.sub(r"\r\n?", "\n", notes).split("\n"):
        before = fences.open
        if not fences.hold(line):
            line = _harmless(line)
        elif before is None:
            line = line.lstrip(" ")
        lines.append(line)
    if fences.open is not None:
        lines.append(fences.open)
    return "\n".join(lines).strip("\n")


def _harmless(line: str) -> str:
    line = _UNDERLINE.sub(r"\1", line.replace("<", "&lt;"))  # the line under a heading; a rule goes with it
    line = _HEADING.sub(lambda match: match[1] + "#" * min(6, len(match[2]) + 2), line)
    return _DEFINITION.sub(r"\1\\[", line)


def placed(card: str) -> Iterator[tuple[str, Place]]:
    """Each line of a card with where it stands; `marker`: a line that begins or ends notes or a kept section.

    Raises:
        CardError: a `keep` marker without its other half, or with text beside it.
    """
    fences, place, began = Fences(), "text", 0
    number = 0
    for number, line in enumerate(re.sub(r"\r\n?", "\n", card).split("\n"), 1):
        if fences.hold(line):
            yield line, "code" if place == "text" else place
            continue
        marker = MARKER.fullmatch(line)
        closes, what = (marker[1] == "/", marker[2].lower()) if marker else (False, "")
        if place == "text" and what and not closes:
            place, began = ("kept" if what == "keep" else "notes"), number
            yield line, "marker"
        elif (place == "kept" and what == "keep") or (place == "notes" and what == "notes" and closes):
            place = "text"
            yield line, "marker"
        elif place == "text" and ANY_KEEP.search(line):
            raise CardError(
                f"Line {number} of the card that is there: {line.strip()[:80]!r}. "
                + ("No section begins above it" if marker else "A keep marker needs a line of its own")
                + ". Put `<!-- keep -->` and `<!-- /keep -->` on lines around what is to stay."
            )
        else:
            yield line, place
    if place != "text":
        raise CardError(
            f"The {'kept' if place == 'kept' else 'notes'} section that begins in line {began} of the card that is "
            f"there has no end{' outside the code block in it' if fences.open else ''}. Write "
            f"`<!-- /{'keep' if place == 'kept' else 'notes'} -->` on a line of its own after it."
        )
    if fences.open is not None and ANY_KEEP.search(card):
        raise CardError(
            f"The card that is there ends inside a code block ({fences.open}), so which of its keep markers count "
            "cannot be told. Close the block."
        )


def kept_sections(existing: str | None) -> list[str]:
    """What stands between `<!-- keep -->` and `<!-- /keep -->` (or another `<!-- keep -->`) in the card there now."""
    sections: list[list[str]] = []
    before = "text"
    for line, place in placed(existing or ""):
        if place == "kept":
            if before == "marker":
                sections.append([])
            sections[-1].append(line)
        before = place
    return [section for lines in sections if (section := "\n".join(lines).strip("\n"))]


def notes_in(existing: str | None) -> str | None:
    """The author's notes in the card there now, harmless already; None where it has none."""
    lines = [line for line, place in placed(existing or "") if place == "notes"]
    return "\n".join(lines).strip("\n") or None


def tidy(body: str) -> str:
    """A rendered card without the blank lines that its template's branches left; what people wrote stays as it is."""
    lines: list[str] = []
    for line, place in placed(body):
        if place == "text" and not line.strip() and (not lines or not lines[-1].strip()):
            continue
        lines.append(line.rstrip() if place == "text" else line)
    return "\n".join(lines).strip() + "\n"
