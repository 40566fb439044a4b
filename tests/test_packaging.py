"""What the packaging files say agrees with itself and with the code."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

import nla_sdk

ROOT = Path(__file__).parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
PIN = re.compile(r'^([\w.-]+)==([^\s;]+)(?:; python_version (<|>=) "3\.11")?$', flags=re.MULTILINE)
PINS = {name: version for name, version, side in PIN.findall(CONSTRAINTS) if side != "<"}
OLDER = {name: version for name, version, side in PIN.findall(CONSTRAINTS) if side == "<"}
"""On Python 3.10."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required() -> list[str]:
    """The distributions pyproject.toml names, itself excepted."""
    part = PYPROJECT[PYPROJECT.index("dependencies = [") : PYPROJECT.index("[project.scripts]")]
    return sorted({normal(name) for name in re.findall(r'"([\w-]+)(?:[=><])', part)})


def test_the_version_is_the_same_everywhere():
    assert f'\nversion = "{nla_sdk.__version__}"\n' in PYPROJECT
    assert f"\n## {nla_sdk.__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_requirement_is_pinned():
    assert {"torch", "transformers", "gguf", "pytest", "ruff"} <= set(required())
    assert set(required()) <= {normal(name) for name in PINS}


@pytest.mark.parametrize("extra", ["eval", "publish", "label"])
def test_what_fills_templates_brings_the_library_for_it(extra):
    named = re.search(rf"^{extra} = \[(.*)\]$", PYPROJECT, flags=re.MULTILINE)
    assert '"jinja2>=' in named[1]


def test_pins_are_plain_versions():
    lines = [line for line in CONSTRAINTS.splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(PINS) + len(OLDER)
    assert not [pin for pin in [*PINS.values(), *OLDER.values()] if "+" in pin]


def test_python_3_10_has_a_pin_for_each_that_it_cannot_take():
    newer = {name for name, _, side in PIN.findall(CONSTRAINTS) if side == ">="}
    own = {"decorator", "exceptiongroup", "pytz", "tomli"}  # which only older Pythons and pandas 2 need
    assert newer == set(OLDER) - own and {"numpy", "transformers"} <= newer
    named = dict(re.findall(r'"([\w-]+)>=([\d.]+)', PYPROJECT))
    floors = {normal(name): floor for name, floor in named.items()}
    for name, version in OLDER.items():
        if floor := floors.get(normal(name)):
            assert Version(version) >= Version(floor), f"pyproject.toml wants {name} {floor}"


FILES = ["pyproject.toml", "constraints.txt", ".ci/run", "CONTRIBUTING.md", "SECURITY.md"]


@pytest.mark.parametrize("name", FILES)
def test_no_index_and_no_path_of_a_machine_is_written_down(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    folders = "|".join(f"/{name}/" for name in ("home", "root", "work"))
    assert not re.findall(rf"https?://|index-url|find-links|{folders}", text)


def test_the_packages_can_be_imported_and_carry_their_type_marker():
    for package in ("nla_sdk", "training", "cards"):
        assert importlib.import_module(package).__doc__
    assert (ROOT / "nla_sdk" / "py.typed").is_file()


def test_the_license_is_the_whole_apache_license():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_citation_is_of_this_version_and_licence():
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert said["version"] == nla_sdk.__version__
    assert f'\nlicense = "{said["license"]}"\n' in PYPROJECT
    assert {"cff-version", "message", "title", "authors"} <= set(said)
