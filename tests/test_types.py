"""The front door is light at run time and typed for checkers. What it is typed as, `basedpyright` checks in CI."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nla_sdk

ROOT = Path(__file__).parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
CHECKED = re.findall(r'"([\w/.]+)"', PYPROJECT.partition("[tool.basedpyright]")[2].partition("]")[0])
MODULES = sorted({file for name in CHECKED for file in [ROOT / name, *(ROOT / name).rglob("*.py")] if file.is_file()})


def test_what_a_checker_sees_is_what_there_is_at_run_time():
    tree = ast.parse((ROOT / "nla_sdk" / "__init__.py").read_text(encoding="utf-8"))
    [typed] = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    names = {alias.name: node.module for node in typed.body for alias in node.names}
    assert sorted([*names, "__version__"]) == sorted(nla_sdk.__all__) == dir(nla_sdk)
    for name, module in names.items():
        assert getattr(nla_sdk, name) is getattr(sys.modules[f"nla_sdk.{module}"], name)
    with pytest.raises(AttributeError, match="no attribute 'NLAPear'"):
        nla_sdk.NLAPear  # noqa: B018


def test_importing_the_package_or_its_results_imports_nothing_heavy():
    heavy = "{'torch', 'numpy', 'transformers', 'pyarrow', 'pandas'} & set(sys.modules)"
    code = f"import sys, nla_sdk; print({heavy}); import nla_sdk.results, nla_sdk.sampling; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["set()", "set()"], done.stderr


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_public_function_has_an_unannotated_parameter(file):
    bare = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and not re.match(r"_[^_]", node.name):
            given = node.args
            every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            names = {argument.arg for argument in every if argument and argument.annotation is None} - {"self", "cls"}
            bare += [f"{node.name}({name})" for name in sorted(names)]
    assert bare == []
