"""Bare arrays: nothing is said of them, so kind and layer are asked for; what is no vector is refused by name."""

from __future__ import annotations

import io
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nla_sdk import vectors
from nla_sdk.errors import ActivationShapeError, DamagedFileError, InputError, UnsafeFileError
from nla_sdk.model.statistics.means import ActivationMean
from nla_sdk.vectors.faults import SiteError, UnstatedVectorError, VectorFileError
from tests.vectors.written import FILES, expected, same

NUMPY, STEERING, NNSIGHT = FILES / "numpy", FILES / "steering_vectors", FILES / "nnsight"
PROBE = {"kind": "direction", "layer": 3}


@pytest.mark.parametrize("name", ["float16.npy", "columns.npy", "named.npz"])
def test_rows_are_numpys_whatever_type_and_order_it_wrote(name):
    said, loaded = expected("numpy", name), vectors.load(NUMPY / name, **PROBE)
    assert same(loaded, said["rows"])
    assert (loaded.kind, loaded.layer) == ("direction", 3)
    assert loaded.labels == tuple(said.get("labels", ["#0", "#1", "#2", "#3", "#4"]))


def test_kind_and_layer_are_asked_for():
    with pytest.raises(UnstatedVectorError, match=r"kind .*activation: .*direction: .*difference: .*layer .*--layer"):
        vectors.load(NUMPY / "float16.npy")


def test_a_layer_may_be_said_of_each_row():
    assert vectors.load(NUMPY / "named.npz", kind="difference", layer=[3, 4]).layer == (3, 4)
    with pytest.raises(InputError, match="3 layers of 2 vectors"):
        vectors.load(NUMPY / "named.npz", kind="difference", layer=[3, 4, 5])


@pytest.mark.parametrize("layer", ["3", 3.5, [3, "4"], {"a": 1}], ids=repr)
def test_a_layer_that_is_no_number_is_refused(layer):
    with pytest.raises(InputError, match="expected a block's number"):
        vectors.load(NUMPY / "named.npz", kind="difference", layer=layer)


def test_a_layer_may_be_numpys_number():
    assert vectors.load(NUMPY / "named.npz", kind="difference", layer=np.int64(3)).layer == 3
    assert vectors.load(NUMPY / "named.npz", kind="difference", layer=np.array([3, 4])).layer == (3, 4)


def test_a_mean_is_no_vector_to_be_explained(tmp_path):
    ActivationMean(torch.ones(4), 2.0, layer=3).save(tmp_path / "mean.safetensors")
    with pytest.raises(VectorFileError, match="a mean of activations.*--mean"):
        vectors.load(tmp_path / "mean.safetensors", **PROBE)


def test_a_name_selects_a_vector():
    loaded = vectors.load(f"{NUMPY / 'named.npz'}#mean", **PROBE)
    assert same(loaded, expected("numpy", "named.npz")["rows"][1:]) and loaded.labels == ("mean",)


def test_two_bytes_of_no_type_are_asked_about_and_are_bfloat16_when_told():
    path = NUMPY / "bfloat16.npy"
    with pytest.raises(UnstatedVectorError, match=r"dtype .*\|V2.*bfloat16: most likely"):
        vectors.load(path, **PROBE)
    assert same(vectors.load(path, **PROBE, dtype="bfloat16"), expected("numpy", path.name)["rows"])
    bits = np.load(path).view(np.float16).astype(np.float32)
    assert same(vectors.load(path, **PROBE, dtype="float16"), bits)
    for name, said in ((path.name, "int8"), ("float16.npy", "bfloat16")):
        with pytest.raises(InputError, match=f"dtype='{said}'"):
            vectors.load(NUMPY / name, **PROBE, dtype=said)


def test_of_several_arrays_one_is_to_be_named():
    path = NUMPY / "several.npz"
    with pytest.raises(UnstatedVectorError, match=r"column .*W_dec: float32 \[5, 6\]; b_dec: float32 \[6\]"):
        vectors.load(path, **PROBE)
    assert same(vectors.load(path, **PROBE, column="W_dec"), expected("numpy", path.name)["rows"])
    assert vectors.load(path, **PROBE, column="b_dec").labels == ("b_dec",)
    with pytest.raises(VectorFileError, match=r"ids int64 \[5\]; expected floating-point"):
        vectors.load(path, **PROBE, column="ids")
    with pytest.raises(InputError, match="no array 'W'; it has W_dec"):
        vectors.load(path, **PROBE, column="W")


