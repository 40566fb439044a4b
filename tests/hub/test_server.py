"""The test Hub answers the official client as the real one does, and fails as it is told to."""

from __future__ import annotations

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, hf_hub_download
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import get_session

from tests.hub.faults import Fault
from tests.hub.fixtures import hub  # noqa: F401
from tests.hub.store import git_oid, sha256

TOKEN = "hf_" + "t" * 34
WEIGHTS = bytes(range(256)) * 40


@pytest.fixture
def api(hub) -> HfApi:  # noqa: F811
    hub.tokens[TOKEN] = set()
    return HfApi(endpoint=hub.endpoint, token=TOKEN)


def added(path: str, data: bytes = b"x") -> CommitOperationAdd:
    return CommitOperationAdd(path, data)


def status(call, *arguments, **options) -> int:
    with pytest.raises(hub_errors.HfHubHTTPError) as caught:
        call(*arguments, **options)
    return caught.value.response.status_code


def test_whoami_tells_role_and_organisations(hub, api):  # noqa: F811
    hub.roles[TOKEN] = "read"
    account = api.whoami()
    assert account["name"] == "ada" and account["auth"]["accessToken"]["role"] == "read"
    assert status(HfApi(endpoint=hub.endpoint, token="hf_unknown" + "x" * 30).whoami) == 401


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_commit_of_small_and_large_files_arrives(hub, api, kind):  # noqa: F811
    api.create_repo("ada/cat", repo_type=kind)
    api.create_repo("ada/cat", repo_type=kind, exist_ok=True)
    assert status(api.create_repo, "ada/cat", repo_type=kind) == 409
    operations = [added("README.md", b"---\nlicense: mit\n---\nhi"), added("sub/w.safetensors", WEIGHTS)]
    made = api.create_commit("ada/cat", operations, commit_message="first", repo_type=kind)
    assert (
        hub.files("ada/cat", kind=kind)["sub/w.safetensors"] == WEIGHTS and hub.head("ada/cat", kind=kind) == made.oid
    )
    tree = {
        one.path: one for one in api.list_repo_tree("ada/cat", recursive=True, repo_type=kind) if hasattr(one, "lfs")
    }
    assert tree["sub/w.safetensors"].lfs.sha256 == sha256(WEIGHTS)
    assert tree["README.md"].blob_id == git_oid(b"---\nlicense: mit\n---\nhi") and tree["README.md"].lfs is None
    paths = [one.path for one in api.get_paths_info("ada/cat", ["README.md"], repo_type=kind)]
    assert paths == ["README.md"]
    assert [one.title for one in api.list_repo_commits("ada/cat", repo_type=kind)] == ["first", "initial commit"]
    assert api.repo_info("ada/cat", repo_type=kind).card_data.license == "mit"
    lfs = [one.path for one in hub.requests if "lfs" in one.path or "upload" in one.path]
    assert any(path.endswith("/batch") for path in lfs) and any(path.endswith("/verify") for path in lfs)
    assert any(path.startswith("/upload/") for path in lfs), "Xet is off: large files go through LFS"
    assert (hub.store.folder / f"{kind}s" / "ada/cat" / "repository.json").is_file()


def test_an_object_that_is_there_is_not_sent_again(hub, api):  # noqa: F811
    api.create_repo("ada/cat")
    api.create_commit("ada/cat", [added("a.safetensors", WEIGHTS)], commit_message="1")
    seen = len(hub.requests)
    api.create_commit("ada/cat", [added("b.safetensors", WEIGHTS)], commit_message="2")
    assert not [one for one in hub.requests[seen:] if one.path.startswith("/upload/")]


def test_files_are_deleted_and_what_is_not_there_cannot_be(hub, api):  # noqa: F811
    api.create_repo("ada/cat")
    api.create_commit("ada/cat", [added("a.md")], commit_message="1")
    api.create_commit("ada/cat", [CommitOperationDelete("a.md")], commit_message="2")
    assert "a.md" not in hub.files("ada/cat")
    assert status(api.create_commit, "ada/cat", [CommitOperationDelete("b.md")], commit_message="3") == 400


