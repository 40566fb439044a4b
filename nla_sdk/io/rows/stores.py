"""Files of object stores, s3://, gs:// and hf://: listed, read by ranges, told apart, written whole.

Arrow's own clients read S3 and Google's store, the Hub's client repositories (hf://datasets/owner/name/file). Each
finds credentials where it always does: in its environment variables, its profile, the machine's role.
"""

from __future__ import annotations

import atexit
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ...errors import InputError, first_line
from ..sidecars import SIDECAR, parsed
from .kinds import READ_SUFFIXES

if TYPE_CHECKING:
    import pyarrow as pa

STORE = re.compile(r"(?P<scheme>s3|gs|hf)://(?P<path>[^?]*)(\?(?P<query>.*))?", re.IGNORECASE | re.DOTALL)
_PATTERN = re.compile(r"\*|\[[^\]]+\]")


def is_address(given: str) -> bool:
    """Whether INPUT names files of a store; a text may begin with such an address.

    Example:
        >>> [is_address(one) for one in ("s3://b/my acts.parquet", "s3://b/*", "s3://b is full.", "acts.npy")]
        [True, True, False, False]
    """
    said = STORE.fullmatch(given)
    if said is None:
        return False
    return not any(map(str.isspace, given)) or PurePosixPath(said["path"]).suffix.lower() in READ_SUFFIXES


def name_of(given: str) -> str:
    """The file's name in an address, or in a path."""
    said = STORE.fullmatch(given)
    return PurePosixPath(said["path"]).name if said else Path(given).name


READ_AHEAD = 8 << 20
"""Bytes that are asked for at a time: a request to a store takes as long as some megabytes do."""


