"""The examples for published pairs run from the top to the bottom, on tiny stand-ins that a Hub has by their names."""

from __future__ import annotations

import ast
import json
import re
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import nla_sdk
from tests import tiny
from tests.families import layouts, oracles, reference_like
from tests.families.bases import Bases, D, tokens_of
from tests.families.layouts import LAYER

pytest_plugins = ["tests.hub.fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::nla_sdk.errors.TruncatedExplanationWarning")
EXAMPLES = Path(__file__).parents[1] / "examples"
SOLSHINE, KITFT = "Solshine/gemma-4-e2b-nla-L23-{}-v0_0_1", "kitft/nla-qwen2.5-7b-L20-{}"
ORACLE = "adamkarvonen/checkpoints_latentqa_cls_past_lens_addition_Qwen3-8B"
FEW = {"max_new_tokens": 6}
Files = Mapping[str, bytes]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def on(base: str, folder: Path, **tiny_facts: Any) -> Path:
    """A tiny half whose files name the real base, and say where it is smaller than the release that is known."""
    tiny.write_sidecar(folder, base_model=base, **tiny_facts)
    if (config := folder / "adapter_config.json").exists():
        config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": base}))
    return folder


def gemma(root: Path, bases: Bases) -> dict[str, Files]:
    made, base = reference_like.solshine(root, bases), "google/gemma-4-E2B"
    small = {"kind": "nla_model", "d_model": D, "layer": 4}
    av = on(base, made.halves["av"], role="av", **small, **layouts.marker_tokens("gemma4", "㊗"), **FEW)
    ar = on(base, made.halves["ar"], role="ar", **small, ar_num_blocks=3)
    return {base: files(bases["gemma4"]), SOLSHINE.format("av"): files(av), SOLSHINE.format("ar"): files(ar)}


def qwen(root: Path, bases: Bases) -> dict[str, Files]:
    made, base = reference_like.kitft(root, bases), "Qwen/Qwen2.5-7B-Instruct"
    av, ar = on(base, made.halves["av"], **FEW), on(base, made.halves["ar"])
    return {base: files(bases["qwen2.5"]), KITFT.format("av"): files(av), KITFT.format("ar"): files(ar)}


def oracle(root: Path, bases: Bases) -> dict[str, Files]:
    made, base = oracles.oracle(root, bases), "Qwen/Qwen3-8B"
    small = {"kind": "nla_model", "role": "av", "d_model": D, "layer": LAYER, "layers": [1, 2, 3]}
    fields = {"layer": {"values": [1, 2, 3]}, "question": {"default": oracles.QUESTION}}
    (token,) = tokens_of("qwen3")(oracles.MARK, add_special_tokens=False).input_ids
    av = on(base, made.halves["av"], **small, injection_token_id=token, fields=fields, **FEW)
    return {base: files(bases["qwen3"]), ORACLE: files(av)}


STAND_INS: dict[str, Callable[[Path, Bases], dict[str, Files]]] = {
    "gemma4_e2b_pair": gemma,
    "qwen_reference_pair": qwen,
    "activation_oracle": oracle,
}


def doc(name: str) -> str:
    return ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))) or ""


@pytest.fixture
def run(monkeypatch, capsys):
    def start(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return start


@pytest.fixture
def served(hub, tmp_path):
    """name → what the Hub then has by the names of what the example downloads."""

    def add(name: str) -> dict[str, Files]:
        repositories = STAND_INS[name](tmp_path / name, Bases(tmp_path / "bases"))
        for repo, content in repositories.items():
            hub.add(repo, content)
        return repositories

    return add


SAID = r" .*\n(?:(?!{}).*\n)*"
"""Tiny models may write line breaks."""
PRINTED = {
    "gemma4_e2b_pair": r"(?:'.*':" + SAID.format(" +cosine") + r"    cosine -?0\.\d{3}, without words -?0\.\d{3}\n){4}",
    "qwen_reference_pair": r"(?:cosine -?0\.\d{3}, gain +\S+ " + SAID.format("cosine|gain:") + r"){8}gain: .*\n",
    "activation_oracle": r"\d+ tokens of 'The cat s', layer 2\n"
    + "".join(
        line + SAID.format("Where|of a recipe")
        for line in (r"Who\?", r"Where\?", r"of a recipe: Who\?", r"of a recipe: Where\?")
    ),
}
REPOSITORY = re.compile(r"(?<![\w./-])(?!examples/)[A-Za-z]\w*/[\w.-]*\w")


@pytest.mark.parametrize("name", STAND_INS)
def test_an_example_runs_and_asks_the_hub_for_what_it_says_it_downloads(name, hub, served, run):
    repositories = served(name)
    out = run(name, "The cat s", *(["Who?", "Where?"] if name == "activation_oracle" else []))
    assert re.fullmatch(PRINTED[name], out), out
    found = (re.search(r"/([\w.-]+/[\w.-]+)/(?:resolve|revision|tree)/", one.path) for one in hub.requests)
    assert {match[1] for match in found if match} == set(repositories) == set(REPOSITORY.findall(doc(name)))
    for repo, content in repositories.items():
        assert hub.downloads(repo) >= {file for file in content if file.endswith(".safetensors")}


@pytest.mark.parametrize("name", STAND_INS)
def test_its_help_says_what_it_needs_before_anything_is_asked_for(name, hub, run, capsys):
    with pytest.raises(SystemExit) as end:
        run(name, "--help")
    shown = capsys.readouterr().out
    assert end.value.code == 0 and hub.requests == []
    for fact in ("downloads", " GB", "needs", "card memory", "token", "--device"):
        assert fact in shown


@pytest.mark.parametrize("name", STAND_INS)
def test_where_it_cannot_be_had_one_line_says_so(name, hub, run):
    with pytest.raises(SystemExit) as end:
        run(name)
    assert str(end.value.code).startswith("error: ") and len(str(end.value.code).splitlines()) <= 2


@pytest.mark.parametrize("name", STAND_INS)
def test_it_is_short_and_uses_the_public_names_only(name):
    source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 60
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.module == "nla_sdk" and {name.name for name in node.names} <= set(nla_sdk.__all__)
        if isinstance(node, ast.Import):
            assert {name.name for name in node.names} <= {"argparse", "sys"}
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_")


def test_every_script_for_a_published_pair_is_tried_here():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    assert scripts - {"round_trip_example"} == set(STAND_INS)
