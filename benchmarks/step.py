"""Where one step of the AV goes, on a CPU: `python benchmarks/step.py`

One token for each of 32 rows, and of one, of the demo pair: the step through the blocks, and how much of it their
products alone are, as they are called and with weights that MKL packed before; the choice of the token, and how much of
it the 8-bit product alone is. Medians of `--runs` calls, milliseconds; nothing is written.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from passage import TEXT

from nla_sdk import NLAPair
from nla_sdk.model.fast.blocks import read_blocks
from nla_sdk.model.fast.head import Head
from nla_sdk.model.fast.shortlist import piece_size
from nla_sdk.model.fast.steps import Steps

LENGTH = 40  # tokens that each row has behind it


def milliseconds(call: Callable[[], object], runs: int) -> float:
    """The median of a call's time, after one that is not counted."""
    call()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def states_of(pair: NLAPair, rows: int) -> torch.Tensor:
    """States before the lm_head at the last step that all of `rows` explanations were being written in."""
    vectors = pair.extract(TEXT, list(range(-rows, 0))).vectors
    kept: list[torch.Tensor] = []
    own = Head.greedy

    def watched(head: Head, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(states) == rows:
            kept.append(states)
        return own(head, states)

    with mock.patch.object(Head, "greedy", watched):
        pair.explain(vectors, max_new_tokens=8)
    return kept[-1]


def measure(pair: NLAPair, rows: int, runs: int) -> dict[str, float]:
    """What takes how long, of so many rows."""
    states, av = states_of(pair, rows), pair.verbalizer
    assert av is not None, "the demo pair has an AV"
    with torch.no_grad(), av.backbone.using(av.adapter):
        blocks, head = read_blocks(av.backbone), av.fast_head()
        assert blocks is not None and head is not None and head.shortlist is not None, "the demo base is known"
        steps = Steps(blocks)
        steps.add([tuple(torch.randn(rows, b.kv_heads, LENGTH, b.head_dim) for _ in "kv") for b in blocks.blocks])
        tokens = torch.arange(rows) + 1000
        stacks = [stack for b in blocks.blocks for stack in (b.qkv, b.out, b.gate_up, b.down)]
        weights = [part.weight for stack in stacks for part in stack.parts]
        inputs = {weight.shape[1]: torch.randn(rows, weight.shape[1]) for weight in weights}
        packed = [torch.ops.mkl._mkl_reorder_linear_weight(weight.contiguous(), rows) for weight in weights]
        rounded, size = head.shortlist.rounded.weight, piece_size(rows)
        columns = torch.randint(-127, 128, (rounded.shape[1], rows), dtype=torch.int8)

        def by_packed() -> None:
            for weight, ready in zip(weights, packed, strict=True):
                torch.ops.mkl._mkl_linear(inputs[weight.shape[1]], ready, weight, None, rows)

        return {
            "step through the blocks": milliseconds(lambda: steps(tokens), runs),
            "  their products": milliseconds(lambda: [w @ inputs[w.shape[1]].T for w in weights], runs),
            "  their products, packed before": milliseconds(by_packed, runs),
            "likeliest token": milliseconds(lambda: head.greedy(states), runs),
            "  8-bit product": milliseconds(
                lambda: [torch._int_mm(rounded[at : at + size], columns) for at in range(0, len(rounded), size)], runs
            ),
            "all logits in float32": milliseconds(lambda: head.logits(states), runs),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--rows", type=int, nargs="+", default=[32, 1])
    options = parser.parse_args()
    pair = NLAPair.from_pretrained("demo")
    for rows in options.rows:
        print(f"{rows} rows, {torch.get_num_threads()} threads")
        for name, found in measure(pair, rows, options.runs).items():
            print(f"{name:34} {found:8.1f} ms")


if __name__ == "__main__":
    main()
