"""The pages of commands hold every command there is, as its help has it now."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from nla_sdk.cli.app import app
from training.__main__ import commands

GENERATOR = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "cli.py"))
PAGES = {line: file.read_text(encoding="utf-8") for line, file in GENERATOR["PAGES"].items()}


@pytest.mark.parametrize("line", PAGES)
def test_the_page_is_what_the_commands_say(line):
    assert GENERATOR["page"](PAGES[line], line) == PAGES[line], "run: python docs/cli.py"


def test_every_command_is_there():
    shown = re.findall(r"^#+ `(?:nla|python -m training\.)(.+)`$", "\n".join(PAGES.values()), re.MULTILINE)
    nla = [f" {one.name or one.callback.__name__.replace('_', '-')}" for one in app.registered_commands]
    assert set(shown) == {*nla, *(name for _, name, _ in commands()), "evaluate verify", "evaluate compare"}


def test_an_option_stands_with_what_it_takes_and_is():
    assert "| `--temperature <float>` | 0 is greedy. \\[default: 0.0; x>=0.0\\] |" in PAGES["nla"]


def test_signs_of_markdown_in_a_help_are_text():
    cell = GENERATOR["cell"]
    assert cell("[default: a_b] | `a_b`") == r"\[default: a\_b\] \| `a_b`"
