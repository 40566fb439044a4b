"""The contract of a checkpoint or table, `nla_meta.yaml`: it decides everything that code must not guess."""

from .dialects import written_as
from .file import SIDECAR_NAME, sidecar_path
from .injection import Injection
from .keys import DIALECTS
from .model import Contract
from .releases.known import family_of, guess_partner, known_faults, known_release, release_partner
from .releases.unrunnable import refuse_unrunnable
from .values import EXPLANATION_FIELD, MARKER_FIELD

__all__ = [
    "DIALECTS",
    "EXPLANATION_FIELD",
    "MARKER_FIELD",
    "SIDECAR_NAME",
    "Contract",
    "Injection",
    "family_of",
    "guess_partner",
    "known_faults",
    "known_release",
    "refuse_unrunnable",
    "release_partner",
    "sidecar_path",
    "written_as",
]
