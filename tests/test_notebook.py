"""The notebook that a stranger opens: it runs from top to bottom, and is kept without what it printed."""

from __future__ import annotations

import copy
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "explore.ipynb"


@pytest.fixture(scope="module")
def kept():
    return nbformat.read(NOTEBOOK, as_version=4)


def printed(cell) -> str:
    """What a cell shows, as text."""
    texts = [one.get("text") or one.get("data", {}).get("text/plain", "") for one in cell.outputs]
    return "".join(texts)


def test_it_is_kept_without_outputs(kept):
    nbformat.validate(kept)
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert len(code) > 8 and not any(cell.outputs or cell.execution_count for cell in code)
    assert set(kept.metadata) == {"kernelspec", "language_info"}


@pytest.mark.timeout(300)
def test_it_runs_from_top_to_bottom_and_shows_what_it_says(kept, monkeypatch):
    root = NOTEBOOK.parents[1]
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = NotebookClient(
        copy.deepcopy(kept), timeout=240, kernel_name="python3", resources={"metadata": {"path": str(root)}}
    )
    shown = {cell.source.split("\n")[-1]: cell for cell in run.execute().cells if cell.cell_type == "code"}
    page = shown["pair.show(text)"].outputs[0]["data"]
    assert "application/vnd.jupyter.widget-view+json" in page
    assert printed(shown["trips"]).count("gain=") == 3
    assert "a − b" in printed(next(cell for line, cell in shown.items() if line.startswith("pair.compare(")))
    assert "verdict: reads-content" in printed(shown["trip"]) and "RoundTrip(" in printed(shown["trip"])
