"""What a training step costs, against the obvious implementation. `python benchmarks/train_step.py`

On the demo base, fp32, LoRA r=16, batches of 8 rows of the bundled held-out table whose labels have 40–80 tokens:

  AV   ours (logits of response tokens only, rows grouped by length) against full logits for every position of randomly
       drawn batches, with the seed's 94-token prompt and with the bundled one; the sampled softmax beside both;
  AR   ours against a bare forward and backward of the same padded batches through the same blocks.

All sides see the same rows; their loss per response token is compared. Interleaved in one process, medians of `--runs`
passes over the rows; ratios are what to quote.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.numpy import save_file
from torch.nn import functional

from nla_sdk.contract import known_release
from nla_sdk.halves.fetch import fetch_base
from nla_sdk.io.files import write_json
from nla_sdk.io.tables import read_vectors, vector_column
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.batches import pad_right
from nla_sdk.model.injection import inject
from training.configs.config import Config
from training.data.tables.columns import response_of
from training.fit import ar as sft_ar
from training.fit import av as sft_av
from training.fit.engine.losses import ResponseLoss
from training.fit.engine.schedule import data_order

ROOT = Path(__file__).parent.parent
SEED_PROMPT = known_release("Solshine/gemma-4-e2b-nla-L23-av-v0_0_1")["av_template"]


def write_tables(folder: Path, tokenizer, rows: int) -> None:
    """Training tables of `rows` held-out rows with labels of 40–80 tokens."""
    table = pq.read_table(ROOT / "nla_sdk" / "demo" / "heldout.parquet")
    vectors, labels = read_vectors(table), table["api_explanation"].to_pylist()
    fitting = [at for at, text in enumerate(labels) if 40 <= len(tokenizer(text).input_ids) <= 80][:rows]
    if len(fitting) < rows:
        raise SystemExit(f"Only {len(fitting)} of the held-out rows have labels of 40–80 tokens; pass --rows.")
    built = pa.table(
        {
            "doc_id": [table["doc_id"][at].as_py() for at in fitting],
            "activation_vector": vector_column(vectors[fitting]),
            "api_explanation": [labels[at] for at in fitting],
            "response": [response_of(labels[at]) for at in fitting],
            "labeler_model": [table["labeler_model"][at].as_py() for at in fitting],
        }
    )
    for name in ("av_sft", "ar_sft", "eval"):
        pq.write_table(built, folder / f"{name}.parquet")
    save_file({"mean": vectors.mean(axis=0)}, folder / "activation_mean.safetensors")
    write_json(folder / "statistics.json", {"centred_norm": 1.0, "baseline_mse": 0.2, "pair_id": "benchmark"})


def full_logits_step(trainer: sft_av.AVTrainer, rows: list[int]) -> tuple[float, int]:
    """The obvious AV step: logits for every position, labels of −100 outside the response."""
    prompt = trainer.verbalizer.prompt_ids
    targets = [trainer.targets[row] for row in rows]
    padded, _ = pad_right([[*prompt, *ids] for ids in targets])
    labels = torch.full_like(padded, -100)
    for at, ids in enumerate(targets):
        labels[at, len(prompt) : len(prompt) + len(ids)] = torch.tensor(ids)
    with inject(trainer.backbone.embedding, trainer.verbalizer.marker, trainer.inputs[rows]):
        logits = trainer.backbone.model(input_ids=padded, use_cache=False).logits
    loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
    loss.backward()
    tokens = sum(map(len, targets))
    return loss.item() * tokens, tokens


def our_step(trainer, rows: list[int]) -> tuple[float, int]:
    loss = trainer.share_of_loss(rows, 0, rows)
    loss.backward()
    tokens = sum(len(trainer.targets[row]) for row in rows) if hasattr(trainer, "loss") else len(rows)
    return loss.item() * tokens, tokens


def bare_ar_step(trainer: sft_ar.ARTrainer, rows: list[int]) -> tuple[float, int]:
    """Forward through the first B blocks, cut by slicing the model's list of layers, and backward."""
    decoder, blocks = trainer.backbone.model.model, trainer.contract.ar_num_blocks
    layers = decoder.layers
    padded, last = pad_right([trainer.prompts[row] for row in rows])
    try:
        decoder.layers, decoder.config.num_hidden_layers = layers[:blocks], blocks
        states = decoder(input_ids=padded, use_cache=False).last_hidden_state
    finally:
        decoder.layers, decoder.config.num_hidden_layers = layers, len(layers)
    states[torch.arange(len(rows)), last].square().mean().backward()
    return 0.0, len(rows)


