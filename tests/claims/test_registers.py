"""Explanations are cut into their claims, whatever register a label names."""

from __future__ import annotations

import pytest

from nla_sdk.claims.cutting import claims_of
from nla_sdk.claims.editing import without
from nla_sdk.claims.registers import REGISTERS
from nla_sdk.claims.truth import supported


@pytest.mark.parametrize("register", sorted(REGISTERS))
def test_a_register_is_one_claim_whatever_words_its_name_has(register):
    text = f'"was" or "had" comes next. {register.capitalize()} about whale, sea.'
    claims = claims_of(text)
    assert [(claim.text.lower(), claim.kind) for claim in claims[2:]] == [
        (register, "register"),
        ("whale", "word"),
        ("sea", "word"),
    ]
    assert without(text, claims[2], claims).endswith("next. About whale, sea.")
    assert supported(claims[2], "He walked to the shore and she followed him.") == (
        register == "a narrative about a person"
    )
