"""`nla steer`: side by side what `pair.steer` gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nla_sdk import NLAPair, Vectors
from nla_sdk.cli.app import app
from nla_sdk.cli.vectors import steer
from nla_sdk.errors import InputError, LayerError
from tests import tiny
from tests.conftest import DEPTHS

PROMPT = "The cat sat on the mat."
SHORT = ("--max-new-tokens", "6")
LAYER = DEPTHS["shared"][0]


@pytest.fixture(scope="module")
def folder(lora_folders) -> Path:
    return lora_folders["centred"]


@pytest.fixture(scope="module")
def pair(lora_pair) -> NLAPair:
    return lora_pair("centred")


def nla(folder: Path, *arguments: str) -> str:
    given = ["steer", PROMPT, "--av", str(folder), *SHORT, *arguments]
    result = CliRunner().invoke(app, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def held(monkeypatch):
    """REF is of these vectors."""
    vectors = Vectors(tiny.random(2, tiny.D_MODEL, seed=3), "direction", LAYER, labels=("#0", "#1"))
    seen = []
    monkeypatch.setattr("nla_sdk.vectors.load", lambda *given, **how: seen.append((given, how)) or vectors)
    return vectors, seen


def test_a_text_at_several_strengths_is_what_it_is_in_python(folder, pair):
    lines = nla(folder, "--towards", "a cat", "--strength", "0.5", "--strength", "-2", "--json").splitlines()
    expected = pair.steer(PROMPT, "a cat", [0.5, -2.0], max_new_tokens=6)
    assert [json.loads(line) for line in lines] == expected.to_rows()


def test_both_texts_stand_side_by_side_with_what_moved(folder, pair):
    shown = nla(folder, "--towards", "a cat", "--strength", "3")
    found = pair.steer(PROMPT, "a cat", 3, max_new_tokens=6)
    first = found.moved[0]
    assert f"towards a cat, layer {LAYER}" in shown
    words = shown.split()
    assert found.plain.split()[0] in words and found.steered.split()[0] in words
    assert f"{first.plain:.3f} → {first.steered:.3f}" in shown


def test_every_vector_of_a_reference_gets_every_strength(folder, pair, held):
    vectors, seen = held
    rows = [
        json.loads(line)
        for line in nla(folder, "--vector", "sae#0,1", "--strength", "1", "--strength", "2", "--json").splitlines()
    ]
    assert [(row["towards"], row["strength"]) for row in rows] == [("#0", 1), ("#0", 2), ("#1", 1), ("#1", 2)]
    for row in rows:
        alone = pair.steer(PROMPT, vectors.vectors[int(row["towards"][1])], row["strength"], max_new_tokens=6)
        assert (row["plain"], row["steered"]) == (alone.plain, alone.steered)
    (ref,), how = seen[0]
    assert ref == "sae#0,1" and {name for name, value in how.items() if value not in (None, False)} == set()
    nla(folder, "--vector", "sae", "--kind", "difference", "--model", "tiny", "--layer", str(LAYER))
    told = {name: value for name, value in seen[1][1].items() if value not in (None, False)}
    assert told == {"kind": "difference", "model": "tiny", "layer": LAYER}


def test_a_whole_dictionary_is_not_steered_along(folder, held, monkeypatch):
    monkeypatch.setattr(steer, "MOST", 1)
    with pytest.raises(InputError, match="sae holds 2 vectors; expected at most 1. Name them: sae#0"):
        nla(folder, "--vector", "sae")


def test_what_is_refused(folder):
    with pytest.raises(InputError, match="neither given; expected --towards TEXT or --vector REF"):
        nla(folder)
    with pytest.raises(InputError, match="both given"):
        nla(folder, "--towards", "a cat", "--vector", "sae")
    with pytest.raises(InputError, match="--kind is said of vectors"):
        nla(folder, "--towards", "a cat", "--kind", "direction")
    with pytest.raises(InputError, match="strength=nan"):
        nla(folder, "--towards", "a cat", "--strength", "nan")
    with pytest.raises(LayerError, match="layers 0 to 5"):
        nla(folder, "--towards", "a cat", "--layer", "9")
