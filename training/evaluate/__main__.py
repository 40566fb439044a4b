"""Find out what a pair's explanations really carry. `python -m training.evaluate --av demo --out results/demo`

    python -m training.evaluate --av AV --ar AR --data eval.parquet --out results/mine    measure
    python -m training.evaluate verify results/mine/evaluation.json                       recompute and check
    python -m training.evaluate compare A/evaluation.json B/evaluation.json               side by side, paired tests

Writes `evaluation.json` (every figure with n, interval and p, and the verdict), `rows.parquet` and `variants.parquet`
(whole outputs), figures and a one-page `report.md`. Killed, it goes on where it was. `--engine ray` has the actors of a
cluster measure. docs/evaluation.md explains every figure.
"""

from __future__ import annotations

from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from nla_sdk.cli.boundary import STYLE, readable
from nla_sdk.cli.options import EngineOptions, Stated, expand, stated
from nla_sdk.errors import InputError

from ..configs.command import run_command, spread_of

app = typer.Typer(**STYLE, help=readable(__doc__))
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="An evaluation.json.")]


@app.callback(invoke_without_command=True)
@expand
def evaluate(
    context: typer.Context,
    av: Annotated[str, typer.Option(help="The AV: Hub id, folder, or 'demo'.")] = "demo",
    ar: Annotated[str | None, typer.Option(help="The AR, if not the AV's partner.")] = None,
    base: Annotated[str | None, typer.Option(help="The base model, if not the contract's.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Held-out activations (parquet); default for the demo: the rows shipped with it."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results; default: results/<name of the AV>.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many activations.")] = None,
    floor: Annotated[float, typer.Option(help="Noise floor: cosines above it are counted.")] = 0.30,
    controls: Annotated[int, typer.Option(min=0, help="Rows for the injection controls.")] = 50,
    signal: Annotated[int, typer.Option(min=0, help="Rows for the parts of explanations.")] = 50,
    claims: Annotated[
        int, typer.Option(min=0, help="Rows whose claims are taken out and replaced; other receipts are of all rows.")
    ] = 50,
    texts: Annotated[
        Path | None,
        typer.Option(help="Source texts (parquet: row_id, doc_id, detokenized_text_truncated) of data without them."),
    ] = None,
    published: Annotated[
        Path | None, typer.Option(help="YAML list of figures that others published, to be read beside.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Default: the contract's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
    with_texts: Annotated[bool, typer.Option("--with-texts", help="Keep source texts in rows.parquet.")] = False,
    embedder: Annotated[
        str | None, typer.Option(help="A sentence-transformers model (Hub id or folder) for retrieval by meaning.")
    ] = None,
    paraphraser: Annotated[
        Path | None, typer.Option(help="YAML of a label provider (docs/evaluation.md) for paraphrase sensitivity.")
    ] = None,
    quantization: Annotated[str, typer.Option(help="auto, nf4 or none.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, …")] = "auto",
    record: Annotated[
        bool, typer.Option("--record", help="Write the outcome into both halves' nla_meta.yaml.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Take data of another layer or model, with a warning.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an evaluation of something else.")] = False,
    contract: Stated = None,
    *,
    engine: EngineOptions,
) -> None:
    if context.invoked_subcommand is not None:
        return
    if data is None:
        if av != "demo":
            raise InputError("Pass --data: the shipped held-out activations are of the demo pair.")
        data = Path(str(resources.files("nla_sdk") / "demo" / "heldout.parquet"))
    if not -1 <= floor <= 1:  # NaN too
        raise InputError(f"--floor is {floor}; expected a cosine, -1 to 1.")
    if record and contract:
        raise InputError("--record writes into contracts that lack what --contract says: put it into them first.")
    from cards.figures import drawing as figures
    from cards.report import summary
    from nla_sdk import NLAPair
    from nla_sdk.evaluation.parts import Settings
    from nla_sdk.evaluation.schema import EVALUATION
    from nla_sdk.model.verbalizer import DEFAULT_NEW_TOKENS

    from ..runs.machine import check_installed
    from . import extras, heldout, outputs
    from .claims import given
    from .measuring.known import Measured, known_of
    from .record import record as write_record
    from .run import Job, run

    # Whatever may be missing or wrong is found before the pair is loaded and hours are spent on it.
    check_installed()
    figures.check_installed()
    embed = extras.embedder(embedder) if embedder else None
    paraphrase = extras.paraphraser(paraphraser) if paraphraser else None
    others = given.published(published) if published else []
    told = {"av": av, "ar": ar, "base": base, "device": device, "dtype": dtype, "contract": stated(contract)}
    told["quantization"] = None if quantization == "none" else quantization
    spread, folder = spread_of(engine), out or Path("results") / Path(av).name
    with ExitStack() as stack:
        pair = stack.enter_context(spread(Measured(told))) if spread else NLAPair.from_pretrained(**told)
        known = known_of(pair)
        if record and (foreign := [half.ref for half in (known.av, known.ar) if half.commit]):
            raise InputError(f"--record writes into the checkpoints, and {foreign[0]} is a copy of a Hub repository.")
        settings = Settings(
            seed=seed,
            floor=floor,
            max_new_tokens=max_new_tokens or known.contract.max_new_tokens or DEFAULT_NEW_TOKENS,
            controls_n=controls,
            signal_n=signal,
            claims_n=claims,
            permutations=5000,
            bootstrap_draws=2000,
            embedder=embed and embed.name,
            paraphraser=paraphrase and paraphrase.name,
        )
        held = heldout.read(data, known.contract, limit, force=force)
        job = Job(
            pair,
            held,
            settings,
            folder,
            with_texts=with_texts,
            overwrite=overwrite,
            embed=embed,
            paraphrase=paraphrase,
            texts=given.texts_for(held, texts),
            published=others,
        )
        found = run(job)
    outputs.write(found, folder, known)
    if record:
        write_record(found, folder / EVALUATION, {"av": known.av.folder, "ar": known.ar.folder})
    print(summary(found))
    print(folder / EVALUATION)


@app.command()
def verify(
    file: FileArgument,
    av: Annotated[Path | None, typer.Option(help="The AV's folder; default: av beside the file.")] = None,
    ar: Annotated[Path | None, typer.Option(help="The AR's folder; default: ar beside the file.")] = None,
    data: Annotated[Path | None, typer.Option(help="The held-out parquet; default: beside the file.")] = None,
    texts: Annotated[Path | None, typer.Option(help="The source texts that claims were held against.")] = None,
) -> None:
    """Recompute what the rows determine, and check every hash. Exit code 2 if anything does not hold."""
    from .verify import verify as check

    found = check(file, av=av, ar=ar, data=data, texts=texts)
    print(f"{file} holds: {', '.join(found.checked)}.")
    if found.not_at_hand:
        print(f"Not checked, not at hand: {', '.join(found.not_at_hand)}.")
    print(f"{found.evaluation.verdict.value}: {found.evaluation.verdict.reason}")


@app.command()
def compare(a: FileArgument, b: FileArgument) -> None:
    """Print two evaluations side by side, with a paired test on the rows they share."""
    from .compare import lines

    for line in lines(a, b):
        print(line)


if __name__ == "__main__":
    run_command(app)
