"""Every key of a pair's contract, damaged: the key is named, whoever reads the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.grid.damage import set_key
from tests.grid.outcome import refused, run

TEXT, NUMBER = (3, [1], {"a": 1}), ("many", -1, float("nan"), float("inf"), [1], {"a": 1}, 10**400)
KEYS = {
    "kind": ("nla_wings", 3),
    "role": ("wings", 3, "ar"),
    "d_model": (*NUMBER, 0, 65, None),
    "layer": (*NUMBER[:3], 99, 1.5),
    "injection_char": (*TEXT, "", "abc", "a\ud800"),
    "injection_token_id": (*NUMBER[:3], 5, 10**12),
    "injection_left_neighbor_id": (*NUMBER[:2], 5, 10**12),
    "injection_right_neighbor_id": (*NUMBER[:2], 5, 10**12),
    "injection_scale": ("wings", -1, 0, float("nan"), float("inf"), [1]),
    "av_template": (*TEXT, "", "no marker here"),
    "prompt_style": ("wings", 3),
    "activation_mean": (3, "../../base/model.safetensors", "nowhere.safetensors", "/etc/passwd"),
    "centred_norm": (*NUMBER[:4], 0),
    "baseline_mse": ("many", -1, float("nan"), [1]),
    "max_new_tokens": (*NUMBER[:3], 0),
    "compute_dtype": ("float7", 3, "int8"),
    "quantization": ("fp3", 3),
    "base_model": (3, "./nowhere", ["a"]),
}


def cases():
    for key, values in KEYS.items():
        for value in values:
            name = f"{key} is {str(value).encode('unicode_escape').decode()[:30]}"
            yield pytest.param(key, value, id=name)


@pytest.mark.parametrize(("key", "value"), list(cases()))
def test_a_damaged_key_of_a_contract_is_refused(key, value, here):
    set_key(Path("pair/av/nla_meta.yaml"), key, value)
    refused(run("nla", "explain", "rows.parquet", "--av", "pair", "-o", "made.parquet"))
