"""A renamed repository is published under its present name, which is said and used everywhere."""

from __future__ import annotations

import shutil
import warnings

import pytest
import yaml

from nla_sdk.contract import Contract
from nla_sdk.errors import AccessTokenError, InputError, RenamedRepositoryWarning
from nla_sdk.evaluation.reading import load
from tests.hub.faults import Fault
from tests.publish.conftest import BASE, command, go, request_of
from training.evaluate.verify import verify
from training.publish.errors import PublishError, RefusedError
from training.publish.push import connect, look
from training.publish.remote import ATTEMPTS
from training.publish.request import PublishRequest
from training.publish.stage import prepared

AV, AR, DATA = "owner/cat-av", "owner/cat-ar", "owner/cat-data"
OLD = {"oldlab/cat-av": AV, "oldlab/cat-ar": AR}


def rename(hub, **kinds) -> None:
    """oldlab is called owner now."""
    for old, new in OLD.items():
        hub.rename(old, new)
    hub.rename("oldlab/cat-data", DATA, kind="dataset")
    hub.organisations.append("oldlab")


def words(work, *arguments, **options) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work(*arguments, **options)
    return [str(one.message) for one in caught if issubclass(one.category, RenamedRepositoryWarning)]


def texts(files: dict[str, bytes]) -> dict[str, str]:
    return {name: data.decode() for name, data in files.items() if name.endswith((".md", ".yaml", ".json"))}


def test_a_pair_published_to_an_old_name_says_and_holds_the_present_one_only(writable, made, published):
    published(evaluation=True, tables=True)
    rename(writable)
    notes = made.pair.parent / "notes.md"
    notes.write_text("New.")
    outcomes = []
    request = request_of(made, repo="oldlab/cat", tables=made.tables, notes=notes, tag="v0.2")
    said = words(lambda: outcomes.extend(go(request)))
    assert said == [f"{old} is now {new}" for old, new in {**OLD, "oldlab/cat-data": DATA}.items()]
    assert [one.url for one in outcomes] == [
        f"{writable.endpoint}/{AV}",
        f"{writable.endpoint}/{AR}",
        f"{writable.endpoint}/datasets/{DATA}",
    ]
    assert not any("oldlab" in one.loads for one in outcomes)
    for repo, kind in ((AV, "model"), (AR, "model"), (DATA, "dataset")):
        assert set(writable.tags(repo, kind)) == {"v0.2"}
        assert not {name for name, text in texts(writable.files(repo, kind=kind)).items() if "oldlab" in text}
    for repo, other in ((AV, AR), (AR, AV)):
        files = writable.files(repo)
        assert yaml.safe_load(files["nla_meta.yaml"])["pair"] == other
        assert f"{other}" in files["README.md"].decode() and "New." in files["README.md"].decode()
    assert {name for _, name in writable.store.repositories} == {AV, AR, DATA, BASE}


def test_no_request_that_writes_goes_to_an_old_name(writable, made, published):
    """A POST that is answered with 301 becomes a GET, and what it was to write is lost without an error."""
    published(evaluation=True)
    for old, new in OLD.items():
        writable.rename(old, new, status=301)
    writable.organisations.append("oldlab")
    writable.requests.clear()
    notes = made.pair.parent / "notes.md"
    notes.write_text("New.")
    with pytest.warns(RenamedRepositoryWarning):
        go(request_of(made, repo="oldlab/cat", notes=notes, tag="v1", revision="dev"))
    assert not [one for one in writable.requests if one.method != "GET" and "oldlab" in one.path]
    assert b"New." in writable.files(AV, "dev")["README.md"] and set(writable.tags(AV)) == {"v1"}


def test_a_renamed_base_is_called_by_its_present_name_in_contract_card_and_evaluation(writable, made):
    writable.rename(BASE, "lab/small-base")
    said = words(go, request_of(made, tables=made.tables))
    assert said == [f"{BASE} is now lab/small-base"]
    for repo in (AV, AR):
        files = writable.files(repo)
        assert yaml.safe_load(files["nla_meta.yaml"])["base_model"] == "lab/small-base"
        assert yaml.safe_load(files["README.md"].decode().split("---")[1])["base_model"] == "lab/small-base"
        assert BASE not in files["README.md"].decode() + files["evaluation/report.md"].decode()
        assert BASE not in files["evaluation/evaluation.json"].decode()
    sidecars = {name: text for name, text in texts(writable.files(DATA, kind="dataset")).items() if "meta" in name}
    assert sidecars and not any(BASE in text for text in sidecars.values())


def test_what_is_published_of_a_renamed_base_verifies(writable, made, tmp_path):
    writable.rename(BASE, "lab/small-base")
    with pytest.warns(RenamedRepositoryWarning):
        go(request_of(made))
    for role, repo in (("av", AV), ("ar", AR)):
        for name, data in writable.files(repo).items():
            file = tmp_path / role / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    file = tmp_path / "av" / "evaluation" / "evaluation.json"
    assert load(file).subject.base_model == "lab/small-base"
    checked = verify(file, av=tmp_path / "av", ar=tmp_path / "ar")
    assert "the AV's contract and weights" in checked.checked


def test_an_evaluation_made_before_the_base_was_renamed_is_of_this_base(writable, made):
    writable.rename(BASE, "lab/small-base")
    for role in ("av", "ar"):
        Contract.load(made.pair / role).replace(base_model="lab/small-base").save(made.pair / role)
    with pytest.warns(RenamedRepositoryWarning):
        go(request_of(made))
    assert load(made.evaluation).subject.base_model == BASE  # the author's own file stays as it is


