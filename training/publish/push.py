"""The last step of a publication: compare with the Hub, commit, read back, follow up.

Everything is checked and staged before the first request that writes, and everything the Hub could refuse is asked for
before the first repository is made. Each repository gets one commit; what a fault leaves undone a second run completes,
and a run with nothing to do makes no commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cards import diff
from nla_sdk.errors import AccessTokenError, InputError, NLAError, OfflineError
from nla_sdk.halves.hub.naming import ask_present_name

from ..runs.scan import Scanner
from .checks.check import Checked
from .errors import PublishError, RefusedError, TransferError
from .remote import Change, Remote, ask
from .request import PublishRequest
from .stage import Publication, Repository, Staged

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True)
class Outcome:
    """What was done for one repository."""

    url: str
    commit: str
    changed: bool
    loads: str
    request_url: str | None = None


def connect(token: str | None = None) -> HfApi:
    """The client, with a token that may write.

    Args:
        token: None: this machine's (HF_TOKEN, or the one of `hf auth login`).
    Raises:
        AccessTokenError: there is none, or it can only read.
    """
    from huggingface_hub import HfApi, get_token

    from nla_sdk.halves.hub.errors import clean_token, hub_errors

    token = clean_token(token or get_token())
    if not token:
        raise AccessTokenError("Publishing needs a token: log in with `hf auth login`, or set HF_TOKEN.")
    api = HfApi(token=token)
    with hub_errors("your account", publishing=True):
        account = ask(api.whoami)
    role = account.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise AccessTokenError(
            "This token can only read. Make one with write access in your account's settings and log in with it."
        )
    api.account = account
    return api


def look(api: HfApi, publication: Publication, request: PublishRequest) -> list[tuple[Remote, Change, str]]:
    """Compare with what is there: for each repository the change, and the card's difference for people.

    Repositories that were renamed are found first, and what is staged is staged again under their present names.

    Raises:
        AccessTokenError: the token may not write to one of them.
        RefusedError: what is there, or the Hub, does not take what is staged.
    """
    if names := _renamed(api, publication):
        publication.rename(names)
    remotes = [Remote(api, repository.staged, request.revision) for repository in publication.repositories]
    for repository, remote in zip(publication.repositories, remotes, strict=True):
        repository.head = remote.head()
        _check_access(api, remote, repository.head, request)
    _check_collection(api, request.collection)
    _check_benchmark(api, publication)
    compared = []
    for repository, remote in zip(publication.repositories, remotes, strict=True):
        existing = remote.card(repository.head) if remote.staged.takes("README.md") else None
        if remote.staged.part:
            remote.staged.write_manifest(remote.published(repository.head))
        new = repository.write_card(existing)
        _check_card(new, repository.staged)
        if request.tag and repository.head is not None:
            remote.check_tag(request.tag)
        compared.append((remote, remote.change(repository.head), diff(existing, new) if existing else ""))
    _scan_again(publication)
    return compared


def _renamed(api: HfApi, publication: Publication) -> dict[str, str]:
    """Old name → present one, of every repository that is published to or named; each is said as it is found.

    Asked before anything else: a request that writes goes astray on a redirect (POST becomes GET on 301), and what is
    made under an old name takes that name from everybody who still uses it.
    """
    names = {}
    for name, kind in publication.checked.named().items():
        present = ask_present_name(name, kind, token=api.token)
        if present != name:
            names[name] = present
    return names


def _check_access(api: HfApi, remote: Remote, head: str | None, request: PublishRequest) -> None:
    """The token may do what is asked: write to what is there, make what isn't. Anybody may open a pull request."""
    repo, account = remote.staged.repo_id, api.account
    owner = repo.partition("/")[0]
    if head is not None:
        if request.private and not remote.is_private():
            raise InputError(f"{repo} is there and public, and --private is for new ones. Change it in its settings.")
        if not request.create_pr:
            remote.check_write()
    else:
        may = {org["name"] for org in account.get("orgs", []) if org.get("roleInOrg") != "read"}
        if owner not in {account["name"], *may}:
            raise AccessTokenError(
                f"{repo} belongs to {owner}; this token is {account['name']}'s"
                + (f", who may write in {', '.join(sorted(may))}" if may else "")
                + ". Choose another --repo, or log in as one who may write there."
            )
    scopes = account.get("auth", {}).get("accessToken", {}).get("fineGrained", {}).get("scoped")
    if scopes is None or request.create_pr:
        return
    if not any(
        scope["entity"].get("name") in (owner, repo) and "repo.write" in scope["permissions"] for scope in scopes
    ):
        raise AccessTokenError(
            f"This token may not write to repositories of {owner}. Give it that permission in your account's settings, "
            "or set HF_TOKEN to another one."
        )


