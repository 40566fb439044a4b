"""An inference server on a loopback port: vLLM's or SGLang's wire format, and transformers behind it.

It answers as the real ones do where a client can tell, as far as their sources say it: what is asked for and not given
is taken from generation_config.json, prompts of one cache key have one answer, tokens that end a text are among those
that come back. Nothing here imports nla_sdk.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import threading
import time
from collections import deque
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria, StoppingCriteriaList


@functools.cache
def model_in(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


class Ends(StoppingCriteria):
    """One of some texts has been written."""

    def __init__(self, texts, decode) -> None:
        self.texts, self.decode = texts, decode

    def __call__(self, ids, scores, **_):
        written = self.decode(ids[0])
        return torch.tensor([any(text in written for text in self.texts)], device=ids.device)


class Refused(Exception):
    """What is answered with an error: status, message."""


class Loopback:
    """The server.

    Args:
        folder: the model's.
        kind: "vllm" or "sglang".
        key: that requests must bring; None: none.
        version, longest, listed: what it says of itself: its version, its context, models before its own at /v1/models.
        radix: SGLang's cache is on.
        embeds: vLLM was started with --enable-prompt-embeds.
        tokenizes: whether it has /tokenize.
        blind: it puts the same prompt in the place of every prompt.
        silent: it gives no token ids.
    Attributes:
        url: its address.
        faults: what becomes of the next texts, one each: a status, (status, headers), "cut", "no json", "short"; None:
            nothing.
        bodies: JSON of the texts that were asked for, in their order; headers: of those requests; lengths: tokens
            that were written for each.
        most: how many were under way at a time.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        *,
        key: str | None = None,
        version: str | None = None,
        longest: int | None = 256,
        listed: tuple[dict, ...] = (),
        radix: bool = False,
        embeds: bool = True,
        tokenizes: bool = True,
        blind: bool = False,
        silent: bool = False,
        slow: float = 0.0,
    ) -> None:
        self.kind, self.key, self.version = kind, key, version or {"vllm": "0.19.1", "sglang": "0.5.9"}.get(kind)
        self.longest, self.listed, self.radix, self.embeds = longest, listed, radix, embeds
        self.tokenizes, self.blind, self.silent, self.slow = tokenizes, blind, silent, slow
        self.model, self.tokenizer = model_in(folder), AutoTokenizer.from_pretrained(folder)
        self.name = str(folder)
        self.faults: deque = deque()
        self.bodies: list[dict] = []
        self.lengths: list[int] = []
        self.headers: list[dict] = []
        self.under_way = self.most = 0
        self._kept: dict[tuple, torch.Tensor] = {}
        self._lock, self._counting = threading.Lock(), threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            loopback = self

            def log_message(self, *_):
                pass

            def do_GET(self):
                self.loopback.answer(self, None)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with suppress(BrokenPipeError, ConnectionResetError):  # who asked has gone
                    self.loopback.answer(self, json.loads(body))

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    # --- HTTP ---------------------------------------------------------------------------------------------------------
    def answer(self, handler: BaseHTTPRequestHandler, body: dict | None) -> None:
        path, headers = handler.path, {}
        if self.key is not None and handler.headers.get("Authorization") != f"Bearer {self.key}":
            return self._send(handler, 401, {"error": "Unauthorized"})
        writes = path in ("/v1/completions", "/generate")
        fault = self.faults.popleft() if writes and self.faults else None
        if writes:
            with self._counting:
                self.bodies.append(body)
                self.headers.append(dict(handler.headers))
                self.under_way += 1
                self.most = max(self.most, self.under_way)
            time.sleep(self.slow)
        try:
            if isinstance(fault, (int, tuple)):
                status, headers = fault if isinstance(fault, tuple) else (fault, {})
                return self._send(handler, status, {"error": {"message": f"as asked, with {self.key}"}}, headers)
            try:
                status, said = 200, self._said(path, body)
            except Refused as refused:
                status, message = refused.args
                said = {"error": {"message": message, "type": "BadRequestError", "code": status}}
            self._send(handler, status, said, headers, fault)
        finally:
            if writes:
                with self._counting:
                    self.under_way -= 1

    def _send(self, handler, status, said, headers=None, fault=None) -> None:
        content = b"{not json" if fault == "no json" else json.dumps(said).encode()
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if fault == "cut":
            handler.wfile.write(content[: len(content) // 2])
            handler.wfile.flush()
            handler.connection.close()
            handler.close_connection = True
            return
        handler.wfile.write(content)

    def _said(self, path: str, body: dict | None) -> object:
        routes = {
            "vllm": {
                "/version": lambda: {"version": self.version},
                "/v1/models": lambda: {"object": "list", "data": [*self.listed, self._listed()]},
                "/v1/completions": lambda: self._completion(body),
                "/tokenize": lambda: self._tokenized(body),
            },
            "sglang": {
                "/model_info": lambda: {"model_path": self.name, "is_generation": True},
                "/server_info": lambda: {
                    "model_path": self.name,
                    "served_model_name": self.name,
                    "disable_radix_cache": not self.radix,
                    "version": self.version,
                    "context_length": self.longest,
                    "api_key": self.key,
                },
                "/generate": lambda: self._generated(body),
                "/tokenize": lambda: self._tokenized(body),
            },
        }.get(self.kind, {})
        if path not in routes or (path == "/tokenize" and not self.tokenizes):
            raise Refused(404, "Not Found")
        return routes[path]()

    def _listed(self) -> dict:
        return {"id": self.name, "object": "model", "root": self.name, "parent": None, "max_model_len": self.longest}

    # --- what it does -------------------------------------------------------------------------------------------------
    def _tokenized(self, body: dict) -> dict:
        if "messages" in body:
            if self.kind == "sglang":
                raise Refused(400, "prompt is missing")
            try:
                ids = self.tokenizer.apply_chat_template(
                    body["messages"], add_generation_prompt=body["add_generation_prompt"], return_dict=True
                )["input_ids"]
            except Exception as error:
                raise Refused(400, str(error)) from None
        else:
            ids = self.tokenizer(body["prompt"], add_special_tokens=body["add_special_tokens"])["input_ids"]
        return {"tokens": ids, "count": len(ids), "max_model_len": self.longest}

    def _completion(self, body: dict) -> dict:
        if body["model"] != self.name:
            raise Refused(404, f"The model `{body['model']}` does not exist.")
        if not self.embeds:
            raise Refused(400, "You must set `--enable-prompt-embeds` to input `prompt_embeds`.")
        stored = io.BytesIO(base64.b64decode(body["prompt_embeds"], validate=True))
        embeddings = torch.load(stored, weights_only=True)
        width = self.model.config.hidden_size
        if embeddings.ndim != 2 or embeddings.shape[1] != width:
            raise Refused(
                400,
                f"`prompt_embeds` hidden_size {embeddings.shape[-1]} does not match the model's hidden_size {width}.",
            )
        # Blocks of a prompt are known by its token ids, which are placeholders here, and its salt.
        embeddings = self._kept.setdefault((len(embeddings), body.get("cache_salt")), embeddings)
        own = self.model.generation_config
        stops = set(body["stop_token_ids"]) | (set() if body["ignore_eos"] else {own.eos_token_id})
        ids = self._write(
            embeddings,
            body["max_tokens"],
            stops,
            body["stop"],
            temperature=body.get("temperature", 1.0),
            seed=body.get("seed"),
            penalty=body.get("repetition_penalty", 1.3),
            allowed=body.get("allowed_token_ids"),
        )
        text = self.tokenizer.decode(ids, skip_special_tokens=body["skip_special_tokens"])
        choice = {"index": 0, "text": text, "finish_reason": "stop" if len(ids) < body["max_tokens"] else "length"}
        if body.get("return_token_ids") and not self.silent:
            choice["token_ids"] = ids
        return {"id": "cmpl-1", "object": "text_completion", "model": self.name, "choices": [choice]}

    def _generated(self, body: dict) -> dict:
        if self.radix:
            raise Refused(400, "input_embeds is provided while disable_radix_cache is False.")
        sampling = body["sampling_params"]
        unknown = set(sampling) - {*_SGLANG}
        if unknown:
            raise Refused(400, f"unexpected keyword argument {unknown}")
        embeddings = torch.tensor(body["input_embeds"], dtype=torch.float32)
        if embeddings.shape[1] != self.model.config.hidden_size:
            raise Refused(500, "The size of tensor a must match the size of tensor b")
        stops = set() if sampling["ignore_eos"] else {*sampling["stop_token_ids"], self.tokenizer.eos_token_id}
        limit = sampling["max_new_tokens"]
        how = {"temperature": sampling["temperature"], "seed": sampling.get("sampling_seed")}
        ids = self._write(embeddings, limit, stops, sampling["stop"], **how, penalty=sampling["repetition_penalty"])
        reason = {"type": "length", "length": limit} if len(ids) == limit else {"type": "stop", "matched": ids[-1]}
        answer = {"text": self.tokenizer.decode(ids), "meta_info": {"id": "1", "finish_reason": reason}}
        return answer if self.silent else answer | {"output_ids": ids}

    @torch.no_grad()
    def _write(self, embeddings, limit, ends, stops, *, temperature, seed, penalty, allowed=None) -> list[int]:
        if self.blind:
            embeddings = torch.zeros_like(embeddings)
        with self._lock:
            if seed is not None:
                torch.manual_seed(seed)
            only = {} if allowed is None else {"prefix_allowed_tokens_fn": lambda *_: allowed}
            drawn = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
            written = self.model.generate(
                inputs_embeds=embeddings.float()[None],
                attention_mask=torch.ones(1, len(embeddings), dtype=torch.long),
                max_new_tokens=limit,
                eos_token_id=sorted(ends) or [self.model.config.vocab_size + 1],
                pad_token_id=0,
                repetition_penalty=penalty,
                stopping_criteria=StoppingCriteriaList([Ends(stops, self.tokenizer.decode)]),
                **drawn,
                **only,
            )[0].tolist()
            self.lengths.append(len(written))
            return written


_SGLANG = (
    *(
        "max_new_tokens",
        "stop",
        "stop_token_ids",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "ignore_eos",
        "no_stop_trim",
    ),
    *("frequency_penalty", "presence_penalty", "repetition_penalty", "skip_special_tokens", "sampling_seed"),
)
