"""Branches and tags are called by git's rules: ours are held against git's own."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nla_sdk.errors import InputError
from nla_sdk.halves.fetch import fetch_base, fetch_half
from nla_sdk.halves.hub.references import ref_name_problem
from nla_sdk.halves.inspection import describe
from tests.hub.server import Hub

pytest_plugins = ["tests.hub.fixtures"]

PIECES = ["v", "0", "1", "ß", ".", "..", "/", "//", "@", "@{", "{", "}", "-", " ", "\t", "\x7f", "\\", "^", "~", ":"]
PIECES += ["?", "*", "[", "]", ".lock", "lock", "HEAD", "\n", "\x01", "_", "+", "%", "\u2028"]
OURS_ALONE = ("@", "HEAD", "")  # git means a commit by them, and refuses them in its commands


def taken_by_git(name: str) -> bool:
    done = subprocess.run(["git", "check-ref-format", f"refs/tags/{name}"], capture_output=True)
    return done.returncode == 0


@pytest.mark.skipif(shutil.which("git") is None, reason="compares with git")
@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join))
@example("v 0.1")
@example("a.lock/b")
@example("a/.b")
@example("v1.")
def test_a_name_is_taken_if_git_takes_it(name):
    expected = taken_by_git(name) and not name.startswith("-") and name not in OURS_ALONE
    assert (ref_name_problem(name) is None) == expected


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("v 0.1", "holds a space"),
        ("v0..1", "holds \\.\\."),
        ("v^1", "holds \\^"),
        ("a\\b", "holds "),
        ("v1.lock", "ends with .lock"),
        ("-v1", "begins with -"),
        ("@", "the current commit"),
        ("v@{1}", "holds @{"),
        ("v\x07", "control character"),
        ("v1.", "ends with a dot"),
        ("v1/", "begins or ends with /"),
        ("a//b", "holds //"),
        (".v1", "begins with a dot"),
        ("v\ud800", "surrogate"),
        ("", "is empty"),
    ],
)
def test_a_revision_that_git_has_no_name_for_is_refused_before_anybody_is_asked(hub: Hub, name, problem):
    for ask in (fetch_half, fetch_base, describe):
        with pytest.raises(InputError, match=f"The revision .* is no name that git takes: .*{problem}"):
            ask("ada/av", revision=name)
    assert not hub.requests


@pytest.mark.parametrize("name", ["v0.1.0", "refs/pr/1", "main", "a" * 40, "feature/x-1", "é"])
def test_ordinary_names_are_taken(name):
    assert ref_name_problem(name) is None
