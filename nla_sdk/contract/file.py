"""The contract's file: where it lies, and its YAML in and out."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from ..errors import ContractError
from ..io.sidecars import write_yaml

SIDECAR_NAME = "nla_meta.yaml"


def sidecar_path(path: str | os.PathLike) -> Path:
    """Where the contract of a folder, of a `.parquet` table or of a file that is itself a contract lies.

    Example:
        >>> sidecar_path("rows.parquet")
        PosixPath('rows.parquet.nla_meta.yaml')
    """
    path = Path(path)
    if path.suffix == ".parquet" and not path.is_dir():
        return path.with_name(f"{path.name}.{SIDECAR_NAME}")
    if path.is_file() or (path.suffix in (".yaml", ".yml") and not path.is_dir()):
        return path
    return path / SIDECAR_NAME


def parse(data: bytes, source: str) -> Mapping:
    """The mapping that a file holds.

    Args:
        source: the file's name, for messages.
    Raises:
        ContractError: it is no YAML, empty, or no mapping.
    """
    try:
        content = yaml.safe_load(data)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ContractError(f"{source} is not valid YAML{where}: {problem}. Correct the file.") from None
    except (ValueError, OverflowError, RecursionError) as error:  # an impossible date or number, absurd nesting
        raise ContractError(f"{source} is not valid YAML: {error}. Correct the file.") from None
    if content is None:
        raise ContractError(f"{source} is empty; expected a mapping of keys to values. Download or write it again.")
    if not isinstance(content, Mapping):
        raise ContractError(f"{source} holds a {type(content).__name__}; expected a mapping of keys to values.")
    return content


def write(file: Path, values: Mapping) -> None:
    """Write a contract's file, atomically, keys in the order given.

    Raises:
        ContractError: there is something in it that YAML cannot hold.
    """
    try:
        write_yaml(file, values, _Dumper, width=1 << 20)
    except yaml.YAMLError as error:
        raise ContractError(f"{file} not written: the contract holds what YAML cannot: {error}.") from None


class _Dumper(yaml.SafeDumper):
    """Multi-line text as a block, so that a template can be read in the file."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    if re.search(r"[\r\t\x85\u2028\u2029\ufeff]", text):  # PyYAML would rewrite some of these outside double quotes
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
