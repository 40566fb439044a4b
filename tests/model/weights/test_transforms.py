"""What is done to vectors before they go in and undone to what comes out: mean, whitening, maps; each file checked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nla_sdk.contract import Contract
from nla_sdk.errors import (
    ContractError,
    NonFiniteWeightsError,
    TransformError,
    UnsafeFileError,
    UnseenValueError,
    ZeroActivationError,
)
from nla_sdk.model.weights.transforms import Transform
from tests import tiny

D, SOURCE, KEPT = 8, 12, 5
MEAN, WIDE_MEAN = tiny.random(D, seed=1), tiny.random(SOURCE, seed=2)
WHITENING = tiny.random(KEPT, SOURCE, seed=3)
MAP, MAP_BIAS = tiny.random(D, KEPT, seed=4), tiny.random(D, seed=5)
BACK, BACK_BIAS = tiny.random(KEPT, D, seed=6), tiny.random(KEPT, seed=7)
ROWS = tiny.random(6, D, seed=8)
WIDE_ROWS = tiny.random(6, SOURCE, seed=9)


def contract(role="av", **facts) -> Contract:
    common = {"kind": "nla_model", "role": role, "base_model": "tiny", "d_model": D, "layer": 3}
    av = {"av_template": "{injection_char}", "injection_char": "x", "injection_scale": 1, "prompt_style": "raw"}
    ar = {"ar_template": "{explanation}>", "ar_num_blocks": 2, "centred_norm": 2.5}
    return Contract(**common, **(av if role == "av" else ar), **facts)


def save(path, value):
    if path.suffix == ".npy":
        np.save(path, value.numpy())
    elif path.suffix == ".pt":
        torch.save(value, path)
    else:
        save_file(value if isinstance(value, dict) else {"tensor": value}, path)
    return path.name


@pytest.mark.parametrize("name", ["mean.safetensors", "mean.npy", "mean.pt"])
@pytest.mark.parametrize("shape", [(D,), (1, D)])
def test_a_mean_in_any_file_is_taken_off(tmp_path, name, shape):
    transform = Transform.load(tmp_path, contract(activation_mean=save(tmp_path / name, MEAN.reshape(shape))))
    torch.testing.assert_close(transform.apply(ROWS), ROWS - MEAN)
    torch.testing.assert_close(transform.apply(ROWS[0]), ROWS[0] - MEAN)


def test_half_precision_is_read_as_float32(tmp_path):
    transform = Transform.load(tmp_path, contract(activation_mean=save(tmp_path / "mean.safetensors", MEAN.half())))
    assert transform.apply(ROWS).dtype == torch.float32
    torch.testing.assert_close(transform.apply(ROWS), ROWS - MEAN.half().float())


@pytest.mark.parametrize("key", [lambda at: at, str, lambda at: f"layers.{at}.mean"])
def test_each_layer_has_its_own_mean(tmp_path, key):
    means = {at: tiny.random(D, seed=20 + at) for at in (1, 3, 7)}
    file = save(tmp_path / "layer_means.pt", {key(at): mean for at, mean in means.items()})
    transform = Transform.load(tmp_path, contract(activation_mean=file))
    torch.testing.assert_close(transform.apply(ROWS), ROWS - means[3])  # the contract's layer
    torch.testing.assert_close(transform.apply(ROWS, 7), ROWS - means[7])
    pairs = ROWS.reshape(3, 2, D)
    wanted = torch.stack([pairs[:, 0] - means[1], pairs[:, 1] - means[7]], dim=1)
    torch.testing.assert_close(transform.apply(pairs, [1, 7]), wanted)
    with pytest.raises(UnseenValueError, match=r"no activation mean of layer 2 in .*: only of 1, 3, 7\."):
        transform.apply(ROWS, 2)


def test_mean_whitening_and_map_follow_each_other_and_the_source_may_be_wider(tmp_path):
    said = contract(
        activation_mean=save(tmp_path / "mean.npy", WIDE_MEAN),
        activation_whitening=save(tmp_path / "whitening.safetensors", WHITENING),
        activation_map=save(tmp_path / "map.pt", {"encoder.weight": MAP, "encoder.bias": MAP_BIAS}),
    )
    transform = Transform.load(tmp_path, said)
    plain = torch.stack([MAP @ (WHITENING @ (row - WIDE_MEAN)) + MAP_BIAS for row in WIDE_ROWS])
    torch.testing.assert_close(transform.apply(WIDE_ROWS), plain, atol=1e-5, rtol=1e-5)
    assert transform.d_source == SOURCE


def test_what_an_ar_gives_goes_the_whole_way_back(tmp_path):
    said = contract(
        "ar",
        activation_mean=save(tmp_path / "mean.npy", WIDE_MEAN),
        activation_whitening=save(tmp_path / "whitening.npy", WHITENING),
        activation_map=save(tmp_path / "map.npy", MAP),
        reconstruction_map=save(tmp_path / "back.safetensors", {"weight": BACK, "bias": BACK_BIAS}),
    )
    inverse = np.linalg.pinv(WHITENING.double().numpy())
    plain = []
    for row in ROWS:
        rest = torch.from_numpy(inverse @ (BACK @ row + BACK_BIAS).double().numpy()).float()
        plain.append(WIDE_MEAN + 2.5 * rest / rest.norm())
    made = Transform.load(tmp_path, said).undo(ROWS)
    torch.testing.assert_close(made, torch.stack(plain), atol=1e-5, rtol=1e-5)


def test_a_map_back_alone_keeps_its_own_length(tmp_path):
    said = contract("ar", reconstruction_map=save(tmp_path / "back.npy", tiny.random(D, D, seed=6)))
    torch.testing.assert_close(Transform.load(tmp_path, said).undo(ROWS), ROWS @ tiny.random(D, D, seed=6).T)


def test_a_mean_is_put_back_only_where_the_ar_predicts_the_rest(tmp_path):
    file = save(tmp_path / "mean.npy", MEAN)
    raw = Transform.load(tmp_path, contract("ar", activation_mean=file, ar={"target": "raw"}))
    assert raw.undo(ROWS) is ROWS
    centred = Transform.load(tmp_path, contract("ar", activation_mean=file)).undo(ROWS)
    torch.testing.assert_close((centred - MEAN).norm(dim=-1), torch.full((6,), 2.5))


def test_nothing_is_done_where_nothing_is_stated(tmp_path):
    transform = Transform.load(tmp_path, contract())
    assert not transform and transform.apply(ROWS) is ROWS and transform.undo(ROWS) is ROWS and transform.mean() is None


def test_an_ar_that_maps_and_has_no_way_back_is_refused(tmp_path):
    with pytest.raises(ContractError, match="nothing says how it is mapped back. Name the file of the map back"):
        Transform.load(tmp_path, contract("ar", activation_map=save(tmp_path / "map.npy", torch.eye(D))))


def test_a_vector_of_which_nothing_is_left_is_refused(tmp_path):
    transform = Transform.load(tmp_path, contract(activation_mean=save(tmp_path / "mean.npy", MEAN)))
    with pytest.raises(ZeroActivationError, match="row 1 equals the pair's activation mean"):
        transform.apply(torch.stack([ROWS[0], MEAN]))
    lost = Transform.load(tmp_path, contract(activation_map=save(tmp_path / "map.npy", torch.zeros(D, D))))
    with pytest.raises(ZeroActivationError, match="row 0 is all zeros once it is whitened and mapped"):
        lost.apply(ROWS)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "activation_mean",
            torch.ones(D + 1),
            r"file.pt holds \{'array': \(9,\)\}; expected one tensor .* \(8,\)",
        ),
        ("activation_mean", {1: torch.ones(D), 3: torch.ones(2)}, r"\{'1': \(8,\), '3': \(2,\)\}; expected one"),
        ("activation_mean", {"a": torch.ones(D), "b": torch.ones(D)}, "expected one tensor .* or one for each layer"),
        ("activation_mean", {}, r"holds \{\}; expected"),
        ("activation_mean", [torch.ones(D)], "holds a list; expected one tensor"),
        ("activation_whitening", torch.ones(D), r"\(8,\)\}; expected one matrix of shape \(8, d\)"),
        ("activation_whitening", torch.ones(KEPT, D), r"\(5, 8\)\}; expected one matrix of shape \(8, d\)"),
        (
            "activation_whitening",
            {"mean": torch.ones(D), "components": torch.ones(D, D)},
            r"'mean': \(8,\), 'components': \(8, 8\)\}; expected one matrix .* write the mean to a file of its own",
        ),
        (
            "activation_whitening",
            {3: {"mean": torch.ones(D), "components": torch.ones(D, D)}},
            r"holds a dict under '3', with keys \['components', 'mean'\]; expected one tensor",
        ),
        ("activation_map", torch.ones(D + 1, D), r"\(9, 8\)\}; expected `weight` of shape \(8, d\) and, with a bias"),
        ("activation_map", {"weight": torch.ones(D, D), "bias": torch.ones(3)}, r"'bias': \(3,\)\}; expected `weight`"),
        ("activation_map", {"weight": torch.ones(D, D), "more": torch.ones(3)}, "'more'.*expected `weight`"),
        ("activation_map", {"bias": torch.ones(D)}, "expected `weight`"),
    ],
)
def test_a_file_that_holds_something_else_says_what_was_found(tmp_path, name, value, message):
    torch.save(value, tmp_path / "file.pt")
    with pytest.raises(TransformError, match=message):
        Transform.load(tmp_path, contract(**{name: "file.pt"}))


def test_a_map_back_to_another_width_is_refused(tmp_path):
    for name, weight, message in (
        ("a.npy", torch.ones(D, 3), r"expected `weight` of shape \(d, 8\)"),
        ("b.npy", torch.ones(3, D), r"holds a weight of \(3, 8\); expected \(8, 8\), from d_model 8"),
    ):
        with pytest.raises(TransformError, match=message):
            Transform.load(tmp_path, contract("ar", reconstruction_map=save(tmp_path / name, weight)))


@pytest.mark.parametrize("name", ["activation_mean", "activation_whitening", "activation_map"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_numbers_that_are_none_are_refused(tmp_path, name, bad):
    shape = (D,) if name == "activation_mean" else (D, D)
    value = torch.ones(shape)
    value[2] = bad
    with pytest.raises(NonFiniteWeightsError, match=r"file.npy: the array holds NaN or infinity in"):
        Transform.load(tmp_path, contract(**{name: save(tmp_path / "file.npy", value)}))


def test_a_file_that_is_missing_damaged_or_would_run_code_is_refused(tmp_path):
    with pytest.raises(TransformError, match="names activation_map .*none.npy, which cannot be read: there is no such"):
        Transform.load(tmp_path, contract(activation_map="none.npy"))
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr'")
    with pytest.raises(TransformError, match="cut.npy is no readable array of numbers"):
        Transform.load(tmp_path, contract(activation_mean="cut.npy"))
    np.save(tmp_path / "objects.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(TransformError, match="objects.npy is no readable array"):
        Transform.load(tmp_path, contract(activation_mean="objects.npy"))
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(UnsafeFileError, match="author for module.safetensors"):
        Transform.load(tmp_path, contract(activation_map="module.pt"))
