"""`push_to_hub` of pairs, contracts and evaluations: the publisher's checks, stage and push, without its questions.

The command shows what would change and asks. Here nobody is asked, so a file that an earlier publication did not put
there is not replaced, nor an evaluation removed: that is refused, with what to do.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from cards.notes import kept_sections
from nla_sdk.claims.calibration import CLAIMS
from nla_sdk.contract import SIDECAR_NAME, Contract
from nla_sdk.errors import InputError, MissingRepositoryError
from nla_sdk.evaluation.reading import EvaluationError, digest, load
from nla_sdk.evaluation.schema import EVALUATION, Evaluation
from nla_sdk.halves.half import Half
from nla_sdk.halves.hub.listing import listed
from nla_sdk.publishing.publisher import Pushing, Sending
from nla_sdk.publishing.pushed import Pushed

from ..errors import PublishError, PublishWarning, RefusedError
from ..push import Outcome, connect, look, publish
from ..remote import Change, Remote
from ..request import PublishRequest
from ..stage import Publication, prepared
from .gathering import benchmark_there, evaluation_there, fetched, gather, manifest_there

CARD = "README.md"
OF_EVALUATION = (CARD, "evaluation/*", "figures/*", ".eval_results/*", CLAIMS)


def push_halves(halves: Sequence[Half], repo: str, *, how: Pushing) -> list[Pushed]:
    """Publish loaded halves; see `NLAPair.push_to_hub`."""
    with tempfile.TemporaryDirectory(prefix="nla-push-") as folder:
        request = PublishRequest(
            repo,
            checkpoint=Path(folder),
            evaluation=_file_of(how["evaluation"]),
            tables=[Path(table) for table in how["tables"]],
            benchmark=how["benchmark"],
            notes=None if how["notes"] is None else Path(how["notes"]),
            licence=how["licence"],
            private=how["private"],
            revision=how["revision"],
            tag=how["tag"],
        )
        request = _sent(request, how)
        request.check()  # before weights are copied
        for half in halves:
            gather(half, Path(folder) / half.role, how["token"])
        return _published(request)


def push_contract(contract: Contract, repo: str, *, how: Sending) -> Pushed:
    """Put a contract beside the weights that a repository holds; see `Contract.push_to_hub`."""
    if contract.role is None:
        raise InputError(f"{contract.source} is the contract of a table; a repository of weights takes a half's.")
    with tempfile.TemporaryDirectory(prefix="nla-push-") as folder:
        place, commit = fetched(repo, Path(folder), how["token"], contract)
        there = evaluation_there(repo, commit, Path(folder) / "evaluation", how["token"])
        part = (SIDECAR_NAME,)
        if CARD in manifest_there(repo, commit, how["token"]):  # a card by hand says what its author knows, and stays
            part += (CARD,)
        benchmark = benchmark_there(repo, commit, how["token"]) if there is not None else None
        request = PublishRequest(repo, checkpoint=place, evaluation=there, benchmark=benchmark, part=part)
        return _published(_sent(request, how), {repo: commit}, asked=(SIDECAR_NAME,))[0]


def push_evaluation(
    evaluation: Evaluation, file: Path, repo: str, *, benchmark: str | None, how: Sending
) -> list[Pushed]:
    """Put an evaluation beside the weights it is of; see `Evaluation.push_to_hub`."""
    path = _file_of(file)
    assert path is not None
    if digest(load(path)) != digest(evaluation):
        raise EvaluationError(f"{path} is another evaluation than the one that is pushed. Load it from there.")
    with tempfile.TemporaryDirectory(prefix="nla-push-") as folder:
        root = Path(folder)
        try:
            _, commit = fetched(repo, root, how["token"])
            commits = {repo: commit}
        except MissingRepositoryError as error:  # the stem of a pair's names, as `push_to_hub` of the pair takes it
            try:
                commits = {name: fetched(name, root, how["token"])[1] for name in (f"{repo}-av", f"{repo}-ar")}
            except MissingRepositoryError:
                raise error from None
        if CLAIMS in evaluation.files:
            (root / "av" / CLAIMS).unlink(missing_ok=True)  # the one there is replaced
        request = PublishRequest(repo, checkpoint=root, evaluation=path, benchmark=benchmark, part=OF_EVALUATION)
        return _published(_sent(request, how), commits)


def _file_of(evaluation: str | os.PathLike | None) -> Path | None:
    """An evaluation's file, by its own path or that of its folder."""
    if evaluation is None:
        return None
    path = Path(evaluation)
    return path / EVALUATION if path.is_dir() else path


def _sent(request: PublishRequest, how: Sending | Pushing) -> PublishRequest:
    return replace(request, token=how["token"], message=how["commit_message"], create_pr=how["create_pr"])


def _published(
    request: PublishRequest, fetched_at: Mapping[str, str] = MappingProxyType({}), asked: Collection[str] = ()
) -> list[Pushed]:
    """Check, stage, compare and push.

    Args:
        fetched_at: repository → the commit that was fetched and checked: another one since is not built on.
        asked: paths that may be replaced, whoever put them there.
    """
    with prepared(request) as publication:
        for warning in publication.warnings:
            warnings.warn(warning, PublishWarning, stacklevel=4)
        api = connect(request.token)
        for remote, change, _ in look(api, publication, request):
            head = remote.head()
            if (checked := fetched_at.get(remote.staged.repo_id)) is not None and head != checked:
                raise PublishError(f"{remote.url}: somebody committed to main meanwhile. Push again.")
            if not request.create_pr:
                _refuse_unasked(remote, change, head, asked)
        outcomes = publish(api, publication, request, lambda line: None)
        return _as_pushed(publication, outcomes)


def _as_pushed(publication: Publication, outcomes: Sequence[Outcome]) -> list[Pushed]:
    return [
        Pushed(one.request_url or one.url, repository.staged.repo_id, one.commit, one.changed, one.loads)
        for repository, one in zip(publication.repositories, outcomes, strict=True)
    ]


def _refuse_unasked(remote: Remote, change: Change, head: str | None, asked: Collection[str]) -> None:
    """What the command would ask about: files of others that would be replaced, an evaluation that would go.

    Raises:
        RefusedError: names them.
    """
    if not (change.replace or change.delete):
        return
    repo, ours = remote.staged.repo_id, set(remote.published(head))
    others = [name for name in change.replace if name not in ours and name not in asked]
    if CARD in others and kept_sections(remote.card(head)):
        others.remove(CARD)
    if others:
        raise RefusedError(
            [
                f"{repo} holds {listed(others, 3)}, which nla-sdk did not put there and would replace: push to another "
                "name, open a pull request (create_pr=True), put what is to stay of a card between <!-- keep --> and "
                "<!-- /keep -->, or use `python -m training.publish`, which shows what changes and asks"
            ]
        )
    if f"evaluation/{EVALUATION}" in change.delete:
        raise RefusedError(
            [
                f"{repo} holds an evaluation, none was passed, and it would be removed: pass evaluation=, or use "
                "`python -m training.publish`, which shows what changes and asks"
            ]
        )
