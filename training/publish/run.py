"""A publication from beginning to end: check, stage, render, compare, commit, read back, follow up.

Everything is checked and staged before the first request that writes. Each repository gets one commit; what a fault
leaves undone a second run completes, and a run with nothing to do makes no commit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cards import About, Checkpoint, diff, render
from cards.dataset import DatasetFacts
from cards.evaluation import EVALUATION, Evaluation, load
from nla_sdk.contract import Contract
from nla_sdk.errors import AccessTokenError, InputError, NLAError
from nla_sdk.half import OTHER, Half

from ..trend import said_of
from . import checks, stage
from .errors import PublishError, RefusedError
from .remote import Change, Remote, Staged, patiently
from .scan import Scanner


@dataclass(frozen=True)
class Request:
    """What the author asked for; the command's options.

    Attributes:
        repo: owner/name; of a pair its stem: owner/name-av and owner/name-ar are made, and owner/name-data.
        checkpoint: a half's folder, or one with `av` and `ar` in it.
        evaluation: evaluation.json of these weights.
        tables: parquet files to publish as a dataset.
        pair: the other half's repository, when one half is published.
        trajectory: checkpoints' folders, each becomes a subfolder of one repository.
        notes: the author's card_notes.md.
    """

    repo: str
    checkpoint: Path | None = None
    evaluation: Path | None = None
    tables: Sequence[Path] = ()
    pair: str | None = None
    trajectory: Sequence[Path] = ()
    notes: Path | None = None
    licence: str | None = None
    private: bool = False
    create_pr: bool = False
    revision: str | None = None
    tag: str | None = None
    collection: str | None = None


@dataclass
class Repository:
    """One repository of a publication, staged.

    Attributes:
        make_card: existing card (or None) → the new one's text.
    """

    staged: Staged
    make_card: Callable[[str | None], str]
    loads: str

    def write_card(self, existing: str | None) -> str:
        """Put README.md into the staged folder; returns its text."""
        text = self.make_card(existing)
        (self.staged.folder / "README.md").write_text(text, encoding="utf-8", newline="\n")
        return text


@dataclass
class Plan:
    """Everything that would be published, checked and staged; `warnings` are for the author."""

    repositories: list[Repository]
    warnings: list[str] = field(default_factory=list)


# --- before anything is sent -----------------------------------------------------------------------------------------
@contextmanager
def prepared(request: Request) -> Iterator[Plan]:
    """Check and stage in a temporary folder that goes when the block ends.

    Raises:
        RefusedError: something does not hold; names all of it.
        InputError: the request itself makes no sense.
    """
    _sensible(request)
    with tempfile.TemporaryDirectory(prefix="nla-publish-") as folder:
        yield _prepare(request, Path(folder))


def _sensible(request: Request) -> None:
    if not (request.checkpoint or request.tables or request.trajectory):
        raise InputError("Nothing to publish: pass --checkpoint, --dataset or --trajectory.")
    if request.checkpoint and request.trajectory:
        raise InputError("A checkpoint and a trajectory are two repositories: publish them one after the other.")
    if request.repo.count("/") != 1 or not all(request.repo.split("/")):
        raise InputError(f"--repo {request.repo!r} is not OWNER/NAME.")
    for path in (request.checkpoint, *request.trajectory):
        if path is not None and not path.is_dir():
            raise InputError(f"{path} is not a folder; expected a checkpoint (adapter, contract and, of an AR, head).")
    for path in (request.evaluation, request.notes, *request.tables):
        if path is not None and not path.is_file():
            raise InputError(f"{path} does not exist.")


def _prepare(request: Request, folder: Path) -> Plan:
    findings = checks.Findings()
    halves = _halves(request.checkpoint)
    trajectory = [_half(path) for path in request.trajectory]
    for half in (*halves, *trajectory):
        checks.check_half(half, findings)
    for table in request.tables:
        checks.check_table(table, findings)
    evaluation = None
    if request.evaluation is not None and not findings.problems:
        evaluation = checks.check_evaluation(request.evaluation, halves, request.tables, findings)
    elif halves and request.evaluation is None:
        findings.warnings.append("no evaluation: the card will say that nobody has measured this")
    if findings.problems:
        raise RefusedError(findings.problems)
    names = _names(request, halves)
    repositories = [_stage_half(half, request, names, evaluation, folder) for half in halves]
    if request.tables:
        repositories.append(_stage_dataset(request, names, folder))
    if trajectory:
        repositories.append(_stage_trajectory(request, trajectory, folder))
    for repository in repositories:
        repository.write_card(None)  # rendered before anything is sent; with kept sections it is rendered again
    scanner = Scanner()
    found = [one for repository in repositories for one in scanner.folder(repository.staged.folder)]
    if found:
        raise RefusedError([f"{one} must not be published" for one in found])
    return Plan(repositories, findings.warnings)


def _half(folder: Path) -> Half:
    """The half in a folder, whichever role it has."""
    contract = Contract.load(folder)
    if contract.role is None:
        raise InputError(f"{folder} holds a contract without a role; expected an AV or an AR.")
    return Half.find(str(folder), contract.role)


def _halves(checkpoint: Path | None) -> list[Half]:
    if checkpoint is None:
        return []
    inside = [checkpoint / role for role in ("av", "ar") if (checkpoint / role).is_dir()]
    if inside and not (checkpoint / "nla_meta.yaml").is_file():
        return [_half(folder) for folder in inside]
    return [_half(checkpoint)]


def _names(request: Request, halves: Sequence[Half]) -> dict[str, str]:
    """Repository by role: of a pair the stem with -av and -ar, of a single half the name as given."""
    if len(halves) == 2:
        stem = request.repo.removesuffix("-av")
        names = {"av": f"{stem}-av", "ar": f"{stem}-ar", "data": f"{stem}-data"}
        if request.pair:
            raise InputError("--pair names the other half of a single one; this checkpoint holds both.")
        return names
    names = {"data": f"{request.repo}-data" if halves else request.repo}
    for half in halves:
        role = half.contract.role
        names[role] = request.repo
        other = request.pair or half.contract.pair
        if other:
            names[OTHER[role]] = other
    return names


def _notes(request: Request) -> str | None:
    return request.notes.read_text(encoding="utf-8") if request.notes else None


def _sizes(folder: Path) -> Mapping[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "README.md")
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _stage_half(
    half: Half, request: Request, names: Mapping[str, str], evaluation: Evaluation | None, folder: Path
) -> Repository:
    role = half.contract.role
    repo, other = names[role], names.get(OTHER[role])
    place = folder / role
    contract = stage.stage_half(half, place, pair=other)
    if evaluation is not None:
        stage.stage_evaluation(request.evaluation, place)
    log = place / stage.LOG
    published_data = [names["data"]] if request.tables else []

    def card(existing: str | None) -> str:
        about = About(
            repo,
            pair=other,
            notes=_notes(request),
            existing=existing,
            figures=stage.figures_of(place),
            files=_sizes(place),
            datasets=published_data,
            licence=request.licence,
            is_adapter=half.is_adapter,
            trend=said_of(log),
        )
        return render(contract, evaluation, log if log.is_file() else None, about=about).text

    arguments = f'"{repo}"' if role == "av" else f'None, "{repo}"'
    return Repository(Staged(repo, "model", place), card, f"NLAPair.from_pretrained({arguments})")


def _stage_dataset(request: Request, names: Mapping[str, str], folder: Path) -> Repository:
    place = folder / "data"
    copies = [stage.stage_table(table, place) for table in request.tables]
    contract = Contract.load(copies[0])
    facts = DatasetFacts.read(copies)

    def card(existing: str | None) -> str:
        about = About(
            names["data"],
            pair=names.get("av"),
            notes=_notes(request),
            existing=existing,
            dataset=facts,
            licence=request.licence if not request.checkpoint else None,
        )
        return render(contract, kind="dataset", about=about).text

    return Repository(Staged(names["data"], "dataset", place), card, f'load_dataset("{names["data"]}")')


def _stage_trajectory(request: Request, halves: Sequence[Half], folder: Path) -> Repository:
    from cards.figures import trajectory as draw_trajectory

    place = folder / "trajectory"
    found = []
    for half in halves:
        name = half.folder.name
        contract = stage.stage_half(half, place / name, pair=request.pair)
        evaluation = None
        for file in (half.folder / EVALUATION, half.folder / "evaluation" / EVALUATION):
            if file.is_file():
                evaluation = load(file)
                if wrong := checks.evaluated_otherwise(evaluation, half):
                    raise RefusedError(wrong)
                stage.stage_evaluation(file, place / name)
                break
        found.append(Checkpoint(name, contract, evaluation))
    draw_trajectory([(one.name, one.evaluation) for one in found], place / "figures")

    def card(existing: str | None) -> str:
        about = About(
            request.repo,
            pair=request.pair,
            notes=_notes(request),
            existing=existing,
            figures=stage.figures_of(place),
            checkpoints=found,
            licence=request.licence,
            is_adapter=halves[-1].is_adapter,
        )
        return render(found[-1].contract, kind="trajectory", about=about).text

    loads = f'NLAPair.from_pretrained("{request.repo}/{found[-1].name}")'
    return Repository(Staged(request.repo, "model", place), card, loads)


# --- on the Hub ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Outcome:
    """What was done for one repository."""

    url: str
    commit: str
    changed: bool
    loads: str
    request_url: str | None = None


def connect(token: str | None):
    """The client, with a token that may write.

    Raises:
        AccessTokenError: there is none, or it can only read.
    """
    from huggingface_hub import HfApi, get_token

    from nla_sdk.hub_errors import clean_token, hub_errors

    found = clean_token(token or get_token())
    if not found:
        raise AccessTokenError("Publishing needs a token: log in with `hf auth login`, set HF_TOKEN, or pass --token.")
    api = HfApi(token=found)
    with hub_errors("your account"):
        account = patiently(api.whoami)
    role = account.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise AccessTokenError(
            "This token can only read. Make one with write access in your account's settings and log in with it."
        )
    api.account = account
    return api


def check_owner(api, repositories: Sequence[Repository]) -> None:
    """The token's account may write to every repository's owner.

    Raises:
        AccessTokenError: it may not.
    """
    mine = {api.account["name"], *(one["name"] for one in api.account.get("orgs", []))}
    for one in repositories:
        owner = one.staged.repo_id.partition("/")[0]
        if owner not in mine:
            raise AccessTokenError(
                f"{one.staged.repo_id} belongs to {owner}; this token is {api.account['name']}'s"
                + (f", who is in {', '.join(sorted(mine - {api.account['name']}))}" if len(mine) > 1 else "")
                + ". Choose another --repo, or log in as one who may write there."
            )


def look(api, plan: Plan, request: Request) -> list[tuple[Remote, Change, str]]:
    """Compare with what is there: for each repository the change, and the card's difference for people."""
    found = []
    for one in plan.repositories:
        remote = Remote(api, one.staged, request.revision)
        head = remote.head()
        existing = remote.card(head)
        new = one.write_card(existing)
        difference = diff(existing, new) if existing else ""
        found.append((remote, remote.change(head), difference))
    _scan_again(plan)
    return found


