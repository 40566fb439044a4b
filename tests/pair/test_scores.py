"""A score stands beside what no words and the mean direction score on the same row, and says when words do harm."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nla_sdk import NLAPair
from nla_sdk.calls.scoring import score_rows
from nla_sdk.cli import app as cli
from tests import tiny

ROWS = 24


@pytest.fixture
def rows() -> torch.Tensor:
    return tiny.random(ROWS, tiny.D_MODEL, seed=9, scale=4.0)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double().tolist(), b.double().tolist()
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


@pytest.fixture
def counted(monkeypatch):
    """How often a pair's AR read the empty text."""

    def count(pair) -> list[int]:
        read, found = type(pair.reconstructor).forward, []
        empty = pair.ar_contract.ar_prompt_ids_batch(pair.reconstructor.backbone.tokenizer, [""])[0][0]

        def forward(self, prompts, layer=None):
            found.extend(1 for ids in prompts if list(ids) == list(empty))
            return read(self, prompts, layer)

        monkeypatch.setattr(type(pair.reconstructor), "forward", forward)
        return found

    return count


# --- the figures --------------------------------------------------------------------------------------------------
def test_each_row_stands_beside_no_words_and_the_mean_direction(lora_pair, rows):
    pair = lora_pair("centred")
    mean = tiny.random(tiny.D_MODEL, seed=77, scale=3.0)
    none = pair.reconstruct("")
    for row, trip in zip(rows, pair.round_trip(rows), strict=True):
        made = pair.reconstruct(trip.explanation)
        assert trip.cosine == pytest.approx(cosine(made, row), abs=1e-6)
        assert trip.empty_cosine == pytest.approx(cosine(none, row), abs=1e-6)
        assert trip.mean_cosine == pytest.approx(cosine(mean, row), abs=1e-6)
        assert trip.gain == pytest.approx(1 - (1 - cosine(made, row)) / (1 - cosine(none, row)), abs=1e-5)
        assert trip.empty_fve == pytest.approx(1 - 2 * (1 - cosine(none, row)) / 1.5, abs=1e-5)
        assert trip.mean_fve == pytest.approx(1 - 2 * (1 - cosine(mean, row)) / 1.5, abs=1e-5)


def test_a_pair_that_knows_no_mean_and_no_baseline_says_so_and_still_compares_with_no_words(pair, rows, monkeypatch):
    monkeypatch.setattr(pair, "activation_statistics", lambda: (None, "the base is not loaded"))
    assert pair.mean_direction is None and pair.baseline_mse is None
    score = pair.score("a cat", rows[0])
    assert (score.mean_cosine, score.mean_fve, score.fve, score.empty_fve) == (None, None, None, None)
    assert score.gain == pytest.approx(1 - (1 - score.cosine) / (1 - score.empty_cosine), abs=1e-6)


def test_a_pair_that_is_not_centred_knows_the_mean_direction_of_its_statistics(pair, rows):
    mean = pair.activation_statistics()[0].mean
    assert pair.score("a cat", rows[0]).mean_cosine == pytest.approx(cosine(mean, rows[0]), abs=1e-6)


def test_the_mean_direction_is_of_length_one(lora_pair):
    found = lora_pair("centred").mean_direction
    assert found.dtype == torch.float32 and found.shape == (tiny.D_MODEL,)
    assert float(found.norm()) == pytest.approx(1.0, abs=1e-6)


def test_no_words_gain_nothing_and_are_not_worse_than_themselves(lora_pair, rows):
    for score in lora_pair("centred").score("", rows):
        assert score.gain == pytest.approx(0.0, abs=1e-5) and not score.worse_than_none


# --- the status ---------------------------------------------------------------------------------------------------
def test_rows_whose_words_do_worse_than_none_say_so(lora_pair, rows):
    trips = lora_pair("centred").round_trip(rows, max_new_tokens=3)
    worse = [trip for trip in trips if trip.cosine < trip.empty_cosine - 1e-6]
    assert 0 < len(worse) < ROWS, "both kinds are here"
    for trip in trips:
        assert ("worse than no words" in trip.status) == (trip in worse) == (trip.gain < 0)
        assert ("worse than no words" in repr(trip)) == (trip in worse)
        assert trip.explanation.status in ("truncated", "ok"), "of the text, whatever it scores"
        assert trip.explanation.status == "ok" or trip.status.startswith("truncated"), "nothing is lost"
        assert trip.to_row()["explanation_status"] == trip.status


