"""`save_pretrained` never deletes what is no half, and never leaves half of one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nla_sdk import NLAPair
from nla_sdk.errors import InputError, OccupiedFolderError
from nla_sdk.io import files as io_files


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_folder_that_holds_something_else_is_never_deleted(pair, tmp_path):
    (tmp_path / "ar").mkdir()
    (tmp_path / "ar" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OccupiedFolderError, match=r"ar holds thesis\.tex and is no half of a pair"):
            pair.save_pretrained(tmp_path, overwrite=overwrite)
    assert files(tmp_path) == {"ar/thesis.tex": b"years of work"}, "nor is the other half written"


@pytest.mark.parametrize("beside", ["contract", "folder", "file", "link"])
def test_what_only_looks_like_a_half_is_never_deleted(pair, tmp_path, copied, beside):
    place = tmp_path / "saved" / "av"
    place.parent.mkdir()
    if beside == "contract":  # of a table
        place.mkdir()
        (place / "nla_meta.yaml").write_text("kind: nla_dataset\n")
        (place / "adapter_model.safetensors").write_bytes(b"")
    elif beside == "folder":
        (copied() / "av").rename(place)
        (place / "notes").mkdir()
    elif beside == "file":
        place.write_text("a file")
    else:
        place.symlink_to(copied() / "av")
    before = files(place.parent)
    with pytest.raises(OccupiedFolderError, match="av (holds|is a)"):
        pair.save_pretrained(place.parent, overwrite=True)
    assert files(place.parent) == before


def test_a_half_is_replaced_only_when_that_is_asked_for(lora_pair, tmp_path):
    lora_pair("shared").save_pretrained(tmp_path)
    before = files(tmp_path)
    with pytest.raises(OccupiedFolderError, match="holds a half of a pair; pass overwrite=True"):
        lora_pair("centred").save_pretrained(tmp_path)
    assert files(tmp_path) == before
    lora_pair("centred").save_pretrained(tmp_path, overwrite=True)
    assert NLAPair.from_pretrained(tmp_path).baseline_mse == 1.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ar", "av"], "no temporary folder is left"


def test_an_empty_folder_is_free(pair, tmp_path):
    (tmp_path / "av").mkdir()
    pair.save_pretrained(tmp_path)
    assert NLAPair.from_pretrained(tmp_path).av is not None


def test_a_half_that_cannot_be_replaced_stays_as_it_was(lora_pair, tmp_path, monkeypatch):
    lora_pair("shared").save_pretrained(tmp_path)
    before, replace, refused = files(tmp_path), os.replace, []

    def fails(source: Path, target: Path) -> None:
        if Path(target).name == "av" and not refused:  # the old half is out of the way, the new one cannot come
            refused.append(source)
            raise OSError("no space left on device")
        replace(source, target)

    monkeypatch.setattr(io_files.os, "replace", fails)
    with pytest.raises(OSError, match="no space left"):
        lora_pair("centred").save_pretrained(tmp_path, overwrite=True)
    assert files(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ar", "av"], "no temporary folder is left"


def test_what_a_killed_save_of_our_own_pid_left_is_in_nobodys_way(lora_pair, tmp_path):
    """In a container that is started again every run has the same pid."""
    lora_pair("shared").save_pretrained(tmp_path)
    for end in ("tmp", "old"):
        leftover = tmp_path / f".av.{os.getpid()}.{end}"
        leftover.mkdir()
        (leftover / "stale.safetensors").write_bytes(b"half")
    lora_pair("centred").save_pretrained(tmp_path, overwrite=True)
    assert "stale.safetensors" not in {path.name for path in (tmp_path / "av").iterdir()}


def test_a_pair_is_not_saved_over_its_other_half(copied, tmp_path):
    folder = copied()
    (folder / "av").rename(folder / "other")
    (folder / "ar").rename(folder / "av")
    (folder / "other").rename(folder / "ar")
    pair = NLAPair.from_pretrained(folder / "ar", folder / "av")
    before = files(folder)
    with pytest.raises(InputError, match="is where this pair was loaded from"):
        pair.save_pretrained(folder, overwrite=True)
    assert files(folder) == before
