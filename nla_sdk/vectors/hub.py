"""Files of a Hub repository: listed, taken into the client's own cache when they are opened, rows had by range."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath

from ..errors import MissingFileError, MissingRepositoryError, OfflineError
from ..halves.hub.download import late_bar
from ..halves.hub.errors import clean_token, hub_errors
from ..halves.hub.listing import listed
from ..halves.hub.references import clean_subfolder, meant, refuse_ref_name, split_repo
from ..io.progress import say
from .faults import VectorFileError
from .local import MOST_FILES, open_matrix
from .places import SETTINGS_BESIDE, SMALL, Place, Rows
from .ranged import NoRangesError, RangedRows

DATASETS = "datasets/"
"""What a reference to a dataset repository begins with, as in its page's address."""


def hub_place(
    ref: str, *, revision: str | None = None, token: str | bool | None = None, local_files_only: bool = False
) -> Place:
    """A repository, a folder or a file in it, at the commit that its revision is now.

    Args:
        ref: `owner/name`, with `/folder` or `/folder/file` behind it; `datasets/` before it for a dataset.
        revision, token, local_files_only: as in `loading.load`.
    Raises:
        MissingRepositoryError, GatedRepositoryError, AccessTokenError, MissingFileError, OfflineError: see the message.
        InputError: a revision or a folder that cannot be one.
    Example:
        >>> hub_place("ada/sae/layers.12").names  # doctest: +SKIP
        ('cfg.json', 'sae.safetensors')
    """
    kind = "dataset" if ref.startswith(DATASETS) else "model"
    repo, inner = split_repo(ref.removeprefix(DATASETS), None)
    if "/" not in repo:
        raise MissingRepositoryError(
            f"{ref!r} is neither a file or folder here nor a repository: expected a path, or owner/name of the Hub, "
            f"perhaps with /folder or /folder/file.{meant(ref)}"
        )
    if revision is not None:
        refuse_ref_name(revision, "The revision")
    inner = clean_subfolder(inner) or ""
    found = _Repository.at(repo, kind, revision, clean_token(token), local_files_only)
    try:
        folder, file, names = found.cached(inner) if found.offline else found.listed(inner)
    except OfflineError as unreachable:
        if found.offline:
            raise
        found = replace(found, offline=True)
        try:
            folder, file, names = found.cached(inner)
        except OfflineError:
            raise unreachable from None
    path = PurePosixPath(repo, folder)
    return Place(
        f"{DATASETS if kind == 'dataset' else ''}{path / (file or '')} (commit {found.commit[:12]})",
        path,
        names,
        lambda name: found.download(_join(folder, name)),
        lambda name, tensor: found.matrix(_join(folder, name), tensor),
        file,
        lambda name: found.outer(folder, name),
    )


