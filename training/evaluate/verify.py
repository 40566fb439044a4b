"""Hold an evaluation file against what it says it was made from. `python -m training.evaluate verify FILE`

Of a measured file: its own hash, the hashes of its tables, every figure its rows determine (recomputed; 1e-6), the
verdict, and the SHA-256 of contracts, weights and data as far as they are at hand; the rows are then held against the
data, and what is said of the pair against the contracts. Figures that rows do not determine (retrieval by source texts
that were not kept or by an embedder, cost; cosines of unrelated and made-up words) rest on hashes. Of a published file:
its hash and its arithmetic. Needs no torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nla_sdk.claims.calibration import CLAIMS, load_calibration
from nla_sdk.contract import Contract
from nla_sdk.errors import MissingFileError, NLAError, first_line
from nla_sdk.evaluation.ages import as_of, came_with
from nla_sdk.evaluation.measures import Content, RoundTripFigures
from nla_sdk.evaluation.parts import Data
from nla_sdk.evaluation.reading import EvaluationError, load
from nla_sdk.evaluation.schema import CLAIMS_TABLE, ROWS, VARIANTS, Evaluation
from nla_sdk.evaluation.verdict import decide
from nla_sdk.halves.hub.naming import same_repository
from nla_sdk.io.files import sha256_of
from nla_sdk.io.tables import read_table, read_vectors

from ..runs.machine import NUMERICS, check_installed, libraries
from . import heldout, inputs
from .claims import given, verifying
from .heldout import TEXT

TOLERANCE = 1e-6
Found = TypeVar("Found")
PARTS = ("identity", "true_labels", "true_labels_identity", "content", "collapse", "ablation", "signal", "controls")
SOMETIMES = ("claims", "token_classes")  # what an evaluation need not look at


@dataclass(frozen=True)
class Checked:
    """What was verified, and what could not be for want of files."""

    evaluation: Evaluation
    checked: list[str]
    not_at_hand: list[str]


def verify(
    path: Path,
    *,
    av: Path | None = None,
    ar: Path | None = None,
    data: Path | None = None,
    texts: Path | None = None,
) -> Checked:
    """Verify an evaluation file.

    Args:
        av, ar: the folders of the halves; default: `av` and `ar` beside the file, where there are such folders.
        data: the held-out parquet; default: the file of its name beside the evaluation.
        texts: the source texts that claims were held against, where neither the rows nor the data have them.
    Raises:
        EvaluationError: something does not hold; names every figure or file that doesn't.
        MissingFileError: there is no such file.
    """
    evaluation = load(path)
    here = Path(path).parent
    named = ((av, "the AV's folder"), (ar, "the AR's folder"), (data, "the held-out parquet"), (texts, "the texts"))
    for place, expected in named:
        if place is not None and not (place.is_file() if place in (data, texts) else place.is_dir()):
            raise MissingFileError(f"{place} does not exist; expected {expected}.")
    if evaluation.origin == "published":
        return Checked(
            evaluation, ["the file's SHA-256", "its arithmetic", "the verdict"], ["rows (published figures)"]
        )
    tables = {}
    for name, digest in evaluation.files.items():
        if Path(name).name != name or not (here / name).is_file():
            raise EvaluationError(f"{path} names the table {name}, which is not beside it. Keep them together.")
        if sha256_of(here / name) != digest:
            raise EvaluationError(f"{here / name} is not the table that {path} was computed from: its SHA-256 differs.")
        tables[name] = here / name
    if texts is not None and sha256_of(texts) != evaluation.inputs.get(given.INPUT):
        raise EvaluationError(f"{path} was not made with {texts}: its SHA-256 is not the one of inputs.{given.INPUT}.")
    data = data or here / evaluation.data.name
    known = None
    if evaluation.claims is not None or evaluation.matching is not None:
        known = _in_one_line(lambda: _texts(evaluation, tables[ROWS], texts, data), path, "the texts")
    if wrong := _in_one_line(lambda: list(_recompute(evaluation, tables, known)), path, "its tables"):
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise EvaluationError(f"{path} is not what its rows give: {'; '.join(wrong[:5])}{more}.{_versions(evaluation)}")
    checked = ["the file's SHA-256", "its arithmetic", "the verdict", "every figure its rows determine"]
    missing = []
    if evaluation.claims is not None:
        checked.append("every claim's figures")
        if known is not None:
            checked.append("claims against the texts")
        elif evaluation.claims.known:
            missing.append("the texts that claims were held against (pass --texts FILE)")
    if any(one.matched is not None for one in evaluation.matching or []):
        if known is not None:
            checked.append("explanations matched with the texts by words")
        elif evaluation.claims is None or not evaluation.claims.known:
            missing.append("the texts that explanations were matched with (pass --texts FILE)")
    contracts = {}
    for role, folder in (("av", av), ("ar", ar)):
        folder = folder or here / role
        if not folder.is_dir():
            missing.append(f"the {role.upper()} (pass --{role} FOLDER)")
            continue
        contracts[role] = Contract.load(folder)
        wrong = inputs.differences(evaluation, role, folder, contracts[role])
        wrong += [
            f"its {name} is {getattr(contracts[role], name)}, the file says {getattr(evaluation.subject, name)}"
            for name in ("layer", "d_model")
            if getattr(contracts[role], name) != getattr(evaluation.subject, name)
        ]
        measured_on, base = evaluation.subject.base_model or "", contracts[role].base_model or ""
        if "/" in measured_on and not same_repository(
            measured_on, base
        ):  # a folder's own name says nothing of a Hub id
            wrong.append(f"its base_model is {base}, the file says {measured_on}")
        if wrong:
            raise EvaluationError(f"{path} was not measured from {folder}: {'; '.join(wrong)}.")
        checked.append(f"the {role.upper()}'s contract and weights")
    named = inputs.named(contracts["av"], contracts["ar"], evaluation) if len(contracts) == 2 else None
    if named is None:
        missing.append("whether the halves name each other")
    elif named != evaluation.subject.matched:
        said = "name" if named else "do not name"
        raise EvaluationError(f"{path} says matched: {evaluation.subject.matched}; the halves {said} each other.")
    else:
        checked.append("whether the halves name each other")
    if not data.is_file():
        missing.append(f"the data {evaluation.data.name} (pass --data FILE)")
    elif sha256_of(data) != evaluation.data.sha256:
        raise EvaluationError(f"{path} was not measured on {data}: its SHA-256 differs.")
    elif wrong := _in_one_line(lambda: list(_from_data(evaluation, tables[ROWS], data)), path, "the data"):
        raise EvaluationError(f"{path} is not of the rows of {data}: {'; '.join(wrong)}.")
    else:
        checked.append("the data, row by row")
    return Checked(evaluation, checked, missing)


def _in_one_line(work: Callable[[], Found], path: Path, what: str) -> Found:
    """What `work` finds; whatever it fails at is said, because the tables are anybody's and may hold anything."""
    try:
        return work()
    except NLAError:
        raise
    except Exception as error:
        raise EvaluationError(
            f"{path} cannot be recomputed from {what}: {type(error).__name__}: {first_line(error)}. They are damaged, "
            "or not of this evaluation."
        ) from error


