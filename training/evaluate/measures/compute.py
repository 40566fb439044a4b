"""From the rows to the figures: everything an evaluation file says that its tables determine, and nothing else.

`training.evaluate` calls this once to write the file, `verify` calls it again to check the file. Pure functions of the
tables: no model, no torch. A row's FVE is 1 − mse / baseline (nla_sdk.metrics), so figures over any set of rows are
means; intervals are bootstrapped over documents, because rows of one document are not independent.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from nla_sdk import metrics
from nla_sdk.evaluation.file import (
    EVALUATED,
    Ablation,
    Condition,
    Content,
    Control,
    Cosines,
    Delta,
    Figure,
    Identity,
    Reference,
    RoundTrip,
    Settings,
    Share,
    Signal,
)
from nla_sdk.io.tables import read_vectors

from .collapse import collapse
from .content import content
from .identity import MOST_ROWS, identity, shuffled_cosine, whole_documents
from .nulls import NO_ERROR, Documents, share_at_least

MOST_CLAIMS = 6  # positions listed; later ones are rare
FEWEST_OF_A_FAMILY = 5
EMPTY = b"empty_reconstruction"  # in the rows' schema: what the AR makes of no text, float32 [d], little-endian, Base64


def numbers(table: pa.Table, column: str) -> np.ndarray:
    """A float column as float64, null as NaN."""
    return np.array(table[column].to_numpy(zero_copy_only=False), dtype=np.float64)


class Tables:
    """An evaluation's rows, held together for all figures.

    Args:
        rows, variants: the tables `measure` made; `variants` may be None or empty.
    """

    def __init__(self, rows: pa.Table, variants: pa.Table | None, settings: Settings) -> None:
        self.rows, self.variants, self.settings = rows, variants, settings
        self.status = np.array(rows["status"].to_pylist())
        self.evaluated = np.isin(self.status, EVALUATED)
        self.document_names = np.array(rows["doc_id"].to_pylist())
        self.activations = read_vectors(rows)
        self.usable = np.isfinite(self.activations).all(axis=1) & (self.activations != 0).any(axis=1)
        self.baselines = metrics.mean_baselines(self.activations[self.usable]) if self.usable.any() else None
        self.has_fve = self.baselines is not None and self.baselines.mean_norm >= NO_ERROR
        self.documents = self.of(self.evaluated)
        self.texts = [text for text, ok in zip(rows["explanation"].to_pylist(), self.evaluated, strict=True) if ok]

    def of(self, mask: np.ndarray) -> Documents:
        return Documents(self.document_names[mask].tolist())

    def vectors(self, column: str, mask: np.ndarray) -> np.ndarray:
        """A vector column's rows under `mask`, float32 [n, d]."""
        return read_vectors(self.rows.filter(pa.array(mask)), column)

    def fve(self, cosine: np.ndarray) -> np.ndarray:
        """Of each row; only where `has_fve`: activations that are all alike leave nothing to explain."""
        return metrics.fve(2.0 * (1.0 - cosine), self.baselines.mean_norm)

    @property
    def shuffle_is_possible(self) -> bool:
        return len(set(self.document_names[self.evaluated])) > 1


