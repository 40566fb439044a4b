"""References: what a place, a selection and a layer are, whatever they are made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.errors import InputError
from nla_sdk.vectors import load
from nla_sdk.vectors.references import Reference
from tests.vectors.kept import FILES

NAMES = st.text("abcXYZ019._-", min_size=1, max_size=12)
PLACES = st.builds("/".join, st.lists(NAMES, min_size=1, max_size=4)).map(lambda place: f"nowhere/{place}")
LAYERS = st.integers(-1, 200)
COUNTS = st.integers(1, 60)
ENDS = st.none() | st.integers(-80, 80)


def shown(*ends: int | None) -> str:
    return ":".join("" if end is None else str(end) for end in ends)


SELECTIONS = (
    st.lists(st.integers(-99, 99), min_size=1, max_size=5).map(lambda rows: ",".join(map(str, rows)))
    | st.builds(shown, ENDS, ENDS)
    | NAMES
)


@given(PLACES, st.none() | SELECTIONS, st.none() | LAYERS)
def test_a_reference_put_together_is_taken_apart_again(place, select, layer):
    chosen, at = "" if select is None else f"#{select}", "" if layer is None else f"@{layer}"
    for text in (f"{place}{chosen}{at}", f"{place}{at}{chosen}", f"  {place}{chosen}{at} "):
        assert Reference.of(text) == Reference(place, select, layer)


@given(st.text(max_size=40), st.lists(st.text(max_size=5), max_size=4))
def test_any_text_is_a_reference_or_an_error_of_ours(text, labels):
    try:
        found = Reference.of(text)
    except InputError:
        return
    assert found.place and found.place in text
    try:
        rows = found.rows(len(labels), labels)
    except InputError:
        return
    assert all(0 <= row < len(labels) for row in rows)


@given(COUNTS, st.data())
def test_numbers_are_those_of_a_list(count, data):
    numbers = data.draw(st.lists(st.integers(-count, count - 1), min_size=1, max_size=6))
    wanted = [list(range(count))[number] for number in numbers]
    assert Reference("x", ",".join(map(str, numbers))).rows(count, None) == wanted


@given(COUNTS, ENDS, ENDS)
def test_slices_are_those_of_a_list_and_an_empty_one_is_an_error(count, first, end):
    wanted = list(range(count))[first:end]
    reference = Reference("x", shown(first, end))
    if wanted:
        assert reference.rows(count, None) == wanted
    else:
        with pytest.raises(InputError, match="is none of them"):
            reference.rows(count, None)


@given(COUNTS, st.data())
def test_a_number_outside_is_an_error_that_says_how_many_there_are(count, data):
    number = data.draw(st.integers(count, 10**12) | st.integers(-(10**12), -count - 1))
    with pytest.raises(InputError, match=rf"has {count:,} vectors; there is no #{number} "):
        Reference("x", str(number)).rows(count, None)


@given(st.lists(st.sampled_from(["cat", "dog", "3", "1:2", "a,b"]), min_size=1, max_size=8))
def test_a_name_goes_before_a_number_and_means_all_rows_that_have_it(labels):
    for name in set(labels):
        assert Reference("x", name).rows(len(labels), labels) == [at for at, one in enumerate(labels) if one == name]


def test_no_selection_means_all_rows():
    assert Reference("x").rows(4, None) == [0, 1, 2, 3]


@pytest.mark.parametrize("ref", ["", "  ", "#", "#3", "@4", "x#", "x#@3", "#name@2"])
def test_a_reference_that_names_nothing_is_an_error(ref):
    with pytest.raises(InputError, match="names no vectors"):
        Reference.of(ref)


@pytest.mark.parametrize("select", ["9" * 5000, f"1,{'9' * 5000}", f"{'9' * 5000}:", f":-{'9' * 5000}"])
def test_a_number_of_thousands_of_digits_is_no_number(select):
    with pytest.raises(InputError):
        Reference("x", select).rows(5, None)
    assert Reference.of(f"x@{'9' * 5000}").layer is None


def test_an_unknown_name_is_told_with_those_that_are_there():
    with pytest.raises(InputError, match=r"no vector 'bird'; its names are cat, dog"):
        Reference("x", "bird").rows(2, ["cat", "dog"])
    with pytest.raises(InputError, match="they have no names"):
        Reference("x", "bird").rows(2, None)


def test_a_path_that_is_there_is_taken_whole(tmp_path):
    odd = tmp_path / "sae#2@5"
    odd.mkdir()
    assert Reference.of(str(odd)) == Reference(str(odd))
    assert Reference.of(f"{odd}#7@3") == Reference(str(odd), "7", 3)


def test_a_layer_in_the_reference_and_another_beside_it_contradict_each_other():
    with pytest.raises(InputError, match="says layer 8, layer= says 5; say one"):
        load(f"{FILES / 'sae_lens_6' / 'topk'}@8", layer=5)
    assert load(f"{FILES / 'sae_lens_6' / 'topk'}#1@8", layer=8).layer == 8


def test_a_label_may_hold_the_mark_that_stands_before_it(tmp_path):
    path = tmp_path / "out.parquet"
    path.touch()
    for text in (f"{path}##3", f"{path}##3@7", f"{path}@7##3"):
        assert Reference.of(text) == Reference(str(path), "#3", 7 if "@" in text.removeprefix(str(path)) else None)
    (tmp_path / "out.parquet#a").touch()
    assert Reference.of(f"{path}#a#b") == Reference(f"{path}#a", "b")
    assert Reference.of("ada/rows/out.parquet##3") == Reference("ada/rows/out.parquet", "#3")
