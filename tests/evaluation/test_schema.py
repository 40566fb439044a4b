"""What no evaluation can be: counts beyond their whole, rows that do not add up, a verdict of its own choosing."""

from __future__ import annotations

import pytest

from nla_sdk.evaluation.ages import as_of
from nla_sdk.evaluation.claims import Claims, PublishedFigure
from nla_sdk.evaluation.measures import Collapse, Cosines, RoundTripFigures
from nla_sdk.evaluation.parts import Balanced, Figure, Share
from nla_sdk.evaluation.reading import canonical, load, save
from nla_sdk.evaluation.verdict import Thresholds
from tests.cards.samples import published


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (Share, {"count": 99, "of": 42}, "99 of 42: more than all"),
        (RoundTripFigures, {"attempted": 8, "evaluated": 16, "empty": -8}, "greater than or equal to 0"),
        (Cosines, {"mean": {"value": 0.5, "n": 1}, "std": 3.0}, "less than or equal to 1"),
        (Cosines, {"mean": {"value": 0.5, "n": 1}, "max": 1.5}, "less than or equal to 1"),
        (Collapse, {"n": 2, "unique": 1, "distinct": {1: 1.5}}, "less than or equal to 1"),
    ],
)
def test_counts_and_shares_are_within_their_range(part, values, message):
    with pytest.raises(ValueError, match=message):
        part.model_validate(values)


def test_a_file_does_not_choose_what_it_is_judged_by_nor_what_is_said_of_it():
    verdict = published().verdict
    for changes, message in (
        ({"thresholds": Thresholds(least_gain=0.01)}, "does not choose its own"),
        ({"reason": "the best pair ever"}, "reason is not the one its figures give"),
    ):
        with pytest.raises(ValueError, match=message):
            published(verdict=verdict.model_copy(update=changes))


def test_rows_that_do_not_add_up_are_refused():
    trip = published().round_trip.model_copy(update={"empty": 7})
    with pytest.raises(ValueError, match="42 evaluated \\+ 7 empty \\+ 0 failed rows are not the 50 attempted"):
        published(round_trip=trip)


def test_figure_has_no_room_for_nan():
    with pytest.raises(ValueError):
        Figure(value=float("nan"), n=3)


def test_a_file_of_version_1_keeps_its_version_and_hash_and_has_no_parts_of_version_2(tmp_path):
    older = published(schema_version=1)
    assert load(save(older, tmp_path / "older.json")) == older
    assert not any(name in canonical(older) for name in ("claims", "token_classes", 'published":['))
    figure = PublishedFigure(what="precision", value=0.4, of="another pair", source="a paper")
    for name, value in (
        ("claims", Claims(n=0, rows=0, documents=0, per_explanation=0.0, kinds=[])),
        ("token_classes", []),
        ("published", [figure]),
    ):
        with pytest.raises(ValueError, match=f"schema version 1 has no {name}"):
            published(schema_version=1, **{name: value})
        assert published(**{name: value}).schema_version == 3


def test_a_file_of_version_2_has_no_figure_of_version_3_however_deep_it_stands():
    balanced = Balanced(value=0.3, n=42, families=2)
    found = published()
    trip = found.round_trip.model_copy(update={"fve_balanced": balanced})
    real = found.ablation.conditions["real"].model_copy(update={"fve_balanced": balanced})
    conditions = {**found.ablation.conditions, "real": real}
    changes = {"round_trip": trip, "ablation": found.ablation.model_copy(update={"conditions": conditions})}
    said = r"version 2 has no round_trip.fve_balanced, ablation.conditions.real.fve_balanced: that is of version 3"
    with pytest.raises(ValueError, match=said):
        published(schema_version=2, **changes)
    younger = published(**changes)
    older = as_of(younger, 2).model_copy(update={"schema_version": 2})
    assert older == published(schema_version=2) and "balanced" not in canonical(older)
    assert as_of(younger, 3) == younger
