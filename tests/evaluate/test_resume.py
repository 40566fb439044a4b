"""An evaluation that was killed goes on where it was, and gives the file it would have given."""

from __future__ import annotations

import json
import shutil

import pytest

from nla_sdk.errors import ChunkError
from nla_sdk.evaluation.reading import load
from nla_sdk.evaluation.schema import EVALUATION, ROWS, VARIANTS
from nla_sdk.io.chunks import Chunks
from nla_sdk.io.files import sha256_of
from tests.evaluate.planted import FEW, Oracle, PlantedPair, evaluate, table


@pytest.fixture(scope="module", autouse=True)
def four_chunks():
    """Three of the rows below, one of their variants."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.evaluate.measuring.rows.ROWS_PER_CHUNK", 8)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return table(tmp_path_factory.mktemp("heldout") / "heldout.parquet", documents=12, labels=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """An evaluation that nothing stopped, and how many rows its pair explained."""
    root, known = tmp_path_factory.mktemp("whole"), Oracle(data)
    pair = PlantedPair(root / "pair", known.say, known.hear)
    found = measured(pair, data, root / "out")
    return root / "out", found, sum(pair.calls)


def measured(pair, data, out, settings=FEW, **options):
    return evaluate(pair, data, out, settings, **options)


@pytest.fixture
def finished(tmp_path, data, whole):
    """The same pair, a copy of that evaluation to be damaged at will, and what was found."""
    known = Oracle(data)
    out = shutil.copytree(whole[0], tmp_path / "out")
    return PlantedPair(tmp_path / "pair", known.say, known.hear), out, whole[1]


def without_time(path) -> dict:
    values = json.loads(path.read_text(encoding="utf-8"))
    for name in ("cost", "created", "sha256"):
        values.pop(name)
    return values


@pytest.mark.parametrize("death", range(4))
def test_killed_at_any_chunk_it_gives_the_same_file_and_tables(tmp_path, data, whole, monkeypatch, death):
    found, (unbroken, _, explained) = Oracle(data), whole
    pair = PlantedPair(tmp_path / "pair", found.say, found.hear)
    real, writes = Chunks.write, iter(range(100))

    def dying(self, index, outputs, drops=None):
        real(self, index, outputs, drops)
        if next(writes) == death:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            measured(pair, data, tmp_path / "broken")
    assert sum(pair.calls) > 0, "what was explained is not explained again"
    measured(pair, data, tmp_path / "broken")
    assert sum(pair.calls) == explained
    assert without_time(tmp_path / "broken" / EVALUATION) == without_time(unbroken / EVALUATION)
    for name in (ROWS, VARIANTS):
        assert sha256_of(tmp_path / "broken" / name) == sha256_of(unbroken / name)
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
            measured(pair, data, tmp_path / "out")
    explained = list(pair.calls)
    measured(pair, data, tmp_path / "out")
    assert pair.calls == explained and load(tmp_path / "out" / EVALUATION).round_trip.evaluated == 24


def test_a_finished_evaluation_is_read_and_not_made_again(data, finished):
    pair, out, first = finished
    digest = sha256_of(out / EVALUATION)
    assert measured(pair, data, out) == first
    assert pair.calls == [] and sha256_of(out / EVALUATION) == digest


def test_an_evaluation_of_something_else_is_not_overwritten_unasked(data, finished):
    pair, out, _ = finished
    other = FEW.model_copy(update={"seed": 1})
    with pytest.raises(ChunkError, match="--overwrite"):
        measured(pair, data, out, other)
    assert load(out / EVALUATION).settings.seed == 0
    measured(pair, data, out, other, overwrite=True)
    assert load(out / EVALUATION).settings.seed == 1


def test_an_overwriting_run_that_was_killed_does_not_leave_the_old_file_beside_new_rows(data, finished, monkeypatch):
    from training.evaluate import run

    pair, out, _ = finished
    other = FEW.model_copy(update={"seed": 1, "floor": 0.9})

    def dying(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.compute, "parts", dying)
        with pytest.raises(KeyboardInterrupt):
            measured(pair, data, out, other, overwrite=True)
    assert not (out / EVALUATION).exists()
    assert measured(pair, data, out, other).settings == other
    assert not (out / "chunks").exists()


@pytest.mark.parametrize("text", ["{", '{"schema_version": 0}', None])
def test_a_damaged_file_or_one_of_other_tables_is_made_again(data, finished, text):
    pair, out, first = finished
    if text is None:
        (out / VARIANTS).write_bytes(b"of something else")
    else:
        (out / EVALUATION).write_text(text, encoding="utf-8")
    measured(pair, data, out)
    again = load(out / EVALUATION)
    assert again.round_trip == first.round_trip
    assert again.files == {name: sha256_of(out / name) for name in (ROWS, VARIANTS)}


def test_chunks_that_a_kill_left_beside_a_finished_file_go(tmp_path, data, monkeypatch):
    found = Oracle(data)
    pair = PlantedPair(tmp_path / "pair", found.say, found.hear)
    with monkeypatch.context() as patch:
        patch.setattr(Chunks, "remove", lambda self: None)
        measured(pair, data, tmp_path / "out")
    assert len(list((tmp_path / "out" / "chunks").iterdir())) == 3
    measured(pair, data, tmp_path / "out")
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
            measured(pair, data, tmp_path / "out")
    monkeypatch.setattr(run, "code_version", lambda: "second")
    evaluated = measured(pair, data, tmp_path / "out")
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
        measured(pair, data, tmp_path / "out")
    assert pair.calls == []


def test_without_matplotlib_the_report_is_written_all_the_same(tmp_path, data, monkeypatch):
    import sys

    from cards.figures.drawing import FigureError
    from training.evaluate import outputs

    found = Oracle(data)
    pair = PlantedPair(tmp_path / "pair", found.say, found.hear)
    evaluated = measured(pair, data, tmp_path / "out", limit=12)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(FigureError):
        outputs.write(evaluated, tmp_path / "out", pair)
    assert (tmp_path / "out" / "report.md").is_file()
