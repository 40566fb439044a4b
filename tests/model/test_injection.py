"""Vectors in any form are taken or refused by name, and one embedding is overwritten, at its place, for its row."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from nla_sdk import metrics
from nla_sdk.contract.injection import Injection
from nla_sdk.errors import (
    ActivationShapeError,
    EmptyBatchError,
    InjectionError,
    InputError,
    MarkerError,
    NonFiniteActivationError,
    ZeroActivationError,
)
from nla_sdk.model.injection import as_vectors, inject, normed, placed, refuse_lost, rescale
from tests.tiny import random

D = 4
ROWS = [[1.0, -2.0, 0.5, 3.0], [0.0, 0.25, 0.0, -8.0]]


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


MATRICES = {
    "list": ROWS,
    "tuple of tuples": tuple(map(tuple, ROWS)),
    "list of arrays": [np.array(row, np.float16) for row in ROWS],
    "list of tensors": [torch.tensor(row, dtype=torch.bfloat16) for row in ROWS],
    **{f"numpy {t.__name__}": np.array(ROWS, t) for t in (np.float16, np.float32, np.float64, np.longdouble)},
    **{f"{t}": torch.tensor(ROWS, dtype=t) for t in (torch.float16, torch.bfloat16, torch.float32, torch.float64)},
    "read-only": read_only(np.array(ROWS, np.float32)),
    "reversed": np.array(ROWS[::-1])[::-1],
    "big-endian": np.array(ROWS, ">f4"),
    "transposed": torch.tensor(ROWS).T.contiguous().T,
    "with grad": torch.tensor(ROWS, requires_grad=True),
}


@pytest.mark.parametrize("form", MATRICES)
def test_a_matrix_in_any_form_is_taken_without_a_warning(form):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectors, single = as_vectors(MATRICES[form], D)
        row, alone = as_vectors(MATRICES[form][1], D)
    assert (single, alone) == (False, True)
    assert torch.equal(vectors, torch.tensor(ROWS))
    assert torch.equal(row, torch.tensor(ROWS[1:]))
    assert not vectors.requires_grad


def test_integers_are_numbers_too():
    assert torch.equal(as_vectors([1, 0, 0, 2], D)[0], torch.tensor([[1.0, 0.0, 0.0, 2.0]]))
    assert torch.equal(as_vectors(torch.tensor([1, 0, 0, 2]), D)[0], torch.tensor([[1.0, 0.0, 0.0, 2.0]]))


def with_row(row: int, value: float) -> torch.Tensor:
    vectors = torch.ones(3, D)
    vectors[row, 2] = value
    return vectors


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            torch.ones(5),
            ActivationShapeError,
            r"shape \(5,\); expected \[4\] or \[n, 4\]: .*d_model 4.*another model\?",
        ),
        (torch.ones(2, 5), ActivationShapeError, r"shape \(2, 5\); expected \[4\] or \[n, 4\]"),
        (torch.ones(1, 1, D), ActivationShapeError, r"shape \(1, 1, 4\); expected \[4\] or \[n, 4\]"),
        (torch.tensor(1.0), ActivationShapeError, r"shape \(\)"),
        (3.5, ActivationShapeError, r"shape \(\)"),
        (
            with_row(2, float("nan")),
            NonFiniteActivationError,
            "in row 2 holds NaN or infinity.*extract in bfloat16 or float32",
        ),
        (with_row(1, float("-inf")), NonFiniteActivationError, "in row 1 holds NaN or infinity"),
        (np.full(D, 1e300), NonFiniteActivationError, "in row 0 holds NaN or infinity"),
        (torch.tensor([[1.0] * D, [0.0] * D]), ZeroActivationError, "in row 1 is all zeros; it has no direction"),
        ([], EmptyBatchError, r"is empty \(shape \(0,\)\); expected at least one vector of 4 numbers"),
        (torch.ones(0, D), EmptyBatchError, r"is empty \(shape \(0, 4\)\)"),
        (np.ones(D, complex), InputError, "dtype torch.complex128; expected real numbers"),
        ([1j] * D, InputError, "dtype torch.complex128; expected real numbers"),
        (torch.ones(D, dtype=torch.bool), InputError, "dtype torch.bool; expected real numbers"),
        ([True] * D, InputError, "dtype torch.bool; expected real numbers"),
        ("cat!", InputError, "is a str that is no array of numbers"),
        (["1.0"] * D, InputError, "is a list that is no array of numbers"),
        (None, InputError, "is a NoneType that is no array of numbers"),
        ({"a": 1}, InputError, "is a dict that is no array of numbers"),
        ([[1.0] * D, [1.0]], InputError, "is a list that is no array of numbers"),
        ([torch.ones(D), torch.ones(5)], InputError, "is a list that is no array of numbers"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(given, error, message):
    with pytest.raises(error, match=message) as caught:
        as_vectors(given, D)
    assert type(caught.value) is error


def test_rescaling_sets_the_norm_and_keeps_the_direction():
    rows = random(3, 16, seed=1) * torch.tensor([[1e-30], [1.0], [1e30]])
    scaled = rescale(rows, 8.0)
    torch.testing.assert_close(scaled.norm(dim=-1), torch.full((3,), 8.0))
    assert metrics.cosine(scaled, rows) == pytest.approx([1.0] * 3, abs=1e-12)
    assert rescale(rows, None) is rows


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_are_of_float32_and_the_sum_is_cast_once(dtype):
    own, vectors = (random(5, 256, seed=4) * 200).to(dtype), random(5, 256, seed=5)
    how = Injection("block", 1, "add", "match", coefficient=2.0)
    h, v = own.double(), vectors.double()
    exact = h + 2 * h.norm(dim=-1, keepdim=True) * v / v.norm(dim=-1, keepdim=True)
    found = placed(own, normed(vectors, how), how)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, rtol=torch.finfo(dtype).eps * 0.51, atol=1e-3)


# --- overwriting --------------------------------------------------------------------------------------------------
@pytest.fixture
def embedding():
    return torch.nn.Embedding.from_pretrained(random(10, D, seed=2), freeze=False)


def test_only_the_marked_embedding_of_each_row_is_overwritten(embedding):
    ids, vectors = torch.tensor([[1, 2, 3], [4, 5, 6]]), random(2, D, seed=3)
    expected = embedding(ids).clone()
    expected[0, 1], expected[1, 1] = vectors
    with inject(embedding, 1, vectors):
        assert torch.equal(embedding(ids), expected)
    assert torch.equal(embedding(ids), embedding.weight[ids]), "nothing is left behind"


def test_each_row_may_have_its_marker_elsewhere(embedding):
    ids, vectors = torch.tensor([[1, 2, 3], [4, 5, 6]]), random(2, D, seed=3)
    with inject(embedding, torch.tensor([2, 0]), vectors):
        output = embedding(ids)
    assert torch.equal(output[[0, 1], [2, 0]], vectors)
    assert torch.equal(output[[0, 1], [1, 1]], embedding.weight[[2, 5]])


def test_a_module_that_scales_its_output_does_not_scale_the_vector(gemma):
    embedding, vector = gemma.get_input_embeddings(), random(1, 64, seed=3)
    with inject(embedding, 0, vector), torch.no_grad():
        output = embedding(torch.tensor([[5, 6]]))
    assert torch.equal(output[0, 0], vector[0])
    torch.testing.assert_close(output[0, 1], embedding.weight[6] * 8.0)


def test_gradients_flow_into_the_vector_and_not_into_the_marker(embedding):
    vector = random(1, D, seed=3).requires_grad_(True)
    with inject(embedding, 1, vector):
        embedding(torch.tensor([[1, 2]])).sum().backward()
    assert torch.equal(vector.grad, torch.ones(1, D))
    assert torch.equal(embedding.weight.grad[2], torch.zeros(D))


def test_the_hook_goes_even_if_the_forward_fails(embedding):
    with pytest.raises(ZeroDivisionError), inject(embedding, 0, random(1, D, seed=3)):
        raise ZeroDivisionError
    assert not embedding._forward_hooks


def test_a_hook_that_was_never_called_is_an_error_and_a_failure_within_is_told_as_it_is(embedding):
    with (
        pytest.raises(
            InjectionError, match=r"^The vector was not injected: the input embedding \(Embedding\) was never"
        ),
        inject(embedding, 0, random(1, D, seed=3), what="The vector"),
    ):
        pass
    assert not embedding._forward_hooks


def entered(rows: int, copies: int = 1, lost: bool = False, seen=lambda vectors: vectors):
    """What a first block would see: 3 tokens, the second the marker's; `copies` of each state, as Gemma 3n has."""

    def enter(vectors: torch.Tensor | None) -> torch.Tensor:
        states = random(3, D, seed=1).expand(rows, -1, -1).clone()
        if vectors is not None and not lost:
            states[:, 1] = seen(vectors[:, 0])
        return states if copies == 1 else torch.stack([states * (1 + at) for at in range(copies)])

    return enter


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("copies", [1, 4])
def test_vectors_that_come_to_the_first_block_are_seen_and_lost_ones_too(rows, copies):
    refuse_lost(entered(rows, copies), D, rows, 1, "The vector")
    refuse_lost(entered(rows, copies, seen=lambda vectors: 12 * vectors + 1), D, rows, 1, "The vector")
    for enter, seen in (
        (entered(rows, copies, lost=True), "the marker's own embedding"),
        (entered(rows, copies, seen=torch.ones_like), "the same for two different vectors"),
    ):
        with pytest.raises(InjectionError, match=f"The vector did not reach the model: the first block sees {seen}"):
            refuse_lost(enter, D, rows, 1, "The vector")


@pytest.mark.parametrize(("rows", "position"), [(3, 0), (2, 3)])
def test_vectors_that_do_not_fit_the_prompts_are_refused(embedding, rows, position):
    with (
        pytest.raises(
            MarkerError, match=f"{rows} activations at position {position} do not fit a batch of 2 prompts of 3"
        ),
        inject(embedding, position, random(rows, D, seed=3)),
    ):
        embedding(torch.tensor([[1, 2, 3], [4, 5, 6]]))
