"""A renamed repository: found under its old name, said once, called by its present one."""

from __future__ import annotations

import warnings
from pathlib import Path

import huggingface_hub
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk import NLAPair
from nla_sdk.errors import MismatchedHalvesError, NLAWarning, UnmatchedPairWarning
from nla_sdk.halves.fetch import fetch_base, fetch_file, fetch_half
from nla_sdk.halves.half import Half, check_halves
from nla_sdk.halves.hub.naming import ask_present_name, same_repository
from nla_sdk.halves.hub.renames import moved_to, named_now, present_name
from nla_sdk.halves.inspection import describe
from tests import tiny
from tests.halves.samples import HALF
from tests.hub.server import Hub

pytest_plugins = ["tests.hub.fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::nla_sdk.errors.RenamedRepositoryWarning")

BASE = {"config.json": "{}", "tokenizer.json": "{}", "model.safetensors": b"weights"}


def said(work, *arguments, **options):
    """What a call returns, and the warnings of this package that it gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = work(*arguments, **options)
    return found, [str(one.message) for one in caught if issubclass(one.category, NLAWarning)]


# --- found, said and cached -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_an_old_name_leads_to_the_present_one_which_is_said_once(hub: Hub, status):
    commit = hub.add("ada/old", HALF)
    hub.rename("ada/old", "lab/new", status=status)
    found, words = said(fetch_half, "ada/old")
    assert words == ["ada/old is now lab/new"]
    assert (found.ref, found.commit) == ("lab/new", commit)
    assert {file.name for file in found.path.iterdir()} == set(HALF)
    assert said(fetch_half, "ada/old") == (found, [])
    assert present_name("ada/old") == "lab/new"


def test_what_was_cached_before_the_repository_was_renamed_is_not_fetched_again(hub: Hub):
    hub.add("ada/old", HALF)
    before = fetch_half("ada/old")
    hub.rename("ada/old", "ada/new")
    hub.requests.clear()
    after = fetch_half("ada/old")
    assert after.path == before.path and not hub.downloads("ada/new") and not hub.downloads("ada/old")


@pytest.mark.parametrize("how", ["stopped", "local_files_only"])
def test_what_was_had_under_an_old_name_is_there_without_the_hub(hub: Hub, how):
    hub.add("ada/old", HALF)
    hub.rename("ada/old", "ada/new")
    first = fetch_half("ada/old")
    if how == "stopped":
        hub.stop()
    assert fetch_half("ada/old", local_files_only=how == "local_files_only").path == first.path


def test_a_pinned_commit_that_is_cached_is_asked_of_nobody(hub: Hub):
    commit = hub.add("ada/old", HALF)
    hub.rename("ada/old", "ada/new")
    found, words = said(fetch_half, "ada/old", revision=commit)
    assert found.ref == "ada/new" and words == ["ada/old is now ada/new"]
    hub.requests.clear()
    assert fetch_half("ada/old", revision=commit).path == found.path and not hub.requests


def test_a_repository_renamed_twice_is_called_by_its_last_name(hub: Hub):
    hub.add("ada/one", HALF)
    hub.rename("ada/one", "ada/two")
    hub.rename("ada/two", "ada/three")
    found, words = said(fetch_half, "ada/one")
    assert found.ref == "ada/three" and words == ["ada/one is now ada/three"]


def test_a_name_that_was_taken_back_is_the_present_one_again(hub: Hub):
    hub.add("ada/one", HALF)
    hub.rename("ada/one", "ada/two")
    fetch_half("ada/one")
    hub.store.renamed.clear()
    hub.rename("ada/two", "ada/one")
    assert fetch_half("ada/two").ref == "ada/one" == fetch_half("ada/one").ref
    assert present_name("ada/one") == present_name("ada/two") == "ada/one"


def test_a_folder_inside_and_a_single_file_are_found_too(hub: Hub):
    hub.add("ada/old", {f"step_5/{name}": data for name, data in HALF.items()})
    hub.rename("ada/old", "ada/new")
    assert fetch_half("ada/old/step_5").ref == "ada/new/step_5"
    assert fetch_file("ada/old/step_5", "nla_meta.yaml").read_text() == HALF["nla_meta.yaml"]


def test_a_base_is_called_by_its_present_name(hub: Hub):
    hub.add("lab/old-base", BASE)
    hub.rename("lab/old-base", "lab/base")
    found, words = said(fetch_base, "lab/old-base")
    assert found.ref == "lab/base" and words == ["lab/old-base is now lab/base"]


def test_the_storage_of_large_files_is_no_new_name(hub: Hub):
    hub.add("ada/av", HALF)
    assert said(fetch_half, "ada/av")[1] == []
    assert any(request.path.startswith("/storage/") for request in hub.requests)


def test_another_kind_of_repository_of_the_same_name_is_another_one(hub: Hub):
    hub.add("ada/x", HALF)
    hub.add("ada/x", {"a.md": "a"}, kind="dataset")
    hub.rename("ada/x", "ada/y", kind="dataset")
    assert ask_present_name("ada/x", "dataset") == "ada/y"
    assert ask_present_name("ada/x") == "ada/x" == fetch_half("ada/x").ref


# --- where names are compared -----------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def halves(tmp_path_factory) -> Path:
    """A tiny base, and a pair on it whose contracts name Hub repositories."""
    root = tmp_path_factory.mktemp("renamed")
    base = tiny.save_model(root / "base", tiny.llama_config(), tiny.tokenizer(), seed=1)
    tiny.lora_pair(root, base, tiny.plain_model(base), layer=2, blocks=3)
    tiny.write_sidecar(root / "av", "provenance", base_model="lab/tiny", pair="ada/cat-ar")
    tiny.write_sidecar(root / "ar", "provenance", base_model="lab/tiny", pair="ada/cat-av")
    return root


@pytest.fixture
def published(hub: Hub, halves) -> Hub:
    for name, folder in (("lab/tiny", "base"), ("ada/cat-av", "av"), ("ada/cat-ar", "ar")):
        hub.add(name, {file.name: file.read_bytes() for file in (halves / folder).iterdir()})
    return hub


def test_a_pair_whose_halves_name_each_other_by_old_names_is_a_pair(published: Hub):
    for role in ("av", "ar"):
        published.rename(f"ada/cat-{role}", f"ada/dog-{role}")
    published.rename("lab/tiny", "lab/small")
    pair, words = said(NLAPair.from_pretrained, "ada/dog-av", "ada/dog-ar", device="cpu", dtype="float32")
    assert pair.matched
    assert (pair.av.ref, pair.ar.ref, pair.base.ref) == ("ada/dog-av", "ada/dog-ar", "lab/small")
    assert "ada/cat-ar is now ada/dog-ar" in words and "lab/tiny is now lab/small" in words
    assert len(set(words)) == len(words)


def test_the_other_half_is_found_under_the_old_name_that_a_contract_holds(published: Hub):
    published.rename("ada/cat-ar", "ada/dog-ar")
    pair, words = said(NLAPair.from_pretrained, "ada/cat-av", device="cpu", dtype="float32")
    assert pair.ar.ref == "ada/dog-ar" and pair.matched and words == ["ada/cat-ar is now ada/dog-ar"]


def test_halves_that_name_others_are_no_pair_for_being_asked_about(published: Hub, halves):
    files = {file.name: file.read_bytes() for file in (halves / "ar").iterdir()}
    files["nla_meta.yaml"] = files["nla_meta.yaml"].replace(b"cat-av", b"eve-av")
    published.add("ada/eve-ar", files)
    with pytest.warns(UnmatchedPairWarning):
        pair = NLAPair.from_pretrained("ada/cat-av", "ada/eve-ar", device="cpu", dtype="float32")
    assert not pair.matched


def test_an_old_and_the_present_name_of_a_base_are_one_base_and_two_others_are_two(published: Hub):
    published.rename("lab/tiny", "lab/small")
    published.add("lab/large", BASE)
    av, ar = (Half.find(f"ada/cat-{role}", role) for role in ("av", "ar"))

    def with_base(name: str) -> Half:
        return Half(ar.ref, ar.folder, ar.contract.replace(base_model=name), True, None, ar.commit)

    check_halves(av, with_base("lab/small"))
    with pytest.raises(MismatchedHalvesError, match="base_model lab/tiny, the AR ada/cat-ar has lab/large"):
        check_halves(av, with_base("lab/large"))


def test_names_that_differ_are_two_where_nobody_can_be_asked(hub: Hub, monkeypatch):
    hub.add("ada/old", HALF)
    hub.rename("ada/old", "ada/new")
    assert not same_repository("ada/old", "ada/new", local_files_only=True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert not same_repository("ada/old", "ada/new")
    assert not same_repository("./ada/old", "ada/new") and not same_repository("gpt2", None)
    assert same_repository("Ada/Old", "ada/old") and same_repository(None, None)
    assert not hub.requests
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert same_repository("ada/old", "ada/new") and not same_repository("ada/old", "ada/other")


def test_info_shows_the_present_name(published: Hub):
    published.rename("ada/cat-av", "ada/dog-av")
    [inspection], words = said(describe, "ada/cat-av")
    assert inspection.half.ref == "ada/dog-av" and words[0] == "ada/cat-av is now ada/dog-av"


# --- the rule itself --------------------------------------------------------------------------------------------------
PART = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
NAME = st.builds("{}/{}".format, PART, PART)
BEFORE = st.sampled_from(["", "/api/models", "/api/datasets", "/datasets", "/mirror/api/models"])
AFTER = st.sampled_from(["", "/revision/main", "/resolve/refs%2Fpr%2F1/a b.txt", "/tree/abc", "/info/lfs/objects"])


@given(NAME, NAME, BEFORE, AFTER, st.sampled_from(["", "https://hub.example"]))
def test_a_redirect_tells_the_new_name_wherever_it_stands(old, new, before, after, host):
    found = moved_to(old, f"https://hub.example{before}/{old}{after}?x=1", f"{host}{before}/{new}{after}?x=1")
    assert found == (new if new != old else None)


@given(NAME, NAME, AFTER)
def test_a_redirect_to_another_host_or_another_path_tells_no_name(old, new, after):
    asked = f"https://hub.example/api/models/{old}{after}"
    assert moved_to(old, asked, f"https://storage.example/api/models/{new}{after}") is None
    assert moved_to(old, asked, f"/login/{new}{after}/next") is None
    assert moved_to(f"{old}x", asked, f"/api/models/{new}{after}") is None


@given(st.recursive(st.none() | st.integers() | NAME, lambda inner: st.lists(inner) | st.dictionaries(PART, inner)))
def test_names_are_replaced_whole_and_nothing_else_is(value):
    assert named_now(value, {}) == value
    assert named_now({"a": [value, "no/old", "no/old/step_5", "no/older", "x no/old"]}, {"no/old": "is/new"}) == {
        "a": [value, "is/new", "is/new/step_5", "no/older", "x no/old"]
    }
