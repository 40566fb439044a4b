#!/usr/bin/env bash
# schemathesis 4.32.5
#
# Expected: a response of type text/event-stream is described by the schema of its text, {"type": "string"}, as OpenAPI 3.1
#           has nothing for single events; JSON Schema holds for what the body is read as.
# Happens:  the schema is held against every single event, as an object {"data": …, "event": "message"}, so that
#           {"type": "string"} fails for each valid stream, and {"type": "object"} passes.
# Matters:  a description that readers of OpenAPI take for right is reported as a fault of the server; one that says what
#           an event looks like passes here, and tells other tools that the body is an object.
#
# Seen:
#   schemathesis 4.32.5
#   {"type": "string"}: Event #0: {"data":"{\"text\": \"so far\"}","event":"message"} is not of type "string"
#   {"type": "object", "required": ["data"]}: no fault
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
python3 -m venv venv
venv/bin/pip install -q schemathesis==4.32.5

venv/bin/python - <<'PY'
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from json import dumps

import schemathesis
from schemathesis.core.failures import FailureGroup


class Stream(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b'data: {"text": "so far"}\n\ndata: [DONE]\n\n')

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Stream)
threading.Thread(target=server.serve_forever, daemon=True).start()


def fault(schema):
    """What is wrong with the stream, as far as it is described so."""
    answer = {"description": "A stream.", "content": {"text/event-stream": {"schema": schema}}}
    document = {"openapi": "3.1.0", "info": {"title": "one stream", "version": "1"},
                "paths": {"/": {"get": {"responses": {"200": answer}}}}}
    case = schemathesis.openapi.from_dict(document)["/"]["GET"].Case()
    answer = case.call(base_url=f"http://127.0.0.1:{server.server_address[1]}")
    try:
        case.validate_response(answer)
    except FailureGroup as error:
        return next((line.strip() for line in str(error).splitlines() if "is not of type" in line), str(error))
    return "no fault"


print(f"schemathesis {version('schemathesis')}")
found = []
for schema in ({"type": "string"}, {"type": "object", "required": ["data"]}):
    found.append(fault(schema))
    print(f"{dumps(schema)}: {found[-1]}")
sys.exit(0 if "is not of type" in found[0] and found[1] == "no fault" else "the behaviour has changed")
PY
