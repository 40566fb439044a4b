"""The calibration of a pair's claims: found beside its AV, held against the halves that it was fitted with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...claims.calibration import CLAIMS, Calibration, load_calibration
from ...errors import MismatchedHalvesError
from .digests import half_digests

if TYPE_CHECKING:
    from ..half import Half

_ADDED = "linear_head.safetensors"  # publishing puts it beside a head in another format, which is held against


def found_beside(folder: Path) -> Path | None:
    """The `claims.json` of the AV in a folder: there, or one folder above, as the demo's is; None: there is none."""
    return next((file for place in (folder, folder.parent) if (file := place / CLAIMS).is_file()), None)


def calibration_of(av: Half | None, ar: Half | None) -> tuple[Calibration | None, str]:
    """What lies beside the AV's contract or one folder above it, as the demo's does; or None, and why.

    Raises:
        MismatchedHalvesError: it was fitted with other halves; names the files.
        EvaluationError: it is malformed, of another version, or was changed.
    """
    if av is None:
        return None, f"the pair was loaded without its AV, beside which {CLAIMS} lies"
    if (file := found_beside(av.folder)) is None:
        return None, f"no {CLAIMS} lies beside {av.ref}: nobody has measured how often its claims hold"
    found = load_calibration(file)
    wrong = [one for half in (av, ar) if half is not None for one in differences(found.made_from, half)]
    if wrong:
        raise MismatchedHalvesError(
            f"{file} was fitted with other halves than {' and '.join(half.ref for half in (av, ar) if half)}: "
            f"{'; '.join(wrong)}. Its probabilities would be of another pair: take the file away, or evaluate this "
            "pair with claims."
        )
    return found, ""


def differences(made_from: Mapping[str, str], half: Half) -> list[str]:
    """What of a half is not what a calibration was made from; empty if all is.

    Args:
        made_from: SHA-256 by name, of `Calibration`.
    """
    role = half.role
    named = {name: digest for name, digest in made_from.items() if name.startswith(f"{role}/")}
    if not named:
        return [f"it names no {role.upper()}"]
    here = half_digests(role, Path(half.folder), half.contract)
    wrong = [f"{name} differs" for name in named if name in here and here[name] != named[name]]
    wrong += [f"{name} is missing" for name in named if name not in here]
    return wrong + [f"{name} is new" for name in here if name not in named and name != f"{role}/{_ADDED}"]