def parts(
    tables: Tables,
    embed: Callable[[list[str]], np.ndarray] | None = None,
    sources: Sequence[str] | None = None,
) -> dict[str, Any]:
    """All parts of the evaluation that the tables determine, by their names in `nla_sdk.evaluation.file.Evaluation`.

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


def _mean(tables: Tables, documents: Documents, values: np.ndarray, p: float | None = None) -> Figure:
    return documents.mean(values, draws=tables.settings.bootstrap_draws, seed=tables.settings.seed, p=p)


def _fve(tables: Tables, documents: Documents, cosine: np.ndarray, other: np.ndarray | None = None, p=None):
    """The figure of FVE from cosines, or of what it is more than with the `other` cosines; None where there is none."""
    if not tables.has_fve:
        return None
    fve = tables.fve(cosine) if other is None else tables.fve(cosine) - tables.fve(other)
    return _mean(tables, documents, fve, p)


def _gain(tables: Tables, documents: Documents, real: np.ndarray, other: np.ndarray, p=None) -> Figure | None:
    """1 − mse(real) / mse(other), from cosines; None where the other makes no error."""
    draws, seed = tables.settings.bootstrap_draws, tables.settings.seed
    found = documents.gain(2.0 * (1.0 - real), 2.0 * (1.0 - other), draws=draws, seed=seed)
    return None if found is None else found.model_copy(update={"p": p})


def round_trip(tables: Tables) -> RoundTrip:
    """Counts, FVE against both baselines, gain, cosine and mse of the evaluated rows."""
    counts = {
        "attempted": len(tables.status),
        "evaluated": int(tables.evaluated.sum()),
        "empty": int((tables.status == "empty").sum()),
        "failed": int((tables.status == "failed").sum()),
        "truncated": int((tables.status == "truncated").sum()),
        "floor": tables.settings.floor,
    }
    counts["ar_cut"] = int(np.array(tables.rows["ar_cut"].to_pylist(), dtype=bool)[tables.evaluated].sum())
    if not tables.evaluated.any():
        return RoundTrip(**counts)
    cosine = numbers(tables.rows, "cosine_real")[tables.evaluated]
    empty = numbers(tables.rows, "cosine_empty")
    documents, baselines = tables.documents, tables.baselines
    flip = documents.sign_flip(cosine - empty[tables.evaluated], tables.settings.permutations, tables.settings.seed)
    attempted = tables.evaluated | ((tables.status == "empty") & tables.usable)
    with_empties = np.where(tables.evaluated, numbers(tables.rows, "cosine_real"), empty)[attempted]
    activations = tables.activations[tables.usable]
    of_usable = tables.of(tables.usable)
    several = len(set(tables.document_names[tables.usable])) > 1
    families: dict[str, Figure] = {}
    if "source_family" in tables.rows.column_names:
        names = np.array(tables.rows["source_family"].to_pylist())
        for family in sorted(set(names[tables.evaluated])):
            mask = tables.evaluated & (names == family)
            if tables.has_fve and mask.sum() >= FEWEST_OF_A_FAMILY:
                families[str(family)] = _fve(tables, tables.of(mask), numbers(tables.rows, "cosine_real")[mask])
    raw_variance = None
    if tables.has_fve:
        raw_variance = _mean(tables, documents, metrics.fve(2.0 * (1.0 - cosine), baselines.raw_variance))
    return RoundTrip(
        **counts,
        above_floor=Share(count=int((cosine > tables.settings.floor).sum()), of=len(cosine)),
        fve=_fve(tables, documents, cosine),
        fve_raw_variance=raw_variance,
        fve_all_attempted=_fve(tables, tables.of(attempted), with_empties),
        gain=_gain(tables, documents, cosine, empty[tables.evaluated], flip),
        cosine=Cosines(
            mean=_mean(tables, documents, cosine),
            std=float(cosine.std()),
            median=float(np.median(cosine)),
            min=float(cosine.min()),
            max=float(cosine.max()),
        ),
        mse=_mean(tables, documents, 2.0 * (1.0 - cosine)),
        mse_min=2.0 * (1.0 - float(cosine.max())),
        mse_max=2.0 * (1.0 - float(cosine.min())),
        reference=Reference(
            mean_cosine=min(1.0, 1.0 - baselines.mean_norm / 2.0),
            random_pair_cosine=float(shuffled_cosine(activations, activations, of_usable).mean()) if several else None,
            baseline_mse=baselines.mean_norm,
            baseline_mse_raw_variance=baselines.raw_variance,
        ),
        by_family=families,
    )


def _compare(
    tables: Tables, documents: Documents, real: np.ndarray, others: dict[str, np.ndarray], p: dict[str, float]
) -> Ablation:
    """Conditions and paired deltas from cosines of the same rows."""
    floor = tables.settings.floor

    def condition(name: str, cosine: np.ndarray) -> Condition:
        share = Share(count=int((cosine > floor).sum()), of=len(cosine))
        return Condition(
            cosine=_mean(tables, documents, cosine),
            fve=_fve(tables, documents, cosine),
            above_floor=None if name == "shuffled" else share,  # its rows are means over rows: no row is at the floor
        )

    def delta(name: str, cosine: np.ndarray) -> Delta:
        return Delta(
            cosine=_mean(tables, documents, real - cosine, p[name]),
            fve=_fve(tables, documents, real, cosine, p[name]),
            gain=_gain(tables, documents, real, cosine, p[name]),
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
    p = {name: _sign_flip(tables, tables.documents, real - cosine) for name, cosine in others.items()}
    if tables.shuffle_is_possible:
        made = tables.vectors("reconstruction", at)
        others = {"shuffled": shuffled_cosine(made, tables.activations[at], tables.documents), **others}
        p["shuffled"] = _pairing_p(tables, made, tables.activations[at], tables.documents)
    return _compare(tables, tables.documents, real, others, p)


def true_labels(tables: Tables, labelled: np.ndarray) -> Ablation:
    """The AR on the labels of the data instead of the AV's words: what a perfect AV of that style would get."""
    documents = tables.of(labelled)
    real = numbers(tables.rows, "cosine_label")[labelled]
    others = {"empty": numbers(tables.rows, "cosine_empty")[labelled]}
    p = {"empty": _sign_flip(tables, documents, real - others["empty"])}
    if len(set(tables.document_names[labelled])) > 1:
        made, activations = tables.vectors("label_reconstruction", labelled), tables.activations[labelled]
        others = {"shuffled": shuffled_cosine(made, activations, documents), **others}
        p["shuffled"] = _pairing_p(tables, made, activations, documents)
    return _compare(tables, documents, real, others, p)


