"""Values that have a form of their own: file names, repositories, precisions."""

import pytest

from nla_sdk.contract import Contract
from nla_sdk.errors import ContractError
from tests.contract.samples import AV


@pytest.mark.parametrize("name", ["../mean.npy", "a/b.npy", "a\\b.npy", "..", ".hidden", "/etc/passwd", "C:x", "a\n"])
def test_activation_mean_is_a_bare_file_name(name):
    with pytest.raises(ContractError, match="`activation_mean`"):
        Contract.from_dict(AV | {"activation_mean": name})
    assert Contract.from_dict(AV | {"activation_mean": "mean-v1.0.safetensors"}).activation_mean


@pytest.mark.parametrize("pair", ["../ar", "/tmp/ar", "a\\b", "owner/../x", "~/ar", "https://x.y/z"])
def test_pair_is_a_repository_and_never_a_path_elsewhere(pair):
    with pytest.raises(ContractError, match="`pair`"):
        Contract.from_dict(AV | {"pair": pair})
    assert Contract.from_dict(AV | {"pair": "owner/name-v0_1.x"}).pair == "owner/name-v0_1.x"


@pytest.mark.parametrize(
    "written, read",
    [("fp16", "float16"), ("torch.bfloat16", "bfloat16"), ("NF4", "nf4"), ("int8 by gguf", "int8 by gguf")],
)
def test_a_precision_is_read_under_any_of_its_names(written, read):
    table = Contract.from_dict({"kind": "nla_dataset", "extraction_precision": written})
    assert table.extraction_precision == read


def test_whether_repeats_are_forbidden_is_yes_or_no_and_no_where_nothing_is_said():
    assert Contract.from_dict(AV).output_no_repeats is False
    forbids = Contract.from_dict(AV | {"output": {"no_repeats": True}})
    assert forbids.output_no_repeats is True and forbids.to_dict()["output"] == {"no_repeats": True}
    assert "output" not in Contract.from_dict(AV).to_dict()
    for value in ("words", 2, [True]):
        with pytest.raises(ContractError, match="`output.no_repeats`"):
            Contract.from_dict(AV | {"output": {"no_repeats": value}})
    with pytest.raises(ContractError, match="no_repeat"):
        Contract.from_dict(AV | {"output": {"no_repeat": True}})
