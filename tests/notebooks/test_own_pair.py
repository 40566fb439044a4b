"""The notebook that trains a pair, in its quick mode. A file of its own: another process runs the others meanwhile."""

from __future__ import annotations

import shutil

import pytest

COMMIT = "0123456789" * 4


@pytest.mark.timeout(900)
def test_a_pair_of_ones_own(run, base, tmp_path, monkeypatch):
    """On a tiny model, as the pair of the quick mode learns nothing: a third of the bundled base's time."""
    cached = tmp_path / "hub" / "models--somebody--tiny"
    shutil.copytree(base, cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("NLA_QUICK", "1")
    shown = run("own_pair", **{'recipe["out"] = "pair"': 'recipe["base"], recipe["layer"] = "somebody/tiny", 1'})
    stages = next(text for text in shown.values() if "done after" in text)
    assert [line.partition(":")[0] for line in stages.splitlines()] == [
        *("pipeline", "fit.av", "fit.on_policy", "fit.ar", "evaluate")
    ]
    assert any("heldout_loss_shuffled" in text for text in shown.values())
    assert "RoundTrip(" in shown['pair.round_trip("Return a list of the names of all modules that")']
    assert "nothing was sent (--dry-run)" in shown["print(done.stdout or done.stderr)"]
