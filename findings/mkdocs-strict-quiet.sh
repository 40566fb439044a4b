#!/usr/bin/env bash
# mkdocs 1.6.1
#
# Expected: mkdocs build --strict ends with an error where a page links to one that is not there, whether or not --quiet
#           keeps it from talking.
# Happens:  with --quiet it ends with 0. --strict counts the warnings that reach a handler of the logger "mkdocs", and
#           --quiet sets that logger's level to ERROR, so that none is made.
# Matters:  whoever runs the build in CI and wants its log short has a check that cannot fail. Leave --quiet out, or
#           throw stdout and stderr away.
#
# Seen: a page that links to a missing one
#   mkdocs 1.6.1
#   --strict: exit code 1
#   --strict --quiet: exit code 0
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
python3 -m venv venv
venv/bin/pip install -q mkdocs==1.6.1

mkdir docs
printf '# A page\n\n[another](gone.md)\n' >docs/index.md
printf 'site_name: a site\n' >mkdocs.yml

code_of() { # the exit code of a command, without what it says
    local code=0
    "$@" >/dev/null 2>&1 || code=$?
    echo "$code"
}
strict=$(code_of venv/bin/mkdocs build --strict)
quiet=$(code_of venv/bin/mkdocs build --strict --quiet)
echo "mkdocs $(venv/bin/python -c 'import importlib.metadata as m; print(m.version("mkdocs"))')"
echo "--strict: exit code $strict"
echo "--strict --quiet: exit code $quiet"
[ "$strict $quiet" = "1 0" ] || { echo "the behaviour has changed" >&2; exit 1; }
