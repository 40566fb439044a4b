"""A small Hugging Face Hub on a loopback port: enough of its HTTP interface for huggingface_hub to read repositories
from it, to create them and to commit small files.

It answers as the real one does where the client can tell: commits and ETags, redirects of large files to storage,
error codes for what is missing, private or gated, and 401 for a token it does not know. It speaks HTTP/1.0, so that no
connection outlives `stop()`.

    with Hub() as hub:
        hub.add("ada/model", {"config.json": "{}"})
        requests_seen = hub.requests
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit

LARGE_FILE_ENDINGS = (".safetensors", ".pt", ".bin", ".parquet", ".gguf", ".npy")


@dataclass
class Repository:
    """One model repository: what each commit holds, which names point to which commit, and who may read it."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """One request the server got: method, path without the query, and the token sent with it."""

    method: str
    path: str
    token: str | None


class Hub:
    """The server and what it holds.

    Attributes:
        endpoint: its address, for HF_ENDPOINT.
        storage: the address large files are redirected to; another host, as the real Hub's.
        tokens: known tokens, each with the gated repositories whose terms its account accepted. A known token may read
            every private repository.
        outage: if set, the HTTP status of every answer.
        requests: all requests so far, to the endpoint and to the storage.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.tokens: dict[str, set[str]] = {}
        self.outage: int | None = None
        self.requests: list[Request] = []
        self._ports = [_Port(self), _Port(self)]
        # Two names of one machine: the client compares hosts before it lets its token follow a redirect.
        self.endpoint = f"http://127.0.0.1:{self._ports[0].number}"
        self.storage = f"http://localhost:{self._ports[1].number}"

    def add(
        self,
        repo_id: str,
        files: Mapping[str, bytes | str],
        *,
        private: bool = False,
        gated: bool = False,
        ref: str = "main",
    ) -> str:
        """Commit `files` as the whole content of a branch or tag; returns the commit hash."""
        repository = self.repositories.setdefault(repo_id, Repository())
        repository.private, repository.gated = private, gated
        content = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
        listing = [(path, _sha256(data)) for path, data in sorted(content.items())]
        commit = hashlib.sha1(json.dumps([repo_id, listing]).encode()).hexdigest()
        repository.commits[commit] = content
        repository.refs[ref] = commit
        return commit

    def downloads(self, repo_id: str) -> set[str]:
        """The files of a repository that were downloaded so far (not only asked about), by their paths in it."""
        paths = (request.path.removeprefix("/storage") for request in self.requests if request.method == "GET")
        prefix = f"/{repo_id}/resolve/"
        return {path.removeprefix(prefix).partition("/")[2] for path in paths if path.startswith(prefix)}

    def stop(self) -> None:
        """Close the ports: from now on the Hub cannot be reached."""
        for port in self._ports:
            port.close()

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *exception) -> None:
        self.stop()


