"""Figures are drawn whole, the same twice, and for extremes too."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from cards.figures import style
from cards.figures.curves import heldout_curves
from cards.figures.drawing import FigureError, draw
from cards.figures.reliability import claims_reliability
from cards.figures.rows import cosine_distribution, cosine_of_a_partner, cosine_per_row
from cards.report import report
from nla_sdk.evaluation.parts import Figure
from tests.cards.claimed import claims, worded
from tests.cards.samples import measured, published

ALL = {"cosine_per_row", "cosine_distribution", "content_ablation", "retrieval", "training"}


@pytest.fixture
def logs(tmp_path):
    av = [{"step": step, "heldout_loss": 3 - step / 100, "heldout_loss_shuffled": 3.2} for step in (0, 50, 100)]
    ar = [{"step": step, "heldout_fve_true": step / 200, "heldout_fve_empty": -0.1} for step in (0, 50, 100)]
    for name, records in (("av", av), ("ar", ar)):
        text = "\n".join(json.dumps(record) for record in records) + '\n{"step": 1'
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return {"av": tmp_path / "av.jsonl", "ar": tmp_path / "ar.jsonl"}


def test_all_figures_of_a_measured_pair_as_png_and_svg_and_the_same_bytes_again(tmp_path, logs):
    found, rows = measured()
    made = draw(found, rows, tmp_path / "figures", logs)
    assert {path.name for path in made} == {f"{name}.{suffix}" for name in ALL for suffix in ("png", "svg")}
    assert not list((tmp_path / "figures").glob(".*"))
    for path in made:
        head = path.read_bytes()[:200]
        assert head.startswith(b"\x89PNG") or b"<?xml" in head
    svg = (tmp_path / "figures" / "content_ablation.svg").read_text(encoding="utf-8")
    assert "nan" not in svg
    again = draw(found, rows, tmp_path / "again", logs)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in made]


def test_of_published_figures_only_the_ablation_can_be_drawn(tmp_path):
    made = draw(published(), None, tmp_path)
    assert {path.name for path in made} == {"content_ablation.png", "content_ablation.svg"}


@pytest.mark.parametrize("rows_kept", [1, 6])
def test_few_rows_all_alike_are_drawn(tmp_path, rows_kept):
    found, rows = measured()
    few = rows.slice(0, rows_kept)
    for name in ("cosine_real", "cosine_empty", "cosine_shuffled"):
        few = few.set_column(few.column_names.index(name), name, pa.array([0.5] * rows_kept))
    assert draw(found, few, tmp_path, suffixes=("svg",))


def test_values_below_zero_are_drawn(tmp_path):
    found, rows = measured()
    conditions = {
        name: one.model_copy(update={"fve": Figure(value=-0.5, n=9, interval_95=(-0.7, -0.2))})
        for name, one in found.ablation.conditions.items()
    }
    below = found.model_copy(update={"ablation": found.ablation.model_copy(update={"conditions": conditions})})
    assert draw(below, rows, tmp_path, suffixes=("svg",))


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(FigureError, match="nla-sdk\\[eval\\]"):
        draw(published(), None, tmp_path)


def test_drawing_and_reporting_need_no_torch():
    code = "import sys, cards.figures.drawing, cards.report; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- what is on them -------------------------------------------------------------------------------------------------
def axes_of(paint, *arguments):
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=style.SIZE)
    paint(canvas, *arguments)
    return canvas.axes[0]


@pytest.mark.parametrize(("floor", "seen"), [(-0.9, False), (0.9, True)])
def test_a_floor_far_below_all_rows_does_not_press_them_into_a_corner(floor, seen):
    found, rows = measured()
    trip = found.round_trip.model_copy(update={"floor": floor})
    axes = axes_of(cosine_per_row, found.model_copy(update={"round_trip": trip}), rows)
    low, high = axes.get_ylim()
    values = np.array(rows["cosine_real"].to_pylist())
    assert (low <= floor) == seen and low < values.min() and high > values.max()
    assert any("noise floor" in text.get_text() for text in axes.texts), "it is named all the same"
    assert high - low < 2


def test_families_differ_in_marker_and_in_colour_and_share_none_with_a_line():
    colours, markers = zip(*style.FAMILIES, strict=True)
    assert len(set(colours)) == len(set(markers)) == len(colours)
    assert not {style.RED, style.BLACK, style.GREY} & set(colours)


def test_the_other_rows_histogram_is_of_single_rows():
    """A mean over all other rows varies too little to stand beside single rows."""
    found, rows = measured()
    there = np.isfinite(np.array(rows["cosine_real"].to_pylist()))
    single = cosine_of_a_partner(rows, there, 0)
    means = np.array(rows["cosine_shuffled"].to_pylist())
    assert single.std() > 1.5 * means.std() and abs(single.mean() - means.mean()) < 0.1
    axes = axes_of(cosine_distribution, found, rows)
    assert f"mean over all {means.mean():.3f}" in " ".join(text.get_text() for text in axes.get_legend().get_texts())


def test_one_document_has_no_other_rows_to_draw():
    found, rows = measured()
    one = rows.set_column(rows.column_names.index("doc_id"), "doc_id", pa.array(["same"] * len(rows)))
    reference = found.round_trip.reference.model_copy(update={"random_pair_cosine": None})
    alone = found.model_copy(update={"round_trip": found.round_trip.model_copy(update={"reference": reference})})
    assert len(cosine_of_a_partner(one, np.ones(len(one), bool), 0)) == 0
    axes = axes_of(cosine_per_row, alone, one)
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
    assert heldout_curves(tmp_path / "log.jsonl", "av") == {"heldout_loss": ([5], [2.0])}
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1}), encoding="utf-8")
    assert heldout_curves(tmp_path / "log.jsonl", "av") == {}


def test_a_calibrated_probability_is_drawn_as_it_stands_in_the_file(tmp_path):
    found = worded()
    reliability = found.claims.reliability
    axes = axes_of(claims_reliability, found)
    points = next(line for line in axes.lines if line.get_marker() == "o")
    assert [tuple(point) for point in points.get_xydata()] == [
        (one.predicted, one.observed) for one in reliability.bins
    ]
    title = axes.get_title()
    assert f"ECE {reliability.ece.value:.3f}" in title and f"AUROC {reliability.auroc.value:.3f}" in title
    assert f"{reliability.n} claims of {reliability.documents} documents" in title
    assert "131 to 140 claims" in " ".join(text.get_text() for text in axes.get_legend().get_texts())
    names = {path.name for path in draw(found, None, tmp_path, suffixes=("png",))}
    assert "claims_reliability.png" in names and "(figures/claims_reliability.png)" in report(found, figures="figures")


def test_without_a_calibrated_probability_there_is_no_figure_of_one(tmp_path):
    found = worded(claims=claims(reliability=None, why_no_support="no text"))
    assert not [path for path in draw(found, None, tmp_path, suffixes=("png",)) if "claims" in path.name]
    assert "claims_reliability" not in report(found, figures="figures")
