"""What is said of verdicts, of the texts the AR was given and of what was injected: the same words everywhere."""

from __future__ import annotations

from nla_sdk.evaluation.schema import Evaluation
from nla_sdk.evaluation.verdict import SAYS as SAYS

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


def useful_for(evaluation: Evaluation) -> list[str]:
    """What follows from the verdict, and from a mixed pair."""
    lines = list(USEFUL[evaluation.verdict.value])
    if evaluation.origin == "published":
        lines.insert(1, "Useful: for reproducing the published figures, with the matched other half.")
    if evaluation.subject.matched is False:
        lines.append("Not useful: with the other half it was measured with; the two do not name each other.")
    return lines
