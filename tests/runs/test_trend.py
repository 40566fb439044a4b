"""The verdict on a loss: the least-squares line, both thresholds, and logs as killed and resumed runs leave them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import linregress

from nla_sdk.errors import InputError
from nla_sdk.io.logs import read_losses
from training.runs.verdict import R_SQUARED, SLOPE, trend, verdict_of

ROOT = Path(__file__).parents[2]
LOSSES = st.lists(st.floats(-100, 100).map(lambda value: round(value, 6)), min_size=3, max_size=120)


def noisy(slope: float, noise: float, count: int = 48) -> list[float]:
    """A line plus ±noise in the order + − − +, which in every four steps has neither a mean nor a slope."""
    return [5.0 + slope * step + noise * (1, -1, -1, 1)[step % 4] for step in range(count)]


def written(path: Path, *records: dict | str) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def steps(first: int, last: int, loss: float = 1.0) -> list[dict]:
    return [{"step": step, "loss": loss} for step in range(first, last + 1)]


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "training.runs.trend", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )


# --- the line -----------------------------------------------------------------------------------------------------
@settings(deadline=None)  # the machine may be busy
@given(LOSSES, st.integers(3, 130))
def test_slope_and_r_squared_are_those_of_numpy_and_scipy(losses, window):
    found, inside = trend(losses, window), np.asarray(losses[-window:])
    assert (found.steps, found.first, found.last) == (len(inside), len(losses) - len(inside) + 1, len(losses))
    x = np.arange(len(inside))
    assert found.slope == pytest.approx(np.polyfit(x, inside, 1)[0], rel=1e-6, abs=1e-9)
    if np.ptp(inside) == 0.0:
        assert found.r_squared == 0.0
    else:
        assert found.r_squared == pytest.approx(linregress(x, inside).rvalue ** 2, rel=1e-6, abs=1e-9)
    assert found.verdict == verdict_of(found.slope, found.r_squared)


@settings(deadline=None)  # the machine may be busy
@given(LOSSES, st.floats(-50, 50))
def test_the_height_of_the_loss_does_not_matter_and_reversed_losses_have_the_opposite_slope(losses, height):
    found, raised, reversed_ = trend(losses), trend([loss + height for loss in losses]), trend(losses[-50:][::-1])
    assert raised.slope == pytest.approx(found.slope, abs=1e-9)
    assert reversed_.slope == pytest.approx(-found.slope, abs=1e-9)
    assert reversed_.r_squared == pytest.approx(found.r_squared, abs=1e-6)


def test_the_slope_is_per_step_where_steps_are_missing():
    every_tenth = {step: 3.0 - 0.01 * step for step in range(10, 510, 10)}
    found = trend(every_tenth, window=100)
    assert found.slope == pytest.approx(-0.01)
    assert (found.steps, found.first, found.last) == (10, 410, 500)


def test_only_the_window_counts():
    losses = [11.0 - 0.1 * step for step in range(100)] + [1.0] * 50
    assert trend(losses).verdict == "flat"
    assert trend(losses, window=60).verdict == "descending"


# --- the thresholds -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("side, verdict", [(-1, "descending"), (1, "ascending")])
def test_the_slope_must_be_beyond_the_threshold_and_r_squared_may_be_at_it(side, verdict):
    assert (SLOPE, R_SQUARED) == (0.002, 0.10)
    assert verdict_of(side * 0.002, 1.0) == "flat"
    assert verdict_of(side * math.nextafter(0.002, 1.0), 1.0) == verdict
    assert verdict_of(side * 0.01, 0.10) == verdict
    assert verdict_of(side * 0.01, math.nextafter(0.10, 0.0)) == "flat"


@pytest.mark.parametrize("side, verdict", [(-1, "descending"), (1, "ascending")])
def test_losses_at_both_sides_of_both_thresholds(side, verdict):
    assert trend(noisy(side * 0.0019, 0.0)).verdict == "flat"
    assert trend(noisy(side * 0.0021, 0.0)).verdict == verdict
    # the variance of a line of slope s over 48 steps is s² · (48² − 1) / 12, and that of the noise its square
    line = 0.01**2 * (48**2 - 1) / 12
    little, much = math.sqrt(line * 8.9), math.sqrt(line * 9.1)
    assert trend(noisy(side * 0.01, little)).r_squared == pytest.approx(1 / 9.9)
    assert trend(noisy(side * 0.01, little)).verdict == verdict
    assert trend(noisy(side * 0.01, much)).r_squared == pytest.approx(1 / 10.1)
    assert trend(noisy(side * 0.01, much)).verdict == "flat"


# --- what has no line -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e-9, 12345.678])
def test_a_constant_loss_is_flat_with_r_squared_zero(value):
    found = trend([value] * 49)
    assert (found.verdict, found.r_squared) == ("flat", 0.0)
    assert found.slope == pytest.approx(0.0, abs=1e-12)


def test_a_constant_loss_has_r_squared_zero_to_the_bit_where_steps_are_missing_too():
    steps = [(1, 2, 2 + gap) for gap in range(2, 45)]
    values = [number / 7 for number in range(1, 30)]
    assert {trend(dict.fromkeys(some, value)).r_squared for some in steps for value in values} == {0.0}


def test_differences_too_small_to_square_do_not_divide_by_zero():
    assert trend([0.0, 1e-200, 0.0, 2e-200]).verdict == "flat"


@pytest.mark.parametrize("losses", [[], [1.0], [9.0, 1.0]])
def test_fewer_than_three_losses_are_flat_and_say_how_few_they_are(losses):
    found = trend(losses)
    assert (found.verdict, found.slope, found.r_squared, found.steps) == ("flat", 0.0, 0.0, len(losses))
    assert str(found) == f"flat: too few steps to tell ({len(losses)}, at least 3 are needed)"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_an_error_naming_the_step(bad):
    with pytest.raises(InputError, match=r"^Step 3: the loss is -?(nan|inf)"):
        trend([1.0, 2.0, bad, 1.0])
    with pytest.raises(InputError, match="^Step 17:"):
        trend({16: 1.0, 17: bad, 18: 1.0})


def test_a_window_of_two_steps_is_refused():
    with pytest.raises(InputError, match="window of 2 steps"):
        trend([1.0] * 9, window=2)


# --- the command ----------------------------------------------------------------------------------------------------
def test_the_shipped_logs_have_the_verdicts_that_the_documentation_quotes():
    said = [str(trend(read_losses(ROOT / f"docs/logs/first_{role}.jsonl"))) for role in ("av", "ar")]
    assert "\n```\n" + "\n".join(said) + "\n```\n" in (ROOT / "docs/training.md").read_text(encoding="utf-8")


def test_no_window_of_the_shipped_ar_run_is_descending_as_the_documentation_says():
    losses = list(read_losses(ROOT / "docs/logs/first_ar.jsonl").values())
    assert {trend(losses[:end]).verdict for end in range(50, len(losses) + 1)} == {"flat"}


def test_the_command_prints_one_line_or_json(tmp_path):
    log = written(tmp_path / "log.jsonl", *({"step": step, "loss": 3 - 0.5 * step} for step in range(1, 6)))
    plain, as_json = command(log), command(log, "--json", "--window", 4)
    assert plain.returncode == as_json.returncode == 0
    assert plain.stdout.splitlines() == ["descending: slope -0.500000 per step, R² 1.000 (5 losses, steps 1–5)"]
    assert json.loads(as_json.stdout) == {
        "verdict": "descending",
        "slope": pytest.approx(-0.5),
        "r_squared": pytest.approx(1.0),
        "steps": 4,
        "first": 2,
        "last": 5,
    }


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    few = command(written(tmp_path / "few.jsonl", *steps(1, 2)))
    assert (few.returncode, few.stdout, len(few.stderr.splitlines())) == (2, "", 1)
    assert "2 losses" in few.stderr and "needs 3" in few.stderr
    missing = command(tmp_path / "none.jsonl")
    assert (missing.returncode, len(missing.stderr.splitlines())) == (2, 1)
    assert "none.jsonl cannot be read: No such file" in missing.stderr


def test_importing_it_loads_neither_torch_nor_matplotlib():
    modules = "training.runs.trend, training.runs.log, training.runs.figure"
    code = f"import sys, {modules}; print({{'torch', 'matplotlib', 'numpy'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr
