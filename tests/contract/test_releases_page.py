"""docs/releases.md and README's table say what the data says."""

import runpy
from pathlib import Path

import pytest

from nla_sdk.contract.releases.catalogue import releases

ROOT = Path(__file__).parents[2]
GENERATOR = runpy.run_path(str(ROOT / "docs" / "releases.py"))


@pytest.mark.parametrize(("file", "written"), [("docs/releases.md", "page"), ("README.md", "readme")])
def test_the_tables_are_what_the_data_says(file, written):
    text = (ROOT / file).read_text(encoding="utf-8")
    assert GENERATOR[written](text) == text, "run: python docs/releases.py"


def test_every_release_has_its_line_with_what_it_takes():
    page = (ROOT / "docs" / "releases.md").read_text(encoding="utf-8")
    lines = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert set(lines) == {GENERATOR["name"](release) for release in releases()}
    assert (
        "add at block 1, norm match; chat prompt; output tagged | yes | CK |"
        in lines["ceselder/nanonla-l24-av-qwen3-8b"]
    )
    assert "reads at the marker; no head" in lines["anicka/nla-qwen2.5-7b-L20-ar-v2"]
    assert "on av_base" in lines["ceselder/qwen3.6-27b-nla-rl/av_rl_adapters/*"]
