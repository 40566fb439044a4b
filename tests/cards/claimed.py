"""An evaluation that says what its words are worth, made by hand: no two of its figures are alike."""

from __future__ import annotations

from nla_sdk.evaluation.claims import (
    Bin,
    Claims,
    KindOfClaim,
    Likeliest,
    Near,
    PublishedFigure,
    ReceiptFigures,
    Reliability,
    Specifics,
    TokenClass,
)
from nla_sdk.evaluation.parts import Figure, Share
from nla_sdk.evaluation.schema import Evaluation
from nla_sdk.evaluation.verdict import decide
from tests.cards.samples import measured

KINDS = ("next token", "register", "word")


def claims(**changes) -> Claims:
    """Three kinds of claims, of which registers hold no more often than by chance."""
    precision = {"next token": (0.612, 0.571, 0.653), "register": (0.237, 0.181, 0.293), "word": (0.418, 0.385, 0.451)}
    chance = {"next token": 0.143, "register": 0.219, "word": 0.067}
    kinds = [
        KindOfClaim(
            kind=kind,
            n=1201 + at,
            precision=Figure(value=precision[kind][0], n=1190 + at, interval_95=precision[kind][1:], p=0.0317),
            chance=Figure(value=chance[kind], n=1180 + at, interval_95=(chance[kind] - 0.011, chance[kind] + 0.013)),
            nothing=Share(count=303 + 10 * at, of=1100 + at),
            by_family={"web": Figure(value=0.521 + at / 100, n=611 + at)},
            chance_by_family={"web": Figure(value=0.151 + at / 100, n=601 + at)},
        )
        for at, kind in enumerate(KINDS)
    ]
    bins = [
        Bin(n=131 + at, predicted=round(0.0537 + at * 0.0983, 4), observed=round(min(1, 0.071 + at * 0.0917), 4))
        for at in range(10)
    ]
    error = sum(one.n * abs(one.predicted - one.observed) for one in bins) / sum(one.n for one in bins)
    values = {
        "n": sum(kind.n for kind in kinds),
        "rows": 416,
        "documents": 209,
        "known": 3573,
        "per_explanation": sum(kind.n for kind in kinds) / 416,
        "supported_per_explanation": 3.72,
        "kinds": kinds,
        "receipts": [
            ReceiptFigures(
                name="ablation",
                n=3301,
                value=Figure(value=0.0173, n=3301, interval_95=(0.0121, 0.0229)),
                null=Figure(value=-0.0031, n=3301, interval_95=(-0.0052, -0.0013)),
                auroc=Figure(value=0.587, n=3301, interval_95=(0.561, 0.614)),
                auroc_by_kind={"word": Figure(value=0.6317, n=1101)},
            ),
            ReceiptFigures(name="lens", n=1199, value=Figure(value=-4.83, n=1199), auroc=Figure(value=0.734, n=1199)),
        ],
        "specifics": [
            Specifics(
                what="number",
                stated=87,
                invented=Share(count=61, of=87),
                chance=Share(count=83, of=86),
                invented_per_explanation=0.147,
            )
        ],
        "near": Near(
            cosine=0.6173,
            exceeded=0.0491,
            precision=Figure(value=0.5119, n=1199, interval_95=(0.4911, 0.5293), p=0.0413),
            chance=Figure(value=0.1137, n=1188, interval_95=(0.0971, 0.1319)),
        ),
        "likeliest": Likeliest(
            of=10,
            named=Figure(value=0.7119, n=1193, interval_95=(0.6917, 0.7331), p=0.0231),
            named_chance=Figure(value=0.0931, n=1183, interval_95=(0.0713, 0.1173)),
            first=Figure(value=0.8237, n=413, interval_95=(0.7871, 0.8593), p=0.0117),
            first_chance=Figure(value=0.1317, n=407, interval_95=(0.1031, 0.1613)),
        ),
        "repeats": Share(count=37, of=416),
        "reliability": Reliability(
            n=sum(one.n for one in bins),
            documents=207,
            folds=5,
            auroc=Figure(value=0.7813, n=3571, interval_95=(0.7641, 0.7979)),
            ece=Figure(value=error, n=3571),
            brier=Figure(value=0.1763, n=3571),
            bins=bins,
            receipts=["ablation", "alone", "lens"],
            auroc_by_kind={"word": Figure(value=0.6917, n=1198)},
        ),
    }
    return Claims(**(values | changes))


def classes() -> list[TokenClass]:
    """Of five classes the mean direction wins on two; on a third its interval leaves it open."""
    values = {
        "other word": (0.412, 0.131),
        "number": (0.127, 0.204),
        "punctuation": (0.389, 0.346),
        "name": (0.2511, 0.2613),
        "first 10 positions": (0.108, 0.533),
    }
    return [
        TokenClass(
            name=name,
            n=71 + at,
            documents=51 + at,
            fve=Figure(value=fve, n=71 + at, interval_95=(fve - 0.0413, fve + 0.0429)),
            mean_fve=Figure(value=mean, n=71 + at),
            delta=Figure(value=fve - mean, n=71 + at, interval_95=(fve - mean - 0.0517, fve - mean + 0.0533), p=0.0123),
        )
        for at, (name, (fve, mean)) in enumerate(values.items())
    ]


def others(**changes) -> PublishedFigure:
    """A figure of somebody else's pair."""
    facts = {"what": "specific claims fabricated", "value": 0.596, "n": 777, "of": "lab/their-av"}
    return PublishedFigure(**({**facts, "source": "https://example.org/their_audit"} | changes))


def worded(**changes) -> Evaluation:
    """A measured pair's evaluation with claims, classes of tokens and another's figures."""
    parts = {"claims": claims(), "token_classes": classes(), "published": [others(), others(what="b", n=None)]}
    found, _ = measured()
    values = {name: getattr(found, name) for name in type(found).model_fields} | parts | changes
    return type(found)(**values | {"schema_version": 3, "verdict": decide(values)})
