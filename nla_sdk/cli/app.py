"""The `nla` command. Results go to stdout, everything else to stderr; nothing heavy is imported before it is needed."""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import InputError, NLAError, NLAWarning
from .options import Input, OutputOptions, PairOptions, Positions, Stopped, WritingOptions, expand
from .terminal import HOW_TO_READ, RowTable, Summary, say

app = typer.Typer(
    name="nla",
    help="Natural language autoencoders: a language model's activations into English and back.",
    epilog="The Hub token is taken from HF_TOKEN or `hf auth login`; it is not an option, which shells would keep.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ROWS_PER_CHUNK = {"explain": 64, "round_trip": 64, "extract": 64, "reconstruct": 512}
"""What a killed run loses at most; the first two are a batch of the AV's, about a minute on a laptop."""
LOOKED_FOR = {
    "explain": ("activation_vector", "text"),
    "round_trip": ("activation_vector", "text"),
    "extract": ("text", "detokenized_text_truncated"),
    "reconstruct": ("api_explanation", "explanation"),
}
"""Columns of INPUT that are read, in this order, unless --column names one."""


# --- commands ---------------------------------------------------------------------------------------------------
@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"nla-sdk {__version__}")
        raise typer.Exit


@app.command("round-trip")
@expand
def round_trip(
    input: Input, pair: PairOptions, output: OutputOptions, writing: WritingOptions, positions: Positions = "-1"
) -> None:
    """Activation → explanation → activation, scored.

    Beside each score stands what an empty explanation gets: the honest comparison.

    INPUT: a text (its last token is read), .npy [d] or [n, d], .parquet or .jsonl with a column activation_vector (or
    text), .txt, or - (text or JSON lines).
    """
    summary = Summary()
    process("round_trip", input, pair, output, positions, vars(writing), watch=summary.add)
    if summary.rows > 1 or not output.json:
        say(str(summary) if summary.rows > 1 else HOW_TO_READ)


@app.command()
@expand
def explain(
    input: Input, pair: PairOptions, output: OutputOptions, writing: WritingOptions, positions: Positions = "-1"
) -> None:
    """Activations → English.

    INPUT: as for round-trip. Other columns are carried to the output, api_explanation and explanation_status added.
    Large files stream; a killed run with -o goes on where it was when it is started again.
    """
    process("explain", input, pair, output, positions, vars(writing))


@app.command()
@expand
def reconstruct(input: Input, pair: PairOptions, output: OutputOptions) -> None:
    """Explanations → activations.

    The result is a column `reconstruction`, or a .npy file [n, d].

    INPUT: a text, .parquet or .jsonl with a column api_explanation, .txt (one a line), or - (lines or JSON lines).
    """
    process("reconstruct", input, pair, output)


@app.command()
@expand
def extract(
    input: Input,
    pair: PairOptions,
    output: OutputOptions,
    positions: Positions = "-1",
    layer: Annotated[int | None, typer.Option(min=0, help="[default: the pair's]")] = None,
) -> None:
    """Texts → activations of the base model.

    The result has the reference pipeline's columns (activation_vector: raw), or is a .npy file [n, d].

    INPUT: a text, .txt (one text), .parquet or .jsonl with a column text, or - (one text, or JSON lines).
    """
    process("extract", input, pair, output, positions, {"layer": layer})


