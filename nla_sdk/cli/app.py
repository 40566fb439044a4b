"""The `nla` command. Results go to stdout, everything else to stderr; nothing heavy is imported before it is needed."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from ..io.progress import say
from . import boundary
from .options import (
    AnsweringOptions,
    Input,
    Layer,
    OutputOptions,
    PairOptions,
    Positions,
    Stated,
    WritingOptions,
    at_layer,
    expand,
    stated,
)
from .rows import process
from .terminal import HOW_TO_READ, Summary

app = typer.Typer(
    name="nla",
    help="Natural language autoencoders: a language model's activations into English and back.",
    epilog="The Hub token is taken from HF_TOKEN or `hf auth login`; it is not an option, which shells would keep.",
    no_args_is_help=True,
    **boundary.STYLE,
)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"nla-sdk {__version__}")
        raise typer.Exit


@app.command("round-trip")
@expand
def round_trip(
    input: Input,
    pair: PairOptions,
    output: OutputOptions,
    writing: WritingOptions,
    positions: Positions = "-1",
    layer: Layer = None,
) -> None:
    """Activation → explanation → activation, scored.

    Beside each score stands what no words and the mean direction get: the honest comparison. Rows whose words do worse
    than none say so.

    INPUT: a text (its last token is read), .npy [d] or [n, d], .parquet or .jsonl with a column activation_vector (or
    text), .txt, or - (text or JSON lines).
    """
    summary = Summary()
    process("round_trip", input, pair, output, positions, at_layer(writing, layer), watch=summary.add)
    if summary.rows > 1 or not output.json:
        say(str(summary) if summary.rows > 1 else HOW_TO_READ)


@app.command()
@expand
def explain(
    input: Input,
    pair: PairOptions,
    output: OutputOptions,
    writing: WritingOptions,
    positions: Positions = "-1",
    layer: Layer = None,
) -> None:
    """Activations → English.

    INPUT: as for round-trip. Other columns are carried to the output, api_explanation and explanation_status added.
    Large files stream; a killed run with -o goes on where it was when it is started again.
    """
    process("explain", input, pair, output, positions, at_layer(writing, layer))


@app.command()
@expand
def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In words, in quotes.")],
    input: Input,
    pair: PairOptions,
    output: OutputOptions,
    answering: AnsweringOptions,
    positions: Annotated[
        str, typer.Option(help="Tokens of a text that go in: a:b (a to b − 1), -1 (the last), all, or a list 3,7,-1.")
    ] = "-1",
    layer: Layer = None,
    each: Annotated[bool, typer.Option("--each", help="An answer for each row of INPUT, not one for all.")] = False,
) -> None:
    """A question about activations → an activation oracle's answer.

    All rows of INPUT stand in one prompt, in their order: one answer. With --each every row is asked about by itself.
    The tokens of a text that --positions names go in together.

    INPUT: a text, .npy [d] or [n, d], .parquet or .jsonl with a column activation_vector (or text), .txt, or - (text or
    JSON lines).
    """
    from .ask import ask as put

    put(question, input, pair, output, answering, positions, layer, each=each)


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
    contract: Stated = None,
) -> None:
    """A checkpoint's contract, files and tensors.

    Shows each value of the contract and where it came from, and what becomes of each adapter tensor. No weights are
    loaded; of a Hub repository only the contract and the headers of its files are fetched.
    """
    from ..halves.inspection import describe
    from .info import show

    where = {"revision": revision, "subfolder": subfolder, "local_files_only": local_files_only}
    show(describe(ref, base=base, contract=stated(contract), **where), as_json=json)


@app.command("releases")
@expand
def list_releases(
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="Part of a repository's name or base.")] = None,
    family: Annotated[str | None, typer.Option(help="Of one family: reference, easynla, oracle, …")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Published releases that are known: base, layer, kind, and whether they load or which facts are missing.

    Asks no network.
    """
    from .releases import chosen, show

    show(chosen(family, text), as_json=json)


@app.command()
@expand
def doctor(json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """What this machine can run, and why not."""
    from . import doctor as examination

    examination.show(examination.examine(), as_json=json)


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit, as `boundary` says."""
    boundary.run(app, argv, name="nla", stopped="stopped; nothing was written. Run the same command again.")


if __name__ == "__main__":
    main()