@dataclass(frozen=True)
class _Repository:
    """A repository at a commit."""

    id: str
    kind: str
    commit: str
    token: str | bool | None
    offline: bool
    """Nobody is asked: the cache alone counts."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes of the files that were listed."""

    @classmethod
    def at(cls, repo: str, kind: str, revision: str | None, token: str | bool | None, offline: bool) -> _Repository:
        """At the commit that a revision is now; of an unreachable Hub that it was when last asked for."""
        from huggingface_hub import HfApi, constants

        with hub_errors(repo if kind == "model" else DATASETS + repo, revision):
            found = HfApi(token=token, library_name="nla-sdk").resolve_revision(
                repo, repo_type=kind, revision=revision, local_files_only=offline
            )
        return cls(repo, kind, found.resolved, token, offline or constants.is_offline_mode())

    @property
    def name(self) -> str:
        """As `hub_errors` wants it."""
        return self.id if self.kind == "model" else DATASETS + self.id

    def listed(self, inner: str) -> tuple[str, str | None, tuple[str, ...]]:
        """Folder, file (None: the whole folder is meant), and the folder's files, of what a reference names."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        api = HfApi(token=self.token, library_name="nla-sdk")
        tree = partial(api.list_repo_tree, self.id, repo_type=self.kind, revision=self.commit)
        with hub_errors(self.name, self.commit):
            if inner:
                beside = _settings(inner)
                asked = api.get_paths_info(self.id, [inner, *beside], repo_type=self.kind, revision=self.commit)
                there = {entry.path: entry for entry in asked}
                if inner not in there:
                    held = [found.path for found in islice(tree(), MOST_FILES)]
                    raise MissingFileError(f"{self.name} holds no {inner}; it holds {listed(held)}.")
                if isinstance(entry := there[inner], RepoFile):
                    self.sizes[inner] = entry.size
                    folder, _, file = inner.rpartition("/")
                    if not any(path in there for path in beside):
                        return folder, file, (file,)
                    inner = folder
            below = islice(tree(inner or None, recursive=True), MOST_FILES + 1)
            self.sizes.update((entry.path, entry.size) for entry in below if isinstance(entry, RepoFile))
        return inner, None, self._below(inner, list(self.sizes))

    def cached(self, inner: str) -> tuple[str, str | None, tuple[str, ...]]:
        """The same of what is in the cache."""
        from huggingface_hub import snapshot_download

        with hub_errors(self.name, self.commit):
            found = snapshot_download(
                self.id, repo_type=self.kind, revision=self.commit, allow_patterns=[], local_files_only=True
            )
        top = Path(found)
        here = top / inner
        if here.is_file():
            folder, _, file = inner.rpartition("/")
            if not any((top / path).is_file() for path in _settings(inner)):
                return folder, file, (file,)
            inner, here = folder, here.parent
        names = [path.relative_to(top).as_posix() for path in here.rglob("*") if path.is_file()]
        names = self._below(inner, names)
        if set(names) <= set(SETTINGS_BESIDE.values()):  # rows that were had by range are not kept
            raise OfflineError(
                f"Of {self.name}{f'/{inner}' if inner else ''} the cache holds {listed(names)} and no vectors, and the "
                "network could not or may not be used. Download the folder (hf download), or run this with the network."
            )
        return inner, None, names

    def _below(self, folder: str, names: list[str]) -> tuple[str, ...]:
        if len(names) > MOST_FILES:
            raise VectorFileError(
                f"{self.name}{f'/{folder}' if folder else ''} holds more than {MOST_FILES:,} files; name the folder or "
                "the file that is meant."
            )
        return tuple(sorted(name.removeprefix(f"{folder}/") if folder else name for name in names))

    def download(self, path: str) -> Path:
        """A file, taken into the cache if it is not there; of a large one this is said."""
        if held := self._held(path):
            return held
        if not self.offline and (size := self.sizes.get(path, 0)) > SMALL:
            say(f"downloading {self.name}/{path} whole ({size / 1e6:,.0f} MB): rows of such a file are not had apart")
        return self._fetch(path)

    def outer(self, folder: str, name: str) -> Path | None:
        """A small file of the nearest of the two folders above that holds one."""
        for above in PurePosixPath(folder).parents[:2]:
            path = str(above / name)
            with suppress(MissingFileError, OfflineError):
                return self._held(path) or self._fetch(path)
        return None

    def matrix(self, path: str, tensor: str) -> Rows:
        """Rows of a safetensors file: of the cached one, or by range."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        if (held := self._held(path)) or self.offline:
            return open_matrix(held or self.download(path), tensor)
        url = hf_hub_url(self.id, path, repo_type=self.kind, revision=self.commit)
        headers = build_hf_headers(token=self.token, library_name="nla-sdk")
        try:
            return RangedRows(url, tensor, repo=self.name, name=f"{self.name}/{path}", headers=headers)
        except NoRangesError:
            return open_matrix(self.download(path), tensor)

    def _held(self, path: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        held = try_to_load_from_cache(self.id, path, revision=self.commit, repo_type=self.kind)
        return Path(held) if isinstance(held, str) else None

    def _fetch(self, path: str) -> Path:
        from huggingface_hub import hf_hub_download

        with hub_errors(self.name, self.commit):
            return Path(
                hf_hub_download(
                    self.id,
                    path,
                    repo_type=self.kind,
                    revision=self.commit,
                    token=self.token,
                    local_files_only=self.offline,
                    library_name="nla-sdk",
                    tqdm_class=late_bar(),
                )
            )


def _settings(path: str) -> list[str]:
    """Where the settings lie that tell how a dictionary's file is read; none: it is no such file."""
    folder, _, file = path.rpartition("/")
    return [_join(folder, SETTINGS_BESIDE[file])] if file in SETTINGS_BESIDE else []


def _join(folder: str, name: str) -> str:
    return str(PurePosixPath(folder, name))
