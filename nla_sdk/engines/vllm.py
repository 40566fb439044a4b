"""vLLM: `prompt_embeds` of /v1/completions, base64 of what torch.save writes; it needs --enable-prompt-embeds.

Read in https://github.com/vllm-project/vllm, `vllm/entrypoints/openai/completion/protocol.py` and
`vllm/renderers/embed_utils.py`, and https://docs.vllm.ai/en/latest/features/prompt_embeds/. Three things go wrong there
without a word, and are kept from happening here:

- What a request does not say is taken from the model's generation_config.json (a penalty on repetition, top_p), so all
  of it is said.
- Releases and connectors have kept keys and values of prompts by their token ids, which are placeholders where a prompt
  is embeddings (https://github.com/vllm-project/vllm/pull/27219, /issues/42119), and the mask of mixed prompts is left
  out of the key (/issues/56655). So no prompt is mixed, and each request has a `cache_salt` of its own embeddings.
- An end token that the server's tokenizer knows and the AV does not would cut texts: the AV's own are sent, with
  `ignore_eos`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from typing import Any, ClassVar

import torch

from .connection import Connection, EngineError, Request
from .server import PLAIN, Order, Server, token_ids

OLDEST = (0, 11)
"""Before that release prompts of embeddings ran in vLLM's first engine only, which this has not been read against."""


class VLLM(Server):
    """See the module."""

    name: ClassVar[str] = "vLLM"

    @classmethod
    def found(cls, connection: Connection, version: str) -> VLLM:
        """The server, and the first model that it lists which is no adapter on another.

        Raises:
            EngineError: it is too old, or lists none.
        """
        numbers = [int(part) for part in version.split(".")[:2] if part.isdigit()]
        if len(numbers) == 2 and (0, 1) < tuple(numbers) < OLDEST:  # a build without tags calls itself 0.1.dev…
            raise EngineError(
                f"{connection.url} runs vLLM {version}; expected {'.'.join(map(str, OLDEST))} or newer, which takes "
                "prompt embeddings in its present engine."
            )
        listed = connection.ask("GET", "/v1/models")
        models = listed.get("data") if isinstance(listed, dict) else None
        for one in models if isinstance(models, list) else []:
            if isinstance(one, dict) and isinstance(one.get("id"), str) and not one.get("parent"):
                longest = one.get("max_model_len")
                return cls(connection, one["id"], version, longest if isinstance(longest, int) else None)
        raise EngineError(f"{connection.url} (vLLM {version}) lists no model at /v1/models.")

    def request(self, order: Order) -> Request:
        return Request("POST", "/v1/completions", lambda: json.dumps(self._body(order)).encode())

    def _body(self, order: Order) -> dict[str, Any]:
        stored = io.BytesIO()
        torch.save(order.embeddings.contiguous(), stored)
        numbers = order.embeddings.contiguous().numpy().tobytes()
        body: dict[str, Any] = PLAIN | {
            "model": self.model,
            "prompt_embeds": base64.b64encode(stored.getvalue()).decode(),
            "cache_salt": hashlib.sha256(numbers).hexdigest(),
            "max_tokens": order.limit,
            "temperature": order.temperature,
            "ignore_eos": True,
            "stop_token_ids": sorted(order.ends),
            "stop": order.stops,
            "include_stop_str_in_output": True,
            "return_token_ids": True,
        }
        if order.seed is not None:
            body["seed"] = order.seed
        if order.allowed is not None:
            body["allowed_token_ids"] = list(order.allowed)
        return body

    def written(self, answer: Any) -> list[int]:
        choices = answer.get("choices") if isinstance(answer, dict) else None
        first = choices[0] if isinstance(choices, list) and choices else answer
        ids = token_ids(first.get("token_ids")) if isinstance(first, dict) else None
        if ids is None:
            raise self.no_tokens(first)
        return ids

    def reads_chat(self, content: str) -> list[int] | None:
        chat = [{"role": "user", "content": content}]
        try:
            return self.tokenized({"messages": chat, "add_generation_prompt": True})
        except EngineError as error:
            if error.status == 400:  # no chat template, or one that refuses this message
                return []
            raise

    def refuse_vocabulary(self) -> None:
        return  # allowed_token_ids
