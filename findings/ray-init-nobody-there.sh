#!/usr/bin/env bash
# ray 2.60.0, Python 3.11 or newer
#
# Expected: ray.init(address=…) of a port at which nobody listens says so after some seconds, as connections do.
# Happens:  it goes on trying, without a word.
# Matters:  a script whose cluster is gone looks like one that works. Open a socket to the address first.
#
# Seen: a port of this machine that is closed; 60 seconds
#   ray 2.60.0
#   refused by the system at once: True, ray.init still at it: True
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV RAY_ADDRESS
export RAY_USAGE_STATS_ENABLED=0
python3 -m venv venv
venv/bin/pip install -q ray==2.60.0

code=0
timeout -s KILL 60 venv/bin/python -c 'import ray; ray.init(address="127.0.0.1:6399")' >out 2>&1 || code=$?
venv/bin/python - "$code" <<'PY'
import socket
import sys
from importlib.metadata import version

code = int(sys.argv[1])
try:
    socket.create_connection(("127.0.0.1", 6399), timeout=5).close()
    refused = False
except ConnectionRefusedError:
    refused = True
print(f"ray {version('ray')}")
print(f"refused by the system at once: {refused}, ray.init still at it: {code == 137}")
sys.exit(0 if refused and code == 137 else "the behaviour has changed")
PY
