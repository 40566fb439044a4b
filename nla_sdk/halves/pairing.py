"""Two halves that belong together: find the one that was not named, refuse two that read different vectors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..contract import SIDECAR_NAME
from ..errors import (
    ContractError,
    InputError,
    MismatchedHalvesError,
    MissingFileError,
    NLAError,
    RepositoryError,
)
from .half import OTHER, Half


def find_halves(
    av: str | os.PathLike | None,
    ar: str | os.PathLike | None,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    **where: Any,
) -> tuple[Half | None, Half | None, str]:
    """Both halves, or one and why the other is missing.

    Args:
        av, ar: as `NLAPair.from_pretrained` takes them.
        revision, subfolder: of the first half given.
        where: cache_dir, token, local_files_only, as for `fetch_half`.
    Raises:
        RepositoryError, ContractError, WrongRoleError, InputError: neither was given.
    """
    if av is None and ar is None:
        raise InputError("Neither an AV nor an AR was given; expected at least one Hub id, folder or 'demo'.")
    av_half = ar_half = None
    missing = ""
    first = {"revision": revision, "subfolder": subfolder}
    if av is not None:
        inside = [Path(av) / "av", Path(av) / "ar"]  # as save_pretrained writes them
        is_pair = str(av) != "demo" and any(half.is_dir() for half in inside)
        if is_pair and ar is None and subfolder is None and not (Path(av) / SIDECAR_NAME).exists():
            av, ar = (half if half.is_dir() else None for half in inside)
    if av is not None:
        av_half = Half.find(str(av), "av", **first, **where)
        first = {}
    if str(av) == "demo" and ar is None:
        ar = "demo"
    if ar is not None:
        ar_half = Half.find(str(ar), "ar", **first, **where)
    if av_half is None and ar_half is not None:
        av_half, missing = find_partner(ar_half, **where)
    elif ar_half is None and av_half is not None:
        ar_half, missing = find_partner(av_half, **where)
    return av_half, ar_half, missing


def find_partner(half: Half, **where: Any) -> tuple[Half | None, str]:
    """The other half of `half`, or None and the reason why there is none."""
    role = OTHER[half.role]
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


def check_halves(av: Half, ar: Half) -> None:
    """Both read the same vectors.

    Raises:
        MismatchedHalvesError: they are of different bases, layers or d_model.
    """
    for name in ("base_model", "d_model", "layer"):
        ours, theirs = getattr(av.contract, name), getattr(ar.contract, name)
        if str(ours).lower() != str(theirs).lower():
            raise MismatchedHalvesError(
                f"The AV {av.ref} has {name} {ours}, the AR {ar.ref} has {theirs}: they read different vectors, so "
                "a round trip through both has no meaning. Use halves of one pair."
            )
