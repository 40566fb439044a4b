"""Ctrl-C: every command says what it kept and how to go on, in whatever it was."""

from __future__ import annotations

import pytest

from tests.grid.entries import ENTRIES
from tests.grid.outcome import run

STOPS = {
    "nla explain": ("nla_sdk.pair.NLAPair.from_pretrained", "stopped while loading the pair; no row was done yet"),
    "nla round-trip": ("nla_sdk.pair.NLAPair.round_trip", "stopped; no rows were done yet"),
    "nla, its pair": ("nla_sdk.jobs.work.round_trip", "stopped"),
    "extract": ("training.data.reading.extract_chunk", "stopped in extract; nothing was done yet"),
    "split": ("training.data.tables.splits.split_of", "stopped"),
    "label": ("training.label.passes.Passes.label", "stopped in label written/av_sft; nothing was done yet"),
    "build": ("training.data.tables.columns.table_of", "stopped"),
    "fit.av": ("training.fit.engine.loop.Loop._one_step", "stopped; no step is saved yet"),
    "fit.ar": ("training.fit.engine.supervised.load_base", "stopped"),
    "fit.grpo": ("training.fit.engine.loop.Loop._one_step", "stopped; no step is saved yet"),
    "fit.plan": ("training.fit.plan.estimate.read_base_config", "stopped; nothing was changed"),
    "label_report": ("training.data.tables.report.report", "stopped; nothing was changed"),
    "publish": ("training.publish.stage.prepared", "stopped; nothing was published"),
    "evaluate": (
        "training.evaluate.run.make",
        "stopped in measuring the rows; nothing was done yet",
    ),
    "verify": ("training.evaluate.verify.verify", "stopped"),
}


@pytest.mark.parametrize("name", STOPS)
def test_ctrl_c_says_what_is_kept_and_how_to_go_on(name, here, monkeypatch):
    where, said = STOPS[name]
    entry = ENTRIES[name]
    entry.prepare()

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stop)
    done = run(*entry.arguments)
    assert done.exit_code == 130 and len(done.lines) == 1, done.stderr
    assert done.lines[0].startswith(said) and len(done.lines[0]) > len("stopped; "), done.stderr
    assert not [path for path in done.written if path.startswith("made.")]
