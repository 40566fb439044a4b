"""Writes into README.md what the bundled pair was measured to carry, from its evaluation: `python docs/measured.py`.

The prose around it is written by hand.
"""

from __future__ import annotations

from pathlib import Path

from cards.text import number, percent
from nla_sdk.evaluation.parts import Figure
from nla_sdk.evaluation.reading import load
from nla_sdk.evaluation.schema import EVALUATION, Evaluation

README = Path(__file__).parent.parent / "README.md"
SHIPPED = README.parent / "nla_sdk" / "demo" / EVALUATION
BEGIN, END = "<!-- measured: written by docs/measured.py -->\n", "<!-- end of measured -->\n"
GIVEN = {
    "real": "the AV's own words: the round trip",
    "shuffled": "the AV's words for other rows",
    "empty": "nothing",
}
HOLDS = {
    "word": '"About": the text has the word',
    "related word": '"Related": the text has the word, though it need not',
    "register": '"Style": the text\'s own',
}


def readme(text: str, found: Evaluation) -> str:
    """README with the table of what the AR makes of which words, and what the words are worth.

    Args:
        text: README as it is.
        found: the evaluation of the bundled pair.
    """
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n".join([*conditions(found), "", *words(found)]) + "\n" + END + rest.split(END)[1]


def conditions(found: Evaluation) -> list[str]:
    """A row for each sort of words, the pair's own first."""
    trip, pool = found.round_trip, found.identity.pool
    lines = ["| the AR is given | FVE | cosine |", "|---|---|---|"]
    for name, said in GIVEN.items():
        one = found.ablation.conditions[name]
        bold = "**" if name == "real" else ""
        lines.append(f"| {bold}{said}{bold} | {bold}{_number(one.fve)}{bold} | {_number(one.cosine)} |")
    nearest = "" if pool is None else f"; own activation nearest of {pool.size} in {percent(pool.top1)}"
    lines += [
        "",
        f"{trip.evaluated} activations of {found.data.documents} documents that nobody trained on, "
        f"{len(found.data.families)} families; verdict `{found.verdict.value}`; gain {_number(trip.gain)}{nearest}. "
        f"The mean direction alone has cosine {trip.reference.mean_cosine:.3f}: read FVE, which is 0 for it.",
    ]
    return lines


def words(found: Evaluation) -> list[str]:
    """What the words hold, each share beside its chance; [] where claims were not measured."""
    claims = found.claims
    if claims is None:
        return []
    lines = ["| of the words it writes | hold | by chance |", "|---|---|---|"]
    if (likeliest := claims.likeliest) is not None:
        said = f"next token: among the model's {likeliest.of} likeliest"
        lines.append(f"| {said} | {_share(likeliest.named)} | {_share(likeliest.named_chance)} |")
    of_kind = {kind.kind: kind for kind in claims.kinds}
    for name, said in HOLDS.items():
        if (kind := of_kind.get(name)) is not None:
            lines.append(f"| {said} | {_share(kind.precision)} | {_share(kind.chance)} |")
    return lines


def _number(figure: Figure | None) -> str:
    return number(None if figure is None else figure.value)


def _share(figure: Figure | None) -> str:
    return "–" if figure is None else percent(figure.value)


if __name__ == "__main__":
    README.write_text(readme(README.read_text(encoding="utf-8"), load(SHIPPED)), encoding="utf-8", newline="\n")
