"""`nla explain --check` and `nla round-trip --check`: claims below their explanation, or in a column."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from nla_sdk.claims.cutting import claims_of
from nla_sdk.claims.receipts import RECEIPTS
from nla_sdk.cli import rows as row_commands
from nla_sdk.cli.terminal import ClaimSummary, percent
from nla_sdk.jobs import work as rows
from tests.commands import run_nla

TEXT = "The cat sat on the mat."


@pytest.fixture
def nla(capsys, monkeypatch, full_folder, full_pair):
    """Run a command on the tiny pair, which is loaded already: its exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("nla_sdk.pair.NLAPair.from_pretrained", lambda *_, **__: full_pair)
    short = ("--max-new-tokens", 8, "--av", full_folder)
    return lambda command, *args: run_nla(capsys, [command, *args, *short])


@pytest.mark.parametrize("command", ["explain", "round-trip"])
def test_claims_stand_below_their_explanation_and_why_there_is_no_probability_once(nla, command, full_pair):
    code, out, err = nla(command, TEXT, "--positions", "2,-1", "--check")
    assert code == 0, err
    written = full_pair.explain(full_pair.extract(TEXT, [2, -1]), max_new_tokens=8)
    claims = [claim for one in written for claim in one.claims]
    lines = [line for line in out.splitlines() if line.strip().startswith("–")]
    assert [claim.kind for claim in claims] == [line.split()[2] for line in lines]
    assert f"{len(claims)} claims in 2 explanations." in err
    assert err.count("no support of ") == 1 and f"no support of {len(claims)} claims: no claims.json lies beside" in err


def test_a_file_has_a_column_of_claims_and_their_mean_support(nla, tmp_path):
    out = tmp_path / "out.parquet"
    code, _, err = nla("explain", TEXT, "--positions", "all", "--check", "-o", out)
    assert code == 0, err
    table = pq.read_table(out)
    assert {"support", "why_no_support", "claims"} < set(table.column_names)
    for text, claims in zip(table["api_explanation"].to_pylist(), table["claims"].to_pylist(), strict=True):
        found = json.loads(claims)
        assert [(one["text"], one["kind"]) for one in found] == [(one.text, one.kind) for one in claims_of(text)]
        assert all({*one["receipts"]} <= set(RECEIPTS) and one["reason"] for one in found)
    assert table["support"].null_count == table.num_rows and err.count("no support of ") == 1


def test_json_lines_hold_the_same_column(nla):
    code, out, _ = nla("explain", TEXT, "--check", "--json")
    row = json.loads(out)
    assert code == 0 and row["support"] is None
    assert json.loads(row["claims"])[0]["receipts"]["in_text"]["value"] >= 0


def test_without_check_nothing_is_checked(nla, monkeypatch):
    monkeypatch.setattr("nla_sdk.pair.NLAPair.check", None)
    code, out, err = nla("explain", TEXT, "--json")
    assert code == 0 and "claims" not in json.loads(out) and "claims" not in err


def test_a_stopped_run_goes_on_and_one_without_check_is_another(nla, tmp_path, monkeypatch):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("one mat", "two cats", "three")))
    args = ("explain", source, "-o", out)
    monkeypatch.setitem(row_commands.ROWS_PER_CHUNK, "explain", 1)
    plain, calls = rows.explain, []

    def stopping(*args, **options):
        work = plain(*args, **options)

        def on_table(table, first):
            calls.append(first)
            if first == 2 and calls.count(2) == 1:
                raise KeyboardInterrupt
            return work(table, first)

        return on_table

    monkeypatch.setattr(rows, "explain", stopping)
    code, _, err = nla(*args, "--check")
    assert code == 130 and "2 of 3 rows are kept" in err, err
    code, _, err = nla(*args)
    assert code == 2 and "made from something else" in err
    code, _, err = nla(*args, "--check")
    assert code == 0 and calls == [0, 1, 2, 2] and "in 3 explanations." in err
    assert len(out.read_text().splitlines()) == 3


def test_directions_are_refused_in_a_line(nla, tmp_path):
    import numpy as np

    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(2, 64)).astype("float32"))
    code, _, err = nla("explain", tmp_path / "a.npy", "--kind", "direction", "--direction", "raw", "--check")
    assert code == 2 and "--check holds claims against activations" in err and err.count("\n") <= 2


def test_the_summary_says_how_probable_claims_are_and_how_wrong_that_is():
    import pyarrow as pa

    from nla_sdk.evaluation.parts import Figure

    held = type("Reliability", (), {"ece": Figure(value=0.034, n=90), "auroc": Figure(value=0.762, n=90)})()
    summary = ClaimSummary(type("Calibration", (), {"reliability": held})())
    unknown = {"support": None, "why_no_support": "claims of the kind 'quote' were not measured"}
    claims = [[{"support": 0.5}, {"support": 0.75}], [unknown], []]
    summary.add(pa.table({"claims": list(map(json.dumps, claims)), "why_no_support": pa.nulls(3, pa.string())}))
    said = str(summary)
    assert said.startswith("3 claims in 3 explanations; support (probability that the text says so, judged without the")
    assert "text): mean 62 %. On held-out documents it was off by 3 points on average (ECE) and told claims" in said
    assert "AUROC 0.76 (0.5: not at all).\nno support of 1 claims: claims of the kind 'quote' were not meas" in said
    assert [percent(one) for one in (None, 0.066, 0.0, 0.004, 0.996)] == ["–", "7 %", "< 1 %", "< 1 %", "> 99 %"]