def test_an_explanation_that_was_chosen_says_it_too(lora_pair, rows):
    chosen = lora_pair("centred").explain(rows, best_of=2, max_new_tokens=2)
    worse = [one.score.gain < 0 for one in chosen]
    assert any(worse), "the best of two may still be worse than none"
    for one, expected in zip(chosen, worse, strict=True):
        assert ("worse than no words" in one.to_row()["explanation_status"]) == expected
        assert ("worse than no words" in repr(one)) == expected
        assert "worse" not in one.status


def test_an_empty_explanation_stays_empty(lora_pair, rows, monkeypatch):
    from nla_sdk import Explanation

    pair = lora_pair("centred")
    monkeypatch.setattr(
        type(pair.verbalizer), "__call__", lambda self, rows, *_, **__: [Explanation("", status="empty")] * len(rows)
    )
    trips = pair.round_trip(rows)
    assert {trip.status for trip in trips} == {"empty"}
    assert all(trip.gain == pytest.approx(0.0, abs=1e-5) for trip in trips)


@pytest.mark.parametrize("command", ["round-trip", "explain"])
def test_every_output_of_the_commands_has_the_same_columns_and_says_it(
    lora_folders, lora_pair, rows, tmp_path, capsys, monkeypatch, command
):
    monkeypatch.setenv("COLUMNS", "160")
    given = tmp_path / "rows.jsonl"
    given.write_text("".join(json.dumps({"activation_vector": row.tolist()}) + "\n" for row in rows))
    options = [str(given), "--av", str(lora_folders["centred"]), "--max-new-tokens", "3"]
    options += ["--best-of", "2"] if command == "explain" else []

    def nla(*more: str) -> str:
        with pytest.raises(SystemExit) as end:
            cli.main([command, *options, *more])
        assert end.value.code == 0
        return capsys.readouterr().out

    lines = [json.loads(line) for line in nla("--json").splitlines()]
    worse = [row["gain"] < 0 for row in lines]
    assert any(worse) and ["worse than no words" in row["explanation_status"] for row in lines] == worse
    nla("-o", str(tmp_path / "out.parquet"))
    table = pq.read_table(tmp_path / "out.parquet")
    expected = ["cosine", "mse", "fve", "gain", "empty_cosine", "empty_fve", "mean_cosine", "mean_fve", "matched"]
    assert table.column_names[-9:] == expected == list(lines[0])[-9:]
    assert table["explanation_status"].to_pylist() == [row["explanation_status"] for row in lines]
    api = lora_pair("centred")
    made = getattr(api, command.replace("-", "_"))(
        rows, max_new_tokens=3, **({"best_of": 2} if command == "explain" else {})
    )
    there = made.to_arrow()
    for name in expected[:-1]:
        assert table[name].to_pylist() == pytest.approx(there[name].to_pylist(), abs=1e-5)
    shown = nla()
    header = shown.splitlines()[0].split()
    assert header[-6:] == ["cosine", "(empty)", "(mean)", "gain", "FVE", "status"]
    assert shown.count("no words") == sum(worse)
    monkeypatch.setenv("COLUMNS", "80")
    assert nla().count("(mean)") == ROWS, "in a narrow terminal they stand below each other"


def test_the_last_line_is_of_the_table_and_counts_the_rows_that_words_made_worse(
    lora_folders, lora_pair, rows, tmp_path, capsys
):
    given = tmp_path / "rows.jsonl"
    given.write_text("".join(json.dumps({"activation_vector": row.tolist()}) + "\n" for row in rows))
    with pytest.raises(SystemExit):
        cli.main(["round-trip", str(given), "--av", str(lora_folders["centred"]), "--max-new-tokens", "3"])
    said = capsys.readouterr().err.splitlines()[-1]
    pair = lora_pair("centred")
    trips = pair.round_trip(rows, max_new_tokens=3)
    mean = tiny.random(tiny.D_MODEL, seed=77, scale=3.0)
    errors = [sum(1 - cosine(of, row) for row in rows) for of in (mean, pair.reconstruct(""))]
    error = sum(1 - trip.cosine for trip in trips)
    assert f"FVE of these rows {1 - error / errors[0]:.3f} (" in said, "0 is the mean direction on these very rows"
    assert f"gain {1 - error / errors[1]:.3f};" in said
    assert f"in {sum(trip.gain < 0 for trip in trips)} of {ROWS} rows the words do worse than none" in said


