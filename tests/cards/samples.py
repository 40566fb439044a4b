"""What cards are rendered from in tests: contracts, a planted pair's measured evaluation, the seed's published one."""

from __future__ import annotations

import functools
import re
import tempfile
from pathlib import Path

from cards import About, render
from nla_sdk.contract import Contract, known_release
from nla_sdk.evaluation.measures import Ablation, Collapse, Condition, Cosines, Delta, RoundTripFigures
from nla_sdk.evaluation.parts import Data, Figure, Share, Subject
from nla_sdk.evaluation.schema import Evaluation
from nla_sdk.evaluation.verdict import decide

AV, AR = "Solshine/gemma-4-e2b-nla-L23-av-v0_0_1", "Solshine/gemma-4-e2b-nla-L23-ar-v0_0_1"
ABOUT = {"av": About("ada/cat-av", pair="ada/cat-ar"), "ar": About("ada/cat-ar", pair="ada/cat-av")}
COSINES = {"real": 0.4292, "unrelated": 0.4045, "nonsense": 0.4135, "empty": 0.4051}


@functools.cache
def measured():
    """The evaluation of a pair that reads content, and its rows; made once a session."""
    import pyarrow.parquet as pq

    from tests.evaluate.planted import Oracle, PlantedPair, evaluate, table

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = table(root / "heldout.parquet", labels=True, texts=True)
        known = Oracle(data)
        found = evaluate(PlantedPair(root / "pair", known.say, known.hear), data, root / "out")
        return found, pq.read_table(root / "out" / "rows.parquet", memory_map=False)


def published(**changes) -> Evaluation:
    """The seed's v0.0.1 as its author published it."""
    trip = RoundTripFigures(
        attempted=50,
        evaluated=42,
        empty=8,
        floor=0.30,
        above_floor=Share(count=42, of=42),
        cosine=Cosines(mean=Figure(value=0.437837, n=42), std=0.054465, median=0.434280, min=0.313213, max=0.557533),
        mse=Figure(value=1.124326, n=42),
        mse_min=0.884934,
        mse_max=1.373575,
    )
    ten = Share(count=10, of=10)
    conditions = {name: Condition(cosine=Figure(value=value, n=10), above_floor=ten) for name, value in COSINES.items()}
    deltas = {
        name: Delta(
            cosine=Figure(value=COSINES["real"] - value, n=10),
            gain=Figure(value=1 - (1 - COSINES["real"]) / (1 - value), n=10),
        )
        for name, value in COSINES.items()
        if name != "real"
    }
    parts = {
        "round_trip": trip,
        "ablation": Ablation(n=10, conditions=conditions, deltas=deltas),
        "identity": None,
        "collapse": Collapse(n=42, unique=20, stems=4),
    }
    values = {
        "origin": "published",
        "published_at": f"https://huggingface.co/{AR}",
        "subject": Subject(av=AV, ar=AR, base_model="google/gemma-4-E2B", layer=23, d_model=1536, matched=True),
        "data": Data(name="held-out OpenWebText activations"),
        **parts,
        "verdict": decide(parts),
    }
    return Evaluation(**(values | changes))


def contract(role: str, **changes) -> Contract:
    facts = {
        "kind": "nla_model",
        "role": role,
        "base_model": "google/gemma-3-270m",
        "d_model": 24,
        "layer": 3,
        "provenance": {"training": {"settings": {"lr": 0.0005, "lora": {"r": 16}}, "steps": 477}},
    }
    if role == "av":
        facts |= {"av_template": "<concept>{injection_char}</concept>", "injection_char": "㊗"}
        facts |= {"prompt_style": "raw", "injection_scale": "sqrt_d_model"}
    else:
        facts |= {"ar_template": "<text>{explanation}</text>", "ar_num_blocks": 4, "head_bias": True}
    return Contract.from_dict(facts | changes)


def seeds_card():
    """The card of the seed's AR."""
    return render(Contract.from_dict({}, known=known_release(AR)), published(), about=About(AR, pair=AV))


def snippets(card) -> list[str]:
    """The Python on a card."""
    return re.findall(r"```python\n(.*?)```", card.body, re.DOTALL)


def section(body: str, title: str) -> str:
    """What stands under a heading of a card."""
    return body.split(f"## {title}\n")[1].split("\n## ")[0]
