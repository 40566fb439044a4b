"""Vectors out of a file of another tool, uploaded: read from a temporary file, and gone with it."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ...errors import DamagedFileError, InputError, NLAError
from ...io.tables import open_parquet
from ...vectors.arrays import MOST_UNPACKED, OTHERS, PICKLES, SUFFIXES, UNPACKED_FREELY
from ...vectors.faults import UnstatedVectorError
from ...vectors.kinds import Stated, as_sign
from ...vectors.loading import load, look
from ..guard.faults import Problem
from ..requests.streams import Answer
from ..served import Served, noted, served
from ..shapes import answers as shapes
from ..shapes.common import Name
from .common import StrictRoute, refusals

router = APIRouter(prefix="/v1", route_class=StrictRoute, responses=refusals("own"), tags=["v1"])
READ = tuple(sorted({*SUFFIXES, *OTHERS} - set(PICKLES)))
BYTES = "application/octet-stream"
FILE = {"requestBody": {"required": True, "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}}


class Said(BaseModel):
    """What the file does not say, as `nla_sdk.vectors.load` takes it."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[Name, Field(min_length=1, description="The file's name; its suffix says what it is.")]
    rows: Annotated[Name, Field(description="Which of its rows: 12, 3:9, 3,7 or a name.")] | None = None
    kind: Literal["activation", "direction", "difference"] | None = None
    layer: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    model: Name | None = None
    maker: Name | None = None
    sign: Literal["+", "-", "−", "±"] | None = None
    centred: bool | None = None
    site: Name | None = None
    column: Name | None = None
    dtype: Name | None = None


@router.post("/vectors", response_model=shapes.Uploaded, openapi_extra=FILE)
async def vectors(said: Annotated[Said, Query()], request: Request) -> Response:
    """The vectors of a file, which is the body as it is. What the file does not say is asked: 400 with `questions`."""
    of = served(request)
    of.allow("vectors")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != BYTES:
        raise Problem(415, f"Expected the file's bytes, with Content-Type: {BYTES}.", "MediaTypeError")
    name = safe_name(said.name)
    if said.rows is not None and re.search(r"[/\\\0@]", said.rows):
        raise InputError("rows holds a character that no name of a row has here; expected 12, 3:9, 3,7 or a name.")
    async with held(request, name) as path, of.turn(request) as ticket:  # who sends slowly takes no turn meanwhile
        found = await of.gate.run(ticket, lambda: uploaded(of, path, said))
    noted(request, rows=len(found["rows"]))
    return Answer(found)


def safe_name(name: str) -> str:
    """A name for the file, of letters and its suffix: others choose neither where it lies nor what else it says.

    Raises:
        InputError: a suffix that is not read.
    """
    given = PurePath(name.replace("\\", "/")).name
    suffix = PurePath(given).suffix.lower()
    if suffix not in READ:
        raise InputError(f"A file named …{suffix[:12] or ' without a suffix'} is not read; expected {', '.join(READ)}.")
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", given[: len(given) - len(suffix)]).strip("_")[:64]
    return f"{stem or 'vectors'}{suffix}"


@asynccontextmanager
async def held(request: Request, name: str) -> AsyncIterator[Path]:
    """The body in a file of its own folder, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="nla-serve-") as folder:
        path = Path(folder) / name
        with path.open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
        yield path


def refuse_swollen(path: Path) -> None:
    """Refuse a file that says so many numbers in so few bytes that it was made to fill memory. Of one that is damaged
    more is said when it is read.

    Raises:
        Problem: it does.
    """
    size, unpacked = path.stat().st_size, 0
    with suppress(NLAError, zipfile.BadZipFile, OSError, ValueError):
        if path.suffix == ".parquet":
            file = open_parquet(path).metadata
            groups = [file.row_group(at) for at in range(file.num_row_groups)]
            unpacked = 4 * sum(one.column(at).num_values for one in groups for at in range(one.num_columns))
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(record.file_size for record in archive.infolist())
    if unpacked > max(UNPACKED_FREELY, MOST_UNPACKED * size):
        message = f"{path.name} unpacks to {unpacked:,} bytes from {size:,}, as no vectors do."
        raise Problem(400, message, DamagedFileError.__name__)


def uploaded(of: Served, path: Path, said: Said) -> dict[str, Any]:
    """What the file holds.

    Raises:
        Problem: what must be told of it. as `nla_sdk.vectors.load`, its folder left out of what is said.
    """
    refuse_swollen(path)
    facts = said.model_dump(exclude={"name", "rows"})
    ref = str(path) if said.rows is None else f"{path}#{said.rows}"
    try:
        reference, _, found = look(ref, Stated(**{**facts, "sign": as_sign(said.sign)}), local_files_only=True)
        if found.questions:
            questions = [
                {"fact": one.fact, "choices": list(one.choices), "option": one.option, "why": one.why}
                for one in found.questions
            ]
            message = f"{path.name} does not say: " + "; and ".join(map(str, found.questions)) + "."
            raise Problem(400, message, UnstatedVectorError.__name__, questions=questions)
        count = len(reference.rows(found.count, found.labels, found.numbers))
        if count > (most := of.limits.positions):
            raise InputError(f"{path.name} holds {count:,} vectors; expected at most {most}. Name some: rows=0:{most}.")
        loaded = load(ref, **facts, local_files_only=True)
    except NLAError as error:  # whatever is wrong, it is the file's
        raise Problem(400, str(error).replace(f"{path.parent}/", ""), type(error).__name__) from None
    norms = loaded.vectors.norm(dim=-1).tolist()
    labels = loaded.labels or tuple(f"#{row}" for row in range(len(loaded)))
    rows = zip(labels, norms, loaded.vectors, strict=True)
    return {
        "kind": loaded.kind,
        "layer": loaded.layer,
        "model": loaded.model,
        "source": loaded.origin.replace(f"{path.parent}/", ""),
        "assumed": list(loaded.assumed),
        "unknown": list(loaded.unknown),
        "count": len(loaded),
        "rows": [
            {"index": at, "label": label, "norm": norm, "vector": vector}
            for at, (label, norm, vector) in enumerate(rows)
        ],
    }
