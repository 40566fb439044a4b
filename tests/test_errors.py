"""docs/errors.md holds every refusal and warning there is, as the classes say it now."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

from nla_sdk.errors import NLAError, NLAWarning

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
GENERATOR = runpy.run_path(str(ROOT / "docs" / "errors.py"))
CLASSES = [kind for root in (NLAError, NLAWarning) for _, kind in GENERATOR["classes"](root)]


def test_the_page_is_what_the_classes_say():
    assert GENERATOR["page"](PAGE) == PAGE, "run: python docs/errors.py"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_says_itself_what_it_means_and_what_to_do(kind):
    assert re.match(r"[A-Za-z].*[^.]\.$", vars(kind)["__doc__"].strip().splitlines()[0])
    assert vars(kind)["remedy"].endswith(".") and len(vars(kind)["remedy"]) <= 160
    assert kind.__doc__ not in {parent.__doc__ for parent in kind.__mro__[1:]}


def test_no_two_classes_have_the_same_meaning():
    meanings = [GENERATOR["meaning"](kind) for kind in CLASSES]
    assert len(set(meanings)) == len(meanings) > 40


def raised_in_the_source() -> set[str]:
    """The names in `raise X(…)`, `raise X` and `warn(…, X)`, found by a plain walk."""
    names = set()
    for top in ("nla_sdk", "training", "cards"):
        for file in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Raise) and node.exc is not None:
                    made = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
                    names |= {made.id} if isinstance(made, ast.Name) else set()
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "warn":
                    names |= {one.id for one in node.args if isinstance(one, ast.Name)}
    return {name for name in names if re.fullmatch(r"[A-Z]\w*(Error|Warning)", name)}


def test_every_class_that_is_raised_stands_on_the_page():
    import builtins

    import typer

    ours = {name for name in raised_in_the_source() if not hasattr(builtins, name) and not hasattr(typer, name)}
    on_the_page = set(re.findall(r"^\| (?:&emsp;)*`(\w+)` \|", PAGE, re.MULTILINE))
    assert len(ours) > 25 and ours <= on_the_page
    assert on_the_page == {kind.__name__ for kind in CLASSES}
