"""Claims whose truth is planted, and a planted pair that says and hears the bundled form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from nla_sdk.checking.gathering import Gathered
from nla_sdk.claims.cutting import claims_of
from nla_sdk.claims.editing import without
from nla_sdk.claims.receipts import Receipt
from nla_sdk.claims.truth import in_text, in_text_exact
from nla_sdk.io.files import hash64
from nla_sdk.metrics import cosine
from tests.evaluate.planted import SETTINGS, Oracle, PlantedPair
from training.evaluate.claims import measuring

PLANTED = {"next token": 0.9, "word": 0.5, "sentence": 0.1}
CLAIMED = SETTINGS.model_copy(update={"claims_n": 20})


def table(
    rng: np.random.Generator, documents: int = 150, each: int = 2, kinds: Mapping[str, float] = PLANTED
) -> pa.Table:
    """Claims that hold with a known probability per kind; `lens` tells a little of it, `repeats` is noise."""
    rows = []
    for document in range(documents):
        for number, kind in enumerate(kind for kind in kinds for _ in range(each)):
            lens = rng.normal()
            tilt = 0.0 if kinds[kind] in (0.0, 1.0) else lens  # the mean over lens stays near the planted share
            odds = math.log(kinds[kind] / (1 - kinds[kind])) if 0 < kinds[kind] < 1 else 0.0
            p = kinds[kind] if kinds[kind] in (0.0, 1.0) else 1 / (1 + math.exp(-odds - tilt))
            rows.append(
                {
                    "row_id": f"r{document}",
                    "doc_id": f"d{document}",
                    "number": number,
                    "claim": f"claim {number}",
                    "claim_kind": kind,
                    "claim_start": 10 * number,
                    "claim_end": 10 * number + 9,
                    "supported": bool(rng.random() < p),
                    "chance": 0.1,
                    "numbers": 0,
                    "numbers_invented": 0,
                    "numbers_invented_null": 0,
                    "names": 0,
                    "names_invented": 0,
                    "names_invented_null": 0,
                    "lens": lens,
                    "lens_null": 0.0,
                    "repeats": rng.normal(),
                    "repeats_null": 0.0,
                }
            )
    return pa.Table.from_pylist(rows)


class Speaker(Oracle):
    """An AV that says what it found in the form of the bundled pair."""

    def say(self, vector) -> str:
        name = "nothing" if vector is None or not np.any(vector) else super().say(vector).split()[3].rstrip(".")
        return f'"{name}" or "nine" comes next. Expository prose about {name}, sea, story.'


def gather(
    pair, explanations, vectors, *, which, reconstructions=None, texts=None, partners=None, spared=None, seed=0
) -> Gathered:
    """Receipts as `nla_sdk.checking.gathering.gather` gives them, of a pair that has no model."""

    def of(row: int, claims, claim, at: int) -> dict[str, float]:
        text = explanations[row]
        found = {"repeats": 0.0, "lens": -float(hash64(claim.text) % 97)}
        if texts is not None and texts[at] is not None:
            before = texts[at].before
            found |= {"in_text": in_text(claim, before), "in_text_exact": in_text_exact(claim, before)}
            if claim.kind == "next token":
                found["model_agrees"] = 0.2 if claim.text in before else 0.001
        target = vectors[at].numpy()
        if "ablation" in which:
            less = without(text, claim, claims)
            found["ablation"] = float(cosine(pair.hear(text), target) - cosine(pair.hear(less), target))
        if "alone" in which and claim.kind not in (spared or {}).get("alone", ()):
            found["alone"] = float(cosine(pair.hear(claim.text), target) - cosine(pair.hear(""), target))
        return {name: value for name, value in found.items() if name in which}

    rows = []
    for row, text in enumerate(explanations):
        claims, partner = claims_of(text), None if partners is None else partners[row]
        rows.append([])
        for claim in claims:
            null = {} if partner is None else of(row, claims, claim, partner)
            rows[-1].append(
                {name: Receipt(value, null.get(name)) for name, value in of(row, claims, claim, row).items()}
            )
    places = [[place_of(claim, texts, row) for claim in claims_of(text)] for row, text in enumerate(explanations)]
    return Gathered(rows, "FVE", {}, places)


def place_of(claim, texts, row: int) -> int | None:
    """Of next tokens: 3 where the text has them, else 40; "nine" is no token at all."""
    if claim.kind != "next token" or texts is None or texts[row] is None or claim.text == "nine":
        return None
    return 3 if claim.text in texts[row].before else 40


def without_models(patch: pytest.MonkeyPatch) -> None:
    """Have the evaluation make its receipts with `gather` above."""
    patch.setattr(measuring, "gather", gather)
    patch.setattr(measuring, "models_of", lambda pair, baseline: pair)


def speaking(folder: Path, data: Path) -> PlantedPair:
    """A planted pair that speaks the bundled form."""
    known = Speaker(data)
    return PlantedPair(folder, known.say, known.hear)
