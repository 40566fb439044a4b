"""A file or folder appears whole or not at all, and what killed runs left goes, and only that."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nla_sdk.io import files
from nla_sdk.io.files import atomic, hash64, sha256_of, sync, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def leftover(path: Path, host: str, pid: int, *, folder: bool = False) -> Path:
    """What a killed writer of `path` leaves."""
    left = path.with_name(f".{path.name}.{host}-{pid}-0123abcd.tmp")
    if folder:
        left.mkdir()
        (left / "weights").write_text("half")
    else:
        left.write_text("half")
    return left


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def living_pid() -> int:
    return psutil.Process().parent().pid


# --- whole or not at all ----------------------------------------------------------------------------------------------
def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "made" / "a.txt"
    with atomic(path) as sibling:
        sibling.write_text("new")
        assert not path.exists() and sibling.parent == path.parent
    assert names(path.parent) == ["a.txt"] and path.read_text() == "new"


@pytest.mark.parametrize("stop", [ValueError(), KeyboardInterrupt()])
@pytest.mark.parametrize("folder", [False, True])
def test_a_block_that_fails_changes_nothing(tmp_path, stop, folder):
    path = tmp_path / "a"
    if folder:
        path.mkdir()
        (path / "old").write_text("old")
    else:
        path.write_text("old")
    with pytest.raises(type(stop)), atomic(path) as sibling:
        if folder:
            sibling.mkdir()
            (sibling / "new").write_text("half")
        else:
            sibling.write_text("half")
        raise stop
    assert names(tmp_path) == ["a"]
    assert ((path / "old") if folder else path).read_text() == "old"


def test_a_folder_replaces_a_folder_whole(tmp_path):
    for content in ("one", "two"):
        with atomic(tmp_path / "half") as sibling:
            (sibling / "inner").mkdir(parents=True)
            (sibling / "inner" / content).write_text(content)
    assert names(tmp_path) == ["half"] and names(tmp_path / "half" / "inner") == ["two"]


def test_a_kill_while_a_folder_is_replaced_leaves_no_half_of_it_under_the_final_name(tmp_path, monkeypatch):
    with atomic(tmp_path / "half") as sibling:
        sibling.mkdir()
        (sibling / "old").write_text("old")
    removed: list[Path] = []
    monkeypatch.setattr(files.shutil, "rmtree", lambda folder, **_: removed.append(Path(folder)))
    with atomic(tmp_path / "half") as sibling:
        sibling.mkdir()
        (sibling / "new").write_text("new")
    assert removed and tmp_path / "half" not in removed
    assert names(tmp_path / "half") == ["new"]


def test_a_folder_that_cannot_be_replaced_is_what_it_was(tmp_path, monkeypatch):
    with atomic(tmp_path / "half") as sibling:
        sibling.mkdir()
        (sibling / "old").write_text("old")
    replace = os.replace

    def refused(source: Path, target: Path) -> None:
        if target == tmp_path / "half" and (source / "new").exists():
            raise PermissionError(13, "in use")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", refused)
    with pytest.raises(PermissionError), atomic(tmp_path / "half") as sibling:
        sibling.mkdir()
        (sibling / "new").write_text("new")
    assert names(tmp_path) == ["half"] and names(tmp_path / "half") == ["old"]


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    order: list[str] = []
    replace = os.replace
    monkeypatch.setattr(files, "sync", lambda path: order.append("folder" if path == tmp_path else path.name))
    monkeypatch.setattr(files.os, "replace", lambda *pair: (order.append("rename"), replace(*pair)))
    with atomic(tmp_path / "half") as sibling:
        sibling.mkdir()
        (sibling / "weights").write_text("w")
    assert order == ["weights", sibling.name, "rename", "folder"]


def test_two_writers_of_one_path_do_not_meet(tmp_path):
    with atomic(tmp_path / "a") as first, atomic(tmp_path / "a") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first" and names(tmp_path) == ["a"]


# --- what killed runs left --------------------------------------------------------------------------------------------
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize("folder", [False, True])
def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path, folder):
    code = f"""