def test_a_commit_on_another_parent_conflicts(hub, api):  # noqa: F811
    api.create_repo("ada/cat")
    parent = hub.head("ada/cat")
    api.create_commit("ada/cat", [added("a.md")], commit_message="1", parent_commit=parent)
    assert status(api.create_commit, "ada/cat", [added("b.md")], commit_message="2", parent_commit=parent) == 412


def test_a_card_with_bad_metadata_is_refused(hub, api):  # noqa: F811
    api.create_repo("ada/cat")
    with pytest.raises(ValueError, match="license"):
        api.create_commit("ada/cat", [added("README.md", b"---\nlicense: [1]\n---\n")], commit_message="1")
    ModelCard("---\nlicense: mit\n---\nhi").validate()


def test_who_may_not_write_is_told(hub, api):  # noqa: F811
    api.create_repo("ada/cat")
    hub.roles[TOKEN] = "read"
    assert status(api.create_commit, "ada/cat", [added("a.md")], commit_message="1") == 403
    hub.roles[TOKEN] = "write"
    assert status(api.create_repo, "stranger/cat") == 403
    assert status(HfApi(endpoint=hub.endpoint, token=False).create_repo, "ada/dog") == 401


def test_anybody_may_open_a_pull_request_and_only_members_commit(hub, api):  # noqa: F811
    hub.add("stranger/cat", {"a.md": "x"})
    assert status(api.create_commit, "stranger/cat", [added("b.md")], commit_message="1") == 403
    assert status(api.auth_check, "stranger/cat", write=True) == 403
    files = [added("b.md"), added("w.safetensors", WEIGHTS)]
    made = api.create_commit("stranger/cat", files, commit_message="please", create_pr=True)
    assert made.pr_url.endswith("/discussions/1") and "b.md" not in hub.files("stranger/cat")


def test_whoami_tells_what_a_fine_grained_token_may_do(hub, api):  # noqa: F811
    hub.roles[TOKEN], hub.scopes = "fineGrained", [{"entity": {"name": "owner"}, "permissions": ["repo.write"]}]
    assert api.whoami()["auth"]["accessToken"]["fineGrained"]["scoped"] == hub.scopes


def test_private_gated_and_missing_repositories(hub, api):  # noqa: F811
    hub.add("ada/private", {"a.md": "x"}, private=True)
    hub.add("ada/gated", {"a.md": "x"}, gated=True)
    nobody = HfApi(endpoint=hub.endpoint, token=False)
    with pytest.raises(hub_errors.RepositoryNotFoundError):
        nobody.repo_info("ada/private")
    assert api.repo_info("ada/private").private
    with pytest.raises(hub_errors.RepositoryNotFoundError):
        api.repo_info("ada/none")
    with pytest.raises(hub_errors.RevisionNotFoundError):
        api.repo_info("ada/private", revision="none")
    with pytest.raises(hub_errors.GatedRepoError):
        hf_hub_download("ada/gated", "a.md", token=TOKEN)
    hub.tokens[TOKEN].add("ada/gated")
    assert hf_hub_download("ada/gated", "a.md", token=TOKEN)
    api.auth_check("ada/private", write=True)


