"""What an evaluation looks like: report, summary and figures say what they are of, and nothing that is not so."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from cards import figures
from cards.report import report, retrieval_table, summary
from nla_sdk.evaluation.file import Figure, Retrieval, decide
from tests.cards.samples import measured, published


def test_thresholds_stand_beside_every_verdict():
    found, _ = measured()
    for one in (found, published()):
        for page in (report(one), summary(one)):
            for limit in ("10", "0.05", "70 %", "0.01"):
                assert limit in page, (limit, page)


def test_the_reason_says_what_its_p_is_of():
    found, _ = measured()
    assert "mean rank percentile" in found.verdict.reason
    vague = found.model_copy(
        update={"identity": found.identity.model_copy(update={"percentile": Figure(value=0.5, n=9, p=0.5)})}
    )
    assert "p of the identity rank percentile 0.5" in decide(vague).reason


def test_shares_stand_with_their_intervals():
    found, _ = measured()
    low, high = (f"{100 * end:.1f}" for end in found.identity.top1.interval_95)
    for page in (report(found), summary(found)):
        assert f"{100 * found.identity.top1.value:.1f} % [{low}, {high}]" in page


def test_a_few_times_chance_are_said_with_a_decimal():
    found, _ = measured()
    one = Retrieval(
        query="explanation", candidates="explanations", features="words", queries=9, eligible=99, documents=10,
        chance=0.1, top1=Figure(value=0.14, n=9, p=0.2), by_seed=[0.14],
    )  # fmt: skip
    content = found.content.model_copy(update={"retrieval": [one]})
    page = "\n".join(retrieval_table(found.model_copy(update={"content": content})))
    assert "1.4 × chance (9 queries of 99 rows)" in page


def test_the_summarys_values_stand_in_one_column():
    found, _ = measured()
    lines = [line for line in summary(found).splitlines() if "  " in line.strip()]
    assert len(lines) > 10 and all(line[41] == " " and line[42] != " " for line in lines), lines


def test_the_report_links_its_figures_where_there_are_any():
    found, _ = measured()
    page = report(found, figures="figures")
    for name in ("cosine_per_row", "cosine_distribution", "content_ablation", "retrieval"):
        assert f"(figures/{name}.png)" in page
    assert "figures/" not in report(found)
    seeds = report(published(), figures="figures")
    assert "content_ablation.png" in seeds and "cosine_per_row" not in seeds and "retrieval.png" not in seeds


def test_a_contracts_digest_is_said_to_be_of_what_decides_results():
    assert "nla\\_meta.yaml (what decides results)" in report(measured()[0])


# --- figures ----------------------------------------------------------------------------------------------------------
def axes_of(paint, *arguments):
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=figures.SIZE)
    paint(canvas, *arguments)
    return canvas.axes[0]


@pytest.mark.parametrize(("floor", "seen"), [(-0.9, False), (0.9, True)])
def test_a_floor_far_below_all_rows_does_not_press_them_into_a_corner(floor, seen):
    found, rows = measured()
    trip = found.round_trip.model_copy(update={"floor": floor})
    axes = axes_of(figures.cosine_per_row, found.model_copy(update={"round_trip": trip}), rows)
    low, high = axes.get_ylim()
    values = np.array(rows["cosine_real"].to_pylist())
    assert (low <= floor) == seen and low < values.min() and high > values.max()
    assert any("noise floor" in text.get_text() for text in axes.texts), "it is named all the same"
    assert high - low < 2


def test_families_differ_in_marker_and_in_colour_and_share_none_with_a_line():
    colours, markers = zip(*figures.FAMILIES, strict=True)
    assert len(set(colours)) == len(set(markers)) == len(colours)
    assert not {figures.RED, figures.BLACK, figures.GREY} & set(colours)


def test_the_other_rows_histogram_is_of_single_rows():
    """A mean over all other rows varies too little to stand beside single rows."""
    found, rows = measured()
    there = np.isfinite(np.array(rows["cosine_real"].to_pylist()))
    single = figures._of_a_partner(rows, there, 0)
    means = np.array(rows["cosine_shuffled"].to_pylist())
    assert single.std() > 1.5 * means.std() and abs(single.mean() - means.mean()) < 0.1
    axes = axes_of(figures.cosine_distribution, found, rows)
    assert f"mean over all {means.mean():.3f}" in " ".join(text.get_text() for text in axes.get_legend().get_texts())


def test_one_document_has_no_other_rows_to_draw():
    found, rows = measured()
    one = rows.set_column(rows.column_names.index("doc_id"), "doc_id", pa.array(["same"] * len(rows)))
    reference = found.round_trip.reference.model_copy(update={"random_pair_cosine": None})
    alone = found.model_copy(update={"round_trip": found.round_trip.model_copy(update={"reference": reference})})
    assert len(figures._of_a_partner(one, np.ones(len(one), bool), 0)) == 0
    axes = axes_of(figures.cosine_per_row, alone, one)
    assert not any("two unrelated" in text.get_text() for text in axes.texts)
    assert "two unrelated" not in report(alone)


def test_log_lines_of_something_else_than_a_step_are_skipped(tmp_path):
    lines = [
        '{"heldout_loss": 1.0}',
        "[1]",
        "3",
        '{"step": 5, "heldout_loss": 2.0}',
        '{"step": "x", "heldout_loss": 1}',
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert figures._curves(tmp_path / "log.jsonl", "av") == {"heldout_loss": ([5], [2.0])}
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1}), encoding="utf-8")
    assert figures._curves(tmp_path / "log.jsonl", "av") == {}


# --- the documentation ------------------------------------------------------------------------------------------------
def test_the_documented_way_to_a_published_file_gives_one_that_verifies(tmp_path, monkeypatch):
    from pathlib import Path

    from training.evaluate.verify import verify

    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (code,) = (part.split("```")[0] for part in text.split("```python\n")[1:])
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/evaluation.md", "exec"), {})
    assert verify(tmp_path / "published.json").evaluation.round_trip.empty == 8


def test_the_benchmark_runs_on_a_planted_pair(tmp_path, monkeypatch):
    """Its figures come of the demo pair; here only that it runs, on 40 rows."""
    import runpy
    import sys
    from pathlib import Path

    from nla_sdk import NLAPair
    from tests.evaluate.planted import Oracle, PlantedPair, table
    from training.evaluate import heldout

    data = table(tmp_path / "heldout.parquet")
    known = Oracle(data)
    pair = PlantedPair(tmp_path, known.say, known.hear)
    pair.contract = pair.contract.replace(max_new_tokens=8)
    pair.explain = lambda vectors: pair.verbalizer(vectors)
    pair.round_trip = lambda vectors: None
    real = heldout.read
    monkeypatch.setattr(NLAPair, "from_pretrained", classmethod(lambda cls, name: pair))
    monkeypatch.setattr(heldout, "read", lambda path, contract, limit: real(data, contract, limit))
    monkeypatch.setattr(sys, "argv", ["evaluation.py", "--rows", "40", "--out", str(tmp_path / "out.json")])
    runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "evaluation.py"), run_name="__main__")
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert result["rows"] == 40 and result["seconds"]["of which figures and the table"] > 0
