"""INPUT as a reference to vectors of another tool: told apart from texts and from the tables that stream."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError, RepositoryError
from ...io.rows.kinds import AS_TEXT, READ_SUFFIXES, VECTOR_SUFFIXES

if TYPE_CHECKING:
    from ...io.rows.row_source import RowSource
    from ...jobs.vectors import VectorRows
    from ...vectors.kinds import Vectors
    from ..options import VectorOptions

_ROWS = re.compile(r"[\w.-]+#-?\d+([:,]-?\d*)*(@-?\d+)?")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/[\w.-]+)*")


def names_vectors(given: str, *, said: bool = False, as_text: bool = False) -> bool:
    """Whether INPUT is a reference of `nla_sdk.vectors`.

    A file of another tool (safetensors, .pt, .npz, .gguf) and a folder are; so is what has `#12` or `@layer` behind a
    path that is there, or behind a Hub id. `owner/name` alone is not: with --vectors it is. Parquet, .npy and .jsonl
    without either stream as they always did.

    Args:
        said: --vectors. as_text: --text.
    Raises:
        InputError: rows of what is not there, such as a mistyped folder's.
    """
    from ...vectors.references import Reference

    if as_text or given == "-" or not given.strip():
        return False
    if said:
        return True
    try:
        path = Path(given).expanduser()
        if path.is_dir():
            return True
        if path.exists():
            return path.suffix.lower() in VECTOR_SUFFIXES
        reference = Reference.of(given)
        if reference.select is None and reference.layer is None:
            return False
        if Path(reference.place).expanduser().exists():
            return True
    except (InputError, OSError, ValueError, RuntimeError):  # a text is seldom a valid file name
        return False
    if _ROWS.fullmatch(given):
        raise InputError(f"{given} names rows of {reference.place}, which does not exist. {AS_TEXT}")
    if any(map(str.isspace, given)) or not _HUB_ID.fullmatch(reference.place):
        return False
    # acts/layer12.npy that is not there is a file's name, not a repository's.
    is_file = reference.place.count("/") == 1 and Path(reference.place).suffix in (*READ_SUFFIXES, *VECTOR_SUFFIXES)
    return not is_file


def load(given: str, options: VectorOptions, **more: Any) -> Vectors:
    """The vectors that INPUT names.

    Args:
        more: `layer`, `column`, `local_files_only`, as for `nla_sdk.vectors.load`.
    Raises:
        as `nla_sdk.vectors.load`.
    """
    from ... import vectors
    from ...vectors.faults import VectorFileError
    from ...vectors.references import Reference

    try:
        return vectors.load(given, **options.stated(), revision=options.vectors_revision, **more)
    except (RepositoryError, VectorFileError) as error:
        if options.vectors or Path(Reference.of(given).place).expanduser().is_file():
            raise
        raise type(error)(f"{error} {AS_TEXT}") from None  # a word may be a folder's name here


def open_vectors(given: str, options: VectorOptions, **more: Any) -> VectorRows:
    """The same as rows to work on."""
    from ...jobs.vectors import VectorRows

    return VectorRows.of(load(given, options, **more), given)


def shown_as(source: RowSource, options: VectorOptions) -> dict[str, Any]:
    """What the work on INPUT is told of directions.

    Raises:
        InputError: something is said of vectors, and INPUT holds texts.
    """
    from ...io.rows.row_source import TEXTS

    if source.holds != TEXTS:
        return options.shown()
    said = options.stated() | options.shown() | {"vectors-revision": options.vectors_revision}
    said["vectors-dtype"] = said.pop("dtype")
    if name := next((name for name, value in said.items() if value is not None), None):
        raise InputError(f"--{name}: {source.name} holds texts, whose activations are read here. Leave it out.")
    return {}
