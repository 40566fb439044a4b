"""Rows asked for, in as many requests as it takes, as an answer or a stream; put together as the caller gave them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ...errors import NLAError, SuspectActivationsWarning
from ...model.running.watching import Watch
from ...results import Results
from ...sampling import Sampling
from .answers import ServedPair
from .asking import Asked
from .connection import Connection, ServerError, named

Made = TypeVar("Made")
Row = dict[str, Any]
MOST = 512
"""Rows of one request, where a server does not say how many it takes."""


def writing(sampling: Sampling) -> Row:
    """How words are written, as the fields of a request."""
    said = {"temperature": sampling.temperature, "seed": sampling.seed}
    return said if sampling.max_new_tokens is None else {**said, "max_new_tokens": sampling.max_new_tokens}


def made(make: Callable[..., Made], *of: Any) -> Made:
    """What is made of an answer.

    Raises:
        ServerError: it is not what `nla serve` of this version answers.
    """
    try:
        return make(*of)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, AssertionError) as error:
        if isinstance(error, NLAError):
            raise
        raise ServerError(
            f"The server's answer is not one of this version's ({type(error).__name__}: {error}); it runs another "
            "version of nla-sdk, or is no `nla serve`."
        ) from error


def written(
    server: Connection,
    path: str,
    of: Asked,
    fields: Mapping[str, Any],
    watch: Watch,
    make: Callable[[Row], Made],
    *,
    pair: ServedPair,
    each: int = 1,
    costs: int = 1,
) -> Any:
    """What is made of the rows: one, Results, or with several of each Results of Results, as a pair's methods return.

    Args:
        each: rows that come back of one that was asked about; costs: texts that are written for each of these.
        watch: told as rows are written. With a function in it they are asked for as a stream.
    Raises:
        NLAError: what a row failed with. CancelledCallError: `watch` was called off.
    """
    most = pair.facts.get("limits", {}).get("positions", MOST)
    found: list[list[Made]] = []
    for first, part in of.parts(max(1, most // (each * costs))):
        watch.check()
        body = {**part, **fields}
        if watch.progress is None and watch.on_text is None:
            answer = server.call("POST", path, body, cancel=watch.cancel)
            rows = made(lambda answer=answer: list(answer["rows"]))
            _warn(of, answer)
        else:
            rows = _streamed(server, path, of, body, watch, first, each)
        for row in rows:
            refuse(row)
        groups: dict[int, list[Made]] = {}
        for row in rows:
            groups.setdefault(made(lambda row=row: int(row["index"])), []).append(made(make, row))
        found += [groups[at] for at in sorted(groups)]
    if any(len(group) != each for group in found):
        raise ServerError(f"The server's answer is not whole: of some rows less than {each} texts came back.")
    several: list[Any] = [Results(group) if each > 1 else group[0] for group in found]
    one = of.single or (of.single is None and len(several) == 1 < len(of))
    return several[0] if one else Results(several)


def _streamed(server: Connection, path: str, of: Asked, body: Row, watch: Watch, first: int, each: int) -> list[Row]:
    """A stream's rows in their order; how they grow is told in this thread."""
    rows: dict[tuple[int, int, int], Row] = {}
    told: dict[int, str] = {}

    def tell(number: int, text: str) -> None:
        if watch.on_text is not None and told.get(number) != text:
            told[number] = text
            watch.on_text(number, text)

    samples = int(body.get("n", 1))
    for frame in server.stream(path, {**body, "stream": True}, cancel=watch.cancel):
        if "total" in frame:
            _warn(of, frame)
            continue
        refuse(frame)
        # Of a direction and of the same turned round, text so far does not say which it is of; the whole one does.
        turned = each // samples > 1
        sign = samples if turned and frame.get("sign") == "−" else 0
        number = (first + frame.get("index", 0)) * each + sign + frame.get("sample", 0)
        if frame.get("done"):
            tell(number, str(frame.get("api_explanation", "")))
            rows[frame["index"], sign, frame.get("sample", 0)] = frame
            if watch.progress is not None:
                watch.progress(1)
        elif "text" in frame and not (turned and "sign" not in frame):
            tell(number, str(frame["text"]))
    return [rows[key] for key in sorted(rows)]


def refuse(row: Mapping[str, Any]) -> None:
    """Raise what a row, or a stream before its end, failed with."""
    if isinstance(row.get("error"), str):
        message = str(row.get("detail") or row["error"])
        raise named(row["error"], message) or ServerError(message)


def _warn(of: Asked, said: Mapping[str, Any]) -> None:
    if said.get("warning") and not of.read:
        warnings.warn(str(said["warning"]), SuspectActivationsWarning, stacklevel=4)
