"""Halves in a folder, as the command finds them: what a pair has loaded, and what a repository holds."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from cards.facts.results import ENTRIES
from nla_sdk.claims.calibration import CLAIMS
from nla_sdk.contract import Contract
from nla_sdk.errors import InputError, MissingFileError, MissingRepositoryError
from nla_sdk.evaluation.schema import EVALUATION
from nla_sdk.halves.beside.claims import found_beside
from nla_sdk.halves.fetch import fetch_file, fetch_half
from nla_sdk.halves.half import Half, copy_files, files_and_contract
from nla_sdk.halves.hub.download import download_folder

from ..checks.half import elsewhere
from ..copies import LICENCES, LOG, is_of_pair, log_of
from ..errors import RefusedError
from ..stage import MANIFEST, paths_in


def gather(half: Half, place: Path, token: str | None) -> Path:
    """Copy a loaded half into a folder, with what belongs to it and lies elsewhere; returns the folder.

    Its weights are the files it was loaded from, whatever they became in memory; its contract is the one it runs by, so
    what was stated at loading is in it.

    Raises:
        RefusedError: its contract names folders that others could not have.
    """
    if wrong := list(elsewhere(half.contract)):
        raise RefusedError([f"the contract of {half.ref} {one}" for one in wrong])
    copy_files(half.folder, place)
    if half.commit is not None:
        _fetch_rest(half.repo_id, half.subfolder, half.commit, place, token)
    if (log := log_of(half)) is not None and log.parent != half.folder:
        shutil.copyfile(log, place / LOG)
    if is_of_pair(half):
        for pattern in LICENCES:
            for file in half.folder.parent.glob(pattern):
                if file.is_file() and not (place / file.name).exists():
                    shutil.copyfile(file, place / file.name)
    if half.role == "av" and (claims := found_beside(half.folder)) is not None:
        shutil.copyfile(claims, place / CLAIMS)
    half.contract.save(place)
    return place


def fetched(repo: str, root: Path, token: str | None, contract: Contract | None = None) -> tuple[Path, str]:
    """Fetch the half that a repository holds into `root/av` or `root/ar`.

    Args:
        contract: in place of the one that is there.
    Returns:
        That folder and the commit.
    Raises:
        InputError: it is a folder of this machine. RepositoryError, ContractError: as `from_pretrained`.
        MissingRepositoryError: there is none.
    """
    if contract is None:
        files, contract = files_and_contract(repo, None, None, token=token)
    else:
        files = fetch_half(repo, role=contract.role, token=token, weights=contract.weights_adapters is None)
    if files.commit is None:
        raise InputError(f"{repo} is a folder here; pass OWNER/NAME of a repository that holds the weights.")
    if wrong := list(elsewhere(contract)):
        raise RefusedError([f"the contract {one}" for one in wrong])
    place = root / str(contract.role)
    copy_files(files.path, place)
    _fetch_rest(repo, None, files.commit, place, token)
    contract.save(place)
    return place, files.commit


def _fetch_rest(repo: str, subfolder: str | None, commit: str, place: Path, token: str | None) -> None:
    """What a half is published with and not loaded from: its log and its licences."""
    snapshot = download_folder(repo, [LOG, *LICENCES], commit, subfolder, token=token)
    folder = snapshot / (subfolder or "")
    for pattern in (LOG, *LICENCES):
        for file in folder.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, place / file.name)


def evaluation_there(repo: str, commit: str, place: Path, token: str | None) -> Path | None:
    """Fetch the evaluation that is published with a half; None: there is none."""
    try:
        snapshot = download_folder(repo, ["*"], commit, "evaluation", token=token)
    except (MissingFileError, MissingRepositoryError):
        return None
    folder = snapshot / "evaluation"
    if not (folder / EVALUATION).is_file():
        return None
    copy_files(folder, place)
    return place / EVALUATION


def benchmark_there(repo: str, commit: str, token: str | None) -> str | None:
    """The dataset that a half's entries in `.eval_results` are of; None: there are none."""
    try:
        entries = yaml.safe_load(fetch_file(repo, ENTRIES, revision=commit, token=token).read_bytes())
        return str(entries[0]["dataset"]["id"])
    except (MissingFileError, ValueError, TypeError, LookupError, yaml.YAMLError):
        return None


def manifest_there(repo: str, commit: str, token: str | None) -> list[str]:
    """The paths that earlier publications put into a repository."""
    try:
        return paths_in(fetch_file(repo, MANIFEST, revision=commit, token=token).read_bytes())
    except MissingFileError:
        return []