def _check_collection(api: HfApi, slug: str | None) -> None:
    from huggingface_hub import errors

    from nla_sdk.halves.hub.errors import hub_errors

    def is_there() -> bool:
        try:
            api.get_collection(slug)
        except errors.HfHubHTTPError as error:
            if error.response.status_code != 404:
                raise
            return False
        return True

    if slug is None:
        return
    with hub_errors(f"the collection {slug}", publishing=True):
        if not ask(is_there):
            raise InputError(
                f"There is no collection {slug} on {api.endpoint}. Make it there first; its slug ends its address."
            )


def _check_benchmark(api: HfApi, publication: Publication) -> None:
    """The dataset that is said to hold the held-out table holds it, by the SHA-256 that the Hub has of it."""
    from nla_sdk.halves.hub.errors import hub_errors

    checked = publication.checked
    if not isinstance(checked, Checked) or (evaluation := checked.evaluation) is None:
        return
    if (name := checked.request.benchmark) is None:
        return

    def held() -> bool:
        files = api.list_repo_tree(name, repo_type="dataset", recursive=True)
        large = (lfs for file in files if (lfs := getattr(file, "lfs", None)) is not None)
        return any(lfs.sha256 == evaluation.data.sha256 for lfs in large)

    with hub_errors(f"datasets/{name}", publishing=True):
        if not ask(held):
            raise RefusedError(
                [
                    f"the dataset {name} holds no file with the SHA-256 of {evaluation.data.name}, which the "
                    "evaluation was measured on: publish that table, or leave the benchmark out"
                ]
            )


def _check_card(card: str, staged: Staged) -> None:
    """The Hub takes the card's metadata, asked before anything is made there."""
    from huggingface_hub import DatasetCard, ModelCard, SpaceCard

    from nla_sdk.halves.hub.errors import hub_errors

    with hub_errors(staged.repo_id, publishing=True):
        try:
            ask({"model": ModelCard, "dataset": DatasetCard, "space": SpaceCard}[staged.kind](card).validate)
        except ValueError as error:
            reason = " ".join(str(error).split())[:300]
            raise RefusedError([f"the Hub does not take the card of {staged.repo_id}: {reason}"]) from None


def _scan_again(publication: Publication) -> None:
    """Kept sections came from the remote card; they are published again, so they are searched as well."""
    scanner = Scanner(repository.staged.repo_id for repository in publication.repositories)
    secrets = [
        secret
        for repository in publication.repositories
        for secret in scanner.file(repository.staged.folder / "README.md", f"{repository.staged.repo_id}/README.md")
    ]
    if secrets:
        raise RefusedError([f"{secret} must not be published" for secret in secrets])


