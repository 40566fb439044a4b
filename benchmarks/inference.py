"""How fast a pair runs, against the script way and against plain transformers. `python benchmarks/inference.py`

On the demo base, 32 activations, the bundled AV prompt and the seed's 94-token one, exactly 48 new tokens on every
side:

  (a) script     one row at a time, the marker searched per row in Python, the AR through all blocks and the lm_head;
                 three loads of the base (timed apart);
  (b) generate   transformers `generate` on the whole batch, adapter active;
  (c) nla_sdk.

Then reconstruct and extract against a bare batched forward through the same blocks. Sides are interleaved within one
process, medians of `--runs` runs; ratios are what to quote, machines differ. Writes `benchmarks/inference.json` and
prints a table. (a) is measured on `--script-rows` rows and reported per row.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from pathlib import Path

import torch
from passage import TEXT
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from nla_sdk import NLAPair
from nla_sdk.contract import known_release
from nla_sdk.halves.demo_base import demo_base
from nla_sdk.model.batches import pad_right
from nla_sdk.model.verbalizer import Verbalizer
from nla_sdk.sampling import Sampling

NEW_TOKENS = 48
DEMO = Path(__file__).parent.parent / "nla_sdk" / "demo"


class Script:
    """What people pass around: three models, one row at a time."""

    def __init__(self, pair: NLAPair, prompt: str) -> None:
        start = time.perf_counter()
        path = demo_base()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.source = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        self.av = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), DEMO / "av"
        ).eval()
        self.ar = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), DEMO / "ar"
        ).eval()
        self.load_seconds = time.perf_counter() - start
        self.pair, self.prompt, self.new_tokens = pair, prompt, NEW_TOKENS
        self.head = pair.reconstructor.head

    def explain(self, vector: torch.Tensor) -> str:
        contract, verbalizer = self.pair.av_contract, self.pair.verbalizer
        ids = self.tokenizer(self.prompt).input_ids
        position = next(i for i, token in enumerate(ids) if token == contract.injection_token_id)
        injected = verbalizer.prepare(vector[None])[0]

        def overwrite(module, args, output):
            if output.shape[1] > position:
                output = output.clone()
                output[0, position] = injected
            return output

        handle = self.av.get_input_embeddings().register_forward_hook(overwrite)
        try:
            with torch.no_grad():
                out = self.av.generate(input_ids=torch.tensor([ids]), **_exactly(self.new_tokens))
        finally:
            handle.remove()
        return self.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)

    def reconstruct(self, text: str) -> torch.Tensor:
        ids = self.tokenizer(self.pair.ar_contract.ar_prompt(text), return_tensors="pt").input_ids
        with torch.no_grad():
            states = self.ar(input_ids=ids, output_hidden_states=True).hidden_states
        return self.pair.reconstructor.finish(self.head(states[self.pair.ar_contract.ar_num_blocks][:, -1]))[0]

    def round_trip(self, vectors: torch.Tensor) -> list[torch.Tensor]:
        return [self.reconstruct(self.explain(vector)) for vector in vectors]


def _exactly(tokens: int) -> dict:
    return {"do_sample": False, "max_new_tokens": tokens, "min_new_tokens": tokens, "pad_token_id": 0}


def generate_batch(
    pair: NLAPair, verbalizer: Verbalizer, vectors: torch.Tensor, tokens: int = NEW_TOKENS, *, exactly: bool = True
) -> list[str]:
    """(b): transformers' own generate on the batch, the AV's adapter active on the shared base.

    Args:
        tokens: exactly so many are written; not `exactly`: at most, a row ends at its end token.
    """
    length = _exactly(tokens)
    if not exactly:
        del length["min_new_tokens"]
    ids = torch.tensor([verbalizer.prompt_ids]).expand(len(vectors), -1)
    inputs = verbalizer.prepare(vectors)

    def overwrite(module, args, output):
        if output.shape[1] > verbalizer.marker:
            output = output.clone()
            output[:, verbalizer.marker] = inputs
        return output

    handle = verbalizer.backbone.embedding.register_forward_hook(overwrite)
    try:
        with torch.no_grad(), verbalizer.backbone.using("av") as model:
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **length)
    finally:
        handle.remove()
    return pair.source.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)


def bare_forward(pair: NLAPair, prompts: list[list[int]], blocks: int, adapter: str | None) -> torch.Tensor:
    """One padded batch through the first `blocks` blocks, cut by slicing the model's own list of layers."""
    backbone = pair.source
    decoder = backbone.model.model
    layers, config = decoder.layers, decoder.config
    padded, _ = pad_right(prompts)
    try:
        decoder.layers, config.num_hidden_layers = layers[:blocks], blocks
        with torch.no_grad(), backbone.using(adapter):
            return decoder(input_ids=padded, use_cache=False).last_hidden_state
    finally:
        decoder.layers, config.num_hidden_layers = layers, len(layers)


