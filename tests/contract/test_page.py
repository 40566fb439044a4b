"""docs/contract.md says what the code does."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

from nla_sdk.contract import Contract, written_as

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")


def test_the_table_of_keys_is_what_the_model_says():
    generator = runpy.run_path(str(ROOT / "docs" / "contract.py"))
    assert generator["page"](PAGE) == PAGE, "run: python docs/contract.py"


def test_every_key_and_dialect_is_in_the_table():
    table = PAGE.partition("<!-- end of keys -->")[0]
    assert re.findall(r"^\| `([\w.]+)` \|", table, flags=re.MULTILINE) == [*map(written_as, Contract.model_fields)]
    assert "`critic.extraction_layer_index`" in PAGE


@pytest.mark.parametrize("role", ["av", "ar"])
def test_the_contracts_shown_load(role):
    [block] = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if block.startswith(f"# {role}/")]
    assert Contract.from_dict(yaml.safe_load(block)).role == role


def test_every_contract_shown_loads_and_its_fields_are_filled():
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 7
    shown = [Contract.from_dict(yaml.safe_load(block)) for block in blocks]
    assert any(contract.asks for contract in shown)
    for contract in shown:
        fields = contract.field_values(num_blocks=40)
        template = contract.av_prompt(fields) if contract.role == "av" else contract.ar_prompt("x", fields)
        assert not re.search(r"\{\w+\}", template)


def test_files_that_the_page_names_exist():
    for name in re.findall(r"`(nla_sdk/[\w./]+)`", PAGE):
        assert (ROOT / name).exists()