# --- no words, once -----------------------------------------------------------------------------------------------
def test_no_words_are_reconstructed_once_however_many_calls_and_threads_there_are(lora_folders, rows, counted):
    pair = NLAPair.from_pretrained(lora_folders["centred"])
    read = counted(pair)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda at: pair.score(f"text {at}", rows[at]).empty_cosine, range(8)))
    pair.round_trip(rows, max_new_tokens=2)
    pair.explain(rows[:2], best_of=2, max_new_tokens=2)
    assert len(read) == 1
    none = pair.reconstruct("")
    assert found == pytest.approx([cosine(none, row) for row in rows[:8]], abs=1e-6)


def test_a_thread_that_holds_the_model_may_score_while_another_asks_first(lora_folders, rows):
    pair = NLAPair.from_pretrained(lora_folders["centred"])
    with ThreadPoolExecutor(1) as pool, pair.source.using("av"):
        other = pool.submit(pair.score, "a cat", rows[0])  # waits for the model, and must not hold what we need
        own = pair.score("a cat", rows[0])
    assert other.result(timeout=60) == own


def test_new_weights_have_new_words_for_nothing(lora_folders, rows):
    pair = NLAPair.from_pretrained(lora_folders["centred"])
    before = pair.score("a cat", rows[0])
    with torch.no_grad():
        pair.reconstructor.head.weight.neg_()
    pair.reconstructor.reset()
    after = pair.score("a cat", rows[0])
    assert after.empty_cosine != before.empty_cosine
    assert after.empty_cosine == pytest.approx(cosine(pair.reconstruct(""), rows[0]), abs=1e-6)


# --- any vectors --------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None, database=None)
@given(
    st.integers(0, 2**31), st.integers(2, 9), st.booleans(), st.one_of(st.none(), st.floats(1e-3, 4)), st.floats(0, 1)
)
def test_a_score_follows_from_four_vectors(seed, width, known, baseline, share):
    draw = torch.Generator().manual_seed(seed)
    made, row, none, mean = torch.randn(4, width, generator=draw) + 2 * share
    [score] = score_rows(
        made[None], row[None], empty=none, mean=mean if known else None, baseline_mse=baseline, matched=True
    )
    assert score.gain == pytest.approx(1 - (1 - cosine(made, row)) / (1 - cosine(none, row)), rel=1e-6, abs=1e-6)
    assert score.worse_than_none == (cosine(made, row) < cosine(none, row) - 1e-6)
    assert (score.mean_cosine is None) == (not known) and (score.mean_fve is None) == (not known or baseline is None)
    if known:
        assert score.mean_cosine == pytest.approx(cosine(mean, row), abs=1e-9)
    for of, fve in ((made, score.fve), (none, score.empty_fve), (mean, score.mean_fve)):
        assert fve is None or fve == pytest.approx(1 - 2 * (1 - cosine(of, row)) / baseline, abs=1e-6)


def test_where_no_words_are_exact_there_is_no_gain_and_any_error_is_worse():
    row = torch.tensor([[3.0, 4.0]])
    exact, off = torch.tensor([[6.0, 8.0]]), torch.tensor([[4.0, 3.0]])
    facts = {"empty": row[0], "mean": None, "baseline_mse": None, "matched": True}
    [same], [worse] = score_rows(exact, row, **facts), score_rows(off, row, **facts)
    assert (same.gain, same.worse_than_none) == (0.0, False)
    assert (worse.gain, worse.worse_than_none) == (None, True)
    assert "inf" not in json.dumps([same.to_row(), worse.to_row()])
