"""The figure of a run, drawn from its log."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nla_sdk.errors import InputError
from tests.commands import invoke
from training.runs import figure
from training.runs.curves import render, running_mean
from training.runs.log import Telemetry

ROOT = Path(__file__).parents[2]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def panels(monkeypatch):
    """The axes of the last figure that was drawn, by title."""
    figure = pytest.importorskip("matplotlib.figure").Figure
    drawn = {}
    savefig = figure.savefig

    def kept(self, *arguments, **options):
        drawn.clear()
        drawn.update({axes.get_title(): axes for axes in self.axes})
        savefig(self, *arguments, **options)

    monkeypatch.setattr(figure, "savefig", kept)
    return drawn


def logged(folder: Path, *records: dict) -> Telemetry:
    run = Telemetry(folder, trackers=())
    for record in records:
        run.log(record)
    return run


def words(axes) -> str:
    return "\n".join(text.get_text() for text in [*axes.texts, *axes.get_legend().get_texts()])


def av_records(count: int = 60, **more) -> list[dict]:
    records = [{"step": 0, "heldout_loss": 5.0, "heldout_loss_shuffled": 5.1}]
    records += [{"step": step, "loss": 5 - 0.05 * step, "lr": 1e-4, "grad_norm": 2.0} for step in range(1, count + 1)]
    records[-1] |= {"heldout_loss": 2.0, "heldout_loss_shuffled": 2.75, **more}
    return records


def ar_records(strict: bool) -> list[dict]:
    records = []
    for step, value in ((0, -0.5), (5, 0.25), (10, 0.5)):
        fve = {"true": value, "empty": -0.1, "shuffled": -value}
        records.append({"step": step} | {f"heldout_fve_{name}": one for name, one in fve.items()})
        if strict:
            records[-1] |= {f"heldout_fve_{name}_raw_variance": one - 0.05 for name, one in fve.items()}
    return records


def test_the_avs_figure_shows_verdict_and_gap(tmp_path, panels):
    logged(tmp_path, *av_records()).render()
    assert (tmp_path / "training.png").read_bytes().startswith(PNG)
    assert list(panels) == [
        "Training loss: descending over the last 50 steps",
        "Held-out loss: gap 0.750 at step 60",
        "learning rate",
        "gradient norm, unclipped",
    ]
    loss, heldout = list(panels.values())[:2]
    assert "−0.05000 per step, R² 1.00" in words(loss)
    assert "gap 0.750" in words(heldout)
    curves = {line.get_label(): list(line.get_ydata()) for line in heldout.lines}
    assert curves == {"true vectors": [5.0, 2.0], "vectors of other rows": [5.1, 2.75]}
    (line,) = [line for line in loss.lines if "least squares" in line.get_label()]
    assert list(line.get_xdata()) == [11, 60]
    assert list(line.get_ydata()) == pytest.approx([5 - 0.05 * 11, 5 - 0.05 * 60])


def test_the_ars_figure_has_zero_as_a_line_and_the_stricter_baseline_dashed_where_the_log_has_it(tmp_path, panels):
    for strict in (False, True):
        logged(tmp_path / str(strict), *ar_records(strict)).render()
        (axes,) = panels.values()
        assert axes.get_title() == "Held-out FVE: 0.500 with true text at step 10"
        assert any(list(line.get_ydata()) == [0.0, 0.0] for line in axes.lines)
        dashed = [
            list(line.get_ydata()) for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xdata())
        ]
        assert dashed == (
            [pytest.approx(one) for one in ([-0.55, 0.2, 0.45], [-0.15] * 3, [0.45, -0.3, -0.55])] * strict
        )
        assert ("stricter" in words(axes)) == strict
        assert "true text, last 0.500" in words(axes) and "text of other rows, last −0.500" in words(axes)


def test_policy_optimisation_shows_its_reward_the_round_trip_and_how_far_it_went(tmp_path, panels):
    records = [{"step": 0, "heldout_fve_round_trip": 0.4, "heldout_fve_shuffled": -0.3}]
    records += [{"step": n, "loss": 0.1, "reward_mse": -1 / n, "kl": 0.01 * n, "unique": 1.0} for n in range(1, 11)]
    records[-1] |= {"heldout_fve_round_trip": 0.45, "heldout_fve_shuffled": -0.25}
    run = logged(tmp_path, *records)
    render(run.path, tmp_path / "training.png")
    reward, fve = "Reward: −mse of the AR's reconstruction", "Held-out FVE: 0.450 with the AV's own text at step 10"
    assert panels.keys() == {reward, fve, "nats a token from the start", "share of different texts"}
    assert panels[reward].lines[0].get_ydata().tolist() == pytest.approx([-1 / n for n in range(1, 11)], abs=1e-5)
    assert panels[fve].get_legend() and "text of other rows, last −0.250" in words(panels[fve])


def test_speed_and_memory_are_drawn_where_they_are_logged(tmp_path, panels):
    records = [record | {"tokens_per_second": 800.0, "peak_memory_gib": 3.1} for record in av_records()]
    logged(tmp_path, *records).render("av")
    assert list(panels)[-2:] == ["tokens per second", "peak memory, GiB"]


def test_a_log_of_losses_alone_has_one_panel_and_two_losses_no_verdict(tmp_path, panels):
    logged(tmp_path, {"step": 1, "loss": 1.0}, {"step": 2, "loss": 1.0}).render()
    assert list(panels) == ["Training loss: too few steps to tell"]


def test_what_is_no_finite_number_is_left_out_of_the_figure(tmp_path, panels):
    logged(tmp_path, *av_records(10, grad_norm=float("nan"), note="x")).render()
    (norms,) = panels["gradient norm, unclipped"].lines
    assert list(norms.get_xdata()) == list(range(1, 10))


@pytest.mark.parametrize("role", ["av", "ar"])
def test_the_shipped_logs_are_drawn_as_the_documentation_shows_them(tmp_path, panels, role):
    path = render(ROOT / f"docs/logs/first_{role}.jsonl", tmp_path / "new" / f"{role}.png")
    assert path.read_bytes().startswith(PNG)
    assert len((ROOT / f"docs/figures/training_{role}.png").read_bytes()) < 150_000
    title = {"av": "Held-out loss: gap 0.602 at step 477", "ar": "Held-out FVE: 0.523 with true text at step 637"}
    assert list(panels)[:2] == ["Training loss: flat over the last 50 steps", title[role]]


def test_without_matplotlib_there_is_one_line_and_no_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = logged(tmp_path, *av_records())
    assert run.render() is None
    said = "training.png not drawn: matplotlib is not installed (pip install 'nla-sdk[eval]').\n"
    assert capsys.readouterr().out == said
    assert not (tmp_path / "training.png").exists()


def test_a_figure_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure").Figure
    run = logged(tmp_path, *av_records())
    (tmp_path / "training.png").write_bytes(b"old")

    def full(self, path, **_):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(OSError, match="disk full"):
        run.render()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "training.png"]
    assert (tmp_path / "training.png").read_bytes() == b"old"


def test_a_log_with_nothing_to_draw_is_an_error_and_one_line_of_the_command(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 0}\n', encoding="utf-8")
    with pytest.raises(InputError, match="holds no step to draw"):
        render(tmp_path / "log.jsonl", tmp_path / "out.png")
    stopped = invoke(figure.main, tmp_path / "log.jsonl")
    assert stopped.exit_code == 2 and len(stopped.stderr.splitlines()) == 1


def test_the_command_draws_beside_the_log_or_where_it_is_told(tmp_path, panels, capsys):
    logged(tmp_path, *av_records())
    figure.main(tmp_path / "log.jsonl")
    figure.main(tmp_path / "log.jsonl", tmp_path / "x.png")
    assert capsys.readouterr().out.split() == [str(tmp_path / "training.png"), str(tmp_path / "x.png")]
    assert (tmp_path / "training.png").is_file() and (tmp_path / "x.png").is_file()


def test_the_mean_around_a_value_takes_what_neighbours_there_are():
    assert running_mean([3.0, 0.0, 3.0, 6.0], 3) == [1.5, 2.0, 3.0, 4.5]
    assert running_mean([1.0, 2.0], 1) == [1.0, 2.0]
    assert running_mean([], 5) == []
