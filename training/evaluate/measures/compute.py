"""From the rows to the figures: everything an evaluation file says that its tables determine, and nothing else.

`training.evaluate` calls this once to write the file, `verify` calls it again to check the file. Pure functions of the
tables: no model, no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from nla_sdk import metrics
from nla_sdk.evaluation.measures import (
    Ablation,
    Condition,
    Content,
    Cosines,
    Delta,
    Identity,
    Reference,
    RoundTripFigures,
    Tokens,
)
from nla_sdk.evaluation.parts import Figure, Share
from nla_sdk.results import UNTAGGED

from .collapse import collapse
from .content import content
from .identity import MOST_ROWS, identity, shuffled_cosine, whole_documents
from .nulls import Documents, share_at_least
from .tables import (
    FEWEST_OF_A_FAMILY,
    Tables,
    balanced_figure,
    fve_figure,
    gain_figure,
    mean_figure,
    numbers,
    numbers_or_null,
    sign_flip_p,
)
from .variants import controls, signal


def parts(
    tables: Tables,
    embed: Callable[[list[str]], np.ndarray] | None = None,
    sources: Sequence[str] | None = None,
) -> dict[str, Any]:
    """All parts of the evaluation that the tables determine, by their names in `nla_sdk.evaluation.schema.Evaluation`.

    Args:
        embed: texts → [n, k]; adds retrieval by embeddings.
        sources: of each row, its source text without the end; default: the table's, where it has them.
    """
    found: dict[str, Any] = {"round_trip": round_trip(tables)}
    if not tables.evaluated.any():
        return found
    found["ablation"] = ablation(tables)
    found["collapse"] = collapse(tables.texts)
    if (own := own_activation(tables, "reconstruction", tables.evaluated)) is not None:
        found["identity"] = own
    if "label" in tables.rows.column_names:
        labelled = np.isfinite(numbers(tables.rows, "cosine_label"))
        if labelled.any():
            found["true_labels"] = true_labels(tables, labelled)
            if (own := own_activation(tables, "label_reconstruction", labelled)) is not None:
                found["true_labels_identity"] = own
    if (said := av_content(tables, embed, sources)) is not None:
        found["content"] = said
    if tables.variants is not None and tables.variants.num_rows:
        found["controls"] = controls(tables)
        if (carried := signal(tables)) is not None:
            found["signal"] = carried
    return found


def round_trip(tables: Tables) -> RoundTripFigures:
    """Counts, FVE against both baselines, gain, cosine and mse of the evaluated rows."""
    counts = {
        "attempted": len(tables.status),
        "evaluated": int(tables.evaluated.sum()),
        "empty": int((tables.status == "empty").sum()),
        "untagged": int((tables.status == UNTAGGED).sum()) or None,
        "failed": int((tables.status == "failed").sum()),
        "truncated": int((tables.status == "truncated").sum()),
        "floor": tables.settings.floor,
    }
    if len(tables.documents) < len(set(tables.document_names)):
        counts["documents"] = len(tables.documents)
    counts["ar_cut"] = int(np.array(tables.rows["ar_cut"].to_pylist(), dtype=bool)[tables.evaluated].sum())
    if not tables.evaluated.any():
        return RoundTripFigures(**counts)
    cosine = numbers(tables.rows, "cosine_real")[tables.evaluated]
    empty = numbers(tables.rows, "cosine_empty")
    documents, baselines = tables.documents, tables.baselines
    flip = documents.sign_flip(cosine - empty[tables.evaluated], tables.settings.permutations, tables.settings.seed)
    attempted = tables.evaluated | (np.isin(tables.status, ("empty", UNTAGGED)) & tables.usable)
    with_empties = np.where(tables.evaluated, numbers(tables.rows, "cosine_real"), empty)[attempted]
    activations = tables.activations[tables.usable]
    of_usable = tables.of(tables.usable)
    several = len(set(tables.document_names[tables.usable])) > 1
    families: dict[str, Figure] = {}
    if tables.families is not None:
        for family in sorted(set(tables.families[tables.evaluated])):
            mask = tables.evaluated & (tables.families == family)
            if tables.has_fve and mask.sum() >= FEWEST_OF_A_FAMILY:
                families[family] = fve_figure(tables, tables.of(mask), numbers(tables.rows, "cosine_real")[mask])
    outlying, without = _outlying(tables)
    raw_variance = None
    if tables.has_fve:
        raw_variance = mean_figure(tables, documents, metrics.fve(2.0 * (1.0 - cosine), baselines.raw_variance))
    return RoundTripFigures(
        **counts,
        above_floor=Share(count=int((cosine > tables.settings.floor).sum()), of=len(cosine)),
        fve=fve_figure(tables, documents, cosine),
        fve_raw_variance=raw_variance,
        fve_all_attempted=fve_figure(tables, tables.of(attempted), with_empties),
        fve_without_outlying=without,
        gain=gain_figure(tables, documents, cosine, empty[tables.evaluated], flip),
        cosine=Cosines(
            mean=mean_figure(tables, documents, cosine),
            std=float(cosine.std()),
            median=float(np.median(cosine)),
            min=float(cosine.min()),
            max=float(cosine.max()),
        ),
        mse=mean_figure(tables, documents, 2.0 * (1.0 - cosine)),
        mse_min=2.0 * (1.0 - float(cosine.max())),
        mse_max=2.0 * (1.0 - float(cosine.min())),
        reference=Reference(
            mean_cosine=min(1.0, 1.0 - baselines.mean_norm / 2.0),
            random_pair_cosine=float(shuffled_cosine(activations, activations, of_usable).mean()) if several else None,
            baseline_mse=baselines.mean_norm,
            baseline_mse_raw_variance=baselines.raw_variance,
            **outlying,
        ),
        by_family=families,
        fve_balanced=balanced_figure(tables, tables.evaluated, cosine),
        tokens=_tokens(tables),
    )


def _tokens(tables: Tables) -> Tokens:
    """How many tokens the AV wrote."""
    written = np.array(tables.rows["tokens_written"].to_pylist())[tables.evaluated]
    return Tokens(median=float(np.median(written)), max=int(written.max()))


def _outlying(tables: Tables) -> tuple[dict[str, Any], Figure | None]:
    """How many rows have an outlying norm, the others' baseline and the others' FVE; nothing where there is none."""
    if not tables.outlying.any():
        return {}, None
    baseline = metrics.mean_baselines(tables.activations[tables.usable & ~tables.outlying]).mean_norm
    facts = {"outlying": int(tables.outlying.sum()), "baseline_mse_without_outlying": baseline}
    kept = tables.evaluated & ~tables.outlying
    if baseline < metrics.NO_ERROR or not kept.any():
        return facts, None
    cosine = numbers(tables.rows, "cosine_real")[kept]
    return facts, mean_figure(tables, tables.of(kept), metrics.fve(2.0 * (1.0 - cosine), baseline))


def _compare(
    tables: Tables, mask: np.ndarray, real: np.ndarray, others: dict[str, np.ndarray], p: dict[str, float]
) -> Ablation:
    """Conditions and paired deltas from cosines of the rows under a mask."""
    documents = tables.of(mask)
    floor = tables.settings.floor

    def condition(name: str, cosine: np.ndarray) -> Condition:
        share = Share(count=int((cosine > floor).sum()), of=len(cosine))
        return Condition(
            cosine=mean_figure(tables, documents, cosine),
            fve=fve_figure(tables, documents, cosine),
            fve_balanced=balanced_figure(tables, mask, cosine),
            above_floor=None if name == "shuffled" else share,  # its rows are means over rows: no row is at the floor
        )

    def delta(name: str, cosine: np.ndarray) -> Delta:
        return Delta(
            cosine=mean_figure(tables, documents, real - cosine, p[name]),
            fve=fve_figure(tables, documents, real, cosine, p[name]),
            gain=gain_figure(tables, documents, real, cosine, p[name]),
        )

    return Ablation(
        n=len(real),
        conditions={name: condition(name, cosine) for name, cosine in {"real": real, **others}.items()},
        deltas={name: delta(name, cosine) for name, cosine in others.items()},
    )


def ablation(tables: Tables) -> Ablation:
    """The AV's explanation against other rows' (the mean over all other documents), unrelated, nonsense, none."""
    at = tables.evaluated
    real = numbers(tables.rows, "cosine_real")[at]
    others = {name: numbers(tables.rows, f"cosine_{name}")[at] for name in ("unrelated", "nonsense", "empty")}
    p = {name: sign_flip_p(tables, tables.documents, real - cosine) for name, cosine in others.items()}
    if tables.shuffle_is_possible:
        made = tables.vectors("reconstruction", at)
        others = {"shuffled": shuffled_cosine(made, tables.activations[at], tables.documents), **others}
        p["shuffled"] = _pairing_p(tables, made, tables.activations[at], tables.documents)
    return _compare(tables, at, real, others, p)


def true_labels(tables: Tables, labelled: np.ndarray) -> Ablation:
    """The AR on the labels of the data instead of the AV's words: what a perfect AV of that style would get."""
    documents = tables.of(labelled)
    real = numbers(tables.rows, "cosine_label")[labelled]
    others = {"empty": numbers(tables.rows, "cosine_empty")[labelled]}
    p = {"empty": sign_flip_p(tables, documents, real - others["empty"])}
    if len(set(tables.document_names[labelled])) > 1:
        made, activations = tables.vectors("label_reconstruction", labelled), tables.activations[labelled]
        others = {"shuffled": shuffled_cosine(made, activations, documents), **others}
        p["shuffled"] = _pairing_p(tables, made, activations, documents)
    return _compare(tables, labelled, real, others, p)


