"""What a str may hold that is no text is found, whatever stands around it, and nothing else is refused."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.errors import TextError
from nla_sdk.io.files import hash64
from nla_sdk.io.text import FAULTS, check_text, check_texts, fault_of, half_in, not_utf8

ANY = st.text(st.characters(codec="utf-8"), max_size=30)
"""Every code point but surrogates, controls, NUL and U+FEFF among them."""
HALVES = st.integers(0xD800, 0xDFFF).map(chr)


@given(ANY)
def test_a_text_without_nul_or_a_mark_in_front_has_no_fault_whatever_else_it_holds(text):
    assert (fault_of(text) is None) == ("\0" not in text and not text.startswith("\ufeff"))


@given(ANY, HALVES, ANY)
def test_half_a_pair_is_found_and_is_what_arrow_and_utf8_die_of(before, half, after):
    text = before + half + after
    assert fault_of(text) == "half_surrogate"
    with pytest.raises(UnicodeEncodeError):
        pa.array([text])
    with pytest.raises(TextError, match=r"row 3: text holds half a surrogate pair \('\\ud[89a-f]..'"):
        check_text(text, "row 3: text")


@given(ANY)
def test_what_has_no_fault_goes_through_arrow_json_and_a_hash(text):
    if fault_of(text) is None:
        assert pa.array([text]).to_pylist() == [json.loads(json.dumps(text))] == [text]
    assert 0 <= hash64(text) < 2**64


@given(st.recursive(ANY, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY, inner, max_size=3)), HALVES)
def test_half_a_pair_is_found_however_deep_in_json_and_only_there(value, half):
    assert half_in(value) is None
    assert half_in({"a": value, "deep": [{"key": [value, "x" + half]}]}) == "'key'"
    assert half_in({"a": value, half: 1}) == "a key"


def test_a_row_is_named_among_texts_and_chats():
    for texts, row in (
        (["a", "b\0"], 1),
        (["a", [{"role": "user", "content": "\ud83d"}]], 1),
        ([[{"role": "user", "content": [{"type": "text", "text": "\ufeffa"}]}]], 0),
    ):
        with pytest.raises(TextError, match=f"^The text in row {row} holds "):
            check_texts(texts, "The text")
    check_texts(["a", 3, None, [{"role": "user", "content": None}]], "The text")


def test_every_fault_that_is_found_has_a_name_to_be_counted_by():
    assert {fault_of(text) for text in ("\ud83d", "\0", "\ufeff")} | {"no_embedding"} == set(FAULTS)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("caf\u00e9".encode("utf-16"), "is UTF-16 text .* save it as UTF-8"),
        ("caf\u00e9".encode("latin-1"), "is not UTF-8 text: .*0xe9"),
        (b"\x93NUMPY\x01\x00\xff", "is a .npy file, not UTF-8 text"),
        (b"PAR1\xff", "is a parquet file, not"),
        (b"PK\x03\x04\xff", "is a zip file .*not"),
    ],
)
def test_why_a_file_is_no_text_is_said_by_its_first_bytes(tmp_path, content, says):
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    with pytest.raises(UnicodeDecodeError) as caught:
        content.decode()
    assert re.match(says, not_utf8(file, caught.value))