def interleaved(sides: dict, runs: int) -> dict[str, float]:
    """Median seconds of each side over `runs` rounds, all sides in turn, after one call each that is not measured."""
    for name, call in sides.items():
        if name != "script":
            call()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--script-rows", type=int, default=4, help="rows of (a); it is reported per row")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.simplefilter("ignore")

    demo_base()
    start = time.perf_counter()
    pair = NLAPair.from_pretrained("demo")
    load_seconds = time.perf_counter() - start
    tokens = pair.source.tokenizer(TEXT * (1 + options.rows // 30)).input_ids
    positions = list(range(12, 12 + options.rows))
    vectors = pair.extract(TEXT * (1 + options.rows // 30), positions).vectors
    seed = pair.av_contract.replace(
        av_template=known_release("Solshine/gemma-4-e2b-nla-L23-av-v0_0_1")["av_template"],
        injection_left_neighbor_id=None,
        injection_right_neighbor_id=None,
    ).verify(pair.source.tokenizer)
    result: dict = {
        "rows": options.rows,
        "new_tokens": NEW_TOKENS,
        "runs": options.runs,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "load_seconds": {"nla_sdk": load_seconds},
        "prompts": {},
    }
    for name, contract in (("bundled", pair.av_contract), ("seed", seed)):
        verbalizer = Verbalizer(pair.source, "av", contract, pair.verbalizer.transform)
        script = Script(pair, contract.av_prompt())
        result["load_seconds"]["script"] = script.load_seconds

        def ours(verbalizer=verbalizer):
            return verbalizer(vectors, Sampling(NEW_TOKENS, ignore_end=True))

        def ours_whole(ours=ours):
            return pair.reconstruct(ours())

        few = vectors[: options.script_rows]
        seconds = interleaved(
            {
                "script": lambda script=script, few=few: script.round_trip(few),
                "generate": lambda verbalizer=verbalizer: generate_batch(pair, verbalizer, vectors),
                "explain": ours,
                "round_trip": ours_whole,
            },
            options.runs,
        )
        del script
        per_row = {
            "script_round_trip": seconds["script"] / options.script_rows,
            "generate": seconds["generate"] / options.rows,
            "explain": seconds["explain"] / options.rows,
            "round_trip": seconds["round_trip"] / options.rows,
        }
        result["prompts"][name] = {
            "prompt_tokens": len(verbalizer.prompt_ids),
            "seconds_per_row": per_row,
            "round_trip_faster_than_script": per_row["script_round_trip"] / per_row["round_trip"],
            "explain_faster_than_generate": per_row["generate"] / per_row["explain"],
            # `generate` may not write an end token before the 48th, ours writes it and goes on: compared up to there.
            "same_text_as_generate": sum(
                text.startswith(one.raw)
                for text, one in zip(
                    generate_batch(pair, verbalizer, vectors),
                    verbalizer(vectors, Sampling(NEW_TOKENS)),
                    strict=True,
                )
            ),
        }

    texts = pair.explain(vectors)
    prompts = [ids for ids, _ in pair.ar_contract.ar_prompt_ids_batch(pair.source.tokenizer, texts)]
    blocks = pair.ar_contract.ar_num_blocks
    long = [TEXT[at : at + 300] for at in range(options.rows)]
    long_ids = [pair.source.tokenizer(text).input_ids for text in long]
    seconds = interleaved(
        {
            "reconstruct": lambda: pair.reconstruct(texts),
            "reconstruct_bare": lambda: bare_forward(pair, prompts, blocks, "ar"),
            "extract": lambda: pair.extract(long),
            "extract_bare": lambda: bare_forward(pair, long_ids, pair.layer + 1, None),
        },
        3 * options.runs,
    )
    result["reconstruct_over_bare"] = seconds["reconstruct"] / seconds["reconstruct_bare"]
    result["extract_over_bare"] = seconds["extract"] / seconds["extract_bare"]
    result["seconds"] = seconds
    result["text_tokens"] = len(tokens)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))


def table(result: dict) -> str:
    lines = [f"{result['rows']} rows, {result['new_tokens']} new tokens, {result['machine']}; seconds a row"]
    lines.append(f"{'prompt':10}{'tokens':>7}{'script':>9}{'generate':>10}{'explain':>9}{'round trip':>12}   ratios")
    for name, one in result["prompts"].items():
        s = one["seconds_per_row"]
        lines.append(
            f"{name:10}{one['prompt_tokens']:7}{s['script_round_trip']:9.2f}{s['generate']:10.3f}{s['explain']:9.3f}"
            f"{s['round_trip']:12.3f}   round trip {one['round_trip_faster_than_script']:.1f}× the script, "
            f"explain {one['explain_faster_than_generate']:.2f}× generate "
            f"({one['same_text_as_generate']} of {result['rows']} texts the same)"
        )
    lines.append(
        f"reconstruct / bare forward {result['reconstruct_over_bare']:.3f}, "
        f"extract / bare forward {result['extract_over_bare']:.3f}"
    )
    lines.append(
        f"loads: nla_sdk {result['load_seconds']['nla_sdk']:.1f} s, script {result['load_seconds']['script']:.1f} s"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
