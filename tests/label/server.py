"""A loopback server that speaks the wire formats of Anthropic Messages and OpenAI Chat Completions, and fails on cue.

Answers depend on the prompt alone, so that a run that was interrupted can be compared with one that wasn't.

    with LabelServer() as server:
        server.script = lambda call: "500" if call.attempt == 0 else None   # the first call for each prompt fails
        server.base_url("openai")
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKENS_IN, TOKENS_OUT = 1000, 100


@dataclass
class Call:
    """One request: which API and model, the prompt, the key sent, how many calls with this prompt came before."""

    api: str
    model: str
    prompt: str
    key: str | None
    attempt: int
    body: dict
    fault: str | None = None

    @property
    def is_audit(self) -> bool:
        return self.prompt.startswith("You audit")


def chance(call: Call) -> float:
    """A number in [0, 1) by prompt and attempt: faults that are the same in every run."""
    digest = hashlib.sha256(f"{call.attempt}|{call.prompt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def label_for(prompt: str) -> str:
    return f"Label {hashlib.sha256(prompt.encode()).hexdigest()[:12]} in so many plain words."


def reply_to(call: Call) -> str:
    """What a well-behaved model says."""
    if call.is_audit:
        return json.dumps({"verdict": "accept", "explanation": "", "reason": ""})
    return f"<explanation>{label_for(call.prompt)}</explanation>"


class LabelServer:
    """The server.

    Attributes:
        script: names the fault of a call, or None: 429, 429-date, 429-long, quota, 500, 503, 529, 401, 404, 400, hang,
            truncated, not-json, html, refusal, filtered, empty, no-tags, cut.
        reply: what the model says where nothing fails.
        hang: seconds that a hanging call is held.
        delay: seconds before every answer.
        retry_after: of 429 and 429-date; `long_retry_after` of 429-long.
        calls: all calls so far.
    """

    def __init__(self) -> None:
        self.script: Callable[[Call], str | None] = lambda call: None
        self.reply: Callable[[Call], str] = reply_to
        self.hang, self.delay, self.retry_after, self.long_retry_after = 3.0, 0.0, 0.02, 3600.0
        self.calls: list[Call] = []
        self.lock = threading.Lock()
        self._seen: Counter[str] = Counter()
        self._closing = threading.Event()
        handler = type("BoundHandler", (_Handler,), {"server_": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def base_url(self, api: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}" + ("/v1" if api == "openai" else "")

    @property
    def faults(self) -> int:
        return sum(call.fault is not None for call in self.calls)

    def record(self, api: str, body: dict, key: str | None) -> Call:
        prompt = body["messages"][0]["content"]
        with self.lock:
            call = Call(api, body["model"], prompt, key, self._seen[prompt], body)
            self._seen[prompt] += 1
            call.fault = self.script(call)
            self.calls.append(call)
        return call

    def __enter__(self) -> LabelServer:
        return self

    def __exit__(self, *exception) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_: LabelServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        api = "anthropic" if self.path.startswith("/v1/messages") else "openai"
        key = self.headers.get("x-api-key") or (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        call = self.server_.record(api, body, key)
        if self.server_.delay:
            time.sleep(self.server_.delay)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a client that was killed
            self._answer(call)

    def _answer(self, call: Call) -> None:
        fault, server = call.fault, self.server_
        if fault == "hang":
            server._closing.wait(server.hang)
            self.close_connection = True
        elif fault == "truncated":
            data = json.dumps(self._completion(call, server.reply(call))).encode()
            self._send(200, data, length=len(data) + 200)
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif fault == "not-json":
            self._send(200, b'{"id": "msg_1", "content": [{"type": "te')
        elif fault == "html":
            self._send(200, b"<html>Bad gateway</html>", {"Content-Type": "text/html"})
        elif fault in ("refusal", "filtered"):
            self._json(200, self._refusal(call, fault))
        elif fault == "empty":
            self._json(200, self._completion(call, ""))
        elif fault == "cut":
            answer = self._completion(call, "<explanation>A label that breaks off")
            if call.api == "anthropic":
                answer["stop_reason"] = "max_tokens"
            else:
                answer["choices"][0]["finish_reason"] = "length"
            self._json(200, answer)
        elif fault == "no-tags":
            self._json(200, self._completion(call, "Certainly! Here is what I think, at some length."))
        elif fault is None:
            self._json(200, self._completion(call, server.reply(call)))
        else:
            self._error(call, fault)

    def _completion(self, call: Call, text: str) -> dict:
        if call.api == "anthropic":
            return {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": call.model,
                "content": [{"type": "text", "text": text}],
                "stop_reason": "end_turn",
                "stop_sequence": None,
                "usage": {"input_tokens": TOKENS_IN, "output_tokens": TOKENS_OUT},
            }
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": call.model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "finish_reason": "stop",
                    "logprobs": None,
                }
            ],
            "usage": {
                "prompt_tokens": TOKENS_IN,
                "completion_tokens": TOKENS_OUT,
                "total_tokens": TOKENS_IN + TOKENS_OUT,
            },
        }

    def _refusal(self, call: Call, fault: str) -> dict:
        answer = self._completion(call, "")
        if call.api == "anthropic":
            return {**answer, "content": [], "stop_reason": "refusal"}
        choice = answer["choices"][0]
        if fault == "refusal":
            choice["message"] = {"role": "assistant", "content": None, "refusal": "I can't help with that."}
        else:
            choice["finish_reason"] = "content_filter"
        return answer

    def _error(self, call: Call, fault: str) -> None:
        status = 429 if fault == "quota" else int(fault.partition("-")[0])
        headers = {}
        if fault == "429":
            headers["Retry-After"] = str(self.server_.retry_after)
        elif fault == "429-date":
            headers["Retry-After"] = self.date_time_string(time.time() + self.server_.retry_after)
        elif fault == "429-long":
            headers["Retry-After"] = str(self.server_.long_retry_after)
        # What is said quotes the key, as careless servers do.
        message = f"Something is wrong with the request of {call.key}."
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 529: "overloaded_error"}
        if call.api == "anthropic":
            message = "Your credit balance is too low." if fault == "quota" else message
            error = {"type": "error", "error": {"type": kinds.get(status, "api_error"), "message": message}}
        else:
            code = "insufficient_quota" if fault == "quota" else None
            error = {"error": {"message": message, "type": code or "server_error", "param": None, "code": code}}
        self._json(status, error, headers)

    def _json(self, status: int, value: dict, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), headers)

    def _send(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, *, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args) -> None:
        """Tests read `server.calls`; stderr stays clean."""
