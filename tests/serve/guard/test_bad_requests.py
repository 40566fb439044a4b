"""Five hundred requests that nobody should send: 4xx with a message each, and the server goes on."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tests.serve.wire import TEXT, VECTOR, Wire

COUNT = 500
GOOD: dict[str, dict[str, Any]] = {
    "/tokenize": TEXT,
    "/extract": TEXT,
    "/explain": {**TEXT, "positions": [1], "max_new_tokens": 1},
    "/describe": {"activations": [VECTOR], "max_new_tokens": 1},
    "/score": {"description": "a", "activation": VECTOR},
    "/compare": {"activation_a": VECTOR, "activation_b": VECTOR[::-1], "max_new_tokens": 1},
    "/completion": {**TEXT, "completion_tokens": 1},
    "/api/nla/explain": {"modelId": "llama", "nlaSourceId": "tiny-1", **TEXT, "positions": [1]},
    "/api/nla/completion": {"modelId": "llama", **TEXT, "completion_tokens": 1},
    "/v1/explain": {"vectors": [VECTOR], "max_new_tokens": 1},
    "/v1/round-trip": {"vectors": [VECTOR], "max_new_tokens": 1},
    "/v1/score": {"vectors": [VECTOR], "explanations": ["a"]},
    "/v1/reconstruct": {"explanations": ["a"]},
    "/v1/steer": {**TEXT, "towards": "rain", "max_new_tokens": 1},
    "/v1/compare": {"a": {"vectors": [VECTOR]}, "b": {"vectors": [VECTOR[::-1]]}, "max_new_tokens": 1},
    "/v1/complete": {**TEXT, "max_new_tokens": 1},
}
# Wrong wherever they stand: of no field's type, or beyond every bound.
WRONG: list[Any] = [
    {"a": 1},
    [[[[1]]]],
    [None],
    10**400,
    -(10**30),
    1e300,
    "\ud800",
    "a\0b",
    [float(at) for at in range(9)],
    "a" * 70_000,
    [10**12],
    True,
]
RAW = {
    "NaN": b"NaN",
    "Infinity": b"-Infinity",
    "1e999": b"1e999",
    "digits": b"9" * 6000,
    "utf-8": b'"\xff\xfe\x80"',
    "surrogate": b'"\xed\xa0\x80"',
    "unclosed": b'"abc',
    "comment": b"1 // one",
    "deep": b"[" * 100_000,
    "nested": b"[" * 40 + b"]" * 40,
}


def bad_bodies(rng: random.Random) -> list[tuple[str, str, bytes, dict[str, str]]]:
    """What is wrong, path, body and headers, of `COUNT` requests."""
    made = []
    kind = {"Content-Type": "application/json"}
    large = b'{"text": "' + b"a" * (10 << 20) + b'"}'
    while len(made) < COUNT:
        path = rng.choice(list(GOOD))
        good = GOOD[path]
        what = rng.choice(("field", "field", "field", "raw", "raw", "missing", "whole", "large", "kind"))
        if what == "field":
            name = rng.choice(list(good))
            wrong = rng.choice(WRONG)
            made.append((f"{name}={str(wrong)[:20]!r}", path, json.dumps({**good, name: wrong}).encode(), kind))
        elif what == "raw":
            name, (which, raw) = rng.choice(list(good)), rng.choice(list(RAW.items()))
            body = json.dumps({**good, name: "HERE"}).encode().replace(b'"HERE"', raw)
            made.append((f"{name}: {which}", path, body, kind))
        elif what == "missing":
            made.append((what, path, b"{}", kind))
        elif what == "whole":
            made.append((what, path, rng.choice((b"", b"[]", b"1", b'"a"', b"null", b"\x00", b"{")), kind))
        elif what == "large" and sum(one[0] == "large" for one in made) < 5:
            made.append((what, path, large, kind))
        elif what == "kind":
            sent = rng.choice(("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""))
            made.append((what, path, json.dumps(good).encode(), {"Content-Type": sent}))
    return made


# Of some fields what is wrong of others is right: any text may be long or odd that is a text, and `True` is a bool.
def may_be_right(path: str, what: str) -> bool:
    return what.startswith(("text=", "towards=", "description=")) and "'a" in what and "\\x00" not in what


@pytest.fixture(scope="module")
def guarded(serve, full_pair) -> Wire:
    return serve(full_pair, secret="s3cret")


def test_they_are_refused_with_a_message_and_the_server_goes_on(guarded: Wire):
    seen = {}
    for what, path, body, headers in bad_bodies(random.Random(18)):
        response = guarded.http.post(path, content=body, headers=headers)
        seen[response.status_code] = seen.get(response.status_code, 0) + 1
        if response.status_code == 200:
            assert may_be_right(path, what), (path, what)
            continue
        assert 400 <= response.status_code < 500, (path, what, response.status_code, response.text)
        told = response.json()
        said = told["error"] if path.startswith("/api/nla") else told["detail"]
        assert said and len(response.text) < 10_000, "a message, and not what was sent"
    assert seen.keys() >= {400, 413, 415, 422}
    for path, body in GOOD.items():
        assert guarded.post(path, body).status_code == 200, path


def test_the_same_without_the_secret_are_not_even_read(guarded: Wire):
    stranger = Wire(guarded.url)
    for _, path, body, headers in bad_bodies(random.Random(7))[:40]:
        if len(body) < 1 << 20:  # of a larger one the connection is closed while it is sent
            assert stranger.http.post(path, content=body, headers=headers).status_code == 401


def test_a_body_in_pieces_is_counted_as_it_comes(guarded: Wire):
    def pieces():
        yield b'{"text": "'
        for _ in range(10):
            yield b"a" * (1 << 20)
        yield b'"}'

    kind = {"Content-Type": "application/json"}
    response = guarded.http.post("/tokenize", content=pieces(), headers=kind)
    assert response.status_code == 413 and response.json()["detail"]
    small = guarded.http.post("/tokenize", content=iter([b'{"text": ', b'"cat"}']), headers=kind)
    assert small.status_code == 200


@pytest.mark.parametrize(
    "line",
    (
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    ),
)
def test_what_is_no_http_ends_its_connection_and_no_other(guarded: Wire, line):
    import socket

    with socket.create_connection(("127.0.0.1", int(guarded.url.rpartition(":")[2])), timeout=10) as raw:
        raw.sendall(line)
        assert not raw.makefile("rb").readline().startswith(b"HTTP/1.1 5")
    assert guarded.get("/healthz").status_code == 200