def _sign_flip(tables: Tables, documents: Documents, deltas: np.ndarray) -> float:
    return documents.sign_flip(deltas, tables.settings.permutations, tables.settings.seed)


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


# --- the subsample ---------------------------------------------------------------------------------------------------
class Subsample:
    """The variants of one kind, each beside its row's real text and cosines."""

    def __init__(self, tables: Tables, variant: str, number: int | None = None) -> None:
        table = tables.variants
        rows = {name: at for at, name in enumerate(tables.rows["row_id"].to_pylist())}
        own = [
            one
            for one in table.to_pylist()
            if one["variant"] == variant and (number is None or one["number"] == number) and one["cosine"] is not None
        ]
        at = [rows[one["row_id"]] for one in own]
        self.texts = [one["text"] for one in own]
        self.cosine = np.array([one["cosine"] for one in own], dtype=np.float64)
        self.real = numbers(tables.rows, "cosine_real")[at]
        self.empty = numbers(tables.rows, "cosine_empty")[at]
        explanations = tables.rows["explanation"].to_pylist()
        self.real_texts = [explanations[one] for one in at]
        self.documents = Documents([one["doc_id"] for one in own])

    def __len__(self) -> int:
        return len(self.texts)


def controls(tables: Tables) -> list[Control]:
    """What the AV says, and what that scores, when something else is injected than the row's activation."""
    found = []
    for name in ("zero", "none", "random", "other"):
        if not len(one := Subsample(tables, name)):
            continue
        changed = sum(a != b for a, b in zip(one.texts, one.real_texts, strict=True))
        p = _sign_flip(tables, one.documents, one.real - one.cosine)
        found.append(
            Control(
                name=name,
                n=len(one),
                changed=Share(count=changed, of=len(one)),
                cosine=_mean(tables, one.documents, one.cosine),
                delta=_mean(tables, one.documents, one.real - one.cosine, p),
            )
        )
    return found


def signal(tables: Tables) -> Signal | None:
    """What is lost with a claim, with the order, with the quotes; what the first words keep, and re-encoding."""
    table = tables.variants
    of_signal = [
        one
        for one in table.select(["row_id", "variant"]).to_pylist()
        if one["variant"] in ("first_words", "round_trip")
    ]
    names = {one["row_id"] for one in of_signal}
    if not names or not tables.has_fve:
        return None
    at = np.array([name in names for name in tables.rows["row_id"].to_pylist()])

    def lost(variant: str, number: int | None = None) -> Figure | None:
        one = Subsample(tables, variant, number)
        if not len(one):
            return None
        p = _sign_flip(tables, one.documents, one.real - one.cosine)
        return _fve(tables, one.documents, one.real, one.cosine, p)

    def level(variant: str, number: int | None = None) -> Figure | None:
        one = Subsample(tables, variant, number)
        return _fve(tables, one.documents, one.cosine) if len(one) else None

    def numbers_of(variant: str) -> Sequence[int]:
        pairs = table.select(["variant", "number"]).to_pylist()
        return sorted({one["number"] for one in pairs if one["variant"] == variant})

    def levels(variant: str) -> dict[int, Figure]:
        return {one: found for one in numbers_of(variant) if (found := level(variant, one)) is not None}

    whole = _fve(tables, tables.of(at), numbers(tables.rows, "cosine_real")[at])
    prose = Subsample(tables, "prose_only")
    return Signal(
        n=int(at.sum()),
        whole=whole,
        claims=lost("claim"),
        claims_by_position=[one for at in numbers_of("claim")[:MOST_CLAIMS] if (one := lost("claim", at))],
        claims_shuffled=lost("claims_shuffled"),
        words_shuffled=lost("words_shuffled"),
        quotes_only=level("quotes_only"),
        prose_only=level("prose_only"),
        prose_only_gain=_gain(tables, prose.documents, prose.cosine, prose.empty) if len(prose) else None,
        first_words=levels("first_words"),
        round_trips={1: whole} | levels("round_trip"),
        paraphrased=lost("paraphrased"),
    )


def empty_reconstruction(rows: pa.Table) -> np.ndarray | None:
    """What the AR makes of no text, float32 [d]; None if the table does not say."""
    stored = (rows.schema.metadata or {}).get(EMPTY)
    return None if stored is None else np.frombuffer(b64decode(stored), dtype="<f4")


def shuffled_column(tables: Tables) -> pa.Array:
    """For every row the mean cosine of other documents' reconstructions to its activation; null where there is none."""
    values = np.full(len(tables.status), np.nan)
    if tables.shuffle_is_possible:
        made = tables.vectors("reconstruction", tables.evaluated)
        values[tables.evaluated] = shuffled_cosine(made, tables.activations[tables.evaluated], tables.documents)
    return pa.array(np.nan_to_num(values), pa.float64(), mask=np.isnan(values))
