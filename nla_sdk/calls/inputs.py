"""What a pair takes: vectors, texts and settings, as type checkers and the methods themselves tell them apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from threading import Event
from typing import Literal, TypeAlias, TypedDict, TypeGuard

from ..errors import EmptyBatchError, InputError
from ..io.rows.kinds import names_a_data_file
from ..io.text import check_texts
from ..model.extraction import is_chat
from ..model.statistics.means import ActivationMean
from ..vectors.kinds import Kind

Chat: TypeAlias = Sequence[Mapping[str, str]]
"""One chat: messages of {"role", "content"}."""

Texts: TypeAlias = list[str] | tuple[str, ...] | Sequence[Chat]
"""Several texts, or several chats."""

Progress: TypeAlias = Callable[[int], None]
"""Called with the number of explanations just finished."""

OnText: TypeAlias = Callable[[int, str], None]
"""Called with an explanation's number and its text so far."""

OnToken: TypeAlias = Callable[[str, int], None]
"""Called with what a token adds to the text, and its id."""


Mean: TypeAlias = "ActivationMean | str | os.PathLike[str] | None"
"""A mean of activations, or the file of one that `nla mean` wrote; None: what the pair knows."""


class Writing(TypedDict, total=False):
    """The keyword arguments that `explain` and `round_trip` share."""

    max_new_tokens: int | None
    temperature: float
    best_of: int
    seed: int
    progress: Progress | None
    on_text: OnText | None
    cancel: Event | None
    force: bool
    layer: int | Sequence[int] | None
    model_tag: str | None
    kind: Kind | None
    direction: Literal["raw", "mean+"] | None
    mean: Mean


def is_text(value: object) -> TypeGuard[str | Chat | Texts]:
    """Whether `value` is a text, a chat, or a list of texts or chats, rather than numbers.

    Raises:
        EmptyBatchError: it is an empty list.
        InputError: it is a path; see `check_text_input`.
    """
    if isinstance(value, os.PathLike):
        raise InputError(_read_it(value))
    if isinstance(value, str):
        return True
    if isinstance(value, (list, tuple)):
        if not value:
            raise EmptyBatchError("The list is empty; expected activations or texts.")
        return isinstance(value[0], (str, Mapping)) or is_chat(value[0])
    return False


def check_text_input(value: object, what: str = "text") -> None:
    """Refuse what was passed for texts and is a path, the name of a file of vectors that is there, or no text.

    Any other str is a text: a caller that has a str has said so, and need not fear that a word is taken for a path.

    Args:
        what: a text is, for messages: "text" or "explanation".
    Raises:
        InputError: a path, or the name of a data file. TextError: half a surrogate pair, NUL, a byte order mark.
    """
    texts = [value] if isinstance(value, (str, os.PathLike)) else value
    if not isinstance(texts, (list, tuple)):
        return  # refused where it is used
    # Of a list the words are data: among rows of a corpus may be what is a file's name here by chance.
    if isinstance(value, str) and names_a_data_file(value):
        raise InputError(_read_it(value))
    for text in texts:
        if isinstance(text, os.PathLike):
            raise InputError(_read_it(text))
    check_texts(texts, f"The {what}")


def check_vector_input(value: object) -> None:
    """Refuse what was passed for activations and is of a kind that holds none, or holds them in a way to be said.

    Raises:
        InputError: a text, a path, a mapping, a data frame, a column or a table; says what to pass in its place.
    """
    kind, first = type(value), value[0] if isinstance(value, (list, tuple)) and value else None
    if isinstance(value, str) and names_a_data_file(value):
        raise InputError(_read_it(value))
    for path in (value, first):
        if isinstance(path, os.PathLike):
            raise InputError(_read_it(path))
    if isinstance(value, str) or isinstance(first, (str, Mapping)):
        given = "a str" if isinstance(value, str) else f"a {kind.__name__} of {type(first).__name__}s"
        raise InputError(
            f"The activation is {given} that is no array of numbers. explain takes activations: "
            "pair.explain(pair.extract(text).vectors); round_trip takes a text as well."
        )
    named = "columns" if kind.__name__ == "DataFrame" else "column_names"  # of pandas and polars; of Arrow
    columns = value if isinstance(value, Mapping) else getattr(value, named, None)
    if columns is not None:
        names = ", ".join(map(str, list(columns)[:5]))
        raise InputError(
            f"The activation is a {kind.__name__} (of {names}); expected [d_model] or [n, d_model] numbers: pass one "
            "column of vectors as an array, np.stack(rows['activation_vector'])."
        )
    if kind.__name__ == "Series" or kind.__module__.partition(".")[0] == "pyarrow":
        raise InputError(
            f"The activation is a {kind.__module__.partition('.')[0]} {kind.__name__}; expected an array of numbers "
            "[d_model] or [n, d_model]: np.stack(column.to_list()), of Arrow np.stack(column.to_pylist())."
        )
    if isinstance(value, (set, frozenset, bytes, bytearray)) or hasattr(value, "__next__"):
        raise InputError(f"The activation is a {kind.__name__}; expected an array or a list of numbers.")


def _read_it(path: str | os.PathLike) -> str:
    return (
        f"{os.fspath(path)!r} is a file's name, and files are not read here. Vectors: np.load(path), of another tool's "
        "file nla_sdk.vectors.load(path), or `nla explain FILE` at the command line; a text: Path(path).read_text()."
    )
