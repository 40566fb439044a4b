"""The report leads with what counts, shows the file's numbers, and cannot be broken by its strings."""

from __future__ import annotations

import re

from cards.report import report, summary
from nla_sdk.evaluation.measures import Retrieval
from nla_sdk.evaluation.parts import Figure, Subject
from nla_sdk.evaluation.verdict import decide
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


def test_thresholds_stand_beside_every_verdict():
    found, _ = measured()
    for one in (found, published()):
        for page in (report(one), summary(one)):
            for limit in ("10", "0.05", "70 %", "0.01"):
                assert limit in page, (limit, page)


def test_the_reason_says_what_its_p_is_of():
    found, _ = measured()
    assert "mean rank percentile" in found.verdict.reason
    vague = found.model_copy(
        update={"identity": found.identity.model_copy(update={"percentile": Figure(value=0.5, n=9, p=0.5)})}
    )
    assert "p of the identity rank percentile 0.5" in decide(vague).reason


def test_shares_stand_with_their_intervals():
    found, _ = measured()
    low, high = (f"{100 * end:.1f}" for end in found.identity.top1.interval_95)
    for page in (report(found), summary(found)):
        assert f"{100 * found.identity.top1.value:.1f} % [{low}, {high}]" in page


def test_a_few_times_chance_are_said_with_a_decimal():
    found, _ = measured()
    one = Retrieval(
        query="explanation", candidates="explanations", features="words", queries=9, eligible=99, documents=10,
        chance=0.1, top1=Figure(value=0.14, n=9, p=0.2), by_seed=[0.14],
    )  # fmt: skip
    content = found.content.model_copy(update={"retrieval": [one]})
    page = report(found.model_copy(update={"content": content}))
    assert "1.4 × chance (9 queries of 99 rows)" in page


def test_the_summarys_values_stand_in_one_column():
    found, _ = measured()
    lines = [line for line in summary(found).splitlines() if "  " in line.strip()]
    assert len(lines) > 10 and all(line[41] == " " and line[42] != " " for line in lines), lines


def test_the_report_links_its_figures_where_there_are_any():
    found, _ = measured()
    page = report(found, figures="figures")
    for name in ("cosine_per_row", "cosine_distribution", "content_ablation", "retrieval"):
        assert f"(figures/{name}.png)" in page
    assert "figures/" not in report(found)
    seeds = report(published(), figures="figures")
    assert "content_ablation.png" in seeds and "cosine_per_row" not in seeds and "retrieval.png" not in seeds


def test_a_contracts_digest_is_said_to_be_of_what_decides_results():
    assert "nla\\_meta.yaml (what decides results)" in report(measured()[0])
