"""References → files, against a Hub over real HTTP; every failure with its exception and its message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

from nla_sdk.errors import (
    AccessTokenError,
    GatedRepositoryError,
    MissingFileError,
    MissingRepositoryError,
    NLAError,
    OfflineError,
)
from nla_sdk.halves import fetch as nla_hub
from nla_sdk.halves.demo_base import DEMO_BASE_ID
from nla_sdk.halves.fetch import fetch_base, fetch_file, fetch_half
from tests.halves.samples import ADAPTER, HALF, write
from tests.hub.server import Hub

pytest_plugins = ["tests.hub.fixtures"]

TOKEN = "hf_" + "Correct7Horse" * 2
WRONG_TOKEN = "hf_" + "Wrong7Battery" * 2
BASE = {"config.json": '{"a": 1}', "tokenizer.json": '{"b": 1}', "model.safetensors": b"weights"}  # no two are equal


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- downloads --------------------------------------------------------------------------------------------------
def test_a_repository_is_downloaded_at_its_commit(hub: Hub):
    commit = hub.add("ada/av", HALF)
    found = fetch_half("ada/av")
    assert found.commit == commit
    assert files_in(found.path) == set(HALF)
    assert (found.path / "adapter_model.safetensors").read_bytes() == b"adapter"


def test_only_what_a_half_can_hold_is_downloaded(hub: Hub):
    names = ("tokenizer.json", "chat_template.jinja", "activation_mean.safetensors", "config.json", "claims.json")
    more = {name: f"content of {name}" for name in names}
    unwanted = {
        "modeling.py": "boom",
        "pytorch_model.bin": b"boom",
        "optimizer.pt": b"boom",
        "training_args.bin": b"boom",
        "README.md": "",
        "runs/events.out": "",
        "step_50/adapter_model.safetensors": b"",
        "step_50/adapter_config.json": "{}",
    }
    hub.add("ada/av", {**HALF, **more, **unwanted})
    assert files_in(fetch_half("ada/av").path) == {*HALF, *more}
    assert hub.downloads("ada/av") == {*HALF, *more}


@pytest.mark.parametrize(
    "arguments", [("ada/traj/step_50", None), ("ada/traj", "step_50"), ("ada/traj/", "./step_50/")]
)
def test_a_subfolder_is_downloaded_alone(hub: Hub, arguments):
    hub.add("ada/traj", {f"{folder}/{name}": data for folder in ("step_5", "step_50") for name, data in HALF.items()})
    ref, subfolder = arguments
    found = fetch_half(ref, subfolder=subfolder)
    assert found.subfolder == "step_50"
    assert files_in(found.path) == set(HALF)
    assert hub.downloads("ada/traj") == {f"step_50/{name}" for name in HALF}


def test_a_subfolder_whose_name_looks_like_a_pattern_is_taken_literally(hub: Hub):
    hub.add("ada/traj", {f"{folder}/{name}": data for folder in ("run[1]", "run1") for name, data in HALF.items()})
    assert files_in(fetch_half("ada/traj/run[1]").path) == set(HALF)
    assert hub.downloads("ada/traj") == {f"run[1]/{name}" for name in HALF}


def test_a_nested_reference_and_a_subfolder_add_up(hub: Hub):
    hub.add("ada/traj", {f"grpo/step_50/{name}": data for name, data in HALF.items()})
    assert fetch_half("ada/traj/grpo", subfolder="step_50").subfolder == "grpo/step_50"


def test_a_revision_can_be_a_branch_a_tag_or_a_commit(hub: Hub):
    first = hub.add("ada/av", {**HALF, "nla_meta.yaml": "version: 1"}, ref="refs/pr/1")
    hub.add("ada/av", {**HALF, "nla_meta.yaml": "version: 2"})
    for revision in ("refs/pr/1", first):
        found = fetch_half("ada/av", revision=revision)
        assert found.commit == first
        assert (found.path / "nla_meta.yaml").read_text() == "version: 1"
    assert (fetch_half("ada/av").path / "nla_meta.yaml").read_text() == "version: 2"


def test_a_base_is_config_tokenizer_and_safetensors(hub: Hub):
    unwanted = {
        "pytorch_model.bin": b"",
        "m.gguf": b"",
        "original/consolidated.00.pth": b"",
        "consolidated.safetensors": b"",
    }
    hub.add("ada/base", {**BASE, **unwanted, "modeling.py": "boom"})
    found = fetch_base("ada/base")
    assert files_in(found.path) == set(BASE)
    assert hub.downloads("ada/base") == set(BASE)


def test_a_base_can_be_a_folder(tmp_path):
    assert fetch_base(write(tmp_path, BASE)).path == tmp_path


def test_a_base_without_safetensors_is_refused(hub: Hub, tmp_path):
    files = {"config.json": "{}", "pytorch_model.bin": b""}
    hub.add("ada/base", files)
    for ref in ("ada/base", write(tmp_path, files)):
        with pytest.raises(MissingFileError, match=r"pickled or GGUF.*Found: config.json, pytorch_model.bin\."):
            fetch_base(ref)


@pytest.mark.parametrize("ref", ["demo", DEMO_BASE_ID])
def test_the_demo_base_is_made_not_downloaded(ref, hub: Hub, monkeypatch, tmp_path):
    monkeypatch.setattr(nla_hub, "demo_base", lambda *, progress: tmp_path)
    assert fetch_base(ref).path == tmp_path
    assert not hub.requests


def test_one_file_comes_without_the_rest(hub: Hub, tmp_path):
    hub.add("ada/av", {**HALF, "step_50/nla_meta.yaml": "step: 50"})
    assert fetch_file("ada/av", "nla_meta.yaml").read_text() == "kind: nla_model"
    assert fetch_file("ada/av/step_50", "nla_meta.yaml").read_text() == "step: 50"
    assert hub.downloads("ada/av") == {"nla_meta.yaml", "step_50/nla_meta.yaml"}
    assert fetch_file(write(tmp_path, HALF), "nla_meta.yaml") == tmp_path / "nla_meta.yaml"


def test_one_file_that_is_missing_is_named(hub: Hub, tmp_path):
    hub.add("ada/av", ADAPTER)
    with pytest.raises(
        MissingFileError, match=r"ada/av \(commit \w{12}\) holds no nla_meta.yaml. Found: adapter_config"
    ):
        fetch_file("ada/av", "nla_meta.yaml")
    with pytest.raises(MissingFileError, match=r"holds no nla_meta.yaml. Found: adapter_config.json, adapter_model"):
        fetch_file(write(tmp_path, ADAPTER), "nla_meta.yaml")


# --- the cache --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["stopped", "outage", "local_files_only", "HF_HUB_OFFLINE"])
def test_what_was_downloaded_once_is_there_without_the_hub(hub: Hub, monkeypatch, how):
    hub.add("ada/av", HALF)
    hub.add("ada/base", BASE)
    first = [fetch_half("ada/av"), fetch_base("ada/base"), fetch_file("ada/av", "nla_meta.yaml")]
    seen = len(hub.requests)
    if how == "stopped":
        hub.stop()
    elif how == "outage":
        hub.outage = 503
    elif how == "HF_HUB_OFFLINE":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    flags = {"local_files_only": how == "local_files_only"}
    again = [
        fetch_half("ada/av", **flags),
        fetch_base("ada/base", **flags),
        fetch_file("ada/av", "nla_meta.yaml", **flags),
    ]
    assert again == first
    if how != "outage":
        assert len(hub.requests) == seen


def test_cached_files_are_not_downloaded_again_and_nothing_is_printed(hub: Hub, capfd):
    hub.add("ada/av", HALF)
    fetch_half("ada/av")
    hub.requests.clear()
    capfd.readouterr()  # a first download that takes longer than a second shows a bar
    fetch_half("ada/av")
    assert hub.downloads("ada/av") == set()
    assert capfd.readouterr() == ("", "")


def test_a_cache_folder_of_ones_own_is_used(hub: Hub, tmp_path):
    hub.add("ada/av", HALF)
    assert fetch_half("ada/av", cache_dir=tmp_path).path.is_relative_to(tmp_path)


@pytest.mark.parametrize("how", ["stopped", "outage", "local_files_only", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("fetch", ["half", "base", "file"])
def test_what_is_not_cached_cannot_be_had_without_the_hub(hub: Hub, monkeypatch, how, fetch):
    hub.add("ada/av", HALF)
    message = "the network may not be used.*Run this once with the network on"
    if how == "stopped":
        hub.stop()
        message = f"{hub.endpoint} cannot be reached .*Check the connection"
    elif how == "outage":
        hub.outage = 503
        message = f"{hub.endpoint} answered with HTTP status 503. Try again later"
    elif how == "HF_HUB_OFFLINE":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    flags = {"local_files_only": how == "local_files_only"}
    with pytest.raises(OfflineError, match=message):
        if fetch == "half":
            fetch_half("ada/av", **flags)
        elif fetch == "base":
            fetch_base("ada/av", **flags)
        else:
            fetch_file("ada/av", "nla_meta.yaml", **flags)


@pytest.mark.parametrize("how", ["stopped", "local_files_only"])
@pytest.mark.parametrize("cached_by", ["fetch_file", "another program"])
def test_a_cache_with_the_contract_alone_is_not_taken_for_the_repository(hub: Hub, how, cached_by):
    hub.add("ada/av", HALF)
    if cached_by == "fetch_file":
        fetch_file("ada/av", "nla_meta.yaml")
    else:
        huggingface_hub.hf_hub_download("ada/av", "nla_meta.yaml")
    if how == "stopped":
        hub.stop()
    with pytest.raises(
        OfflineError, match="not all of it|cached copy of ada/av is not complete .it holds nla_meta.yaml"
    ):
        fetch_half("ada/av", local_files_only=how == "local_files_only")


# --- what can go wrong ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize("fetch", [fetch_half, fetch_base, lambda ref, **kw: fetch_file(ref, "nla_meta.yaml", **kw)])
def test_a_repository_that_does_not_exist(hub: Hub, fetch, token):
    hub.tokens[TOKEN] = set()
    with pytest.raises(MissingRepositoryError) as caught:
        fetch("ada/nowhere", token=token)
    assert f"The repository ada/nowhere does not exist on {hub.endpoint}, or it is private" in str(caught.value)
    assert "pass token=… or run `hf auth login`" in str(caught.value)
    assert "no folder ada/nowhere here" in str(caught.value)


@pytest.mark.parametrize("ref", ["ada/a v", "http:", "ada--av", "name\0null", "a" * 300])
def test_what_is_neither_folder_nor_repository_id(hub: Hub, ref):
    with pytest.raises(MissingRepositoryError, match="neither a folder here nor a valid repository id"):
        fetch_half(ref)
    assert not hub.requests


def test_a_private_repository_needs_a_token(hub: Hub):
    hub.add("ada/secret", HALF, private=True)
    hub.tokens[TOKEN] = set()
    with pytest.raises(MissingRepositoryError, match="or it is private: then pass token="):
        fetch_half("ada/secret")
    assert files_in(fetch_half("ada/secret", token=TOKEN).path) == set(HALF)


def test_the_token_of_the_machine_is_used_unless_told_not_to(hub: Hub, monkeypatch):
    hub.add("ada/secret", HALF, private=True)
    hub.tokens[TOKEN] = set()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(MissingRepositoryError):
        fetch_half("ada/secret", token=False)
    assert fetch_half("ada/secret").commit


def test_a_token_is_not_sent_to_other_hosts_and_line_breaks_are_cut(hub: Hub):
    hub.add("ada/secret", HALF, private=True)
    hub.tokens[TOKEN] = set()
    assert fetch_half("ada/secret", token=f"{TOKEN}\n").commit
    asked = [request for request in hub.requests if "/ada/secret" in request.path]
    assert {request.token for request in asked if request.path.startswith("/storage/")} == {None}
    assert [request for request in asked if not request.path.startswith("/storage/") and request.token != TOKEN] == []


@pytest.mark.parametrize("repo", ["ada/public", "ada/secret"])
def test_a_token_the_hub_does_not_know(hub: Hub, repo):
    hub.add(repo, HALF, private=repo == "ada/secret")
    with pytest.raises(AccessTokenError, match=f"refused the access token when asked for {repo} .401.*token=False"):
        fetch_half(repo, token=WRONG_TOKEN)


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize("fetch", [fetch_half, lambda ref, **kw: fetch_file(ref, "nla_meta.yaml", **kw)])
def test_a_gated_repository_says_where_to_accept_its_terms(hub: Hub, fetch, token):
    hub.add("ada/gated", HALF, gated=True)
    hub.tokens[TOKEN] = set()
    with pytest.raises(GatedRepositoryError) as caught:
        fetch("ada/gated", token=token)
    assert f"ada/gated is gated. Accept its terms at {hub.endpoint}/ada/gated" in str(caught.value)
    assert "hf auth login" in str(caught.value)


def test_a_gated_repository_opens_once_its_terms_are_accepted(hub: Hub):
    hub.add("ada/gated", HALF, gated=True)
    hub.tokens[TOKEN] = {"ada/gated"}
    assert files_in(fetch_half("ada/gated", token=TOKEN).path) == set(HALF)


def test_a_token_without_the_permission(hub: Hub):
    hub.outage = 403
    with pytest.raises(AccessTokenError, match=r"token may not read ada/av \(403\)"):
        fetch_half("ada/av")


def test_a_revision_that_does_not_exist(hub: Hub):
    hub.add("ada/av", HALF)
    with pytest.raises(MissingFileError, match=f"ada/av has no revision 'v9'.*{hub.endpoint}/ada/av/tree/main"):
        fetch_half("ada/av", revision="v9")
    with pytest.raises(MissingFileError, match="ada/av has no revision 'v9'"):
        fetch_file("ada/av", "nla_meta.yaml", revision="v9")


def test_a_repository_without_a_checkpoint_lists_what_it_holds(hub: Hub, caplog):
    commit = hub.add("ada/data", {"README.md": "", "train.parquet": b"", "nla_meta.yaml": "kind: nla_dataset"})
    with pytest.raises(MissingFileError) as caught:
        fetch_half("ada/data")
    assert str(caught.value).startswith(f"ada/data (commit {commit[:12]}) holds no checkpoint: neither an adapter")
    assert "Found: README.md, nla_meta.yaml, train.parquet." in str(caught.value)
    assert "subfolder" not in str(caught.value)


@pytest.mark.parametrize("subfolder", [None, "step_51"])
def test_a_trajectory_repository_names_its_checkpoints_and_downloads_none(hub: Hub, caplog, subfolder):
    files = {f"step_{step}/{name}": data for step in (1000, 50, 100) for name, data in HALF.items()}
    hub.add("ada/traj", {"README.md": "", **files})
    with pytest.raises(MissingFileError) as caught:
        fetch_half("ada/traj", subfolder=subfolder)
    assert 'There are checkpoints in step_50, step_100, step_1000: pass one as subfolder="step_1000"' in str(
        caught.value
    )
    assert f"Found: {'nothing.' if subfolder else 'README.md, step_100/'}" in str(caught.value)
    assert hub.downloads("ada/traj") == set()
    assert not caplog.records


def test_no_message_and_no_traceback_holds_the_token(hub: Hub):
    hub.add("ada/gated", HALF, gated=True)
    hub.add("ada/av", {"README.md": ""})
    hub.tokens[TOKEN] = set()
    cases = [("ada/nowhere", TOKEN), ("ada/gated", TOKEN), ("ada/av", TOKEN), ("ada/av", WRONG_TOKEN), ("a b", TOKEN)]
    cases += [("ada/av", f"{TOKEN}\nX-Other: 1"), ("ada/av", f"{TOKEN}é"), ("ada/av", "  ")]
    for ref, token in cases:
        for online in (True, False):
            with pytest.raises(NLAError) as caught:
                fetch_half(ref, token=token, local_files_only=not online)
            shown = "".join(map(str, (caught.getrepr(style="short", chain=True), caught.value)))
            assert token.strip()[:20] not in shown or not token.strip(), (ref, token)
            assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_token_of_the_machine_with_odd_characters_is_not_quoted(hub: Hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}é")
    with pytest.raises(AccessTokenError, match="holds characters no token has") as caught:
        fetch_half("ada/av")
    assert TOKEN not in str(caught.value)


def test_importing_the_module_imports_none_of_the_heavy_libraries():
    heavy = "{'torch', 'transformers', 'huggingface_hub', 'rich'}"
    code = f"import sys, nla_sdk.halves.fetch; print({heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
