"""An evaluation that was killed goes on where it was, and gives the file it would have given."""

from __future__ import annotations

import json

import pytest

from nla_sdk.errors import ChunkError
from nla_sdk.evaluation.reading import load
from nla_sdk.evaluation.schema import EVALUATION, ROWS, VARIANTS
from nla_sdk.io.chunks import Chunks
from nla_sdk.io.files import sha256_of
from tests.evaluate.planted import SETTINGS, Oracle, PlantedPair, evaluate, table


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
    monkeypatch.setattr("training.evaluate.measuring.rows.ROWS_PER_CHUNK", 32)  # four chunks of these rows
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


def test_an_overwriting_run_that_was_killed_does_not_leave_the_old_file_beside_new_rows(tmp_path, data, monkeypatch):
    from training.evaluate import run

    found = Oracle(data)
    pair = PlantedPair(tmp_path / "pair", found.say, found.hear)
    evaluate(pair, data, tmp_path / "out")
    other = SETTINGS.model_copy(update={"seed": 1, "floor": 0.9})

    def dying(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.compute, "parts", dying)
        with pytest.raises(KeyboardInterrupt):
            evaluate(pair, data, tmp_path / "out", other, overwrite=True)
    assert not (tmp_path / "out" / EVALUATION).exists()
    assert evaluate(pair, data, tmp_path / "out", other).settings == other
    assert not (tmp_path / "out" / "chunks").exists()


@pytest.mark.parametrize("text", ["{", '{"schema_version": 0}', None])
def test_a_damaged_file_or_one_of_other_tables_is_made_again(tmp_path, data, text):
    found = Oracle(data)
    pair = PlantedPair(tmp_path / "pair", found.say, found.hear)
    first = evaluate(pair, data, tmp_path / "out")
    if text is None:
        (tmp_path / "out" / VARIANTS).write_bytes(b"of something else")
    else:
        (tmp_path / "out" / EVALUATION).write_text(text, encoding="utf-8")
    evaluate(pair, data, tmp_path / "out")
    again = load(tmp_path / "out" / EVALUATION)
    assert again.round_trip == first.round_trip
    assert again.files == {name: sha256_of(tmp_path / "out" / name) for name in (ROWS, VARIANTS)}


def test_chunks_that_a_kill_left_beside_a_finished_file_go(tmp_path, data, monkeypatch):
    found = Oracle(data)
    pair = PlantedPair(tmp_path / "pair", found.say, found.hear)
    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "remove", lambda self: None)
        evaluate(pair, data, tmp_path / "out")
    assert len(list((tmp_path / "out" / "chunks").iterdir())) == 3
    evaluate(pair, data, tmp_path / "out")
    assert not (tmp_path / "out" / "chunks").exists()


def test_every_code_version_that_measured_rows_is_in_the_file(tmp_path, data, monkeypatch):
    from cards.report import report
    from training.evaluate import run

    found = Oracle(data)
    pair = PlantedPair(tmp_path / "pair", found.say, found.hear)
    real = Chunks.write

    def dying(self, index, outputs, drops=None):
        real(self, index, outputs, drops)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "write", dying)
        patch.setattr(run, "code_version", lambda: "first")
        with pytest.raises(KeyboardInterrupt):
            evaluate(pair, data, tmp_path / "out")
    monkeypatch.setattr(run, "code_version", lambda: "second")
    evaluated = evaluate(pair, data, tmp_path / "out")
    assert evaluated.measured_by == ["first", "second"] and evaluated.versions["code"] == "second"
    assert {"numpy", "scikit-learn", "scipy"} <= set(evaluated.versions)
    assert "more than one version of the code: first, second" in report(evaluated)


def test_without_scikit_learn_nothing_is_measured(tmp_path, data, monkeypatch):
    import sys

    from nla_sdk.errors import InputError

    found = Oracle(data)
    pair = PlantedPair(tmp_path / "pair", found.say, found.hear)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match="needs scikit-learn: pip install 'nla-sdk\\[eval\\]'"):
        evaluate(pair, data, tmp_path / "out")
    assert pair.calls == []


def test_without_matplotlib_the_report_is_written_all_the_same(tmp_path, data, monkeypatch):
    import sys

    from cards.figures.drawing import FigureError
    from training.evaluate import outputs

    found = Oracle(data)
    pair = PlantedPair(tmp_path / "pair", found.say, found.hear)
    evaluated = evaluate(pair, data, tmp_path / "out", limit=12)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(FigureError):
        outputs.write(evaluated, tmp_path / "out", pair)
    assert (tmp_path / "out" / "report.md").is_file()
