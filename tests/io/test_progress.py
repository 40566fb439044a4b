"""Bars go to stderr, late and at a pace that suits what reads them; lines do not tear them."""

from __future__ import annotations

import io
import sys

import pytest

from nla_sdk.io.progress import LIVE, LOGGED, progress_bar, say


@pytest.mark.parametrize("is_terminal, seconds", [(True, LIVE), (False, LOGGED)])
def test_a_bar_is_drawn_often_on_a_terminal_and_seldom_in_a_log(monkeypatch, is_terminal, seconds):
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(10, "row", "labels", done=3) as bar:
        assert (bar.mininterval, bar.delay, bar.n, bar.total) == (seconds, 2, 3, 10)
        bar.update(7)
    assert stream.getvalue() == "", "work of less than two seconds shows none"


def test_a_bar_that_is_not_to_be_shown_counts_without_a_word(capsys):
    with progress_bar(None, "row", "labels", shown=False) as bar:
        bar.update(7)
    assert capsys.readouterr() == ("", "")


def test_a_line_goes_to_stderr(capsys):
    say("look here")
    assert capsys.readouterr() == ("", "look here\n")
