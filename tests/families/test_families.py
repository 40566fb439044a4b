"""Every family of the census gives, loaded as a user loads it, what a plain computation gives."""

from __future__ import annotations

import pytest
import torch

from . import plain, templates
from .census import FAMILIES

pytestmark = [
    pytest.mark.filterwarnings("ignore::nla_sdk.errors.UnmatchedPairWarning"),  # their files do not name each other
    pytest.mark.filterwarnings("ignore::nla_sdk.errors.TruncatedExplanationWarning"),
]
ALONE = (0, 1, 15)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_explains_as_the_plain_loop_does_in_one_batch_and_alone(name, family, loaded):
    known, pair = family(name), loaded(name)
    vectors, expected = known.clear_rows()
    assert list(known.explain(pair, vectors)) == expected
    assert len(set(expected)) >= 3, "the texts hardly depend on the vectors: choose another seed"
    for row in ALONE:
        assert list(known.explain(pair, vectors[row : row + 1])) == expected[row : row + 1]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_reconstructs_as_the_plain_forward_does_in_one_batch_and_alone(name, family, loaded):
    known, pair = family(name), loaded(name)
    if known.ar is None:
        assert pair.reconstructor is None
        return
    texts = templates.TEXTS * 4
    expected = known.ar(templates.TEXTS).repeat(4, 1)
    found = known.reconstruct(pair, texts)
    assert found.shape == expected.shape and plain.distance(found, expected) < 1e-4
    alone = torch.cat([known.reconstruct(pair, [text]) for text in templates.TEXTS])
    assert plain.distance(alone, expected[: len(alone)]) < 1e-4