def _versions(evaluation: Evaluation) -> str:
    """The libraries that are others here than there: the figures may differ for their sake."""
    here = libraries(*NUMERICS)
    other = [
        f"{name} {here[name]} (the file: {evaluation.versions[name]})"
        for name in NUMERICS
        if name in here and evaluation.versions.get(name, here[name]) != here[name]
    ]
    return (
        f" Library versions differ: {', '.join(other)}; recompute with the file's before you blame it." if other else ""
    )


def _from_data(evaluation: Evaluation, rows: Path, data: Path) -> Iterator[str]:
    """What of the rows is not the held-out table's."""
    import numpy as np

    found, table = heldout.read(data, None, evaluation.data.rows), read_table(rows)
    yield from differences(
        evaluation.data.model_dump(),
        found.about().model_copy(update={"name": evaluation.data.name}).model_dump(),
        "data",
    )
    columns = {"row_id": found.row_ids, "doc_id": found.documents, "source_family": found.families}
    columns |= {"label": found.labels, "n_raw_tokens": found.tokens}
    for name, values in columns.items():
        if values != (table[name].to_pylist() if name in table.column_names else None):
            yield f"the rows' {name} is not the data's"
    if not np.array_equal(read_vectors(table), found.vectors, equal_nan=True):
        yield "the rows' activation_vector is not the data's"


