"""A connection to a server that answers what it likes: what is sent again, what is believed, what is never shown."""

from __future__ import annotations

import json
import logging
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nla_sdk import Client
from nla_sdk.errors import CancelledCallError, InputError, PositionError
from nla_sdk.serve.remote import connection
from nla_sdk.serve.remote.connection import Connection, ServerError
from nla_sdk.vectors.faults import UnstatedVectorError

SECRET = "open-sesame-4711"


class Scripted(ThreadingHTTPServer):
    """Answers each request with the next of `script`: status, headers, body; a body of None is never ended."""

    daemon_threads = True

    def __init__(self) -> None:
        self.script: list[tuple[int, dict[str, str], bytes | None]] = []
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.left = threading.Event()
        super().__init__(("127.0.0.1", 0), Answering)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answering(BaseHTTPRequestHandler):
    server: Scripted

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.asked.append((self.command, self.path, dict(self.headers), body))
        status, headers, answer = self.server.script.pop(0)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if answer is not None:
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer or b"")
        if answer is None and not self.connection.recv(1):  # nothing more comes until the client goes away
            self.server.left.set()

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    with Scripted() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ok(value: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def refusal(status: int, **said: object) -> tuple[int, dict[str, str], bytes]:
    return status, {}, json.dumps(said).encode()


def test_a_request_carries_its_json_and_the_secret(server):
    server.script = [ok({"a": 1})]
    assert Connection(server.url + "/", SECRET).call("POST", "/v1/x", {"b": "é"}) == {"a": 1}
    [(method, path, headers, body)] = server.asked
    assert (method, path, json.loads(body)) == ("POST", "/v1/x", {"b": "é"})
    assert headers["X-SECRET-KEY"] == SECRET and headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("when", ["0.05", formatdate(time.time() - 5)], ids=["seconds", "a date"])
def test_what_is_to_come_again_is_sent_again_when_it_says(server, when):
    busy = (429, {"Retry-After": when}, b'{"detail": "busy", "error": "BusyError"}')
    server.script = [busy, busy, ok(7)]
    assert Connection(server.url).call("GET", "/v1/pair") == 7 and len(server.asked) == 3


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "3600"}, {"Retry-After": "soon"}])
def test_who_does_not_say_when_or_says_much_later_is_not_asked_again(server, headers):
    server.script = [(429, headers, b'{"detail": "busy", "error": "BusyError"}')]
    with pytest.raises(ServerError, match="busy") as error:
        Connection(server.url).call("GET", "/")
    assert error.value.status == 429 and len(server.asked) == 1


def test_it_is_not_asked_for_ever(server):
    server.script = [(429, {"Retry-After": "0"}, b'{"detail": "busy"}')] * 9
    with pytest.raises(ServerError, match="busy"):
        Connection(server.url).call("GET", "/")
    assert len(server.asked) == connection.TRIES


@pytest.mark.parametrize("status", [500, 502, 503, 404])
def test_nothing_else_is_sent_again(server, status):
    server.script = [refusal(status, detail="no")]
    with pytest.raises(ServerError, match="no") as error:
        Connection(server.url).call("GET", "/")
    assert error.value.status == status and len(server.asked) == 1


def test_an_error_is_of_the_class_that_it_names_and_of_no_other_package(server):
    names = {"PositionError": PositionError, "UnstatedVectorError": UnstatedVectorError, "KeyError": ServerError}
    for name, kind in names.items():
        server.script = [refusal(400, detail="so it is", error=name)]
        with pytest.raises(kind, match="so it is") as error:
            Connection(server.url).call("GET", "/")
        assert error.type is kind


def test_refused_fields_are_named(server):
    server.script = [
        refusal(422, detail=[{"loc": ["body", "n"], "msg": "too many", "type": "x"}], error="ValidationError")
    ]
    with pytest.raises(ServerError, match="n: too many"):
        Connection(server.url).call("POST", "/", {})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, {}, b"<html>"), "no JSON"),
        ((302, {"Location": "http://example.org/"}, b""), "302"),
        ((401, {}, b'{"detail": "A secret."}'), "secret="),
    ],
)
def test_what_is_no_answer_is_an_error_that_says_so(server, answer, said):
    server.script = [answer]
    with pytest.raises(ServerError, match=said):
        Connection(server.url, SECRET).call("GET", "/")
    assert len(server.asked) == 1


def test_an_answer_of_another_version_is_an_error_that_says_so(server):
    server.script = [ok({"name": "x"})]
    with pytest.raises(ServerError, match="another version"):
        _ = Client(server.url).pair


def events(*frames: str) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "text/event-stream"}, "".join(f"data: {one}\n\n" for one in frames).encode()


def test_a_stream_is_read_to_its_end_and_one_cut_short_is_an_error(server):
    server.script = [events('{"a": 1}', '{"a": 2}', "[DONE]"), events('{"a": 1}')]
    here = Connection(server.url)
    assert list(here.stream("/", {})) == [{"a": 1}, {"a": 2}]
    frames = here.stream("/", {})
    assert next(frames) == {"a": 1}
    with pytest.raises(ServerError, match="ended before its end"):
        next(frames)


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_called_off_closes_its_connection(server, stream):
    server.script = [(200, {"Content-Type": "text/event-stream"}, None)]
    cancel, here = threading.Event(), Connection(server.url)
    threading.Timer(0.1, cancel.set).start()
    with pytest.raises(CancelledCallError):
        list(here.stream("/", {}, cancel=cancel)) if stream else here.call("POST", "/", {}, cancel=cancel)
    assert server.left.wait(2)


def test_who_stops_reading_closes_the_connection(server):
    server.script = [(200, {"Content-Type": "text/event-stream"}, None)]
    frames = Connection(server.url, timeout=0.2).stream("/", {})
    with pytest.raises(ServerError, match="nothing came for 0.2 seconds"):
        next(frames)
    assert server.left.wait(2)


def test_nobody_there_is_an_error_that_says_where():
    with pytest.raises(ServerError, match="127.0.0.1:9/v1/pair cannot be reached") as error:
        _ = Client("http://127.0.0.1:9").pair
    assert error.value.status is None


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("127.0.0.1:5009", None),
        ("ftp://127.0.0.1", None),
        (f"http://ada:{SECRET}@127.0.0.1:5009", None),
        (f"http://127.0.0.1:5009?secret={SECRET}", None),
        ("http://127.0.0.1:5009", f"{SECRET}\n"),
        ("http://127.0.0.1:5009", f"{SECRET}é"),
        ("http://127.0.0.1:5009", ""),
    ],
)
def test_an_address_or_a_secret_that_is_none_is_refused_and_not_repeated(url, secret):
    with pytest.raises(InputError) as error:
        Client(url, secret)
    assert SECRET not in str(error.value)


def test_the_secret_is_shown_nowhere(server, caplog):
    caplog.set_level(logging.DEBUG)
    server.script = [refusal(403, detail="The secret is not the one of this server.")]
    client = Client(server.url, SECRET)
    with pytest.raises(ServerError) as error:
        _ = client.pair
    shown = [repr(client), str(vars(client)), repr(error.value), str(error.value.__cause__), caplog.text]
    assert server.asked[0][2]["X-SECRET-KEY"] == SECRET and not any(SECRET in one for one in shown)