@app.command()
@expand
def info(
    ref: Annotated[str, typer.Argument(metavar="REPO_OR_FOLDER", help="A half, a folder of both, or demo.")],
    base: Annotated[str | None, typer.Option(help="Base to check an adapter against, if not the contract's.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    subfolder: Annotated[str | None, typer.Option(help="Where a repository holds several.")] = None,
    local_files_only: Annotated[bool, typer.Option("--local-files-only", help="Ask no network.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """A checkpoint's contract, files and tensors.

    Shows each value of the contract and where it came from, and what becomes of each adapter tensor. No weights are
    loaded; of a Hub repository only the contract and the headers of its files are fetched.
    """
    from ..halves.inspection import describe
    from .info import show

    where = {"revision": revision, "subfolder": subfolder, "local_files_only": local_files_only}
    show(describe(ref, base=base, **where), as_json=json)


@app.command()
@expand
def doctor(json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """What this machine can run, and why not."""
    from . import doctor as examination

    examination.show(examination.examine(), as_json=json)


# --- doing it ---------------------------------------------------------------------------------------------------
def process(
    command: str,
    given: str,
    pair_options: PairOptions,
    output: OutputOptions,
    positions: str | None = None,
    options: dict[str, Any] | None = None,
    watch: Callable | None = None,
) -> None:
    """What the four commands on rows do alike: open INPUT, load the pair, work through it, write or print.

    Args:
        command: a function of nla_sdk.jobs.work.
        options: its options beside `positions`.
        watch: is shown every table of results.
    """
    from ..io import formats, sources
    from ..jobs import local as jobs
    from ..jobs import work as rows

    kinds = (sources.TEXTS,) if command in ("extract", "reconstruct") else (sources.VECTORS, sources.TEXTS)
    source = sources.open_source(
        given, LOOKED_FOR[command], column=output.column, holds=kinds, lines=command == "reconstruct"
    )
    result = {"extract": "activation_vector", "reconstruct": "reconstruction"}.get(command)
    hidden = {source.column, "activation_vector"} if source.holds == sources.VECTORS else {"activation_vector"}
    hidden = sorted(hidden - {result})
    form = "jsonl" if output.json else output.format and output.format.value
    target = None
    if output.out is not None and form != "table":
        form = formats.pick_format(output.out, form)
        target = jobs.Target(output.out, form, result, hidden, output.overwrite)
        target.refuse_early()
    elif output.out is not None or form not in (None, "table", "jsonl"):
        raise InputError("Tables are for the terminal; parquet, npy and json are for files: give -o and one of these.")
    count = source.check(empty_texts=command == "reconstruct")
    options = (options or {}) | ({} if positions is None else {"positions": parse_positions(positions)})

    pair = pair_options.load()
    work = getattr(rows, command)(pair, source, **options)
    size = chunk_rows(command, source.holds, options.get("positions"))
    if target is None:
        print_rows(command, source, count, work, size, hidden, as_json=form == "jsonl", vectors=result, watch=watch)
        return
    made_from = {
        "command": command.replace("_", "-"),
        "input": source.identity() | {"column": source.column},
        "options": options,
        "pair": rows.identify(pair),
    }
    jobs.run(source, count, work, target, chunk_rows=size, made_from=made_from, about=pair.contract, watch=watch)
    say(f"wrote {output.out}")


def print_rows(command, source, count, work, size, hidden, *, as_json, vectors, watch) -> None:
    """Work through INPUT and print the results as they come."""
    from tqdm import tqdm

    from ..io import formats

    text = "detokenized_text_truncated" if command == "extract" else source.column
    table = RowTable(command, text=text, vectors=vectors)
    first = 0
    with tqdm(total=count, unit="row", desc=source.name, delay=2, leave=False, disable=None) as bar:
        for batch in source.batches(size):
            results = work(batch, first)
            first += batch.num_rows
            if not bar.disable:
                bar.clear()
            if as_json:
                for line in formats.json_lines(results, hidden):
                    print(line)
            else:
                table.print(results)
            sys.stdout.flush()
            bar.update(batch.num_rows)
            if watch is not None:
                watch(results)


def parse_positions(text: str) -> int | str | list[int]:
    """`-1`, `all` or `3,7,-1`, as `NLAPair.extract` takes them."""
    if text == "all":
        return text
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--positions {text}: expected -1, all, or a list of numbers such as 3,7,-1.") from None
    return numbers[0] if len(numbers) == 1 else numbers


def chunk_rows(command: str, holds: str, positions: int | str | list[int] | None) -> int:
    """Rows of INPUT a chunk: fewer where each is a text that is read at several positions."""
    size = ROWS_PER_CHUNK[command]
    if holds == "vectors" or positions is None or isinstance(positions, int):
        return size
    if positions == "all":
        return 8 if command == "extract" else 1
    return max(1, size // len(positions))


# --- the process ------------------------------------------------------------------------------------------------
def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit: 0; 2 where the user can put it right; 130 on Ctrl-C; a bug gives a traceback."""
    for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(name, "error")
    for stream in (sys.stdout, sys.stderr):  # explanations hold characters that old consoles lack
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace", **({} if stream.isatty() else {"encoding": "utf-8"}))
    command = typer.main.get_command(app)
    usage_error = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", NLAWarning)
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
        try:
            code = command.main(args=argv, prog_name="nla", standalone_mode=False)
            sys.stdout.flush()
        except NLAError as error:
            code = fail(error)
        except usage_error as error:
            context = getattr(error, "ctx", None)
            where = f"see `{context.command_path if context else 'nla'} --help`"
            code = fail(f"{error.format_message().rstrip('.')}; {where}")
        except (Stopped, KeyboardInterrupt, typer.Abort) as stop:
            code = stopped(str(stop)) if str(stop) or not isinstance(stop, Stopped) else silenced()
        except BrokenPipeError:
            code = silenced()
        except OSError as error:
            code = fail(f"{error.filename}: {error.strerror}" if error.filename else error)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
                raise
            code = fail("Out of memory. Try --quantization nf4, another --device, or a smaller model; see nla doctor.")
    raise SystemExit(code if isinstance(code, int) else 0)


def fail(error: object) -> int:
    """Say what is wrong; the exit code."""
    say(f"error: {error}")
    return 2


def stopped(message: str) -> int:
    """Say what Ctrl-C leaves; the exit code."""
    say(message or "stopped")
    return 130


def silenced() -> int:
    """Nobody reads stdout any more: have the interpreter's last flush go nowhere; the exit code."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


if __name__ == "__main__":
    main()
