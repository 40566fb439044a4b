"""Figures are drawn whole, the same twice, and for extremes too."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from cards.figures import FigureError, draw
from nla_sdk.evaluation.parts import Figure
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


def test_all_figures_of_a_measured_pair_as_png_and_svg(tmp_path, logs):
    found, rows = measured()
    made = draw(found, rows, tmp_path / "figures", logs)
    assert {path.name for path in made} == {f"{name}.{suffix}" for name in ALL for suffix in ("png", "svg")}
    assert not list((tmp_path / "figures").glob(".*"))
    for path in made:
        head = path.read_bytes()[:200]
        assert head.startswith(b"\x89PNG") or b"<?xml" in head
    svg = (tmp_path / "figures" / "content_ablation.svg").read_text(encoding="utf-8")
    assert "nan" not in svg


def test_the_same_evaluation_gives_the_same_bytes(tmp_path, logs):
    found, rows = measured()
    one, two = (draw(found, rows, tmp_path / name, logs) for name in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_of_published_figures_only_the_ablation_can_be_drawn(tmp_path):
    made = draw(published(), None, tmp_path)
    assert {path.name for path in made} == {"content_ablation.png", "content_ablation.svg"}


@pytest.mark.parametrize("rows_kept", [1, 6])
def test_few_rows_all_alike_are_drawn(tmp_path, rows_kept):
    import pyarrow as pa

    found, rows = measured()
    few = rows.slice(0, rows_kept)
    for name in ("cosine_real", "cosine_empty", "cosine_shuffled"):
        few = few.set_column(few.column_names.index(name), name, pa.array([0.5] * rows_kept))
    assert draw(found, few, tmp_path)


def test_values_below_zero_are_drawn(tmp_path):
    found, rows = measured()
    conditions = {
        name: one.model_copy(update={"fve": Figure(value=-0.5, n=9, interval_95=(-0.7, -0.2))})
        for name, one in found.ablation.conditions.items()
    }
    below = found.model_copy(update={"ablation": found.ablation.model_copy(update={"conditions": conditions})})
    assert draw(below, rows, tmp_path)


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(FigureError, match="nla-sdk\\[eval\\]"):
        draw(published(), None, tmp_path)


def test_drawing_and_reporting_need_no_torch():
    code = "import sys, cards.figures, cards.report; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
