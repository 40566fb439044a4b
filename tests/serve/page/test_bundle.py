"""The files that are handed out: small, self-contained, and what the sources build."""

from __future__ import annotations

import re
import shutil
import subprocess

from .conftest import SOURCES

FILES = ["index.html", "nla.css", "nla.js", "widget.js"]
MOST = 300_000  # bytes, all together


def test_the_page_is_four_files_of_at_most_300_kB_together(bundle):
    found = sorted(path.name for path in bundle.iterdir())
    assert found == FILES
    assert sum((bundle / name).stat().st_size for name in FILES) <= MOST


def test_nothing_in_them_names_another_host(bundle):
    for name in FILES:
        hosts = set(re.findall(r"https?://([\w.-]+)", (bundle / name).read_text(encoding="utf-8")))
        assert hosts <= {"www.w3.org"}, name  # the name of SVG's language, which nobody asks for


def test_what_is_bundled_keeps_its_licence(bundle):
    for name in ("nla.js", "widget.js"):
        text = (bundle / name).read_text(encoding="utf-8")
        assert text.count("The MIT License (MIT)") == 3 and "preact 11" in text


def test_the_html_holds_no_script_and_no_style_of_its_own(bundle):
    html = (bundle / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script[^>]*>([^<]*)</script>", html) == [""]
    assert not re.search(r"<style|\sstyle=|\son\w+=", html)


def test_the_sources_build_these_very_bytes(bundle, modules, tmp_path):
    sources = shutil.copytree(SOURCES, tmp_path / "page", ignore=shutil.ignore_patterns("node_modules"))
    (sources / "node_modules").symlink_to(modules)
    subprocess.run(["node", "build.js", str(tmp_path / "out")], cwd=sources, check=True, timeout=120)
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (bundle / name).read_bytes(), f"{name}: npm run build in page/"