def passes(trainer, sides: dict[str, tuple[Callable, list[list[int]]]], runs: int) -> dict[str, dict[str, float]]:
    """Seconds a row (median over passes) and loss a token of each side, all sides in turn after one step each."""

    def one_pass(step: Callable, batches: list[list[int]]) -> tuple[float, float]:
        total = count = 0.0
        start = time.perf_counter()
        for batch in batches:
            loss, tokens = step(trainer, batch)
            total, count = total + loss, count + tokens
            for parameter in trainer.parameters.values():
                parameter.grad = None
        return time.perf_counter() - start, total / count

    seconds: dict[str, list[float]] = {name: [] for name in sides}
    loss = {}
    for step, batches in sides.values():
        one_pass(step, batches[:1])
    for _ in range(runs):
        for name, (step, batches) in sides.items():
            taken, loss[name] = one_pass(step, batches)
            seconds[name].append(taken / sum(map(len, batches)))
    return {name: {"seconds_per_row": statistics.median(times), "loss": loss[name]} for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    base, result = fetch_base("demo").path, {"rows": options.rows, "batch": 8, "runs": options.runs}
    config = Config.load(ROOT / "training" / "configs" / "demo.yaml")
    drawn = list(range(options.rows))
    random.Random(0).shuffle(drawn)
    random_batches = [drawn[at : at + 8] for at in range(0, len(drawn), 8)]
    with tempfile.TemporaryDirectory() as folder:
        config = config.model_copy(update={"out": Path(folder)})
        backbone = Backbone.load(base, ref=config.base_id, dtype="float32")
        write_tables(config.out, backbone.tokenizer, options.rows)
        for name, template in (("seed", SEED_PROMPT), ("bundled", config.av.template)):
            backbone = Backbone.load(base, ref=config.base_id, dtype="float32")
            settings = config.av.model_copy(
                update={"sampled_negatives": 0, "sources": ["extractive"], "template": template}
            )
            trainer = sft_av.AVTrainer(config.model_copy(update={"av": settings}), backbone)
            grouped = data_order([len(ids) for ids in trainer.targets], 8, 1, config.seed)
            with backbone.using("av"):
                sides = {"full_logits": (full_logits_step, random_batches), "ours": (our_step, grouped)}
                found = passes(trainer, sides, options.runs)
                trainer.loss = ResponseLoss(
                    backbone, [token for ids in trainer.targets for token in ids], 4096, settings.logit_slice
                )
                found |= passes(trainer, {"ours_sampled_softmax": (our_step, grouped)}, options.runs)
            found["prompt_tokens"] = len(trainer.verbalizer.prompt_ids)
            found["step_over_full_logits"] = found["ours"]["seconds_per_row"] / found["full_logits"]["seconds_per_row"]
            result[f"av_{name}_prompt"] = found
            del backbone, trainer
        backbone = Backbone.load(base, ref=config.base_id, dtype="float32")
        settings = config.ar.model_copy(update={"sources": ["extractive"], "tables": ["ar_sft"]})
        trainer = sft_ar.ARTrainer(config.model_copy(update={"ar": settings}), backbone)
        grouped = data_order([len(ids) for ids in trainer.prompts], 8, 1, config.seed)
        with backbone.using("ar"):
            found = passes(trainer, {"bare": (bare_ar_step, grouped), "ours": (our_step, grouped)}, options.runs)
        found["step_over_bare"] = found["ours"]["seconds_per_row"] / found["bare"]["seconds_per_row"]
        result["ar"] = found
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name in ("av_seed_prompt", "av_bundled_prompt"):
        one = result[name]
        print(
            f"{name} ({one['prompt_tokens']} tokens): full logits {one['full_logits']['seconds_per_row']:.2f} s a row "
            f"(loss {one['full_logits']['loss']:.4f}), ours {one['ours']['seconds_per_row']:.2f} s "
            f"(loss {one['ours']['loss']:.4f}), ratio {one['step_over_full_logits']:.2f}; sampled softmax "
            f"{one['ours_sampled_softmax']['seconds_per_row']:.2f} s"
        )
    print(
        f"ar: bare {result['ar']['bare']['seconds_per_row']:.3f} s a row, ours "
        f"{result['ar']['ours']['seconds_per_row']:.3f} s, ratio {result['ar']['step_over_bare']:.3f}"
    )


if __name__ == "__main__":
    main()
