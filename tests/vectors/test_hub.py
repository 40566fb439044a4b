"""Places in Hub repositories: what a reference names, and what is read when nobody can be asked."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from nla_sdk.errors import (
    AccessTokenError,
    GatedRepositoryError,
    InputError,
    MissingFileError,
    MissingRepositoryError,
    OfflineError,
)
from nla_sdk.vectors import load
from nla_sdk.vectors.faults import UnstatedVectorError, VectorFileError
from nla_sdk.vectors.hub import hub_place
from nla_sdk.vectors.loading import look
from tests.hub.server import Hub
from tests.vectors.kept import FILES, cases, expected, off

pytest_plugins = ["tests.hub.fixtures"]
TOKEN = "hf_" + "t" * 34


def content(tool: str) -> dict[str, bytes]:
    """All files of a tool, as a repository holds them."""
    top = FILES / tool
    return {path.relative_to(top).as_posix(): path.read_bytes() for path in top.rglob("*") if path.is_file()}


@pytest.mark.parametrize("tool", ["sae_lens_6", "sparsify_1", "dictionary_learning_0"])
def test_every_dictionary_is_read_from_the_hub_as_from_a_folder(hub: Hub, tool):
    hub.add("ada/dictionaries", content(tool))
    options = {"site": "residual", "layer": 5} if tool.startswith("dictionary") else {}
    for case in cases(tool)[:6]:
        here, there = load(FILES / tool / case, **options), load(f"ada/dictionaries/{case}#3", **options)
        np.testing.assert_array_equal(there.vectors[0].numpy(), here.vectors[3].numpy())
        assert (there.layer, there.model, there.assumed) == (here.layer, here.model, here.assumed)


def test_whitened_rows_are_taken_back_from_the_hub_too(hub: Hub):
    hub.add("ada/dictionaries", content("sae_lens_6"))
    assert off(load("ada/dictionaries/whitened").vectors, expected("sae_lens_6")["whitened"]["directions"]) < 1e-6


def test_gemma_scopes_repository_tells_its_site(hub: Hub):
    held = content("gemma_scope")
    for name in ("gemma-scope-2b-pt-res", "gemma-scope-2-1b-it"):
        hub.add(
            f"google/{name}",
            {path.removeprefix(f"{name}/"): data for path, data in held.items() if path.startswith(f"{name}/")},
        )
    assert load("google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82#1").layer == 12
    assert load("google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82/params.npz#1").layer == 12
    assert load("google/gemma-scope-2-1b-it/resid_post/layer_13_width_16k_l0_small#1").layer == 13
    assert load("google/gemma-scope-2-1b-it/resid_post/layer_13_width_16k_l0_small/params.safetensors#1").layer == 13


def test_a_file_a_folder_and_a_repository_are_told_apart(hub: Hub):
    commit = hub.add("ada/sae", {"a/cfg.json": "{}", "a/sae.safetensors": b"x", "b.npy": b"y", "a/c/d.npy": b"z"})
    whole, folder, file = hub_place("ada/sae"), hub_place("ada/sae/a/"), hub_place("ada/sae/a/c/d.npy")
    assert whole.names == ("a/c/d.npy", "a/cfg.json", "a/sae.safetensors", "b.npy") and whole.file is None
    assert folder.names == ("c/d.npy", "cfg.json", "sae.safetensors") and folder.has("cfg.json")
    assert (file.names, file.file, str(file.path)) == (("d.npy",), "d.npy", "ada/sae/a/c")
    assert file.name == f"ada/sae/a/c/d.npy (commit {commit[:12]})"
    assert file.open("d.npy").read_bytes() == b"z" and folder.json("cfg.json") == {}
    named = hub_place("ada/sae/a/sae.safetensors")
    assert named.file is None and named.has("cfg.json"), "its settings lie beside it"


def test_a_dataset_repository_is_named_as_its_page_is(hub: Hub):
    hub.add("ada/captures", {"x/acts.npy": b"1"}, kind="dataset")
    place = hub_place("datasets/ada/captures/x")
    assert place.names == ("acts.npy",) and place.open("acts.npy").read_bytes() == b"1"
    assert place.name.startswith("datasets/ada/captures/x (commit")


def test_settings_are_looked_for_in_the_two_folders_above(hub: Hub):
    hub.add("ada/sae", {"config.json": '{"a": 1}', "x/h.3/seed0/cfg.json": "{}", "x/h.3/config.json": '{"b": 1}'})
    assert hub_place("ada/sae/x/h.3/seed0").outer("config.json").read_text() == '{"b": 1}'
    assert hub_place("ada/sae/x/h.3").outer("config.json").read_text() == '{"a": 1}'
    assert hub_place("ada/sae").outer("config.json") is None


def test_all_is_of_one_commit_although_the_branch_moves(hub: Hub):
    hub.add("ada/sae", {"cfg.json": '{"a": 1}'})
    place = hub_place("ada/sae")
    hub.add("ada/sae", {"cfg.json": '{"a": 2}'})
    assert place.json("cfg.json") == {"a": 1} and hub_place("ada/sae").json("cfg.json") == {"a": 2}


def test_a_revision_is_read(hub: Hub):
    old = hub.add("ada/sae", {"cfg.json": '{"a": 1}'})
    hub.add("ada/sae", {"cfg.json": '{"a": 2}'})
    assert hub_place("ada/sae", revision=old).json("cfg.json") == {"a": 1}
    with pytest.raises(MissingFileError, match="no revision 'v9'"):
        hub_place("ada/sae", revision="v9")
    with pytest.raises(InputError, match="no name that git takes"):
        hub_place("ada/sae", revision="a b")


def test_a_large_file_that_is_read_whole_is_said(hub: Hub, capsys):
    hub.add("ada/sae", {"params.npz": b"x" * 3_000_000, "small.npy": b"x"})
    place = hub_place("ada/sae")
    place.open("small.npy")
    assert not capsys.readouterr().err
    place.open("params.npz")
    assert "downloading ada/sae/params.npz whole (3 MB)" in capsys.readouterr().err
    place.open("params.npz")
    assert not capsys.readouterr().err, "it is in the cache now"


# --- refusals ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ref", ["word", "acts.npy", "datasets/word"])
def test_a_word_is_no_repository(hub: Hub, ref):
    with pytest.raises(MissingRepositoryError, match="neither a file or folder here nor a repository"):
        hub_place(ref)
    assert not hub.requests


def test_a_missing_repository_and_a_missing_folder_are_named(hub: Hub):
    hub.add("ada/sae", {"layers.3/cfg.json": "{}", "README.md": "hi"})
    with pytest.raises(MissingRepositoryError, match="ada/none does not exist"):
        hub_place("ada/none/x")
    with pytest.raises(MissingFileError, match=r"ada/sae holds no layers.4; it holds layers.3, README.md"):
        hub_place("ada/sae/layers.4")
    with pytest.raises(InputError, match="leads out"):
        hub_place("ada/sae/../../x")


def test_private_and_gated_repositories_ask_for_a_token(hub: Hub):
    hub.add("ada/private", {"cfg.json": "{}"}, private=True)
    hub.add("ada/gated", {"cfg.json": "{}"}, gated=True)
    hub.tokens[TOKEN] = set()
    with pytest.raises(MissingRepositoryError):
        hub_place("ada/private")
    assert hub_place("ada/private", token=TOKEN).names == ("cfg.json",)
    with pytest.raises(GatedRepositoryError, match="Accept its terms"):
        hub_place("ada/gated", token=TOKEN).open("cfg.json")
    with pytest.raises(GatedRepositoryError):
        hub_place("ada/gated", token=TOKEN).matrix("cfg.json", "W_dec")
    with pytest.raises(AccessTokenError):
        hub_place("ada/private", token="hf_unknown" + "x" * 30)


def test_a_repository_of_several_dictionaries_shows_what_may_be_named(hub: Hub):
    hub.add("ada/sae", content("sparsify_1"))
    with pytest.raises(VectorFileError, match=r"in folders; name one of them: embed_tokens, h.3/seed0, h.3/seed1, lay"):
        look("ada/sae")
    with pytest.raises(VectorFileError, match=r"name one of them: seed0, seed1\."):
        look(FILES / "sparsify_1" / "h.3")
    hub.add("ada/words", {"README.md": "hi", "words.txt": "hi"})
    with pytest.raises(VectorFileError, match=r"of no kind that is read here \(it holds README.md, words.txt\)"):
        look("ada/words")


def test_what_is_not_said_is_asked_with_the_repositorys_name(hub: Hub):
    hub.add("ada/mine", {path.removeprefix("layers.5/"): data for path, data in content("sparsify_1").items()})
    with pytest.raises(UnstatedVectorError, match=r"ada/mine \(commit [0-9a-f]{12}\) does not say: site"):
        load("ada/mine")


# --- without the network ----------------------------------------------------------------------------------------------
def test_what_is_in_the_cache_is_read_when_nobody_may_be_asked(hub: Hub, monkeypatch):
    from huggingface_hub import constants, snapshot_download

    hub.add("ada/sae", content("sparsify_1"))
    snapshot_download("ada/sae")
    hub.stop()
    wanted = expected("sparsify_1")["h.3/seed0"]
    found = load("ada/sae/h.3/seed0", local_files_only=True)
    assert off(found.vectors, wanted["directions"]) < 1e-6 and found.model == wanted["model"]
    named = load("ada/sae/h.3/seed0/sae.safetensors#1", local_files_only=True)
    assert named.layer == 3 and len(named) == 1
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load("ada/sae/layers.5").layer == 5


def test_what_is_in_the_cache_is_read_when_the_hub_cannot_be_reached(hub: Hub):
    hub.add("ada/sae", content("dictionary_learning_0"))
    options = {"site": "residual", "layer": 5}
    first = load("ada/sae/standard", **options)
    hub.stop()
    np.testing.assert_array_equal(load("ada/sae/standard", **options).vectors, first.vectors)
    with pytest.raises(OfflineError, match="cannot be reached"):
        load("ada/sae/jumprelu", **options)


def test_rows_that_were_read_by_range_are_not_in_the_cache(hub: Hub):
    hub.add("ada/sae", content("sae_lens_6"))
    load("ada/sae/topk#1")
    with pytest.raises(OfflineError, match=r"Of ada/sae/topk the cache holds cfg.json and no vectors"):
        load("ada/sae/topk#1", local_files_only=True)


def test_nothing_in_the_cache_is_said(hub: Hub):
    hub.add("ada/sae", {"a/cfg.json": "{}", "b/cfg.json": "{}"})
    with pytest.raises(OfflineError, match="not in the cache"):
        hub_place("ada/sae", local_files_only=True)
    hub_place("ada/sae/a").open("cfg.json")
    with pytest.raises(OfflineError, match="Of ada/sae/b the cache holds nothing"):
        hub_place("ada/sae/b", local_files_only=True)


def test_a_folder_here_goes_before_a_repository_of_its_name(hub: Hub, tmp_path, monkeypatch):
    shutil.copytree(FILES / "sparsify_1" / "layers.5", tmp_path / "ada" / "layers.5")
    monkeypatch.chdir(tmp_path)
    assert load("ada/layers.5").layer == 5 and not hub.requests
