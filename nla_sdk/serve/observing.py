"""What is seen of a server from outside: counts for Prometheus and a line a request, neither with any text in it."""

from __future__ import annotations

import logging
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .guard.faults import answer, logged

log = logging.getLogger("nla_sdk.serve")
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Meters:
    """The figures of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        of = {"registry": self.registry}
        self.requests = Counter("nla_requests", "Requests answered.", ["route", "status"], **of)
        self.seconds = Histogram("nla_request_seconds", "Until the last byte.", ["route"], buckets=SECONDS, **of)
        self.rows = Counter("nla_rows", "Rows written or scored.", ["route"], **of)
        self.failed = Counter("nla_rows_failed", "Rows that ended with an error.", ["route"], **of)
        self.tokens = Counter("nla_tokens_written", "Tokens of explanations, answers and continuations.", **of)
        self.stopped = Counter("nla_requests_stopped", "Requests stopped before their end.", ["why"], **of)
        self.running = Gauge("nla_requests_running", "Requests at work.", **of)
        self.waiting = Gauge("nla_requests_waiting", "Requests that wait for their turn.", **of)
        self.rows_running = Gauge("nla_rows_running", "Rows at work.", **of)
        for why in ("client", "timeout", "stop"):
            self.stopped.labels(why)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)


class Observing:
    """A line and the counts of each request. Routes are the templates of this server, never what was asked for."""

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self.app, self.meters = app, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["nla.seen"] = seen = {"status": 0, "rows": 0, "failed": 0, "tokens": 0, "why": ""}
        began = time.perf_counter()

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except ClientDisconnect:  # in the midst of its own body
            seen["why"] = "client"
        except Exception as error:  # a bug; the message of one may hold a text, and uvicorn would log it
            logged(error)
            if not seen["status"]:
                await answer(scope["path"], error)(scope, receive, watched)
        finally:
            self._note(scope, seen, time.perf_counter() - began)

    def _note(self, scope: Scope, seen: dict[str, Any], seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "other"
        status = 499 if seen["why"] == "client" else seen["status"] or 499
        self.meters.requests.labels(route, str(status)).inc()
        self.meters.seconds.labels(route).observe(seconds)
        if seen["rows"]:
            self.meters.rows.labels(route).inc(seen["rows"])
        if seen["failed"]:
            self.meters.failed.labels(route).inc(seen["failed"])
        self.meters.tokens.inc(seen["tokens"])
        if seen["why"]:
            self.meters.stopped.labels(seen["why"]).inc()
        method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "other"
        stopped = f" stopped={seen['why']}" if seen["why"] else ""
        log.info(
            "%s %s %d %.3fs rows=%d failed=%d tokens=%d%s",
            *(method, route, status, seconds, seen["rows"], seen["failed"], seen["tokens"], stopped),
        )
