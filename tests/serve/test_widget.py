"""The page in a notebook: what it asks by messages is answered as over HTTP."""

from __future__ import annotations

import json
import sys
import threading
import time

import httpx2
import pytest

from nla_sdk.errors import InputError
from nla_sdk.serve.running import serving
from nla_sdk.serve.widget import Page, app_of
from tests import tiny

JSON = {"content-type": "application/json"}


class Talk:
    """The page's end of a widget's messages: a comm that keeps what is sent."""

    def __init__(self, page: Page) -> None:
        self.page, self.came, self.news = page, [], threading.Condition()
        page.send = self.hear

    def hear(self, message: dict, buffers: object = None) -> None:
        with self.news:
            self.came.append(json.loads(json.dumps(message)))
            self.news.notify_all()

    def say(self, message: dict, *buffers: bytes) -> None:
        self.page._handle_custom_msg(message, list(buffers))

    def of(self, name: str, kind: str | None = None) -> list[dict]:
        return [one for one in self.came if one["id"] == name and kind in (None, one["type"])]

    def until(self, name: str, kind: str, seconds: float = 20) -> list[dict]:
        with self.news:
            assert self.news.wait_for(lambda: self.of(name, kind), seconds), self.came
            return self.of(name)

    def ask(self, method: str, path: str, body: object = None, headers: dict | None = None, *buffers: bytes):
        name = f"r{len(self.came)}"
        text = body if body is None or isinstance(body, str) else json.dumps(body)
        message = {
            "id": name,
            "type": "request",
            "method": method,
            "path": path,
            "headers": headers or JSON,
            "body": text,
        }
        self.say(message, *buffers)
        head, *chunks, end = self.until(name, "end")
        assert head["type"] == "head" and end == {"id": name, "type": "end"}
        assert {one["type"] for one in chunks} <= {"chunk"}
        return head["status"], head["headers"], "".join(one["data"] for one in chunks)


@pytest.fixture
def talk(full_pair):
    talk = Talk(Page(full_pair, "a cat", 500))
    yield talk
    talk.page.close()


ASKED = {
    "the pair": ("GET", "/v1/pair", None),
    "tokens": ("POST", "/v1/tokenize", {"text": "a cat é"}),
    "words": ("POST", "/v1/explain", {"text": "a cat", "positions": "all", "max_new_tokens": 3}),
    "a stream": ("POST", "/v1/explain", {"text": "a cat", "max_new_tokens": 3, "stream": True}),
    "a refusal": ("POST", "/v1/explain", {"text": "a cat", "positions": 99}),
    "wrong fields": ("POST", "/v1/explain", {"txt": "a cat"}),
    "no such call": ("GET", "/v1/nothing", None),
    "no JSON": ("POST", "/v1/explain", "{"),
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_an_answer_is_that_of_http(full_pair, talk, asked):
    method, path, body = asked
    name = app_of(full_pair).state.served.name
    with serving(full_pair, name=name) as url, httpx2.Client() as client:
        sent = body if isinstance(body, str) or body is None else json.dumps(body)
        over = client.request(method, url + path, content=sent, headers=JSON)
    status, headers, text = talk.ask(method, path, body)
    final = [[line for line in one.split("\n\n") if '"done":false' not in line] for one in (text, over.text)]
    assert status == over.status_code and final[0] == final[1]
    assert headers["content-type"] == over.headers["content-type"]


def test_a_file_is_the_first_buffer_and_a_query_is_read(full_pair, talk, tmp_path):
    import numpy as np

    np.save(tmp_path / "v.npy", np.asarray(tiny.random(2, tiny.D_MODEL, seed=1)))
    path = "/v1/vectors?name=v.npy&kind=direction&layer=1"
    headers = {"content-type": "application/octet-stream"}
    status, _, text = talk.ask("POST", path, None, headers, (tmp_path / "v.npy").read_bytes())
    assert status == 200 and json.loads(text)["count"] == 2


def test_a_stream_comes_in_pieces_and_ends_when_it_is_called_off(talk):
    body = {"vectors": tiny.random(8, tiny.D_MODEL, seed=2).tolist(), "n": 8, "temperature": 0.9, "stream": True}
    body["max_new_tokens"] = 2000
    message = {"id": "long", "type": "request", "method": "POST", "path": "/v1/explain", "headers": JSON}
    talk.say({**message, "body": json.dumps(body)})
    talk.until("long", "chunk")
    began = time.monotonic()
    talk.say({"id": "long", "type": "cancel"})
    came = talk.until("long", "end")
    assert time.monotonic() - began < 5 and "[DONE]" not in "".join(one.get("data", "") for one in came)
    assert talk.ask("GET", "/v1/pair")[0] == 200
    served = talk.page._app.state.served
    deadline = time.monotonic() + 5
    while served.gate.running and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not served.gate.running


@pytest.mark.parametrize("message", [None, "x", {}, {"id": 3, "type": "request"}, {"id": "a", "type": "cancel"}])
def test_what_is_no_request_is_passed_over(talk, message):
    talk.say(message)
    assert talk.ask("GET", "/v1/pair")[0] == 200 and len(talk.of("a")) == 0


def test_a_request_with_a_wrong_method_or_path_is_refused(talk):
    assert talk.ask("BREW", "/v1/pair")[0] == 405
    assert talk.ask("GET", "v1")[0] == 404


def test_a_pair_has_one_app_for_all_its_pages_and_another_pair_another(full_pair, pair):
    pages = Page(full_pair), Page(full_pair), Page(pair)
    assert pages[0]._app is pages[1]._app is not pages[2]._app


def test_a_pair_shows_itself(full_pair):
    page = full_pair.show("a cat", height=300)
    assert isinstance(page, Page) and (page.text, page.height) == ("a cat", 300)
    assert "export" in page._esm and "application/vnd.jupyter.widget-view+json" in page._repr_mimebundle_()[0]


def test_without_the_extra_an_error_says_what_to_install(full_pair, monkeypatch):
    monkeypatch.delitem(sys.modules, "nla_sdk.serve.widget")
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(InputError, match=r'pip install "nla-sdk\[notebook\]"'):
        full_pair.show("a cat")
