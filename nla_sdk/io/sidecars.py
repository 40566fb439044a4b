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
    write_yaml(sidecar_of(path), {"kind": "nla_dataset", **meta, "code_version": code_version()})


def write_yaml(file: Path, record: Mapping, dumper: type[yaml.SafeDumper] = yaml.SafeDumper, width: int = 80) -> None:
    """What every sidecar, of a table or a checkpoint, is written with: keys in their order, atomically.

    Args:
        dumper, width: how texts are laid out, and where long ones are broken.
    Raises:
        yaml.YAMLError: the record holds what YAML cannot; nothing is written.
    """
    text = yaml.dump(record, Dumper=dumper, sort_keys=False, allow_unicode=True, width=width)
    with atomic(file) as sibling:
        sibling.write_text(text, encoding="utf-8", newline="\n")


def read_sidecar(path: Path) -> dict:
    """What `write_sidecar` wrote beside the table `path`; {} if there is nothing."""
    try:
        record = yaml.safe_load(sidecar_of(path).read_text(encoding="utf-8"))
    except OSError:
        return {}
    return record if isinstance(record, dict) else {}