@pytest.mark.parametrize("name", ["torch.pt", "plain.pkl"])
def test_a_pickle_is_refused_with_the_line_that_exports_it(name):
    with pytest.raises(UnsafeFileError, match="pickle of steering_vectors.steering_vector.SteeringVector") as refused:
        vectors.load(STEERING / name)
    line = re.search(r'python -c "(.*)"', str(refused.value))
    assert line and "v.layer_activations.items()" in line[1] and name in line[1]
    compile(line[1], "the line", "exec")


def test_the_line_holds_no_name_that_a_shell_would_read_otherwise(tmp_path):
    path = tmp_path / "x'); print(1) #$(date).pkl"
    path.write_bytes((STEERING / "plain.pkl").read_bytes())
    with pytest.raises(UnsafeFileError) as refused:
        vectors.load(path)
    line = str(refused.value).partition("python -c ")[2]
    assert "open('FILE.pkl', 'rb')" in line and "date" not in line


def test_what_the_line_exports_says_its_layers():
    said, loaded = expected("steering_vectors", "exported.safetensors"), vectors.load(STEERING / "exported.safetensors")
    assert same(loaded, said["rows"])
    assert loaded.layer == tuple(said["layers"]) == (0, 1, 2) and loaded.kind == "direction"
    assert same(vectors.load(f"{STEERING / 'exported.safetensors'}@1"), said["rows"][1:2])


def test_a_steering_vector_of_another_site_is_refused(tmp_path):
    save_file({"self_attn.1": torch.ones(4)}, tmp_path / "attn.safetensors")
    with pytest.raises(SiteError, match="of self_attn, which is not the residual stream"):
        vectors.load(tmp_path / "attn.safetensors")
    for path in (NUMPY / "float16.npy", FILES / "repeng" / "happy.gguf", FILES / "pandas" / "lines.jsonl"):
        with pytest.raises(SiteError, match="site='mlp_out' is not the residual stream"):
            vectors.load(path, **PROBE, site="mlp_out")


@pytest.mark.parametrize("name", ["batch.pt", "first.safetensors"])
def test_a_block_of_nnsight_is_activations_by_text_and_token(name):
    said, loaded = expected("nnsight", name), vectors.load(NNSIGHT / name, kind="activation", layer=1)
    assert same(loaded, said["rows"])
    assert loaded.labels == tuple(said["labels"])
    assert any("first prompt only" in one for one in loaded.assumed) is (name == "first.safetensors")


def test_only_activations_are_a_batch():
    with pytest.raises(ActivationShapeError, match=r"\[2, 4, 8\]; a direction is a row of \[n, d\]"):
        vectors.load(NNSIGHT / "batch.pt", **PROBE)
    with pytest.raises(UnstatedVectorError, match="kind"):
        vectors.load(NNSIGHT / "batch.pt", layer=3)


@pytest.mark.parametrize(
    "array, error, message",
    [
        (np.zeros((2, 3), np.int64), VectorFileError, "int64.*expected floating-point"),
        (np.zeros((2, 3), np.complex64), VectorFileError, "complex64.*expected floating-point"),
        (np.zeros((2, 3), np.uint16), VectorFileError, "Bits of bfloat16"),
        (np.zeros((2, 3), bool), VectorFileError, "bool.*expected floating-point"),
        (np.zeros((1, 2, 3, 4), np.float32), ActivationShapeError, r"\[1, 2, 3, 4\]; expected \[n, d\]"),
        (np.zeros((0, 4), np.float32), ActivationShapeError, r"\[0, 4\]; expected \[n, d\]"),
        (np.float32(3), ActivationShapeError, r"\[\]; expected \[n, d\]"),
        (np.zeros(3, [("a", "f4")]), DamagedFileError, "its header tells of"),
        (np.array([[1, None]], object), UnsafeFileError, "Python objects, which are a pickle"),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_what_is_no_array_of_vectors_is_refused_by_its_type_or_shape(tmp_path, array, error, message):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(error, match=message):
        vectors.load(tmp_path / "x.npy", **PROBE)


@pytest.mark.parametrize("name", ["old.pt", "bfloat16.pt", "list.pt"])
def test_torch_files_of_any_format_are_read(name):
    said, loaded = expected("torch", name), vectors.load(FILES / "torch" / name, **PROBE)
    assert same(loaded, said["rows"])
    assert loaded.labels == tuple(said.get("labels", ["#0", "#1", "#2", "#3", "#4"]))


@pytest.mark.parametrize("name, end", [("steering_vectors/plain.pkl", 30), ("torch/old.pt", 150)])
def test_a_pickle_that_is_cut_short_is_damage_and_nobody_is_told_to_run_it(tmp_path, name, end):
    path = tmp_path / (FILES / name).name
    path.write_bytes((FILES / name).read_bytes()[:end])
    with pytest.raises(DamagedFileError, match="Download it again"):
        vectors.load(path, **PROBE)


def test_a_torch_file_without_tensors_is_refused(tmp_path):
    torch.save({"layer": 12}, tmp_path / "none.pt")
    with pytest.raises(VectorFileError, match="a dict without tensors"):
        vectors.load(tmp_path / "none.pt", **PROBE)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float64], ids=str)
