"""How well a batch of vectors is told from the pair's own kind. `python benchmarks/activation_check.py`

Right and wrong activations of the demo base, read on texts that its statistics were not measured on: those of
`activation_check_texts.txt` (30 short passages in many languages, code, numbers, repeated words, chat, made for this)
and, with `--corpus FILE.jsonl` (a key `text`), a sample of others. Batches of n rows: `mixed` (any texts), `one` (one
text), `run` (neighbours in one text), `first` (the first tokens after BOS). Alarms on right batches are false ones.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from nla_sdk.halves.fetch import fetch_base
from nla_sdk.io.files import write_json
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.extraction import tokenize
from nla_sdk.model.statistics.check import check
from nla_sdk.model.statistics.measure import LONGEST, _readings
from nla_sdk.model.statistics.states import STATISTICS_FILE, ActivationStatistics

HERE = Path(__file__).parent
SIZES = (1, 2, 4, 16)
KINDS = ("mixed", "one", "run", "first")
BATCHES = 60  # of each kind and size
CORPUS_TEXTS = 60


def main(arguments: list[str]) -> None:
    demo = HERE.parent / "nla_sdk" / "demo"
    statistics = ActivationStatistics.load(demo / STATISTICS_FILE)
    backbone = Backbone.load(fetch_base("demo").path)
    sets = {"own": (HERE / "activation_check_texts.txt").read_text(encoding="utf-8").strip("\n").split("\n%%\n")}
    if arguments[:1] == ["--corpus"]:
        lines = Path(arguments[1]).read_text(encoding="utf-8").splitlines()
        sets["corpus"] = [json.loads(line)["text"] for line in random.Random(0).sample(lines, CORPUS_TEXTS)]
    found: dict[str, dict] = {}
    for name, texts in sets.items():
        rows = [tokenize(backbone.tokenizer, text)[:LONGEST] for text in texts]
        with torch.no_grad(), backbone.using(None):
            readings = _readings(backbone, rows, statistics.layer)
        for size in SIZES:
            found[f"{name}, {size} rows"] = rates(statistics, readings, size)
            print(name, size, found[f"{name}, {size} rows"]["summary"], flush=True)
    write_json(
        HERE / "activation_check.json", {"layer": statistics.layer, "batches_of_a_kind": BATCHES, "rates": found}
    )


def rates(statistics: ActivationStatistics, readings: list[dict[str, torch.Tensor]], size: int) -> dict:
    """Of each state the share of batches that are suspect, and of right ones by the kind of batch."""
    own = statistics.states[statistics.own]
    wrong = [name for name in statistics.states if name not in (own, "BOS") and "padding" not in name]
    caught = dict.fromkeys(wrong, 0)
    alarms = dict.fromkeys(KINDS, 0)
    for kind in KINDS:
        for places in batches(readings, own, kind, size):
            for state in (own, *wrong):
                batch = torch.stack(
                    [readings[text][state][min(row, len(readings[text][state]) - 1)] for text, row in places]
                )
                suspect = not check(statistics, batch).ok
                if state == own:
                    alarms[kind] += suspect
                else:
                    caught[state] += suspect
    shares = {state: count / (BATCHES * len(KINDS)) for state, count in caught.items()}
    false = {kind: count / BATCHES for kind, count in alarms.items()}
    worst = min(shares, key=shares.get)
    summary = f"false alarms {sum(false.values()) / len(false):.3f}, least caught {worst} {shares[worst]:.3f}"
    return {"summary": summary, "caught": shares, "false_alarms": false}


def batches(readings: list[dict], own: str, kind: str, size: int) -> Iterator[list[tuple[int, int]]]:
    """(text, row) of each row of a batch."""
    dice = random.Random(f"{kind} {size}")
    long = [text for text, reading in enumerate(readings) if len(reading[own]) >= size]
    for _ in range(BATCHES):
        text = dice.choice(long)
        length = len(readings[text][own])
        if kind == "mixed":
            texts = [dice.randrange(len(readings)) for _ in range(size)]
            yield [(one, dice.randrange(len(readings[one][own]))) for one in texts]
        elif kind == "one":
            yield [(text, row) for row in dice.sample(range(length), size)]
        else:
            start = dice.randrange(length - size + 1) if kind == "run" else 0
            yield [(text, row) for row in range(start, start + size)]


if __name__ == "__main__":
    main(sys.argv[1:])
