"""Weight files whose headers lie: told by the header, before a number is read."""

from __future__ import annotations

import json
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from nla_sdk.errors import DamagedFileError, UnsafeFileError
from nla_sdk.model.weights.files import damage, read_tensors


@pytest.mark.parametrize("offsets", [[0, "a"], [0, None], [0, [1]], ["a", 16], [0], 7])
def test_a_safetensors_header_whose_offsets_are_no_numbers_is_damage(tmp_path, offsets):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(4), "b": torch.ones(2)}, path)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    header["a"]["data_offsets"] = offsets
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 24)
    found = damage(path)
    assert found is not None and "its header is no safetensors header" in str(found)


@pytest.mark.parametrize("step", [-1, 1, 8, 64])
def test_a_torch_file_whose_record_begins_elsewhere_is_damage_and_not_other_numbers(tmp_path, step):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.arange(100.0), "b": torch.arange(100.0)}, path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        record = next(one for one in archive.infolist() if one.filename.endswith("data/0"))
    at = record.header_offset + 28  # where a header says how long it is
    data[at : at + 2] = (int.from_bytes(data[at : at + 2], "little") + step).to_bytes(2, "little")
    path.write_bytes(data)
    with pytest.raises(DamagedFileError, match="data/0 does not end where the next record begins"):
        read_tensors(path, DamagedFileError)


def test_a_file_in_torchs_old_format_that_was_cut_short_is_refused(tmp_path):
    torch.save({"a": torch.arange(100.0)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "x.pt").read_bytes()
    for end in range(1, len(whole), 7):
        (tmp_path / "x.pt").write_bytes(whole[:end])
        with pytest.raises((DamagedFileError, UnsafeFileError)):
            read_tensors(tmp_path / "x.pt", DamagedFileError)


def test_a_torch_file_is_read_with_checksums_and_without_and_in_its_old_format(tmp_path):
    tensors, path = {"a": torch.arange(100.0), "none": torch.zeros(0)}, tmp_path / "x.pt"
    torch.save(tensors, path)
    assert torch.equal(read_tensors(path, DamagedFileError)["a"], tensors["a"])
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(tensors, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_tensors(path, DamagedFileError)["a"], tensors["a"])
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_tensors(path, DamagedFileError)["a"], tensors["a"])
