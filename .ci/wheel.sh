#!/usr/bin/env bash
# The sdist and the wheel as a user gets them: built, looked into, and installed into fresh environments.
#
#   .ci/wheel.sh [--extras] [--out FOLDER] [PYTHON…]
#
# For each PYTHON (default: python): the wheel without extras, each public command started, a stranger's first imports.
# --extras: each extra alone beside that, and used. --out: what was built is left there. A release runs it with --extras for
# every version of Python that is supported; that takes minutes each.
# Needs git's commit, or says that it knows none; a package index; no GPU, no token.
set -euo pipefail
cd "$(dirname "$0")/.."

extras=
out=
while [ $# -gt 0 ]; do
    case $1 in
    --extras) extras=1; shift ;;
    --out) out=$2; shift 2 ;;
    -*) printf 'unknown option %s\n' "$1" >&2; exit 2 ;;
    *) break ;;
    esac
done
[ $# -gt 0 ] || set -- python
say() { printf '\n== %s\n' "$*"; }

tree=$PWD
constraints=$tree/constraints.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset VIRTUAL_ENV PYTHONPATH PYTHONHOME
export PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUTF8=1
export NLA_CACHE="$work/nla-cache" HF_HOME="$work/hf-home"

commit=unknown
if [ -z "$(git rev-parse --show-prefix 2>/dev/null || echo none)" ] && git rev-parse --quiet --verify HEAD >/dev/null; then
    commit=$(git rev-parse HEAD)
    [ -z "$(git status --porcelain --untracked-files=no)" ] || commit+=+changes
fi

say "built (commit $commit)"
"$1" -m venv "$work/build"
"$work/build/bin/pip" install build
"$work/build/bin/python" -m build --outdir "$work/dist" . >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
"$work/build/bin/python" -m build --wheel --outdir "$work/direct" . >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
"$work/build/bin/python" .ci/contents.py "$commit" "$work"/dist/*.tar.gz "$work"/dist/*.whl "$work"/direct/*.whl
wheel=$(echo "$work"/dist/*.whl)
if [ -n "$out" ]; then
    mkdir -p "$out"
    cp "$work"/dist/* "$out"
fi

cd "$work" # where no import finds the tree
used() { # what an extra is for, in the environment that has it alone
    case $1 in
    demo) HF_HUB_OFFLINE=1 "$2" -m nla_sdk.cli explain "The cat sat on the mat." ;;
    nf4) "$2" -c 'import bitsandbytes, nla_sdk.pair' ;;
    train) "$2" -c 'import bitsandbytes, datasets, sklearn, scipy' && "$2" -m training.fit.av --help ;;
    label) "$2" -c 'import anthropic, jinja2, openai, tenacity' && "$2" -m training.label --help ;;
    eval) "$2" -c 'import jinja2, matplotlib, scipy, sentence_transformers, sklearn' &&
        "$2" -m training.evaluate --help ;;
    engines) "$2" -c 'import tenacity, nla_sdk.engines.verbalizer' && "$2" -m nla_sdk.cli explain --help ;;
    cluster) "$2" -c 'import ray, nla_sdk.jobs.cluster.connection' && "$2" -m nla_sdk.cli explain --help ;;
    publish) "$2" -c 'import jinja2, tenacity; import cards.sandbox; cards.sandbox._environment()' ;;
    serve) "$2" -c 'import uvicorn, nla_sdk.serve.app' && "$2" -m nla_sdk.cli serve --help ;;
    notebook) "$2" -c 'import anywidget, nla_sdk.serve.widget' ;;
    docs) "$2" -m mkdocs --version ;;
    *) printf 'what is the extra %s for? .ci/wheel.sh does not say\n' "$1" >&2; return 1 ;;
    esac
}

for python in "$@"; do
    say "$("$python" --version), without extras"
    rm -rf "$work/env"
    "$python" -m venv "$work/env"
    own=$work/env/bin
    "$own/pip" install --no-compile -c "$constraints" "$wheel" # what is never imported need not be compiled
    env -u PIP_QUIET "$own/pip" check >"$work/log" || { cat "$work/log"; exit 1; }
    version=$("$own/python" -c 'import nla_sdk; print(nla_sdk.__version__)')
    said=$("$own/nla" --version)
    [ "$said" = "nla-sdk $version (commit $commit)" ] || { printf 'nla --version says: %s\n' "$said" >&2; exit 1; }
    "$own/python" -c 'from nla_sdk import NLAPair; NLAPair.from_pretrained'
    "$own/nla" --help >/dev/null
    "$own/nla" releases qwen >/dev/null 2>&1
    for command in publish evaluate pipeline; do "$own/python" -m "training.$command" --help >/dev/null; done
    "$own/python" "$tree/.ci/imports.py"
    [ -n "$extras" ] || continue
    for extra in $("$own/python" -c 'from importlib.metadata import metadata; print(*metadata("nla-sdk").get_all("Provides-Extra"))'); do
        [ "$extra" != dev ] || continue # for a checkout: .ci/run installs it
        say "$("$python" --version), [$extra] alone"
        rm -rf "$work/alone"
        cp -al "$work/env" "$work/alone" # links: torch is not copied; pip replaces files, it does not write into them
        alone=$work/alone/bin/python
        "$alone" -m pip install --no-compile -c "$constraints" "$wheel[$extra]"
        env -u PIP_QUIET "$alone" -m pip check >"$work/log" || { cat "$work/log"; exit 1; }
        used "$extra" "$alone" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
        printf 'used\n'
    done
done
say "the wheel is good: $*"