def _scan_again(plan: Plan) -> None:
    """Kept sections came from the remote card; they are published again, so they are searched as well."""
    scanner = Scanner()
    found = [
        one
        for repository in plan.repositories
        for one in scanner.file(repository.staged.folder / "README.md", f"{repository.staged.repo_id}/README.md")
    ]
    if found:
        raise RefusedError([f"{one} must not be published" for one in found])


def publish(api, plan: Plan, request: Request, say: Callable[[str], None] = print) -> list[Outcome]:
    """Commit, read back, tag and collect; says what is done as it is done.

    Raises:
        PublishError: something was left undone; the message says what is published and what is not.
    """
    done: list[Outcome] = []
    remotes = [Remote(api, one.staged, request.revision) for one in plan.repositories]
    for one, remote in zip(plan.repositories, remotes, strict=True):
        try:
            done.append(_commit(one, remote, request))
        except NLAError as error:
            raise PublishError(_left(done, plan, len(done), error)) from None
        outcome = done[-1]
        what = "published" if outcome.changed else "is up to date"
        say(f"{outcome.request_url or outcome.url} {what} ({outcome.commit[:12]}), every file read back")
    missing = []
    for remote, outcome in zip(remotes, done, strict=True):
        try:
            if request.tag and not request.create_pr:
                remote.tag(request.tag, outcome.commit)
        except NLAError as error:
            missing.append(f"tag {request.tag} of {remote.staged.repo_id} ({error})")
        try:
            if request.collection:
                remote.collect(request.collection)
        except NLAError as error:
            missing.append(f"{remote.staged.repo_id} in collection {request.collection} ({error})")
    if missing:
        raise PublishError(
            f"All files are published; missing: {'; '.join(missing)}. Run the same command again to complete it."
        )
    return done


def _commit(one: Repository, remote: Remote, request: Request) -> Outcome:
    remote.create(request.private)
    before = remote.head()
    what = "Publish" if before is None else "Update"
    commit, address = remote.commit(f"{what} with nla-sdk ({one.staged.digest})", create_pr=request.create_pr)
    remote.check(commit)
    return Outcome(remote.url, commit, commit != before, one.loads, address)


def _left(done: Sequence[Outcome], plan: Plan, at: int, error: NLAError) -> str:
    """What is published and what is not, when one repository failed."""
    names = [one.staged.repo_id for one in plan.repositories]
    said = f"{names[at]} was not published: {error}"
    if done:
        said += f" Published already: {', '.join(names[:at])}."
    if names[at + 1 :]:
        said += f" Not begun: {', '.join(names[at + 1 :])}."
    return said + " Run the same command again to complete it."
