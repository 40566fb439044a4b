"""The first file a stranger runs."""

from __future__ import annotations

import runpy
import sys
import warnings
from pathlib import Path

import pytest

from nla_sdk import NLAPair
from tests import tiny

EXAMPLE = Path(__file__).parents[1] / "examples" / "round_trip_example.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("example")
    base = tiny.save_model(root / "base", tiny.llama_config(), tiny.tokenizer(), seed=1)
    tiny.lora_pair(root / "pair", base, tiny.plain_model(base), layer=1, blocks=3)
    return root / "pair"


@pytest.fixture
def example(monkeypatch, capsys):
    def run(*args) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *map(str, args)])
        monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # the script changes it; put it back
        capsys.readouterr()
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        return capsys.readouterr()

    return run


def test_it_prints_token_explanation_and_scores_beside_an_empty_explanation(example, folder):
    tiny.write_sidecar(folder / "ar", baseline_mse=1.7)
    pair = NLAPair.from_pretrained(folder)
    trip, empty = pair.round_trip("The cat sat"), pair.score("", pair.extract("The cat sat").vectors[0])
    out, err = example("The cat sat", "--av", folder)
    assert "token 't', position 8, layer 1" in out and trip.explanation in out
    assert f"cosine {trip.cosine:.3f} (empty explanation: {empty.cosine:.3f}" in out
    assert f"FVE {trip.fve:.3f} (empty explanation: {empty.fve:.3f}" in out
    assert f"gain {1 - trip.mse / empty.mse:.3f}" in out
    assert "FVE is 0 for the mean direction over many rows, not for each" in out
    assert err == ""


def test_a_mistake_is_one_line_and_exit_code_2(example, capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        example("hi", "--av", tmp_path / "gone")
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == ""
    assert err.startswith("error: ") and "gone" in err and len(err.splitlines()) == 1


def test_it_is_short():
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 80
