"""An evaluation that was killed goes on where it was, and gives the file it would have given."""

from __future__ import annotations

import json

import pytest

from cards.evaluation import EVALUATION, ROWS, VARIANTS, load
from tests.evaluate.planted import SETTINGS, Oracle, PlantedPair, evaluate, table
from training.chunks import ChunkError, Chunks
from training.files import sha256_of


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return table(tmp_path_factory.mktemp("heldout") / "heldout.parquet", documents=40, labels=True)


def without_time(path) -> dict:
    values = json.loads(path.read_text(encoding="utf-8"))
    for name in ("cost", "created", "sha256"):
        values.pop(name)
    return values


@pytest.mark.parametrize("death", range(4))
def test_killed_at_any_chunk_it_gives_the_same_file_and_tables(tmp_path, data, monkeypatch, death):
    found = Oracle(data)
    pair = PlantedPair(tmp_path / "pair", found.say, found.hear)
    evaluate(pair, data, tmp_path / "whole")
    explained = sum(pair.calls)
    real, writes = Chunks.write, iter(range(100))

    def dying(self, index, outputs, drops=None):
        real(self, index, outputs, drops)
        if next(writes) == death:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            evaluate(pair, data, tmp_path / "broken")
    before = sum(pair.calls)
    evaluate(pair, data, tmp_path / "broken")
    assert sum(pair.calls) - before < explained, "what was explained is not explained again"
    assert sum(pair.calls) == 2 * explained
    assert without_time(tmp_path / "broken" / EVALUATION) == without_time(tmp_path / "whole" / EVALUATION)
    for name in (ROWS, VARIANTS):
        assert sha256_of(tmp_path / "broken" / name) == sha256_of(tmp_path / "whole" / name)
    assert not (tmp_path / "broken" / "chunks").exists()


def test_killed_before_the_file_is_written_it_explains_nothing_again(tmp_path, data, monkeypatch):
    from training.evaluate import run

    found = Oracle(data)
    pair = PlantedPair(tmp_path / "pair", found.say, found.hear)

    def dying(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "save", dying)
        with pytest.raises(KeyboardInterrupt):
            evaluate(pair, data, tmp_path / "out")
    explained = list(pair.calls)
    evaluate(pair, data, tmp_path / "out")
    assert pair.calls == explained and load(tmp_path / "out" / EVALUATION).verdict.value == "reads-content"


def test_a_finished_evaluation_is_read_and_not_made_again(tmp_path, data):
    found = Oracle(data)
    pair = PlantedPair(tmp_path / "pair", found.say, found.hear)
    first = evaluate(pair, data, tmp_path / "out")
    digest, explained = sha256_of(tmp_path / "out" / EVALUATION), list(pair.calls)
    assert evaluate(pair, data, tmp_path / "out") == first
    assert pair.calls == explained and sha256_of(tmp_path / "out" / EVALUATION) == digest


def test_an_evaluation_of_something_else_is_not_overwritten_unasked(tmp_path, data):
    found = Oracle(data)
    pair = PlantedPair(tmp_path / "pair", found.say, found.hear)
    evaluate(pair, data, tmp_path / "out")
    other = SETTINGS.model_copy(update={"seed": 1})
    with pytest.raises(ChunkError, match="--overwrite"):
        evaluate(pair, data, tmp_path / "out", other)
    assert load(tmp_path / "out" / EVALUATION).settings.seed == 0
    evaluate(pair, data, tmp_path / "out", other, overwrite=True)
    assert load(tmp_path / "out" / EVALUATION).settings.seed == 1