def _pairing_p(tables: Tables, made: np.ndarray, activations: np.ndarray, documents: Documents) -> float:
    """One-sided p of the mean cosine to the own activation, against whole documents changing places.

    Of more than `identity.MOST_ROWS` rows, of so many: the table of all pairs is n × n.
    """
    if documents.n > MOST_ROWS:
        kept = whole_documents(documents, tables.settings.seed)
        made, activations = made[kept], activations[kept]
        documents = Documents(documents.names[documents.codes[kept]].tolist())
    n, rows = documents.n, np.arange(documents.n)
    cosines = metrics.unit(made) @ metrics.unit(activations).T

    def mean_cosine(target: np.ndarray) -> float:
        return round(float(cosines[rows, target].sum()) / n, 9)  # equal on every machine

    null = [mean_cosine(to) for to in documents.pairings(tables.settings.permutations, tables.settings.seed)]
    return share_at_least(np.array(null), mean_cosine(rows))


def own_activation(tables: Tables, column: str, mask: np.ndarray) -> Identity | None:
    """Cross-row identity of one column of reconstructions; None with fewer than two documents."""
    if len(set(tables.document_names[mask])) < 2:
        return None
    settings = tables.settings
    return identity(
        tables.vectors(column, mask),
        tables.activations[mask],
        tables.of(mask),
        draws=settings.permutations,
        bootstrap_draws=settings.bootstrap_draws,
        seed=settings.seed,
    )


