"""One half of a pair on disk: its files, its contract, its layout; and how to find the other half."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contract import SIDECAR_NAME, Contract, guess_partner, known_release, release_partner
from ..contract.file import parse
from ..contract.prompts.av import unstated_prompt
from ..contract.releases.known import known_faults
from ..contract.releases.unrunnable import refuse_unrunnable
from ..contract.values import role as role_named
from ..errors import (
    ContractError,
    InputError,
    KnownFaultWarning,
    MismatchedHalvesError,
    MissingFileError,
    NLAError,
    RepositoryError,
    UnstatedPromptError,
    WrongRoleError,
)
from .demo_base import DEMO_BASE_ID, base_folder
from .fetch import TOKENIZER_FILES, Files, fetch_file, fetch_half
from .found import files_say
from .hub.naming import same_repository
from .hub.renames import present_name
from .parts import ADAPTER_FILES, OTHER_FILES, find_adapters, find_parent

OTHER = {"av": "ar", "ar": "av"}


@dataclass(frozen=True)
class Half:
    """An AV or an AR that has been found and whose contract has been read; no weights are loaded yet.

    Attributes:
        ref: what the user (or the other half) called it; of a renamed repository its present name.
        folder: where its files are.
        contract: completed from a known release where its own sidecar is silent.
        is_adapter: a LoRA adapter on the base, as opposed to a full checkpoint of its own.
        subfolder: inside the repository, if any.
        commit: of the Hub repository, if it comes from one.
        adapters: the folders of its adapters, in the order they are put on; its own where its contract names none.
        parent: the full checkpoint that they sit on; None: the base.
    """

    ref: str
    folder: Path
    contract: Contract
    is_adapter: bool
    subfolder: str | None = None
    commit: str | None = None
    adapters: tuple[Path, ...] = ()
    parent: Files | None = None

    def __repr__(self) -> str:
        commit = f", commit {self.commit[:12]}" if self.commit else ""
        layout = "LoRA adapter" if self.is_adapter else "full checkpoint"
        return f"Half({self.role} {self.ref!r}, {layout} in {str(self.folder)!r}{commit})"

    @property
    def role(self) -> str:
        """ "av" or "ar", as its contract says."""
        assert self.contract.role is not None, "the contract of a checkpoint has a role"
        return self.contract.role

    @classmethod
    def find(cls, ref: str, role: str, *, given: Mapping[str, Any] | None = None, **where: Any) -> Half:
        """Fetch a half and read its contract.

        Args:
            ref: Hub id (subfolders allowed), folder, or "demo".
            role: "av" or "ar", what it must be.
            given: what the user says of the contract, above what its file says.
            where: revision, subfolder, cache_dir, token, local_files_only, as for `fetch.fetch_half`.
        Raises:
            RepositoryError, ContractError, WrongRoleError.
        """
        files, contract = files_and_contract(ref, role, given, **where)
        ref = files.ref if files.commit else str(ref)
        if contract.role != role:
            article = {"av": "an AV (it explains)", "ar": "an AR (it reconstructs)"}
            raise WrongRoleError(
                f"{ref} is {article[str(contract.role)]}; {article[role]} is needed here. Pass it as "
                f"{contract.role}=, and the other half as {role}=."
            )
        where = {key: value for key, value in where.items() if key not in ("revision", "subfolder")}
        adapters = find_adapters(contract, files, **where)
        parent = find_parent(contract, files, ref, **where) if adapters else None
        return cls(ref, files.path, contract, bool(adapters), files.subfolder, files.commit, adapters, parent)

    def partner_ref(self) -> tuple[str, bool] | None:
        """Where the other half should be, and whether that is a statement (contract, release) or a guess by name."""
        if self.contract.pair:
            return self.contract.pair, True
        repo = self.repo_id
        if partner := release_partner(repo):
            return partner, True
        guessed = guess_partner(repo)
        return (guessed, False) if guessed else None

    @property
    def repo_id(self) -> str:
        """The repository without subfolders; a folder's path stays as it is."""
        return "/".join(self.ref.split("/")[:2]) if self.commit else self.ref

    def names(self, other: Half) -> bool:
        """Whether this half says that `other` is its partner: by repo id, or by having been made in one run."""
        run = self.contract.provenance.get("pair_id")
        if run is not None and run == other.contract.provenance.get("pair_id"):
            return True
        partner = self.partner_ref()
        return partner is not None and present_name(partner[0]).lower() == present_name(other.repo_id).lower()

    def names_once(self, other: Half, **where: Any) -> bool:
        """Whether it names a repository that is called as `other` is now; the Hub is asked.

        Args:
            where: token, local_files_only, as for `fetch_half`.
        """
        partner = self.partner_ref()
        if partner is None or self.commit is None or other.commit is None:
            return False
        return same_repository(partner[0], other.repo_id, **where)

    def copy_to(self, folder: Path, pair_id: str | None = None) -> None:
        """Copy the half's files, its contract in canonical form, into `folder`.

        Args:
            pair_id: put on record that two halves belong together; in a folder neither goes by its repository's name.
        """
        contract = self.contract
        copy_files(self.folder, folder, *(() if contract.weights_adapters is None else (*ADAPTER_FILES, *OTHER_FILES)))
        if contract.weights_adapters is not None:
            names = [f"adapter_{at}" for at in range(1, len(self.adapters) + 1)]
            for name, adapter in zip(names, self.adapters, strict=True):
                copy_files(adapter, folder / name)
            contract = contract.replace(weights_adapters=names)
        if self.parent is not None:
            place = self.parent.ref
            if self.parent.commit is None:  # in a folder here: it goes along
                copy_files(self.parent.path, folder / (place := "parent"))
            elif self.parent.subfolder and not place.endswith(f"/{self.parent.subfolder}"):
                place = f"{place}/{self.parent.subfolder}"
            contract = contract.replace(weights_parent=place)
        if pair_id is not None:
            contract = contract.replace(provenance={**contract.provenance, "pair_id": pair_id})
        contract.save(folder)


