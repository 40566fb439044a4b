#!/usr/bin/env bash
# huggingface_hub 2.4.0
#
# Expected: a connection that is cut while a body is being read is an error of the HTTP client (httpx.RemoteProtocolError
#           or ReadError), to be caught and tried again by whoever reads.
# Happens:  of a body read inside `with http_stream_backoff("GET", url)` it is RuntimeError: generator didn't stop after
#           throw(). The context manager is a generator with a loop of retries: the error that leaves the block is thrown
#           into it, taken for one of its own request, and the loop yields a second time, which no context manager may.
# Matters:  code that catches the client's errors around such a block does not catch this one, and its message names
#           neither network nor file. Caught inside the block, the error is the client's.
#
# Seen: a server on the loopback interface that says 1,000 bytes and sends 10
#   huggingface_hub 2.4.0
#   outside the block: RuntimeError: generator didn't stop after throw()
#   inside the block: RemoteProtocolError
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV HF_HUB_OFFLINE
export HF_HOME="$work/hf"
python3 -m venv venv
venv/bin/pip install -q huggingface_hub==2.4.0

venv/bin/python - <<'PY'
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
from huggingface_hub.utils import http_stream_backoff


class Cut(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)
        self.close_connection = True

    def log_message(self, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Cut)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/file"
print(f"huggingface_hub {huggingface_hub.__version__}")

try:
    with http_stream_backoff("GET", url) as answer:
        answer.read()
    outside = "nothing"
except Exception as error:
    outside = f"{type(error).__name__}: {error}"
print(f"outside the block: {outside}")

inside = "nothing"
with http_stream_backoff("GET", url) as answer:
    try:
        answer.read()
    except Exception as error:
        inside = type(error).__name__
print(f"inside the block: {inside}")
server.shutdown()
expected = ("RuntimeError: generator didn't stop after throw()", "RemoteProtocolError")
sys.exit(0 if (outside, inside) == expected else "the behaviour has changed")
PY
