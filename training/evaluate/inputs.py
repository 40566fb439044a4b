"""What an evaluation was made from, as SHA-256s: the files of both halves and what their contracts decide."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cards.evaluation import Evaluation
from nla_sdk.contract import SIDECAR_NAME, Contract

from ..files import sha256_of

# Of a contract only what decides results is hashed: publishing may add links and drop free text, --record adds figures.
_FREE = {"kind", "pair", "provenance", "base_model"}
WEIGHTS = (".safetensors", ".pt", ".bin")
CONFIGS = ("adapter_config.json", "config.json")


def contract_digest(contract: Contract) -> str:
    """SHA-256 of what a contract decides: its canonical attributes without provenance, links and unknown keys."""
    values = {name: getattr(contract, name) for name in sorted(type(contract).model_fields) if name not in _FREE}
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def half_digests(role: str, folder: Path, contract: Contract) -> dict[str, str]:
    """`{role}/{file}` → SHA-256 of every file of a half that decides its results."""
    found = {f"{role}/{SIDECAR_NAME}": contract_digest(contract)}
    for file in sorted(folder.iterdir()):
        if file.is_file() and (file.suffix in WEIGHTS or file.name in CONFIGS):
            found[f"{role}/{file.name}"] = sha256_of(file)
    return found


def differences(evaluation: Evaluation, role: str, folder: Path, contract: Contract) -> list[str]:
    """What of a half is not what the evaluation was made from; empty if all is."""
    measured = {name: digest for name, digest in evaluation.inputs.items() if name.startswith(f"{role}/")}
    here = half_digests(role, folder, contract)
    wrong = [
        f"{name} is not the one that was measured" for name in measured if name in here and measured[name] != here[name]
    ]
    wrong += [f"{name} is missing" for name in measured if name not in here]
    return wrong + [f"{name} was not there when it was measured" for name in here if name not in measured]
