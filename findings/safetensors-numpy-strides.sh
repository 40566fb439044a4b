#!/usr/bin/env bash
# safetensors 0.8.0, beside 0.7.0 (numpy 2.4.6)
#
# Expected: safetensors.numpy.save_file, given an array that is not laid out row by row (a transpose, every other
#           column, Fortran order), either writes its numbers or refuses it.
# Happens:  0.8.0 writes the memory behind the array, as it lies, under the array's shape: other numbers, no error, no
#           warning. 0.7.0 wrote the right ones. The docstring does ask for contiguous tensors.
#           Reported as https://github.com/safetensors/safetensors/issues/825.
# Matters:  projections, adapter matrices and activations are transposed, cut by column or taken from a solver that
#           gives Fortran order before they are saved; under 0.8.0 such a file has the right names, shapes and
#           dtypes, and other numbers. Pass np.ascontiguousarray(x).
#
# Seen:
#   safetensors 0.7.0
#     transpose           [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]   loaded: the same
#     every other column  [[0.0, 2.0], [3.0, 5.0]]   loaded: the same
#     Fortran order       [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]   loaded: the same
#     ascontiguousarray   [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]   loaded: the same
#   safetensors 0.8.0
#     transpose           [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]   loaded: [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
#     every other column  [[0.0, 2.0], [3.0, 5.0]]   loaded: [[0.0, 1.0], [2.0, 3.0]]
#     Fortran order       [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]   loaded: [[0.0, 3.0, 1.0], [4.0, 2.0, 5.0]]
#     ascontiguousarray   [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]   loaded: the same
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
python3 -m venv venv
venv/bin/pip install -q numpy==2.4.6

cat > show.py <<'PY'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

print(f"safetensors {safetensors.__version__}")
right = safetensors.__version__ == "0.7.0"
a = np.arange(6, dtype=np.float32).reshape(2, 3)
changed = False
for name, x, loaded in (
    ("transpose", a.T, [[0, 1], [2, 3], [4, 5]]),
    ("every other column", a[:, ::2], [[0, 1], [2, 3]]),
    ("Fortran order", np.asfortranarray(a), [[0, 3, 1], [4, 2, 5]]),
    ("ascontiguousarray", np.ascontiguousarray(a.T), a.T.tolist()),
):
    save_file({"x": x}, "x.safetensors")
    y = load_file("x.safetensors")["x"]
    print(f"  {name:18}  {x.tolist()}   loaded: {'the same' if np.array_equal(x, y) else y.tolist()}")
    changed |= y.tolist() != (x.tolist() if right else loaded)
if changed:
    sys.exit("the behaviour has changed")
PY

for version in 0.7.0 0.8.0; do
    venv/bin/pip install -q "safetensors==$version"
    venv/bin/python show.py
done
