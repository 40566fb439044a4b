"""Where every command line of this project ends: in which exit code, and with what one line of why.

0: done. 2: something that the user can put right, in one line. 130: Ctrl-C, with what was kept. 141: nobody reads
stdout any more (`nla … | head`). A bug gives a traceback: it is not dressed up as the user's mistake.
"""

import atexit
import contextlib
import gc
import glob
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

import typer

from ..errors import NLAError, NLAWarning, first_line
from ..io.progress import end_bars, say

STYLE = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
"""How every `typer.Typer` here is made."""
LESS_MEMORY = "Try --quantization nf4, another --device, or a smaller model; see nla doctor."


def end_with_version() -> NoReturn:
    """Print the version and the commit behind it, and exit."""
    from .. import __version__
    from ..__about__ import commit

    print(f"nla-sdk {__version__} (commit {commit() or 'unknown'})")
    raise typer.Exit


def run(
    command: typer.Typer | Callable[..., object],
    argv: Sequence[str] | None = None,
    *,
    name: str | None = None,
    stopped: str = "stopped",
    less_memory: str = LESS_MEMORY,
) -> NoReturn:
    """Run a command line and exit.

    Args:
        command: an app with commands, or a function whose parameters are options and whose docstring is the help.
        argv: its arguments; None: those of the process.
        name: what it is called in help and errors; None: as this process was started.
        stopped: said on Ctrl-C, where the work does not say itself what it keeps.
        less_memory: what may help where memory runs out.
    """
    for variable in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(variable, "error")
    for stream in (sys.stdout, sys.stderr):  # explanations hold characters that old consoles lack
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace", **({} if stream.isatty() else {"encoding": "utf-8"}))
    _collect_seldom()
    name = name or _started_as()
    usage_error = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", NLAWarning)
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
        try:
            # Not main(): that turns Ctrl-C and a reader that left into exit codes of its own, and loses what they say.
            parsed = typer.main.get_command(command if isinstance(command, typer.Typer) else _app(command))
            with parsed.make_context(name, _arguments(argv)) as context:
                parsed.invoke(context)
            sys.stdout.flush()
            code = 0
        except typer.Exit as end:
            code = end.exit_code
        except NLAError as error:
            code = _refused(error)
        except usage_error as error:
            context = getattr(error, "ctx", None)
            if type(error).__name__ == "NoArgsIsHelpError":
                say(error.format_message())
                raise SystemExit(2) from None
            where = f"see `{context.command_path if context else name} --help`"
            code = _refused(f"{error.format_message().rstrip('.')}; {where}")
        except (KeyboardInterrupt, typer.Abort) as stop:
            end_bars()
            say(str(stop) or stopped)
            code = 130
        except BrokenPipeError:
            code = _silenced()
        except ModuleNotFoundError as error:
            if not (extras := _brought_by(error.name or "")):
                raise
            named = " or ".join(f"[{extra}]" for extra in extras)
            code = _refused(f"{error.name} is not installed. {named} brings it: pip install 'nla-sdk[{extras[0]}]'")
        except OSError as error:
            code = _refused(f"{error.filename}: {error.strerror}" if error.filename else first_line(error))
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
                raise
            code = _refused(f"Out of memory. {less_memory}")
    raise SystemExit(code)


def _collect_seldom() -> None:
    """Have Python look for garbage seldom, and not as the process ends.

    A model in memory comes with two million objects that stay. To look through all of them takes half a second, which
    happened again and again as they were made, and four times more at the very end, where nothing is left to be won.
    """
    gc.set_threshold(max(gc.get_threshold()[0], 50_000), *gc.get_threshold()[1:])
    atexit.register(gc.freeze)


def readable(doc: str | None) -> str:
    """A docstring as help: indented paragraphs of it are examples, whose lines stay as they are."""
    return re.sub(r"\n\n(?= )", "\n\n\b\n", doc or "")


def _brought_by(module: str) -> list[str]:
    """The extras of nla-sdk that install a module; none of a module that it never asked for: that is a bug."""
    from importlib import metadata

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    library = module.partition(".")[0]
    distribution = canonicalize_name({"sklearn": "scikit-learn"}.get(library, library))
    try:
        needs = map(Requirement, metadata.requires("nla-sdk") or ())
    except metadata.PackageNotFoundError:
        return []
    markers = [str(need.marker) for need in needs if canonicalize_name(need.name) == distribution]
    return [extra for extra in re.findall(r'extra == "(\w+)"', " ".join(markers)) if extra != "dev"]


def _app(function: Callable[..., object]) -> typer.Typer:
    """The app of one command."""
    app = typer.Typer(**STYLE)
    app.command(help=readable(function.__doc__))(function)
    return app


def _started_as() -> str:
    """`python -m training.label`, as usage errors name the command."""
    spec = sys.modules["__main__"].__spec__
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else os.path.basename(sys.argv[0])


def _arguments(argv: Sequence[str] | None) -> list[str]:
    if argv is not None:
        return list(argv)
    if os.name != "nt":
        return sys.argv[1:]
    return [match for word in sys.argv[1:] for match in (glob.glob(word, recursive=True) or [word])]  # as a shell does


def _refused(error: object) -> int:
    """Say what is wrong; the exit code."""
    end_bars()
    say(f"error: {error}")
    return 2


def _silenced() -> int:
    """Nobody reads stdout any more: have the interpreter's last flush go nowhere; the exit code."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