def test_floats_of_any_size_are_read_from_safetensors(tmp_path, dtype):
    rows = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    save_file({"weight": rows}, tmp_path / "x.safetensors")
    assert same(vectors.load(f"{tmp_path / 'x.safetensors'}#1:3", **PROBE), rows.float()[1:].numpy())


def test_a_tensor_that_does_not_hold_its_numbers_takes_no_memory(tmp_path):
    torch.save(torch.ones(1, 1).expand(10**12, 4), tmp_path / "wide.pt")
    with pytest.raises(VectorFileError, match="does not hold all its numbers"):
        vectors.load(tmp_path / "wide.pt", **PROBE)
    torch.save(torch.eye(3).to_sparse(), tmp_path / "sparse.pt")
    with pytest.raises(VectorFileError, match="sparse"):
        vectors.load(tmp_path / "sparse.pt", **PROBE)


def test_a_header_that_tells_of_more_than_there_is_takes_no_memory(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 4)})
    (tmp_path / "more.npy").write_bytes(header.getvalue() + b"\0" * 64)
    with pytest.raises(DamagedFileError, match="192 bytes; its header tells of float32 .1000000000000, 4"):
        vectors.load(tmp_path / "more.npy", **PROBE)
    with zipfile.ZipFile(tmp_path / "more.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header.getvalue() + b"\0" * 64)
    with pytest.raises(DamagedFileError, match="its header tells of"):
        vectors.load(tmp_path / "more.npz", **PROBE)


def test_an_archive_that_was_made_to_fill_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("nla_sdk.vectors.arrays.UNPACKED_FREELY", 1000)
    np.savez_compressed(tmp_path / "zeros.npz", np.zeros((1000, 100), np.float32))
    with pytest.raises(DamagedFileError, match="unpacks to 400,128 bytes"):
        vectors.load(tmp_path / "zeros.npz", **PROBE)


class Opened(Exception):
    """What a pickle would raise if it was run."""


class Trap:
    def __reduce__(self):
        return (Opened, ())


@pytest.mark.parametrize("name", ["trap.pt", "old.pt", "trap.pkl", "trap.npy"])
def test_no_pickle_is_ever_run(tmp_path, name):
    path = tmp_path / name
    if name == "trap.pt":
        torch.save({"vector": Trap()}, path)
    elif name.endswith(".pkl"):
        path.write_bytes(pickle.dumps(Trap()))
    elif name == "old.pt":
        torch.save({"vector": Trap()}, path, _use_new_zipfile_serialization=False)
    else:
        np.save(path, np.array([Trap()], object), allow_pickle=True)
    with pytest.raises(UnsafeFileError):
        vectors.load(path, **PROBE)


def test_a_folder_of_several_files_asks_for_one():
    with pytest.raises(VectorFileError, match="exported.safetensors, plain.pkl, torch.pt; name the file"):
        vectors.load(STEERING)


def test_one_of_several_arrays_is_named_behind_the_reference(tmp_path):
    many = np.arange(12, dtype=np.float32).reshape(3, 4) + 1
    np.savez(tmp_path / "several.npz", one=many[1], many=many)
    path = tmp_path / "several.npz"
    assert vectors.load(f"{path}#one", **PROBE).labels == ("one",)
    assert same(vectors.load(f"{path}#many", **PROBE), many)
    with pytest.raises(InputError, match="no array 'other'; it has one float32"):
        vectors.load(f"{path}#other", **PROBE)
    with pytest.raises(UnstatedVectorError, match="column .it holds several arrays"):
        vectors.load(f"{path}#1", **PROBE)


def test_a_name_is_an_array_of_the_file_the_only_one_too(tmp_path):
    rows = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    np.savez(tmp_path / "one.npz", name=rows)
    np.savez(tmp_path / "two.npz", name=rows, other=rows[:2])
    np.savez(tmp_path / "single.npz", name=rows[0], other=rows[1])
    for file, wanted in (("one", rows), ("two", rows), ("single", rows[:1])):
        found = vectors.load(f"{tmp_path / file}.npz#name", kind="direction", layer=12)
        np.testing.assert_array_equal(found.vectors, wanted)
    np.testing.assert_array_equal(
        vectors.load(f"{tmp_path / 'one'}.npz#1", kind="direction", layer=12).vectors, rows[1:2]
    )
    with pytest.raises(InputError, match="no vector 'other'"):
        vectors.load(f"{tmp_path / 'one'}.npz#other", kind="direction", layer=12)
