"""One repository on the Hub: what is there, what would change, one commit, and whether it arrived whole.

The official client does all of it. Requests that fail for reasons of the moment (429, 503, time-outs, broken
connections) are made again; before a commit is made again the branch is read, because a connection can break after the
Hub has acted. A branch is therefore at the old commit or at the complete new one, never between.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nla_sdk.errors import MissingFileError, NLAError, first_line
from nla_sdk.halves.hub.errors import TRANSIENT, hub_errors, pause_asked

from ..runs.patience import Result, patiently
from .errors import PublishError, RefusedError, TransferError
from .stage import MANIFEST, Staged, paths_in

ATTEMPTS = 5
PAUSE = 1.0  # seconds before the second attempt
LONGEST_PAUSE = 20.0
LONGEST_ASKED = 120.0  # of a pause that the Hub asks for: a longer one is told, and not slept through
FIRST = ".gitattributes"  # what the Hub puts into a new repository


def ask(work: Callable[[], Result]) -> Result:
    """Ask the Hub, and again after failures of the moment, with growing pauses or those that it asks for."""
    return patiently(
        work, again=_is_worth_waiting, attempts=ATTEMPTS, pause=PAUSE, longest=LONGEST_PAUSE, asked=pause_asked
    )


def _is_worth_waiting(error: BaseException) -> bool:
    return is_transient(error) and (pause_asked(error) or 0.0) <= LONGEST_ASKED


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later: `TRANSIENT` statuses, time-outs, broken connections."""
    from huggingface_hub import errors

    if isinstance(error, TransferError):
        return True
    if isinstance(error, errors.HTTPError):  # the HTTP library's base class, and the client's own
        response = getattr(error, "response", None)
        return response is None or response.status_code in TRANSIENT
    return isinstance(error, ConnectionError | TimeoutError) and not isinstance(error, errors.OfflineModeIsEnabled)


@dataclass(frozen=True)
class Change:
    """What a commit would do.

    Attributes:
        stays: tables that are there and not in this publication.
        fresh: nothing is there but what the Hub puts into a new repository.
    """

    add: list[str] = field(default_factory=list)
    replace: list[str] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)
    stays: list[str] = field(default_factory=list)
    fresh: bool = False

    def __bool__(self) -> bool:
        return bool(self.add or self.replace or self.delete)


