"""How sure labels are: calibrated on documents that were not fitted on, each half scored by the other's network."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from training.label.readout.confidence import Confidence, half_of

NAMES, WIDTH = 6, 12


def planted(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Directions, the probability of each name that follows from them, what was drawn by it, and documents."""
    weights = np.random.default_rng(3).standard_normal((WIDTH, NAMES))
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((count, WIDTH)).astype(np.float32)
    chances = 1 / (1 + np.exp(-(directions @ weights / 2 - 1)))
    return (
        directions,
        chances,
        (rng.random(chances.shape) < chances).astype(np.float32),
        [f"d{at}" for at in range(count)],
    )


@pytest.fixture(scope="module")
def fitted() -> Confidence:
    directions, _, drawn, documents = planted(6000, 0)
    return Confidence.fit(directions, scipy.sparse.csr_matrix(drawn), documents, np.repeat([0, 1], 3))


def test_of_what_is_said_to_be_so_with_a_probability_as_large_a_share_is_so(fitted):
    directions, chances, drawn, _ = planted(4000, 1)
    said = fitted.of(directions)
    for low, high in ((0.1, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.9)):
        inside = (said >= low) & (said < high)
        assert drawn[inside].mean() == pytest.approx(said[inside].mean(), abs=0.05)
    assert np.corrcoef(said.ravel(), chances.ravel())[0, 1] > 0.95


def test_no_row_is_scored_by_a_network_that_has_seen_its_document(fitted):
    directions, _, drawn, documents = planted(600, 2)
    said, halves = fitted.of(directions, documents), half_of(documents)
    assert 0.4 < halves.mean() < 0.6
    again = Confidence.fit(directions, scipy.sparse.csr_matrix(drawn), documents, np.zeros(NAMES, int))
    other = drawn.copy()
    other[halves == 0] = 1 - other[halves == 0]
    changed = Confidence.fit(directions, scipy.sparse.csr_matrix(other), documents, np.zeros(NAMES, int))
    same = all(
        np.array_equal(one.detach().numpy(), two.detach().numpy())
        for one, two in zip(again.nets[0].parameters(), changed.nets[0].parameters(), strict=True)
    )
    assert same, "the network that scores half 0 was fitted without it"
    assert said.shape == (600, NAMES)


def test_the_same_rows_give_the_same_probabilities(fitted):
    directions, _, drawn, documents = planted(300, 4)
    first, second = (
        Confidence.fit(directions, scipy.sparse.csr_matrix(drawn), documents, np.zeros(NAMES, int)).of(directions)
        for _ in range(2)
    )
    assert np.array_equal(first, second) and ((first >= 0) & (first <= 1)).all()
