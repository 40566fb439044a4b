"""Whoever comes, with whatever screen: nothing that axe calls serious, nothing cut off, nothing slow to appear."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from .test_page import TEXT, card, explained, write

LOOKS = {
    "desktop": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light"},
    "tablet": {"viewport": {"width": 820, "height": 1100}, "color_scheme": "light"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True},
}
TOOLS = ("Check its words", "Which sentence carries it", "Edit the words", "Nearest tokens", "Steer with it")
MODES = {"Chat": ".turn .token", "Compare": ".compare", "Vector file": ".drop"}
PAINT = 1000  # ms


@pytest.fixture(scope="session")
def axe(modules):
    return (modules / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


def faults(page):
    found = page.evaluate("async () => (await axe.run({ resultTypes: ['violations'] })).violations")
    return [
        (one["id"], node["html"][:160], node["failureSummary"])
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def too_wide(page):
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_serious_and_nothing_is_cut_off(opened, axe, look):
    """On the tablet only what is cut off is looked for: axe sees there what it sees on the desktop."""
    page = opened(**LOOKS[look])
    page.evaluate(axe)

    def fine(where: str) -> None:
        assert too_wide(page) <= 0, where
        assert look == "tablet" or faults(page) == [], where

    expect(page.locator(".token").first).to_be_visible()
    fine("at first")
    explained(page, [1, 2, 3])
    for tool in TOOLS:
        card(page, 1).get_by_role("button", name=tool).click()
        expect(card(page, 1).locator(".tool .busy")).to_have_count(0)
        fine(tool)
    for mode, shown in MODES.items():
        page.get_by_role("navigation").get_by_role("button", name=mode).click()
        expect(page.locator(shown).first).to_be_visible()
        fine(mode)
    page.emulate_media(color_scheme="dark")
    fine("in the dark")


def test_the_first_paint_comes_within_a_second(opened):
    page = opened()
    expect(page.locator(".lede")).to_be_visible()
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint < PAINT


def test_the_colours_can_be_changed_and_stay_so(opened):
    page = opened(color_scheme="light")
    write(page, TEXT)
    paper = "getComputedStyle(document.querySelector('.nla')).backgroundColor"
    light = page.evaluate(paper)
    for _ in range(2):
        page.get_by_role("button", name="Colours:").click()
    expect(page.get_by_role("button", name="Colours: dark")).to_be_visible()
    assert page.evaluate(paper) != light
    page.reload()
    expect(page.get_by_role("button", name="Colours: dark")).to_be_visible()
    assert page.evaluate(paper) != light


def test_a_terms_sentence_is_shown_on_focus_and_leaves_with_escape(opened):
    page = opened()
    term = page.locator(".legend .term", has_text="gain")
    term.focus()
    tip = page.locator(f"[id='{term.get_attribute('aria-describedby')}']")
    expect(tip).to_be_visible()
    expect(tip).to_contain_text("the share of the error of no words")
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()


def test_on_paper_only_the_text_and_its_explanations_are_left(opened):
    page = opened()
    explained(page, [1, 2])
    page.emulate_media(media="print")
    expect(page.locator(".write")).to_be_hidden()
    for name in (".toolbar", ".search", ".tools"):
        expect(page.locator(name)).to_be_hidden()
    expect(card(page, 1)).to_be_visible()