def present(*halves: Half | None) -> list[Half]:
    """Those of a pair's halves that there are, in their order."""
    return [half for half in halves if half is not None]


def copy_files(source: Path, folder: Path, *left_out: str) -> None:
    """Copy the files of a folder (not of folders inside it, and not its contract)."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.is_file() and file.name not in (SIDECAR_NAME, *left_out):
            shutil.copyfile(file, folder / file.name)


def files_and_contract(
    ref: str, role: str | None, given: Mapping[str, Any] | None, **where: Any
) -> tuple[Files, Contract]:
    """A half's files and its contract; the weights may lie elsewhere, where the contract says it."""
    missing = None
    try:
        files = fetch_half(ref, role=role, **where)
    except MissingFileError as error:
        missing = error
        files = fetch_half(ref, role=role, weights=False, **where)
    repo = "/".join(str(ref).split("/")[:2]) if files.commit else files.ref  # known without its subfolder
    try:
        contract = read_contract(files.path, repo, files.subfolder, given, role)
    except ContractError:
        if missing is not None:
            raise missing from None
        raise
    if missing is not None and not contract.weights_adapters:
        raise missing
    return files, contract


def read_contract(
    folder: Path, ref: str, subfolder: str | None, given: Mapping[str, Any] | None = None, role: str | None = None
) -> Contract:
    """The contract of a fetched half: what the user says, its sidecar, its files, and what is known of the release.

    Args:
        role: the half that it is asked for as, where nothing of these tells.
    Raises:
        ContractError: no sidecar and no known release, or something is missing in both.
        UnstatedPromptError: the same of the AV's `prompt_style`; shows both prompts, through the chat template of the
            half's or the base's tokenizer if that is on this disk.
    """
    name = ref if known_release(ref, subfolder) else present_name(ref)
    known = known_release(name, subfolder)
    file = folder / SIDECAR_NAME
    said = parse(file.read_bytes(), str(file)) if file.is_file() else {}
    found = files_say(folder)
    if known and said.get("role") and role_named(said["role"]) != known.get("role", role_named(said["role"])):
        known = None  # an entry of the repository's other half, whose facts are none of this one's
    else:
        refuse_unrunnable(name, subfolder, given, said, found)
    if not said and known is None and not given:
        raise ContractError(
            f"{ref} holds no {SIDECAR_NAME} and is no known release, so its prompt, marker, scale and layer are "
            f"unknown. Put a {SIDECAR_NAME} beside its weights (docs/contract.md lists the keys), or ask its author "
            "for one."
        )
    source = str(file) if said else f"the release entry of {ref}" if known else f"{ref} (no {SIDECAR_NAME})"
    if said.get("kind") == "nla_dataset":
        # nanoNLA and EasyNLA put the sidecar of their training table beside the checkpoint: what it does not say of it
        # is refused by name.
        said = {key: value for key, value in said.items() if key != "kind"}

    def read(**more: Any) -> Contract:
        stated = {**(given or {}), **more} if more else given
        return Contract.from_dict(said, source=source, known=known, given=stated, found=found, wanted=role)

    try:
        contract = read()
    except UnstatedPromptError as error:
        raise _with_chat_template(error, read(prompt_style="raw"), folder) from None
    if contract.kind != "nla_model":
        raise ContractError(
            f"{contract.source} is the contract of a table (`kind: {contract.kind}`), and it lies beside a "
            "checkpoint: how that one is run (role, where and at what norm the vector is put) it does not say. Ask "
            f"its author for a {SIDECAR_NAME} of the checkpoint, or state it: contract={{'kind': 'nla_model', …}}."
        )
    for fault in known_faults(name, subfolder):
        warnings.warn(f"{ref}{f'/{subfolder}' if subfolder else ''}: {fault}", KnownFaultWarning, stacklevel=3)
    return contract


