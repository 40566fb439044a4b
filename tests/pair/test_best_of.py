"""`best_of`: several explanations of one activation, the one chosen from which the AR comes nearest."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from nla_sdk import NLAPair
from nla_sdk.cli import app as cli
from nla_sdk.errors import InputError, MissingHalfError
from tests import tiny


@pytest.fixture
def rows() -> torch.Tensor:
    return tiny.random(3, tiny.D_MODEL, seed=6, scale=4.0)


def by_hand(pair, row: torch.Tensor, best_of: int, temperature: float) -> tuple[str, float]:
    """The best of the greedy explanation and the samples, each scored alone."""
    texts = [pair.explain(row)] + [pair.explain(row, temperature=temperature, n=best_of - 1)]
    texts = [texts[0], *(texts[1] if best_of > 2 else [texts[1]])]
    scores = [pair.score(text, row).cosine for text in texts]
    best = max(range(best_of), key=lambda at: (round(scores[at], 6), -at))
    return texts[best], scores[best]


@pytest.mark.parametrize("temperature, used", [(0.0, 0.7), (1.5, 1.5)])
@pytest.mark.parametrize("best_of", [2, 5])
def test_the_best_of_the_greedy_one_and_the_samples_is_returned_with_its_score(pair, rows, best_of, temperature, used):
    chosen = pair.explain(rows, best_of=best_of, temperature=temperature)
    trips = pair.round_trip(rows, best_of=best_of, temperature=temperature)
    for row, text, trip in zip(rows, chosen, trips, strict=True):
        expected, cosine = by_hand(pair, row, best_of, used)
        assert (text, trip.explanation) == (expected, expected)
        assert text.score.cosine == pytest.approx(cosine, abs=1e-5) == trip.cosine
        assert (text.best_of, trip.best_of, text.score.matched) == (best_of, best_of, True)


def test_more_candidates_never_score_worse_and_here_they_score_better(pair, rows):
    alone = [trip.cosine for trip in pair.round_trip(rows)]
    best = [trip.cosine for trip in pair.round_trip(rows, best_of=6, temperature=1.5)]
    assert all(after >= before - 1e-6 for before, after in zip(alone, best, strict=True))
    assert sum(best) > sum(alone) + 1e-3


def test_a_row_is_explained_alike_alone_and_in_a_batch(pair, rows):
    assert pair.explain(rows[1], best_of=4) == pair.explain(rows, best_of=4)[1]


def test_what_cannot_be_asked_for(pair, rows, copied, gemma_base):
    with pytest.raises(InputError, match="n=2 and best_of=3"):
        pair.explain(rows, n=2, best_of=3)
    with pytest.raises(InputError, match="best_of=0: expected a whole number ≥ 1"):
        pair.round_trip(rows, best_of=0)
    with pytest.raises(InputError, match="best_of=-1: expected a whole number ≥ 1"):
        pair.explain(rows, best_of=-1)
    folder = copied("shared")
    shutil.rmtree(folder / "ar")
    alone = NLAPair.from_pretrained(folder / "av", base=gemma_base)
    with pytest.raises(MissingHalfError, match="best_of needs an AR"):
        alone.explain(rows, best_of=2)


def test_at_the_shell_the_score_of_the_choice_stands_beside_it(lora_folders, gemma_base, rows, tmp_path, capsys):
    given = tmp_path / "rows.jsonl"
    given.write_text("".join(json.dumps({"activation_vector": row.tolist()}) + "\n" for row in rows))
    place = [str(given), "--av", str(lora_folders["shared"]), "--base", str(gemma_base), "--json"]

    def nla(*arguments: str) -> list[dict]:
        with pytest.raises(SystemExit) as end:
            cli.main([*arguments])
        assert end.value.code == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    best, greedy, plain = (nla("explain", *place, "--best-of", "3"), nla("round-trip", *place), nla("explain", *place))
    assert all(one["cosine"] >= other["cosine"] - 1e-6 for one, other in zip(best, greedy, strict=True))
    assert all("cosine" not in one for one in plain)
