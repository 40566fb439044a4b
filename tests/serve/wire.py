"""A client that knows nothing of nla_sdk: HTTP, JSON, and server-sent events read line by line."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2

VECTOR = [round(0.5 - (at * 37 % 64) / 64, 3) for at in range(64)]
"""An activation, as long as those of the tiny pairs."""
TEXT = {"text": "The cat sat on the mat."}
CHAT = {"messages": [{"role": "user", "content": "Is it raining?"}, {"role": "model", "content": "It is."}]}
TOKEN = {
    "token": str,
    "token_id": int,
    "position": int,
    "fragment_index": int,
    "fragment_count": int,
    "role": (str, type(None)),
    "section": (str, type(None)),
    "channel": (str, type(None)),
    "message_index": (int, type(None)),
}


class Wire:
    """One server, asked as any client asks it."""

    def __init__(self, url: str, **headers: str) -> None:
        self.url = url
        self.http = httpx2.Client(base_url=url, headers=headers, timeout=180.0)

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return self.http.get(path, headers=headers)

    def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        return self.http.post(path, json=body, headers=headers)

    def ask(self, path: str, body: Any) -> Any:
        """The JSON of an answer that must be right."""
        response = self.post(path, body)
        assert response.status_code == 200, (response.status_code, response.text)
        assert response.headers["content-type"] == "application/json"
        return response.json()

    def frames(self, path: str, body: dict[str, Any]) -> list[Any]:
        """The frames of a stream, which must be as the tables write them: `data: …`, a blank line, at last [DONE]."""
        with self.http.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            text = "".join(response.iter_text())
        events = text.split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""], events[-2:]
        lines = [line for event in events[:-2] for line in event.split("\n") if not line.startswith(":")]
        assert all(line.startswith("data: ") for line in lines)
        return [json.loads(line.removeprefix("data: ")) for line in lines]

    def gauge(self, name: str) -> float:
        """A figure of /metrics that has no labels."""
        lines = self.get("/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.split()[0] == name)


def fields_are(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Whether each field is there and of its type; a whole number is one for a float too."""
    for name, kind in wanted.items():
        assert name in found, (name, sorted(found))
        assert isinstance(found[name], (int, float) if kind is float else kind), (name, found[name])


def told_of(check: Any) -> dict[str, Any]:
    """What a server tells of a check: no path of its machine."""
    from nla_sdk.claims.telling import told

    return json.loads(re.sub(r"(beside )\S+/(\w+:)", r"\1\2", json.dumps(told(check))))


def until(holds: Callable[[], bool], seconds: float) -> float:
    """Wait until something holds; how long it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - began


def meanwhile(work: Callable[[], Any]) -> threading.Thread:
    """Work in a thread, which has begun."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
