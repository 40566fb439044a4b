"""What cannot be used is refused with its own exception, and the message says found, expected and what to do."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nla_sdk import NLAPair
from nla_sdk.errors import (
    ActivationShapeError,
    ContractError,
    ContractMismatchError,
    EmptyBatchError,
    HeadError,
    InputError,
    LayerError,
    MismatchedHalvesError,
    MissingFileError,
    MissingHalfError,
    MissingRepositoryError,
    NonFiniteActivationError,
    PositionError,
    TransformError,
    UnsafeFileError,
    WrongRoleError,
    ZeroActivationError,
)
from nla_sdk.model.extraction import resolve_positions
from nla_sdk.model.weights.heads import load_head
from tests import tiny

D = tiny.D_MODEL


# --- activations --------------------------------------------------------------------------------------------------
def with_hole(value: float) -> np.ndarray:
    rows = np.ones((3, D), np.float32)
    rows[1, 7] = value
    return rows


@pytest.mark.parametrize("method", ["explain", "round_trip"])
@pytest.mark.parametrize(
    ("activation", "error", "message"),
    [
        (np.ones(65), ActivationShapeError, r"shape \(65,\); expected \[64\] or \[n, 64\]"),
        (torch.ones(2, 2, D), ActivationShapeError, r"shape \(2, 2, 64\); expected \[64\] or \[n, 64\]"),
        (with_hole(np.nan), NonFiniteActivationError, "in row 1 holds NaN or infinity"),
        (with_hole(np.inf), NonFiniteActivationError, "in row 1 holds NaN or infinity"),
        (np.zeros(D), ZeroActivationError, "in row 0 is all zeros"),
        (np.ones((0, D)), EmptyBatchError, r"is empty \(shape \(0, 64\)\)"),
        (np.ones(D, complex), InputError, "expected real numbers"),
    ],
)
def test_activations_that_cannot_be_used(pair, method, activation, error, message):
    with pytest.raises(error, match=message) as caught:
        getattr(pair, method)(activation)
    assert type(caught.value) is error


def test_text_is_no_activation_and_a_number_is_no_text(pair):
    with pytest.raises(InputError, match="is a str that is no array of numbers"):
        pair.explain("a cat")
    with pytest.raises(InputError, match="Expected an explanation or a list of them, got a int"):
        pair.reconstruct(3)
    with pytest.raises(InputError, match="Expected a list of explanations, each a string"):
        pair.reconstruct(["a cat", 3])
    with pytest.raises(InputError, match="Expected a text, a chat or a list of them, got a int"):
        pair.extract(3)
    with pytest.raises(InputError, match="Every text must be a string or a list of"):
        pair.extract(["a cat", 3])


@pytest.mark.parametrize("method", ["extract", "reconstruct", "round_trip", "explain"])
def test_an_empty_list_is_refused(pair, method):
    with pytest.raises(EmptyBatchError, match="is empty; expected|is empty .*expected at least one"):
        getattr(pair, method)([])


def test_an_empty_text_holds_no_activation_though_it_is_an_explanation(pair):
    for method in (pair.extract, pair.round_trip):
        with pytest.raises(EmptyBatchError, match="The text is empty; expected at least one character"):
            method("")
    assert pair.reconstruct("").shape == (D,)


@pytest.mark.parametrize("form", [list, np.asarray, torch.as_tensor, lambda rows: rows.to(torch.bfloat16), np.float16])
def test_one_vector_gives_one_text_and_a_matrix_a_list_in_any_form(pair, form):
    rows = tiny.random(2, D, seed=14).bfloat16().float()  # numbers that every dtype can hold
    assert pair.explain(form(rows), max_new_tokens=3) == pair.explain(rows, max_new_tokens=3)
    assert pair.explain(form(rows)[0], max_new_tokens=3) == pair.explain(rows, max_new_tokens=3)[0]
    assert isinstance(pair.round_trip(form(rows[:1])), list)
    assert not isinstance(pair.round_trip(form(rows)[0]), list)


def test_one_explanation_gives_a_vector_and_a_list_a_matrix(pair):
    assert pair.reconstruct("a").shape == (D,)
    assert pair.reconstruct(["a"]).shape == (1, D)
    assert pair.reconstruct(("a", "b")).shape == (2, D)


# --- positions and layers -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("position", [3, -4, [0, 3], 99])
def test_a_position_outside_the_text(pair, position):
    with pytest.raises(
        PositionError, match=r"Position -?\d+ does not exist: the text has 3 tokens \(-3 to 2\)"
    ) as caught:
        pair.extract("ab", position)
    assert isinstance(caught.value, IndexError)


def test_a_position_must_be_inside_every_text(pair):
    with pytest.raises(PositionError, match="Position 4 does not exist: the text has 3 tokens"):
        pair.extract(["abcdef", "ab"], 4)


@pytest.mark.parametrize("positions", ["last", 1.5, [1.0], None, [None], ["all"]])
def test_a_position_must_be_a_whole_number(positions):
    with pytest.raises(PositionError, match="expected 'all', an integer or a list|use 'all', an integer or a list"):
        resolve_positions(positions, 5)


def test_an_empty_list_of_positions():
    with pytest.raises(EmptyBatchError, match="The list of positions is empty"):
        resolve_positions([], 5)


@pytest.mark.parametrize(
    "positions", [-1, [-1], (4,), np.int64(4), np.array([4]), torch.tensor(-1), torch.tensor([4]), range(4, 5)]
)
def test_whole_numbers_of_any_kind_are_positions(positions):
    assert resolve_positions(positions, 5) == [4]


@pytest.mark.parametrize("layer", [-1, tiny.GEMMA_BLOCKS])
def test_a_layer_outside_the_model(pair, layer):
    with pytest.raises(LayerError, match=f"Layer {layer} does not exist: .*gemma has layers 0 to 5") as caught:
        pair.extract("a cat", layer=layer)
    assert isinstance(caught.value, IndexError)


# --- halves -------------------------------------------------------------------------------------------------------
def test_neither_half():
    with pytest.raises(InputError, match="Neither an AV nor an AR was given; expected at least one"):
        NLAPair.from_pretrained(None)


def test_a_half_in_the_others_place(lora_folders):
    av, ar = lora_folders["shared"] / "av", lora_folders["shared"] / "ar"
    with pytest.raises(
        WrongRoleError, match=r"is an AR \(it reconstructs\); an AV \(it explains\) is needed here. Pass it as ar="
    ):
        NLAPair.from_pretrained(ar)
    with pytest.raises(
        WrongRoleError, match=r"is an AV \(it explains\); an AR \(it reconstructs\) is needed here. Pass it as av="
    ):
        NLAPair.from_pretrained(av, av)


@pytest.mark.parametrize(("name", "value"), [("base_model", "other/model"), ("layer", 2), ("d_model", 128)])
def test_halves_that_read_different_vectors(copied, name, value):
    folder = copied()
    tiny.write_sidecar(folder / "ar", **{name: value})
    message = f"The AV .* has {name} .*, the AR .* has {value}: they read different vectors.*Use halves of one pair"
    with pytest.raises(MismatchedHalvesError, match=message):
        NLAPair.from_pretrained(folder)


def test_a_contract_for_another_width_than_the_base(copied):
    folder = copied()
    tiny.write_sidecar(folder / "av", d_model=128)
    with pytest.raises(MismatchedHalvesError, match="is for d_model 128; .*gemma has 64. Wrong base model?"):
        NLAPair.from_pretrained(folder / "av")


def test_an_ar_that_is_deeper_than_the_base(copied):
    folder = copied()
    tiny.write_sidecar(folder / "ar", ar_num_blocks=7)
    with pytest.raises(MismatchedHalvesError, match="runs 7 blocks, its model .*gemma has 6"):
        NLAPair.from_pretrained(None, folder / "ar")


def test_the_reason_why_a_half_is_missing_is_told(tmp_path, copied):
    folder = copied()
    (folder / "av").rename(folder / "lm-av")
    pair = NLAPair.from_pretrained(folder / "lm-av")
    with pytest.raises(
        MissingHalfError, match=r"reconstruct needs an AR.*its name suggests the AR .*lm-ar, which could not be had"
    ):
        pair.reconstruct("a")


def test_folders_and_files_that_are_not_there(tmp_path, copied):
    with pytest.raises(MissingRepositoryError, match="nowhere does not exist"):
        NLAPair.from_pretrained(tmp_path / "nowhere")
    folder = copied()
    with pytest.raises(MissingRepositoryError, match="no-base does not exist"):
        NLAPair.from_pretrained(folder, base=tmp_path / "no-base")
    (folder / "av" / "nla_meta.yaml").unlink()
    with pytest.raises(
        ContractError, match=r"holds no nla_meta.yaml and is no known release.*Put a nla_meta.yaml beside"
    ):
        NLAPair.from_pretrained(folder / "av")


# --- contracts against the tokenizer ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"injection_token_id": 7},
            r"The marker '㊗' is another token. Expected \[7 .*found \[\d+ '㊗'\].*correct the contract",
        ),
        ({"injection_left_neighbor_id": 7}, r"has another left neighbour. Expected \[7 .*found \[\d+ '>'\]"),
        ({"injection_right_neighbor_id": 7}, r"has another right neighbour. Expected \[7 .*found \[\d+ '<'\]"),
        ({"injection_char": "abc"}, r"The marker 'abc' is \d tokens, not one"),
        ({"injection_char": "㈎"}, "The marker '㈎' is unknown to the tokenizer"),
        ({"av_template": "㊗ <concept>{injection_char}</concept>"}, "occurs 2 times in the AV prompt, not once"),
    ],
)
def test_a_contract_that_does_not_fit_the_tokenizer(copied, changes, message):
    folder = copied()
    tiny.write_sidecar(folder / "av", **changes)
    with pytest.raises(ContractMismatchError, match=message):
        NLAPair.from_pretrained(folder / "av")


def test_a_tokenizer_without_the_marker(tmp_path, copied, gemma_base):
    import shutil

    base = shutil.copytree(gemma_base, tmp_path / "base")
    tiny.tokenizer(marker=False).save_pretrained(base)
    with pytest.raises(ContractMismatchError, match="The marker '㊗' is unknown to the tokenizer"):
        NLAPair.from_pretrained(copied() / "av", base=base)


# --- heads --------------------------------------------------------------------------------------------------------
class RunsCode:
    def __init__(self, trace):
        self.command = f"touch {trace}"

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("how", ["in a torch file", "as a bare pickle"])
def test_a_head_that_would_run_code_is_refused_and_does_not_run(tmp_path, copied, how):
    folder, trace = copied() / "ar", tmp_path / "it ran".replace(" ", "_")
    if how == "in a torch file":
        torch.save({"weight": RunsCode(trace)}, folder / "linear_head.pt")
    else:
        (folder / "linear_head.pt").write_bytes(pickle.dumps(RunsCode(trace)))
    message = "linear_head.pt is a pickle that would run code when read.*Ask its author for linear_head.safetensors"
    with pytest.raises(UnsafeFileError, match=message):
        NLAPair.from_pretrained(None, folder)
    assert not trace.exists()


def test_a_whole_pickled_module_is_refused_too(copied):
    folder = copied() / "ar"
    torch.save(torch.nn.Linear(D, D), folder / "linear_head.pt")
    with pytest.raises(UnsafeFileError, match="only tensors are accepted"):
        NLAPair.from_pretrained(None, folder)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            {"weight": torch.ones(D, 65), "bias": torch.ones(D)},
            r"holds .*\(64, 65\).*; expected .*\(64, 64\).* for d_model 64",
        ),
        ({"weight": torch.ones(D, D), "bias": torch.ones(65)}, r"'bias': \(65,\).*; expected"),
        ({"weight": torch.ones(D, D)}, "has no bias, the contract says head_bias: true"),
        ({"bias": torch.ones(D)}, r"holds tensors \['bias'\]; expected 'weight' and, with a bias, 'bias'"),
        (
            {"a.weight": torch.ones(D, D), "b.weight": torch.ones(D, D)},
            r"holds tensors \['a.weight', 'b.weight'\]; expected",
        ),
        ({"weight": torch.ones(D, D), "bias": torch.ones(D), "more": torch.ones(1)}, "holds tensors .*'more'"),
        ({0: torch.ones(D, D)}, r"holds tensors \['0'\]; expected"),
        ([torch.ones(D, D)], "holds a list; expected a state dict of a Linear layer"),
        ({"weight": 3.0}, "holds a dict; expected a state dict of a Linear layer"),
    ],
)
def test_a_head_of_another_make(copied, head, message):
    folder = copied() / "ar"
    torch.save(head, folder / "linear_head.pt")
    with pytest.raises(HeadError, match=message):
        load_head(folder, D, bias=True)


def test_a_bias_against_the_contract(copied):
    folder = copied() / "ar"
    tiny.write_sidecar(folder, head_bias=False)
    with pytest.raises(HeadError, match="has a bias, the contract says head_bias: false"):
        NLAPair.from_pretrained(None, folder)


def test_no_head(copied):
    folder = copied() / "ar"
    (folder / "linear_head.pt").unlink()
    with pytest.raises(
        MissingFileError, match="holds no AR head; expected one of linear_head.safetensors, linear_head.pt, value"
    ):
        NLAPair.from_pretrained(None, folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            r"is no torch file: it starts with b'version https.*LFS pointer.*Download it again",
        ),
        (b"", "is not a readable torch file: .*Download it again"),
        (b"PK\x03\x04 cut short", "is not a readable torch file: .*Download it again"),
    ],
)
def test_a_damaged_head(copied, content, message):
    folder = copied() / "ar"
    (folder / "linear_head.pt").write_bytes(content)
    with pytest.raises(HeadError, match=message):
        load_head(folder, D)


def test_a_damaged_safetensors_head(copied):
    folder = copied() / "ar"
    (folder / "linear_head.safetensors").write_bytes(b"version https")
    with pytest.raises(HeadError, match="linear_head.safetensors is not a readable safetensors file"):
        NLAPair.from_pretrained(None, folder)


@pytest.mark.parametrize("name", ["linear_head.safetensors", "value_head.safetensors"])
@pytest.mark.parametrize("prefix", ["", "head."])
def test_a_head_in_safetensors_is_the_same_head(copied, pair, name, prefix):
    folder = copied() / "ar"
    head = torch.load(folder / "linear_head.pt")
    (folder / "linear_head.pt").unlink()
    save_file({prefix + key: tensor for key, tensor in head.items()}, folder / name)
    torch.testing.assert_close(NLAPair.from_pretrained(None, folder).reconstruct("a cat"), pair.reconstruct("a cat"))


# --- activation means ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (None, r"names activation_mean .*activation_mean.safetensors, which cannot be read"),
        ({"mean": torch.ones(65)}, r"holds \{'mean': \(65,\)\}; expected one tensor of shape \(64,\)"),
        ({"a": torch.ones(D), "b": torch.ones(D)}, "expected one tensor of shape"),
        ({}, r"holds \{\}; expected one tensor of shape"),
    ],
)
def test_an_activation_mean_that_cannot_be_used(copied, tensors, message):
    file = copied("centred") / "av" / "activation_mean.safetensors"
    file.unlink()
    if tensors is not None:
        save_file(tensors, file)
    with pytest.raises(TransformError, match=message):
        NLAPair.from_pretrained(file.parent)
