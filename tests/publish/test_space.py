"""A Space that serves a pair: staged whole, pinned, pushed like the rest, and what it runs runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import httpx2
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nla_sdk.__about__ import commit
from nla_sdk.errors import InputError
from tests.publish.conftest import ROOT, TOKEN, command
from training.publish import space as spaces
from training.publish.push import connect, look, publish
from training.publish.request import PublishRequest
from training.publish.space import SpaceRequest, prepared_space

SPACE = "owner/look"


def asked(pair: str = "demo", **more) -> SpaceRequest:
    return SpaceRequest(SPACE, pair, PublishRequest(repo=SPACE, **more))


def files_of(publication) -> dict[str, Path]:
    return publication.repositories[0].staged.files()


def run_of(dockerfile: str, word: str) -> list[str]:
    """The Dockerfile's own lines of a kind, continued ones whole."""
    whole = dockerfile.replace("\\\n", "")
    return [line.partition(" ")[2] for line in whole.splitlines() if line.startswith(word + " ")]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo pair's Space, in a folder."""
    found = spaces.looked(asked())
    publication = spaces.staged(found, tmp_path_factory.mktemp("space"))
    return publication.repositories[0].staged.folder


def test_its_card_says_what_was_measured_above_any_code(demo):
    text = (demo / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert (front["sdk"], front["app_port"], front["title"]) == ("docker", spaces.PORT, "look")
    assert "nla-verdict-reads-content" in front["tags"]
    assert 0 < text.index("**Verdict: reads-content.**") < text.index("```")
    assert "https://owner-look.hf.space" in text


def test_its_pins_hold_each_other_and_are_those_of_the_tests(demo):
    pins = dict(line.split("==") for line in (demo / "requirements.txt").read_text().split())
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    tested = [Requirement(line) for line in lines if line and not line.startswith("#")]
    constraints = {
        canonicalize_name(one.name): str(one.specifier).removeprefix("==")
        for one in tested
        if one.marker is None or one.marker.evaluate({"python_version": "3.11"})
    }
    assert {"torch", "fastapi", "uvicorn", "gguf", "httpx2"} <= set(pins) and "nla-sdk" not in pins
    assert {name: constraints[name] for name in pins if name in constraints and constraints[name] != pins[name]} == {}
    for package in pins:
        for line in metadata.requires(package) or ():
            one = Requirement(line)
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                assert one.specifier.contains(pins[canonicalize_name(one.name)], prereleases=True), (package, line)


def test_it_is_built_of_its_own_files_and_the_index_by_a_user_who_is_not_root(demo):
    text = (demo / "Dockerfile").read_text()
    assert run_of(text, "USER") == ["user"] and "--uid 1000" in run_of(text, "RUN")[0]
    assert not re.search(r"https?://(?!huggingface.co\")|git\+|apt-get|curl|wget|\bADD\b", text)
    assert all(name in ("requirements.txt", ".") for line in run_of(text, "COPY") for name in line.split()[1:-1])
    assert run_of(text, "EXPOSE") == [str(spaces.PORT)]
    assert (demo / "nla_sdk" / "serve" / "app.py").is_file() and not list(demo.rglob("__pycache__"))
    assert (demo / "nla_sdk" / "serve" / "page" / "index.html").is_file()


def test_it_knows_the_commit_of_the_code_that_it_runs(demo):
    asked = "from nla_sdk.__about__ import commit; print(commit())"
    said = subprocess.run(
        [sys.executable, "-B", "-c", asked], cwd=demo, capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == str(commit())


@pytest.mark.timeout(480)
def test_what_it_runs_serves_the_pair_to_everybody_and_ends_when_told(demo, unused_port):
    """The Dockerfile's CMD, in its folder, with nothing else of this tree to import; only the port is another."""
    words = json.loads(run_of((demo / "Dockerfile").read_text(), "CMD")[0])
    words[words.index("--port") + 1] = str(unused_port)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_TOKEN")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": ""}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # the folder is as it was staged, for whichever test comes next
    running = subprocess.Popen(
        [sys.executable, *words[1:]],
        cwd=demo,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = running.stdout.readline()
        assert "demo is served at" in said, running.stderr.read()[-2000:]
        with httpx2.Client(base_url=f"http://127.0.0.1:{unused_port}", timeout=120) as client:
            page = client.get("/", headers={"accept": "text/html", "host": "owner-look.hf.space"})
            assert page.status_code == 200 and spaces.SERVED in page.headers["content-security-policy"]
            body = {"text": "The cat", "max_new_tokens": 3}
            assert client.post("/v1/explain", json=body).json()["rows"][0]["tokens_written"] == 3
            assert client.post("/v1/complete", json={"text": "The cat"}).status_code == 403
            assert client.post("/v1/tokenize", json={"text": "cat " * 4000}).status_code == 400
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
    finally:
        running.kill()
        running.communicate()


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A package of a few files, so that pushing is quick."""
    package = tmp_path / "package" / "nla_sdk"
    (package / "demo").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "demo" / "big").write_text("x")
    monkeypatch.setattr(spaces, "own_package", lambda: package)
    monkeypatch.setattr(spaces, "pinned", lambda needs: ["fastapi==1"])
    monkeypatch.setattr(spaces, "own_needs", lambda *_: [])
    return package


def push(request: SpaceRequest, said: list):
    with prepared_space(request) as publication:
        api = connect()
        compared = look(api, publication, request.publish)
        return compared, publish(api, publication, request.publish, said.append)


def test_a_published_pairs_space_is_one_commit_read_back_and_none_when_nothing_changed(
    writable, made, published, small
):
    published(evaluation=True)
    [(remote, change, _)], [outcome] = push(asked("owner/cat-av"), said := [])
    files = writable.files(SPACE, kind="space")
    assert outcome.changed and change.fresh and "read back" in said[0] and remote.url.endswith(f"/spaces/{SPACE}")
    assert {"README.md", "Dockerfile", "requirements.txt", "nla_sdk/__init__.py"} <= set(files)
    assert not any(name.startswith("nla_sdk/demo") for name in files)
    front = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert set(front["models"]) >= {"owner/cat-av", "owner/cat-ar"}
    assert "**Verdict:" in files["README.md"].decode()
    kept = files["README.md"].decode() + "\n<!-- keep -->\nBy hand.\n<!-- /keep -->\n"
    writable.store.commit(writable.store.find("space", SPACE), "main", {"README.md": kept.encode()}, "edit")
    push(asked("owner/cat-av"), [])
    assert "By hand." in writable.files(SPACE, kind="space")["README.md"].decode()
    head = writable.head(SPACE, kind="space")
    (small / "__init__.py").write_text("")
    _, [again] = push(asked("owner/cat-av"), [])
    assert not again.changed and writable.head(SPACE, kind="space") == head
    assert TOKEN not in str(files)


def test_what_was_never_measured_is_said_to_be_so(writable, made, published, small):
    published()
    with prepared_space(asked("owner/cat-av")) as publication:
        text = files_of(publication)["README.md"].read_text()
    assert text.index("**Not evaluated.**") < text.index("```") and "nla-verdict" not in text
    assert "no evaluation" in publication.warnings[0]


def test_a_dry_run_shows_what_would_be_there_and_sends_nothing(writable):
    done = command("--space", SPACE, "--pair", "demo", "--dry-run")
    assert done.exit_code == 0, done.stderr[-1000:]
    assert f"space {SPACE}" in done.stdout and "Dockerfile" in done.stdout and "nothing was sent" in done.stdout
    assert writable.store.find("space", SPACE) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--space", SPACE], "takes a --pair"),
        (["--space", "look", "--pair", "demo"], "is not OWNER/NAME"),
        (["--space", SPACE, "--pair", "cat"], "from the Hub"),
        (["--space", SPACE, "--pair", "demo", "--repo", "a/b"], "--repo"),
        ([], "--repo"),
    ],
)
def test_a_request_that_makes_no_sense_is_told(arguments, said):
    done = command(*arguments, "--dry-run")
    assert done.exit_code == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_what_is_not_installed_cannot_be_pinned():
    with pytest.raises(InputError, match="no-such-package-x"):
        spaces.pinned(["no-such-package-x"])
