"""On the Hub: nobody's work is lost, every message is true, and nothing is begun that the Hub would not take."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import HfApi

from nla_sdk.errors import AccessTokenError, InputError, OfflineError
from tests.hub import application
from tests.publish.conftest import BASE, TOKEN, Made, go
from tests.publish.conftest import request_of as evaluated
from training.publish.__main__ import LINES_SHOWN, _show
from training.publish.errors import PublishError, RefusedError
from training.publish.push import connect, look, publish
from training.publish.request import PublishRequest
from training.publish.stage import prepared

AV, AR = "owner/cat-av", "owner/cat-ar"
KEPT = "<!-- keep -->\nBy hand.\n<!-- /keep -->\n\n## Provenance"


def request_of(made: Made, **changes) -> PublishRequest:
    """Without the evaluation: the Hub takes it like any other file."""
    return evaluated(made, **({"evaluation": None} | changes))


def commit(hub, repo: str, files: dict[str, bytes], title: str = "theirs") -> None:
    hub.store.commit(hub.store.find("model", repo), "main", files, title)


def by_hand(hub) -> None:
    """Somebody adds a section to the AV's card."""
    card = hub.files(AV)["README.md"].decode().replace("## Provenance", KEPT)
    commit(hub, AV, {"README.md": card.encode()})


def notes(made, text: str):
    file = made.pair.parent / "notes.md"
    file.write_text(text)
    return file


def nothing_sent(hub) -> bool:
    return hub.head(AV) is None and hub.head(AR) is None


@pytest.fixture
def impatient(monkeypatch):
    """The client's own pauses between attempts, without the waiting."""
    import huggingface_hub.utils._http as http

    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)


# --- other people's work ----------------------------------------------------------------------------------------------
def test_an_edit_made_while_the_prompt_waits_is_not_overwritten(writable, made, published):
    published()
    request = request_of(made, notes=notes(made, "New."))
    with prepared(request) as plan:
        api = connect()
        look(api, plan, request)
        by_hand(writable)
        with pytest.raises(PublishError, match="somebody committed to main meanwhile"):
            publish(api, plan, request, print)
    assert b"By hand." in writable.files(AV)["README.md"]
    go(request)
    card = writable.files(AV)["README.md"]
    assert b"By hand." in card and b"New." in card


def test_a_new_branch_begins_with_what_main_has(writable, made, published):
    published()
    by_hand(writable)
    request = request_of(made, revision="dev", notes=notes(made, "New."))
    with prepared(request) as plan:
        _, change, difference = look(connect(), plan, request)[0]
        assert (change.add, change.delete) == ([], []) and change.replace == ["README.md"]
        assert "By hand." not in difference and "New." in difference
    go(request)
    assert b"By hand." in writable.files(AV, "dev")["README.md"]
    assert b"New." not in writable.files(AV)["README.md"]


def test_old_steps_of_a_trajectory_go_and_other_folders_stay(writable, made, tmp_path):
    import shutil

    steps = [shutil.copytree(made.pair / "av", tmp_path / name) for name in ("step_5", "step_10")]
    go(PublishRequest(repo="owner/run", trajectory=steps, pair=AR))
    commit(writable, "owner/run", {"step_3/adapter_model.safetensors": b"x"})
    go(PublishRequest(repo="owner/run", trajectory=steps[1:], pair=AR))
    assert {name.split("/")[0] for name in writable.files("owner/run") if "/" in name} == {"step_3", "step_10"}


def test_a_table_published_before_stays_beside_a_new_one(writable, made, published):
    published(tables=True)
    request = request_of(made, tables=made.tables[:1])
    with prepared(request) as plan:
        change = look(connect(), plan, request)[2][1]
        assert change.stays == ["data/av_sft.parquet"]
    go(request)
    assert {"data/eval.parquet", "data/av_sft.parquet"} <= set(writable.files("owner/cat-data", kind="dataset"))


def test_private_is_not_promised_for_what_is_public(writable, made, published):
    published()
    with pytest.raises(InputError, match="is there and public"):
        go(request_of(made, private=True))


# --- what the Hub would not take --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licence": "Not A Licence"}, "is not of the Hub's list"),
        ({"licence": "other"}, "says nothing without a name"),
        ({"create_pr": True, "tag": "v1"}, "is not tagged"),
        ({"create_pr": True, "revision": "dev"}, "pull requests on main"),
        ({"repo": "owner/my cat"}, "takes no repository named 'owner/my cat-av'"),
        ({"repo": "owner/" + "x" * 94}, "takes no repository named"),
        ({"repo": "owner/cat--x"}, "takes no repository named"),
    ],
)
def test_what_the_hub_would_not_take_is_told_offline(made, changes, message):
    with pytest.raises(InputError, match=message), prepared(request_of(made, **changes)):
        pass


def test_a_card_the_hub_does_not_take_is_told_before_a_repository_is_made(writable, made, monkeypatch):
    monkeypatch.setattr(application, "card_errors", lambda card: [{"message": '"language" is not one'}])
    with pytest.raises(RefusedError, match="does not take the card of owner/cat-av: .*language"):
        go(request_of(made))
    assert nothing_sent(writable)


def test_a_collection_that_is_not_there_is_told_before_anything_is_sent(writable, made):
    with pytest.raises(InputError, match="There is no collection owner/none-1"):
        go(request_of(made, collection="owner/none-1"))
    assert nothing_sent(writable)


# --- what the client raises -------------------------------------------------------------------------------------------
def failing(monkeypatch, error: Exception, times: int = 99) -> list:
    """`create_commit` of the AR raises for some calls; returns the calls."""
    real, calls = HfApi.create_commit, []

    def create_commit(self, repo_id, *arguments, **options):
        if repo_id == AR:
            calls.append(repo_id)
            if len(calls) <= times:
                raise error
        return real(self, repo_id, *arguments, **options)

    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    return calls


