"""The notebook that trains a pair, in its quick mode. A file of its own: another process runs the others meanwhile."""

from __future__ import annotations

import pytest


@pytest.mark.timeout(900)
def test_a_pair_of_ones_own(run, monkeypatch):
    monkeypatch.setenv("NLA_QUICK", "1")
    shown = run("own_pair")
    stages = next(text for text in shown.values() if "done after" in text)
    assert [line.partition(":")[0] for line in stages.splitlines()] == [
        *("pipeline", "fit.av", "fit.on_policy", "fit.ar", "evaluate")
    ]
    assert any("heldout_loss_shuffled" in text for text in shown.values())
    assert "RoundTrip(" in shown['pair.round_trip("Return a list of the names of all modules that")']
    assert "nothing was sent (--dry-run)" in shown["print(done.stdout or done.stderr)"]
