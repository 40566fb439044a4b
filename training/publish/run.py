"""A publication from beginning to end: check, stage, render, compare, commit, read back, follow up.

Everything is checked and staged before the first request that writes. Each repository gets one commit; what a fault
leaves undone a second run completes, and a run with nothing to do makes no commit.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cards import About, Checkpoint, diff, render
from cards.dataset import DatasetFacts
from nla_sdk.contract import Contract
from nla_sdk.errors import AccessTokenError, InputError, NLAError, first_line
from nla_sdk.evaluation.file import EVALUATION, Evaluation
from nla_sdk.halves.half import OTHER, Half

from ..runs.scan import Scanner
from ..runs.verdict import said_of
from . import checks, stage
from .errors import PublishError, RefusedError
from .remote import MANIFEST, Change, Remote, Staged, patiently


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
        loads: the line that loads it.
        head: the commit that `look` compared with; None: there was no repository.
    """

    staged: Staged
    make_card: Callable[[str | None], str]
    loads: str
    head: str | None = None

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
    if request.evaluation and not request.checkpoint:
        raise InputError(
            "--evaluation is of a --checkpoint. Each checkpoint of a --trajectory has its evaluation in its own folder."
        )
    if request.create_pr and request.tag:
        raise InputError("A pull request is not tagged: leave --tag out, and tag what becomes of it.")
    if request.create_pr and request.revision not in (None, "main"):
        raise InputError("The Hub opens pull requests on main: leave --revision out, or --create-pr.")
    if request.repo.count("/") != 1 or not all(request.repo.split("/")):
        raise InputError(f"--repo {request.repo!r} is not OWNER/NAME.")
    checks.check_licence(request.licence)
    for path in (request.checkpoint, *request.trajectory):
        if path is not None and not path.is_dir():
            raise InputError(f"{path} is not a folder; expected a checkpoint (adapter, contract and, of an AR, head).")
    for path in (request.evaluation, request.notes, *request.tables):
        if path is not None and not path.is_file():
            raise InputError(f"{path} does not exist.")
    for what, paths in (("--dataset", request.tables), ("--trajectory", request.trajectory)):
        counts = Counter(_absolute(path).name for path in paths)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise InputError(f"{what}: two are called {twice[0]}, which can be in the repository once. Rename one.")


def _absolute(path: Path) -> Path:
    """With a name, whatever it was called by (`.`, `..`), and never taken for a repository."""
    return Path(os.path.abspath(path))


def _prepare(request: Request, folder: Path) -> Plan:
    findings = checks.Findings()
    halves = _halves(request.checkpoint)
    trajectory = [_half(path) for path in request.trajectory]
    if len({half.contract.role for half in trajectory}) > 1:
        raise InputError("A trajectory is of one half: these folders hold AVs and ARs.")
    names = _names(request, halves)
    _valid([names[half.contract.role] for half in halves])
    _valid([names["data"]] if request.tables else [])
    _valid([request.repo] if trajectory else [])
    _valid(["/".join(request.pair.split("/")[:2])] if request.pair else [])
    notes = _notes(request)
    for half in (*halves, *trajectory):
        checks.check_half(half, findings)
    for table in request.tables:
        checks.check_table(table, findings)
    evaluation = None
    if request.evaluation is not None and not findings.problems:
        evaluation = checks.check_evaluation(request.evaluation, halves, request.tables, findings)
    elif halves and request.evaluation is None:
        findings.warnings.append("no evaluation: the card will say that nobody has measured this")
    steps = [(half, *_evaluated(half, findings)) for half in trajectory] if not findings.problems else []
    bases = {table: _public_base(table, halves, findings) for table in request.tables} if not findings.problems else {}
    if findings.problems:
        raise RefusedError(findings.problems)
    scanner = Scanner(names.values())
    figures = folder / "figures"
    if evaluation is not None:
        logs = {half.contract.role: log for half in halves if (log := stage.log_of(half))}
        stage.draw_figures(evaluation, request.evaluation.parent, logs, figures)
    repositories = [_stage_half(half, request, names, evaluation, notes, figures, folder) for half in halves]
    if request.tables:
        repositories.append(_stage_dataset(request, names, bases, notes, scanner, folder))
    if trajectory:
        repositories.append(_stage_trajectory(request, steps, notes, folder))
    for repository in repositories:
        repository.write_card(None)  # rendered before anything is sent; with kept sections it is rendered again
        repository.staged.write_manifest()
    found = [one for repository in repositories for one in scanner.folder(repository.staged.folder)]
    if found:
        raise RefusedError([f"{one} must not be published" for one in found])
    return Plan(repositories, findings.warnings + scanner.said_of_texts())


