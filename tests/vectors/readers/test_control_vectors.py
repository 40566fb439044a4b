"""Control vectors of both makers: whose file it is, of which block a direction is, which way it points."""

from __future__ import annotations

import struct

import gguf
import numpy as np
import pytest

from nla_sdk import vectors
from nla_sdk.errors import DamagedFileError, InputError
from nla_sdk.vectors.faults import UnstatedVectorError, VectorFileError
from nla_sdk.vectors.loading import look
from tests.vectors.written import FILES, expected, same

HAPPY, SUM = FILES / "repeng" / "happy.gguf", FILES / "repeng" / "sum.gguf"
LLAMA, QWEN = FILES / "cvector" / "llama.gguf", FILES / "cvector" / "qwen2moe.gguf"


@pytest.fixture
def written(tmp_path):
    """(numbers, hint, int or uint of layer_count) → a file of random directions, and these."""

    def write(numbers: list[int], hint: str = "llama", count: str = "uint32", architecture: str = "controlvector"):
        path = tmp_path / f"{hint}-{count}.gguf"
        rows = np.random.default_rng(3).normal(size=(len(numbers), 8)).astype(np.float32)
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_string("controlvector.model_hint", hint)
        if count:
            getattr(writer, f"add_{count}")("controlvector.layer_count", len(numbers))
        for number, row in zip(numbers, rows, strict=True):
            writer.add_tensor(f"direction.{number}", row)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path, rows

    return write


@pytest.mark.parametrize("path", [HAPPY, SUM], ids=lambda path: path.stem)
def test_n_of_repengs_file_is_the_block_and_rows_keep_their_length(path):
    said, loaded = expected("repeng", path.name), vectors.load(path)
    assert same(loaded, said["rows"])
    assert loaded.layer == tuple(said["layers"]) == (2, 1)
    assert loaded.labels == tuple(said["labels"])
    assert (loaded.kind, loaded.model) == ("direction", "llama")
    assert any("written by repeng" in one for one in loaded.assumed)


@pytest.mark.parametrize("path", [LLAMA, QWEN], ids=lambda path: path.stem)
def test_n_of_llama_cpps_file_is_the_block_after(path):
    said, loaded = expected("cvector", path.name), vectors.load(path, sign="+")
    assert same(loaded, said["rows"])
    assert loaded.layer == tuple(said["layers"]) == (0, 1, 2, 3)
    assert loaded.labels[0] == "direction.1"
    assert any("written by llama.cpp" in one for one in loaded.assumed)


def test_the_sign_of_llama_cpps_file_is_asked_for():
    with pytest.raises(UnstatedVectorError, match=r"sign .*random.*\+: as they are .of --method mean.*±: both"):
        vectors.load(LLAMA)


def test_both_signs_are_two_rows_each_and_their_labels_say_which():
    rows = expected("cvector", LLAMA.name)["rows"]
    loaded = vectors.load(f"{LLAMA}#direction.2", sign="±")
    assert same(loaded, np.stack([rows[1], -rows[1]]))
    assert loaded.labels == ("+direction.2", "−direction.2")
    every = vectors.load(LLAMA, sign="±")
    assert every.layer == (0, 0, 1, 1, 2, 2, 3, 3)
    turned = vectors.load(LLAMA, sign="-")
    assert same(turned, -rows) and turned.labels[0] == "−direction.1"


def test_a_sign_that_is_none_is_refused():
    with pytest.raises(InputError, match="sign='up'"):
        vectors.load(LLAMA, sign="up")


def test_the_maker_may_be_said_against_the_marks():
    assert vectors.load(HAPPY, maker="llama.cpp", sign="+").layer == (1, 0)
    assert vectors.load(LLAMA, maker="repeng").layer == (1, 2, 3, 4)
    with pytest.raises(InputError, match="maker='gguf'"):
        vectors.load(HAPPY, maker="gguf")