def _recompute(evaluation: Evaluation, tables: dict[str, Path], texts: Sequence[str] | None) -> Iterator[str]:
    """Every figure that the tables contradict."""

    from .claims.classes import token_classes
    from .measures import compute, matching

    check_installed()
    rows = read_table(tables[ROWS])
    _refuse_unmeasured(rows, tables[ROWS])
    variants = read_table(tables[VARIANTS]) if VARIANTS in tables else None
    wrong = list(_cosines(rows))
    shuffled = compute.shuffled_column(compute.Tables(rows, None, evaluation.settings))
    if len(shuffled) and not _same_numbers(shuffled.to_pylist(), rows["cosine_shuffled"].to_pylist()):
        wrong.append("rows.parquet: cosine_shuffled does not follow from its vectors")
    yield from wrong
    if wrong:
        return  # figures of such rows would say no more
    measured = compute.Tables(rows, variants, evaluation.settings)
    found = compute.parts(measured)
    if (of_classes := token_classes(measured)) is not None:
        found["token_classes"] = of_classes
    if texts is not None and measured.evaluated.any():
        found["matching"] = matching.matching(measured, texts)
    yield from matching.faults(measured, evaluation.matching or [])
    worth = None
    if CLAIMS_TABLE in tables:
        claims = read_table(tables[CLAIMS_TABLE])
        worth = verifying.worth_of(evaluation, measured, claims)
        found["claims"] = worth.claims
        yield from verifying.faults(measured, claims, worth, texts)
    elif evaluation.settings.claims_n is not None:
        yield f"{CLAIMS_TABLE} is not named, and settings.claims_n says that claims were looked at"
    saved = load_calibration(tables[CLAIMS]) if CLAIMS in tables else None
    yield from differences(_plain(saved), _plain(worth and worth.calibration), CLAIMS)
    yield from differences(_about(evaluation.data), _about_rows(rows), "data")
    for name, part in found.items():
        if came_with(Evaluation, name) > evaluation.schema_version:
            continue
        stated, part = getattr(evaluation, name), as_of(part, evaluation.schema_version)
        if name == "content":
            stated = _determined(stated, part)
        if name == "matching" and stated is not None:
            stated = [one for one in stated if one.features != "meaning"]
        if name == "round_trip" and evaluation.verdict.thresholds.fewest_documents is None:
            yield from _verdict_by_documents(evaluation, part)
            part = _as_older(part)
        yield from differences(_plain(stated), _plain(part), name)
    for name in (*PARTS, *SOMETIMES):
        if name not in found and getattr(evaluation, name):
            yield f"{name} is stated, but the rows give none"
    since = came_with(Evaluation, "matching")
    if evaluation.matching is None and evaluation.schema_version >= since and measured.evaluated.any():
        yield f"matching is not stated, which files have since schema version {since}"


def _texts(evaluation: Evaluation, file: Path, texts: Path | None, data: Path) -> Sequence[str] | None:
    """The rows' source texts: their own, else those of the file that was given, else the data's; None: not at hand."""
    rows = read_table(file)
    if TEXT in rows.column_names:
        return rows[TEXT].to_pylist()
    if texts is None:
        at_hand = evaluation.data.has_texts and data.is_file() and sha256_of(data) == evaluation.data.sha256
        return heldout.read(data, None, evaluation.data.rows).texts if at_hand else None
    names = [[str(name) for name in rows[column].to_pylist()] for column in ("row_id", "doc_id")]
    tokens = rows["n_raw_tokens"].to_pylist() if "n_raw_tokens" in rows.column_names else None
    return given.texts_for(heldout.Heldout(file, "", read_vectors(rows), *names, tokens=tokens), texts).of_rows


def _as_older(found: RoundTripFigures) -> RoundTripFigures:
    """The figures without those that a file from before the rule on documents cannot state."""
    reference = found.reference and found.reference.model_copy(
        update={"outlying": None, "baseline_mse_without_outlying": None}
    )
    return found.model_copy(update={"documents": None, "fve_without_outlying": None, "reference": reference})


def _verdict_by_documents(evaluation: Evaluation, found: RoundTripFigures) -> Iterator[str]:
    """Of a file that is older than the rule on documents: whether its verdict stands by those of its evaluated rows."""
    parts = {name: getattr(evaluation, name) for name in ("data", "ablation", "identity", "collapse")}
    expected = decide(parts | {"round_trip": evaluation.round_trip.model_copy(update={"documents": found.documents})})
    if expected.value != evaluation.verdict.value:
        yield f"the verdict is {evaluation.verdict.value}, the rows give {expected.value} ({expected.reason})"