@dataclass(frozen=True)
class Stored:
    """A file of a store; whether it is there is another question.

    Attributes:
        scheme: s3, gs or hf.
        path: bucket and key, or repository and file.
        query: settings of the client behind a `?`: region, endpoint_override, scheme.
        filesystem: of `pyarrow.fs`.
        listed: what the store said of it when it was listed; None: it was not.
        described: whether a sidecar was listed beside it; None: nobody looked.
    """

    scheme: str
    path: str
    query: str
    filesystem: Any
    listed: Any = None
    described: bool | None = None

    @classmethod
    def at(cls, address: str) -> Stored:
        """The file of an address.

        Raises:
            InputError: it is none, or holds a secret.
        """
        said = STORE.fullmatch(address)
        if said is None or len(PurePosixPath(said["path"]).parts) < 2:
            raise InputError(f"{address:.80} is no address of a file; expected s3://BUCKET/FILE, gs://… or hf://….")
        scheme, path, query = said["scheme"].lower(), said["path"], said["query"] or ""
        bucket = path.partition("/")[0]
        if "@" in bucket and bucket.partition("@")[0] != "anonymous":
            raise InputError(
                f"An address of {scheme}:// holds what stands before an @: keys have no place in addresses, which logs "
                "and sidecars name. Set them as the store's own client reads them (AWS_ACCESS_KEY_ID, a profile)."
            )
        with _told(f"{scheme}://{path}"):
            filesystem = _filesystem(scheme, bucket, query)
        return cls(scheme, path.removeprefix("anonymous@"), query, filesystem)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(self.path).name

    @property
    def stem(self) -> str:
        """The name without suffix."""
        return PurePosixPath(self.path).stem

    @property
    def suffix(self) -> str:
        """`.parquet`, …"""
        return PurePosixPath(self.path).suffix

    def beside(self, name: str) -> Stored:
        """Another file in the same folder."""
        return replace(self, path=str(PurePosixPath(self.path).with_name(name)), listed=None, described=None)

    def files(self) -> list[Stored]:
        """The file itself; of a pattern (`*`, `**`, `[0-9]`) all that match it, in the order of their names.

        Raises:
            InputError: nothing is there.
        """
        from pyarrow import fs

        if not _PATTERN.search(self.path):
            return [replace(self, listed=self.info())]
        from fsspec.utils import glob_translate

        parts = PurePosixPath(self.path).parts
        fixed = next(number for number, part in enumerate(parts) if _PATTERN.search(part))
        if not fixed:
            raise InputError(f"{self}: the bucket's own name cannot be a pattern.")
        matches = re.compile(glob_translate(self.path)).fullmatch
        folder = "/".join(parts[:fixed])
        selector = fs.FileSelector(folder, recursive=fixed < len(parts) - 1, allow_not_found=True)
        with _told(str(self)):
            found = self.filesystem.get_file_info(selector)
        there = {one.path: one for one in found if one.type == fs.FileType.File}
        paths = sorted(path for path in there if matches(path) and not path.endswith(SIDECAR))
        if not paths:
            raise InputError(f"{self} is a pattern that matches no file there.")
        told = [{"listed": there[path], "described": path + SIDECAR in there} for path in paths]
        return [replace(self, path=path, **facts) for path, facts in zip(paths, told, strict=True)]

    def info(self) -> Any:
        """What the store says of it: size, and time of its last change.

        Raises:
            InputError: it is not there, or nobody answers.
        """
        from pyarrow import fs

        with _told(str(self)):
            found = self.filesystem.get_file_info([self.path])[0]
        if found.type == fs.FileType.Directory:
            raise InputError(f"{self} is a folder; name its files by a pattern: {self}/*.parquet")
        if found.type != fs.FileType.File:
            raise InputError(f"{self} does not exist.")
        return found

    def exists(self) -> bool:
        """Whether there is a file of that name.

        Raises:
            InputError: nobody answers.
        """
        from pyarrow import fs

        with _told(str(self)):
            return bool(self.filesystem.get_file_info([self.path])[0].type == fs.FileType.File)

    def identity(self) -> dict[str, int | str]:
        """Size, and what changes when its content does: the Hub's id of it, elsewhere the time of its last change."""
        found = self.listed or self.info()
        facts: dict[str, int | str] = {"origin": str(self), "bytes": found.size}
        if self.scheme == "hf":
            with _told(str(self)):
                return facts | {"blob": self.filesystem.handler.fs.info(self.path)["blob_id"]}
        return facts | {"modified": found.mtime_ns}

    @contextmanager
    def opened(self) -> Iterator[pa.NativeFile]:
        """Its bytes, by ranges.

        Raises:
            InputError: it cannot be read.
        """
        with _told(str(self)), self.filesystem.open_input_file(self.path) as file:
            yield file

    def sidecar(self) -> dict[str, Any]:
        """What stands beside it, as `nla_sdk.io.sidecars.read_sidecar` has it of a file here."""
        file = self.beside(self.name + SIDECAR)
        if self.described is False or not file.exists():
            return {}
        with file.opened() as opened:
            return parsed(opened.readall(), str(file))

    def fetched(self) -> Path:
        """A copy that is there until this process ends, for what is not read by ranges."""
        with tempfile.NamedTemporaryFile(prefix="nla-", suffix=self.suffix, delete=False) as file:
            path = Path(file.name)
        atexit.register(path.unlink, missing_ok=True)
        with self.opened() as source, path.open("wb") as target:
            while block := source.read(READ_AHEAD):
                target.write(block)
        return path

    def remove(self) -> None:
        """Delete it, if it is there.

        Raises:
            InputError: it cannot be deleted.
        """
        if self.exists():
            with _told(str(self), "deleted"):
                self.filesystem.delete_file(self.path)

    def put(self, file: Path) -> None:
        """Write a local file there; who looks meanwhile sees the old one, or none.

        Raises:
            InputError: it cannot be written, or is not what was sent.
        """
        from pyarrow import fs

        with _told(str(self), "written"):
            if self.scheme == "hf":
                _commit(file, self.path, self.filesystem.handler.fs)
            else:
                fs.copy_files(str(file.absolute()), self.path, fs.LocalFileSystem(), self.filesystem)
        if (size := self.info().size) != file.stat().st_size:
            raise InputError(f"{self} has {size:,} bytes; {file.stat().st_size:,} were sent. Run the command again.")


def _filesystem(scheme: str, bucket: str, query: str) -> Any:
    from pyarrow import fs

    if scheme == "hf":
        from huggingface_hub import HfFileSystem

        return fs.PyFileSystem(fs.FSSpecHandler(HfFileSystem(skip_instance_cache=True)))
    return fs.FileSystem.from_uri(f"{scheme}://{bucket}" + f"?{query}" * bool(query))[0]


def _commit(file: Path, path: str, hub: Any) -> None:
    """A file in a commit of its own: the client's file system writes streams, and lists what was there before."""
    from huggingface_hub import HfApi

    at = hub.resolve_path(path)
    where = {"repo_id": at.repo_id, "repo_type": at.repo_type, "revision": at.revision}
    HfApi().upload_file(path_or_fileobj=file, path_in_repo=at.path_in_repo, **where)
    hub.invalidate_cache()


@contextmanager
def _told(name: str, done: str = "read") -> Iterator[None]:
    """What goes wrong with a store as an InputError that names the file.

    Raises:
        InputError: what the client says, in a line.
    """
    import pyarrow as pa
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except FileNotFoundError:
        if done == "read":
            raise InputError(f"{name} does not exist.") from None
        raise InputError(
            f"{name} cannot be {done}: there is no such bucket or repository, or it is not written to without other "
            "keys (of the Hub: HF_TOKEN)."
        ) from None
    except (OSError, pa.ArrowException, HfHubHTTPError) as error:
        raise InputError(f"{name} cannot be {done}: {first_line(error):.300}") from None  # it may quote what was sent
