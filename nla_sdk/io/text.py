"""Text as it comes: what a str may hold that is no text, looked for at one place.

Half a surrogate pair (JSON's "\\ud83d" alone) cannot be encoded: tokenizers, tables and files die of it. NUL ends a
text for whatever is written in C. A byte order mark says how a file is encoded: at a file's start it is taken off, at
a text's start it was left there by mistake and would be read as the first token. Within a text U+FEFF is a character.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, TextError

ENCODING = "utf-8-sig"
"""What text files are read with: UTF-8, with or without a byte order mark."""
BOM = "\ufeff"
LFS_POINTER = "version https://git-lfs"
"""What a file begins with that git lfs has not fetched."""
FAULTS = {
    "half_surrogate": "half a surrogate pair",
    "nul": "a NUL character",
    "byte_order_mark": "a byte order mark before its first character",
    "no_embedding": "a token that the model has no embedding for",
}
"""Why a text is refused, and by which name a corpus counts the documents that it drops for it."""
_HALF = re.compile("[\ud800-\udfff]")
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def fault_of(text: str) -> str | None:
    """What of a text is no text, by its name in `FAULTS`; None of a text that is one.

    Example:
        >>> fault_of("caf\\ud83d"), fault_of("a\\0b"), fault_of("\\ufeffThe cat"), fault_of("The \\ufeffcat")
        ('half_surrogate', 'nul', 'byte_order_mark', None)
    """
    if _HALF.search(text):
        return "half_surrogate"
    if "\0" in text:
        return "nul"
    return "byte_order_mark" if text.startswith(BOM) else None


def check_text(text: str, where: str) -> None:
    """Refuse what is no text.

    Args:
        where: it stands, as the message begins: `corpus.jsonl, row 3: text`.
    Raises:
        TextError: half a surrogate pair, NUL, or a byte order mark before the first character.
    """
    fault = fault_of(text)
    if fault is None:
        return
    at = found.start() if (found := _HALF.search(text)) else max(0, text.find("\0"))
    after = f" after {text[max(0, at - 20) : at]!r}" if at else ""
    raise TextError(
        f"{where} holds {FAULTS[fault]} ({ascii(text[at])}{after}), which is no text. Leave it out, or repair it where "
        "it was written."
    )


def refuse_pointer(text: str, name: str) -> None:
    """Refuse what stands in a text file's place until git lfs has fetched it.

    Raises:
        InputError: it does; names the file.
    """
    if text.startswith(LFS_POINTER):
        raise InputError(f"{name} is a Git LFS pointer, not the text itself: git lfs pull.")


def check_texts(texts: Iterable[object], what: str) -> None:
    """`check_text` of every str among texts and chats; `what` they are is numbered from 0.

    Raises:
        TextError: names the row.
    """
    for row, text in enumerate(texts):
        for part in _strings(text):
            check_text(part, f"{what} in row {row}")


def _strings(text: object) -> Iterable[str]:
    """A text, or what the messages of a chat say."""
    if isinstance(text, str):
        yield text
    elif isinstance(text, Mapping):
        yield from (part for value in text.values() for part in _strings(value))
    elif isinstance(text, (list, tuple)):
        yield from (part for item in text for part in _strings(item))


def half_in(value: Any, name: str = "the row") -> str | None:
    """Where in what JSON or YAML holds there is half a surrogate pair: the key, or None."""
    if isinstance(value, str):
        return name if _HALF.search(value) else None
    if isinstance(value, dict):
        if any(isinstance(key, str) and _HALF.search(key) for key in value):
            return "a key"
        return next((where for key, item in value.items() if (where := half_in(item, repr(key)))), None)
    if isinstance(value, list):
        return next((where for item in value if (where := half_in(item, name))), None)
    return None


def not_utf8(path: Path, error: UnicodeDecodeError) -> str:
    """Why a file is no text, as the end of a sentence that begins with its name."""
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(_UTF_16):
        return "is UTF-16 text (what Windows calls Unicode), not UTF-8: save it as UTF-8"
    kinds = {b"PAR1": "a parquet file", b"\x93NUMPY": "a .npy file", b"PK\x03\x04": "a zip file (.npz, .pt)"}
    found = next((kind for magic, kind in kinds.items() if start.startswith(magic)), None)
    return f"is {found}, not UTF-8 text" if found else f"is not UTF-8 text: {error}"
