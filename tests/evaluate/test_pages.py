"""What is written down about evaluating works: the documentation's code, and the benchmark."""

from __future__ import annotations

import json


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
