"""Writes the pages of commands, reference/nla.md and reference/training.md, from the commands: `python docs/cli.py`.

What stands there is what `--help` prints. The prose around it is written by hand.
"""

from __future__ import annotations

import re
import runpy
import warnings
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import typer

from nla_sdk.cli import boundary
from nla_sdk.cli.app import app
from training.__main__ import ROOMS
from training.__main__ import commands as listed

HERE = Path(__file__).parent
BEGIN, END = "<!-- commands: written by docs/cli.py -->\n", "<!-- end of commands -->\n"
MODULES = "python -m training"
PAGES = {"nla": HERE / "reference" / "nla.md", MODULES: HERE / "reference" / "training.md"}


def page(text: str, line: str) -> str:
    """The text of a command line's page with the commands as they are now; `line` is a key of PAGES."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + (of_nla() if line == "nla" else of_training()) + END + rest.split(END)[1]


def of_nla() -> str:
    """A section for each command of `nla`."""
    return "\n".join(section(f"nla {name}", command) for name, command in nla().commands.items())


def of_training() -> str:
    """A section for each module, by room."""
    rooms: dict[str, list[str]] = {}
    for room, name, _ in listed():
        rooms.setdefault(room, []).append(section(f"{MODULES}.{name}", module(name), level=3))
    return "\n".join("\n".join([f"## {room}: {what}\n", *rooms[room]]) for room, what in ROOMS.items())


@cache
def nla() -> Any:
    """The group of commands that `nla` is."""
    return typer.main.get_command(app)


@cache
def module(name: str) -> Any:
    """The command that `python -m training.NAME` runs."""

    class Found(Exception):
        """The command was handed over."""

    def found(command: Any, **_: Any) -> None:
        raise Found(command)

    # A module's last lines say what it runs; run as a script, it is stopped there.
    with mock.patch("training.configs.command.run_command", found), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
        try:
            runpy.run_module(f"training.{name}", run_name="__main__", alter_sys=True)
        except Found as end:
            [command] = end.args
            one = isinstance(command, typer.Typer)
            return typer.main.get_command(command if one else boundary._app(command))
    raise LookupError(f"training.{name} runs no command")


def section(name: str, command: Any, level: int = 2) -> str:
    """How a command is called, what it does, its arguments and options; its own commands below it."""
    context = command.context_class(command, info_name=name)
    usage = command.get_usage(context).removeprefix("Usage: ")
    lines = [f"{'#' * level} `{name}`", "", "```text", " ".join(usage.split()), "```", "", prose(command.help), ""]
    shown = [record for one in command.get_params(context) if (record := one.get_help_record(context))]
    shown = [(names, said) for names, said in shown if "--help" not in names]
    if shown:
        lines += ["| | |", "|---|---|"]
        lines += [f"| {names_of(names)} | {cell(' '.join(said.split()))} |" for names, said in shown] + [""]
    below = getattr(command, "commands", {})
    lines += [section(f"{name} {one}", sub, level + 1) for one, sub in below.items()]
    return "\n".join(lines)


def prose(text: str | None) -> str:
    """A help as Markdown: paragraphs whose lines stay as they are become blocks, others one line."""
    written = []
    for paragraph in re.split(r"\n\s*\n", (text or "").strip()):
        if paragraph.lstrip().startswith("\b"):
            lines = paragraph.replace("\b\n", "").splitlines()
            written.append("\n".join(["```text", *(line.strip() for line in lines), "```"]))
        else:
            written.append(cell(" ".join(paragraph.split()), table=False))
    return "\n\n".join(written)


def names_of(names: str) -> str:
    """`--av <str>` as code, without the type that every text has."""
    return f"`{names.replace(' <str>', '').replace(' range>', '>').replace('|', ' or ')}`"


def cell(text: str, table: bool = True) -> str:
    """Text of a help as Markdown takes it literally."""
    text = re.sub(r"([\\*_<\[\]])(?![^`]*`(?:[^`]*`[^`]*`)*[^`]*$)", r"\\\1", text)
    return text.replace("|", "\\|") if table else text


if __name__ == "__main__":
    for line, file in PAGES.items():
        file.write_text(page(file.read_text(encoding="utf-8"), line), encoding="utf-8", newline="\n")
