"""One evaluation from beginning to end: measure in chunks, compute, write the file, draw, report."""

from __future__ import annotations

import dataclasses
import getpass
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa

from nla_sdk import NLAPair
from nla_sdk.claims.calibration import CLAIMS
from nla_sdk.contract.prompts.tokens import check_embedded, encode
from nla_sdk.errors import InputError, MissingFileError
from nla_sdk.evaluation.claims import PublishedFigure
from nla_sdk.evaluation.parts import Cost, Settings, Subject
from nla_sdk.evaluation.reading import EvaluationError, load, save
from nla_sdk.evaluation.schema import CLAIMS_TABLE, EVALUATION, ROWS, VARIANTS, Evaluation
from nla_sdk.evaluation.verdict import decide
from nla_sdk.halves.beside.digests import half_digests
from nla_sdk.io.chunks import Chunks, is_finished
from nla_sdk.io.files import sha256_of
from nla_sdk.io.rows.formats import write_stream
from nla_sdk.io.sidecars import code_version
from nla_sdk.jobs.cluster.pool import Pool
from nla_sdk.jobs.cluster.stages import make, missing

from ..runs.machine import NUMERICS, check_installed, libraries, peak_memory_gib
from .claims import classes, figures, given, judging, measuring
from .extras import Embedder, Paraphraser
from .heldout import Heldout
from .measures import compute, matching
from .measures.tables import numbers_or_null
from .measuring.known import Known, known_of
from .measuring.rows import Rows
from .measuring.variants import Variants

CHUNK_FORMAT = 4  # of what `measuring` writes: chunks of another are not gone on from
END_TOKENS = 8  # labels may quote the end of their text: a source text is a candidate without it


@dataclass(frozen=True)
class Job:
    """What is evaluated, how, and where to.

    Attributes:
        pair: in memory here, or in the actors of a pool, who then measure it.
        out: the folder of the results.
        with_texts: keep source texts in rows.parquet.
        embed: for retrieval by meaning; None: not at hand.
        paraphrase: says an explanation in other words; None: not at hand.
        texts: of the rows, for claims and classes of tokens; None: the data's own, if they have any.
        published: what others published, to be read beside.
    """

    pair: NLAPair | Pool
    heldout: Heldout
    settings: Settings
    out: Path
    with_texts: bool = False
    overwrite: bool = False
    embed: Embedder | None = None
    paraphrase: Paraphraser | None = None
    texts: given.Texts | None = None
    published: Sequence[PublishedFigure] = ()


