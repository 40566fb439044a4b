"""A text that the source goes on with: the same work for all three APIs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request, Response

from ...calls.steered import Completion
from ..guard.faults import OWN
from ..requests.gates import Ticket
from ..requests.rows import QUIET
from ..requests.streams import Answer, Frames
from ..requests.texts import Reading, reading
from ..served import Served, noted
from ..shapes.common import TextFields
from ..tokens import Tokens

TAIL = 16  # tokens before a new one that are looked at for the character that it may end


@dataclass(frozen=True)
class Going:
    """How the source goes on."""

    tokens: int
    temperature: float
    seed: int
    stream: bool


async def completed(of: Served, request: Request, body: TextFields, how: Going, *, site: bool = False) -> Response:
    """What the source goes on with, as one answer or as a stream.

    Args:
        site: as the public site's API answers it.
    """
    of.allow("complete")
    ticket = await of.gate.enter(request)
    try:
        text = await of.gate.run(ticket, lambda: reading(of.pair, of.settings, body))
        if how.stream:
            return Frames(_frames(of, request, ticket, text, how), of.gate, ticket, request.url.path)
        written = await of.gate.run(ticket, lambda: _write(of, ticket, text, how, None), 1)
    except BaseException:
        of.leave(request, ticket)
        raise
    of.leave(request, ticket)
    noted(request, rows=1, tokens=len(written.ids))
    whole = text.tokens.text + written.text
    tokens = [token.to_row() for token in text.tokens.continued(of.pair.source.tokenizer, written.ids)]
    found = {"tokens": tokens, "prompt_length": len(text), **_more(request, written)}
    return Answer(found | ({"completion": written.text, "full_text": whole} if site else {"text": whole}))


def _more(request: Request, written: Completion) -> dict[str, Any]:
    """What our own API tells besides: a `Completion` whole."""
    if not request.url.path.startswith(OWN):
        return {}
    return {"completion": written.text, "pieces": list(written.tokens), "finished": written.finished}


def _write(of: Served, ticket: Ticket, text: Reading, how: Going, on_token: Any) -> Any:
    writing = {"max_new_tokens": how.tokens, "temperature": how.temperature, "seed": how.seed}
    return of.pair.complete([text.given], **writing, on_token=on_token, cancel=ticket.cancel)


async def _frames(
    of: Served, request: Request, ticket: Ticket, text: Reading, how: Going
) -> AsyncGenerator[dict[str, Any] | None, None]:
    yield {"type": "prompt", "prompt_length": len(text), "tokens": text.shown()["tokens"]}
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[str, int]]()

    def on_token(piece: str, token: int) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, (piece, token))

    work = asyncio.ensure_future(of.gate.run(ticket, lambda: _write(of, ticket, text, how, on_token), 1))
    news = asyncio.ensure_future(queue.get())
    ids: list[int] = []
    try:
        while not work.done() or news.done() or not queue.empty():
            done, _ = await asyncio.wait({work, news}, timeout=QUIET, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                yield None
            if news.done():
                piece, token = news.result()
                ids.append(token)
                frame = {"type": "token", "token": newest(of, text.tokens, ids)}
                yield {**frame, "piece": piece} if request.url.path.startswith(OWN) else frame
                news = asyncio.ensure_future(queue.get())
                await asyncio.sleep(0)  # or one that is there already would be passed over
        written = work.result()
    finally:
        news.cancel()
        work.cancel()
    noted(request, rows=1, tokens=len(written.ids))
    yield {"type": "done", "text": text.tokens.text + written.text, **_more(request, written)}


def newest(of: Served, tokens: Tokens, ids: list[int]) -> dict[str, Any]:
    """The last of the tokens that were written, as all of them are told at the end, but for what comes after it."""
    written = ids[-TAIL:]
    tail = Tokens("", tokens.ids[-1:], tokens.tokens[-1:])
    token = tail.continued(of.pair.source.tokenizer, written)[-1]
    return replace(token, position=len(tokens.ids) + len(ids) - 1).to_row()
