"""What is told of the pair that is served: its parts, its figures, the sentence that must stand beside its words."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..claims.calibration import CLAIMS, Calibration
from ..errors import NLAError
from ..evaluation.parts import Figure, Subject
from ..evaluation.reading import load
from ..evaluation.schema import EVALUATION, Evaluation
from ..evaluation.verdict import SAYS
from ..halves.half import present

if TYPE_CHECKING:
    from ..halves.half import Half
    from ..pair import NLAPair
    from .served import Served

log = logging.getLogger("nla_sdk.serve")
UNKNOWN = (
    "Nobody has measured whether this pair's explanations carry content of their own activation. Read each beside "
    "what no words and other rows' words score."
)


def about(of: Served) -> dict[str, Any]:
    """`GET /v1/pair`."""
    pair = of.pair
    evaluation = of.evaluation
    blocks = (pair.verbalizer or pair.reconstructor).backbone.num_blocks  # pyright: ignore[reportOptionalMemberAccess]
    layers = pair.contract.layers
    return {
        "name": of.name,
        "av": called(pair.av),
        "ar": called(pair.ar),
        "base": without_folders(pair.base.ref),
        "layer": pair.layer,
        "layers": list(layers) if isinstance(layers, (list, tuple)) else layers,
        "d_model": pair.d_model,
        "num_layers": max(blocks, pair.source.num_blocks if of.settings.source else 0),
        "kind": kind_of(pair),
        "centred": is_centred(pair),
        "norm_matters": pair.norm_matters,
        "matched": pair.matched,
        "baseline_mse": pair.baseline_mse,
        "verdict": evaluation and {"value": evaluation.verdict.value, "reason": evaluation.verdict.reason},
        "warning": warning_of(evaluation),
        "evaluation": evaluation and figures_of(evaluation),
        "calibration": calibration_of(calibration_beside(pair), evaluation),
        "questions": questions_of(pair),
        "has_av": pair.verbalizer is not None,
        "has_ar": pair.reconstructor is not None,
        "has_source": of.settings.source,
        "has_chat": of.settings.source and bool(getattr(pair.source.tokenizer, "chat_template", None)),
        "limits": limits_of(of),
        "version": __version__,
        "precision": pair.origin.precision,
    }


def called(half: Half | None) -> str | None:
    """A half's repository; of one that lies here the folder's name, not where."""
    return None if half is None else half.repo_id if half.commit else without_folders(half.ref)


def without_folders(ref: str) -> str:
    """What a reference names: a Hub id as it is, of a path its last part."""
    return ref if ref.count("/") == 1 and not Path(ref).exists() else Path(ref).name


def without_places(error: NLAError, pair: NLAPair) -> NLAError:
    """The error without where the pair's files lie, which is nobody's business who asks from elsewhere."""
    error.args = tuple(map(placeless(pair), error.args))
    return error


def placeless(pair: NLAPair) -> Callable[[Any], Any]:
    """What is said, without where the pair's files lie."""
    halves = present(pair.av, pair.ar)
    places = {str(half.folder): called(half) for half in halves}
    beside = [Path(half.folder).parent / CLAIMS for half in halves]
    places |= {str(file): file.name for file in beside}
    named = [half.parent for half in halves if half.parent is not None]
    places |= {str(files.path): without_folders(files.ref) for files in named}
    refs = [pair.base.ref, *(half.ref for half in halves)]
    places |= {ref: without_folders(ref) for ref in refs if Path(ref).is_absolute()}
    if pair.base.path is not None:
        places[str(pair.base.path)] = without_folders(pair.base.ref)

    def told(text: Any) -> Any:
        for place in sorted(places, key=len, reverse=True) if isinstance(text, str) else ():
            text = str(text).replace(place, str(places[place]))
        return text

    return told


def kind_of(pair: NLAPair) -> str:
    """What may be asked of it: "pair", "av", "ar" or "oracle"."""
    if pair.verbalizer is None:
        return "ar"
    if pair.verbalizer.contract.asks:
        return "oracle"
    return "av" if pair.reconstructor is None else "pair"


def is_centred(pair: NLAPair) -> bool:
    """Whether a mean is taken off what the AV is shown."""
    return pair.verbalizer is not None and bool(pair.verbalizer.transform.means)


