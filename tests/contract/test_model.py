"""One canonical form: immutable, checked the same however it is made."""

import copy
import math
import subprocess
import sys

import pytest

from nla_sdk.contract import SIDECAR_NAME, Contract
from nla_sdk.errors import ContractError
from tests.contract.samples import AV, put


def test_a_null_scale_stays_raw_through_save_and_load(tmp_path):
    contract = Contract.from_dict(AV | {"injection_scale": None})
    assert "injection:\n  site: embedding\n  rule: replace\n  norm: raw\n" in contract.save(tmp_path).read_text()
    loaded = Contract.load(tmp_path)
    assert (loaded.injection_norm, loaded.injection_scale) == ("raw", None)
    assert loaded.mse_scale == math.sqrt(1536)


def test_a_table_needs_neither_role_nor_geometry(tmp_path):
    contract = Contract.from_dict({"kind": "nla_dataset", "stage": "av_sft", "row_count": 696})
    assert (contract.role, contract.d_model, contract.injection_scale) == (None, None, None)
    assert contract.to_dict() == {
        "kind": "nla_dataset",
        "stage": "av_sft",
        "row_count": 696,
    }
    file = contract.save(tmp_path / "rows.parquet")
    assert file == tmp_path / f"rows.parquet.{SIDECAR_NAME}"
    assert Contract.load(tmp_path / "rows.parquet") == Contract.load(file) == contract


def test_the_constructor_takes_and_checks_the_same():
    assert Contract(**AV) == Contract.from_dict(AV)
    with pytest.raises(ContractError, match="`d_model` is 'wide': expected a whole number"):
        Contract(**AV | {"d_model": "wide"})


def test_from_dict_leaves_its_argument_alone():
    wild = put(AV, "extraction.layer", 23) | {"training": {"a": [1]}}
    before = copy.deepcopy(wild)
    contract = Contract.from_dict(wild)
    contract.extras["training"]["a"].append(2)
    contract.to_dict()["training"]["a"].append(3)
    assert wild == before
    assert contract.extras == {"training": {"a": [1]}}


def test_replace_checks_again_and_keeps_origins_and_unknown_keys():
    contract = Contract.from_dict(AV | {"training": {"lr": 1}})
    changed = contract.replace(pair="owner/ar", injection_scale=None, d_model=64)
    assert (changed.pair, changed.injection_scale, changed.mse_scale) == ("owner/ar", None, 8.0)
    assert changed.to_dict()["injection"] == {"site": "embedding", "rule": "replace", "norm": "raw"}
    assert changed.extras == {"training": {"lr": 1}}
    assert changed.origins["pair"] == "derived"
    assert changed.origins["layer"] == "sidecar"
    assert contract.pair is None
    with pytest.raises(ContractError, match="`layer` is -1"):
        contract.replace(layer=-1)
    with pytest.raises(ContractError, match="`av_template` is missing"):
        contract.replace(av_template=None)


def test_every_attribute_is_described():
    assert all(field.description for field in Contract.model_fields.values())


def test_a_contract_is_immutable():
    with pytest.raises(Exception, match="frozen"):
        Contract.from_dict(AV).layer = 3


def test_reading_a_contract_needs_no_torch_or_transformers():
    code = "import sys, nla_sdk.contract; sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_at_a_prompt_a_contract_is_a_line():
    contract = Contract.from_dict(AV | {"provenance": {"long": "x" * 5000}}, source="my-av/nla_meta.yaml")
    assert repr(contract) == str(contract)
    layer, width = contract.layer, contract.d_model
    assert repr(contract).startswith(f"Contract(av, base_model={contract.base_model!r}, layer={layer}, d_model={width}")
    assert len(repr(contract)) < 150 and repr(contract).endswith("from 'my-av/nla_meta.yaml')")
