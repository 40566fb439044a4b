"""The `hub` fixture: a loopback Hub that the official client of this process, and of its children, talks to.

A test module asks for it with `pytest_plugins = ["tests.hub.fixtures"]`, a conftest.py by importing it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hub.server import Hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A running, empty Hub, with an empty cache and no token on the client's side.

    The client reads its settings from the environment when it is imported, so both are set: the environment for child
    processes, and the constants of this process.
    """
    import huggingface_hub
    from huggingface_hub import constants

    home = tmp_path_factory.mktemp("hf-home")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    # A port may be one that another test's Hub had: what was heard of that one is of another world.
    monkeypatch.setattr("nla_sdk.halves.hub.renames._present", {})
    monkeypatch.setattr("nla_sdk.halves.hub.renames._said", set())
    with Hub() as server:
        settings = {
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_DISABLE_XET": "1",  # with Xet installed the client would go around this server
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
            monkeypatch.setattr(constants, name, value if name != "HF_HUB_DISABLE_XET" else True)
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        url = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        huggingface_hub.close_session()  # a session made under other proxy settings would keep them
        yield server
        huggingface_hub.close_session()
