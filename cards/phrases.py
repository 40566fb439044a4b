"""What is said of verdicts, of texts given to the AR, of what was injected, of claims: the same words everywhere."""

from __future__ import annotations

from nla_sdk.claims.receipts import OF_TEXT as OF_TEXT
from nla_sdk.claims.receipts import RECEIPTS as RECEIPTS
from nla_sdk.claims.truth import AGREES as AGREES
from nla_sdk.claims.truth import HALF as HALF
from nla_sdk.evaluation.claims import KindOfClaim, TokenClass
from nla_sdk.evaluation.schema import Evaluation
from nla_sdk.evaluation.verdict import SAYS as SAYS

from .text import figure, inert, interval_percent, percent

GIVEN = {
    "real": "its own explanation",
    "shuffled": "other rows' explanations (mean)",
    "unrelated": "unrelated sentences",
    "nonsense": "nonsense words",
    "empty": "no text",
}
# Beside labels, what stands for the own explanation and for other rows' are labels too.
GIVEN_LABELS = GIVEN | {"real": "its written label", "shuffled": "other rows' labels (mean)"}
INJECTED = {
    "zero": "a zero vector",
    "none": "nothing (the marker itself)",
    "random": "a random direction",
    "other": "another row's activation",
}
USEFUL = {
    "reads-content": (
        "Useful: as a hint what an activation of this block is about, row by row, to be checked against the text.",
        "Useful: comparing pairs, layers and recipes by FVE and gain.",
        "Not useful: as proof that the model represents what one explanation says; details are invented.",
    ),
    "content-blind": (
        "Useful: as a baseline.",
        "Not useful: for judging explanations. They reconstruct their activations no better than no text at all.",
        "Not useful: for any statement about what a single activation holds.",
    ),
    "template-collapsed": (
        "Useful: as a baseline for recipes that avoid the collapse.",
        "Not useful: for telling one activation from another by its explanation.",
    ),
    "inconclusive": (
        "Useful: for measuring again, on more rows.",
        "Not useful: for conclusions in either direction.",
    ),
}
FEWEST_STATED = 10  # numbers or names: of fewer their share says little
MOST_INVENTED = 0.5
"""The share of numbers or names that are not in the text, from which on a card says that they are not to be used."""


def useful_for(evaluation: Evaluation) -> list[str]:
    """What follows from the verdict, and from a mixed pair."""
    lines = list(USEFUL[evaluation.verdict.value])
    if evaluation.origin == "published":
        lines.insert(1, "Useful: for reproducing the published figures, with the matched other half.")
    if evaluation.subject.matched is False:
        lines.append("Not useful: with the other half it was measured with; the two do not name each other.")
    lines += [f"Not useful: {said}." for said in _unearned(evaluation)]
    return lines


def worded(evaluation: Evaluation) -> bool:
    """Whether the file says anything of claims or of classes of tokens."""
    return bool(evaluation.token_classes) or evaluation.claims is not None


def receipt(name: str, unit: str) -> str:
    """What a receipt's number is; those that the AR gives are in the evaluation's unit."""
    return RECEIPTS[name].replace("FVE", unit)


def losing(evaluation: Evaluation) -> list[TokenClass]:
    """The classes of tokens whose mean direction does better than the pair, the worst first.

    See `TokenClass.loses`: what an interval leaves open is no loss.
    """
    return sorted((one for one in evaluation.token_classes or () if one.loses), key=lambda one: one.delta.value)


def beaten(one: TokenClass) -> str:
    """A class with both of its figures."""
    return f"{one.name} (FVE {figure(one.fve)}, the mean {figure(one.mean_fve)}, n = {one.n})"


def no_better(evaluation: Evaluation) -> list[KindOfClaim]:
    """The kinds of claims that are not known to hold more often than against other documents' texts."""
    kinds = evaluation.claims.kinds if evaluation.claims is not None else ()
    return [
        kind
        for kind in kinds
        if kind.precision is not None
        and kind.chance is not None
        and (kind.precision.interval_95 or (kind.precision.value,))[0] <= kind.chance.value
    ]


def _unearned(evaluation: Evaluation) -> list[str]:
    """What the words are of no use for, each with its figures."""
    said = []
    if lost := losing(evaluation):
        said.append(
            "on tokens of these classes, where the mean direction of the class does better: "
            + "; ".join(beaten(one) for one in lost)
        )
    for kind in no_better(evaluation):
        said.append(
            f"its claims of the kind {inert(kind.kind)}: {interval_percent(kind.precision)} are supported, by other "
            f"documents' texts {percent(kind.chance.value, 1)} (n = {kind.precision.n})"
        )
    for one in evaluation.claims.specifics if evaluation.claims is not None else ():
        if one.invented.of >= FEWEST_STATED and one.invented.share >= MOST_INVENTED:
            said.append(
                f"the {one.what}s that it states: {one.invented.count} of {one.invented.of} "
                f"({percent(one.invented.share)}) are not in the text"
            )
    return said
