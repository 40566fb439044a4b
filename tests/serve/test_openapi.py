"""What /openapi.json says is what the server does: schemathesis finds nothing, on any of the three APIs."""

from __future__ import annotations

import os

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

EXAMPLES = int(os.environ.get("NLA_EXAMPLES", 4))  # of each call and mode: every one is HTTP and a tiny pair at work
# A request may be as its schema says and ask for what is not there: a position behind the text, another source.
MEANT = [200, 400, 403, 404, 413, 415, 422, 503]
REFUSED = [400, 401, 403, 404, 405, 406, 413, 415, 422]
PATHS = {
    "inference": ("/", "/tokenize", "/extract", "/explain", "/describe", "/score", "/compare", "/completion"),
    "site": tuple(f"/api/nla/{name}" for name in ("sources", "explain", "completion")),
    "own": tuple(
        f"/v1/{name}"
        for name in (
            *("pair", "tokenize", "extract", "explain", "round-trip", "score", "reconstruct", "ask", "steer"),
            *("compare", "complete", "vectors", "releases", "check"),
        )
    ),
}
CHECKS = (("samples", 1), ("nearby", 1))
READ = ("/", "/api/nla/sources", "/v1/pair", "/v1/releases")
"""Calls that send nothing, of which nothing could be wrong."""
EVERY = [path for paths in PATHS.values() for path in paths]


@pytest.fixture(scope="module")
def described(serve, full_pair):
    wire = serve(full_pair, max_tokens=48)
    checks = {
        "positive_data_acceptance": {"expected-statuses": MEANT},
        "negative_data_rejection": {"expected-statuses": REFUSED},
    }
    schema = wire.get("/openapi.json").json()
    config = SchemathesisConfig.from_dict({"checks": checks})
    return schemathesis.openapi.from_dict(schema, config=config), schema, wire.url


def test_every_call_is_described_and_no_other(described):
    paths = described[1]["paths"]
    assert set(paths) == {*EVERY, "/healthz", "/metrics"}
    for path, methods in paths.items():
        for method, told in methods.items():
            assert told["summary"] and told.get("description"), (path, method)
            assert ("422" in told["responses"]) == (method == "post" and not path.startswith("/api/nla")), path


@pytest.mark.parametrize(
    ("path", "mode"),
    [(path, mode) for path in EVERY for mode in GenerationMode if path not in READ or mode is GenerationMode.POSITIVE],
    ids=lambda part: getattr(part, "value", part),
)
def test_schemathesis_finds_nothing(described, path, mode):
    schema, raw, url = described
    method = next(iter(raw["paths"][path]))
    operation = schema[path][method.upper()]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    def asked(case) -> None:
        if isinstance(case.body, dict):  # what is written is other tests' business, and takes its time
            for name, most in (("max_new_tokens", 4), ("completion_tokens", 4), ("n", 2), ("best_of", 2), *CHECKS):
                if isinstance(case.body.get(name), int) and case.body[name] > most:
                    case.body[name] = most
        case.call_and_validate(base_url=url)

    asked()
