"""Who is answered: secrets, hosts, origins, and the headers of every answer."""

from __future__ import annotations

import socket

import pytest

from nla_sdk.errors import InputError
from tests.serve.wire import TEXT, Wire

OPEN = ("/healthz",)


@pytest.fixture
def guarded(serve, full_pair) -> str:
    return serve(full_pair, secret="s3cret").url


def paths(wire: Wire) -> list[tuple[str, str]]:
    described = wire.get("/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in described.items() for method in methods]


def test_everything_but_health_asks_for_the_secret(guarded):
    right = Wire(guarded, **{"X-SECRET-KEY": "s3cret"})
    every = [*paths(right), ("GET", "/openapi.json"), ("GET", "/nowhere"), ("GET", "/docs")]
    assert len(every) > 20
    for method, path in every:
        if path in OPEN:
            continue
        assert Wire(guarded).http.request(method, path).status_code == 401, path
        wrong = {"X-SECRET-KEY": "s3cre"}
        assert Wire(guarded).http.request(method, path, headers=wrong).status_code == 403, path
    assert Wire(guarded).get("/healthz").json() == {"status": "ok"}
    assert right.ask("/tokenize", TEXT)["tokens"]


@pytest.mark.parametrize("secret", ("", "S3CRET", "s3cret2", "s3cret\xe9", "a" * 10_000))
def test_a_secret_that_is_not_it_is_wrong_whatever_it_is(guarded, secret):
    response = Wire(guarded).http.get("/v1/pair", headers=[(b"x-secret-key", secret.encode("latin-1"))])
    assert response.status_code == 403


def test_of_two_secrets_both_must_be_right(guarded):
    twice = [("x-secret-key", "s3cret"), ("x-secret-key", "other")]
    assert Wire(guarded).http.get("/v1/pair", headers=twice).status_code == 403


@pytest.mark.parametrize("host", ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""))
def test_another_name_for_this_machine_is_refused(wire: Wire, host):
    response = wire.get("/v1/pair", Host=host)
    assert response.status_code in (400, 421)
    assert "detail" in response.text


@pytest.mark.parametrize("host", ("localhost:1", "127.0.0.1", "[::1]:5009", "LOCALHOST"))
def test_the_names_of_loopback_are_answered(wire: Wire, host):
    assert wire.get("/healthz", Host=host).status_code == 200


@pytest.mark.parametrize("origin", ("https://evil.example", "null", "http://localhost:1", "file://"))
def test_pages_of_other_origins_are_refused(wire: Wire, origin):
    assert wire.post("/tokenize", TEXT, Origin=origin).status_code == 403


def test_the_own_page_is_answered_and_no_other_origin_is_ever_allowed(wire: Wire):
    response = wire.post("/tokenize", TEXT, Origin=wire.url)
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_every_answer_has_the_headers_of_a_careful_server(wire: Wire):
    for response in (wire.get("/"), wire.get("/nowhere"), wire.post("/tokenize", {}), wire.get("/x", Origin="null")):
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "frame-ancestors 'self'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert "server" not in response.headers


def test_who_frames_the_page_can_be_said(serve, full_pair):
    wire = serve(full_pair, frame="https://huggingface.co")
    response = wire.get("/healthz")
    assert "frame-ancestors https://huggingface.co" in response.headers["content-security-policy"]
    assert "x-frame-options" not in response.headers


def test_no_path_of_a_request_is_a_file(wire: Wire):
    for path in ("/../pyproject.toml", "/%2e%2e/app.py", "/page/index.html", "/nla.js/../../app.py", "//etc/passwd"):
        with socket.create_connection(("127.0.0.1", int(wire.url.rpartition(":")[2]))) as raw:
            raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            assert b"404" in raw.makefile("rb").readline()


def test_another_host_without_a_secret_is_refused_before_anything_is_loaded():
    from nla_sdk.serve.settings import Settings

    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org"):
        with pytest.raises(InputError, match="--secret-env"):
            Settings(host=host)
        assert Settings(host=host, secret="a") and Settings(host=host, no_secret=True)
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        assert Settings(host=host).is_local


def test_a_secret_shows_nowhere():
    from nla_sdk.serve.settings import Settings

    assert "s3cret" not in repr(Settings(secret="s3cret"))
