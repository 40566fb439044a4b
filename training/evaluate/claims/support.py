"""The probability that a claim holds: fitted for each kind, and tried on documents that it was not fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nla_sdk.claims.calibration import Calibration, Weight, Weights
from nla_sdk.claims.receipts import OF_TEXT, RECEIPTS
from nla_sdk.evaluation.claims import Reliability

from .separation import auroc, calibration_error
from .table import ClaimsTable

FEWEST = 20  # claims that hold, and claims that do not, of a kind that gets a probability
FEWEST_DOCUMENTS = 10
FOLDS = 10
# Not what needs the text; nor what takes the AR a reading of nearly the whole explanation for each of its claims: on
# the rows of the bundled pair they add nothing to the others.
LEFT_OUT = OF_TEXT | {"in_text_after", "ablation", "replacement"}
VERSIONS = ("numpy", "scikit-learn")


@dataclass(frozen=True)
class Support:
    """What was fitted.

    Attributes:
        kinds: the regression of each kind, on all claims that are known to hold or not.
        crossed: float64 [n], of each claim its probability by a regression that did not see its document; NaN: none.
        reliability: of these; None where no kind has a probability.
        why_not: which kinds have none, and why; None: all have.
    """

    kinds: Mapping[str, Weights]
    crossed: np.ndarray
    reliability: Reliability | None
    why_not: str | None


def fit(claims: ClaimsTable) -> Support:
    """A logistic regression for each kind of claim that has enough claims of both sorts.

    Of the receipts that need no text and cost little it takes those that every claim of the kind has: what was made for
    some rows only would leave the others without a probability. Where there is none that differs between claims, the
    probability is how often the kind holds.
    """
    from sklearn.model_selection import GroupKFold

    crossed = np.full(len(claims), np.nan)
    kinds: dict[str, Weights] = {}
    why = []
    known = claims.known
    folds = min(FOLDS, len(set(claims.document_names[known])))
    fold_of = np.full(len(claims), -1)
    if folds > 1:
        at = np.flatnonzero(known)
        for number, (_, test) in enumerate(GroupKFold(folds).split(at, groups=claims.document_names[at].astype(str))):
            fold_of[at[test]] = number
    for kind in claims.kinds_there:
        mask = known & (claims.kinds == kind)
        if (lacking := _lacking(claims, mask, fold_of)) is not None:
            why.append(f"{kind}: {lacking}")
            continue
        receipts = _receipts(claims, mask)
        kinds[kind] = _fitted(claims, mask, receipts)
        for number in range(folds):
            test = mask & (fold_of == number)
            if test.any():
                train = mask & (fold_of != number)
                crossed[test] = _predicted(_fitted(claims, train, receipts), claims, test)
    why_not = (
        f"{'; '.join(why)}: at least {FEWEST} of each sort and {FEWEST_DOCUMENTS} documents needed" if why else None
    )
    return Support(kinds, crossed, _reliability(claims, crossed, folds, kinds), why_not)


def _lacking(claims: ClaimsTable, mask: np.ndarray, fold_of: np.ndarray) -> str | None:
    """Why claims are not enough to fit on; None: they are."""
    holds = int(claims.supported[mask].sum())
    others, documents = int(mask.sum()) - holds, len(set(claims.document_names[mask]))
    if min(holds, others) < FEWEST or documents < FEWEST_DOCUMENTS:
        return f"{holds} supported and {others} not, of {documents} documents"
    # All of a sort may be of documents of one fold: what is fitted without them has one sort only.
    for number in range(fold_of.max() + 1):
        left = claims.supported[mask & (fold_of != number)]
        if len(set(left)) < 2:
            return f"{holds} supported and {others} not, all of one sort in too few documents"
    return None


def _receipts(claims: ClaimsTable, mask: np.ndarray) -> list[str]:
    """Receipts to fit on: every claim under `mask` has them, and they differ between claims."""
    found = []
    for name in RECEIPTS:
        if name in LEFT_OUT or name not in claims.receipts:
            continue
        values = claims.receipts[name][mask]
        if np.isfinite(values).all() and np.ptp(values) > 0:
            found.append(name)
    return found


def _fitted(claims: ClaimsTable, mask: np.ndarray, names: list[str]) -> Weights:
    """Standardised, L2 with C = 1, solved by Newton steps to the end, so that it is the same on every machine."""
    from sklearn.linear_model import LogisticRegression

    holds = claims.supported[mask]
    share = float(np.clip(holds.mean(), 1e-9, 1 - 1e-9))
    counts = {"n": int(mask.sum()), "supported": int(holds.sum())}
    columns = {name: claims.receipts[name][mask] for name in names}
    columns = {name: values for name, values in columns.items() if float(values.std()) > 0}
    if not columns:  # nothing to tell them apart by: how often the kind holds
        return Weights(**counts, intercept=float(np.log(share / (1 - share))), receipts={})
    scales = {name: (float(values.mean()), float(values.std())) for name, values in columns.items()}
    features = np.stack([(columns[name] - mean) / std for name, (mean, std) in scales.items()], axis=1)
    model = LogisticRegression(solver="newton-cholesky", tol=1e-10, max_iter=200).fit(features, holds)
    return Weights(
        **counts,
        intercept=float(model.intercept_[0]),
        receipts={
            name: Weight(weight=float(weight), mean=mean, std=std)
            for (name, (mean, std)), weight in zip(scales.items(), model.coef_[0], strict=True)
        },
    )


def _predicted(weights: Weights, claims: ClaimsTable, mask: np.ndarray) -> np.ndarray:
    """The same as `Calibration.support`, of many claims."""
    score = np.full(int(mask.sum()), weights.intercept)
    for name, one in weights.receipts.items():
        score = score + one.weight * (claims.receipts[name][mask] - one.mean) / one.std
    return 1.0 / (1.0 + np.exp(-np.clip(score, -700.0, 700.0)))


def _reliability(
    claims: ClaimsTable, crossed: np.ndarray, folds: int, kinds: Mapping[str, Weights]
) -> Reliability | None:
    there = np.isfinite(crossed)
    how = {"draws": claims.settings.bootstrap_draws, "seed": claims.settings.seed}
    documents, predicted, holds = claims.of(there), crossed[there], claims.supported[there]
    if not there.any() or (whole := auroc(predicted, holds, documents, **how)) is None:
        return None
    error, bins = calibration_error(predicted, holds, documents, **how)
    by_kind = {}
    for kind, weights in kinds.items():
        mask = there & (claims.kinds == kind)
        own = auroc(crossed[mask], claims.supported[mask], claims.of(mask), **how)
        if weights.receipts and own is not None:  # else all of a kind are as probable, but for the fold
            by_kind[kind] = own
    return Reliability(
        n=int(there.sum()),
        documents=len(documents),
        folds=folds,
        auroc=whole,
        ece=error,
        brier=documents.mean((predicted - holds) ** 2, **how),
        bins=bins,
        receipts=[name for name in RECEIPTS if any(name in weights.receipts for weights in kinds.values())],
        auroc_by_kind=by_kind,
    )


def calibration(
    claims: ClaimsTable,
    support: Support,
    *,
    baseline_mse: float | None,
    made_from: Mapping[str, str],
    data: str,
    versions: Mapping[str, str],
) -> Calibration | None:
    """What is saved with the pair; None where no kind has a probability.

    Args:
        baseline_mse: FVE's denominator in ablation, replacement and alone; None: they are in gain.
        made_from: SHA-256 by name of all it rests on.
        versions: of libraries; those that decide the fit are kept.
    """
    if not support.kinds:
        return None
    chance: dict[str, dict[str, float]] = {}
    for kind in claims.kinds_there:
        for name, values in claims.nulls.items():
            there = np.isfinite(values) & (claims.kinds == kind)
            if there.any():
                chance.setdefault(kind, {})[name] = float(values[there].mean())
    return Calibration(
        made_from=dict(made_from),
        data=data,
        unit="gain" if baseline_mse is None else "FVE",
        baseline_mse=baseline_mse,
        kinds=dict(support.kinds),
        chance=chance,
        reliability=support.reliability,
        versions={name: versions[name] for name in VERSIONS if name in versions},
    )
