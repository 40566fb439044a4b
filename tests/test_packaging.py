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


FILES = ["pyproject.toml", "constraints.txt", ".ci/run", ".ci/wheel.sh", "CONTRIBUTING.md", "SECURITY.md"]


@pytest.mark.parametrize("name", [*FILES, ".github/workflows/ci.yml"])
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


def test_unreleased_changes_are_told_by_what_they_mean_for_users():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [version.split()[0] for version in versions][-1] == "0.1.0"
    for version in versions[:-1]:
        kinds = re.findall(r"^### (.+)$", version, flags=re.MULTILINE)
        order = ["Breaking", "Deprecated", "Added", "Changed", "Fixed"]
        assert kinds == [kind for kind in order if kind in kinds]
        assert not re.search(r"^- ", version.partition("### ")[0], flags=re.MULTILINE)


# --- the workflow, which nothing here runs ----------------------------------------------------------------------
@pytest.fixture(scope="module")
def workflow() -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))


def test_every_push_is_held_against_what_anybody_runs_here(workflow):
    started = workflow[True]  # YAML 1.1 reads the key `on` so
    assert set(started) == {"push", "pull_request"} and started["push"] == {"branches": ["main"], "tags": ["v*"]}
    steps = workflow["jobs"]["run"]["steps"]
    assert "if" not in workflow["jobs"]["run"] and steps[-1] == {"run": ".ci/run"}


def test_a_tag_is_published_after_all_else_by_the_one_job_that_may(workflow):
    jobs = workflow["jobs"]
    publish = jobs["publish"]
    assert set(publish["needs"]) == set(jobs) - {"publish"}
    assert publish["environment"] == "pypi" and publish["permissions"] == {"id-token": "write"}
    assert workflow["permissions"] == {"contents": "read"}
    assert not [name for name, job in jobs.items() if "permissions" in job and name != "publish"]
    assert all("tags/v" in jobs[name]["if"] for name in ("wheel", "build"))  # without them publish is skipped
    assert not any("checkout" in step["uses"] or "run" in step for step in publish["steps"])


def test_actions_are_pinned_by_commit(workflow):
    used = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert len(used) > 5 and all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used)


def test_the_wheel_is_tried_on_every_python_that_is_supported(workflow):
    tried = workflow["jobs"]["wheel"]["strategy"]["matrix"]["python"]
    assert f'\nrequires-python = ">={tried[0]}"\n' in PYPROJECT
    assert tried == ["3.10", "3.11", "3.12", "3.13"]


def test_every_extra_is_used_by_the_check_of_the_wheel():
    extras = re.findall(
        r"^(\w+) = \[", PYPROJECT.partition("[project.optional-dependencies]")[2].partition("\n[")[0], re.M
    )
    script = (ROOT / ".ci" / "wheel.sh").read_text(encoding="utf-8")
    assert len(extras) > 8 and not [extra for extra in extras if extra != "dev" and f"\n    {extra}) " not in script]
