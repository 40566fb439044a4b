"""Training logs as killed and resumed runs leave them, and as others write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nla_sdk.errors import InputError
from nla_sdk.io.logs import log_lines, read_log, read_losses


def written(path: Path, *records: dict | str) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def steps(first: int, last: int, loss: float = 1.0) -> list[dict]:
    return [{"step": step, "loss": loss} for step in range(first, last + 1)]


def test_the_losses_of_a_log_are_those_of_its_steps(tmp_path):
    log = written(tmp_path / "log.jsonl", {"step": 0, "heldout_loss": 5.0}, *steps(1, 3, loss=2))
    assert read_losses(log) == {1: 2.0, 2: 2.0, 3: 2.0}


def test_a_torn_last_line_is_left_out(tmp_path):
    log = written(tmp_path / "log.jsonl", *steps(1, 3), '{"step": 4, "lo')
    assert list(read_losses(log)) == [1, 2, 3]


def test_a_last_line_without_a_newline_that_is_whole_counts(tmp_path):
    log = written(tmp_path / "log.jsonl", *steps(1, 3), '{"step": 4, "loss": 1}')
    assert list(read_losses(log)) == [1, 2, 3, 4]


def test_of_a_resumed_run_the_later_account_of_a_step_counts(tmp_path):
    log = written(tmp_path / "log.jsonl", *steps(1, 130, loss=9.0), *steps(101, 110, loss=1.0))
    losses = read_losses(log)
    assert list(losses) == list(range(1, 111))  # 111 to 130 belong to the run that was killed
    assert losses[100] == 9.0 and losses[101] == 1.0


def test_two_records_of_one_step_are_one(tmp_path):
    log = written(tmp_path / "log.jsonl", {"step": 1, "loss": 2.0}, {"step": 1, "heldout_loss": 3.0})
    assert read_log(log) == [{"step": 1, "loss": 2.0, "heldout_loss": 3.0}]


@pytest.mark.parametrize(
    "line, said",
    [
        ('{"step": 2, "lo{"step": 2}\n', "not JSON"),
        ("[1]\n", 'whole number "step"'),
        ('{"loss": 1.0}\n', 'whole number "step"'),
        ('{"step": 1.5, "loss": 1.0}\n', 'whole number "step"'),
        ('{"step": true, "loss": 1.0}\n', 'whole number "step"'),
    ],
)
def test_a_malformed_line_is_an_error_that_names_it(tmp_path, line, said):
    log = written(tmp_path / "log.jsonl", {"step": 1, "loss": 1.0}, line, {"step": 3, "loss": 1.0})
    with pytest.raises(InputError, match=rf"log\.jsonl, line 2: .*{said}"):
        read_losses(log)


def test_a_malformed_last_line_that_ends_in_a_newline_is_an_error_too(tmp_path):
    log = written(tmp_path / "log.jsonl", {"step": 1, "loss": 1.0}, '{"step": 2, "lo\n')
    with pytest.raises(InputError, match="line 2"):
        list(log_lines(log))


def test_bytes_that_are_not_text_are_an_error_that_names_the_line(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1}\n\xff\xfe\n{"step": 2}\n')
    with pytest.raises(InputError, match="line 2"):
        read_losses(tmp_path / "log.jsonl")


@pytest.mark.parametrize("loss", ['"1.0"', "null", "true", "[1]"])
def test_a_loss_that_is_no_number_is_an_error_that_names_the_step(tmp_path, loss):
    log = written(tmp_path / "log.jsonl", f'{{"step": 7, "loss": {loss}}}\n')
    with pytest.raises(InputError, match="step 7: the loss is"):
        read_losses(log)


def test_of_logs_that_others_wrote_every_object_counts_and_nothing_else(tmp_path):
    log = written(tmp_path / "log.jsonl", {"step": 1}, "[1]\n", {"seconds": 2.0}, '{"st\n', '{"step": 2, "lo')
    log.write_bytes(log.read_bytes() + b"\xff\n")
    assert [record for _, record in log_lines(log, strict=False)] == [{"step": 1}, {"seconds": 2.0}]
