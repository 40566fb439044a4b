"""The log of a run: rounded, whole lines, cut at a checkpoint; TensorBoard and wandb get the same numbers."""

from __future__ import annotations

import json
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from nla_sdk.errors import InputError
from training.configs.fit import AV
from training.runs.log import Telemetry


@pytest.fixture(autouse=True)
def board(monkeypatch):
    """A TensorBoard that keeps what it is given. Always ours: tests must not depend on what is installed."""

    class SummaryWriter:
        made: list = []

        def __init__(self, folder, purge_step=None):
            self.folder, self.purge_step, self.scalars, self.calls = folder, purge_step, [], []
            self.made.append(self)

        def add_scalar(self, name, value, global_step):
            self.scalars.append((name, value, global_step))

        def flush(self):
            self.calls.append("flush")

        def close(self):
            self.calls.append("close")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr("torch.utils.tensorboard", module, raising=False)
    monkeypatch.setattr("accelerate.utils.is_tensorboard_available", lambda: True)
    return SummaryWriter.made


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def logged(folder: Path, *records: dict) -> Telemetry:
    run = Telemetry(folder)
    for record in records:
        run.log(record)
    return run


# --- the log ----------------------------------------------------------------------------------------------------------
def test_a_record_is_one_line_with_floats_of_six_digits_there_at_once(tmp_path):
    run = Telemetry(tmp_path / "new" / "run")
    run.log({"step": 1, "loss": 5.15325049, "lr": 1.23456789e-07, "tokens": 123456789, "note": "warm-up"})
    record = {"step": 1, "loss": 5.15325, "lr": 1.23457e-07, "tokens": 123456789, "note": "warm-up"}
    assert lines(tmp_path / "new" / "run") == [record]


def test_every_third_step_is_logged_and_every_step_with_heldout_values(tmp_path):
    run = Telemetry(tmp_path, every=3)
    for step in range(8):
        run.log({"step": step, "loss": 1.0} | ({"heldout_loss": 2.0} if step == 7 else {}))
    assert [record["step"] for record in lines(tmp_path)] == [0, 3, 6, 7]
    with pytest.raises(InputError, match="every 0 steps"):
        Telemetry(tmp_path, every=0)


def test_a_record_without_a_step_or_with_what_json_lacks_leaves_the_log_as_it_was(tmp_path):
    run = logged(tmp_path, {"step": 1, "loss": 1.0})
    with pytest.raises(KeyError):
        run.log({"loss": 1.0})
    with pytest.raises(TypeError):
        run.log({"step": 2, "loss": object()})
    assert lines(tmp_path) == [{"step": 1, "loss": 1.0}]


def test_truncating_drops_what_was_logged_after_the_checkpoint_and_keeps_the_rest_to_the_byte(tmp_path):
    kept = '{"step": 0, "heldout_loss": 5.0}\n{"step":1,  "loss": 0.10}\n{"step": 2, "loss": 1e-3}\n'
    (tmp_path / "log.jsonl").write_text(kept + '{"step": 3, "loss": 1.0}\n{"step": 4, "lo', encoding="utf-8")
    run = Telemetry(tmp_path)
    run.truncate(2)
    assert (tmp_path / "log.jsonl").read_text(encoding="utf-8") == kept
    run.log({"step": 3, "loss": 2.0})
    assert lines(tmp_path)[-2:] == [{"step": 2, "loss": 0.001}, {"step": 3, "loss": 2.0}]
    run.truncate(-1)
    assert lines(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_truncating_a_log_that_is_not_there_is_nothing(tmp_path):
    Telemetry(tmp_path).truncate(10)
    assert list(tmp_path.iterdir()) == []


def test_truncating_fails_before_it_writes_where_a_line_is_malformed(tmp_path):
    before = b'{"step": 1}\n{"st\n{"step": 2}\n'
    (tmp_path / "log.jsonl").write_bytes(before)
    with pytest.raises(InputError, match="line 2"):
        Telemetry(tmp_path).truncate(1)
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_a_killed_write_is_interrupted_without_a_trace(tmp_path, monkeypatch):
    run = logged(tmp_path, {"step": 1, "loss": 1.0}, {"step": 2, "loss": 1.0})
    before = run.path.read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nla_sdk.io.files.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run.truncate(1)
    assert run.path.read_bytes() == before


def test_a_new_line_is_never_glued_to_a_torn_one(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo', encoding="utf-8")
    logged(tmp_path, {"step": 2, "loss": 3.0}, {"step": 3, "loss": 4.0})
    assert [record["step"] for record in lines(tmp_path)] == [1, 2, 3]


# --- TensorBoard ------------------------------------------------------------------------------------------------------
def test_tensorboard_gets_the_same_numbers_and_a_resumed_run_hides_the_steps_it_takes_again(tmp_path, board):
    run = Telemetry(tmp_path, every=2)
    run.truncate(10)
    run.log({"step": 11, "loss": 9.0})
    run.log({"step": 12, "loss": 1.5, "note": "x"})
    run.close()
    (writer,) = board
    assert (writer.folder, writer.purge_step) == (str(tmp_path / "tensorboard"), 11)
    assert writer.scalars == [("loss", 1.5, 12)]
    assert writer.calls == ["flush", "close"]


def test_without_tensorboard_there_is_only_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.utils.is_tensorboard_available", lambda: False)
    run = logged(tmp_path, {"step": 1, "loss": 1.0})
    run.close()
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_run_that_asks_for_no_tracker_has_only_its_log(tmp_path, board):
    run = Telemetry(tmp_path, trackers=[])
    run.log({"step": 1, "loss": 1.0})
    assert board == [] and [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_wandb_where_it_is_asked_for_is_one_run_however_often_it_is_resumed(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, values, step):
            calls.append((values, step))

        def finish(self):
            calls.append("finish")

    module = types.ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None)
    module.init = lambda **options: calls.append(options) or Run()
    monkeypatch.setitem(sys.modules, "wandb", module)
    for step in (1, 2):
        run = Telemetry(tmp_path / "av", trackers=["wandb"])
        run.log({"step": step, "loss": 1.5, "note": "x"})
        run.close()
    first, *_, last = [call for call in calls if isinstance(call, dict)]
    assert first == last and first["project"] == "nla" and first["resume"] == "allow"
    assert first["name"] == f"{tmp_path.name}/av" and first["dir"] == str(tmp_path / "av")
    assert [call for call in calls if not isinstance(call, dict)] == [
        *(({"loss": 1.5}, 1), "finish"),
        *(({"loss": 1.5}, 2), "finish"),
    ]


def test_wandb_that_is_not_installed_is_said_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("training.runs.log.find_spec", lambda name: None)
    with pytest.raises(InputError, match="wandb is not installed"):
        Telemetry(tmp_path / "run", trackers=["wandb"])
    assert not (tmp_path / "run").exists()


def test_trackers_are_of_no_result_so_no_checkpoint_speaks_of_them():
    assert "trackers" not in AV(template="x").model_dump()