class Remote:
    """A repository to publish to.

    Args:
        api: `huggingface_hub.HfApi` with the token.
        staged: what should be there.
        revision: the branch; None: main.

    Attributes:
        unsure: a commit was asked for and its answer lost, and the branch could not be read since.
    """

    def __init__(self, api: Any, staged: Staged, revision: str | None = None) -> None:
        self.api, self.staged, self.revision = api, staged, revision or "main"
        self.unsure = False

    @property
    def url(self) -> str:
        """Its page on the Hub."""
        folder = "" if self.staged.kind == "model" else f"{self.staged.kind}s/"
        return f"{self.api.endpoint}/{folder}{self.staged.repo_id}"

    def _ask(self, work: Callable[[], Result]) -> Result:
        """Ask patiently; the client's errors become ours, without its request headers."""
        with hub_errors(self.staged.repo_id, self.revision, publishing=True):
            return ask(work)

    # --- what is there ----------------------------------------------------------------------------------------------
    def head(self) -> str | None:
        """The branch's commit, main's where the branch is still to be made; None where there is no such repository."""
        from huggingface_hub import errors

        def look() -> str | None:
            for revision in dict.fromkeys((self.revision, "main")):
                try:
                    return self._info(revision).sha
                except errors.GatedRepoError:
                    raise
                except errors.RepositoryNotFoundError:
                    return None
                except errors.RevisionNotFoundError:
                    continue
            return None

        return self._ask(look)

    def _info(self, revision: str) -> Any:
        return self.api.repo_info(self.staged.repo_id, repo_type=self.staged.kind, revision=revision)

    def is_private(self) -> bool:
        """Whether only its owners see it."""
        return bool(self._ask(lambda: self._info("main")).private)

    def check_write(self) -> None:
        """Ask whether the token may write to this repository, which is there.

        Raises:
            AccessTokenError: it may not.
        """
        self._ask(lambda: self.api.auth_check(self.staged.repo_id, repo_type=self.staged.kind, write=True))

    def read(self, path: str, commit: str) -> bytes:
        """A file's bytes at `commit`, asked of the Hub and not of the cache."""
        from huggingface_hub import errors
        from huggingface_hub.utils import silent_tqdm

        def download() -> bytes:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    file = self.api.hf_hub_download(
                        self.staged.repo_id,
                        path,
                        repo_type=self.staged.kind,
                        revision=commit,
                        local_dir=folder,
                        force_download=True,
                        tqdm_class=silent_tqdm,
                    )
                except ValueError as error:  # "force download failed", because of an error that says more
                    raise error.__cause__ or error from None
                except errors.HTTPError:
                    raise
                except OSError as error:  # fewer bytes than were announced
                    raise TransferError(f"the download broke off ({first_line(error)}).") from None
                return Path(file).read_bytes()

        return self._ask(download)

    def card(self, commit: str | None) -> str | None:
        """The card at `commit`, for its hand-written sections; None where there is none."""
        try:
            return self.read("README.md", commit).decode("utf-8", "replace") if commit else None
        except MissingFileError:
            return None

    def change(self, commit: str | None) -> Change:
        """What would have to change at `commit` (None: no repository) for the staged content to be there."""
        files = self.staged.files()
        if commit is None:
            return Change(add=list(files), fresh=True)
        verified = self._ask(
            lambda: self.api.verify_repo_checksums(
                self.staged.repo_id, repo_type=self.staged.kind, revision=commit, local_dir=self.staged.folder
            )
        )
        differing = {mismatch["path"] for mismatch in verified.mismatches}
        add = [name for name in files if name in verified.extra_paths]
        replace = [name for name in files if name in differing]
        others = [name for name in verified.missing_paths if name != FIRST]
        fresh = not others and len(add) == len(files)
        if self.staged.kind == "dataset":  # its other tables are not ours to judge
            return Change(add, replace, [], [name for name in others if name.endswith(".parquet")], fresh)
        ours = self.published(commit) if others and MANIFEST not in add else ()
        gone = [name for name in others if name in ours and self.staged.takes(name)]
        return Change(add, replace, gone, [], fresh)

    def published(self, commit: str | None) -> list[str]:
        """The paths that the publications up to `commit` put there; none where there are none."""
        try:
            return paths_in(self.read(MANIFEST, commit)) if commit is not None else []
        except MissingFileError:
            return []

    # --- writing ----------------------------------------------------------------------------------------------------
    def create(self, private: bool, *, new: bool) -> None:
        """Make the repository, if it is a new one, and the branch, if it isn't there."""
        kind = self.staged.kind
        if new:
            more = {"space_sdk": "docker"} if kind == "space" else {}
            repo = self.staged.repo_id
            self._ask(lambda: self.api.create_repo(repo, repo_type=kind, private=private, exist_ok=True, **more))
        if self.revision != "main":
            self._ask(
                lambda: self.api.create_branch(self.staged.repo_id, branch=self.revision, repo_type=kind, exist_ok=True)
            )

    def commit(self, verb: str, *, expected: str | None, create_pr: bool = False) -> tuple[str, str | None]:
        """Bring the branch to the staged content in one commit, unless it is there already.

        Args:
            verb: the commit's title begins with it.
            expected: what `head` gave when the change was looked at; None: there was no repository.
        Returns:
            The commit, and the address of the pull request if one was opened.
        Raises:
            PublishError: somebody else committed meanwhile.
            NLAError: the Hub refuses or cannot be reached.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        digest = self.staged.digest

        def attempt() -> tuple[str, str | None]:
            head = self.head()
            # The branch is read before every attempt: the one before may have been acted on and its answer lost. If
            # the content is there, that is this commit; if it is neither there nor what `look` saw, somebody else's is.
            change = self.change(head)
            self.unsure = False
            if head is not None and not change:
                return head, None
            if head != expected and not (expected is None and change.fresh):
                raise self._overtaken()
            if create_pr and (opened := self._open_request(digest)):
                return opened
            files = self.staged.files()
            operations = [CommitOperationAdd(name, str(files[name])) for name in (*change.add, *change.replace)]
            operations += [CommitOperationDelete(name) for name in change.delete]
            try:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message=".*commit a data file")  # an evaluation's rows
                    made = self.api.create_commit(
                        self.staged.repo_id,
                        operations,
                        commit_message=f"{verb} with nla-sdk ({digest})",
                        repo_type=self.staged.kind,
                        revision=self.revision,
                        parent_commit=head,
                        create_pr=create_pr,
                        num_threads=1,
                    )
            except Exception as error:
                failure = of_upload(error)
                self.unsure = is_transient(failure)
                if getattr(getattr(failure, "response", None), "status_code", None) == 412:
                    raise self._overtaken() from None
                raise failure from None
            return made.oid, made.pr_url

        return self._ask(attempt)

    def _overtaken(self) -> PublishError:
        return PublishError(
            f"{self.url}: somebody committed to {self.revision} meanwhile. Look at it and publish again."
        )

    def _open_request(self, digest: str) -> tuple[str, str | None] | None:
        """An open pull request of this very content, made by an earlier run."""
        for thread in self.api.get_repo_discussions(self.staged.repo_id, repo_type=self.staged.kind):
            is_open = thread.is_pull_request and thread.status in ("open", "draft")
            if is_open and thread.title.endswith(f"nla-sdk ({digest})"):
                return self._info(thread.git_reference).sha, thread.url
        return None

    def check(self, commit: str) -> None:
        """Read back what `commit` holds: every staged file.

        All are compared by the hashes that the Hub holds of them; those that are no large files, of which it holds the
        weaker SHA-1, are downloaded and compared byte for byte.

        Raises:
            PublishError: something differs.
        """
        files = self.staged.files()
        change = self.change(commit)
        wrong = [f"{name} is missing" for name in change.add]
        differing = set(change.replace)
        for entry in self._ask(
            lambda: self.api.get_paths_info(
                self.staged.repo_id, list(files), revision=commit, repo_type=self.staged.kind
            )
        ):
            if entry.lfs is None and self.read(entry.path, commit) != files[entry.path].read_bytes():
                differing.add(entry.path)
        wrong += [f"{name} is another file there" for name in files if name in differing]
        if wrong:
            raise PublishError(f"{self.url} at {commit[:12]} is not what was sent: {'; '.join(wrong)}.")

    # --- follow-ups -------------------------------------------------------------------------------------------------
    def check_tag(self, name: str) -> str | None:
        """The commit that a tag names; None where there is no such tag.

        Raises:
            RefusedError: it names something else than what is staged.
        """

        def look() -> str | None:
            refs = self.api.list_repo_refs(self.staged.repo_id, repo_type=self.staged.kind)
            return next((tag.target_commit for tag in refs.tags if tag.name == name), None)

        commit = self._ask(look)
        if commit is not None and self.change(commit):
            raise RefusedError(
                [f"the tag {name} of {self.url} names {commit[:12]}, which holds other files; pass another --tag"]
            )
        return commit

    def tag(self, name: str, commit: str) -> None:
        """Tag `commit`, unless the tag names the same content already.

        Raises:
            RefusedError: the tag is there and names something else.
        """

        def attempt() -> None:
            if self.check_tag(name) is None:
                self.api.create_tag(
                    self.staged.repo_id, tag=name, revision=commit, repo_type=self.staged.kind, exist_ok=True
                )

        self._ask(attempt)

    def collect(self, slug: str) -> None:
        """Put the repository into a collection."""
        self._ask(
            lambda: self.api.add_collection_item(slug, self.staged.repo_id, item_type=self.staged.kind, exists_ok=True)
        )


def of_upload(error: Exception) -> Exception:
    """What the client raises when a commit fails, as an error that says whether another attempt may help."""
    from huggingface_hub import errors

    if isinstance(error, RuntimeError) and isinstance(error.__cause__, errors.HTTPError):
        return error.__cause__  # the client's own words for any error of an upload
    ours = (NLAError, errors.HTTPError, errors.HFValidationError, ConnectionError, TimeoutError, UnicodeError)
    if isinstance(error, ours):
        return error
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, RuntimeError):  # the Xet client has one class for everything
        return TransferError(f"the upload broke off ({reason}).")
    if isinstance(error, ValueError | OSError):
        return PublishError(f"the Hub's client refuses it ({reason}).")
    return error


def lines_of(change: Change, files: Mapping[str, Path]) -> list[str]:
    """A change as lines for people."""
    lines = []
    for sign, names in (("+", change.add), ("~", change.replace), ("-", change.delete)):
        for name in names:
            size = f"  {files[name].stat().st_size:,} bytes" if name in files else ""
            lines.append(f"  {sign} {name}{size}")
    lines += [f"  = {name} stays; this card does not describe it" for name in change.stays]
    return lines