def run(job: Job, *, progress: bool = True) -> Evaluation:
    """Evaluate, and write `evaluation.json` and the tables beside it into `job.out`.

    Killed and run again it goes on at the chunk it was in; finished and run again it only reads what is there.

    Raises:
        InputError: scikit-learn is not installed, or the AV takes several vectors a prompt.
        MissingHalfError: the pair has one half only.
        ChunkError: `out` holds an evaluation of something else, and `overwrite` is off.
    """
    if job.texts is None:
        job = dataclasses.replace(job, texts=given.texts_for(job.heldout, None))
    known, heldout = known_of(job.pair), job.heldout
    if (markers := known.av.contract.injection_markers) != 1:
        raise InputError(
            f"The AV {known.av.ref} takes {markers} vectors a prompt, and a row of an evaluation's table has one: such "
            "an AV is not evaluated here. pair.explain takes [rows, markers, d_model]."
        )
    check_installed()
    code = code_version()  # of the code that is loaded, not of what the tree holds hours later
    made_from = {
        **half_digests("av", known.av.folder, known.av.contract),
        **half_digests("ar", known.ar.folder, known.ar.contract),
        heldout.path.name: heldout.sha256,
    }
    if job.paraphrase is not None:
        made_from["paraphraser"] = job.paraphrase.digest
    if job.embed is not None and job.embed.digest is not None:
        made_from["embedder"] = job.embed.digest
    if job.texts is not None and job.texts.digest is not None:
        made_from[given.INPUT] = job.texts.digest
    facts = _facts(job, known, made_from)
    stages = [Chunks(job.out / "chunks", stage, facts) for stage in ("evaluate", "variants", "claims")]
    chunks, variant_chunks, claim_chunks = stages
    rows_there = is_finished(job.out / ROWS, chunks.identity, overwrite=job.overwrite)
    if rows_there and (found := _finished(job, made_from)) is not None:
        for one in stages:
            one.remove()
        return found
    _check_embedded(known, heldout)
    sources = without_end(known, heldout)
    with chunks.kept_on_stop("measuring the rows"):
        stage = Rows(heldout, job.settings, sources if job.with_texts else None, code)
        make(stage, chunks, job.pair, "round trips", shown=progress)
    rows = _with_shuffled(pa.concat_tables(chunks.tables("rows")), job.settings)
    if job.texts is not None:
        names = job.texts.classes(known.av_tokenizer)
        rows = rows.append_column(classes.COLUMN, pa.array(names, pa.string()))
    tables = compute.Tables(rows, None, job.settings)
    with variant_chunks.kept_on_stop("measuring the variants, the rows are done"):
        stage = Variants(rows, job.settings, job.paraphrase, code)
        if isinstance(job.pair, Pool):
            stage.paraphrase_here(missing(stage, variant_chunks))
        make(stage, variant_chunks, job.pair, "controls and signal", shown=progress)
    found = list(variant_chunks.tables("variants"))
    variants = pa.concat_tables(found) if found else None
    claims = None
    if job.settings.claims_n is not None:
        with claim_chunks.kept_on_stop("measuring the claims, the rows and variants are done"):
            claims = _claims(job, tables, claim_chunks, code, progress)
    meta = {"evaluation": EVALUATION, "inputs": made_from}
    for name in (EVALUATION, VARIANTS, CLAIMS_TABLE, CLAIMS):  # killed below, no old file stands beside new tables
        (job.out / name).unlink(missing_ok=True)
    if variants is not None:
        write_stream(job.out / VARIANTS, [variants], variant_chunks.sidecar(meta))
    write_stream(job.out / ROWS, [rows], chunks.sidecar(meta))
    parts = compute.parts(compute.Tables(rows, variants, job.settings), job.embed, sources)
    if (found := classes.token_classes(tables)) is not None:
        parts["token_classes"] = found
    if tables.evaluated.any():
        parts["matching"] = matching.matching(tables, None if job.texts is None else job.texts.of_rows, job.embed)
    if claims is not None:
        kept = figures.worth(claims, tables, made_from, job.heldout.path.name, libraries(*NUMERICS))
        parts["claims"] = kept.claims
        claims = claims.append_column("support", numbers_or_null(kept.support))
        write_stream(job.out / CLAIMS_TABLE, [claims], claim_chunks.sidecar(meta))
        if kept.calibration is not None:
            kept.calibration.save(job.out / CLAIMS)
    timing = [row for one in stages for row in one.tables("timing")]
    evaluation = assemble(job, known, made_from, code, parts, timing)
    save(evaluation, job.out / EVALUATION)
    for one in stages:
        one.remove()
    return evaluation


def _claims(job: Job, tables: compute.Tables, chunks: Chunks, code: str, progress: bool) -> pa.Table:
    """The claims of all rows, each with its receipts and whether it holds."""
    texts = None if job.texts is None else job.texts.of_rows
    make(measuring.Claims(tables, job.settings, texts, code), chunks, job.pair, "claims", shown=progress)
    found = measuring.table_of(list(chunks.tables("claims")), tables.rows)
    return judging.judged(found, tables, texts, job.settings, job.embed)


def _finished(job: Job, made_from: Mapping[str, str]) -> Evaluation | None:
    """The evaluation of the tables that are there, or None: there is none, it is damaged, or it is of other tables."""
    try:
        found = load(job.out / EVALUATION)
    except (MissingFileError, EvaluationError):
        return None
    same = found.files == _digests(job.out) and found.settings == job.settings and found.inputs == made_from
    same &= (found.published or []) == list(job.published)
    return found if same else None


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that stands beside an evaluation's."""
    names = (ROWS, VARIANTS, CLAIMS_TABLE, CLAIMS)
    return {name: sha256_of(folder / name) for name in names if (folder / name).is_file()}


