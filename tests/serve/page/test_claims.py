"""An open explanation's words, checked: underlined by how far they are to be believed, and why."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from nla_sdk.claims.receipts import Check, CheckedClaim, Receipt
from nla_sdk.results import Explanation, Results

from .test_page import card, explained, token

WORDS = 'It sat 🙂. It says "a mat".'
SUPPORTS = (0.96, 0.06, None)


@pytest.fixture
def checked(monkeypatch, full_pair):
    """A pair that writes `WORDS` and knows how probable they are; the calls that were made."""
    calls = []

    def check(self, explanations, activation, text=None, **how):
        calls.append((list(explanations), text, how))
        receipts = {"ablation": Receipt(0.125, -0.25), "in_text": Receipt(1.0)}
        return Results(
            Check(
                one,
                tuple(
                    CheckedClaim(claim, receipts, support)
                    for claim, support in zip(Explanation(one).claims, SUPPORTS, strict=False)
                ),
                unit="FVE",
            )
            for one in explanations
        )

    monkeypatch.setattr(type(full_pair), "check", check)
    return calls


@pytest.fixture
def worded(monkeypatch, full_pair):
    """The tiny pair writes `WORDS` whatever it is shown."""
    plain = type(full_pair).round_trip

    def round_trip(self, *args, **how):
        from dataclasses import replace

        return Results(replace(one, explanation=Explanation(WORDS)) for one in plain(self, *args, **how))

    monkeypatch.setattr(type(full_pair), "round_trip", round_trip)


CALIBRATION = {
    "data": "held",
    "unit": "FVE",
    "receipts": ["ablation"],
    "n": 90,
    "documents": 9,
    "ece": 0.034,
    "auroc": 0.71,
    "kinds": [{"kind": "word", "n": 40, "precision": 0.62, "chance": 0.125}],
}


def calibrated(page):
    """What the server says of its pair, with a calibration."""

    def answer(route):
        said = route.fetch()
        route.fulfill(response=said, json={**said.json(), "calibration": CALIBRATION})

    page.route("**/v1/pair", answer)
    page.reload()


def check(page, position=1):
    card(page, position).get_by_role("button", name="Check its words").click()
    expect(card(page, position).locator(".tool .busy")).to_have_count(0)
    return card(page, position)


def lines(words):
    return [one.split()[1] for one in words.evaluate_all("all => all.map((one) => one.style.textDecoration)")]


def test_words_are_underlined_by_their_support_in_lines_that_differ_in_shape(opened, checked, worded):
    page = opened()
    calibrated(page)
    explained(page, [1])
    shown = check(page)
    words = shown.locator(".text .claim")
    assert words.all_inner_texts() == ["It sat 🙂.", 'It says "', "a mat", '".']
    assert shown.locator(".text").inner_text() == WORDS
    assert lines(words) == ["solid", "wavy", "dotted", "wavy"]
    ((texts, against, how),) = checked
    assert texts == [WORDS] and against == ["The cat sat on the mat"] and how["position"] == [1]
    assert shown.locator(".claims li > .number").all_inner_texts() == ["96 %", "6 %", "–"]
    meaning = shown.locator(".meaning")
    says = "probability that the text says so, judged without the text. On 9 held-out documents it was off by 0.034"
    expect(meaning).to_contain_text(says, use_inner_text=True)
    expect(meaning).to_contain_text("by kind: word 62 % (by chance 13 %).")


def test_by_mouse_or_by_keys_a_claim_says_why(opened, checked, worded):
    page = opened()
    explained(page, [1])
    shown = check(page)
    quote = shown.locator(".text .claim", has_text="a mat")
    tip = page.locator(f"[id='{quote.get_attribute('aria-describedby')}']")
    expect(tip).to_be_hidden()
    quote.hover()
    expect(tip).to_contain_text("probability not known, quote. ")
    expect(tip.locator(".receipts > span")).to_have_text(
        [
            "words in the text 1.000 ",
            "lost without it (FVE) 0.125 by chance −0.250",
            "Where nothing stands beside a number, its value by chance is not known.",
        ]
    )
    page.mouse.move(0, 0)
    expect(tip).to_be_hidden()
    shown.locator(".text .claim").first.focus()
    page.keyboard.press("Tab")  # the second sentence
    page.keyboard.press("Tab")
    expect(tip).to_be_visible()
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    expect(shown).to_be_visible()
    shown.locator(".claims summary").first.click()
    expect(shown.locator(".claims .receipts").first).to_be_visible()


def test_one_card_is_checked_once_and_only_when_it_is_asked_for(opened, checked):
    page = opened()
    explained(page, [1, 2, 3])
    assert checked == []
    check(page)
    check_again = card(page, 1).get_by_role("button", name="Check its words")
    check_again.click()
    check_again.click()
    expect(card(page, 1).locator(".claims li").first).to_be_visible()
    assert len(checked) == 1
    token(page, 2).click()
    expect(card(page, 2).locator(".text .claim")).to_have_count(0)


def test_a_pair_without_a_calibration_says_so_and_shows_what_speaks_for_its_words(opened, full_pair):
    page = opened()
    explained(page, [1])
    shown = check(page)
    expect(shown.locator(".tool .hint").first).to_contain_text("No probability:")
    assert {*lines(shown.locator(".text .claim"))} == {"dotted"}
    assert shown.locator(".claims li > .number").first.inner_text() == "–"
    assert "by chance" in shown.locator(".claims .receipts").first.text_content()


def test_what_was_checked_is_exported_and_what_fails_is_said(opened, checked, monkeypatch, full_pair):
    import json

    page = opened(refused=("400",))
    explained(page, [1])
    plain = type(full_pair).check

    def refusing(*_, **__):
        from nla_sdk.errors import InputError

        raise InputError("No claim can be checked here.")

    monkeypatch.setattr(type(full_pair), "check", refusing)
    shown = check(page)
    expect(shown.get_by_role("alert")).to_contain_text("No claim can be checked here.")
    monkeypatch.setattr(type(full_pair), "check", plain)
    shown.get_by_role("button", name="Try again").click()
    expect(shown.locator(".claims li").first).to_be_visible()
    page.get_by_text("Export", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON").click()
    (row,) = json.loads(download.value.path().read_text())["rows"]
    assert row["claims"][0]["receipts"]["ablation"] == {"value": 0.125, "null": -0.25}
