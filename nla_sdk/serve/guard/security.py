"""Who may ask: the host that is asked for, the page that asks, the secret; and the headers of every answer."""

from __future__ import annotations

import hashlib
import hmac

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..settings import LOOPBACK, Settings
from .faults import SITE, Problem, answer

OPEN = ("/healthz",)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors {frame}"
)


class Guard:
    """Refuses whom a server is not for, before anything of a request is read."""

    def __init__(self, app: ASGIApp, settings: Settings, files: frozenset[str], most: int) -> None:
        """
        Args:
            files: paths of the page, which need no secret: it is where one is typed in.
            most: bytes that a body may say it has; one that comes in pieces is counted as it is read.
        """
        self.app, self.settings, self.files, self.most = app, settings, files, most
        headers = {
            "Content-Security-Policy": POLICY.format(frame=settings.frame),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        }
        if settings.frame == "'none'":
            headers["X-Frame-Options"] = "DENY"
        if settings.frame == "'self'":
            headers["X-Frame-Options"] = "SAMEORIGIN"
        self.headers = headers
        self._digest = None if settings.secret is None else _digest(settings.secret.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # no websockets here
            await self.app(scope, receive, send)
            return

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
                if "server" in headers:
                    del headers["server"]
            await send(message)

        if (problem := self.problem(scope)) is not None:
            await answer(scope["path"], problem)(scope, receive, headed)
            return
        await self.app(scope, receive, headed)

    def problem(self, scope: Scope) -> Problem | None:
        """Why a request is refused; None: it is not."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        host = hosts[0] if len(hosts) == 1 else ""
        # A name that somebody else's DNS points at this machine is not this machine's.
        if self.settings.is_local and _name(host) not in (*LOOPBACK, self.settings.host.lower()):
            return Problem(421, "The Host header names another machine than this one's loopback.", "HostError")
        for origin in headers.getlist("origin"):
            if origin.partition("://")[2].lower() != host.lower():
                return Problem(403, "Pages of other origins are not answered.", "OriginError")
        return self._of_secret(scope, headers) or self._of_length(headers)

    def _of_length(self, headers: Headers) -> Problem | None:
        said = headers.get("content-length", "0")
        if said.isdecimal() and len(said) < 19 and int(said) <= self.most:
            return None
        return Problem(413, f"The body is larger than {self.most:,} bytes, the most that is read here.", "BodyError")

    def _of_secret(self, scope: Scope, headers: Headers) -> Problem | None:
        if self._digest is None or scope["path"] in OPEN:
            return None
        read, path = scope["method"] in ("GET", "HEAD"), scope["path"]
        if read and path in self.files and (path != "/" or wants_page(headers)):
            return None
        names = ["x-secret-key", *(["x-api-key"] if scope["path"].startswith(SITE) else [])]
        given = [value for name in names for value in headers.getlist(name)]
        if not given:
            return Problem(401, "A secret is asked for, in the header X-SECRET-KEY.", "SecretError")
        right = [hmac.compare_digest(_digest(value.encode("latin-1")), self._digest) for value in given]
        return None if all(right) else Problem(403, "The secret is not the one of this server.", "SecretError")


def wants_page(headers: Headers) -> bool:
    """Whether a client asks for the page rather than the status: a browser."""
    return "text/html" in headers.get("accept", "").lower()


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower()