def _facts(job: Job, known: Known, made_from: Mapping[str, str]) -> dict[str, Any]:
    """Everything the chunks depend on."""
    return {
        "format": CHUNK_FORMAT,
        "inputs": made_from,
        "rows": len(job.heldout),
        "settings": job.settings.model_dump(mode="json"),
        "with_texts": job.with_texts,
        "running": known.running,
        "matched": known.matched,
    }


def _check_embedded(known: Known, heldout: Heldout) -> None:
    """That the AR has an embedding for every token of the labels, before hours are spent. TextError: names the row."""
    for row_id, ids in zip(heldout.row_ids, encode(known.ar_tokenizer, heldout.labels or []), strict=False):
        where = f"{heldout.path.name}, row_id {row_id}: api_explanation"
        check_embedded(known.ar_tokenizer, ids, known.vocabulary, where)


def without_end(known: Known, heldout: Heldout) -> list[str] | None:
    """The source texts without their last tokens; None where the data have no texts."""
    if heldout.texts is None:
        return None
    tokenizer = known.av_tokenizer
    tokens = tokenizer(heldout.texts, add_special_tokens=False)["input_ids"]
    return [tokenizer.decode(ids[:-END_TOKENS], skip_special_tokens=True) for ids in tokens]


def _with_shuffled(rows: pa.Table, settings: Settings) -> pa.Table:
    """The rows with what other documents' explanations score for each, which takes all reconstructions to know."""
    tables = compute.Tables(rows, None, settings)
    return rows.append_column("cosine_shuffled", compute.shuffled_column(tables))


def assemble(
    job: Job,
    known: Known,
    made_from: Mapping[str, str],
    code: str,
    parts: Mapping[str, Any],
    timing: Sequence[pa.Table],
) -> Evaluation:
    """The evaluation of what was computed, verdict included."""
    everything = {name: parts.get(name) for name in ("round_trip", "ablation", "identity", "collapse", "token_classes")}
    contract, data = known.contract, job.heldout.about()
    return Evaluation(
        origin="measured",
        subject=Subject(
            av=_public_name(known.av),
            ar=_public_name(known.ar),
            base_model=_without_folders(contract.base_model),
            layer=contract.layer,
            d_model=contract.d_model,
            matched=known.matched,
        ),
        data=data,
        settings=job.settings,
        inputs=dict(made_from),
        versions={"code": code, "python": platform.python_version(), **libraries(*NUMERICS)},
        measured_by=sorted({row["code"] for table in timing for row in table.select(["code"]).to_pylist()}),
        **parts,
        cost=_cost(job, known, timing),
        published=list(job.published) or None,
        verdict=decide(everything | {"data": data}),
        files=_digests(job.out),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _public_name(half) -> str:
    """A Hub id as it is, a folder by its own name: files get published and tell nobody's paths.

    A folder that is called after its role is told from others by its parent's name, unless that is somebody's home.
    """
    role = half.contract.role
    if half.ref == "demo":
        return f"demo/{role}"
    if half.commit or not Path(half.ref).exists():
        return half.ref
    folder = half.folder.resolve()
    home, parent = Path.home().resolve(), folder.parent
    is_home = parent in (home, Path("/root")) or parent.name == getpass.getuser()
    is_home |= parent.parent in {home.parent, Path("/home"), Path("/Users")} - {Path("/")}
    return folder.name if folder.name != role or is_home else f"{folder.parent.name}/{role}"


def _without_folders(base: str | None) -> str | None:
    return Path(base).name if base and Path(base).is_absolute() else base


def _cost(job: Job, known: Known, timing: Sequence[pa.Table]) -> Cost:
    """Of actors seconds are theirs together, and rates so each one's; what memory they took is not asked."""
    seconds: dict[str, float] = {}
    tokens = 0
    for table in timing:
        for row in table.to_pylist():
            seconds[row["part"]] = seconds.get(row["part"], 0.0) + row["seconds"]
            tokens += row["tokens"]
    explain = seconds.get("explain", 0.0)
    total = sum(seconds.values())
    return Cost(
        seconds={part: round(value, 2) for part, value in seconds.items()},
        rows_per_second=round(len(job.heldout) / total, 4) if total else None,
        tokens_per_second=round(tokens / explain, 2) if explain else None,
        peak_memory_gib=None if isinstance(job.pair, Pool) else round(peak_memory_gib(), 3),
        hardware=known.hardware,
    )
