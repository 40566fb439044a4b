"""Which half it is, as SHA-256s: of its files and of what its contract decides."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ...contract import SIDECAR_NAME, Contract
from ...io.files import sha256_of

# Of a contract only what decides results is hashed: publishing may add links and drop free text, --record adds figures.
# Nor the base's name: a pair that was trained and measured on a folder gets the base's Hub id before it is published.
# That a base named by its Hub id is the one that was measured is held against `subject.base_model` (see `verify`).
# Statistics of activations decide a warning, no result.
_FREE = {"kind", "pair", "provenance", "base_model", "activation_statistics"}
_RAW = {"injection_scale", "mse_scale"}  # None is a value of these: the vector as it is
# What every contract meant before it could be said otherwise: stated or not, it is the same half.
_EVER = {
    "injection_site": "embedding",
    "injection_rule": "replace",
    "ar_bos": True,
    "ar_final_norm": "dropped",
    "weights_kind": "lora",
}
WEIGHTS = (".safetensors", ".pt", ".bin")
STATISTICS_FILE = "activation_statistics.safetensors"  # of nla_sdk.model.statistics, which imports torch
CONFIGS = ("adapter_config.json", "config.json")


def contract_digest(contract: Contract) -> str:
    """SHA-256 of what a contract decides: its canonical attributes without provenance, links and unknown keys.

    What it leaves open is left out, so that an attribute that a later SDK adds does not change the digest.
    """
    fields = type(contract).model_fields
    values = {name: getattr(contract, name) for name in sorted(set(fields) - _FREE)}
    meant = {**_EVER, "ar_target": "centred" if contract.activation_mean else "raw"}
    if contract.injection_site in (None, "embedding") and contract.injection_norm in (None, "fixed", "sqrt_d", "raw"):
        meant["injection_norm"] = contract.injection_norm  # its scale tells it, None of raw
    unsaid = {name: [meant.get(name), fields[name].get_default(call_default_factory=True)] for name in values}
    values = {name: value for name, value in values.items() if name in _RAW or value not in unsaid[name]}
    values |= {name: contract.to_dict()[name] for name in values if name == "fields"}
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def half_digests(role: str, folder: Path, contract: Contract) -> dict[str, str]:
    """`{role}/{file}` → SHA-256 of every file of a half that decides its results."""
    found = {f"{role}/{SIDECAR_NAME}": contract_digest(contract)}
    for file in sorted(folder.iterdir()):
        if file.is_file() and (file.suffix in WEIGHTS or file.name in CONFIGS) and file.name != STATISTICS_FILE:
            found[f"{role}/{file.name}"] = sha256_of(file)
    return found
