"""The `nla` command. Results go to stdout, everything else to stderr; nothing heavy is imported before it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..io.progress import say
from . import boundary
from .options import (
    AnsweringOptions,
    Check,
    EngineOptions,
    FileOptions,
    Input,
    Layer,
    OutputOptions,
    PairOptions,
    Positions,
    Quantization,
    ServeOptions,
    Stated,
    VectorOptions,
    WritingOptions,
    WrittenByOptions,
    at_layer,
    expand,
    stated,
)
from .rows import process
from .terminal import HOW_TO_READ, HOW_TO_READ_DIRECTIONS, Summary

app = typer.Typer(
    name="nla",
    help="Natural language autoencoders: a language model's activations into English and back.",
    epilog="The Hub token is taken from HF_TOKEN or `hf auth login`; it is not an option, which shells would keep.",
    no_args_is_help=True,
    **boundary.STYLE,
)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and its commit, and exit.")] = False,
) -> None:
    if version:
        boundary.end_with_version()


@app.command("round-trip")
@expand
def round_trip(
    input: Input,
    pair: WrittenByOptions,
    output: OutputOptions,
    writing: WritingOptions,
    vectors: VectorOptions,
    engine: EngineOptions,
    positions: Positions = "-1",
    layer: Layer = None,
    check: Check = False,
) -> None:
    """Activation → explanation → activation, scored.

    Beside each score stands what no words and the mean direction get: the honest comparison. Rows whose words do worse
    than none say so.

    INPUT: a text (its last token is read), .npy [d] or [n, d], .parquet or .jsonl with a column activation_vector (or
    text), .txt, - (text or JSON lines), or vectors of another tool (see nla vectors). Files may be many, by a pattern
    ('acts/*.parquet'), and lie at s3://, gs:// or hf:// too.
    """
    summary = Summary()
    said = at_layer(writing, layer)
    process("round_trip", input, pair, output, engine, positions, said, summary.add, vectors, check=check)
    if summary.rows > 1 or not output.json:
        how_to_read = HOW_TO_READ_DIRECTIONS if summary.directions else HOW_TO_READ
        say(str(summary) if summary.rows > 1 else how_to_read)


@app.command()
@expand
def explain(
    input: Input,
    pair: WrittenByOptions,
    output: OutputOptions,
    writing: WritingOptions,
    vectors: VectorOptions,
    engine: EngineOptions,
    positions: Positions = "-1",
    layer: Layer = None,
    check: Check = False,
) -> None:
    """Activations and directions → English.

    INPUT: as for round-trip. Other columns are carried to the output, api_explanation and explanation_status added.
    Large files stream; a killed run with -o goes on where it was when it is started again.
    """
    process("explain", input, pair, output, engine, positions, at_layer(writing, layer), vectors=vectors, check=check)


@app.command()
@expand
def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In words, in quotes.")],
    input: Input,
    pair: PairOptions,
    output: OutputOptions,
    answering: AnsweringOptions,
    vectors: VectorOptions,
    positions: Annotated[
        str, typer.Option(help="Tokens of a text that go in: a:b (a to b − 1), -1 (the last), all, or a list 3,7,-1.")
    ] = "-1",
    layer: Layer = None,
    each: Annotated[bool, typer.Option("--each", help="An answer for each row of INPUT, not one for all.")] = False,
) -> None:
    """A question about activations → an activation oracle's answer.

    All rows of INPUT stand in one prompt, in their order: one answer. With --each every row is asked about by itself.
    The tokens of a text that --positions names go in together.

    INPUT: as for round-trip.
    """
    from .ask import ask as put

    put(question, input, pair, output, answering, vectors, positions, layer, each=each)


@app.command()
@expand
def reconstruct(input: Input, pair: PairOptions, output: OutputOptions, engine: EngineOptions) -> None:
    """Explanations → activations.

    The result is a column `reconstruction`, or a .npy file [n, d].

    INPUT: a text, .parquet or .jsonl with a column api_explanation, .txt (one a line), or - (lines or JSON lines).
    Many files, and files in stores: as for round-trip.
    """
    process("reconstruct", input, pair, output, engine)


@app.command()
@expand
def extract(
    input: Input,
    pair: PairOptions,
    output: OutputOptions,
    engine: EngineOptions,
    positions: Positions = "-1",
    layer: Annotated[int | None, typer.Option(min=0, help="[default: the pair's]")] = None,
) -> None:
    """Texts → activations of the base model.

    The result has the reference pipeline's columns (activation_vector: raw), or is a .npy file [n, d].

    INPUT: a text, .txt (one text), .parquet or .jsonl with a column text, or - (one text, or JSON lines). Many files,
    and files in stores: as for round-trip.
    """
    process("extract", input, pair, output, engine, positions, {"layer": layer})


@app.command()
@expand
def steer(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What is gone on from, in quotes.")],
    pair: PairOptions,
    vectors: FileOptions,
    towards: Annotated[str | None, typer.Option(metavar="TEXT", help="An explanation, or any text.")] = None,
    vector: Annotated[
        str | None, typer.Option(metavar="REF", help="A file or repository of vectors, with #12, #3,7, #name.")
    ] = None,
    strength: Annotated[
        list[float] | None,
        typer.Option(help="Of a typical activation's length; below 0 away; repeatable. [default: 0.5]"),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Block after which it is added. [default: REF's, or the pair's]")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Of a table; or the array of an archive.")] = None,
    mean: Annotated[Path | None, typer.Option(help="Mean activation that `nla mean` wrote.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of each text.")] = 40,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Take another model's vectors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON lines.")] = False,
) -> None:
    """What the model writes with a direction in its stream, beside what it writes without.

    The direction is what the AR makes of TEXT, or vectors of REF. This is how to see whether an explanation's words do
    what they say.
    """
    from .vectors.steer import steer as write

    writing = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed, "force": force, "mean": mean}
    where = {"layer": layer, "column": column}
    write(prompt, towards, vector, strength or [0.5], pair, writing, vectors, **where, as_json=json)


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


@app.command("vectors")
@expand
def look_at_vectors(
    ref: Annotated[str, typer.Argument(metavar="REF", help="Path or Hub id, with #12, #3:9, #name or @layer.")],
    options: FileOptions,
    layer: Annotated[int | None, typer.Option(min=-1, help="Block that they are of; -1: the embeddings.")] = None,
    column: Annotated[str | None, typer.Option(help="Of a table; or the array of an archive.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    local_files_only: Annotated[bool, typer.Option("--local-files-only", help="Ask no network.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Vectors in a file, folder or repository of another tool: what is there, and what must be told of it.

    Dictionaries, steering and control vectors, caches, tables: docs/vectors.md lists them. What they do not say is
    listed with the option that says it, here as for nla explain REF.
    """
    from ..vectors.kinds import Stated as Said
    from .vectors.looking import show

    said = Said(layer=layer, column=column, **options.stated())
    show(ref, said, as_json=json, revision=revision, local_files_only=local_files_only)


