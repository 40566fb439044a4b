"""The pages of the site: each has its place, and says there what it says in the repository."""

from __future__ import annotations

import re
import runpy
from collections import Counter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
INSIDE = runpy.run_path(str(DOCS / "hooks.py"))["inside"]


class Loader(yaml.SafeLoader):
    """mkdocs.yml, whose tags name Python objects, as plain YAML."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
SITE = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def pages(entry: object = None) -> list[str]:
    """The files that the site's navigation names, in order."""
    entry = SITE["nav"] if entry is None else entry
    if isinstance(entry, str):
        return [entry]
    return [page for below in (entry if isinstance(entry, list) else entry.values()) for page in pages(below)]


def test_every_page_has_one_place_and_every_place_a_page():
    left_out = ("demo-cards",)
    there = {file.relative_to(DOCS).as_posix() for file in DOCS.rglob("*.md")}
    assert sorted(pages()) == sorted(page for page in there if not page.startswith(left_out))


def test_nothing_is_fetched_from_elsewhere_and_every_fault_stops_the_build():
    assert SITE["strict"] is True and SITE["theme"]["font"] is False
    assert not {"extra_javascript", "repo_url"} & set(SITE)
    assert all((DOCS / sheet).is_file() for sheet in SITE["extra_css"])
    assert "warn" == SITE["validation"]["anchors"] == SITE["validation"]["links"]["not_found"]


@pytest.mark.parametrize("page", pages())
def test_a_page_has_the_same_tables_lists_and_blocks_on_the_site_and_in_the_repository(page):
    """Python-Markdown wants blank lines and indents where CommonMark, which the repository is read by, does not."""
    import markdown
    from markdown_it import MarkdownIt

    text = INSIDE((DOCS / page).read_text(encoding="utf-8"), page)
    text = re.sub(r"^:::.*?(?=^\S|\Z)", "", text, flags=re.DOTALL | re.MULTILINE)  # what mkdocstrings fills in
    there = MarkdownIt("commonmark").enable("table").render(text)
    here = markdown.markdown(text, extensions=["admonition", "attr_list", "tables", "pymdownx.superfences"])
    tags = ("table", "tr", "li", "pre", "h1", "h2", "h3", "h4", "img", "a")
    counts = [Counter(re.findall(rf"<({'|'.join(tags)})[ >]", html)) for html in (here, there)]
    assert counts[0] == counts[1] and counts[0]["h1"] == 1


@pytest.mark.parametrize(
    "shown",
    [
        'nla round-trip "The Eiffel Tower',  # explain a text
        "nla explain acts.npy",  # activations of one's own …
        "`hidden_states[layer + 1]`",  # … of the right layer
        "nla explain OWNER/SAE/layers.12#12",  # a row of a dictionary
        "--set av.max_rows=320",  # train for 20 steps
        "python -m training.publish --repo ada/cat --checkpoint my-pair --dry-run",
        "nla serve demo",
    ],
)
def test_what_a_stranger_looks_for_is_on_the_start_page_or_a_click_away(shown):
    start = (DOCS / "index.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\(([\w/-]+\.md)", start)
    assert any(shown in text for text in [start, *((DOCS / page).read_text(encoding="utf-8") for page in linked)])


def test_a_link_out_of_the_site_is_a_files_name_or_a_link_into_the_repository():
    assert INSIDE("[speed](../benchmarks/README.md)", "a.md") == "speed (`benchmarks/README.md`)"
    assert INSIDE("[README.md](../README.md#x)", "a.md") == "`README.md`"
    assert INSIDE("[one](../../README.md), [two](b.md#c)", "how/a.md") == "one (`README.md`), [two](b.md#c)"
    assert INSIDE("[s](../README.md)", "a.md", "https://host/o/n/") == "[s](https://host/o/n/blob/HEAD/README.md)"
    block = "```\n[a](../gone)\n```\n"
    assert INSIDE(block, "a.md") == block


def test_a_notebook_is_downloaded_from_the_site():
    link, below = "[one](../examples/believe.ipynb)", "[one](../../examples/believe.ipynb)"
    assert INSIDE(link, "a.md") == "[one](examples/believe.ipynb){: download}"
    assert INSIDE(below, "how/a.md", "https://host/o/n") == "[one](../examples/believe.ipynb){: download}"


def test_a_link_to_what_is_not_there_stops_the_build():
    from mkdocs.exceptions import PluginError

    with pytest.raises(PluginError, match="docs/a.md links to gone.md"):
        INSIDE("[a](../gone.md)", "a.md")
