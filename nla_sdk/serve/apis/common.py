"""What the three APIs share: routes whose JSON is read strictly, errors as documented, how methods are told of both."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import TYPE_CHECKING, Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from ...calls.asking import needed, require_default, require_oracle
from ..guard.faults import Problem
from ..requests.gates import Ticket
from ..requests.rows import OnText
from ..shapes.common import OwnRefused, OwnRefusedFields, Refused, RefusedFields, SiteBusy, SiteRefused

if TYPE_CHECKING:
    from ...pair import NLAPair

DEPTH = 16  # of nested lists and objects in a body
REFUSED = (400, 401, 403, 404, 413, 415, 429, 500, 503, 504)
STREAM = "text/event-stream"


class StrictRequest(Request):
    """A request whose body is UTF-8 and JSON as its standard has it: no NaN, no endless nesting."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = parsed(await self.body())
        return self._json


class StrictRoute(APIRoute):
    """A route that takes JSON only where it takes a body, and reads it strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler, takes_json = super().get_route_handler(), self.body_field is not None

        async def strict(request: Request) -> Response:
            if takes_json:
                _require_json(request)
            return await handler(StrictRequest(request.scope, request.receive))

        return strict


def _require_json(request: Request) -> None:
    message = Message()
    message["content-type"] = request.headers.get("content-type", "")
    kind = message.get_content_type()
    if not request.headers.get("content-type") or not (kind == "application/json" or kind.endswith("+json")):
        raise Problem(415, "Expected a body of JSON, with Content-Type: application/json.", "MediaTypeError")


def parsed(body: bytes) -> Any:
    """A body's JSON.

    Raises:
        Problem: 400: it is no UTF-8, no JSON, or nested deeper than any request is.
    """

    def refuse(number: str) -> Any:
        raise ValueError(f"{number} is no number of JSON")

    try:
        found = json.loads(body.decode("utf-8"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise Problem(400, f"The body is not UTF-8: byte {error.start}.", "BodyError") from None
    except RecursionError:
        raise Problem(400, "The body is nested too deeply.", "BodyError") from None
    except json.JSONDecodeError as error:
        raise Problem(400, f"The body is no JSON: {error.msg} at character {error.pos}.", "BodyError") from None
    except ValueError as error:  # NaN, Infinity, an integer of thousands of digits
        said = str(error) if "JSON" in str(error) else "a number has too many digits"
        raise Problem(400, f"The body is no JSON: {said}.", "BodyError") from None
    if _deeper(found, DEPTH):
        raise Problem(400, f"The body is nested more than {DEPTH} deep.", "BodyError")
    return found


def _deeper(value: Any, depth: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_deeper(one, depth - 1) for one in inner if isinstance(one, (dict, list)))


def refusals(api: str) -> dict[int | str, dict[str, Any]]:
    """The refusals of every route of an API, for its documentation: "inference", "own" or "site"."""
    one = {"inference": Refused, "own": OwnRefused, "site": SiteRefused}[api]
    found: dict[int | str, dict[str, Any]] = {status: {"model": one} for status in REFUSED}
    if api == "site":
        found[429] = {"model": SiteBusy}
    else:
        found[422] = {"model": RefusedFields if api == "inference" else OwnRefusedFields}
    return found


def streamed(what: str) -> dict[int | str, dict[str, Any]]:
    """That a route streams where it is asked to, for its documentation."""
    data = {"type": "string", "description": "JSON; of the last event [DONE]."}
    events = {"schema": {"type": "object", "properties": {"data": data}, "required": ["data"]}}
    return {200: {"description": what, "content": {STREAM: events}}}


def able(pair: NLAPair, what: str) -> None:
    """Refuse to explain with what only answers questions, or to ask what takes none, before a stream begins.

    Raises:
        MissingHalfError, InputError, NotAnOracleError: as the method called `what` does.
    """
    need(pair, "av", what)
    assert pair.verbalizer is not None
    require = require_oracle if what == "ask" else require_default
    require(pair.verbalizer.contract, pair.verbalizer.ref)


def need(pair: NLAPair, role: str, what: str) -> None:
    """Refuse what needs a half that the pair lacks, before a stream begins.

    Raises:
        MissingHalfError: names it.
    """
    needed(pair.verbalizer if role == "av" else pair.reconstructor, what, role.upper(), pair.missing)


def watched(ticket: Ticket, on_text: OnText | None = None) -> dict[str, Any]:
    """How a pair's method is told that nobody wants its rows any more, and tells how far a text is."""
    return {"cancel": ticket.cancel, "on_text": on_text}
