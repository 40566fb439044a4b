"""SGLang: `input_embeds` of /generate, lists of numbers; it needs --disable-radix-cache.

Read in https://github.com/sgl-project/sglang, `python/sglang/srt/managers/io_struct.py`, `tokenizer_manager.py` and
`sampling/sampling_params.py`, and https://docs.sglang.io/basic_usage/sampling_params.html. Its radix cache is keyed by
token ids, of which a prompt of embeddings has none; the server refuses such prompts while the cache is on. Sampling
takes a seed only where it was started with --enable-deterministic-inference.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError
from .connection import Connection, EngineError, Request
from .server import PLAIN, Order, Server, token_ids

_ROWS_KEPT = 512  # a prompt's tokens are the same in every request, and their numbers take a while to write


@dataclass(frozen=True)
class SGLang(Server):
    """See the module.

    Attributes:
        seeded: whether its sampling takes a seed.
    """

    name: ClassVar[str] = "SGLang"
    seeded: bool = False

    @classmethod
    def found(cls, connection: Connection, model: dict[str, Any]) -> SGLang:
        """The server whose model says this of itself.

        Raises:
            EngineError: its radix cache is on.
        """
        said: Any = None
        for path in ("/server_info", "/get_server_info"):
            said = said or connection.ask("GET", path, optional=True)
        said = said if isinstance(said, dict) else {}
        if said.get("disable_radix_cache") is False:
            raise EngineError(
                f"{connection.url} runs SGLang with its radix cache, which takes one prompt of embeddings for another. "
                "Start it with --disable-radix-cache."
            )
        name = next((said[key] for key in ("served_model_name", "model_path") if isinstance(said.get(key), str)), None)
        longest = next(
            (said[key] for key in ("context_length", "max_context_len") if isinstance(said.get(key), int)), None
        )
        version = said.get("version") if isinstance(said.get("version"), str) else ""
        seeded = said.get("enable_deterministic_inference") is True
        return cls(connection, name or str(model["model_path"]), str(version), longest, seeded)

    def request(self, order: Order) -> Request:
        return Request("POST", "/generate", lambda: self._body(order))

    def _body(self, order: Order) -> bytes:
        sampling: dict[str, Any] = PLAIN | {
            "max_new_tokens": order.limit,
            "temperature": order.temperature,
            "ignore_eos": not order.ends,  # with it no end token would count at all
            "stop_token_ids": sorted(order.ends),
            "stop": order.stops,
            "no_stop_trim": True,
        }
        if self.seeded and order.seed is not None:
            sampling["sampling_seed"] = order.seed % (1 << 31)
        rows = ",".join(_numbers(row.tobytes()) for row in order.embeddings.contiguous().numpy())
        return f'{{"input_embeds": [{rows}], "sampling_params": {json.dumps(sampling)}}}'.encode()

    def written(self, answer: Any) -> list[int]:
        ids = token_ids(answer.get("output_ids")) if isinstance(answer, dict) else None
        if ids is None:
            raise self.no_tokens(answer)
        about = answer.get("meta_info")
        reason = about.get("finish_reason") if isinstance(about, dict) else None
        if isinstance(reason, dict) and reason.get("type") == "abort":
            raise EngineError(f"{self} broke a text off: {str(reason.get('message'))[:200]}")
        return ids

    def reads_chat(self, content: str) -> list[int] | None:
        return None  # its /tokenize takes no chats

    def refuse_vocabulary(self) -> None:
        raise InputError(f"{self} writes any token; only vLLM takes a list of those that it may write.")


@lru_cache(maxsize=_ROWS_KEPT)
def _numbers(row: bytes) -> str:
    """A row of float32 as JSON, from which the same float32 are read."""
    return json.dumps(np.frombuffer(row, dtype=np.float32).tolist())