class _Port:
    """One listening port and the thread that serves it."""

    def __init__(self, hub: Hub) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (_Handler,), {"hub": hub}))
        self.number = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        authorization = self.headers.get("Authorization") or ""
        self.token = authorization.removeprefix("Bearer ") or None
        path = urlsplit(self.path).path
        self.hub.requests.append(Request(self.command, unquote(path), self.token))
        try:
            self._route([unquote(part) for part in path.strip("/").split("/")])  # a quoted revision is one part
        except _Refusal as refusal:
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self._answer(refusal.status, json.dumps({"error": refusal.message}).encode(), headers)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    def _route(self, parts: list[str]) -> None:
        if self.hub.outage:
            raise _Refusal(self.hub.outage, None, "The server is having a bad day.")
        if parts[0] == "storage":
            repository, commit, path = "/".join(parts[1:3]), parts[4], "/".join(parts[5:])
            return self._answer(200, self.hub.repositories[repository].commits[commit][path], {})
        if self.token is not None and self.token not in self.hub.tokens:
            raise _Refusal(401, None, "Invalid credentials in Authorization header")
        if self.command == "POST":
            return self._write(parts)
        if parts[0] == "datasets" and len(parts) >= 6:  # a dataset's files; it is held as any other repository
            parts = parts[1:]
        if parts[:1] == ["api"] and parts[1] in ("models", "datasets") and len(parts) >= 4:
            return self._api("/".join(parts[2:4]), parts[4:])
        if len(parts) >= 5 and parts[2] == "resolve":
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        raise _Refusal(404, None, f"Sorry, we can't find the page {self.path}.")

    def _api(self, repo_id: str, rest: list[str]) -> None:
        repository = self._readable(repo_id)
        commit, files = self._commit(repository, rest[1] if len(rest) > 1 else "main")
        if rest[:1] == ["tree"]:
            answer = [self._tree_entry(path, data) for path, data in sorted(files.items())]
        elif rest[:1] in ([], ["revision"]):
            answer = {
                "_id": commit[:24],
                "id": repo_id,
                "modelId": repo_id,
                "sha": commit,
                "private": repository.private,
                "gated": "auto" if repository.gated else False,
                "siblings": [{"rfilename": path} for path in sorted(files)],
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
        else:
            raise _Refusal(404, None, f"Sorry, we can't find the page {self.path}.")
        self._answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _write(self, parts: list[str]) -> None:
        """Create a repository, say how files are to be sent (all inside the commit), commit them."""
        if self.token is None:
            raise _Refusal(401, None, "Invalid username or password.")
        if parts == ["api", "repos", "create"]:
            wanted = json.loads(self.body)
            name = f"{wanted.get('organization') or 'ada'}/{wanted['name']}"
            answer = {"url": f"{self.hub.endpoint}/{wanted.get('type', 'model')}s/{name}"}
            if name in self.hub.repositories:
                answer["error"] = "You already created this repo"
                return self._answer(409, json.dumps(answer).encode(), {"Content-Type": "application/json"})
            self.hub.add(name, {})
        elif parts[4:5] == ["preupload"]:
            files = json.loads(self.body)["files"]
            answer = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        elif parts[4:5] == ["commit"]:
            name = "/".join(parts[2:4])
            repository = self._readable(name)
            lines = [json.loads(line) for line in self.body.splitlines()]
            sent = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            commit = self.hub.add(name, {**self._commit(repository, parts[5])[1], **sent}, ref=parts[5])
            answer = {"commitOid": commit, "commitUrl": f"{self.hub.endpoint}/datasets/{name}/commit/{commit}"}
        else:
            raise _Refusal(404, None, f"Sorry, we can't find the page {self.path}.")
        self._answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _resolve(self, repo_id: str, revision: str, path: str) -> None:
        repository = self._readable(repo_id)
        commit, files = self._commit(repository, revision)
        if repository.gated and repo_id not in self.hub.tokens.get(self.token or "", set()):
            status = 403 if self.token else 401
            raise _Refusal(status, "GatedRepo", f"Access to model {repo_id} is restricted.")
        if path not in files:
            raise _Refusal(404, "EntryNotFound", "Entry not found")
        data = files[path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_git_oid(data)}"'}
        if path.endswith(LARGE_FILE_ENDINGS):
            digest = _sha256(data)
            location = f"{self.hub.storage}/storage/{repo_id}/resolve/{commit}/{quote(path)}"
            headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data)), "Location": location}
            return self._answer(302, b"", headers)
        self._answer(200, data, headers)

    def _readable(self, repo_id: str) -> Repository:
        """The repository, if this token may know of it. Without a token the Hub says 401 whether it exists or not."""
        repository = self.hub.repositories.get(repo_id)
        if repository is None or (repository.private and self.token is None):
            raise _Refusal(404 if self.token else 401, "RepoNotFound", "Repository not found")
        return repository

    def _commit(self, repository: Repository, revision: str) -> tuple[str, dict[str, bytes]]:
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repository.commits[commit]

    def _tree_entry(self, path: str, data: bytes) -> dict:
        entry = {"type": "file", "path": path, "size": len(data), "oid": _git_oid(data)}
        if path.endswith(LARGE_FILE_ENDINGS):
            entry["lfs"] = {"oid": _sha256(data), "size": len(data), "pointerSize": 133}
        return entry

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args) -> None:
        """Tests read `hub.requests`; stderr stays clean."""