def test_large_files_come_from_storage_without_the_token_and_in_ranges(hub, api):  # noqa: F811
    commit = hub.add("ada/cat", {"w.safetensors": WEIGHTS})
    with open(hf_hub_download("ada/cat", "w.safetensors", token=TOKEN), "rb") as file:
        assert file.read() == WEIGHTS
    stored = [one for one in hub.requests if one.path.startswith("/storage/")]
    assert stored and all(one.token is None for one in stored)
    url = f"{hub.storage}/storage/model/ada/cat/resolve/{commit}/w.safetensors"
    part = get_session().get(url, headers={"Range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == WEIGHTS[10:20]
    assert part.headers["content-range"] == f"bytes 10-19/{len(WEIGHTS)}"
    assert get_session().get(url, headers={"Range": f"bytes={len(WEIGHTS)}-"}).status_code == 416


def test_a_folder_is_listed_with_and_without_what_is_below(hub, api):  # noqa: F811
    hub.add("ada/cat", {"a.md": "1", "x/b.md": "2", "x/y/c.safetensors": b"345"})

    def listed(folder: str | None, recursive: bool) -> dict[str, int | None]:
        return {
            one.path: getattr(one, "size", None) for one in api.list_repo_tree("ada/cat", folder, recursive=recursive)
        }

    assert listed(None, False) == {"a.md": 1, "x": None}
    assert listed("x", False) == {"x/b.md": 1, "x/y": None}
    assert listed("x", True) == {"x/b.md": 1, "x/y/c.safetensors": 3}
    with pytest.raises(hub_errors.EntryNotFoundError):
        listed("z", True)
    infos = api.get_paths_info("ada/cat", ["x", "x/b.md", "none"])
    assert {one.path: hasattr(one, "size") for one in infos} == {"x": False, "x/b.md": True}


def test_bytes_sent_are_counted_and_a_file_is_served_from_where_it_lies(hub, api, tmp_path):  # noqa: F811
    (tmp_path / "w.safetensors").write_bytes(WEIGHTS)
    hub.add("ada/cat", {"w.safetensors": tmp_path / "w.safetensors"})
    assert hub.files("ada/cat")["w.safetensors"] == WEIGHTS
    sent, url = hub.sent, f"{hub.endpoint}/ada/cat/resolve/main/w.safetensors"
    answer = get_session().get(url, headers={"Range": "bytes=0-99"}, follow_redirects=True)
    assert answer.status_code == 206 and 100 < hub.sent - sent < 2000
    hub.ranges = False
    answer = get_session().get(url, headers={"Range": "bytes=0-99"}, follow_redirects=True)
    assert answer.status_code == 200 and hub.sent - sent > len(WEIGHTS)


def test_tags_branches_pull_requests_and_collections(hub, api):  # noqa: F811
    api.create_repo("ada/cat")
    head = hub.head("ada/cat")
    api.create_tag("ada/cat", tag="v1")
    assert status(api.create_tag, "ada/cat", tag="v1") == 409
    api.create_branch("ada/cat", branch="dev")
    made = api.create_commit("ada/cat", [added("a.md")], commit_message="please", create_pr=True)
    refs = api.list_repo_refs("ada/cat", include_pull_requests=True)
    assert {one.name: one.target_commit for one in refs.tags} == {"v1": head}
    assert {one.name for one in refs.branches} == {"main", "dev"} and hub.head("ada/cat") == head
    found = list(api.get_repo_discussions("ada/cat"))
    assert found[0].title == "please" and found[0].is_pull_request and made.pr_url.endswith("/discussions/1")
    assert api.repo_info("ada/cat", revision=found[0].git_reference).sha == made.oid
    hub.store.collections["ada/nla-1"] = []
    api.add_collection_item("ada/nla-1", "ada/cat", item_type="model")
    again = api.add_collection_item("ada/nla-1", "ada/cat", item_type="model", exists_ok=True)
    assert [one.item_id for one in again.items] == ["ada/cat"]


# --- trouble ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["429", "500", "503"])
def test_a_request_is_refused_once(hub, api, kind):  # noqa: F811
    hub.add("ada/cat", {"a.md": "x"})
    hub.fault(Fault(1, kind))
    assert api.repo_info("ada/cat").sha
    assert status(api.repo_info, "ada/cat") == int(kind)
    assert api.repo_info("ada/cat").sha and hub.count == 3


@pytest.mark.parametrize("fault", [Fault(0, "cut"), Fault(0, "cut", after_bytes=5)])
def test_a_connection_is_cut(hub, api, fault):  # noqa: F811
    hub.add("ada/cat", {"a.md": "x"})
    hub.fault(fault)
    with pytest.raises(hub_errors.HTTPError):
        api.repo_info("ada/cat")
    assert api.repo_info("ada/cat").sha


def test_an_answer_is_lost_after_the_hub_has_acted(hub, api):  # noqa: F811
    hub.fault(Fault(0, "cut", acted=True))
    with pytest.raises(hub_errors.HTTPError):
        api.create_repo("ada/cat")
    assert hub.head("ada/cat") is not None


def test_a_slow_answer_arrives(hub, api):  # noqa: F811
    hub.add("ada/cat", {"a.md": "x"})
    hub.fault(Fault(0, "slow", seconds=0.2))
    assert api.repo_info("ada/cat").sha


def test_after_stop_nothing_answers(hub, api):  # noqa: F811
    hub.stop()
    with pytest.raises(hub_errors.HTTPError):
        api.whoami()
