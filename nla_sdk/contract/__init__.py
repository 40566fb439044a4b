"""The contract of a checkpoint or table, `nla_meta.yaml`: it decides everything that code must not guess."""

from .dialects import DIALECTS, written_as
from .file import SIDECAR_NAME, sidecar_path
from .injection import Injection
from .model import Contract
from .releases.known import guess_partner, known_release, release_partner
from .values import EXPLANATION_FIELD, MARKER_FIELD

__all__ = [
    "DIALECTS",
    "EXPLANATION_FIELD",
    "MARKER_FIELD",
    "SIDECAR_NAME",
    "Contract",
    "Injection",
    "guess_partner",
    "known_release",
    "release_partner",
    "sidecar_path",
    "written_as",
]