def test_what_the_client_refuses_is_told_with_what_is_done(writable, made, monkeypatch):
    calls = failing(monkeypatch, ValueError("Invalid metadata\nin README.md"))
    with pytest.raises(PublishError, match="owner/cat-ar was not published.*Invalid metadata in README.md.*already: "):
        go(request_of(made))
    assert len(calls) == 1


@pytest.mark.parametrize("times", [2, 99])
def test_an_upload_that_breaks_off_is_tried_again(writable, made, monkeypatch, times):
    calls = failing(monkeypatch, RuntimeError("Data processing error: CAS service error"), times)
    if times == 2:
        go(request_of(made))
        assert len(calls) == 3 and "README.md" in writable.files(AR)
    else:
        with pytest.raises(PublishError, match="CAS service error.*Published already: owner/cat-av"):
            go(request_of(made))
        assert len(calls) == 5


def test_an_outage_after_the_commit_is_not_called_unpublished(writable, made, monkeypatch, impatient):
    real = HfApi.create_commit

    def create_commit(self, *arguments, **options):
        made_commit = real(self, *arguments, **options)
        writable.outage = 500
        return made_commit

    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    with pytest.raises(PublishError, match="owner/cat-av was published .*not read back.*Not begun: owner/cat-ar"):
        go(request_of(made))
    writable.outage = None
    assert [one.title.split()[0] for one in writable.commits(AV)] == ["Publish", "initial"]


def test_a_lost_answer_and_an_outage_leave_it_open(writable, made, monkeypatch, impatient):
    real = HfApi.create_commit

    def create_commit(self, *arguments, **options):
        real(self, *arguments, **options)
        writable.outage = 500
        raise ConnectionError

    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    with pytest.raises(PublishError, match="owner/cat-av may be published or not"):
        go(request_of(made))


def test_nothing_is_said_of_a_cache_when_the_hub_is_away(writable, made, impatient):
    writable.outage = 500
    with pytest.raises(OfflineError, match="answered with HTTP status 500 when asked for your account"):
        connect()
    writable.stop()
    with pytest.raises(OfflineError, match="cannot be reached for your account") as caught:
        connect()
    assert "cache" not in str(caught.value)


# --- tags -------------------------------------------------------------------------------------------------------------
def test_a_tag_on_an_older_commit_of_the_same_content_is_good(writable, made):
    go(request_of(made, tag="v1"))
    tagged = writable.tags(AV)
    commit(writable, AV, {"HISTORY.md": b"x"}, "from the web")
    go(request_of(made, tag="v1"))
    assert writable.tags(AV) == tagged


def test_a_tag_that_names_something_else_is_told_before_anything_is_sent(writable, made):
    go(request_of(made, tag="v1"))
    head = writable.head(AV)
    with pytest.raises(RefusedError, match="the tag v1 of .*owner/cat-av names .* pass another --tag"):
        go(request_of(made, tag="v1", notes=notes(made, "Later.")))
    assert writable.head(AV) == head
    go(request_of(made, tag="v2", notes=notes(made, "Later.")))
    assert set(writable.tags(AV)) == {"v1", "v2"}


# --- who may write ----------------------------------------------------------------------------------------------------
def test_write_access_to_both_halves_is_asked_before_either_is_touched(writable, made, published):
    published()
    head = writable.head(AV)
    with prepared(request_of(made, notes=notes(made, "New."))) as plan:
        api = connect()
        writable.organisations.remove("owner")
        with pytest.raises(AccessTokenError, match=r"may not write to owner/cat-av \(403\).* set HF_TOKEN"):
            look(api, plan, request_of(made))
    assert writable.head(AV) == head


def test_a_fine_grained_token_is_taken_by_what_it_may_do(writable, made):
    writable.roles[TOKEN] = "fineGrained"
    writable.scopes = [{"entity": {"type": "org", "name": "owner"}, "permissions": ["repo.content.read"]}]
    with pytest.raises(AccessTokenError, match="may not write to repositories of owner"):
        go(request_of(made))
    assert nothing_sent(writable)
    writable.scopes[0]["permissions"].append("repo.write")
    go(request_of(made))
    assert "README.md" in writable.files(AV)


def test_a_pull_request_can_be_opened_on_somebody_elses_repository(writable, made):
    for role in ("av", "ar"):
        writable.add(f"stranger/cat-{role}", {"README.md": "mine"})
    outcomes = go(request_of(made, repo="stranger/cat", create_pr=True))
    assert all(one.request_url.endswith("/discussions/1") for one in outcomes)
    assert writable.files("stranger/cat-av") == {"README.md": b"mine"}
    card = writable.files("stranger/cat-av", "refs/pr/1")["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["base_model"] == BASE
    with pytest.raises(AccessTokenError, match="belongs to stranger"):
        go(request_of(made, repo="stranger/dog", create_pr=True))


# --- what is shown ----------------------------------------------------------------------------------------------------
def test_a_long_change_of_a_card_says_how_much_more_there_is(writable, made, published, capsys):
    published()
    request = request_of(made, notes=notes(made, "\n\n".join(f"Line {at}." for at in range(100))))
    with prepared(request) as plan:
        _show(plan, look(connect(), plan, request))
        said = capsys.readouterr().out
        place = plan.repositories[0].staged.folder / "README.md"
    assert "Line 9." in said and "Line 99." not in said and LINES_SHOWN < 100
    assert " lines more; the whole card is " + str(place) in said
