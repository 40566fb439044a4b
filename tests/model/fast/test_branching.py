"""Texts that begin alike in one sequence: each is there, whole, and what they share is there once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.model.fast import branching
from nla_sdk.model.fast.branching import Layout, branched

TEXTS = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=7).map(tuple), min_size=1, max_size=8, unique=True)


@given(TEXTS)
def test_every_text_stands_along_its_path_and_a_shared_beginning_is_there_once(texts):
    # A text that is another's beginning runs within that one (`merged`), and is none of these.
    texts = [one for one in texts if not any(other != one and other[: len(one)] == one for other in texts)]
    made = branched(dict(enumerate(texts)))
    nodes = {one[:end] for one in texts for end in range(1, len(one) + 1)}  # of the tree of all beginnings
    total = sum(map(len, texts))
    firsts = len({one[0] for one in texts})
    if made is None:
        assert len(nodes) > branching.WORTH * total
        return
    assert sum(len(one.ids) for one in made) == len(nodes) and len(made) == firsts
    found = {number: tuple(one.ids[at] for at in path) for one in made for number, path in one.paths.items()}
    assert found == dict(enumerate(texts))


@given(TEXTS, st.integers(0, 2))
def test_a_token_sees_what_stands_before_it_in_its_text_and_no_more(texts, before):
    made = branched({number: (9, 9, 9, 9, 9, *text, 4 + number) for number, text in enumerate(texts)})
    if made is None:
        return
    layout = Layout.of(made, before)
    for row, one in enumerate(made):
        for path in one.paths.values():
            for at, place in enumerate(path):
                seen = layout.seen[row, 0, place].nonzero()[:, 0].tolist()
                assert seen == sorted([*range(before), *(before + earlier for earlier in path[: at + 1])])
                assert layout.positions[row, place] == at
    assert layout.seen.any(-1).all()  # padding sees itself: what sees nothing has no number


def test_no_sequence_is_longer_than_is_worth_it(monkeypatch):
    monkeypatch.setattr(branching, "LONGEST", 10)
    made = branched({number: [1, 2, 3, 4, 5, 6, 10 + number, 20] for number in range(5)})
    assert made is not None and [len(one.ids) for one in made] == [10, 10, 8]
    assert sorted(number for one in made for number in one.paths) == list(range(5))


def test_texts_with_little_in_common_stay_as_they_are():
    assert branched({0: [1, 2, 3, 4], 1: [1, 5, 6, 7]}) is None
