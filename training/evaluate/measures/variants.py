"""Figures of the subsample: explanations with something else injected, and with parts of their words left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nla_sdk.evaluation.measures import Control, Signal
from nla_sdk.evaluation.parts import Figure, Share

from .nulls import Documents
from .tables import Tables, fve_figure, gain_figure, mean_figure, numbers, sign_flip_p

MOST_CLAIMS = 6  # positions listed; later ones are rare


class Subsample:
    """The variants of one kind, each beside its row's real text and cosines."""

    def __init__(self, tables: Tables, variant: str, number: int | None = None) -> None:
        table = tables.variants
        place = {name: row for row, name in enumerate(tables.rows["row_id"].to_pylist())}
        kept = [
            row
            for row in table.to_pylist()
            if row["variant"] == variant and (number is None or row["number"] == number) and row["cosine"] is not None
        ]
        places = [place[row["row_id"]] for row in kept]
        self.texts = [row["text"] for row in kept]
        self.cosine = np.array([row["cosine"] for row in kept], dtype=np.float64)
        self.real = numbers(tables.rows, "cosine_real")[places]
        self.empty = numbers(tables.rows, "cosine_empty")[places]
        explanations = tables.rows["explanation"].to_pylist()
        self.real_texts = [explanations[row] for row in places]
        self.documents = Documents([row["doc_id"] for row in kept])

    def __len__(self) -> int:
        return len(self.texts)


def controls(tables: Tables) -> list[Control]:
    """What the AV says, and what that scores, when something else is injected than the row's activation."""
    measured = []
    for name in ("zero", "none", "random", "other"):
        if not len(sample := Subsample(tables, name)):
            continue
        changed = sum(a != b for a, b in zip(sample.texts, sample.real_texts, strict=True))
        p = sign_flip_p(tables, sample.documents, sample.real - sample.cosine)
        measured.append(
            Control(
                name=name,
                n=len(sample),
                changed=Share(count=changed, of=len(sample)),
                cosine=mean_figure(tables, sample.documents, sample.cosine),
                delta=mean_figure(tables, sample.documents, sample.real - sample.cosine, p),
            )
        )
    return measured


def signal(tables: Tables) -> Signal | None:
    """What is lost with a claim, with the order, with the quotes; what the first words keep, and re-encoding."""
    table = tables.variants
    names = {
        row["row_id"]
        for row in table.select(["row_id", "variant"]).to_pylist()
        if row["variant"] in ("first_words", "round_trip")
    }
    if not names or not tables.has_fve:
        return None
    sampled = np.array([name in names for name in tables.rows["row_id"].to_pylist()])

    def lost(variant: str, number: int | None = None) -> Figure | None:
        sample = Subsample(tables, variant, number)
        if not len(sample):
            return None
        p = sign_flip_p(tables, sample.documents, sample.real - sample.cosine)
        return fve_figure(tables, sample.documents, sample.real, sample.cosine, p)

    def level(variant: str, number: int | None = None) -> Figure | None:
        sample = Subsample(tables, variant, number)
        return fve_figure(tables, sample.documents, sample.cosine) if len(sample) else None

    def numbers_of(variant: str) -> Sequence[int]:
        pairs = table.select(["variant", "number"]).to_pylist()
        return sorted({pair["number"] for pair in pairs if pair["variant"] == variant})

    def levels(variant: str) -> dict[int, Figure]:
        return {number: figure for number in numbers_of(variant) if (figure := level(variant, number)) is not None}

    whole = fve_figure(tables, tables.of(sampled), numbers(tables.rows, "cosine_real")[sampled])
    prose = Subsample(tables, "prose_only")
    return Signal(
        n=int(sampled.sum()),
        whole=whole,
        claims=lost("claim"),
        claims_by_position=[
            figure for number in numbers_of("claim")[:MOST_CLAIMS] if (figure := lost("claim", number))
        ],
        claims_shuffled=lost("claims_shuffled"),
        words_shuffled=lost("words_shuffled"),
        quotes_only=level("quotes_only"),
        prose_only=level("prose_only"),
        prose_only_gain=gain_figure(tables, prose.documents, prose.cosine, prose.empty) if len(prose) else None,
        first_words=levels("first_words"),
        round_trips={1: whole} | levels("round_trip"),
        paraphrased=lost("paraphrased"),
    )
