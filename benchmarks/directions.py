"""Does the AV name what a direction was planted for? `python benchmarks/directions.py --corpus FILE`

Forty directions at the demo pair's layer, of documents that no half was trained on (`held_out`): twenty "the next token
is X" and twenty topics. What was written down before anything was measured: the words and topics below, and that the
AV names a thing if its words hold one of the thing's words, alone, in whatever case (an s behind it counts).

Next tokens, planted in three ways:
  lens      X's row of the lm_head less their mean, times the final norm's weight: what would raise X's logit most for
            its length if the blocks between did nothing
  before    the mean activation of tokens that X follows in the text, less the mean of all others in these passages
  foreseen  the same of tokens after which the base gives X the likelihood `SURE` or more
And `lens` of twenty words that the AV writes for none of the package's held-out rows (`rarer`), which are not of the
forty.

Topics: the mean activation of passages in which the topic's words occur at least twice, less the mean of all others.

Each is explained (greedily) as a direction, as it is and turned round; and, wrongly, as an activation: at length 1, at
its own, and as long as activations are.
A thing's `named` is the share of directions whose own words name it, `others` that of all other directions' words that
do; `p` is how often the words dealt out at random name as many (10,000 times).

Writes directions.json beside itself.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from held_out import held_out

from nla_sdk import NLAPair
from nla_sdk.io.files import write_json
from nla_sdk.io.progress import progress_bar
from nla_sdk.model.batches import read_states
from nla_sdk.model.extraction import tokenize

HERE = Path(__file__).parent
WORDS = (
    "dollars money weight water president children people months miles house eyes women book string value surgery "
    "pressure version directory risk"
)
NEXT = WORDS.split()
RARE = (
    "horse snow guitar lawyer garden rice moon king hotel winter bread flower knife mirror forest silver prison coffee "
    "wolf castle"
)
RARER = RARE.split()  # words that the AV writes for none of the package's held-out rows
TOPICS = {
    "cancer": "cancer tumor tumour carcinoma tumors",
    "birth": "pregnancy infants infant birth maternal neonatal",
    "heart": "coronary heart cardiac artery",
    "pain": "pain",
    "depression": "depression anxiety psychiatric mental sleep",
    "school": "school students student education teacher",
    "war": "war army troops soldiers military",
    "sea": "ship sea boat ships sailors captain",
    "government": "congress government nation constitution union",
    "food": "eat eats apples cookies food cake",
    "shopping": "buy bought buys price cost sold",
    "wages": "hour hours paid pay salary work",
    "games": "game games player players team",
    "film": "film music song album episode series",
    "travel": "road miles highway route car train",
    "animals": "dog dogs birds fish horse animals",
    "git": "git commit repository branch",
    "images": "image images video pixels",
    "unicode": "unicode bytes encoding string strings",
    "packages": "package packages install pip distribution",
}
SURE = 0.2
LEAST, MOST = 2, 6  # passages of a topic or a word, each of a document of its own
OTHERS = 80  # passages of anything
LONGEST = 64  # tokens of a passage
FIRST = 4  # tokens of a passage that are not read: its beginning looks like no other place


def named(words: Sequence[str], text: str) -> bool:
    """Whether a text holds one of the words."""
    return any(re.search(rf"(?<!\w){re.escape(word)}s?(?!\w)", text, re.IGNORECASE) for word in words)


def occurrences(words: Sequence[str], text: str) -> int:
    return sum(len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)) for word in words)


def chosen(passages: Sequence[dict], words: Sequence[str], least: int) -> list[int]:
    """Passages in which the words occur so often, at most one a document."""
    found: dict[str, int] = {}
    for at, one in enumerate(passages):
        if one["doc_id"] not in found and occurrences(words, one["text"]) >= least:
            found[one["doc_id"]] = at
    return list(found.values())[:MOST]


class Read:
    """Passages as the base reads them: token ids, the stream at the layer, and what it foresees."""

    def __init__(self, pair: NLAPair, passages: Sequence[dict], wanted: Sequence[int]) -> None:
        self.states: dict[int, torch.Tensor] = {}
        self.ids: dict[int, list[int]] = {}
        self.foreseen: dict[int, dict[str, torch.Tensor]] = {}
        source = pair.source
        forms = {word: source.tokenizer(f" {word}", add_special_tokens=False).input_ids for word in NEXT + RARER}
        if long := [word for word, ids in forms.items() if len(ids) > 1]:
            raise SystemExit(f"{long} are no single tokens.")
        self.tokens = {word: ids[0] for word, ids in forms.items()}
        numbers = torch.tensor(list(self.tokens.values()))
        bar = progress_bar(len(wanted), "passage", "reading")
        for at in wanted:
            ids = tokenize(source.tokenizer, passages[at]["text"])[:LONGEST]
            with torch.no_grad(), source.using(None):
                [states] = read_states(source, [ids], [range(len(ids))], pair.layer)
                [last] = read_states(source, [ids], [range(len(ids))], source.num_blocks - 1)
                odds = source.logits(source.final_norm(last)).float()
                likely = odds[:, numbers].sub(odds.logsumexp(-1, keepdim=True)).exp()
            self.ids[at], self.states[at] = ids, states.float()
            self.foreseen[at] = dict(zip(self.tokens, likely.T, strict=True))
            bar.update(1)
        bar.close()

    def difference(self, picked: Mapping[int, Sequence[int]]) -> torch.Tensor | None:
        """The mean of the picked tokens, a passage counting once, less that of all other tokens."""
        means, rest = [], []
        for at, states in self.states.items():
            mine = [token for token in picked.get(at, ()) if token >= FIRST]
            if mine:
                means.append(states[mine].mean(0))
            others = sorted(set(range(FIRST, len(states))) - set(mine))
            if others:
                rest.append(states[others].mean(0))
        return None if len(means) < LEAST else torch.stack(means).mean(0) - torch.stack(rest).mean(0)


def planted(pair: NLAPair, corpus: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, int]]:
    """Kind of direction → thing → direction float32 [d]; and how many passages were read."""
    passages = held_out(corpus)
    topics = {name: chosen(passages, words.split(), 2) for name, words in TOPICS.items()}
    words = {word: chosen(passages, [word], 1) for word in NEXT}
    if few := [name for name, at in {**topics, **words}.items() if len(at) < LEAST]:
        raise SystemExit(f"fewer than {LEAST} held-out documents speak of {few}.")
    step = len(passages) // OTHERS
    wanted = sorted(
        {at for found in (*topics.values(), *words.values()) for at in found} | set(range(0, OTHERS * step, step))
    )
    read = Read(pair, passages, wanted)
    made: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    rows = pair.source.head.weight.detach().float()
    middle = rows.mean(0)
    scale = 1.0 + pair.source.final_norm.weight.detach().float()  # Gemma's norm multiplies by 1 + its weight
    for word in RARER:
        made["rarer"][word] = (rows[read.tokens[word]] - middle) * scale
    for word in NEXT:
        token = read.tokens[word]
        made["lens"][word] = (rows[token] - middle) * scale
        before = {one: [place - 1 for place, now in enumerate(ids) if now == token] for one, ids in read.ids.items()}
        sure = {one: (odds[word] >= SURE).nonzero()[:, 0].tolist() for one, odds in read.foreseen.items()}
        for kind, picked in (("before", before), ("foreseen", sure)):
            if (direction := read.difference(picked)) is not None:
                made[kind][word] = direction
    for name, of in topics.items():
        whole = {at: range(len(read.ids[at])) for at in of}
        direction = read.difference(whole)
        assert direction is not None, "there are passages"
        made["topic"][name] = direction
    return made, {"passages": len(wanted), "tokens": sum(map(len, read.ids.values()))}


def explained(pair: NLAPair, directions: torch.Tensor, length: float) -> dict[str, list[str]]:
    """What the AV writes of directions, by the way they are shown."""
    unit = directions / directions.norm(dim=1, keepdim=True)
    return {
        "direction": pair.explain(directions, kind="direction"),
        "turned round": pair.explain(-directions, kind="direction"),
        "as an activation, length 1": pair.explain(unit, force=True),
        "as an activation, own length": pair.explain(directions, force=True),
        "as an activation, its length": pair.explain(unit * length, force=True),
    }


def figures(texts: Sequence[str], words: Sequence[Sequence[str]]) -> dict[str, float | None]:
    """How often texts name their own thing, and the others'."""
    hit = np.array([[named(one, text) for one in words] for text in texts])
    own = float(hit.diagonal().mean())
    others = float(hit[~np.eye(len(hit), dtype=bool)].mean())
    dice = np.random.default_rng(0)
    dealt = [hit[np.arange(len(hit)), dice.permutation(len(hit))].mean() for _ in range(10_000)]
    return {
        "named": own,
        "others": others,
        "times": own / others if others else None,
        "p": (1 + sum(one >= own for one in dealt)) / (1 + len(dealt)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE / "directions.json")
    options = parser.parse_args()
    pair = NLAPair.from_pretrained("demo")
    made, about = planted(pair, options.corpus)
    statistics, _ = pair.activation_statistics()
    length = float(statistics.log_norm[1].exp())
    names = {kind: list(of) for kind, of in made.items()}
    lists = {word: [word] for word in NEXT + RARER} | {name: words.split() for name, words in TOPICS.items()}
    texts = {kind: explained(pair, torch.stack(list(of.values())), length) for kind, of in made.items()}
    lengths = {kind: float(torch.stack(list(of.values())).norm(dim=1).median()) for kind, of in made.items()}
    result: dict = {"layer": pair.layer, **about, "sure": SURE, "median_length": lengths, "activation_length": length}
    result |= {"kinds": {}, "forty": {}, "texts": {}}
    for kind, ways in texts.items():
        result["kinds"][kind] = {
            way: {"directions": len(said)} | figures(said, [lists[name] for name in names[kind]])
            for way, said in ways.items()
        }
        result["texts"][kind] = {way: dict(zip(names[kind], map(str, said), strict=True)) for way, said in ways.items()}
    for kind in ("lens", "before", "foreseen"):
        both = [lists[name] for name in (*names[kind], *names["topic"])]
        result["forty"][kind] = {
            way: figures([*texts[kind][way], *texts["topic"][way]], both) | {"directions": len(both)}
            for way in texts[kind]
        }
    write_json(options.out, result)
    show(result)


def show(result: dict) -> None:
    """The tables of docs/vectors.md."""
    for title in ("kinds", "forty"):
        print(
            f"\n{title}\n| directions | shown | n | named | others' words | times | p |\n|---|---|---|---|---|---|---|"
        )
        for kind, ways in result[title].items():
            for way, one in ways.items():
                cells = [kind, way, str(one["directions"]), f"{one['named']:.0%}", f"{one['others']:.1%}"]
                times = "–" if one["times"] is None else f"{one['times']:.1f}"
                print(f"| {' | '.join(cells)} | {times} | {one['p']:.4f} |")


if __name__ == "__main__":
    main()
