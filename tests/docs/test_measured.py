"""README's figures are those of the evaluation file that is shipped."""

import json
import runpy
from pathlib import Path

from nla_sdk.evaluation.reading import load

ROOT = Path(__file__).parents[2]
GENERATOR = runpy.run_path(str(ROOT / "docs" / "measured.py"))


def test_what_readme_says_was_measured_is_what_the_file_says():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert GENERATOR["readme"](text, load(GENERATOR["SHIPPED"])) == text, "run: python docs/measured.py"


def test_the_round_trip_stands_beside_what_no_words_and_wrong_words_score():
    found = json.loads(GENERATOR["SHIPPED"].read_text(encoding="utf-8"))
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("−", "-")
    for name, said in {"real": "own words", "shuffled": "for other rows", "empty": "| nothing |"}.items():
        line = next(line for line in text.splitlines() if line.startswith("|") and said in line)
        assert f"{found['ablation']['conditions'][name]['fve']['value']:.3f}" in line
