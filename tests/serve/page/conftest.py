"""A real browser on real servers: each pair is served once, the browser starts once, each test has its own page."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nla_sdk import NLAPair
from tests import tiny

SOURCES = Path(__file__).parents[3] / "page"
NO_BROWSER = (
    "No Chromium was found, and the page is tested in one: `apt-get install chromium` (or a `chromium` or "
    "`google-chrome` on PATH). NLA_NO_BROWSER=1 leaves these tests out."
)
NO_NPM = "No npm was found, and the page is built by it: `apt-get install npm`. NLA_NO_NPM=1 leaves these tests out."
ORACLE = {
    "injection": {"site": "block", "block": 1, "rule": "add", "norm": "match", "markers": "any"},
    "av_template": "Layer: {layer}\n{injection_char} \n{question}",
    "fields": {"layer": {"values": [1, 2]}, "question": {}},
    "layers": [1, 2],
    "output": {"form": "answer", "stop": "eos"},
    "prompt_style": "chat",
    "max_new_tokens": 10,
}

HURRY = """{
    const waited = window.setTimeout;
    window.setTimeout = (work, ms = 0, ...given) => waited(work, ms < 500 ? ms / 10 : ms, ...given);
}"""
"""The page waits until typing rests, twice in most tests; `fill` types in no time."""


def absent(what: str, left_out: bool) -> None:
    """What a test needs is not here: that is a failure, unless somebody said that it is known."""
    if left_out:
        pytest.skip(what)
    pytest.fail(what, pytrace=False)


@pytest.fixture(scope="session")
def modules(tmp_path_factory) -> Path:
    """What `npm ci` installs for the page: as it lies there, or put into a copy."""
    if (SOURCES / "node_modules" / ".package-lock.json").is_file():
        return SOURCES / "node_modules"
    left_out = os.environ.get("NLA_NO_NPM") == "1"
    if left_out or shutil.which("npm") is None or shutil.which("node") is None:
        absent(NO_NPM, left_out)
    folder = tmp_path_factory.mktemp("npm")
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(SOURCES / name, folder)
    done = subprocess.run(["npm", "ci"], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"npm ci: {done.stderr}"
    return folder / "node_modules"


@pytest.fixture(scope="session")
def bundle() -> Path:
    """The files that are handed out."""
    return SOURCES.parent / "nla_sdk" / "serve" / "page"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        absent(NO_BROWSER, os.environ.get("NLA_NO_BROWSER") == "1")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def served(full_folder, full_pair, llama_base, tmp_path_factory) -> Iterator[Callable[..., str]]:
    """name, settings → the URL at which that pair is served."""
    from nla_sdk.serve.running import serving

    def oracle() -> NLAPair:
        folder = tmp_path_factory.mktemp("oracle") / "oracle"
        tiny.lora_av(folder, llama_base, tiny.plain_model(llama_base), layer=1)
        return NLAPair.from_pretrained(tiny.write_sidecar(folder, "injection_scale", **ORACLE))

    pairs = {
        "pair": lambda: full_pair,
        "av": lambda: NLAPair.from_pretrained(full_folder / "av"),
        "oracle": functools.cache(oracle),
        "demo": functools.cache(lambda: NLAPair.from_pretrained("demo")),
    }
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda name="pair", **how: stack.enter_context(serving(pairs[name](), name=name, **how)))


class Watched:
    """A page, and everything that went wrong in it."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.faults, self.foreign = page, [], []
        page.on("console", lambda message: self._said(message))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self._asked(request.url, url))
        self.expected: tuple[str, ...] = ()

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def _asked(self, asked: str, url: str) -> None:
        if not asked.startswith((url, "data:", "blob:")):
            self.foreign.append(asked)

    def check(self) -> None:
        faults = [one for one in self.faults if not any(part in one for part in self.expected)]
        assert (faults, self.foreign) == ([], [])


@pytest.fixture
def opened(browser, served) -> Iterator[Callable[..., Any]]:
    """pair, fragment, context's options → a page that has loaded; at the end nothing must have gone wrong in it."""
    with contextlib.ExitStack() as stack:
        watched: list[Watched] = []

        def visit(name: str = "pair", *, at: str = "", refused: tuple[str, ...] = (), how: Any = (), **options: Any):
            context = stack.enter_context(contextlib.closing(browser.new_context(**options)))
            context.add_init_script(HURRY)
            page = context.new_page()
            page.set_default_timeout(20_000)
            url = served(name, **dict(how or {}))
            one = Watched(page, url)
            one.expected = refused
            watched.append(one)
            page.goto(f"{url}/{at}")
            return page

        yield visit
        for one in watched:
            one.check()