def av_content(tables: Tables, embed: Callable | None, sources: Sequence[str] | None) -> Content | None:
    """Document retrieval and probes; None with fewer than two documents."""
    if not tables.shuffle_is_possible:
        return None
    if sources is None and "text_without_end" in tables.rows.column_names:
        sources = tables.rows["text_without_end"].to_pylist()
    families = None
    if "source_family" in tables.rows.column_names:
        families = tables.rows["source_family"].to_pylist()

    def evaluated(values: Sequence[str] | None) -> list[str] | None:
        return None if values is None else [one for one, ok in zip(values, tables.evaluated, strict=True) if ok]

    return content(
        tables.texts,
        tables.activations[tables.evaluated],
        tables.documents,
        families=evaluated(families),
        sources=evaluated(sources),
        embed=embed,
        draws=tables.settings.permutations,
        bootstrap_draws=tables.settings.bootstrap_draws,
        seed=tables.settings.seed,
    )


def shuffled_column(tables: Tables) -> pa.Array:
    """For every row the mean cosine of other documents' reconstructions to its activation; null where there is none."""
    values = np.full(len(tables.status), np.nan)
    if tables.shuffle_is_possible:
        made = tables.vectors("reconstruction", tables.evaluated)
        values[tables.evaluated] = shuffled_cosine(made, tables.activations[tables.evaluated], tables.documents)
    return numbers_or_null(values)
