"""What a visitor does on the page: type, choose, read, edit, compare. Mostly a tiny random pair answers: nonsense."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest
from playwright.sync_api import expect

from nla_sdk.evaluation.reading import load
from nla_sdk.evaluation.schema import EVALUATION

TEXT = "The cat sat on the mat"
FIRST = 1  # position of the first token after BOS


@pytest.fixture
def trip(full_pair):
    """position of TEXT → the round trip that a call in Python makes."""
    acts = full_pair.extract(TEXT, positions="all")
    return lambda at: full_pair.round_trip(acts.vectors[at])


def write(page, text=TEXT):
    page.get_by_label("Text", exact=True).fill(text)
    expect(tokens(page)).not_to_have_class(re.compile("stale"))
    expect(page.locator(".token").nth(1)).to_have_text(text[0])


def tokens(page):
    return page.get_by_role("listbox")


def token(page, position):
    return page.locator(f'.token[data-position="{position}"]')


def card(page, position):
    return page.locator(f'.card[data-position="{position}"]')


def done(page, count):
    expect(page.locator(".card.is-done")).to_have_count(count)
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)


def number(text):
    return float(text.replace("−", "-"))


def explained(page, positions, text=TEXT):
    write(page, text)
    token(page, positions[0]).click()
    token(page, positions[-1]).click(modifiers=["Shift"])
    if len(positions) > 1:
        page.get_by_role("button", name=re.compile(r"Explain \d+ token")).click()
    done(page, len(positions))


def test_a_visitor_sees_what_the_page_is_which_pair_and_its_warning(opened):
    page = opened()
    expect(page.locator(".lede")).to_contain_text("Click a word to read what a language model holds inside")
    expect(page.locator(".pair")).to_contain_text("pair")
    expect(page.locator(".verdict")).to_have_text("not measured")
    expect(page.get_by_role("note", name="Warning about this pair")).to_contain_text("Nobody has measured")
    expect(page.locator(".legend .steps span")).to_have_count(5)
    assert page.locator(".token").count() > 10  # of the example, ready to be clicked


def test_a_measured_pair_shows_its_verdict_its_figures_and_no_warning(opened):
    page = opened("demo")
    expect(page.locator(".verdict")).to_have_text("reads-content")
    expect(page.get_by_role("note")).to_have_count(0)
    expect(page.get_by_role("navigation").get_by_role("button", name="Chat")).to_have_count(0)  # Gemma's base has none
    rows = load(Path(str(resources.files("nla_sdk") / "demo" / EVALUATION))).round_trip.evaluated
    expect(page.locator("footer")).to_contain_text(f"Measured on {rows} held-out activations", use_inner_text=True)
    short = lambda route: route.continue_(post_data={**route.request.post_data_json, "max_new_tokens": 16})  # noqa: E731
    page.route("**/v1/round-trip", short)
    token(page, 2).click()
    expect(page.locator(".card.is-done")).to_have_count(1, timeout=60_000)
    page.get_by_label("Underline by").select_option("fve")
    expect(token(page, 2)).to_have_attribute("aria-label", re.compile(r"Eiffel, position 2, FVE [−-]?\d\.\d\d"))
    expect(card(page, 2).locator(".gainrow", has_text="mean direction")).to_be_visible()


def test_typed_text_becomes_the_tokens_that_the_source_reads(opened, full_pair):
    page = opened()
    write(page)
    shown = page.locator(".token").evaluate_all("all => all.map((one) => [one.dataset.position, one.textContent])")
    acts = full_pair.extract(TEXT, positions="all")
    visible = [text.replace(" ", "␣") if not text.strip() else text.strip() for text in acts.tokens]
    assert shown == [[str(at), text] for at, text in zip(acts.positions, visible, strict=True)]


def test_white_space_and_line_breaks_are_seen(opened):
    page = opened()
    write(page, "a\n\n  b")
    expect(page.locator(".token", has_text="↵")).to_have_count(2)
    expect(tokens(page).locator("br")).to_have_count(2)
    expect(page.locator(".token.blank").first).to_be_visible()


def test_a_click_explains_at_once_and_the_words_are_the_pairs(opened, trip):
    page = opened()
    write(page)
    token(page, FIRST).click()
    done(page, 1)
    right = trip(FIRST)
    shown = card(page, FIRST)
    assert shown.locator(".text").inner_text().split() == str(right.explanation).split()
    assert number(shown.locator(".gainrow.strong .number").inner_text()) == pytest.approx(right.gain, abs=0.006)
    assert f"gain {right.gain:.2f}".replace("-", "−") in token(page, FIRST).get_attribute("aria-label")
    line = token(page, FIRST).evaluate("one => getComputedStyle(one).borderBottomStyle")
    assert line == ("solid" if right.gain >= 0 else "dashed")


def test_words_grow_in_their_card_before_they_are_scored(opened):
    page = opened()
    write(page)
    page.evaluate(
        """() => {
            window.seen = new Set();
            const growing = () => document.querySelectorAll(".card .text.writing");
            const look = () => growing().forEach((one) => window.seen.add(one.textContent));
            new MutationObserver(look).observe(document.body, { childList: true, subtree: true, characterData: true });
        }"""
    )
    page.get_by_role("button", name="Explain this text").click()
    expect(page.locator(".card.is-done").first).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    assert page.evaluate("window.seen.size") > 5


def test_dragging_and_shift_click_choose_what_lies_between(opened):
    page = opened()
    write(page)
    token(page, 2).hover()
    page.mouse.down()
    token(page, 3).hover()
    token(page, 5).hover()
    page.mouse.up()
    expect(page.locator(".token.chosen")).to_have_count(4)
    token(page, 8).click(modifiers=["Shift"])
    expect(page.locator(".token.chosen")).to_have_count(7)
    page.get_by_role("button", name="Clear choice").click()
    expect(page.locator(".token.chosen")).to_have_count(0)


def test_on_a_touch_screen_taps_choose_several_once_that_is_asked_for(opened):
    page = opened(has_touch=True, is_mobile=True, viewport={"width": 390, "height": 844})
    write(page)
    page.get_by_role("button", name="Choose several").tap()
    for at in (2, 4):
        token(page, at).tap()
    expect(page.locator(".token.chosen")).to_have_count(2)
    page.get_by_role("button", name="Explain 2 tokens").tap()
    done(page, 2)


def test_everything_is_done_by_keys_alone(opened):
    page = opened()
    write(page)
    box = tokens(page)
    box.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert box.get_attribute("aria-activedescendant") == "token-3"
    page.keyboard.press("Shift+ArrowRight")
    expect(page.get_by_role("option", selected=True)).to_have_count(2)
    page.keyboard.press("Enter")
    done(page, 2)
    expect(card(page, 3)).to_have_class(re.compile("open"))
    page.keyboard.press("Escape")
    expect(page.get_by_role("option", selected=True)).to_have_count(0)
    page.keyboard.press("Home")
    page.keyboard.press("Space")
    expect(token(page, 0)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page.locator(".card.open")).to_have_count(0)


def test_edited_words_are_scored_beside_the_pairs(opened, full_pair):
    page = opened()
    explained(page, [FIRST])
    shown = card(page, FIRST)
    shown.get_by_role("button", name="Edit the words").click()
    shown.get_by_label("The explanation, to be changed").fill("Fish and the sea.")
    vector = full_pair.extract(TEXT, positions="all").vectors[FIRST]
    expect(shown.locator(".change")).to_contain_text("gain, cosine")
    right = full_pair.score("Fish and the sea.", vector)
    yours = shown.locator(".edited .gainrow.strong .number").inner_text()
    assert number(yours) == pytest.approx(right.gain, abs=0.006)
    expect(shown.locator(".diff ins")).not_to_have_count(0)
    shown.get_by_role("button", name="Back to the pair’s words").click()
    expect(shown.locator(".diff")).to_have_count(0)


def test_other_tokens_words_stand_beside_a_score(opened, full_pair, trip):
    page = opened()
    explained(page, [1, 2, 3])
    row = card(page, 1).locator(".gainrow", has_text="others’ words")
    vector = full_pair.extract(TEXT, positions="all").vectors[1]
    right = [full_pair.score(str(trip(at).explanation), vector).gain for at in (2, 3)]
    expect(row.locator(".number")).to_have_count(1)
    assert number(row.locator(".number").inner_text()) == pytest.approx(sum(right) / 2, abs=0.006)


def test_others_that_say_the_very_same_count_as_others(opened, full_pair):
    page = opened()

    def alike(route) -> None:
        answer = route.fetch()
        body = re.sub(r'"api_explanation":"(?:[^"\\]|\\.)*"', '"api_explanation":"Always this."', answer.text())
        route.fulfill(response=answer, body=body)

    page.route("**/v1/round-trip", alike)
    explained(page, [1, 2])
    card(page, 1).locator(".head").click()
    right = full_pair.score("Always this.", full_pair.extract(TEXT, positions="all").vectors[1]).gain
    row = card(page, 1).locator(".gainrow", has_text="others’ words")
    expect(row.locator(".number")).to_have_count(1)
    assert number(row.locator(".number").inner_text()) == pytest.approx(right, abs=0.006)


def test_an_explanation_is_sampled_taken_apart_rebuilt_and_steered_with(opened, full_pair, trip):
    page = opened()
    explained(page, [FIRST])
    shown = card(page, FIRST)
    shown.get_by_role("button", name="Which sentence carries it").click()
    expect(shown.locator(".sentences .adds").first).to_contain_text(re.compile(r"[+−]?\d\.\d\d"))
    shown.get_by_role("button", name="Say it otherwise").click()
    expect(shown.locator(".samples .adds")).to_have_count(4)
    shown.get_by_role("button", name="Nearest tokens").click()
    expect(shown.locator(".nearest li")).to_have_count(8)
    shown.get_by_role("button", name="Steer with it").click()
    shown.get_by_role("button", name="Steer", exact=True).click()
    steered = shown.locator(".steered p").nth(1)
    expect(steered).to_be_visible()
    right = full_pair.steer("My favourite thing is", str(trip(FIRST).explanation), 0.5, max_new_tokens=32)
    assert steered.inner_text().split() == f"My favourite thing is{right.steered}".split()


def test_two_tokens_and_two_texts_are_compared(opened, full_pair):
    page = opened()
    write(page)
    token(page, 2).click()
    token(page, 3).click(modifiers=["Shift"])
    page.get_by_role("button", name="Compare these two").click()
    acts = full_pair.extract(TEXT, positions="all")
    right = full_pair.compare(acts.vectors[2], acts.vectors[3])
    words = page.locator(".words p")
    expect(words).to_have_count(4)
    assert words.nth(0).inner_text().split() == str(right.a).split()
    assert words.nth(2).inner_text().split() == str(right.difference).split()
    page.get_by_role("button", name="Compare two texts instead").click()
    page.get_by_label("First text").fill("A dog")
    page.get_by_role("main").get_by_role("button", name="Compare", exact=True).click()
    right = full_pair.compare("A dog", "The soup was cold")
    expect(words.nth(0)).to_have_text(re.compile(re.escape(str(right.a).split()[0])))
    assert words.nth(3).inner_text().strip()


def test_a_chat_has_roles_and_its_scaffolding_is_quiet(opened):
    page = opened()
    page.get_by_role("button", name="Chat", exact=True).click()
    page.get_by_label("Message 1", exact=True).fill("Hello")
    page.get_by_label("Role of message 1").select_option("system")
    expect(page.get_by_role("group", name="message of system")).to_be_visible()
    heads = page.locator(".turn .token.quiet")
    assert heads.count() > 4
    before = page.locator(".token").count()
    page.get_by_role("button", name="Remove message 2").click()
    expect(page.get_by_label("Message 2", exact=True)).to_have_count(0)
    expect(tokens(page)).not_to_have_class(re.compile("stale"))
    assert page.locator(".token").count() < before


def test_explanations_are_searched_also_those_of_earlier_texts(opened, trip):
    page = opened()
    explained(page, [FIRST])
    write(page, "Other words")
    expect(page.locator(".card")).to_have_count(0)
    some = max(re.findall(r"\w+", str(trip(FIRST).explanation)), key=len)
    page.get_by_role("searchbox").fill(some)
    expect(page.locator(".card mark").first).to_have_text(re.compile(re.escape(some), re.IGNORECASE))
    page.locator(".card .head").click()
    expect(page.get_by_label("Text", exact=True)).to_have_value(TEXT)
    expect(card(page, FIRST)).to_have_class(re.compile("open"))
    page.get_by_role("searchbox").fill("nobody wrote this")
    expect(page.locator(".card")).to_have_count(0)


def test_a_pair_without_an_ar_explains_and_claims_no_score(opened):
    page = opened("av")
    expect(page.locator(".verdict")).to_have_text("AV only")
    expect(page.locator(".legend")).to_contain_text("No AR is loaded", use_inner_text=True)
    write(page)
    token(page, FIRST).click()
    done(page, 1)
    expect(card(page, FIRST).locator(".score, .beside")).to_have_count(0)
    expect(card(page, FIRST).get_by_role("button", name="Edit the words")).to_have_count(0)


def test_an_oracle_answers_a_question_about_the_chosen_tokens(opened, served):
    page = opened("oracle")
    write(page)
    page.get_by_label("Question").fill("What is near?")
    token(page, 2).click()
    done(page, 1)
    expect(page.locator(".card .asked")).to_have_text("What is near?")
    token(page, 4).click(modifiers=["Shift"])
    page.get_by_role("button", name="Ask about 3 tokens").click()
    done(page, 2)
    expect(page.locator(".card .where").nth(1)).to_have_text("3 tokens")
    page.get_by_label("Layer").select_option("2")
    expect(page.locator(".card")).to_have_count(0)  # of another layer


def test_a_server_with_a_secret_is_opened_by_it_and_forgets_it_with_the_tab(opened):
    page = opened(how=(("secret", "open sesame"),), refused=("401", "403"))
    page.get_by_label("Secret").fill("wrong")
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_text("That was not it.")).to_be_visible()
    page.get_by_label("Secret").fill("open sesame")
    page.get_by_role("button", name="Open").click()
    expect(page.locator(".token").first).to_be_visible()
    assert page.evaluate("JSON.stringify(localStorage)") == "{}"


@pytest.mark.parametrize(
    "status, body, said",
    [
        (429, '{"detail": "The queue is full."}', "The queue is full. Free again in about 3 s."),
        (500, "<h1>a proxy's page</h1>", "The server answered 500."),
    ],
)
def test_a_refusal_stands_where_it_belongs_and_can_be_tried_again(opened, status, body, said):
    page = opened(refused=(str(status),))
    write(page)
    page.route("**/v1/round-trip", lambda route: route.fulfill(status=status, body=body, headers={"Retry-After": "3"}))
    token(page, FIRST).click()
    expect(card(page, FIRST).get_by_role("alert")).to_contain_text(said)
    page.unroute("**/v1/round-trip")
    card(page, FIRST).get_by_role("button", name="Try again").click()
    done(page, 1)


def test_a_connection_that_breaks_off_is_told_in_words_and_all_is_asked_again_at_once(opened):
    page = opened()
    write(page)
    page.evaluate(
        """() => {
            const real = window.fetch;
            const cut = (stream) => stream.error(new TypeError("network error"));
            window.fetch = (...asked) =>
                String(asked[0]).includes("round-trip") && window.cut
                    ? Promise.resolve(new Response(new ReadableStream({ start: cut })))
                    : real(...asked);
            window.cut = true;
        }"""
    )
    page.get_by_role("button", name="Explain this text").click()
    expect(page.locator(".card.is-failed").first).to_contain_text(
        "The connection broke off. Is the server still running?"
    )
    page.evaluate("window.cut = false")
    page.get_by_role("button", name="Explain this text").click()
    expect(page.locator(".card.is-done").first).to_be_visible()
    expect(page.locator(".card.is-failed")).to_have_count(0)
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)


def test_stop_means_the_requests_to_come_as_well(opened):
    page = opened()
    write(page, "abc " * 110)
    asked = []
    page.route("**/v1/round-trip", lambda route: asked.append(route))  # never answered
    page.get_by_role("button", name=re.compile(r"Explain all \d+ tokens")).click()
    expect(page.locator(".card.is-waiting")).not_to_have_count(0)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".card.is-waiting")).to_have_count(0)
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    assert len(asked) == 1


def test_a_token_far_down_a_long_text_stays_in_sight(opened):
    page = opened()
    write(page, "abc " * 250)
    last = page.locator(".token").last
    last.click()
    expect(page.locator(".card.open.is-done")).to_be_in_viewport()
    expect(last).to_be_in_viewport()
    page.keyboard.press("Home")
    expect(page.locator(".token").first).to_be_in_viewport()
