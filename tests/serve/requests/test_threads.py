"""Functions in threads that end with them."""

from __future__ import annotations

import threading

import httpx2 as httpx
import pytest

from nla_sdk.serve.requests.threads import in_new_thread
from nla_sdk.serve.running import serving
from tests.serve.wire import VECTOR


def test_a_function_runs_in_another_thread_and_what_it_gives_comes_back():
    assert in_new_thread(threading.get_ident, "t").result(10) != threading.get_ident()


def test_what_a_function_raises_is_raised_where_it_is_waited_for():
    def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        in_new_thread(fails, "t").result(10)


def test_no_thread_that_called_the_pair_outlives_its_request(full_pair, monkeypatch):
    """Whoever has multiplied once keeps OpenMP's workers for as long as it lives, and slows all others."""
    ran, explain = [], full_pair.explain

    def noticed(*args, **how):
        ran.append(threading.current_thread())
        return explain(*args, **how)

    monkeypatch.setattr(full_pair, "explain", noticed)
    with serving(full_pair) as url:
        for _ in range(2):
            body = {"vectors": [VECTOR], "max_new_tokens": 1, "force": True}
            assert httpx.post(f"{url}/v1/explain", json=body, timeout=60).status_code == 200
        for thread in ran:
            thread.join(10)
        assert len(set(ran)) == 2 and not any(thread.is_alive() for thread in ran)
