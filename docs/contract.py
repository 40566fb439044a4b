"""Writes the table of keys into contract.md, from the model itself: `python docs/contract.py`.

Types and meanings are the model's own, the other names are those of `DIALECTS`, and what an absent key does is tried:
each key is taken out of a small contract of each half. The prose around the table is written by hand.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from nla_sdk.contract import DIALECTS, Contract, written_as
from nla_sdk.errors import ContractError

PAGE = Path(__file__).with_suffix(".md")
BEGIN, END = "<!-- keys: written by docs/contract.py -->\n", "<!-- end of keys -->\n"
SIGNS = (("ge", "≥"), ("minimum", "≥"), ("gt", ">"), ("exclusiveMinimum", ">"), ("le", "≤"), ("maximum", "≤"))
COMMON = {"kind": "nla_model", "base_model": "owner/lm", "d_model": 64, "layer": 2}
SMALL = {
    "AV": COMMON
    | {
        "role": "av",
        "av_template": "{injection_char}",
        "injection_char": "x",
        "prompt_style": "raw",
        "injection_scale": 8,
    },
    "AR": COMMON | {"role": "ar", "ar_template": "{explanation}", "ar_num_blocks": 3},
}


def page(text: str) -> str:
    """The page's text with the table as the model has it now."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


def table() -> str:
    """One line a key, in the order of the canonical form."""
    lines = ["| key | type | meaning | if absent | other names that are read |", "|---|---|---|---|---|"]
    properties = Contract.model_json_schema()["properties"]
    for name, schema in properties.items():
        names = ", ".join(f"`{key}`" for key in DIALECTS.get(name, ()))
        lines.append(
            f"| `{written_as(name)}` | {type_of(schema)} | {schema['description']} | {if_absent(name)} | {names} |"
        )
    return "\n".join(lines) + "\n"


def type_of(schema: dict[str, Any]) -> str:
    """A JSON schema's type in words."""
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    if len(options) > 1:
        return " or ".join(type_of(option) for option in options)
    [schema] = options
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        *most, last = (f"`{value}`" for value in schema["enum"])
        return f"{', '.join(most)} or {last}"
    if schema["type"] == "array":
        return f"list of {type_of(schema['items']).replace('number', 'numbers')}"
    words = {"string": "text", "integer": "whole number", "boolean": "true or false", "object": "mapping"}
    limits = "".join(f" {sign} {schema[key]}" for key, sign in SIGNS if key in schema)
    return words.get(schema["type"], schema["type"]) + limits


def if_absent(name: str) -> str:
    """What a contract without the key becomes: refused, or the value it gets."""
    outcomes = {}
    for half, small in SMALL.items():
        try:
            contract = Contract.from_dict({key: value for key, value in small.items() if key != name})
        except ContractError:
            outcomes[half] = "refused"
            continue
        value = getattr(contract, name)
        if contract.origins[name] == "derived":
            outcomes[half] = "derived"
        elif value == math.sqrt(COMMON["d_model"]):
            outcomes[half] = "√d_model"
        else:
            outcomes[half] = f"`{value}`" if value else ""
    if len(set(outcomes.values())) == 1:
        return outcomes["AV"]
    return "; ".join(f"{half}: {outcome}" for half, outcome in outcomes.items() if outcome)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
