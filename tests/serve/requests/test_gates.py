"""Turns: too many, too long, gone away; and that nothing goes on for whom nobody waits."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.requests import Request

from nla_sdk.serve.guard.faults import Problem
from nla_sdk.serve.observing import Meters
from nla_sdk.serve.requests.gates import Gate
from nla_sdk.serve.running import serving
from nla_sdk.serve.settings import Settings
from tests.serve.wire import TEXT, VECTOR, Wire, meanwhile, until

SOON = 5  # seconds: what is asked for below takes minutes, and goes within a second where nothing else runs
ONE = {"activations": [VECTOR], "max_new_tokens": 1}


def busy(wire: Wire) -> bool:
    return wire.gauge("nla_rows_running") > 0


def idle(wire: Wire) -> bool:
    return wire.gauge("nla_rows_running") == 0 and wire.gauge("nla_requests_running") == 0


def in_a_loop(work) -> None:
    """A coroutine in a thread of its own: in this one a browser's loop may run still."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(work())).result()


@pytest.fixture
def one_at_a_time(full_pair):
    with serving(full_pair, concurrent=1, queue=1) as url:
        yield Wire(url)


def left_after_a_look(wire: Wire, path: str, body: dict) -> None:
    """A request whose client goes away once the server is at work."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", int(wire.url.rpartition(":")[2]))) as raw:
        raw.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        until(lambda: busy(wire), 10)


@pytest.mark.parametrize("stream", (False, True), ids=("plain", "stream"))
@pytest.mark.parametrize("path", ("/describe", "/v1/round-trip"))
def test_a_client_that_goes_away_frees_its_rows(full_pair, slow, path, stream):
    body = slow if path == "/describe" else {"vectors": slow["activations"], "max_new_tokens": 800, "force": True}
    with serving(full_pair) as url:
        wire = Wire(url)
        left_after_a_look(wire, path, {**body, "stream": stream})
        until(lambda: idle(wire), SOON)
        assert wire.ask("/describe", ONE)["results"]
        text = wire.get("/metrics").text
        assert 'nla_requests_stopped_total{why="client"} 1.0' in text
        assert f'nla_requests_total{{route="{path}",status="499"}} 1.0' in text


MANY = {"vectors": [VECTOR] * 64}, {"vectors": [VECTOR[::-1]] * 64}


@pytest.mark.parametrize(
    ("path", "body"),
    (
        ("/v1/complete", {"text": "a", "max_new_tokens": 512}),
        ("/completion", {"text": "a", "completion_tokens": 512, "stream": True}),
        ("/v1/steer", {"prompts": ["a"] * 16, "vectors": [VECTOR] * 16, "max_new_tokens": 512}),
        (
            "/v1/compare",
            {"a": MANY[0], "b": MANY[1], "max_new_tokens": 800},
        ),
    ),
)
def test_the_same_of_what_else_writes(full_pair, path, body):
    with serving(full_pair) as url:
        wire = Wire(url)
        running = lambda: wire.gauge("nla_requests_running") > 0  # noqa: E731
        head = {"Host": "localhost"}
        with wire.http.stream("POST", path, json=body, headers=head) if body.get("stream") else _left(wire, path, body):
            until(running, 10)
        until(lambda: not running(), SOON)


class _left:
    """A plain request, left when the block ends."""

    def __init__(self, wire: Wire, path: str, body: dict) -> None:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self.raw = socket.create_connection(("127.0.0.1", int(wire.url.rpartition(":")[2])))
        self.raw.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exception: object) -> None:
        self.raw.close()


def test_what_takes_too_long_is_told_so_and_its_rows_are_freed(full_pair, slow):
    with serving(full_pair, timeout=0.3) as url:
        wire = Wire(url)
        response = wire.post("/describe", slow)
        assert response.status_code == 504 and "0.3 s" in response.json()["detail"]
        until(lambda: idle(wire), SOON)
        frames = wire.frames("/describe", slow)
        assert "0.3 s" in frames[-1]["error"] and "index" not in frames[-1]
        until(lambda: idle(wire), SOON)
        own = wire.frames("/v1/explain", {"vectors": slow["activations"], "max_new_tokens": 800, "force": True})
        assert own[-1]["error"] == "TimeoutError" and "0.3 s" in own[-1]["detail"]
        assert 'nla_requests_stopped_total{why="timeout"} 3.0' in wire.get("/metrics").text


def test_one_works_one_waits_and_the_next_is_told_at_once_to_come_back(one_at_a_time: Wire, slow):
    wire = one_at_a_time
    with wire.http.stream("POST", "/describe", json={**slow, "stream": True}):
        until(lambda: busy(wire), 10)
        answers = []
        waiting = meanwhile(lambda: answers.append(Wire(wire.url).ask("/describe", ONE)))
        until(lambda: wire.gauge("nla_requests_waiting") == 1, 10)
        for path, body in (
            ("/describe", ONE),
            ("/describe", {**ONE, "stream": True}),
            ("/v1/explain", TEXT),
            ("/tokenize", TEXT),
        ):
            response = wire.post(path, body)
            assert response.status_code == 429, response.text
            assert 1 <= int(response.headers["retry-after"]) <= 60
            assert response.json()["detail"]
        source = wire.get("/api/nla/sources").json()["sources"][0]
        site = {"modelId": source["modelId"], "nlaSourceId": source["id"], **TEXT, "positions": [1]}
        told = wire.post("/api/nla/explain", site)
        assert told.status_code == 429
        fields = {"endpoint", "limitPerWindow", "requestWindow", "remainingRequests", "error"}
        assert set(told.json()) == fields
        assert wire.get("/healthz").status_code == 200
        assert not answers
    waiting.join(10)
    assert answers and answers[0]["results"], "who waited has its turn"


def test_who_waits_and_goes_away_has_no_turn(one_at_a_time: Wire, slow):
    wire = one_at_a_time
    with wire.http.stream("POST", "/describe", json={**slow, "stream": True}):
        until(lambda: busy(wire), 10)
        with _left(wire, "/describe", ONE):
            until(lambda: wire.gauge("nla_requests_waiting") == 1, 10)
        until(lambda: wire.gauge("nla_requests_waiting") == 0, SOON)
    until(lambda: idle(wire), 10)
    assert wire.ask("/describe", ONE)["results"]


def test_who_waits_longer_than_a_request_may_take_is_told_so():
    async def tried() -> None:
        gate = Gate(Settings(concurrent=1, timeout=0.2), Meters())
        request, done = Request({"type": "http"}, asyncio.Event().wait), threading.Event()
        first = await gate.enter(request)
        deaf = asyncio.ensure_future(gate.run(first, lambda: done.wait(10)))  # it looks at no `cancel`
        with pytest.raises(Problem, match="before it was its turn") as late:
            await gate.enter(request)
        assert late.value.status_code == 503
        with pytest.raises(Problem) as ended:  # nobody waits for it, and its place is taken until it ends
            await deaf
        assert ended.value.status_code == 504
        gate.leave(first)
        assert gate.running
        done.set()
        while gate.running:
            await asyncio.sleep(0.01)

    in_a_loop(tried)


def test_many_at_once_get_what_each_gets_alone(serve, full_pair):
    url = serve(full_pair).url
    rows = [VECTOR[at:] + VECTOR[:at] for at in range(12)]
    alone = [str(text) for text in full_pair.explain(rows, max_new_tokens=12)]
    found: dict[int, list[str]] = {}

    def ask(at: int) -> None:
        wire = Wire(url)
        frames = wire.frames("/describe", {"activations": [rows[at]], "max_new_tokens": 12, "temperature": 0})
        found[at] = [frame["description"] for frame in frames if "description" in frame]

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [found[at] for at in range(12)] == [[text] for text in alone]


def test_a_request_that_is_refused_leaves_no_rows_at_work(full_pair, slow):
    rows = list(slow["activations"])
    rows[5] = [0.0] * len(rows[5])
    with serving(full_pair) as url:
        wire = Wire(url)
        assert wire.post("/describe", {"activations": rows, "max_new_tokens": 4000}).status_code == 400
        until(lambda: idle(wire), SOON)


def test_a_client_that_reads_nothing_keeps_no_turn_beyond_its_time(monkeypatch):
    from nla_sdk.serve.requests import streams

    monkeypatch.setattr(streams, "UNREAD", 0.2)

    async def tried() -> None:
        gate = Gate(Settings(timeout=0.2), Meters())
        ticket = await gate.enter(Request({"type": "http"}, asyncio.Event().wait))
        closed: list[bool] = []

        async def frames():
            try:
                while True:
                    yield {"text": "more"}
            finally:
                closed.append(True)

        async def send(message):
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()  # its buffers are full, and stay so

        scope = {"type": "http", "asgi": {"spec_version": "2.4"}, "nla.seen": {}}
        stream = streams.Frames(frames(), gate, ticket, "/explain")
        await asyncio.wait_for(stream(scope, asyncio.Event().wait, send), 5)
        assert not gate.running and ticket.why == "timeout" and ticket.cancel.is_set() and closed

    in_a_loop(tried)
