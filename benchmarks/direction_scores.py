"""How long must what an AR gives be before the mean is taken off? `python benchmarks/direction_scores.py`

An AR of raw activations gives their direction only. To score a direction its vector r is brought to the length n of an
activation, and n·r/‖r‖ − μ compared (docs/vectors.md). Of the demo pair's held-out rows, a document each: the mean
cosine of that with v − μ, for the explanation of the row and for that of another row, at several lengths.
"""

from __future__ import annotations

import torch
from held_out import rows
from torch.nn.functional import cosine_similarity

from nla_sdk import NLAPair

LENGTHS = (0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25)  # times n


def main() -> None:
    pair = NLAPair.from_pretrained("demo")
    held = rows()
    mean = pair._mean_of(None)(pair.layer)
    over = torch.stack([row["vector"] for row in held]).float() - mean.vector
    given = pair.reconstruct([row["explanation"] for row in held])
    unit = given / given.norm(dim=1, keepdim=True)
    # Half the table away: of another corpus, mostly, as rows lie in their corpora's order.
    other = unit.roll(len(held) // 2, 0)
    print(f"{len(held)} rows, n = {mean.norm:.0f}\n| length | own words | another row's |\n|---|---|---|")
    for times in LENGTHS:
        own, control = (
            cosine_similarity(times * mean.norm * one - mean.vector, over).mean().item() for one in (unit, other)
        )
        print(f"| {times:.2f} n | {own:.3f} | {control:.3f} |")


if __name__ == "__main__":
    main()