def questions_of(pair: NLAPair) -> list[str]:
    """Of an oracle the question that its contract explains with."""
    if pair.verbalizer is None or not pair.verbalizer.contract.asks:
        return []
    default = pair.verbalizer.contract.fields["question"].default
    return [] if default is None else [default]


def evaluation_beside(pair: NLAPair) -> Evaluation | None:
    """The evaluation that lies beside the halves; None: there is none, it does not hold, or it is of another pair."""
    for half in present(pair.av, pair.ar):
        for folder in (Path(half.folder), Path(half.folder).parent):
            if (folder / EVALUATION).is_file():
                try:
                    found = load(folder / EVALUATION)
                except NLAError as error:
                    log.warning("what was measured of the pair is not told: %s", error)
                    return None
                if is_of(found.subject, pair):
                    return found
                log.warning("%s is of another pair, and not told", folder / EVALUATION)
    return None


def is_of(subject: Subject, pair: NLAPair) -> bool:
    """Whether what was measured is what is served: the layer that it reads, and halves that belong together."""
    mixed = pair.av is not None and pair.ar is not None and not pair.matched
    facts = (subject.layer, pair.layer), (subject.d_model, pair.d_model)
    return all(said in (None, has) for said, has in facts) and not (mixed and subject.matched is not False)


def warning_of(evaluation: Evaluation | None) -> str | None:
    """What must be said of the pair's words; None where they were seen to carry content."""
    if evaluation is None:
        return UNKNOWN
    if evaluation.verdict.value == "reads-content":
        return None
    return f"{SAYS[evaluation.verdict.value]} ({evaluation.verdict.reason}.)"


def figures_of(evaluation: Evaluation) -> dict[str, Any]:
    """The figures that a row's are read beside."""
    trip, ablation = evaluation.round_trip, evaluation.ablation

    def fve(name: str) -> float | None:
        condition = None if ablation is None else ablation.conditions.get(name)
        return None if condition is None or condition.fve is None else condition.fve.value

    return {
        "rows": trip.evaluated,
        "fve_real": None if trip.fve is None else trip.fve.value,
        "fve_empty": fve("empty"),
        "fve_shuffled": fve("shuffled"),
        "gain": None if evaluation.gain is None else evaluation.gain.value,
    }


def calibration_beside(pair: NLAPair) -> Calibration | None:
    """The pair's calibration; None: it has none, or one that does not hold, which a check says."""
    try:
        return pair.calibration
    except NLAError as error:
        log.warning("what the probabilities of claims rest on is not told: %s", error)
        return None


def calibration_of(calibration: Calibration | None, evaluation: Evaluation | None) -> dict[str, Any] | None:
    """What the probabilities of claims rest on; None: there are none.

    How often claims hold is the evaluation's, beside its chance; without one what was fitted on, beside nothing.
    """
    if calibration is None:
        return None
    held = calibration.reliability
    if evaluation is not None and evaluation.claims is not None:
        kinds = [
            {"kind": one.kind, "n": one.n, "precision": _value(one.precision), "chance": _value(one.chance)}
            for one in evaluation.claims.kinds
        ]
    else:
        kinds = [
            {"kind": kind, "n": one.n, "precision": one.supported / one.n if one.n else None, "chance": None}
            for kind, one in calibration.kinds.items()
        ]
    return {
        "data": calibration.data,
        "unit": calibration.unit,
        "receipts": sorted(calibration.needed),
        "n": held and held.n,
        "documents": held and held.documents,
        "ece": held and held.ece.value,
        "auroc": held and held.auroc.value,
        "kinds": kinds,
    }


def _value(figure: Figure | None) -> float | None:
    return None if figure is None else figure.value


def limits_of(of: Served) -> dict[str, Any]:
    """What a request may ask for."""
    limits, settings = of.limits, of.settings
    return {
        "text": limits.text,
        "positions": limits.positions,
        "new_tokens": limits.new_tokens,
        "completion_tokens": limits.completion_tokens,
        "explanation": limits.explanation,
        "samples": limits.samples,
        "nearby": limits.nearby,
        "concurrent": settings.concurrent,
        "queue": settings.queue,
        "timeout": settings.timeout,
        "read_only": settings.read_only,
        "switched_off": list(settings.switched_off),
        "secret": settings.secret is not None,
    }
