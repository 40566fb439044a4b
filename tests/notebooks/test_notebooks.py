"""The notebooks that a stranger opens: each runs from top to bottom, and is kept without what it printed."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == ["believe", "directions", "own_pair"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs_and_says_how_to_install(path):
    kept = nbformat.read(path, as_version=4)
    nbformat.validate(kept)
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert len(code) > 8 and not any(cell.outputs or cell.execution_count for cell in code)
    assert set(kept.metadata) == {"kernelspec", "language_info"}
    assert code[0].source.startswith('# %pip install -q "nla-sdk[demo')
    assert "https://colab.research.google.com" in kept.cells[0].source


@pytest.mark.timeout(600)
def test_what_to_believe(run):
    shown = run("believe")
    scores = next(text for text in shown.values() if text.startswith("gain   cosine"))
    assert len(scores.splitlines()) == 5 and scores.count(" ok\n") >= 1
    assert sum("another token's" in text for text in shown.values()) == 1
    assert "next token: " in shown["check"] and ("✓" in shown["check"] or "✗" in shown["check"])
    assert "without it" in shown["check"]  # as the prose says
    assert shown['print(evaluation.verdict.value, "-", evaluation.verdict.reason)'].startswith("reads-content - ")
    assert "nla_sdk.serve.widget.Page" in shown["pair.show(text)"]


@pytest.mark.timeout(600)
def test_directions(run):
    shown = run("directions")
    scores = shown['print("random    ", [round(trip.cosine, 2) for trip in trips])']
    assert "sea − land [" in scores and scores.count(", ") == 2
    assert "a − b" in next(text for line, text in shown.items() if line.startswith("pair.compare("))
    assert shown["pair.steer(prompt, sea, [0.0, 0.5, 1.0], max_new_tokens=12)"].count("steered") == 3
    words, steered = shown["pair.steer(prompt, str(said[0]), [0.0, 0.5, 1.0], max_new_tokens=12)"].split("\n", 1)
    assert words in steered and steered.count("steered") == 3
    asked, loaded = shown['print(str(loaded).replace(folder, "…"))'].strip().split("\n", 1)
    assert "kind" in asked and "difference" in loaded