def _with_chat_template(error: UnstatedPromptError, contract: Contract, folder: Path) -> UnstatedPromptError:
    """The error anew, with the prompt through the tokenizer's own chat template where a tokenizer is on this disk."""
    from ..model.weights.tokenizers import load_tokenizer

    for place in (folder, contract.base_model):
        try:
            if place == DEMO_BASE_ID:
                place = base_folder()
            elif not isinstance(place, Path):
                place = fetch_file(str(place), "tokenizer_config.json", local_files_only=True).parent
            if any((place / name).is_file() for name in TOKENIZER_FILES):
                return unstated_prompt(contract, load_tokenizer(place))
        except (NLAError, OSError):  # the message without it is whole as well
            continue
    return error


def find_halves(
    av: str | os.PathLike | None,
    ar: str | os.PathLike | None,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    given: Mapping[str, Any] | None = None,
    alone: bool = False,
    **where: Any,
) -> tuple[Half | None, Half | None, str]:
    """Both halves, or one and why the other is missing.

    Args:
        av, ar: as `NLAPair.from_pretrained` takes them.
        revision, subfolder: of the first half given.
        given: what the user says of the contract of either half.
        alone: take only what is named, and look for no partner.
        where: cache_dir, token, local_files_only, as for `fetch_half`.
    Raises:
        RepositoryError, ContractError, WrongRoleError, InputError: neither was given.
    """
    if av is None and ar is None:
        raise InputError("Neither an AV nor an AR was given; expected at least one Hub id, folder or 'demo'.")
    av_half = ar_half = None
    missing = ""
    first: dict[str, Any] = {"revision": revision, "subfolder": subfolder}
    where["given"] = given
    if av is not None:
        inside = [Path(av) / "av", Path(av) / "ar"]  # as save_pretrained writes them
        is_pair = str(av) != "demo" and any(half.is_dir() for half in inside)
        if is_pair and ar is None and subfolder is None and not (Path(av) / SIDECAR_NAME).exists():
            av, ar = (half if half.is_dir() and not (alone and half is inside[1]) else None for half in inside)
    if av is not None:
        av_half = Half.find(str(av), "av", **first, **where)
        first = {}
    if str(av) == "demo" and ar is None and not alone:
        ar = "demo"
    if ar is not None:
        ar_half = Half.find(str(ar), "ar", **first, **where)
    if alone and (av_half is None or ar_half is None):
        missing = "a pair whose AV a server runs is loaded with the halves that are named only"
    elif av_half is None and ar_half is not None:
        av_half, missing = find_partner(ar_half, **where)
    elif ar_half is None and av_half is not None:
        ar_half, missing = find_partner(av_half, **where)
    return av_half, ar_half, missing


def find_partner(half: Half, **where: Any) -> tuple[Half | None, str]:
    """The other half of `half`, or None and the reason why there is none."""
    role = OTHER[half.role]
    if half.contract.asks and not half.contract.pair:
        return None, f"{half.ref} is an activation oracle, which has no AR. Pass ar= if you have one for its answers."
    partner = half.partner_ref()
    if partner is None:
        return None, f"{half.ref} names no {role.upper()} and its name does not tell one; pass {role}=."
    ref, stated = partner
    try:
        return Half.find(ref, role, **where), ""
    except (RepositoryError, ContractError, MissingFileError) as error:
        how = "its contract or release names" if stated else "its name suggests"
        return None, f"{how} the {role.upper()} {ref}, which could not be had: {error}"
    except NLAError as error:
        return None, str(error)


def check_halves(av: Half, ar: Half, **where: Any) -> None:
    """Both read the same vectors.

    Args:
        where: token, local_files_only, as for `fetch_half`, to ask whether two names are of one base.
    Raises:
        MismatchedHalvesError: they are of different bases, layers or d_model.
    """
    for name in ("base_model", "d_model", "layer"):
        ours, theirs = getattr(av.contract, name), getattr(ar.contract, name)
        renamed = name == "base_model" and same_repository(ours, theirs, **where)
        if str(ours).lower() != str(theirs).lower() and not renamed:
            raise MismatchedHalvesError(
                f"The AV {av.ref} has {name} {ours}, the AR {ar.ref} has {theirs}: they read different vectors, so "
                "a round trip through both has no meaning. Use halves of one pair."
            )
    ours, theirs = av.contract.source_model, ar.contract.source_model
    if ours is not None and theirs is not None and not same_repository(ours, theirs, **where):
        raise MismatchedHalvesError(
            f"The AV {av.ref} has source_model {ours}, the AR {ar.ref} has {theirs}: they read different "
            "vectors. Use halves of one pair."
        )
    if bool(av.contract.activation_map) != bool(ar.contract.reconstruction_map):
        with_map, without = (av, ar) if av.contract.activation_map else (ar, av)
        raise MismatchedHalvesError(
            f"{with_map.ref} maps between the source's space and its own, and {without.ref} has no map: a vector "
            "that goes through both ends in another space. Use halves of one pair."
        )
