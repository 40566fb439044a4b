"""Switches for trouble: any request may be refused, slowed, or cut off before or after the Hub has acted."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

Kind = str  # "cut", "slow", or the HTTP status of a refusal
RETRY_AFTER = 0  # seconds that refusals ask for


@dataclass
class Fault:
    """Trouble for some requests.

    Attributes:
        at: the first request it meets, counted from 0 since `plan`.
        times: how many requests in a row.
        acted: of a cut: the Hub does what was asked, and its answer is lost.
        after_bytes: of a cut: how much of the answer's body still arrives.
        seconds: of slow.
    """

    at: int
    kind: Kind
    times: int = 1
    acted: bool = False
    after_bytes: int = 0
    seconds: float = 0.3

    def meets(self, number: int) -> bool:
        return self.at <= number < self.at + self.times


class Troubled:
    """The application with faults before it.

    Args:
        app: an ASGI application.
    """

    def __init__(self, app) -> None:
        self.app, self.faults, self.count, self.sent = app, [], 0, 0
        self.outage: int | None = None

    def plan(self, *faults: Fault) -> None:
        """Forget earlier faults, and count requests from here."""
        self.faults, self.count = list(faults), 0

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        connection, send = send.__self__, self._counting(send)  # uvicorn's own
        number, self.count = self.count, self.count + 1
        if self.outage:
            return await _refuse(send, self.outage)
        fault = next((one for one in self.faults if one.meets(number)), None)
        if fault is None:
            return await self.app(scope, receive, send)
        if fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
            return await self.app(scope, receive, send)
        if fault.kind != "cut":
            await _drain(receive)
            return await _refuse(send, int(fault.kind))
        await self._cut(fault, scope, receive, send, connection)

    def _counting(self, send):
        """The same, with the bytes of headers and bodies added to `sent`."""

        async def counted(message) -> None:
            self.sent += len(message.get("body", b"")) + sum(len(k) + len(v) + 4 for k, v in message.get("headers", ()))
            await send(message)

        return counted

    async def _cut(self, fault: Fault, scope, receive, send, connection) -> None:
        """Close the connection: before anything was done, or with the answer under way."""
        answer: list[dict] = []

        async def keep(message) -> None:
            answer.append(message)

        if fault.acted or fault.after_bytes:
            await self.app(scope, receive, keep)
        else:
            await _drain(receive)
        if fault.after_bytes and answer:
            body = b"".join(message.get("body", b"") for message in answer)
            headers = [pair for pair in answer[0]["headers"] if pair[0].lower() != b"content-length"]
            length = [(b"content-length", str(max(len(body), fault.after_bytes + 1)).encode())]
            await send({"type": "http.response.start", "status": answer[0]["status"], "headers": headers + length})
            await send({"type": "http.response.body", "body": body[: fault.after_bytes], "more_body": True})
        connection.transport.close()  # no answer, no end of the answer


async def _drain(receive) -> None:
    while (await receive()).get("more_body"):
        pass


async def _refuse(send, status: int) -> None:
    body = json.dumps({"error": "The server is having a bad day."}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"retry-after", str(RETRY_AFTER).encode()), (b"x-error-message", b"The server is having a bad day.")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