def _refuse_unmeasured(rows, file: Path) -> None:
    """Rows of an AR that gave NaN were measured, and are of nothing: nobody has changed them."""
    import numpy as np

    from .measures.tables import empty_reconstruction

    empty = empty_reconstruction(rows)
    if empty is not None and not np.isfinite(empty).all():
        raise EvaluationError(
            f"{file}: the AR gave NaN or infinity for the empty explanation when this was measured, so no figure rests "
            "on a reconstruction. Load the pair in bfloat16 or float32, or mend the AR's weights, and measure again."
        )


def _about(data: Data) -> dict:
    return data.model_dump(include={"rows", "documents", "families", "has_labels"})


def _about_rows(rows) -> dict:
    """What the rows say of the data; of source texts they need not tell."""
    families = rows["source_family"].to_pylist() if "source_family" in rows.column_names else []
    return {
        "rows": rows.num_rows,
        "documents": len(set(rows["doc_id"].to_pylist())),
        "families": dict(Counter(families)),
        "has_labels": "label" in rows.column_names,
    }


def _cosines(rows) -> Iterator[str]:
    """The rows' cosines against the rows' vectors."""
    import numpy as np
    import pyarrow as pa

    from nla_sdk import metrics

    from .measures.tables import empty_reconstruction

    empty = empty_reconstruction(rows)
    if empty is None:
        yield "rows.parquet does not hold what the AR makes of no text, which the gain rests on"
        return
    activations = read_vectors(rows)
    usable = np.isfinite(activations).all(axis=1) & (activations != 0).any(axis=1)
    for column, made in (
        ("cosine_real", "reconstruction"),
        ("cosine_label", "label_reconstruction"),
        ("cosine_empty", None),
    ):
        if made is not None and made not in rows.column_names:
            continue
        there = rows[column].is_valid().to_numpy()
        if made is None and (there != usable).any() and np.any(empty):
            yield f"rows.parquet: {column} is not of every row that has a direction"
        if there.any():
            vectors = empty if made is None else read_vectors(rows.filter(pa.array(there)), made)
            follows = np.atleast_1d(metrics.cosine(vectors, activations[there]))
            stated = rows[column].to_numpy(zero_copy_only=False)[there]
            if not (np.abs(follows - stated) <= TOLERANCE).all():  # so that NaN does not pass
                yield f"rows.parquet: {column} does not follow from its vectors"


def _same_numbers(a: list, b: list) -> bool:
    return all(
        (x is None and y is None) or (x is not None and y is not None and abs(x - y) <= TOLERANCE)
        for x, y in zip(a, b, strict=True)
    )


def _determined(stated: Content | None, found: Content) -> Content | None:
    """Of the stated retrievals those that the tables determine: their texts or features are in the rows."""
    if stated is None:
        return None
    kinds = {(one.query, one.candidates, one.features) for one in found.retrieval}
    kept = [one for one in stated.retrieval if (one.query, one.candidates, one.features) in kinds]
    return stated.model_copy(update={"retrieval": kept})


def _plain(part: Any) -> Any:
    if isinstance(part, list):
        return [_plain(one) for one in part]
    return part.model_dump(mode="json") if hasattr(part, "model_dump") else part


def differences(stated: Any, found: Any, where: str) -> Iterator[str]:
    """Paths at which two JSON values differ: numbers by more than 1e-6."""
    if isinstance(stated, dict) and isinstance(found, dict):
        for key in sorted(stated.keys() | found.keys()):
            yield from differences(stated.get(key), found.get(key), f"{where}.{key}")
    elif isinstance(stated, list) and isinstance(found, list) and len(stated) == len(found):
        for at, (one, other) in enumerate(zip(stated, found, strict=True)):
            yield from differences(one, other, f"{where}.{at}")
    elif isinstance(stated, int | float) and isinstance(found, int | float) and not isinstance(stated, bool):
        if not math.isclose(stated, found, rel_tol=0, abs_tol=TOLERANCE):
            yield f"{where} is {stated:.6g}, the rows give {found:.6g}"
    elif stated != found:
        yield f"{where} is {stated!r:.60}, the rows give {found!r:.60}"
