"""The app: three APIs on one pair, the page, health and metrics."""

from __future__ import annotations

from datetime import datetime, timezone
from importlib import resources
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import JSONResponse

from .. import __version__
from ..errors import NLAError
from .about import without_folders, without_places
from .apis import inference, more, own, site, status, uploads
from .guard.faults import SITE, answer, refused_fields
from .guard.security import Guard, wants_page
from .observing import Meters, Observing
from .requests.gates import Gate
from .served import Served
from .settings import Settings

if TYPE_CHECKING:
    from ..pair import NLAPair

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/nla.js": ("nla.js", "text/javascript; charset=utf-8"),
    "/nla.css": ("nla.css", "text/css; charset=utf-8"),
}
"""The page: paths, files, types. No other file is ever read for a request."""
SMALLEST = 8 << 20  # bytes of the largest body
DIGITS = 24  # characters that a number of a vector takes in JSON


def create_app(pair: NLAPair, settings: Settings, name: str = "pair") -> FastAPI:
    """The app that serves a pair.

    Args:
        name: what the pair is called, on the page and in the APIs; of a folder its last part.
    Example:
        >>> app = create_app(pair, Settings())  # doctest: +SKIP
    """
    meters = Meters()
    most = settings.max_body or max(SMALLEST, settings.limits.positions * pair.d_model * DIGITS)
    app = FastAPI(
        title="nla serve",
        version=__version__,
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        middleware=[
            Middleware(Observing, meters=meters),
            Middleware(Guard, settings=settings, files=frozenset(FILES), most=most),
            Middleware(RequestBodyLimitMiddleware, max_body_size=most),
        ],
    )
    gate = Gate(settings, meters, lambda error: without_places(error, pair))
    app.state.served = Served(pair, without_folders(name), settings, meters, gate, datetime.now(timezone.utc))
    for part in (inference, site, own, more, uploads, status):
        app.include_router(part.router)
    _pages(app)
    _refusals(app)
    _documented(app)
    return app


def _pages(app: FastAPI) -> None:
    folder = resources.files("nla_sdk.serve").joinpath("page")
    files = {path: (folder.joinpath(file), kind) for path, (file, kind) in FILES.items()}
    held = {path: (file.read_bytes(), kind) for path, (file, kind) in files.items() if file.is_file()}

    def page(path: str) -> Response:
        body, kind = held[path]
        return Response(body, media_type=kind, headers={"Cache-Control": "no-cache"})

    @app.get("/", response_model=status.Status, responses={200: {"content": {"text/html": {}}}}, tags=["inference"])
    async def root(request: Request) -> Response:
        """What is served; for browsers the page."""
        if wants_page(request.headers) and "/" in held:
            return page("/")
        return JSONResponse(status.status_of_pair(request.app.state.served))

    for path in held.keys() - {"/"}:
        app.add_api_route(path, lambda path=path: page(path), include_in_schema=False)


def _documented(app: FastAPI) -> None:
    """Have the documentation leave out what is never answered: the site's API refuses wrong fields with 400, and where
    nothing is sent, nothing of it can be wrong."""
    made = app.openapi

    def described() -> dict[str, Any]:
        schema = made()
        for path, methods in schema["paths"].items():
            for method, told in methods.items():
                never = ("413", "415", "422") if method == "get" else ("422",) if path.startswith(SITE) else ()
                for code in never:
                    told["responses"].pop(code, None)
        return schema

    app.openapi = described


def _refusals(app: FastAPI) -> None:
    async def refused(request: Request, error: Exception) -> Response:
        told = request.app.state.served.gate.told(error) if isinstance(error, NLAError) else error
        return answer(request.url.path, told)

    async def fields(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return refused_fields(request.url.path, error.errors())

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(NLAError, refused)
    app.add_exception_handler(RequestValidationError, fields)