def _half(folder: Path) -> Half:
    """The half in a folder, whichever role it has."""
    folder = _absolute(folder)
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


def _evaluated(half: Half, findings: checks.Findings) -> tuple[Evaluation | None, Path]:
    """The evaluation in a checkpoint's own folder, held against it, and where it is."""
    places = (half.folder / EVALUATION, half.folder / "evaluation" / EVALUATION)
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return None, half.folder
    own = checks.Findings()
    evaluation = checks.check_evaluation(file, [half], (), own)
    findings.problems += [f"{half.folder.name}: {one}" for one in own.problems]
    findings.warnings += [f"{half.folder.name}: {one}" for one in own.warnings]
    return evaluation, file.parent


def _public_base(table: Path, halves: Sequence[Half], findings: checks.Findings) -> str | None:
    """The Hub id of the base a table's sidecar names by a folder: what the halves beside it call it."""
    contract = Contract.load(table)
    if contract.base_model is None or checks.is_public(contract.base_model):
        return None
    for half in halves:
        if (half.contract.d_model, half.contract.layer) == (contract.d_model, contract.layer):
            return half.contract.base_model
    findings.problems.append(
        f"the sidecar of {table.name} names the base {contract.base_model!r}, which is not a repository on the Hub: "
        "put its owner/name there"
    )
    return None


