"""The Hub's HTTP interface as its official client uses it, on a `Store`. FastAPI; one route that reads the path itself,
because a quoted revision ("refs%2Fpr%2F1") is one part of it.
"""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import quote, unquote

import yaml
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from tests.hub.store import Commit, Repository, git_oid, is_large

METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE"]
TIME = "2026-01-01T00:00:00.000Z"


class Refusal(Exception):
    """An answer other than 2xx."""

    def __init__(self, status: int, message: str, code: str | None = None, **more) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.more = status, message, code, more


def application(hub) -> FastAPI:
    """The application of `server.Hub`."""
    app = FastAPI(openapi_url=None)

    @app.api_route("/{path:path}", methods=METHODS)
    async def anything(request: Request) -> Response:
        body = await request.body()
        raw = request.scope["raw_path"].decode().split("?")[0]
        call = Call(hub, request, [unquote(part) for part in raw.strip("/").split("/")], body)
        try:
            return call.answer()
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            return JSONResponse({"error": refusal.message, **refusal.more}, refusal.status, headers)

    return app


class Call:
    """One request."""

    def __init__(self, hub, request: Request, parts: list[str], body: bytes) -> None:
        self.hub, self.store, self.request, self.parts, self.body = hub, hub.store, request, parts, body
        self.method = request.method
        self.token = (request.headers.get("authorization") or "").removeprefix("Bearer ") or None
        hub.seen(self.method, "/" + "/".join(parts), self.token)

    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    def answer(self) -> Response:
        match self.parts:
            case ["storage", kind, owner, name, "resolve", commit, *path]:
                return self._bytes(self._object(kind, f"{owner}/{name}", commit, "/".join(path)))
            case ["upload", name]:
                return self._upload(name)
            case ["api", "validate-yaml"]:
                return self._validate_yaml()
        if self.token is not None and self.token not in self.hub.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        if (moved := self._moved()) is not None:
            return moved
        match self.parts:
            case ["api", "whoami-v2"]:
                return self._whoami()
            case ["api", "repos", "create"]:
                return self._create()
            case ["api", "collections", *rest]:
                return self._collection(rest)
            case ["api", ("models" | "datasets" | "spaces") as kinds, owner, name, *rest]:
                return self._api(kinds[:-1], f"{owner}/{name}", rest)
            case [*place, "info", "lfs", "objects", action]:
                kind = place[0][:-1] if place[0] in ("datasets", "spaces") else "model"
                return self._lfs(kind, "/".join(place[-2:]).removesuffix(".git"), action)
            case [("datasets" | "spaces") as kinds, owner, name, "resolve", revision, *path]:
                return self._resolve(kinds[:-1], f"{owner}/{name}", revision, "/".join(path))
            case [owner, name, "resolve", revision, *path]:
                return self._resolve("model", f"{owner}/{name}", revision, "/".join(path))
        raise Refusal(404, f"Sorry, we can't find the page /{'/'.join(self.parts)}.")

    def _moved(self) -> Response | None:
        """Under a name that a repository had before: where it is now."""
        scope = self.request.scope
        path, query = scope["raw_path"].decode().split("?")[0], scope["query_string"].decode()
        for (kind, old), (new, status) in self.store.renamed.items():
            for before in (f"/api/{kind}s/", "/" if kind == "model" else f"/{kind}s/"):
                if re.match(rf"{re.escape(before + old)}(\.git)?(/|$)", path):
                    target = before + new + path[len(before + old) :] + (f"?{query}" if query else "")
                    return Response(status_code=status, headers={"Location": target})
        return None

    # --- who may what -------------------------------------------------------------------------------------------------
    def _whoami(self) -> Response:
        if self.token is None:
            raise Refusal(401, "Invalid username or password.")
        role = self.hub.roles.get(self.token, "write")
        orgs = [{"name": name, "type": "org"} for name in self.hub.organisations]
        token = {"displayName": "test", "role": role}
        if role == "fineGrained":
            token["fineGrained"] = {"canReadGatedRepos": False, "global": [], "scoped": self.hub.scopes}
        return JSONResponse({"type": "user", "name": self.hub.user, "orgs": orgs, "auth": {"accessToken": token}})

    def _readable(self, kind: str, repo_id: str) -> Repository:
        """The repository, if this token may know of it. Without a token the Hub says 401 whether it exists or not."""
        repository = self.store.find(kind, repo_id)
        if repository is None or (repository.private and self.token is None):
            raise Refusal(404 if self.token else 401, "Repository not found", "RepoNotFound")
        return repository

    def _may_write(self, repo_id: str, *, in_request: bool = False) -> None:
        """Args: in_request: into a pull request, which anybody may open who can read the repository."""
        if self.token is None:
            raise Refusal(401, "Invalid username or password.")
        owner = repo_id.partition("/")[0]
        foreign = owner not in (self.hub.user, *self.hub.organisations)
        if self.hub.roles.get(self.token) == "read" or (foreign and not in_request):
            raise Refusal(403, f"You don't have the rights to write to {repo_id}. Use a token with write access.")

    # --- repositories -------------------------------------------------------------------------------------------------
    def _create(self) -> Response:
        wanted = self.json()
        kind = wanted.get("type") or "model"
        repo_id = f"{wanted.get('organization') or self.hub.user}/{wanted['name']}"
        self._may_write(repo_id)
        url = f"{self.hub.endpoint}/{'' if kind == 'model' else f'{kind}s/'}{repo_id}"
        if self.store.find(kind, repo_id):
            raise Refusal(409, "You already created this repo", url=url, name=repo_id)
        if kind == "space" and wanted.get("sdk") not in ("gradio", "docker", "static"):
            raise Refusal(400, "A Space needs an sdk")
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.store.create(kind, repo_id, private=private)
        return JSONResponse({"url": url, "name": repo_id, "id": "0"})

    def _api(self, kind: str, repo_id: str, rest: list[str]) -> Response:
        if self.method in ("POST", "DELETE") and rest[:1] != ["paths-info"]:
            self._may_write(repo_id, in_request="create_pr" in self.request.query_params)
        repository = self._readable(kind, repo_id)
        match rest:
            case [] | ["revision", *_]:
                return self._info(repository, rest[1] if rest else "main")
            case ["auth-check", *write]:
                if write:
                    self._may_write(repo_id)
                return JSONResponse({})
            case ["tree", revision, *path]:
                return self._tree(repository, self._at(repository, revision), "/".join(path))
            case ["paths-info", revision]:
                return self._paths(repository, self._at(repository, revision))
            case ["refs"]:
                return self._refs(repository)
            case ["commits", revision]:
                return self._commits(repository, revision)
            case ["preupload", _]:
                return self._preupload(repository)
            case ["commit", revision]:
                return self._commit(repository, revision)
            case ["tag", name]:
                return self._tag(repository, name)
            case ["branch", name]:
                return self._branch(repository, name)
            case ["discussions"]:
                found = [self._discussion(repository, one) for one in repository.requests]
                return JSONResponse({"discussions": found, "count": len(found), "start": 0})
        raise Refusal(404, f"Sorry, we can't find the page /{'/'.join(self.parts)}.")

    def _at(self, repository: Repository, revision: str) -> Commit:
        commit = repository.resolve(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def _info(self, repository: Repository, revision: str) -> Response:
        commit = self._at(repository, revision)
        card = {}
        if "README.md" in commit.files:
            card = front_matter(self.store.get(commit.files["README.md"]).decode("utf-8", "replace")) or {}
        return JSONResponse(
            {
                "_id": commit.id[:24],
                "id": repository.id,
                "modelId": repository.id,
                "sha": commit.id,
                "lastModified": TIME,
                "private": repository.private,
                "gated": "auto" if repository.gated else False,
                "disabled": False,
                "siblings": [{"rfilename": path} for path in sorted(commit.files)],
                "tags": card.get("tags") or [],
                "cardData": card,
                "downloads": 0,
                "likes": 0,
            }
        )

    def _blob(self, path: str, name: str) -> str:
        """What git calls the object of a path: of a large one, the pointer that it keeps in its place."""
        return git_oid(f"oid sha256:{name}".encode() if is_large(path) else self.store.get(name))

    def _entry(self, path: str, name: str) -> dict:
        size = self.store.size(name)
        entry = {"type": "file", "path": path, "size": size, "oid": self._blob(path, name)}
        if is_large(path):
            entry["lfs"] = {"oid": name, "size": size, "pointerSize": 133}
        return entry

    def _folder(self, path: str) -> dict:
        return {"type": "directory", "path": path, "size": 0, "oid": git_oid(path.encode())}

    def _tree(self, repository: Repository, commit: Commit, folder: str) -> Response:
        """All below a folder, or what lies in it: files, and folders as such."""
        prefix = f"{folder}/" if folder else ""
        below = {path: name for path, name in sorted(commit.files.items()) if path.startswith(prefix)}
        if folder and not below:
            raise Refusal(404, f"{folder} does not exist on {commit.id}", "EntryNotFound")
        inner = sorted({prefix + path[len(prefix) :].split("/")[0] for path in below if "/" in path[len(prefix) :]})
        if self.request.query_params.get("recursive") in ("true", "True", "1"):
            return JSONResponse([self._entry(path, name) for path, name in below.items()])
        here = [self._entry(path, name) for path, name in below.items() if "/" not in path[len(prefix) :]]
        return JSONResponse([self._folder(path) for path in inner] + here)

    def _paths(self, repository: Repository, commit: Commit) -> Response:
        form = unquote(self.body.decode()).replace("+", " ")
        wanted = self.json()["paths"] if form.startswith("{") else re.findall(r"paths=([^&]+)", form)
        files = [self._entry(path, commit.files[path]) for path in wanted if path in commit.files]
        folders = [path for path in wanted if any(file.startswith(f"{path}/") for file in commit.files)]
        return JSONResponse(files + [self._folder(path) for path in folders])

    def _refs(self, repository: Repository) -> Response:
        def listed(prefix: str, names: dict[str, str]) -> list[dict]:
            return [{"name": name, "ref": f"{prefix}{name}", "targetCommit": commit} for name, commit in names.items()]

        requests = {name: commit for name, commit in repository.refs.items() if name.startswith("refs/pr/")}
        branches = {name: commit for name, commit in repository.refs.items() if name not in requests}
        found = {"branches": listed("refs/heads/", branches), "tags": listed("refs/tags/", repository.tags)}
        return JSONResponse(found | {"converts": [], "pullRequests": listed("", requests)})

    def _commits(self, repository: Repository, revision: str) -> Response:
        self._at(repository, revision)
        return JSONResponse(
            [
                {"id": one.id, "title": one.title, "message": "", "date": TIME, "authors": [{"user": self.hub.user}]}
                for one in repository.history(revision)
            ]
        )

    def _discussion(self, repository: Repository, one: dict) -> dict:
        repo = {"name": repository.id, "type": repository.kind}
        return {**one, "repo": repo, "createdAt": TIME, "isPullRequest": True, "author": {"name": self.hub.user}}

    # --- writing ------------------------------------------------------------------------------------------
    def _preupload(self, repository: Repository) -> Response:
        commit = repository.resolve("main")
        files = []
        for one in self.json()["files"]:
            path = one["path"]
            there = commit.files.get(path) if commit else None
            oid = None if there is None else there if is_large(path) else git_oid(self.store.get(there))
            mode = "lfs" if is_large(path) else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return JSONResponse({"files": files})

    def _lfs(self, kind: str, repo_id: str, action: str) -> Response:
        self._may_write(repo_id, in_request=True)  # what an object is uploaded for, the commit says
        self._readable(kind, repo_id)
        wanted = self.json()
        if action == "verify":
            if not self.store.has(wanted["oid"], wanted["size"]):
                raise Refusal(404, f"object {wanted['oid'][:12]} was not uploaded whole")
            return JSONResponse({})
        objects = []
        for one in wanted["objects"]:
            answer: dict = {"oid": one["oid"], "size": one["size"]}
            if not self.store.has(one["oid"], one["size"]):
                place = f"{self.hub.endpoint}/{'' if kind == 'model' else f'{kind}s/'}{repo_id}.git"
                answer["actions"] = {
                    "upload": {"href": f"{self.hub.storage}/upload/{one['oid']}", "header": {}},
                    "verify": {"href": f"{place}/info/lfs/objects/verify", "header": {}},
                }
            objects.append(answer)
        return JSONResponse({"transfer": "basic", "objects": objects})

    def _upload(self, name: str) -> Response:
        if self.store.put(self.body) != name:
            raise Refusal(400, "the content is not of the SHA-256 that was announced")
        return Response(status_code=200)

    def _commit(self, repository: Repository, revision: str) -> Response:
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        if not lines or lines[0].get("key") != "header" or not lines[0]["value"].get("summary"):
            raise Refusal(400, "the first line must be a header with a summary")
        header = lines[0]["value"]
        head = self._at(repository, revision)
        if header.get("parentCommit") not in (None, head.id):
            raise Refusal(
                412, f"The branch {revision} is at {head.id}, not at the parent commit {header['parentCommit']}"
            )
        files, add = dict(head.files), {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                if value.get("encoding") != "base64" or is_large(value["path"]):
                    raise Refusal(400, f"{value['path']}: large files go through LFS, others come in base64")
                add[value["path"]] = base64.b64decode(value["content"], validate=True)
            elif line["key"] == "lfsFile":
                if value.get("algo") != "sha256" or not self.store.has(value["oid"], value["size"]):
                    raise Refusal(400, f"{value['path']}: no uploaded object of this SHA-256 and size")
                add[value["path"]] = f"sha256:{value['oid']}"
            elif line["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise Refusal(400, f"{value['path']}: cannot delete what is not there")
            else:
                raise Refusal(400, f"unknown line {line['key']!r}")
        self._refuse_bad_card(add.get("README.md"))
        place = f"{self.hub.endpoint}/{'' if repository.kind == 'model' else f'{repository.kind}s/'}{repository.id}"
        answer = {"success": True}
        if self.request.query_params.get("create_pr"):
            number = len(repository.requests) + 1
            repository.requests.append({"num": number, "title": header["summary"], "status": "open"})
            repository.refs[f"refs/pr/{number}"] = head.id
            revision = f"refs/pr/{number}"
            answer["pullRequestUrl"] = f"{place}/discussions/{number}"
        commit = self.store.commit(repository, revision, add, header["summary"], base=files)
        return JSONResponse(answer | {"commitOid": commit.id, "commitUrl": f"{place}/commit/{commit.id}"})

    def _refuse_bad_card(self, card: bytes | None) -> None:
        if card is not None and (errors := card_errors(card.decode("utf-8", "replace"))):
            raise Refusal(400, f"Invalid metadata in README.md: {errors[0]['message']}")

    def _tag(self, repository: Repository, name: str) -> Response:
        if self.method == "DELETE":
            repository.tags.pop(name, None)
        else:
            tag = self.json()["tag"]
            if tag in repository.tags:
                raise Refusal(409, f"Tag reference exists already: {tag}")
            repository.tags[tag] = self._at(repository, name).id
        self.store.write(repository)
        return JSONResponse({})

    def _branch(self, repository: Repository, name: str) -> Response:
        if name in repository.refs:
            raise Refusal(409, f"Reference already exists: refs/heads/{name}")
        repository.refs[name] = self._at(repository, self.json().get("startingPoint") or "main").id
        self.store.write(repository)
        return JSONResponse({})

    def _validate_yaml(self) -> Response:
        errors = card_errors(self.json()["content"])
        return JSONResponse({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _collection(self, rest: list[str]) -> Response:
        slug = "/".join(rest).removesuffix("/items")
        if slug not in self.store.collections:
            raise Refusal(404, f"Collection {slug} not found")
        items = self.store.collections[slug]
        if self.method == "POST":
            self._may_write(slug)
            item = self.json()["item"]
            if any(one["id"] == item["id"] and one["type"] == item["type"] for one in items):
                raise Refusal(409, "Item already in collection")
            items.append(item)
        listed = [
            {"_id": f"{at:024d}", "id": one["id"], "type": one["type"], "position": at} for at, one in enumerate(items)
        ]
        answer = {"slug": slug, "title": slug, "owner": {"name": self.hub.user}, "items": listed, "lastUpdated": TIME}
        return JSONResponse(answer | {"position": 0, "private": False, "theme": "blue", "upvotes": 0})

    # --- reading ------------------------------------------------------------------------------------------
    def _object(self, kind: str, repo_id: str, revision: str, path: str) -> str:
        return self._at(self.store.find(kind, repo_id), revision).files[path]

    def _resolve(self, kind: str, repo_id: str, revision: str, path: str) -> Response:
        repository = self._readable(kind, repo_id)
        commit = self._at(repository, revision)
        if repository.gated and repo_id not in self.hub.tokens.get(self.token or "", set()):
            raise Refusal(403 if self.token else 401, f"Access to model {repo_id} is restricted.", "GatedRepo")
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        name = commit.files[path]
        headers = {"X-Repo-Commit": commit.id, "ETag": f'"{self._blob(path, name)}"'}
        if is_large(path):
            location = f"{self.hub.storage}/storage/{kind}/{repo_id}/resolve/{commit.id}/{quote(path)}"
            headers |= {
                "X-Linked-Etag": f'"{name}"',
                "X-Linked-Size": str(self.store.size(name)),
                "Location": location,
            }
            return Response(status_code=302, headers=headers)
        return self._bytes(name, headers)

    def _bytes(self, name: str, headers: dict[str, str] | None = None) -> Response:
        """All of an object, or the range asked for."""
        headers, size = {"Accept-Ranges": "bytes", **(headers or {})}, self.store.size(name)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.request.headers.get("range") or "")
        if not wanted or not self.hub.ranges:
            if self.method == "HEAD":
                return Response(headers=headers | {"Content-Length": str(size)})
            return Response(self.store.get(name), headers=headers, media_type="application/octet-stream")
        first, last = int(wanted[1]), int(wanted[2] or size - 1)
        if first >= size:
            raise Refusal(416, "Range not satisfiable")
        headers["Content-Range"] = f"bytes {first}-{min(last, size - 1)}/{size}"
        return Response(self.store.get(name, first, last + 1), 206, headers, media_type="application/octet-stream")


def front_matter(card: str) -> dict | None:
    """The metadata of a card; None where there is none."""
    match = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", card, re.DOTALL)
    return yaml.safe_load(match[1]) if match else None


def card_errors(card: str) -> list[dict]:
    """What the Hub would refuse in a card's metadata."""
    try:
        found = front_matter(card)
    except yaml.YAMLError as error:
        return [{"message": f"not YAML: {error}"}]
    errors = []
    for key, kind in {
        "license": str,
        "library_name": str,
        "pipeline_tag": str,
        "tags": list,
        "model-index": list,
    }.items():
        if found and key in found and not isinstance(found[key], kind):
            errors.append({"message": f'"{key}" must be a {kind.__name__}'})
    if found and isinstance(found.get("license"), str) and not re.fullmatch(r"[a-z0-9.\-]+", found["license"]):
        errors.append({"message": f'"license" must be one of the Hub\'s list, not {found["license"]!r}'})
    if found and found.get("license") == "other" and "license_name" not in found:
        errors.append({"message": '"license_name" is needed with license: other'})
    return errors
