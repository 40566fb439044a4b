"""What the test Hub holds, on disk: repositories with commits, branches, tags and pull requests; uploaded objects.

<folder>/models/ada/cat/repository.json     refs, commits, who may read it
<folder>/objects/<sha256>                   every file's bytes, once
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

LARGE_FILE_ENDINGS = (".safetensors", ".pt", ".bin", ".parquet", ".gguf", ".npy", ".png")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_large(path: str) -> bool:
    """Whether the Hub keeps a file as an LFS object."""
    return path.endswith(LARGE_FILE_ENDINGS)


@dataclass
class Commit:
    """One commit: the whole content, path → SHA-256."""

    id: str
    title: str
    parent: str | None
    files: dict[str, str]


@dataclass
class Repository:
    """One repository.

    Attributes:
        refs: branch (or pull request, refs/pr/1) → commit id.
        requests: pull requests: number, title, status, author.
    """

    id: str
    kind: str = "model"
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    requests: list[dict] = field(default_factory=list)

    def resolve(self, revision: str) -> Commit | None:
        """The commit of a branch, tag or id."""
        found = self.refs.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(found)

    def history(self, revision: str) -> list[Commit]:
        """Commits of a branch, newest first."""
        found, at = [], self.resolve(revision)
        while at is not None:
            found.append(at)
            at = self.commits.get(at.parent) if at.parent else None
        return found


class Store:
    """All repositories, objects and collections, written to `folder` as they change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.collections: dict[str, list[dict]] = {}
        self.requested: dict[str, int] = {}
        self.renamed: dict[tuple[str, str], tuple[str, int]] = {}
        (folder / "objects").mkdir(parents=True, exist_ok=True)

    # --- objects ----------------------------------------------------------------------------------------------------
    def put(self, data: bytes) -> str:
        """Keep bytes; returns their SHA-256."""
        name = sha256(data)
        (self.folder / "objects" / name).write_bytes(data)
        return name

    def take(self, file: Path) -> str:
        """Keep a file, linked and not read into memory: it may be large, and sparse; returns its SHA-256."""
        with file.open("rb") as content:
            name = hashlib.file_digest(content, "sha256").hexdigest()
        if not self.has(name):
            os.link(file, self.folder / "objects" / name)
        return name

    def get(self, name: str, first: int = 0, end: int | None = None) -> bytes:
        """An object's bytes, or some of them."""
        with (self.folder / "objects" / name).open("rb") as file:
            file.seek(first)
            return file.read(-1 if end is None else end - first)

    def size(self, name: str) -> int:
        return (self.folder / "objects" / name).stat().st_size

    def has(self, name: str, size: int | None = None) -> bool:
        """Whether an object of this SHA-256 (and size) was uploaded."""
        path = self.folder / "objects" / name
        return path.is_file() and (size is None or path.stat().st_size == size)

    # --- repositories -----------------------------------------------------------------------------------------------
    def find(self, kind: str, repo_id: str) -> Repository | None:
        return self.repositories.get((kind, repo_id))

    def create(self, kind: str, repo_id: str, *, private: bool = False) -> Repository:
        """An empty repository: like the Hub's, with a first commit that holds .gitattributes."""
        repository = Repository(repo_id, kind, private)
        self.repositories[kind, repo_id] = repository
        self.commit(repository, "main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        return repository

    def commit(
        self,
        repository: Repository,
        ref: str,
        add: Mapping[str, bytes | str | Path],
        title: str,
        *,
        base: Mapping | None = None,
    ) -> Commit:
        """Put `add` on top of `base`, as `ref`'s new head.

        Args:
            add: path → bytes, a file to take, or the SHA-256 of an uploaded object as `sha256:…`.
            base: path → SHA-256; default: the head's content.
        """
        head = repository.resolve(ref)
        files = dict(base if base is not None else head.files if head else {})
        for path, data in add.items():
            if isinstance(data, str):
                files[path] = data.removeprefix("sha256:")
            else:
                files[path] = self.take(data) if isinstance(data, Path) else self.put(data)
        listing = json.dumps([repository.id, title, head.id if head else None, sorted(files.items())])
        commit = Commit(hashlib.sha1(listing.encode()).hexdigest(), title, head.id if head else None, files)
        repository.commits[commit.id] = commit
        repository.refs[ref] = commit.id
        self.write(repository)
        return commit

    def write(self, repository: Repository) -> None:
        """Bring the disk up to date."""
        file = self.folder / f"{repository.kind}s" / repository.id / "repository.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(repository), indent=1), encoding="utf-8")

    def content(self, kind: str, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Path → bytes of a revision."""
        commit = self.repositories[kind, repo_id].resolve(revision)
        return {path: self.get(name) for path, name in commit.files.items()}
