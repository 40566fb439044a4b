#!/usr/bin/env bash
# pytest-examples 0.0.18, pytest 9.2.0, Python 3.11 or newer
#
# Expected: a block of a Markdown page that raises, run by eval_example.run, is a failed test, whose traceback names the
#           page; the tests behind it run.
# Happens:  pytest ends with INTERNALERROR (RuntimeError: generator raised StopIteration) and runs no further test. The
#           traceback that pytest-examples makes up for the page has instructions that its code object does not have,
#           and pytest now asks for their places.
# Matters:  all is well until an example breaks; then the whole run of tests stops without a summary, and which of them
#           are broken has to be found one by one. Compiled with as many empty lines before it as the page has, a block
#           gives the page's line numbers by itself, and fails like any test.
#
# Seen: a page with a block that raises, and one that does not
#   pytest 9.2.0, pytest-examples 0.0.18
#   exit code 3, INTERNALERROR: True, passed: False
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV PYTEST_ADDOPTS
python3 -m venv venv
venv/bin/pip install -q pytest==9.2.0 pytest-examples==0.0.18

printf '# A\n\n```python\nraise ValueError("no")\n```\n' >a.md
printf '# B\n\n```python\nassert True\n```\n' >b.md
cat >test_pages.py <<'PY'
import pytest
from pytest_examples import find_examples


@pytest.mark.parametrize("example", find_examples("a.md", "b.md"), ids=str)
def test_it_runs(example, eval_example):
    eval_example.run(example)
PY

code=0
venv/bin/python -m pytest -q >out 2>&1 || code=$?
venv/bin/python - "$code" <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

said, code = Path("out").read_text(), int(sys.argv[1])
print(f"pytest {version('pytest')}, pytest-examples {version('pytest-examples')}")
print(f"exit code {code}, INTERNALERROR: {'INTERNALERROR' in said}, passed: {'passed' in said}")
sys.exit(0 if code == 3 and "StopIteration" in said and "passed" not in said else "the behaviour has changed")
PY
