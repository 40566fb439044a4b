"""What stands beside a table: `<table>.nla_meta.yaml`, what it holds and was made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from .files import atomic
from .version import code_version

# What every table says of its activations, carried from one stage's sidecar to the next.
CARRIED = ("base_model", "base_revision", "d_model", "layer", "extraction_precision")


def sidecar_of(path: Path) -> Path:
    """Where the contract of the table `path` is."""
    return path.with_name(path.name + ".nla_meta.yaml")


def write_sidecar(path: Path, meta: Mapping) -> None:
    """`<path>.nla_meta.yaml`: kind, `meta` and the code version."""
    record = {"kind": "nla_dataset", **meta, "code_version": code_version()}
    with atomic(sidecar_of(path)) as sibling:
        sibling.write_text(yaml.safe_dump(record, sort_keys=False, allow_unicode=True), encoding="utf-8")


def read_sidecar(path: Path) -> dict:
    """What `write_sidecar` wrote beside the table `path`; {} if there is nothing."""
    try:
        found = yaml.safe_load(sidecar_of(path).read_text(encoding="utf-8"))
    except OSError:
        return {}
    return found if isinstance(found, dict) else {}