def _valid(names: Iterable[str]) -> None:
    """The Hub takes names like these."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    for name in names:
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise InputError(f"The Hub takes no repository named {name!r}: {first_line(error)}") from None
        if name.count("/") != 1:
            raise InputError(f"{name!r} is not OWNER/NAME.")


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
    try:
        return request.notes.read_text(encoding="utf-8") if request.notes else None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{request.notes} cannot be read as UTF-8 text: {first_line(error)}.") from None


def _sizes(folder: Path) -> Mapping[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in ("README.md", MANIFEST))
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _stage_half(
    half: Half,
    request: Request,
    names: Mapping[str, str],
    evaluation: Evaluation | None,
    notes: str | None,
    figures: Path,
    folder: Path,
) -> Repository:
    role = half.contract.role
    repo, other = names[role], names.get(OTHER[role])
    place = folder / role
    contract = stage.stage_half(half, place, pair=other)
    if evaluation is not None:
        stage.stage_evaluation(evaluation, request.evaluation.parent, place)
        shutil.copytree(figures, place / "figures")
    log = place / stage.LOG
    trend = said_of(source) if (source := stage.log_of(half)) else None
    published_data = [names["data"]] if request.tables else []

    def card(existing: str | None) -> str:
        about = About(
            repo,
            pair=other,
            notes=notes,
            existing=existing,
            figures=stage.figures_of(place),
            files=_sizes(place),
            datasets=published_data,
            licence=request.licence,
            is_adapter=half.is_adapter,
            trend=trend,
        )
        return render(contract, evaluation, log if log.is_file() else None, about=about).text

    arguments = f'"{repo}"' if role == "av" else f'None, "{repo}"'
    return Repository(Staged(repo, "model", place), card, f"NLAPair.from_pretrained({arguments})")


def _stage_dataset(
    request: Request,
    names: Mapping[str, str],
    bases: Mapping[Path, str | None],
    notes: str | None,
    scanner: Scanner,
    folder: Path,
) -> Repository:
    place = folder / "data"
    copies = [stage.stage_table(table, place, bases[table]) for table in request.tables]
    contract = Contract.load(copies[0])
    read = DatasetFacts.read(copies)
    examples = [stage.clean_example(copy, one, scanner) for copy, one in zip(copies, read.tables, strict=True)]
    tables = [replace(one, example=example) for one, example in zip(read.tables, examples, strict=True)]
    facts = replace(read, tables=tables)

    def card(existing: str | None) -> str:
        about = About(
            names["data"],
            pair=names.get("av"),
            pair_ar=names.get("ar"),
            notes=notes,
            existing=existing,
            dataset=facts,
            licence=request.licence if not request.checkpoint else None,
        )
        return render(contract, kind="dataset", about=about).text

    config = f', "{tables[0].name}"' if len(copies) > 1 else ""  # the viewer's configs are the tables
    return Repository(Staged(names["data"], "dataset", place), card, f'load_dataset("{names["data"]}"{config})')


def _stage_trajectory(
    request: Request, steps: Sequence[tuple[Half, Evaluation | None, Path]], notes: str | None, folder: Path
) -> Repository:
    from cards.figures import trajectory as draw_trajectory

    place = folder / "trajectory"
    found = []
    for half, evaluation, tables in steps:
        name = half.folder.name
        contract = stage.stage_half(half, place / name, pair=request.pair, of_run=True)
        if evaluation is not None:
            stage.stage_evaluation(evaluation, tables, place / name)
        found.append(Checkpoint(name, contract, evaluation))
    draw_trajectory([(one.name, one.evaluation) for one in found], place / "figures")
    for vector in (place / "figures").glob("*.svg"):
        vector.unlink()  # cards show the PNG

    def card(existing: str | None) -> str:
        about = About(
            request.repo,
            pair=request.pair,
            notes=notes,
            existing=existing,
            figures=stage.figures_of(place),
            checkpoints=found,
            licence=request.licence,
            is_adapter=steps[-1][0].is_adapter,
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

    from nla_sdk.halves.hub_errors import clean_token, hub_errors

    found = clean_token(token or get_token())
    if not found:
        raise AccessTokenError("Publishing needs a token: log in with `hf auth login`, set HF_TOKEN, or pass --token.")
    api = HfApi(token=found)
    with hub_errors("your account", publishing=True):
        account = patiently(api.whoami)
    role = account.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise AccessTokenError(
            "This token can only read. Make one with write access in your account's settings and log in with it."
        )
    api.account = account
    return api


def look(api, plan: Plan, request: Request) -> list[tuple[Remote, Change, str]]:
    """Compare with what is there: for each repository the change, and the card's difference for people.

    Raises:
        AccessTokenError: the token may not write to one of them.
        RefusedError: what is there, or the Hub, does not take what is staged.
    """
    remotes = [Remote(api, one.staged, request.revision) for one in plan.repositories]
    for one, remote in zip(plan.repositories, remotes, strict=True):
        one.head = remote.head()
        _check_access(api, remote, one.head, request)
    _check_collection(api, request.collection)
    found = []
    for one, remote in zip(plan.repositories, remotes, strict=True):
        existing = remote.card(one.head)
        new = one.write_card(existing)
        _check_card(new, one.staged)
        if request.tag and one.head is not None:
            remote.check_tag(request.tag)
        found.append((remote, remote.change(one.head), diff(existing, new) if existing else ""))
    _scan_again(plan)
    return found


def _check_access(api, remote: Remote, head: str | None, request: Request) -> None:
    """The token may do what is asked: write to what is there, make what isn't. Anybody may open a pull request."""
    repo, account = remote.staged.repo_id, api.account
    owner = repo.partition("/")[0]
    if head is not None:
        if request.private and not remote.is_private():
            raise InputError(f"{repo} is there and public, and --private is for new ones. Change it in its settings.")
        if not request.create_pr:
            remote.check_write()
    else:
        may = {one["name"] for one in account.get("orgs", []) if one.get("roleInOrg") != "read"}
        if owner not in {account["name"], *may}:
            raise AccessTokenError(
                f"{repo} belongs to {owner}; this token is {account['name']}'s"
                + (f", who may write in {', '.join(sorted(may))}" if may else "")
                + ". Choose another --repo, or log in as one who may write there."
            )
    scopes = account.get("auth", {}).get("accessToken", {}).get("fineGrained", {}).get("scoped")
    if scopes is None or request.create_pr:
        return
    if not any(one["entity"].get("name") in (owner, repo) and "repo.write" in one["permissions"] for one in scopes):
        raise AccessTokenError(
            f"This token may not write to repositories of {owner}. Give it that permission in your account's settings, "
            "or pass another --token."
        )


