"""A Hugging Face Hub on loopback ports, over real HTTP, that the official client talks to through HF_ENDPOINT.

It answers as the real one does where the client can tell: commits and ETags, redirects of large files to storage under
another host name, LFS uploads, NDJSON commits, 412 for another parent, error codes for what is missing, private or
gated. It stores to disk, so tests can look, and any request can be made to fail (`faults`).

    with Hub() as hub:
        hub.add("ada/model", {"config.json": "{}"})
        requests_seen = hub.requests
"""

from __future__ import annotations

import asyncio
import functools
import socket
import tempfile
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from tests.hub.application import application
from tests.hub.faults import Fault, Troubled
from tests.hub.store import Commit, Store

Result = TypeVar("Result")


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
        roles: token → "read", "write" or "fineGrained"; default: write.
        scopes: what fine-grained tokens may do, as whoami tells it.
        user, organisations: whose namespaces a write token may write to.
        ranges: whether parts of files are served; without it whole ones come in their place.
        requests: all requests so far, to the endpoint and to the storage.
        store: what it holds.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory()
        self.store = Store(Path(folder or self._temporary.name))
        self.tokens: dict[str, set[str]] = {}
        self.roles: dict[str, str] = {}
        self.scopes: list[dict] = []
        self.user, self.organisations = "ada", ["lab", "owner"]
        self.ranges = True
        self.requests: list[Request] = []
        self._app = Troubled(application(self))
        self._ports = [_Port(self._app), _Port(self._app)]
        # Two names of one machine: the client compares hosts before it lets its token follow a redirect.
        self.endpoint = f"http://127.0.0.1:{self._ports[0].number}"
        self.storage = f"http://localhost:{self._ports[1].number}"

    # --- what it holds ----------------------------------------------------------------------------------------------
    def add(
        self,
        repo_id: str,
        files: Mapping[str, bytes | str | Path],
        *,
        private: bool = False,
        gated: bool = False,
        ref: str = "main",
        kind: str = "model",
    ) -> str:
        """Commit `files` as the whole content of a branch or tag; returns the commit hash. A path's file is linked."""
        from tests.hub.store import Repository

        repository = self.store.repositories.setdefault((kind, repo_id), Repository(repo_id, kind))
        repository.private, repository.gated = private, gated
        content = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
        return self.store.commit(repository, ref, content, "add", base={}).id

    def rename(self, old: str, new: str, kind: str = "model", status: int = 307) -> None:
        """Give a repository another name, or redirect a name that nothing has; the old one answers with `status`."""
        self.store.renamed[kind, old] = (new, status)
        if repository := self.store.repositories.pop((kind, old), None):
            repository.id = new
            self.store.repositories[kind, new] = repository

    def files(self, repo_id: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        """Path → bytes."""
        return self.store.content(kind, repo_id, revision)

    def head(self, repo_id: str, ref: str = "main", kind: str = "model") -> str | None:
        """A branch's commit; None where there is no such repository or branch."""
        repository = self.store.find(kind, repo_id)
        return repository.refs.get(ref) if repository else None

    def commits(self, repo_id: str, ref: str = "main", kind: str = "model") -> list[Commit]:
        """A branch's history, newest first."""
        return self.store.repositories[kind, repo_id].history(ref)

    def tags(self, repo_id: str, kind: str = "model") -> dict[str, str]:
        return dict(self.store.repositories[kind, repo_id].tags)

    # --- what it saw ------------------------------------------------------------------------------------------------
    def seen(self, method: str, path: str, token: str | None) -> None:
        self.requests.append(Request(method, path, token))

    def downloads(self, repo_id: str) -> set[str]:
        """The files of a repository that were downloaded so far (not only asked about), by their paths in it."""
        paths = [request.path for request in self.requests if request.method == "GET"]
        paths = [path.removeprefix("/storage/model").removeprefix("/storage/dataset") for path in paths]
        prefix = f"/{repo_id}/resolve/"
        return {path.removeprefix(prefix).partition("/")[2] for path in paths if path.startswith(prefix)}

    # --- trouble ----------------------------------------------------------------------------------------------------
    @property
    def outage(self) -> int | None:
        """If set, the HTTP status of every answer."""
        return self._app.outage

    @outage.setter
    def outage(self, status: int | None) -> None:
        self._app.outage = status

    def fault(self, *faults: Fault) -> None:
        """Trouble for requests, counted from now; no faults: none any more."""
        self._app.plan(*faults)

    @property
    def sent(self) -> int:
        """Bytes of all answers so far, headers and bodies."""
        return self._app.sent

    @property
    def count(self) -> int:
        """Requests since `fault` was called."""
        return self._app.count

    def stop(self) -> None:
        """Close the ports: from now on the Hub cannot be reached."""
        for port in self._ports:
            port.close()

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *exception) -> None:
        self.stop()
        if self._temporary:
            self._temporary.cleanup()


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """One event loop for every Hub of this process, in a thread that nobody has to wait for: `uvicorn.Server` looks
    each tenth of a second whether it shall stop, which every test with a Hub of its own would pay four times."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="hub", daemon=True).start()
    return loop


def _on_loop(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run_coroutine_threadsafe(work, _loop()).result()


class _Port:
    """One listening port, served by uvicorn's protocol."""

    def __init__(self, app) -> None:
        # Named TCP: asyncio turns Nagle's algorithm off for such sockets only, and it costs 40 ms a response.
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.bind(("127.0.0.1", 0))
        self.number = listening.getsockname()[1]
        self._config = uvicorn.Config(app, log_config=None, log_level="critical", access_log=False, lifespan="off")
        self._config.load()
        self._state = ServerState()
        self._server = _on_loop(self._listen(listening))

    async def _listen(self, listening: socket.socket) -> asyncio.Server:
        return await _loop().create_server(lambda: H11Protocol(self._config, self._state, {}), sock=listening)

    def close(self) -> None:
        _on_loop(self._close())

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._state.tasks):
            task.cancel()
        for connection in list(self._state.connections):
            connection.transport.abort()
