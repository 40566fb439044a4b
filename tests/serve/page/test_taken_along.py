"""What leaves the page and what comes into it: links, exports, files of vectors; and the page inside a notebook."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import struct

import numpy as np
import pytest
from playwright.sync_api import expect

from .test_page import TEXT, card, done, explained, number, token, tokens, write

# What a notebook gives a widget: messages to a kernel, and from it; here the kernel is the server behind the page.
NOTEBOOK = """async (text) => {
    const { default: widget } = await import("/widget-under-test.js");
    const heard = new Set();
    const running = new Map();
    const tell = (message) => heard.forEach((one) => one(message));
    window.sent = [];
    const model = {
        get: (name) => ({ text, height: 700 })[name],
        on: (name, one) => name === "msg:custom" && heard.add(one),
        off: (name, one) => heard.delete(one),
        async send(message, callbacks, buffers) {
            window.sent.push(message.type);
            if (message.type === "cancel") return running.get(message.id)?.abort();
            const control = new AbortController();
            running.set(message.id, control);
            const { method, path, headers, body } = message;
            try {
                const { signal } = control;
                const answer = await fetch(path, { method, headers, body: buffers?.[0] ?? body ?? undefined, signal });
                const { id } = message;
                tell({ id, type: "head", status: answer.status, headers: Object.fromEntries(answer.headers) });
                const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
                for (let part; !(part = await reader.read()).done; ) tell({ id, type: "chunk", data: part.value });
                tell({ id, type: "end" });
            } catch (fault) {
                if (fault.name !== "AbortError") throw fault;
            }
        },
    };
    const el = document.createElement("div");
    document.body.replaceChildren(el);
    window.end = await widget.render({ model, el });
}"""


def link(page):
    page.get_by_role("button", name="Share link").click()
    expect(page.get_by_text(re.compile("Link copied|The link is in the address bar"))).to_be_visible()
    return re.search("#.*", page.url)[0]


def exported(page, kind):
    page.get_by_text("Export", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name=kind).click()
    assert download.value.suggested_filename == f"nla-explanations.{kind.lower()}"
    return open(download.value.path(), "rb").read()


def dropped(page, name, data):
    page.get_by_role("button", name="Vector file").click()
    transfer = page.evaluate_handle(
        """([name, data]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(data)], name));
            return transfer;
        }""",
        [name, list(data)],
    )
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": transfer})


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_a_link_opens_what_was_seen_with_nothing_kept_by_the_server(opened):
    page = opened()
    explained(page, [2, 3, 4])
    card(page, 3).locator(".head").click()
    words = card(page, 3).locator(".text").inner_text()
    end = link(page)
    other = opened(at=end)  # a context of its own: no storage in common
    expect(other.get_by_label("Text", exact=True)).to_have_value(TEXT)
    done(other, 3)
    expect(card(other, 3)).to_have_class(re.compile("open"))
    expect(other.locator(".token.chosen")).to_have_count(3)
    assert card(other, 3).locator(".text").inner_text() == words


def test_the_address_holds_no_link_to_a_text_that_the_page_no_longer_shows(opened):
    page = opened()
    end = link(page)
    page.get_by_label("Text", exact=True).fill("Another text")
    expect(page).not_to_have_url(re.compile("#"))
    other = opened(at=end)
    expect(other.locator(".token").first).to_be_visible()
    assert "#" in other.url
    other.get_by_label("Text", exact=True).fill("Another text")
    expect(other).not_to_have_url(re.compile("#"))


def test_a_link_holds_a_chat_and_its_roles(opened):
    page = opened()
    page.get_by_role("button", name="Chat", exact=True).click()
    page.get_by_label("Message 1", exact=True).fill("Grüße 🫠 <b>")
    other = opened(at=link(page))
    expect(other.get_by_label("Message 1", exact=True)).to_have_value("Grüße 🫠 <b>")
    expect(other.get_by_label("Role of message 2")).to_have_value("assistant")


@pytest.mark.parametrize("end", ["#z=AAAA", "#b=bm8", "#b=eyJ2Ijo5fQ"], ids=["no deflate", "no JSON", "a later page's"])
def test_a_damaged_link_is_said_to_be_one(opened, end):
    page = opened(at=end)
    expect(page.get_by_role("alert")).to_contain_text("This link is damaged")
    expect(page.locator(".token").first).to_be_visible()


def test_a_link_of_a_comparison_opens_it_and_what_has_no_form_is_left_out(opened, full_pair):
    page = opened()
    write(page)
    token(page, 2).click()
    token(page, 3).click(modifiers=["Shift"])
    page.get_by_role("button", name="Compare these two").click()
    other = opened(at=link(page))
    acts = full_pair.extract(TEXT, positions="all")
    right = full_pair.compare(acts.vectors[2], acts.vectors[3])
    expect(other.locator(".words p").nth(2)).to_have_text(str(right.difference))
    odd = {"v": 1, "t": "Odd", "s": {"by": "x", "layer": "y", "more": None}, "x": [-1, "2", 900], "k": {"a": 1}}
    page = opened(at="#b=" + base64.urlsafe_b64encode(json.dumps(odd).encode()).decode().rstrip("="))
    expect(page.get_by_label("Text", exact=True)).to_have_value("Odd")
    expect(page.locator(".legend .steps span")).to_have_count(5)


def test_exports_hold_what_is_on_the_page(opened, full_pair):
    page = opened()
    explained(page, [1, 2])
    acts = full_pair.extract(TEXT, positions="all")
    trips = [full_pair.round_trip(acts.vectors[at]) for at in (1, 2)]
    found = json.loads(exported(page, "JSON"))
    assert found["text"] == TEXT and found["pair"]["name"] == "pair"
    assert [row["api_explanation"] for row in found["rows"]] == [str(trip.explanation) for trip in trips]
    assert [row["gain"] for row in found["rows"]] == pytest.approx([trip.gain for trip in trips], abs=1e-4)
    table = list(csv.DictReader(io.StringIO(exported(page, "CSV").decode())))
    assert [row["position"] for row in table] == ["1", "2"]
    shown = [row["api_explanation"] for row in table]
    assert [text.removeprefix("'") for text in shown] == [str(trip.explanation) for trip in trips]
    picture = exported(page, "PNG")
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", picture[16:24])
    assert width == 2000 and height > 400


def test_a_dropped_file_is_asked_about_and_its_rows_explained_as_what_they_are(opened, full_pair):
    page = opened(refused=("400",))  # what is asked comes as a refusal
    vectors = np.random.default_rng(5).normal(size=(3, full_pair.d_model)).astype(np.float32)
    dropped(page, "probes.npy", npy(vectors))
    form = page.locator("form.questions")
    expect(form).to_contain_text("probes.npy does not say everything", use_inner_text=True)
    form.locator("label", has_text="kind").locator("select").select_option("direction")
    if (layer := form.locator("label", has_text="layer").locator("input")).count():
        layer.fill(str(full_pair.layer))
    form.get_by_role("button", name="Read it so").click()
    expect(page.locator(".rows li")).to_have_count(3)
    expect(page.locator(".file")).to_contain_text("3 vectors, direction")
    page.get_by_label("Sign").select_option("±")
    page.locator(".rows button").nth(1).click()
    done(page, 2)
    right = [full_pair.round_trip(sign * vectors[1], kind="direction") for sign in (1, -1)]
    shown = page.locator(".card .text")
    assert [shown.nth(at).inner_text().split() for at in (0, 1)] == [str(one.explanation).split() for one in right]
    expect(page.locator(".card .of").nth(1)).to_contain_text("turned round")
    gain = page.locator(".card.open .gainrow.strong .number").inner_text()
    assert number(gain) == pytest.approx(right[0].gain, abs=0.006)


def test_a_file_that_holds_no_vectors_is_refused_in_words(opened):
    page = opened(refused=("400",))
    dropped(page, "notes.npy", b"no array at all")
    expect(page.locator(".vectors").get_by_role("alert")).to_be_visible()
    assert "notes" in page.locator(".vectors .fault").inner_text()


def test_pasted_numbers_are_asked_what_they_are(opened, full_pair):
    page = opened()
    vector = np.random.default_rng(6).normal(size=full_pair.d_model).round(3)
    page.get_by_role("button", name="Vector file").click()
    page.locator(".drop").evaluate(
        """(box, text) => {
            const clipboardData = new DataTransfer();
            clipboardData.setData("text", text);
            box.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
        }""",
        json.dumps(vector.tolist()),
    )
    page.locator("form.questions select").select_option("direction")
    page.get_by_role("button", name="Read it so").click()
    page.locator(".rows button").click()
    done(page, 1)
    right = full_pair.round_trip(vector.astype(np.float32), kind="direction")
    assert page.locator(".card .text").inner_text().split() == str(right.explanation).split()


def test_the_widget_does_the_same_over_messages(opened, full_pair, bundle):
    page = opened()
    script = (bundle / "widget.js").read_bytes()
    page.route("**/widget-under-test.js", lambda route: route.fulfill(body=script, content_type="text/javascript"))
    page.evaluate(NOTEBOOK, "A dog ran")
    expect(page.get_by_label("Text", exact=True)).to_have_value("A dog ran")
    assert page.evaluate("document.querySelector('div').shadowRoot.adoptedStyleSheets.length") == 1
    token(page, 1).click()
    done(page, 1)
    right = full_pair.round_trip(full_pair.extract("A dog ran", positions="all").vectors[1])
    assert card(page, 1).locator(".text").inner_text().split() == str(right.explanation).split()
    assert page.get_by_role("button", name="Share link").count() == 0  # a notebook's address is not the page's
    write(page, "The long way home")
    page.get_by_role("button", name="Explain this text").click()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    assert "cancel" in page.evaluate("window.sent")
    expect(tokens(page)).to_be_visible()
    page.evaluate("window.end()")
    expect(tokens(page)).to_have_count(0)