import os, pathlib, signal
from nla_sdk.io.files import atomic
with atomic(pathlib.Path({str(tmp_path / "a")!r})) as sibling:
    if {folder}:
        sibling.mkdir()
        sibling = sibling / "weights"
    sibling.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -signal.SIGKILL
    [left] = names(tmp_path)
    assert left.startswith(".a.") and left.endswith(".tmp")
    with atomic(tmp_path / "a") as sibling:
        sibling.write_text("whole")
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "name", [".a.4711-deadbeef.tmp", ".a.4711.tmp", ".a.tmp.tmp", ".a.b.00000000-1-01234567.tmp", ".a.x-y-z.tmp"]
)
def test_a_name_that_is_not_ours_is_left_alone_and_stops_nobody(tmp_path, name):
    """The first is what `Contract.save` used to leave; its pid was read as the number "4711-deadbeef"."""
    (tmp_path / name).write_text("someone's")
    with atomic(tmp_path / "a") as sibling:
        sibling.write_text("whole")
    assert names(tmp_path) == [name, "a"]


def test_another_hosts_file_is_not_judged_by_our_processes(tmp_path, dead_pid):
    theirs = leftover(tmp_path / "a", "0" * 8, dead_pid)
    with atomic(tmp_path / "a") as sibling:
        sibling.write_text("whole")
    assert theirs.read_text() == "half"


@pytest.mark.parametrize("folder", [False, True])
def test_of_this_host_what_a_dead_process_left_goes_and_a_living_ones_stays(tmp_path, dead_pid, living_pid, folder):
    dead = leftover(tmp_path / "a", files._host(), dead_pid, folder=folder)
    living = leftover(tmp_path / "a", files._host(), living_pid, folder=folder)
    with atomic(tmp_path / "a") as sibling:
        sibling.write_text("whole")
    assert living.exists() and not dead.exists()


def test_a_write_in_progress_is_ours_by_whichever_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with atomic(Path("a")) as ours:
        ours.write_text("outer")
        with atomic(tmp_path / "a") as sibling:
            sibling.write_text("inner")
        assert ours.exists()


def test_what_an_earlier_process_of_our_own_pid_left_goes(tmp_path):
    """In a container that is started again, the process has the pid it had before."""
    earlier = leftover(tmp_path / "a", files._host(), os.getpid())
    with atomic(tmp_path / "a") as ours:
        ours.write_text("outer")
        with atomic(tmp_path / "a") as sibling:
            sibling.write_text("inner")
        assert ours.exists() and not earlier.exists()


def test_what_lies_there_for_a_week_is_nobodys(tmp_path):
    theirs = leftover(tmp_path / "a", "0" * 8, 1)
    os.utime(theirs, (0, time.time() - files.FORGOTTEN - 60))
    with atomic(tmp_path / "a") as sibling:
        sibling.write_text("whole")
    assert names(tmp_path) == ["a"]


def test_who_holds_a_lock_clears_away_any_hosts(tmp_path):
    leftover(tmp_path / "a", "0" * 8, 1)
    with atomic(tmp_path / "a", locked=True) as sibling:
        sibling.write_text("whole")
    assert names(tmp_path) == ["a"]


def test_a_leftover_that_cannot_be_removed_stops_nobody(tmp_path, dead_pid, monkeypatch):
    leftover(tmp_path / "a", files._host(), dead_pid)
    unlink = Path.unlink

    def refused(path: Path, **options) -> None:
        if f"-{dead_pid}-" in path.name:
            raise PermissionError(13, "another user's")
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", refused)
    with atomic(tmp_path / "a") as sibling:
        sibling.write_text("whole")
    assert (tmp_path / "a").read_text() == "whole"


# --- hashes, JSON, the disk -------------------------------------------------------------------------------------------
def test_hashes_are_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert hash64("Grüße") == int(hashlib.sha256("Grüße".encode()).hexdigest()[:16], 16)


def test_json_is_readable_and_ends_with_a_line_break(tmp_path):
    write_json(tmp_path / "a.json", {"ü": [1]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"ü": [1]} and "ü" in text and text.endswith("}\n")


def test_a_disk_that_syncs_no_folders_is_no_error_but_a_file_is(tmp_path, monkeypatch):
    def refused(descriptor):
        raise OSError(22, "Invalid argument")

    (tmp_path / "a").write_text("a")
    monkeypatch.setattr(files.os, "fsync", refused)
    sync(tmp_path)
    with pytest.raises(OSError, match="Invalid"):
        sync(tmp_path / "a")
