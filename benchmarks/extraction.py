"""What the extraction stage costs over the bare model. `python benchmarks/extraction.py`

On the demo base: `training.data.extract`'s work on one chunk of texts (planning, batching, forward to block L, rows,
the chunk's file with its hash) against a bare forward of the same padded batches through the same blocks, cut by
slicing the model's list of layers. Interleaved in one process, medians of `--runs`; the ratio is what to quote.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch

from nla_sdk.halves.fetch import fetch_base
from nla_sdk.io.chunks import Chunks
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.batches import by_length, pad_right
from training.configs.config import Config
from training.data import reading as stage
from training.data.corpus import Text

CONFIG = Path(__file__).parent.parent / "training" / "configs" / "demo.yaml"
SENTENCES = (
    "The expedition left the harbour in late September with two ships and provisions for a year.",
    "A balanced tree keeps its height logarithmic, so that every lookup touches few nodes.",
    "Patients in the second group were given half the dose and followed for eighteen months.",
    "She put the letter back into the drawer, turned the key twice and went down to the kitchen.",
    "The committee met on Thursday and agreed that the bridge would have to be closed for repairs.",
    "Rain had fallen since noon, and the road to the village was a brook between two hedges.",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=96)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    rng = random.Random(0)
    texts = [Text(f"doc{i}", " ".join(rng.choices(SENTENCES, k=rng.randrange(2, 7)))) for i in range(options.texts)]
    config = Config.load(CONFIG)
    config = config.model_copy(update={"extract": config.extract.model_copy(update={"next_tokens": 0})})
    source = config.extract.sources[0]
    backbone = Backbone.load(fetch_base(config.base).path, ref=config.base_id, dtype="float32")

    def plan():
        return [reading for text in texts for reading in stage.windows(text, source, config, backbone.tokenizer)[0]]

    readings = plan()
    batches = [
        pad_right([readings[index].ids for index in picked])[0]
        for picked in by_length([len(reading.ids) for reading in readings], config.extract.tokens_per_batch)
    ]
    decoder = backbone.model.model
    layers = decoder.layers

    def bare() -> None:
        try:
            decoder.layers, decoder.config.num_hidden_layers = layers[: config.layer + 1], config.layer + 1
            with torch.no_grad():
                for padded in batches:
                    decoder(input_ids=padded, use_cache=False)
        finally:
            decoder.layers, decoder.config.num_hidden_layers = layers, len(layers)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            chunks = Chunks(Path(folder), "extract", {})
            tables = stage.extract_chunk(backbone, plan(), [config.layer], config)
            chunks.write(0, {f"L{layer}": table for layer, table in tables.items()})

    times: dict[str, list[float]] = {"bare": [], "extract": []}
    for call in (bare, ours):
        call()
    for _ in range(options.runs):
        for name, call in (("bare", bare), ("extract", ours)):
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    result = {
        "texts": len(texts),
        "tokens": sum(len(reading.ids) for reading in readings),
        "activations": sum(len(reading.positions) for reading in readings),
        "seconds": seconds,
        "extract_over_bare": seconds["extract"] / seconds["bare"],
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(
        f"{result['texts']} texts, {result['tokens']} tokens, {result['activations']} activations: bare forward "
        f"{seconds['bare']:.2f} s, extraction {seconds['extract']:.2f} s, ratio {result['extract_over_bare']:.3f}"
    )


if __name__ == "__main__":
    main()
