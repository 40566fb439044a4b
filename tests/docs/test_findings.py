"""docs/findings.md holds every script of findings/, as its head has it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
GENERATOR = runpy.run_path(str(ROOT / "docs" / "findings.py"))
SCRIPTS = sorted((ROOT / "findings").glob("*.sh"))


def test_the_page_is_what_the_scripts_say():
    assert GENERATOR["page"](PAGE) == PAGE, "run: python docs/findings.py"


def test_every_script_has_its_line_in_the_readme_and_its_section_on_the_page():
    names = [script.stem for script in SCRIPTS]
    assert sorted(name for name, _, _ in GENERATOR["listed"]()) == names
    assert sorted(re.findall(r"^## ([\w-]+)$", PAGE, re.MULTILINE)) == names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_head_says_what_is_expected_what_happens_why_it_matters_and_what_was_seen(script):
    head = GENERATOR["read"](script)
    assert set(head) == {"of", "Expected", "Happens", "Matters", "Seen"} and all(head.values())
    plain = re.sub(r"\s+", " ", re.sub(r"^#", "", script.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert all(re.sub(r"\s+", " ", text) in plain for text in head.values())