def publish(
    api: HfApi, publication: Publication, request: PublishRequest, say: Callable[[str], None] = print
) -> list[Outcome]:
    """Commit, read back, tag and collect what `look` compared; says what is done as it is done.

    Raises:
        PublishError: something was left undone; the message says what is published and what is not.
    """
    # The order of faults: one repository is committed and read back before the next is begun, so that at any fault all
    # before it are whole, one is in question and the rest untouched. Tags and the collection come last, because they
    # point at commits: what they name is then known to have arrived.
    outcomes: list[Outcome] = []
    remotes = [Remote(api, repository.staged, request.revision) for repository in publication.repositories]
    for index, (repository, remote) in enumerate(zip(publication.repositories, remotes, strict=True)):
        try:
            outcome = _commit(repository, remote, request)
        except NLAError as error:
            # A commit whose answer was lost may have been made all the same: "not published" could be untrue of it.
            what = (
                "may be published or not, the answer to its commit was lost" if remote.unsure else "was not published"
            )
            raise _left(what, publication, index, error) from None
        except KeyboardInterrupt:
            what = "may be published or not, it was being sent"
            raise KeyboardInterrupt(f"stopped; {_left(what, publication, index)}") from None
        try:
            remote.check(outcome.commit)
        except NLAError as error:
            what = f"was published ({outcome.commit[:12]}), but is not read back whole"
            raise _left(what, publication, index, error) from None
        except KeyboardInterrupt:
            what = f"was published ({outcome.commit[:12]}), but not read back"
            raise KeyboardInterrupt(f"stopped; {_left(what, publication, index)}") from None
        outcomes.append(outcome)
        what = "published" if outcome.changed else "is up to date"
        say(f"{outcome.request_url or outcome.url} {what} ({outcome.commit[:12]}), every file read back")
    try:
        missing, final = _point_at(remotes, outcomes, request)
    except KeyboardInterrupt:
        what = "stopped; all files are published, their tag and collection may be missing"
        raise KeyboardInterrupt(f"{what}. Run the same command again to complete it.") from None
    if missing:
        how = "Put that right, and run the command again" if final else "Run the same command again"
        raise PublishError(f"All files are published; missing: {'; '.join(missing)}. {how} to complete it.")
    return outcomes


def _point_at(
    remotes: Sequence[Remote], outcomes: Sequence[Outcome], request: PublishRequest
) -> tuple[list[str], bool]:
    """Tag and collect what was committed; returns what could not be, and whether trying again would not help."""
    missing: list[str] = []
    final = False
    for remote, outcome in zip(remotes, outcomes, strict=True):  # one that fails keeps none of the others back
        try:
            if request.tag:
                remote.tag(request.tag, outcome.commit)
        except NLAError as error:
            missing.append(f"tag {request.tag} of {remote.staged.repo_id} ({error})")
            final |= not isinstance(error, OfflineError)
        try:
            if request.collection:
                remote.collect(request.collection)
        except NLAError as error:
            missing.append(f"{remote.staged.repo_id} in collection {request.collection} ({error})")
            final |= not isinstance(error, OfflineError)
    return missing, final


def _commit(repository: Repository, remote: Remote, request: PublishRequest) -> Outcome:
    before = repository.head
    remote.create(request.private, new=before is None)
    verb = f"{request.message}," if request.message else "Publish" if before is None else "Update"
    commit, address = remote.commit(verb, expected=before, create_pr=request.create_pr)
    if address is None:  # a pull request leaves the branch where it was
        repository.head = commit
    return Outcome(remote.url, commit, commit != before, repository.loads, address)


def _left(what: str, publication: Publication, index: int, error: NLAError | None = None) -> PublishError:
    """What is published and what is not, when the repository at `index` failed."""
    names = [repository.staged.repo_id for repository in publication.repositories]
    message = f"{names[index]} {what}: {error}" if error else f"{names[index]} {what}."
    if names[:index]:
        message += f" Published already: {', '.join(names[:index])}."
    if names[index + 1 :]:
        message += f" Not begun: {', '.join(names[index + 1 :])}."
    passing = isinstance(error, OfflineError | TransferError)
    how = "Run the same command again" if passing else "Put that right, and run the command again"
    return PublishError(f"{message} {how} to complete it.")
