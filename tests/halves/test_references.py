"""What a reference names: folders, the bundled pair; what is told apart from a Hub id, and what leads nowhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nla_sdk.errors import InputError, MissingFileError, MissingRepositoryError, WrongRoleError
from nla_sdk.halves.fetch import fetch_base, fetch_file, fetch_half
from nla_sdk.halves.hub import references
from nla_sdk.halves.inspection import describe
from tests.halves.samples import ADAPTER, HALF, write
from tests.hub.server import Hub

pytest_plugins = ["tests.hub.fixtures"]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_is_used_where_it_lies(tmp_path, kind):
    found = fetch_half(kind(write(tmp_path, HALF)))
    assert found.path == tmp_path
    assert (found.ref, found.commit, found.subfolder) == (str(tmp_path), None, None)


def test_a_full_checkpoint_is_a_half_too(tmp_path):
    files = {"config.json": "{}", "model-00001-of-00002.safetensors": b"", "value_head.safetensors": b""}
    assert fetch_half(write(tmp_path, files)).path == tmp_path


def test_a_subfolder_of_a_folder_is_found(tmp_path):
    write(tmp_path / "step_50", ADAPTER)
    found = fetch_half(tmp_path, subfolder="step_50/")
    assert found.path == tmp_path / "step_50"
    assert found.subfolder == "step_50"


def test_a_folder_wins_over_a_repository_of_the_same_name(tmp_path, monkeypatch, hub: Hub):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "ada" / "av", ADAPTER)
    assert fetch_half("ada/av").commit is None
    assert not hub.requests


@pytest.mark.parametrize("subfolder", ["..", "../other", "a/../../other", "/etc", "C:\\other", "..\\other"])
@pytest.mark.parametrize("ref", ["folder", "ada/av"])
def test_a_subfolder_that_leads_out_is_refused(tmp_path, ref, subfolder):
    write(tmp_path / "other", ADAPTER)
    (tmp_path / "inner").mkdir()
    with pytest.raises(InputError, match="leads out of the repository"):
        fetch_half(tmp_path / "inner" if ref == "folder" else ref, subfolder=subfolder)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_subfolder_that_is_a_link_out_of_the_folder_is_refused(tmp_path):
    write(tmp_path / "other", ADAPTER)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "link").symlink_to(tmp_path / "other", target_is_directory=True)
    with pytest.raises(InputError, match="'link' leads out of"):
        fetch_half(tmp_path / "inner", subfolder="link")


@pytest.mark.parametrize("ref", ["./nowhere", "../nowhere", "~/nla-sdk-nowhere", "/nla-sdk/nowhere", Path("nowhere")])
def test_a_folder_that_does_not_exist_is_not_looked_up_on_the_hub(ref, hub: Hub):
    with pytest.raises(MissingRepositoryError, match=r"The folder .*nowhere does not exist"):
        fetch_half(ref)
    assert not hub.requests


def test_a_file_is_no_folder(tmp_path):
    file = write(tmp_path, ADAPTER) / "adapter_model.safetensors"
    with pytest.raises(MissingRepositoryError, match="is a file; pass the folder it lies in"):
        fetch_half(file)


@pytest.mark.parametrize("ref", ["", "  "])
def test_an_empty_reference_is_refused(ref):
    with pytest.raises(MissingRepositoryError, match="empty string"):
        fetch_half(ref)


def test_a_folder_without_weights_lists_what_is_there(tmp_path):
    write(tmp_path, {"adapter_config.json": "{}", "optimizer.bin": b"", "linear_head.safetensors": b""})
    with pytest.raises(MissingFileError, match="neither an adapter") as caught:
        fetch_half(tmp_path)
    assert "Found: adapter_config.json, linear_head.safetensors, optimizer.bin." in str(caught.value)


def test_a_folder_of_checkpoints_names_its_subfolders_in_order(tmp_path):
    for step in (100, 50, 1000):
        write(tmp_path / f"step_{step}", ADAPTER)
    write(tmp_path / "logs", {"train.jsonl": ""})
    with pytest.raises(MissingFileError) as caught:
        fetch_half(tmp_path)
    assert 'in step_50, step_100, step_1000: pass one as subfolder="step_1000"' in str(caught.value)
    with pytest.raises(MissingFileError, match="has no subfolder 'step_51'.*step_50, step_100"):
        fetch_half(tmp_path, subfolder="step_51")


def test_the_bundled_pair_needs_a_role():
    with pytest.raises(WrongRoleError, match=r'role="av" or role="ar" \(got None\)'):
        fetch_half("demo")


def test_a_bundled_half_that_is_not_there_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(references.resources, "files", lambda package: tmp_path)
    with pytest.raises(MissingFileError, match="bundled pair's av is not in this installation.*Reinstall"):
        fetch_half("demo", role="av")
    write(tmp_path / "demo" / "av", HALF)
    assert fetch_half("demo", role="av").path == tmp_path / "demo" / "av"
    assert fetch_file("demo", "nla_meta.yaml", role="av") == tmp_path / "demo" / "av" / "nla_meta.yaml"


# --- what may have been meant -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("word", ["demmo", "dmeo", "Demo", "DEMO", "demo1", "deemo/"])
@pytest.mark.parametrize("ask", [fetch_half, describe])
def test_a_word_near_demo_is_no_question_for_the_hub(hub: Hub, ask, word):
    with pytest.raises(MissingRepositoryError, match=r'is neither a folder .* Did you mean "demo"\?$') as caught:
        ask(word)
    assert not hub.requests and "cache" not in str(caught.value)


def test_a_word_near_a_folder_is_told_its_name(tmp_path, monkeypatch, hub: Hub):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my-pair" / "step_500", HALF)
    for ref in ("my-piar", "./my-piar", str(tmp_path / "my-piar")):
        with pytest.raises(MissingRepositoryError, match=r'Did you mean "\S*my-pair"\?$'):
            fetch_half(ref)
    assert not hub.requests
    with pytest.raises(MissingRepositoryError, match=r'Did you mean "my-pair/step_500"\?$'):
        fetch_half("my-pair/step_600")


def test_a_word_that_is_near_nothing_is_told_what_is_expected(hub: Hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingRepositoryError, match=r'Expected "owner/name", "owner/name/subfolder" or "demo"\.$'):
        fetch_half("xyzzy")
    assert not hub.requests


def test_a_base_may_be_one_word_as_old_repositories_are(hub: Hub):
    hub.add("gpt2", {"config.json": "{}", "model.safetensors": b"w"})
    with pytest.raises(MissingRepositoryError, match="The repository gpt2 does not exist"):
        fetch_base("gpt2")  # the loopback Hub knows only owner/name: it was asked, which is the point
    assert hub.requests
