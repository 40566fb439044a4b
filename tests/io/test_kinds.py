"""INPUT is a file, a text, or refused: no path to nothing is ever a text, and no sentence is taken for a path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.errors import InputError
from nla_sdk.io.rows.kinds import (
    CONVERSIONS,
    READ_SUFFIXES,
    VECTOR_SUFFIXES,
    file_of,
    files_of,
    looks_like_a_path,
    names_a_data_file,
)
from nla_sdk.io.rows.sources import TEXTS, open_source

COLUMNS = ("activation_vector", "text")
NAME = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789_-", min_size=1, max_size=12)
SUFFIX = st.sampled_from(
    [*READ_SUFFIXES, *CONVERSIONS, *VECTOR_SUFFIXES, ".md", ".yaml", ".PT", ".Npy", ".pkl", ".npy.gz", ""]
)
WORD = st.text(st.characters(categories=["L"]), min_size=1, max_size=10)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@st.composite
def paths(draw) -> str:
    """A path to nothing: rooted, or with a folder, or with the suffix of a file; spaces in names where it is rooted."""
    root = draw(st.sampled_from(["", "./", "../", "~/", "/tmp/", "C:\\", "d:/", ".\\"]))
    name = st.tuples(NAME, NAME).map(" ".join) if root and draw(st.booleans()) else NAME
    separator = "\\" if "\\" in root else "/"
    parts = draw(st.lists(name, min_size=1, max_size=3))
    suffix = draw(SUFFIX.filter(lambda end: end or root or len(parts) > 1))
    return root + separator.join(["no-such-" + parts[0], *parts[1:]]) + suffix


@given(paths())
def test_a_path_to_nothing_is_never_a_text_unless_it_is_said_to_be_one(path):
    with pytest.raises(InputError, match="does not exist; expected a file .* or a text. With --text it is a text"):
        open_source(path, COLUMNS)
    source = open_source(path, COLUMNS, as_text=True)
    assert next(source.read(0))["text"].to_pylist() == [path] and source.holds == TEXTS


@given(
    st.lists(WORD, min_size=2, max_size=12), st.sampled_from([".", "!", "?", "…", "", ".”", ";", ": 3.5", " and/or so"])
)
def test_words_with_spaces_between_are_a_text(words, end):
    assert file_of(" ".join(words) + end) is None


@given(WORD, st.sampled_from(["", ".", "?!", ",", "…", "'s", "-like", "%"]))
def test_one_word_is_a_text(word, end):
    assert file_of(word + end) is None


@pytest.mark.parametrize(
    "text",
    [
        *("Paris", "1.5", "e.g.", "…end.", "U.S.A.", "v1.2.3", "https://example.com/page.html?q=1", "a@b.example"),
        *("C++", "don't", "$5.00", "Node.js", "3:15", "*sigh*", "What?!", "東京", "<eos>", "[MASK]", "@user", "#topic"),
        *("e.g.,", "Yes/No or N/A: he reads and/or writes.", "please read notes.txt", "Open docs/notes.md first"),
        *("~ 5 km away", "/r/place is a forum", "Load acts.npy with NumPy.", "first line\nsecond, see acts.npy"),
        *("... and so on", "[1"),
    ],
)  # fmt: skip
def test_ordinary_texts_are_texts(text):
    assert file_of(text) is None


@pytest.mark.parametrize(
    "given",
    [
        *("and/or", "N/A", "acts/layer12", "acts\\layer12", "~acts", "README.md", "acts.npy:0", "acts.npy.part"),
        *("model.safetensors.index.json", "my acts.npy", "the acts of layer 12.pt", " acts.npy ", "'acts.npy'"),
        *('"runs/x"', "a.NPZ"),
        *("/tmp/my acts/l 12", "acts*", "*.parquet", "runs/*/acts.npy", "layer[0-9].npy", "s3://bucket/acts.npy", "https://a.example/acts.npz"),
        *("[0.1, 0.2]", '{"text": "a"}', "file:///acts", "\\\\server\\share"),
    ],
)  # fmt: skip
def test_what_may_be_a_path_is_refused_with_the_way_out(given):
    with pytest.raises(InputError, match="With --text it is a text, whatever it looks like"):
        file_of(given)


def test_what_stands_there_decides_before_what_it_looks_like():
    Path("Paris").mkdir()
    Path("Paris/acts.npy").touch()
    Path("plain").touch()
    for name, says in (
        ("Paris", "Paris is a folder; it holds acts.npy. Pass a file"),
        (".", "is a folder"),
        ("plain", "plain is a file of a kind that is not read here; .* pass - and redirect it: - < plain"),
        ("Paris/*.txt", "is a pattern that matches no file here"),
        ("/dev/null", "is no regular file. .*redirect: - < /dev/null"),
        (" Paris/acts.npy", r"pass 'Paris/acts.npy'"),
    ):
        with pytest.raises(InputError, match=says):
            file_of(name)
    assert file_of("Paris/acts.npy") == Path("Paris/acts.npy")
    assert files_of("Paris/*.npy") == [Path("Paris/acts.npy")] and not files_of("Paris/acts.npy")
    assert file_of("Paris and Rome") is None


@pytest.mark.parametrize("suffix", sorted(CONVERSIONS))
def test_a_file_of_another_kind_says_in_one_line_how_it_becomes_one_that_is_read(suffix):
    Path(f"acts{suffix}").touch()
    with pytest.raises(
        InputError, match=rf"acts{suffix} is a file of a kind that is not read here; .*In Python"
    ) as caught:
        file_of(f"acts{suffix}")
    message = str(caught.value)
    assert "\n" not in message and "{" not in message and f"acts{suffix}" in message.partition("In Python: ")[2]
    assert any(f"acts{end}" in message.partition("In Python: ")[2] for end in READ_SUFFIXES)


@pytest.mark.parametrize("suffix", VECTOR_SUFFIXES)
def test_a_file_of_vectors_leads_to_the_commands_that_read_it(suffix):
    Path(f"acts{suffix}").touch()
    with pytest.raises(InputError, match=rf"read by nla explain, .*`nla vectors acts{suffix}` says what it holds"):
        file_of(f"acts{suffix}")


def test_the_lines_for_other_files_do_what_they_say(tmp_path):
    import numpy as np
    import pandas

    vectors = np.arange(6, dtype=np.float32).reshape(3, 2) + 1
    pandas.DataFrame(vectors).to_csv("d.csv", index=False)
    Path("e.json").write_text(json.dumps([{"text": "one"}, {"text": "two"}]))
    for name in ("d.csv", "e.json"):
        with pytest.raises(InputError) as caught:
            file_of(name)
        line = str(caught.value).partition("In Python: ")[2].rpartition("or of numbers alone ")[2]
        exec(line, {"np": np, "pandas": pandas})
    np.testing.assert_array_equal(np.load("d.npy"), vectors)
    assert open_source("e.jsonl", COLUMNS).check() == 2


@given(st.text(st.characters(), max_size=40))
def test_no_str_at_all_makes_the_question_fail(text):
    looks_like_a_path(text)
    assert names_a_data_file(text) is False
    if text:
        try:
            file_of(text)
        except InputError as error:
            assert str(error)


def test_vectors_named_in_a_folder_that_is_there_are_no_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sae").mkdir()
    for name in ("sae#3", "sae@12", "sae#3@12", "sae@12#3"):
        with pytest.raises(InputError, match=f"{name} names vectors in sae.*nla explain.*With --text"):
            file_of(name)
    for name in ("C#", "sea#3", "user@23", "#1", "sae#", "sae# said he"):
        assert file_of(name) is None
