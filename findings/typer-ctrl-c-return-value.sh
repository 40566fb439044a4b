#!/usr/bin/env bash
# typer 0.29.2, beside click 8.5.1
#
# Expected: app(..., standalone_mode=False), which calls a command and hands back what it returns, raises when the user
#           presses Ctrl-C in it, as click's main() does (Abort, caused by the KeyboardInterrupt).
# Happens:  the interrupt is swallowed and the call returns the number 130, as if the command had returned it. An end
#           of input (EOFError) does raise Abort.
# Matters:  a loop over layers, files or adapters that calls a command for each goes on to the next one after Ctrl-C,
#           and records 130 as a result; a command that returns a number cannot be told from an interrupted one.
#           Where the call matters, catch KeyboardInterrupt inside the command and raise something of one's own.
#
# Seen:
#   typer 0.29.2: ran [0, 1, 2], returned [130, 130, 130], raised nothing
#   click 8.5.1: ran [0], returned [], raised Abort() from KeyboardInterrupt()
#   typer 0.29.2, EOFError: raised Abort()
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
python3 -m venv venv
venv/bin/pip install -q typer==0.29.2 click==8.5.1

venv/bin/python - <<'PY'
import signal
import sys
from importlib.metadata import version

import click
import typer

signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where a shell started this with &
ran = []
app, ends = typer.Typer(), typer.Typer()


@app.command()
def typer_step(layer: int):
    ran.append(layer)
    signal.raise_signal(signal.SIGINT)  # the user presses Ctrl-C


@click.command()
@click.argument("layer", type=int)
def click_step(layer):
    ran.append(layer)
    signal.raise_signal(signal.SIGINT)


@ends.command()
def end_of_input():
    raise EOFError


def loop(call):
    ran.clear()
    returned, raised = [], "nothing"
    try:
        for layer in range(3):
            returned.append(call([str(layer)], standalone_mode=False))
    except BaseException as error:
        raised = f"{error!r} from {error.__cause__!r}"
    return list(ran), returned, raised


by_typer, by_click = loop(app), loop(click_step.main)
try:
    ends([], standalone_mode=False)
    end = "nothing"
except BaseException as error:
    end = repr(error)
for tool, (steps, returned, raised) in (("typer", by_typer), ("click", by_click)):
    print(f"{tool} {version(tool)}: ran {steps}, returned {returned}, raised {raised}")
print(f"typer {version('typer')}, EOFError: raised {end}")

same = (
    by_typer == ([0, 1, 2], [130, 130, 130], "nothing")
    and by_click == ([0], [], "Abort() from KeyboardInterrupt()")
    and end == "Abort()"
)
if not same:
    sys.exit("the behaviour has changed")
PY
