"""Which commit code is of: git's in a checkout, what a wheel was told in a wheel, and otherwise nobody's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from nla_sdk import __about__
from nla_sdk.__about__ import commit


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", folder, *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def no_hook(monkeypatch):
    """Tests that a git hook starts are told its repository."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A repository with a package in it, committed."""
    package = tmp_path / "checkout" / "nla_sdk"
    package.mkdir(parents=True)
    shutil.copy(__about__.__file__, package)
    git(package.parent, "init", "--quiet")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "--quiet", "--message", "all")
    return package.parent


def test_a_checkout_is_of_its_commit_and_says_if_it_was_changed(checkout):
    head = git(checkout, "rev-parse", "HEAD")
    assert commit(checkout / "nla_sdk") == head and len(head) == 40
    (checkout / "untracked").touch()
    assert commit(checkout / "nla_sdk") == head
    (checkout / "nla_sdk" / "__about__.py").write_text("changed")
    assert commit(checkout / "nla_sdk") == f"{head}+changes"


@pytest.mark.parametrize("place", [".venv/lib/python3/site-packages", "."])
def test_code_that_lies_in_somebody_elses_repository_is_not_of_their_commit(tmp_path, place):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    git(theirs, "init", "--quiet")
    git(theirs, "commit", "--quiet", "--allow-empty", "--message", "theirs")
    package = theirs / place / "nla_sdk"
    package.mkdir(parents=True)
    shutil.copy(__about__.__file__, package)
    assert commit(package) is None
    if place != ".":  # kept in their history too
        git(theirs, "add", "--force", ".")
        assert commit(package) is None


def test_what_was_built_says_what_it_was_built_from_wherever_it_lies(checkout):
    (checkout / "nla_sdk" / "commit.txt").write_text("1a2b\n")
    assert commit(checkout / "nla_sdk") == "1a2b"


def test_without_git_nobody_knows(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert commit(checkout / "nla_sdk") is None
