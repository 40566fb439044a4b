"""An evaluation file that was written is read as it was, and one that was changed is refused."""

from __future__ import annotations

import json

import pytest

from nla_sdk.errors import MissingFileError
from nla_sdk.evaluation.reading import EvaluationError, digest, load, save
from tests.cards.samples import measured, published
from tests.evaluate.test_verdicts import edited, numbers_in


def test_the_seeds_published_summary_passes_and_is_content_blind(tmp_path):
    found = load(save(published(), tmp_path / "seed.json"))
    assert found.verdict.value == "content-blind"
    assert round(found.gain.value, 2) == 0.04
    trip = found.round_trip
    assert trip.empty / trip.attempted == 0.16 and round(found.collapse.duplicate_share, 2) == 0.52
    assert round(found.ablation.deltas["empty"].cosine.value, 3) == 0.024
    assert round(found.ablation.content_independent_share, 2) == 0.94


def test_the_seeds_summary_verifies_at_the_command_line(tmp_path):
    from training.evaluate.verify import verify

    checked = verify(save(published(), tmp_path / "seed.json"))
    assert "its arithmetic" in checked.checked


def test_every_number_of_a_published_file_changed_by_hand_is_found(tmp_path):
    values = json.loads(save(published(), tmp_path / "seed.json").read_text(encoding="utf-8"))
    for path in numbers_in(values):
        (tmp_path / "edited.json").write_text(json.dumps(edited(values, path)), encoding="utf-8")
        with pytest.raises(EvaluationError):
            load(tmp_path / "edited.json")


def test_reading_what_was_written_gives_the_same(tmp_path):
    found, _ = measured()
    again = load(save(found, tmp_path / "evaluation.json"))
    assert again == found and digest(again) == digest(found)


def test_what_is_no_evaluation_file_is_refused_by_what_it_is(tmp_path):
    file = tmp_path / "evaluation.json"
    with pytest.raises(MissingFileError):
        load(file)
    for text, message in [
        ("{", "no readable JSON"),
        ("[]", "holds a list"),
        ('{"rows": 1}', "no schema_version"),
        ('{"schema_version": 9}', "schema version 9; this nla-sdk reads 1, 2 and 3"),
        ('{"schema_version": 1, "origin": "guessed"}', "origin"),
    ]:
        file.write_text(text, encoding="utf-8")
        with pytest.raises(EvaluationError, match=message):
            load(file)


def test_a_byte_order_mark_before_an_evaluation_is_no_part_of_it(tmp_path):
    file = save(published(), tmp_path / "a.json")
    (tmp_path / "b.json").write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load(tmp_path / "b.json") == load(file)
