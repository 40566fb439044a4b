"""What is seen from outside: counts and lines, and of a bug its place, never what somebody sent."""

from __future__ import annotations

import logging

import pytest

from tests.serve.wire import VECTOR, Wire

SENT = "Der Geheimtext"


@pytest.mark.parametrize("path", ("/v1/explain", "/describe", "/api/nla/explain"))
@pytest.mark.parametrize("stream", (False, True))
def test_a_bug_is_500_with_nothing_of_the_request_in_answer_or_log(serve, full_pair, monkeypatch, caplog, path, stream):
    def broken(*given, **how):
        raise RuntimeError(f"cannot do {SENT}")

    wire = serve(full_pair)
    source = wire.get("/api/nla/sources").json()["sources"][0]
    body = {
        "/v1/explain": {"text": SENT},
        "/describe": {"activations": [VECTOR]},
        "/api/nla/explain": {"modelId": source["modelId"], "nlaSourceId": source["id"], "text": SENT, "positions": [1]},
    }[path]
    monkeypatch.setattr(full_pair, "explain", broken)
    monkeypatch.setattr(full_pair, "round_trip", broken)
    with caplog.at_level(logging.DEBUG):
        if stream:
            told = str(wire.frames(path, body))
        else:
            response = wire.post(path, body)
            assert response.status_code == 500
            told = response.text
    assert "not the request's" in told and SENT not in told
    assert SENT not in caplog.text
    assert "RuntimeError at" in caplog.text and "test_observing.py" in caplog.text
    monkeypatch.undo()
    assert wire.ask("/describe", {"activations": [VECTOR], "max_new_tokens": 1})["results"]


def test_metrics_count_rows_and_tokens_by_route_and_nothing_that_was_sent(full_pair):
    from nla_sdk.serve.running import serving

    with serving(full_pair) as url:
        wire = Wire(url)
        wire.ask("/v1/explain", {"vectors": [VECTOR, VECTOR[::-1]], "max_new_tokens": 3})
        wire.post("/v1/explain", {"vectors": [VECTOR, [0.0] * 64], "max_new_tokens": 3})
        wire.post("/v1/explain", {"text": SENT, "layer": SENT})
        wire.get(f"/{SENT}")
        wire.http.request("GEHEIM", "/tokenize")
        text = wire.get("/metrics").text
    lines = set(text.splitlines())
    for line in (
        'nla_requests_total{route="/v1/explain",status="200"} 2.0',
        'nla_requests_total{route="/v1/explain",status="422"} 1.0',
        'nla_requests_total{route="other",status="404"} 1.0',
        'nla_rows_total{route="/v1/explain"} 3.0',
        'nla_rows_failed_total{route="/v1/explain"} 1.0',
        "nla_tokens_written_total 9.0",
        "nla_rows_running 0.0",
        "nla_requests_waiting 0.0",
    ):
        assert line in lines, line
    assert "Geheim" not in text and "GEHEIM" not in text


def test_every_error_of_the_sdk_has_a_status():
    from nla_sdk import errors
    from nla_sdk.serve.guard.faults import status_of

    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.NLAError)]
    found = {kind.__name__: status_of(kind("what is wrong")) for kind in kinds}
    assert set(found.values()) == {400, 503}
    assert found["InputError"] == found["PositionError"] == found["MissingMeanError"] == 400
    assert found["MissingHalfError"] == found["OutOfMemoryError"] == found["NonFiniteOutputError"] == 503
    assert status_of(RuntimeError()) == 500 and status_of(MemoryError()) == 503
