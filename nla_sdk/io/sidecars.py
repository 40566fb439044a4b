"""What stands beside a table: `<table>.nla_meta.yaml`, what it holds and was made from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

from .. import __version__
from ..__about__ import commit
from ..errors import InputError, first_line
from .files import atomic
from .parsing import parse_yaml

# What every table says of its activations, carried from one stage's sidecar to the next.
CARRIED = ("base_model", "base_revision", "d_model", "layer", "extraction_precision")


PRECISIONS = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32"}
"""What other files call a dtype, and its name."""


SIDECAR = ".nla_meta.yaml"
"""What a table's name is followed by in its sidecar's."""


def precision_of(name: str) -> str:
    """A precision by its name: `torch.BF16` → `bfloat16`; what is known under no other name as it is, in lower case."""
    name = name.strip().lower().removeprefix("torch.")
    return PRECISIONS.get(name, name)


def sidecar_of(path: Path) -> Path:
    """Where the contract of the table `path` is."""
    return path.with_name(path.name + SIDECAR)


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
    """What `write_sidecar` wrote beside the table `path`; {} if there is nothing.

    Raises:
        InputError: what is there is no sidecar: where the table came from would be lost without a word.
    """
    sidecar = sidecar_of(path)
    try:
        data = sidecar.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{sidecar} cannot be read: {error.strerror}.") from error
    return parsed(data, str(sidecar))


def parsed(data: bytes, name: str) -> dict:
    """What a sidecar's bytes say.

    Raises:
        InputError: they are none.
    """
    try:
        record = parse_yaml(data)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{name} is not valid YAML: {first_line(error)}. Make the table again.") from error
    if not isinstance(record, dict):
        raise InputError(f"{name} holds a {type(record).__name__}; expected keys and values. Make the table again.")
    return record


@cache  # of the code that is loaded; asking git takes three processes, and every chunk of a long run writes a sidecar
def code_version() -> str:
    """The commit this code is of, "+changes" if it differs from it; the package's version if no commit is known."""
    return commit() or f"nla-sdk {__version__}"
