"""Does a vector made of an explanation do what the explanation says? `python benchmarks/steering.py --corpus FILE`

The demo pair on its own held-out rows. The source is steered with what the AR makes of the AV's explanation of a row
(`pair.steer(…, explanation)`), and the log-probability of the next token is compared with and without, for the tokens
that the explanation names. The control is the vector of another row's explanation, with the same named tokens.

Named: every next token and every word that the explanation lists: all that the demo AV's words hold beside a fixed
frame and the register. A word that stands in the context is left out. Of each word the first token, with and
without a space before it; the shift is the mean over them.

Contexts, in which the next token is looked at:
  other     the text of another held-out row, up to the token that its activation was read at: what counts
  neutral   the mean of four short beginnings (`NEUTRAL`)
  own       the row's own text, which the direction is in already

The strength is the one at which the median shift of `other` is largest, on rows that are not among the 100. `bos` is
the same with BOS steered too, on those rows.

FILE: the corpus of docs/demo-pair.md, JSON lines with doc_id and text. Writes steering.json beside itself.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from held_out import rows, texts_of

from nla_sdk import NLAPair
from nla_sdk.calls.steering import directions
from nla_sdk.claims.cutting import claims_of
from nla_sdk.io.files import write_json
from nla_sdk.io.progress import progress_bar
from nla_sdk.model.decoding.steering import adding, write
from nla_sdk.model.extraction import tokenize
from nla_sdk.sampling import Sampling

HERE = Path(__file__).parent
STRENGTHS = (0.25, 0.5, 1.0, 2.0)
NEUTRAL = ("The", "It is", "This is about the", "I think that the")


def named(explanation: str) -> list[str]:
    """The words that an explanation names.

    Example:
        >>> named('Next: "was" (or "had"). About: fish, sea. Style: expository prose.')
        ['was', 'had', 'fish', 'sea']
    """
    return list(dict.fromkeys(one.text for one in claims_of(explanation) if one.kind in ("next token", "word")))


def tokens_of(words: Sequence[str], context: str, tokenizer) -> list[int]:
    """First tokens of the words that do not stand in a context."""
    new = [word for word in words if not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", context, re.IGNORECASE)]
    ids = [tokenizer(form, add_special_tokens=False).input_ids for word in new for form in (word, f" {word}")]
    return sorted({one[0] for one in ids if one})


def next_logits(pair: NLAPair, ids: list[int], vectors: torch.Tensor, *, spare_bos: bool) -> torch.Tensor:
    """Of the next token, with each of the vectors [n, d_model] added: float32 [n, vocabulary].

    As `pair.steer` has it; but up to the block after which they go in all rows are one, which is run once.
    """
    source, first = pair.source, int(spare_bos)

    def fan_out(module, args, output):
        states = output.expand(len(vectors), -1, -1).clone()
        states[:, first:] += vectors[:, None]
        return states

    with torch.no_grad(), source.using(pair.source_adapter):
        handle = source.blocks[pair.layer].register_forward_hook(fan_out)
        try:
            return source.model(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[:, -1].float()
        finally:
            handle.remove()


class Measured:
    """Shifts in nats, by context and by what was added."""

    def __init__(self, pair: NLAPair) -> None:
        self.pair = pair
        self.shifts: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.divergence: dict[tuple[str, str], list[float]] = defaultdict(list)

    def shift(
        self, ids: list[int], words: Sequence[str], vectors: dict[str, torch.Tensor], *, spare_bos: bool = True
    ) -> dict[str, list[float]] | None:
        """Of each vector the named tokens' mean shift and KL(plain ‖ steered); None: the context holds all words."""
        tokenizer = self.pair.source.tokenizer
        if not (tokens := tokens_of(words, tokenizer.decode(ids[1:]), tokenizer)):
            return None
        added = torch.stack([torch.zeros(self.pair.d_model), *vectors.values()])
        logits = next_logits(self.pair, ids, added, spare_bos=spare_bos)
        if not self.shifts:  # once: it is what `pair.steer` does
            with torch.no_grad(), self.pair.source.using(self.pair.source_adapter):
                add = adding(self.pair.source, self.pair.layer, added, len(ids), spare_bos=spare_bos)
                _, own = write(self.pair.source, [ids] * len(added), add, Sampling(1), 1)
            torch.testing.assert_close(logits, own, rtol=1e-3, atol=1e-2)
        plain, steered = logits[:1].log_softmax(-1), logits[1:].log_softmax(-1)
        moved = (steered - plain)[:, tokens].mean(1).tolist()
        apart = (plain.exp() * (plain - steered)).sum(1).tolist()
        return {name: pair for name, *pair in zip(vectors, moved, apart, strict=True)}

    def add(self, context: str, found: dict[str, list[float]] | None) -> None:
        for name, (shift, divergence) in (found or {}).items():
            self.shifts[context, name].append(shift)
            self.divergence[context, name].append(divergence)

    def result(self, context: str, name: str, control: str | None = None) -> dict[str, float]:
        shifts = np.array(self.shifts[context, name])
        found = {
            "rows": len(shifts),
            "wins": float((shifts > 0).mean()),
            "median_shift": float(np.median(shifts)),
            "median_divergence": float(np.median(self.divergence[context, name])),
        }
        if control is not None:
            other = np.array(self.shifts[context, control])
            found |= {
                "control_wins": float((other > 0).mean()),
                "control_median_shift": float(np.median(other)),
                "beats_control": float((shifts > other).mean()),
            }
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--chosen-on", type=int, default=32, help="other rows, on which the strength is chosen")
    parser.add_argument("--out", type=Path, default=HERE / "steering.json")
    options = parser.parse_args()
    pair = NLAPair.from_pretrained("demo")
    every = rows()
    # Evenly spaced, one a document: the table lies in its corpora's order.
    asked = [every[at * len(every) // options.rows] for at in range(options.rows)]
    left = [row for row in every if not any(row is one for one in asked)]
    chosen_on = [left[at * len(left) // options.chosen_on] for at in range(options.chosen_on)]
    first = measure(pair, options.corpus, chosen_on, STRENGTHS, ("other",), spared=(True, False))
    strength = max(STRENGTHS, key=lambda one: first.result("other", f"own {one}")["median_shift"])
    print(f"strength {strength}", flush=True)
    then = measure(pair, options.corpus, asked, STRENGTHS, ("other", "neutral", "own"), others=strength)
    result = {
        "rows": options.rows,
        "strength": strength,
        "layer": pair.layer,
        "chosen_on": {
            f"{one}": first.result("other", f"own {one}", f"control {one}")
            | {"bos": first.result("other, BOS too", f"own {one}", f"control {one}")}
            for one in STRENGTHS
        },
        "contexts": {
            context: {
                **{f"{one}": then.result(context, f"own {one}", f"control {one}") for one in STRENGTHS},
                "turned_round": then.result(context, "turned round"),
                "activation_itself": then.result(context, "activation"),
            }
            for context in ("other", "neutral", "own")
        },
    }
    write_json(options.out, result)
    show(result)


def measure(
    pair: NLAPair,
    corpus: Path,
    chosen: Sequence[dict],
    strengths: Sequence[float],
    contexts: Sequence[str],
    *,
    spared: Sequence[bool] = (True,),
    others: float | None = None,
) -> Measured:
    """Shifts of the rows.

    Args:
        spared: whether BOS is.
        others: the strength of two more vectors: the row's own turned round, and the activation that was explained in
            place of what the AR makes of its explanation.
    """
    texts, known, found = texts_of(pair, corpus, chosen), pair._known(), Measured(pair)
    made = [one.vector for one in directions([row["explanation"] for row in chosen], None, None, known)[0]]
    real = directions(torch.stack([row["vector"] for row in chosen]), "activation", None, known)[0]
    neutral = [tokenize(pair.source.tokenizer, text) for text in NEUTRAL]
    bar = progress_bar(len(chosen), "row", "steering")
    for at, row in enumerate(chosen):
        # Half the table away: of another corpus, mostly, as rows lie in their corpora's order.
        own, control, words = made[at], made[(at + len(chosen) // 2) % len(chosen)], named(row["explanation"])
        vectors = {f"own {one}": own * one for one in strengths}
        vectors |= {f"control {one}": control * one for one in strengths}
        if others is not None:
            vectors |= {"turned round": -others * own, "activation": others * real[at].vector}
        for spare in spared:
            name = "other" if spare else "other, BOS too"
            there = texts[(at + len(chosen) // 3) % len(chosen)]
            found.add(name, found.shift(there, words, vectors, spare_bos=spare))
        if "own" in contexts:
            found.add("own", found.shift(texts[at], words, vectors))
        if "neutral" in contexts:
            each = [one for ids in neutral if (one := found.shift(ids, words, vectors))]
            found.add("neutral", {name: np.mean([one[name] for one in each], axis=0).tolist() for name in vectors})
        bar.update(1)
    bar.close()
    return found


def show(result: dict) -> None:
    """The table of docs/vectors.md."""
    print("| context | strength | wins | control wins | beats control | median shift, nats | control's | KL |")
    print("|---|---|---|---|---|---|---|---|")
    for context, by in result["contexts"].items():
        for name, one in by.items():
            control = [f"{one[key]:.0%}" if key in one else "" for key in ("control_wins", "beats_control")]
            shift = f"{one['control_median_shift']:+.2f}" if "control_median_shift" in one else ""
            cells = [context, name, f"{one['wins']:.0%}", *control, f"{one['median_shift']:+.2f}", shift]
            print(f"| {' | '.join(cells)} | {one['median_divergence']:.2f} |")


if __name__ == "__main__":
    main()
