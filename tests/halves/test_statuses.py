"""What each HTTP status of the Hub means: for the repository itself, for this moment, or for good."""

from __future__ import annotations

import httpx2
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import hf_raise_for_status

from nla_sdk.errors import AccessTokenError, MissingRepositoryError, OfflineError, RepositoryError
from nla_sdk.halves.fetch import fetch_base, fetch_file, fetch_half
from nla_sdk.halves.hub.errors import TRANSIENT, hub_errors, pause_asked
from tests.halves.samples import HALF
from tests.hub.server import Hub

pytest_plugins = ["tests.hub.fixtures"]

FOR_GOOD = [400, 402, 405, 406, 409, 411, 413, 414, 415, 416, 422, 426, 431, 501, 505, 507, 508, 511]
PASSING = [408, 423, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524]


@pytest.mark.parametrize("ask", [fetch_half, fetch_base, lambda ref: fetch_file(ref, "nla_meta.yaml")])
@pytest.mark.parametrize(
    ("status", "words"),
    [(410, "ada/av was deleted .410: gone for good."), (451, "ada/av is unavailable for legal reasons .451. and will")],
)
def test_what_is_gone_is_said_so_after_one_request(hub: Hub, ask, status, words):
    hub.add("ada/av", HALF)
    hub.outage = status
    with pytest.raises(
        MissingRepositoryError
    ):  # a process's first request of all is followed by one of the client's own
        ask("ada/av")
    hub.fault()
    with pytest.raises(MissingRepositoryError, match=words) as caught:
        ask("ada/av")
    assert hub.count == 1 and "later" not in str(caught.value) and "token" not in str(caught.value)


@pytest.mark.parametrize("status", [410, 451])
def test_what_is_gone_and_cached_is_still_there(hub: Hub, status):
    hub.add("ada/av", HALF)
    found = fetch_half("ada/av")
    hub.outage = status
    assert fetch_half("ada/av") == found


@pytest.mark.parametrize("publishing", [False, True])
@pytest.mark.parametrize("status", [*FOR_GOOD, *PASSING])
def test_a_status_is_of_the_moment_or_final(publishing, status):
    with pytest.raises(RepositoryError) as caught, hub_errors("ada/av", publishing=publishing):
        raise error_of(status, {"x-error-message": "No luck."})
    said = str(caught.value)
    assert str(status) in said
    if status in PASSING:
        assert type(caught.value) is OfflineError and "Try again later" in said
    else:
        assert type(caught.value) is RepositoryError and "the same would be refused again" in said
        assert "No luck." in said
    assert (status in TRANSIENT) == (status in PASSING)


@pytest.mark.parametrize(("status", "kind"), [(401, AccessTokenError), (403, AccessTokenError)])
def test_a_refused_token_is_one_when_publishing_too(status, kind):
    with pytest.raises(kind, match=f"{status}"), hub_errors("ada/av", publishing=True):
        raise error_of(status, {"x-error-message": "Invalid credentials in Authorization header"})


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": " 90 "}, 90.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "-3"}, None),
        ({"ratelimit": '"api";r=0;t=55'}, 55.0),
        ({"ratelimit": '"api";r=12;t=55'}, None),
        ({}, None),
    ],
)
def test_the_pause_that_is_asked_for_is_said(headers, seconds):
    error = error_of(429, headers)
    assert pause_asked(error) == seconds
    with pytest.raises(OfflineError) as caught, hub_errors("ada/av"):
        raise error
    assert f"Try again {'later' if seconds is None else f'in {seconds:.0f} seconds'}." in str(caught.value)
    assert pause_asked(ValueError()) is None


def error_of(status: int, headers: dict[str, str]) -> HfHubHTTPError:
    """What the client raises of such an answer."""
    request = httpx2.Request("GET", f"{constants.ENDPOINT}/api/models/ada/av")
    with pytest.raises(HfHubHTTPError) as caught:
        hf_raise_for_status(httpx2.Response(status, headers=headers, request=request))
    return caught.value