def _check_collection(api, slug: str | None) -> None:
    from huggingface_hub import errors

    from nla_sdk.halves.hub_errors import hub_errors

    def ask() -> bool:
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
        if not patiently(ask):
            raise InputError(
                f"There is no collection {slug} on {api.endpoint}. Make it there first; its slug ends its address."
            )


def _check_card(card: str, staged: Staged) -> None:
    """The Hub takes the card's metadata, asked before anything is made there."""
    from huggingface_hub import DatasetCard, ModelCard

    from nla_sdk.halves.hub_errors import hub_errors

    with hub_errors(staged.repo_id, publishing=True):
        try:
            patiently((ModelCard if staged.kind == "model" else DatasetCard)(card).validate)
        except ValueError as error:
            said = " ".join(str(error).split())[:300]
            raise RefusedError([f"the Hub does not take the card of {staged.repo_id}: {said}"]) from None


def _scan_again(plan: Plan) -> None:
    """Kept sections came from the remote card; they are published again, so they are searched as well."""
    scanner = Scanner(repository.staged.repo_id for repository in plan.repositories)
    found = [
        one
        for repository in plan.repositories
        for one in scanner.file(repository.staged.folder / "README.md", f"{repository.staged.repo_id}/README.md")
    ]
    if found:
        raise RefusedError([f"{one} must not be published" for one in found])


def publish(api, plan: Plan, request: Request, say: Callable[[str], None] = print) -> list[Outcome]:
    """Commit, read back, tag and collect what `look` compared; says what is done as it is done.

    Raises:
        PublishError: something was left undone; the message says what is published and what is not.
    """
    done: list[Outcome] = []
    remotes = [Remote(api, one.staged, request.revision) for one in plan.repositories]
    for one, remote in zip(plan.repositories, remotes, strict=True):
        try:
            done.append(_commit(one, remote, request))
        except NLAError as error:
            what = (
                "may be published or not, the answer to its commit was lost" if remote.unsure else "was not published"
            )
            raise PublishError(_left(what, plan, len(done), error)) from None
        outcome = done[-1]
        try:
            remote.check(outcome.commit)
        except NLAError as error:
            what = f"was published ({outcome.commit[:12]}), but is not read back whole"
            raise PublishError(_left(what, plan, len(done) - 1, error)) from None
        what = "published" if outcome.changed else "is up to date"
        say(f"{outcome.request_url or outcome.url} {what} ({outcome.commit[:12]}), every file read back")
    missing = []
    for remote, outcome in zip(remotes, done, strict=True):
        try:
            if request.tag:
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
    before = one.head
    remote.create(request.private, new=before is None)
    verb = "Publish" if before is None else "Update"
    commit, address = remote.commit(verb, expected=before, create_pr=request.create_pr)
    if address is None:
        one.head = commit
    return Outcome(remote.url, commit, commit != before, one.loads, address)


def _left(what: str, plan: Plan, at: int, error: NLAError) -> str:
    """What is published and what is not, when one repository failed."""
    names = [one.staged.repo_id for one in plan.repositories]
    said = f"{names[at]} {what}: {error}"
    if names[:at]:
        said += f" Published already: {', '.join(names[:at])}."
    if names[at + 1 :]:
        said += f" Not begun: {', '.join(names[at + 1 :])}."
    return said + " Run the same command again to complete it."