def test_the_other_half_is_named_by_its_present_name(writable, made, published):
    published(evaluation=True)
    rename(writable)
    request = request_of(made, repo=AV, checkpoint=made.pair / "av", evaluation=None, pair="oldlab/cat-ar")
    assert words(go, request) == ["oldlab/cat-ar is now owner/cat-ar"]
    assert yaml.safe_load(writable.files(AV)["nla_meta.yaml"])["pair"] == AR


def test_a_trajectory_goes_to_the_present_name(writable, made, tmp_path):
    steps = [shutil.copytree(made.pair / "av", tmp_path / name) for name in ("step_5", "step_10")]
    go(PublishRequest(repo="owner/run", trajectory=steps, pair=AR))
    writable.rename("owner/walk", "owner/run")
    with pytest.warns(RenamedRepositoryWarning, match="owner/walk is now owner/run"):
        [outcome] = go(PublishRequest(repo="owner/walk", trajectory=steps, pair=AR))
    assert not outcome.changed and "owner/walk" not in outcome.loads


def test_two_names_that_have_become_one_repository_are_refused(writable, made, published):
    published(evaluation=True)
    for role in ("av", "ar"):
        writable.rename(f"oldlab/cat-{role}", AV)
    head = writable.head(AV)
    with pytest.raises(RefusedError, match="are one repository now, owner/cat-av"), pytest.warns():
        go(request_of(made, repo="oldlab/cat"))
    assert writable.head(AV) == head


def test_write_access_is_asked_of_the_present_owner(writable, made):
    for role in ("av", "ar"):
        writable.add(f"stranger/cat-{role}", {"README.md": "theirs"})
        writable.rename(f"owner/old-{role}", f"stranger/cat-{role}")
    with pytest.raises(AccessTokenError, match="may not write to stranger/cat-av"), pytest.warns():
        go(request_of(made, repo="owner/old"))
    assert writable.files("stranger/cat-av") == {"README.md": b"theirs"}


def test_a_dry_run_asks_nobody_for_a_name_to_publish_to(writable, made):
    rename(writable)
    with prepared(request_of(made, repo="oldlab/cat")) as plan:
        assert [one.staged.repo_id for one in plan.repositories] == list(OLD)
    assert not [one for one in writable.requests if "cat" in one.path]


def test_the_command_says_the_present_name_and_shows_it(writable, made, published):
    published(evaluation=True)
    rename(writable)
    done = command("--repo", "oldlab/cat", "--checkpoint", made.pair, "--yes")
    assert done.exit_code == 0, done.stderr[-2000:]
    assert done.stderr.count("oldlab/cat-av is now owner/cat-av") == 1
    assert 'NLAPair.from_pretrained("owner/cat-av")' in done.stdout and "oldlab" not in done.stdout


# --- names that git takes ---------------------------------------------------------------------------------------------
UNTAKEN = ["v 0.1", "v..1", "v^", "v1.lock", "-v", "a//b", "v1.", "@{1}", "", "v\\1"]


@pytest.mark.parametrize(("option", "name"), [*(("tag", name) for name in UNTAKEN), ("revision", "a//b")])
def test_a_tag_or_branch_that_git_does_not_take_is_told_before_anything_is_read(writable, made, option, name):
    with pytest.raises(InputError, match=f"--{option} .* is no name that git takes: "):
        go(request_of(made, **{option: name}))
    assert not writable.requests


def test_a_tag_that_the_hub_refuses_all_the_same_is_not_advised_to_be_tried_again(writable, made, monkeypatch):
    from tests.hub import application

    def refuse(self, repository, name):
        raise application.Refusal(400, "This tag is reserved")

    monkeypatch.setattr(application.Call, "_tag", refuse)
    with pytest.raises(
        PublishError, match="All files are published; missing: tag v1.*reserved.*Put that right"
    ) as caught:
        go(request_of(made, tag="v1"))
    assert "same command" not in str(caught.value)


# --- final answers ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "said"), [(410, "was deleted .410"), (451, "is unavailable for legal reasons .451")]
)
def test_what_is_gone_is_not_asked_for_again(writable, made, status, said):
    with prepared(request_of(made)) as plan:
        api = connect()
        writable.outage = status
        writable.fault()
        with pytest.raises(Exception, match=f"owner/cat-av {said}"):
            look(api, plan, request_of(made))
    assert writable.count == len([BASE, AV, AR]) + 1  # what each is called now, then the first one's head


@pytest.mark.parametrize("status", ["423", "425", "429", "503"])
def test_a_refusal_of_the_moment_is_tried_again(writable, status):
    connect()  # the client asks a question of its own with its first request
    writable.fault(Fault(0, status, times=2))
    connect()
    assert writable.count == 3 < ATTEMPTS


@pytest.mark.parametrize("status", ["400", "409", "410", "422", "451", "501", "507"])
def test_a_final_refusal_is_asked_once(writable, status):
    connect()
    writable.fault(Fault(0, status, times=9))
    with pytest.raises(Exception, match=status):
        connect()
    assert writable.count == 1


def test_a_pause_that_the_hub_asks_for_is_kept_and_a_long_one_is_told(writable, monkeypatch):
    from tests.hub import faults
    from training.runs import patience

    connect()
    slept = []
    monkeypatch.setattr(patience.time, "sleep", slept.append)
    monkeypatch.setattr(faults, "RETRY_AFTER", 7)
    writable.fault(Fault(0, "429", times=1))
    connect()
    assert slept == [7.0]
    monkeypatch.setattr(faults, "RETRY_AFTER", 3600)
    writable.fault(Fault(0, "429", times=1))
    with pytest.raises(Exception, match="429.* Try again in 3600 seconds"):
        connect()
    assert slept == [7.0] and writable.count == 1