def test_a_layer_selects_its_rows():
    rows = expected("repeng", HAPPY.name)["rows"]
    loaded = vectors.load(f"{HAPPY}@1")
    assert same(loaded, rows[1:]) and loaded.layer == 1 and loaded.labels == ("direction.1",)
    assert same(vectors.load(f"{HAPPY}#direction.2"), rows[:1])
    with pytest.raises(InputError, match="layer 1, 2, none of 7"):
        vectors.load(f"{HAPPY}@7")


@pytest.mark.parametrize(
    "numbers, hint, count",
    [([1, 2, 3], "llama", "uint32"), ([3, 2, 1], "llama", "int32"), ([3, 2, 1], "qwen2moe", "uint32")],
    ids=["repeng's count, llama.cpp's order", "llama.cpp's count, repeng's order", "llama.cpp's hint"],
)
def test_marks_that_contradict_one_another_are_asked_about(written, numbers, hint, count):
    path, rows = written(numbers, hint, count)
    with pytest.raises(UnstatedVectorError, match="maker .*marks of both.*repeng: direction.N is the output of"):
        vectors.load(path)
    assert same(vectors.load(path, maker="repeng"), rows)


def test_a_file_without_marks_is_asked_about(written):
    path, _ = written([4], "llama", "")
    with pytest.raises(UnstatedVectorError, match="maker .nothing tells"):
        vectors.load(path)
    assert vectors.load(path, maker="repeng").layer == 4


def test_a_hint_that_only_transformers_has_is_repengs(written):
    path, _ = written([4], "qwen2_moe", "")
    assert vectors.load(path).layer == 4


def test_that_repengs_last_block_is_after_the_final_norm_is_said():
    assert any("block 2 is not the model's last one" in one for one in vectors.load(HAPPY).assumed)


def test_a_models_file_is_no_control_vector(written):
    path, _ = written([1], architecture="gemma3")
    with pytest.raises(VectorFileError, match="a model .gemma3.; expected control vectors"):
        vectors.load(path)


def test_a_direction_that_lies_elsewhere_than_the_one_before_ends_is_damage(tmp_path):
    data = bytearray(HAPPY.read_bytes())
    offset = data.index(b"direction.1") + len("direction.1") + 4 + 8 + 4  # its dimensions and type stand before it
    assert struct.unpack_from("<Q", data, offset) == (32,)
    struct.pack_into("<Q", data, offset, 0)
    (tmp_path / "moved.gguf").write_bytes(data)
    with pytest.raises(DamagedFileError, match="direction.1 lies at byte"):
        vectors.load(tmp_path / "moved.gguf")


def test_the_other_byte_order_is_refused_before_it_is_read(tmp_path):
    nothing = b"GGUF" + struct.pack(">IQQ", 3, 0, 0)  # version, tensors, fields
    (tmp_path / "big.gguf").write_bytes(nothing)
    with pytest.raises(VectorFileError, match="big-endian"):
        vectors.load(tmp_path / "big.gguf")


@pytest.mark.parametrize("kind", [gguf.GGUFValueType.UINT8, gguf.GGUFValueType.STRING, gguf.GGUFValueType.ARRAY])
def test_an_array_that_claims_more_than_there_is_ends_at_once(tmp_path, kind):
    data = bytearray(HAPPY.read_bytes())
    at = data.index(b"layer_count") + len("layer_count")  # the type of its value, and the value
    data[at:] = struct.pack("<IIQ", gguf.GGUFValueType.ARRAY, kind, 2**62) + b"\0" * 64
    (tmp_path / "long.gguf").write_bytes(data)
    with pytest.raises(DamagedFileError, match="damaged GGUF file"):
        vectors.load(tmp_path / "long.gguf")


def test_nothing_is_read_to_look():
    found = look(HAPPY)[2]
    assert (found.count, found.width, found.questions) == (2, 8, ())
    assert "how they were made" in found.unknown[0]
