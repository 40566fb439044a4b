#!/usr/bin/env bash
# starlette 1.10.0
#
# Expected: RequestBodyLimitMiddleware refuses what is too long in one way, and an app that answers before it reads the
#           body, or that has an answer of its own for 413, is heard in both.
# Happens:  where the request tells its Content-Length, whatever the app answers is replaced by 413 in plain text: the 401
#           of a guard that never read the body, and the JSON of the app's own handler for 413. In chunks, both are heard.
# Matters:  clients that read {"detail": …} meet a body that is no JSON, and a wrong key looks like a long body. With the
#           limit inside the guard, and asked for by the app's own reading, both ways answer alike.
#
# Seen:
#   starlette 1.10.0
#   401 before the body is read, Content-Length: 413 text/plain; charset=utf-8
#   401 before the body is read, in chunks: 401 application/json
#   the app's own 413, Content-Length: 413 text/plain; charset=utf-8
#   the app's own 413, in chunks: 413 application/json
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
python3 -m venv venv
venv/bin/pip install -q starlette==1.10.0

venv/bin/python - <<'PY'
import asyncio
import sys

import starlette
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Route


async def guarded(request):
    return JSONResponse({"detail": "no key"}, status_code=401)


async def reading(request):
    return JSONResponse({"length": len(await request.body())})


async def own_refusal(request, error):
    return JSONResponse({"detail": "too long"}, status_code=413)


app = Starlette(
    routes=[Route("/guarded", guarded, methods=["POST"]), Route("/reading", reading, methods=["POST"])],
    middleware=[Middleware(RequestBodyLimitMiddleware, max_body_size=10)],
    exception_handlers={413: own_refusal},
)


def post(path, headers, pieces):
    """The status and the type of what is answered, as a server would hand the request over."""
    sent, left = [], list(pieces)

    async def receive():
        piece = left.pop(0) if left else b""
        return {"type": "http.request", "body": piece, "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
             "headers": headers, "http_version": "1.1", "scheme": "http", "root_path": ""}
    asyncio.run(app(scope, receive, send))
    return f"{sent[0]['status']} {dict(sent[0]['headers'])[b'content-type'].decode()}"


print(f"starlette {starlette.__version__}")
plain, json = "413 text/plain; charset=utf-8", "application/json"
told = [(b"content-length", b"20")], [b"x" * 20]
chunks = [(b"transfer-encoding", b"chunked")], [b"x" * 10, b"x" * 10]
found = {}
for name, path in (("401 before the body is read", "/guarded"), ("the app's own 413", "/reading")):
    for way, (headers, pieces) in (("Content-Length", told), ("in chunks", chunks)):
        found[name, way] = post(path, headers, pieces)
        print(f"{name}, {way}: {found[name, way]}")
sys.exit(0 if list(found.values()) == [plain, f"401 {json}", plain, f"413 {json}"] else "the behaviour has changed")
PY
