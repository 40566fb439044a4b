"""The report leads with what counts, shows the file's numbers, and cannot be broken by its strings."""

from __future__ import annotations

import re

from cards.report import report, summary
from nla_sdk.evaluation.parts import Subject
from tests.cards.samples import measured, published


def test_verdict_then_fve_and_gain_then_cosine():
    found, _ = measured()
    page = report(found)
    order = [page.index(word) for word in ("reads-content", "**FVE**", "**gain**", "| cosine |")]
    assert order == sorted(order)
    assert f"{found.round_trip.fve.value:.3f}" in page and "Cosine compares neither layers nor models" in page


def test_every_part_of_a_measured_file_has_its_place():
    found, _ = measured()
    page = report(found)
    for word in ("unrelated sentences", "nonsense words", "(ceiling)", "a zero vector", "Distinct beginnings"):
        assert word in page
    assert "its prose without quotes" in page and "after 4 round trips" in page and "SHA-256" in page


def test_published_figures_are_said_to_be():
    page = report(published())
    assert "as published" in page and "not re-measured" in page and "content-blind" in page
    for figure in (
        "0.438 ± 0.054",
        "0.4292",
        "0.4135",
        "0.4045",
        "0.4051",
        "42 of 42",
        "8 empty",
        "20 distinct among 42",
    ):
        assert figure in page, figure
    assert "injected instead" not in page and "SHA-256" not in page


def test_a_mixed_pair_is_said_to_be_one():
    found, _ = measured()
    mixed = found.model_copy(update={"subject": found.subject.model_copy(update={"matched": False})})
    assert "do not name each other" in report(mixed) and "do not name each other" in summary(mixed)


def test_strings_from_the_file_stay_inert():
    evil = "x|y\n# head\n<script>alert(1)</script> [a](http://b) `c` **d**"
    page = report(published(subject=Subject(av=evil, ar=evil)))
    assert "<script>" not in page and "\n# head" not in page and "[a](" not in page
    title = page.splitlines()[0]
    assert re.search(r"\\\|", title) and "\\<script\\>" in title


def test_the_summary_fits_a_terminal():
    found, _ = measured()
    for one in (found, published()):
        lines = summary(one).splitlines()
        assert len(lines) <= 20 and all(len(line) <= 140 for line in lines)
    assert f"{found.round_trip.fve.value:.3f}" in summary(found)
