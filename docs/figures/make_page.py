"""README's picture of the page: the demo pair served here, a text explained, its last token open, as Chromium shows it.

    python docs/figures/make_page.py

Needs what the page's tests need: Chromium and playwright, which `pip install -e ".[dev]"` brings.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from nla_sdk import NLAPair
from nla_sdk.serve.running import serving

OUT = Path(__file__).parent / "page.png"
TEXT = "The Eiffel Tower stands in the city of"
EDITED = ("Paris", "London")
HIDDEN = 6  # explanations, of the first words
SIZE = {"width": 1240, "height": 900}
PATIENCE = 300_000  # ms: it may be a slow machine
MOST = 300_000  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=OUT)
    out = parser.parse_args().out
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        parser.error("no Chromium found; expected `chromium` or `google-chrome` on PATH")
    with serving(NLAPair.from_pretrained("demo"), name="demo") as url, sync_playwright() as playwright:
        shown = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = shown.new_page(viewport=SIZE, color_scheme="light")
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        page.goto(url)
        page.get_by_label("Text", exact=True).fill(TEXT)
        page.get_by_role("button", name="Explain this text").click()
        expect(page.locator(".token.is-done")).to_have_count(len(TEXT.split()))
        last = page.locator(".token").last
        last.click()
        card = page.locator(".card.open")
        expect(card.locator(".gainrow .number")).to_have_count(4)
        card.get_by_role("button", name="Edit the words").click()
        words = card.get_by_label("The explanation, to be changed")
        words.fill(words.input_value().replace(*EDITED))
        expect(card.locator(".change")).to_contain_text("cosine")
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        # README has no room for all of them
        for at in range(HIDDEN):
            page.locator(".card:not(.open)").nth(at).evaluate("one => (one.hidden = true)")
        page.evaluate("window.scrollTo(0, 0)")
        height = page.locator("main").evaluate("one => Math.ceil(one.getBoundingClientRect().bottom + 24)")
        page.set_viewport_size({**SIZE, "height": height})
        page.screenshot(path=out)
        shown.close()
    if (size := out.stat().st_size) > MOST:
        raise SystemExit(f"{out} has {size:,} bytes; expected at most {MOST:,}")
    print(f"{out}: {size:,} bytes")


if __name__ == "__main__":
    main()
