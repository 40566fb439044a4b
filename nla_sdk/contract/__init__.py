"""The contract of a checkpoint or table, `nla_meta.yaml`: it decides everything that code must not guess."""

from .model import (
    DIALECTS,
    EXPLANATION_FIELD,
    MARKER_FIELD,
    SIDECAR_NAME,
    Contract,
    guess_partner,
    known_release,
    release_partner,
    sidecar_path,
)

__all__ = [
    "DIALECTS",
    "EXPLANATION_FIELD",
    "MARKER_FIELD",
    "SIDECAR_NAME",
    "Contract",
    "guess_partner",
    "known_release",
    "release_partner",
    "sidecar_path",
]
