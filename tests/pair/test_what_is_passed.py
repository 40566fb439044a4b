"""What a method is given: paths, frames, columns, words for vectors are refused with what to pass; a str is a text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.calls.inputs import check_text_input, check_vector_input, is_text
from nla_sdk.errors import InputError, TextError
from tests import tiny

ROW = np.ones(tiny.D_MODEL, np.float32)
FRAME = pandas.DataFrame({"activation_vector": [ROW, ROW], "text": ["a", "b"]})


@pytest.mark.parametrize("method", ["explain", "round_trip"])
@pytest.mark.parametrize(
    ("value", "says"),
    [
        (FRAME, r"a DataFrame \(of activation_vector, text\); .*np.stack\(rows\['activation_vector'\]\)"),
        (FRAME["activation_vector"], "a pandas Series"),
        (pandas.Series(ROW), "a pandas Series"),
        ({"activation_vector": ROW}, r"a dict \(of activation_vector\)"),
        (pa.table({"v": [ROW.tolist()]}), r"a Table \(of v\)"),
        (pa.array(ROW), "a pyarrow FloatArray; .*to_pylist"),
        (pa.chunked_array([pa.array(ROW)]), "a pyarrow ChunkedArray"),
        (Path("acts.npy"), r"'acts.npy' is a file's name.*np.load\(path\)"),
        ((row for row in [ROW]), "a generator; expected an array"),
        ({1.0}, "a set"),
        (b"abc", "a bytes"),
        (None, "a NoneType that is no array"),
        ([[1.0], [1.0, 2.0]], "a list that is no array"),
    ],
)
def test_what_holds_no_array_of_activations_says_what_to_pass(pair, method, value, says):
    with pytest.raises(InputError, match=says):
        getattr(pair, method)(value)


def test_words_are_no_activations_for_explain_and_score(pair):
    for value in ("a cat", ["a", "b"], [{"role": "user", "content": "a"}]):
        with pytest.raises(InputError, match=r"no array of numbers.*pair.explain\(pair.extract\(text\).vectors\)"):
            pair.explain(value)
        with pytest.raises(InputError, match="no array of numbers"):
            pair.score("a", value)


@pytest.mark.parametrize("method", ["extract", "reconstruct", "round_trip"])
def test_a_path_and_the_name_of_a_data_file_that_is_there_are_no_texts(pair, method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in (Path("a.txt"), [Path("a.txt")], "acts.npy"):
        Path("acts.npy").touch()
        with pytest.raises(InputError, match=r"is a file's name, and files are not read here"):
            getattr(pair, method)(value)
    getattr(pair, method)(["a", "acts.npy"])  # rows of a corpus are what they are
    Path("acts.npy").unlink()
    getattr(pair, method)("acts.npy")  # a str that names nothing is the text that its caller says it is


@given(st.text(min_size=1, max_size=30))
def test_a_str_is_a_text_if_it_is_one(text):
    assert is_text(text)
    if "\0" in text or text[0] == "\ufeff":
        with pytest.raises(TextError, match="The text in row 0 holds"):
            check_text_input(text)
    else:
        check_text_input(text)
        check_text_input([text])


@given(st.lists(st.floats(width=32), min_size=1))
def test_arrays_and_lists_of_numbers_pass(numbers):
    for value in (numbers, tuple(numbers), [numbers], np.array(numbers), [np.array(numbers)]):
        check_vector_input(value)