@app.command()
@expand
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A text, or one vector: a file of one row, or REF#row.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Likewise.")],
    pair: PairOptions,
    answering: AnsweringOptions,
    vectors: VectorOptions,
    layer: Layer = None,
    column: Annotated[str | None, typer.Option(help="Column or key of A and B that holds what is read.")] = None,
    as_text: Annotated[bool, typer.Option("--text", help="A and B are texts, whatever they look like.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Two texts or vectors in words, and what lies between them: A − B, with --sign ± B − A too.

    Of a text its last token is read.
    """
    from .vectors.compare import compare as put

    put(a, b, pair, answering, vectors, layer=layer, column=column, as_text=as_text, as_json=json)


@app.command("mean")
@expand
def measure_mean(
    ref: Annotated[str, typer.Argument(metavar="REF", help="A pair (Hub id, folder or demo), or a base model.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A .safetensors file.")],
    texts: Annotated[
        str | None, typer.Option(help="A file of texts: .txt (one a line), .parquet, .jsonl. [default: built-in ones]")
    ] = None,
    layer: Annotated[int | None, typer.Option(min=0, help="Block whose output is read. [default: the pair's]")] = None,
    column: Annotated[str | None, typer.Option(help="Column or key of the texts.")] = None,
    quantization: Annotated[Quantization, typer.Option(help="auto: what the contract says.")] = Quantization.auto,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    local_files_only: Annotated[bool, typer.Option("--local-files-only", help="Ask no network.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
) -> None:
    """Mean and spread of a model's activations at a layer, for --mean: what directions are shown over.

    A pair whose AV is not centred shows directions as mean + centred norm × direction; most pairs know both.
    """
    from .vectors.mean import write

    how = {"device": device, "dtype": dtype, "revision": revision, "local_files_only": local_files_only}
    how["quantization"] = None if quantization is Quantization.none else quantization.value
    write(ref, out, layer, texts, column, overwrite=overwrite, **how)


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
def export(
    places: Annotated[
        list[str], typer.Argument(metavar="[PAIR] FOLDER", help="AV: Hub id, folder or demo; and where to write.")
    ],
    layout: Annotated[str, typer.Option(help="reference.")] = "reference",
    dtype: Annotated[str, typer.Option(help="Of the weights written: float32 or bfloat16.")] = "float32",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace halves that stand in FOLDER.")] = False,
    caller_subtracts_mean: Annotated[
        bool,
        typer.Option("--caller-subtracts-mean", help="Of a centred pair: whoever runs it subtracts the mean first."),
    ] = False,
    ar: Annotated[str | None, typer.Option(help="AR. [default: the AV's partner]")] = None,
    base: Annotated[str | None, typer.Option(help="Base model, if not the contract's: Hub id or folder.")] = None,
    quantization: Annotated[
        Quantization, typer.Option(help="What the pair runs in, unpacked to be written; auto: what the contract says.")
    ] = Quantization.auto,
    load_dtype: Annotated[
        str, typer.Option(help="What is merged; bfloat16 takes half the memory, exact where the base is stored in it.")
    ] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "cpu",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the first half given.")] = None,
    subfolder: Annotated[str | None, typer.Option(help="Its subfolder, where a repository holds several.")] = None,
    local_files_only: Annotated[bool, typer.Option("--local-files-only", help="Ask no network.")] = False,
    contract: Stated = None,
) -> None:
    """A pair in another layout, for code that knows only that one.

    reference: two whole checkpoints, as the reference implementation and servers of its releases load them. FOLDER/av
    has its adapter merged in, FOLDER/ar is cut to its blocks. What the layout cannot carry is refused by name. PAIR is
    demo if it is not given.
    """
    from ..pair import NLAPair

    if len(places) > 2:
        raise InputError(f"Expected [PAIR] FOLDER, got {len(places)} arguments: {', '.join(places)}.")
    pair = NLAPair.from_pretrained(
        places[0] if len(places) == 2 else None if ar is not None else "demo",
        ar,
        base=base,
        quantization=None if quantization is Quantization.none else quantization.value,
        device=device,
        dtype=load_dtype,
        revision=revision,
        subfolder=subfolder,
        local_files_only=local_files_only,
        contract=stated(contract),
    )
    options = {"dtype": dtype, "overwrite": overwrite, "caller_subtracts_mean": caller_subtracts_mean}
    print(pair.export(places[-1], layout, **options))


@app.command()
@expand
def serve(
    pair: PairOptions,
    how: ServeOptions,
    ref: Annotated[
        str | None, typer.Argument(metavar="[REF]", help="AV: Hub id, folder or demo. [default: demo]")
    ] = None,
) -> None:
    """A pair over HTTP, and a page to click tokens on and read.

    Speaks the inference server's API at the root, the public site's under /api/nla and its own under /v1:
    docs/serving.md. Stops at Ctrl-C or SIGTERM once what is being written is done.
    """
    from .serving.serve import serve as run

    run(ref, pair, how)


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
