"""A notebook run from top to bottom."""

from __future__ import annotations

import copy
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]


def printed(cell) -> str:
    """What a cell shows, as text."""
    texts = [one.get("text") or one.get("data", {}).get("text/plain", "") for one in cell.outputs]
    return "".join(texts)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A notebook run in an empty folder; what each code cell shows, by its last line."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(name: str, **more: str) -> dict[str, str]:
        """`more`: lines of code, and what a test has run behind each."""
        kept = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)
        for line, then in more.items():
            (cell,) = (one for one in kept.cells if f"\n{line}\n" in one.source)
            cell.source = cell.source.replace(f"\n{line}\n", f"\n{line}\n{then}\n")
        where = {"metadata": {"path": str(tmp_path)}}
        client = NotebookClient(copy.deepcopy(kept), timeout=840, kernel_name="python3", resources=where)
        cells = [cell for cell in client.execute().cells if cell.cell_type == "code"]
        return {cell.source.split("\n")[-1].strip(): printed(cell) for cell in cells}

    return run
