"""Tiny pairs served on loopback ports: real uvicorn, real HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.serve.wire import Wire


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., Wire]]:
    """A pair and settings → a client of its server; the same server for the same of both."""
    from nla_sdk.serve.running import serving

    running: dict[Any, Wire] = {}
    with ExitStack() as stack:

        def begin(pair: Any, **how: Any) -> Wire:
            key = (id(pair), *sorted(how.items()))
            if key not in running:
                secret = {} if how.get("secret") is None else {"X-SECRET-KEY": how["secret"]}
                running[key] = Wire(stack.enter_context(serving(pair, name="tiny", **how)), **secret)
            return running[key]

        yield begin


@pytest.fixture
def wire(serve, full_pair) -> Wire:
    """A client of a pair of two whole checkpoints, whose base has a chat template and is loaded, as by `nla serve`."""
    _ = full_pair.source
    return serve(full_pair)


@pytest.fixture
def slow() -> dict[str, Any]:
    """A request of the inference API that takes a tiny pair a good while."""
    from tests import tiny

    rows = tiny.random(512, tiny.D_MODEL, seed=9).tolist()
    return {"activations": rows, "max_new_tokens": 800}
