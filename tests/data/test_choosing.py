"""Which activations a held-out table takes: what a plain recount would."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from training.data.tables.choosing import by_families, spread

ROWS = st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from(["a", "b", "c", None])), max_size=40).map(
    # A document is of one family.
    lambda drawn: [(str(at), f"{doc}{family}", family) for at, (doc, family) in enumerate(drawn)]
)


@given(ROWS, st.integers(1, 45))
def test_each_family_has_as_many_rows_as_fit_and_small_ones_are_whole(rows, count):
    chosen = by_families(rows, count)
    assert len(chosen) == min(count, len(rows))
    there = Counter(family for _, _, family in rows)
    found = Counter(family for row_id, _, family in rows if row_id in chosen)
    most = max(found.values(), default=0)
    for family, available in there.items():
        assert found[family] == available or found[family] >= most - 1


@given(ROWS, st.integers(1, 45))
def test_within_a_family_rows_are_spread_over_its_documents(rows, count):
    chosen = by_families(rows, count)
    for family in {family for _, _, family in rows}:
        own = [(row_id, doc) for row_id, doc, of in rows if of == family]
        assert {row_id for row_id, _ in own} & chosen == spread(own, sum(row_id in chosen for row_id, _ in own))


@given(ROWS, st.integers(1, 45))
def test_no_document_has_two_rows_more_than_another_that_has_some_left(rows, count):
    chosen = spread([(row_id, doc) for row_id, doc, _ in rows], count)
    there = Counter(doc for _, doc, _ in rows)
    found = Counter(doc for row_id, doc, _ in rows if row_id in chosen)
    most = max(found.values(), default=0)
    assert all(found[doc] == available or found[doc] >= most - 1 for doc, available in there.items())
