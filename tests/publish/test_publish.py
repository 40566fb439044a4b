"""Publishing: everything or nothing, only what was measured, and again without a change."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from nla_sdk import NLAPair
from nla_sdk.errors import AccessTokenError, InputError, NLAError
from nla_sdk.evaluation.reading import dumps, load
from tests.hub.faults import Fault
from tests.publish.conftest import BASE, ROOT, TOKEN, command, go, request_of
from training.publish.errors import PublishError, RefusedError
from training.publish.push import connect, look, publish
from training.publish.request import PublishRequest
from training.publish.stage import prepared


# --- the full circle --------------------------------------------------------------------------------------------------
def test_trained_evaluated_published_and_loaded_by_somebody_else(writable, made):
    vector = np.random.default_rng(0).normal(size=64).astype(np.float32)
    before = NLAPair.from_pretrained(made.pair, base=made.base)
    said = before.explain(vector, max_new_tokens=8)
    heard = before.reconstruct(said).numpy()
    arguments = ["--repo", "owner/name", "--checkpoint", made.pair, "--evaluation", made.evaluation, "--tag", "v0.1.0"]
    arguments += [part for table in made.tables for part in ("--dataset", table)]
    command = [sys.executable, "-m", "training.publish", *map(str, arguments), "--yes"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=250, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'NLAPair.from_pretrained("owner/name-av")' in done.stdout and TOKEN not in done.stdout + done.stderr
    trip = NLAPair.from_pretrained("owner/name-av").round_trip(vector, max_new_tokens=8)
    assert trip.explanation == said and trip.matched
    assert all("adapter_model.safetensors" in writable.downloads(f"owner/name-{role}") for role in ("av", "ar"))
    np.testing.assert_allclose(trip.reconstruction, heard, rtol=1e-5, atol=1e-6)
    for repo, kind in (("owner/name-av", "model"), ("owner/name-ar", "model"), ("owner/name-data", "dataset")):
        assert len(writable.commits(repo, kind=kind)) == 2, "the Hub's first commit and ours"
        assert writable.tags(repo, kind) == {"v0.1.0": writable.head(repo, kind=kind)}
    files = writable.files("owner/name-av")
    card = ModelCard(files["README.md"].decode())
    assert "owner/name-ar" in card.text and card.data.base_model == BASE and card.data.datasets == ["owner/name-data"]
    assert yaml.safe_load(files["nla_meta.yaml"])["pair"] == "owner/name-ar"
    assert "evaluation/evaluation.json" in files and "figures/content_ablation.png" in files
    assert not any("optimizer" in name or "state" in name.lower() for name in files)
    data = writable.files("owner/name-data", kind="dataset")
    assert {"data/eval.parquet", "data/av_sft.parquet", "data/eval.parquet.nla_meta.yaml"} <= set(data)
    assert all(f"[owner/name-{role}]" in data["README.md"].decode() for role in ("av", "ar"))


def test_again_with_nothing_changed_makes_no_commit(writable, made):
    request = request_of(made, tables=made.tables)
    first = go(request)
    heads = [writable.head(f"owner/cat-{role}") for role in ("av", "ar")]
    second = go(request)
    assert [writable.head(f"owner/cat-{role}") for role in ("av", "ar")] == heads
    assert all(one.changed for one in first) and not any(one.changed for one in second)


def test_a_changed_card_is_one_new_commit_and_kept_sections_stay(writable, made, published):
    published()
    card = writable.files("owner/cat-av")["README.md"].decode()
    edited = card.replace("## Provenance", "<!-- keep -->\nBy hand.\n<!-- /keep -->\n\n## Provenance")
    writable.store.commit(writable.store.find("model", "owner/cat-av"), "main", {"README.md": edited.encode()}, "edit")
    notes = made.pair.parent / "notes.md"
    notes.write_text("Trained on a train.")
    go(request_of(made, evaluation=None, notes=notes))
    new = writable.files("owner/cat-av")["README.md"].decode()
    assert "By hand." in new and "Trained on a train." in new
    assert [one.title.split()[0] for one in writable.commits("owner/cat-av")] == [
        "Update",
        "edit",
        "Publish",
        "initial",
    ]


def test_files_of_an_earlier_publication_go_and_other_peoples_stay(writable, made):
    (made.pair / "av" / "NOTICE.md").write_text("soon gone")
    go(request_of(made))
    repository = writable.store.find("model", "owner/cat-av")
    theirs = {"figures/mine.png": b"x", "data/mine.csv": b"1", "evaluation/mine.md": b"x", "old.safetensors": b"x"}
    writable.store.commit(repository, "main", theirs, "more")
    (made.pair / "av" / "NOTICE.md").unlink()
    go(request_of(made, evaluation=None))
    files = writable.files("owner/cat-av")
    assert set(theirs) <= set(files) and files["figures/mine.png"] == b"x"
    assert not {"NOTICE.md", "evaluation/evaluation.json", "figures/retrieval.png"} & set(files)


def test_a_head_in_torch_format_gets_a_safetensors_beside_it(writable, lora_folders, tmp_path, gemma_base):
    files = {path.name: path.read_bytes() for path in gemma_base.iterdir() if path.is_file()}
    writable.add("lab/tiny-gemma", files)
    half = shutil.copytree(lora_folders["shared"] / "ar", tmp_path / "ar")
    from tests.tiny import write_sidecar

    write_sidecar(half, base_model="lab/tiny-gemma", provenance={"parent": "/home/ada/runs/step_5", "rows": 3})
    go(PublishRequest(repo="owner/old-ar", checkpoint=half, pair="owner/old-av"))
    there = writable.files("owner/old-ar")
    (tmp_path / "head.safetensors").write_bytes(there["linear_head.safetensors"])
    old = torch.load(half / "linear_head.pt", weights_only=True)
    new = load_file(tmp_path / "head.safetensors")
    assert "linear_head.pt" in there and all(torch.equal(old[name], new[name]) for name in old)
    assert yaml.safe_load(there["nla_meta.yaml"])["provenance"] == {"parent": "step_5", "rows": 3}
    assert b"Not evaluated" in there["README.md"]


def test_one_half_names_the_other_it_is_given(writable, made):
    said = []
    outcome = go(PublishRequest(repo="owner/solo-av", checkpoint=made.pair / "av", pair="owner/solo-ar"), said)
    assert len(outcome) == 1 and "owner/solo-ar" in writable.files("owner/solo-av")["README.md"].decode()
    assert writable.head("owner/solo-ar") is None


def test_a_pull_request_is_opened_once_and_main_stays(writable, made, published):
    published()
    head = writable.head("owner/cat-av")
    notes = made.pair.parent / "notes.md"
    notes.write_text("More.")
    request = request_of(made, evaluation=None, notes=notes, create_pr=True)
    first, second = go(request), go(request)
    assert writable.head("owner/cat-av") == head
    assert first[0].request_url.endswith("/discussions/1") and second[0].request_url == first[0].request_url
    assert b"More." in writable.files("owner/cat-av", "refs/pr/1")["README.md"]
    assert len(writable.store.find("model", "owner/cat-av").requests) == 1


def test_another_branch_a_collection_and_a_private_repository(writable, made):
    writable.store.collections["owner/nla-1"] = []
    go(request_of(made, evaluation=None, revision="dev", collection="owner/nla-1", private=True))
    assert "README.md" in writable.files("owner/cat-av", "dev") and "README.md" not in writable.files("owner/cat-av")
    assert [one["id"] for one in writable.store.collections["owner/nla-1"]] == ["owner/cat-av", "owner/cat-ar"]
    assert writable.store.find("model", "owner/cat-av").private


def test_a_trajectory_is_one_repository_with_a_subfolder_a_checkpoint(writable, made, tmp_path):
    steps = [shutil.copytree(made.pair / "av", tmp_path / name) for name in ("step_5", "step_10")]
    shutil.copytree(made.evaluation.parent, steps[1] / "evaluation")
    go(PublishRequest(repo="owner/run", trajectory=steps, pair="owner/cat-ar"))
    files = writable.files("owner/run")
    assert {"step_5/adapter_model.safetensors", "step_10/nla_meta.yaml", "step_10/evaluation/rows.parquet"} <= set(
        files
    )
    card = files["README.md"].decode()
    assert "| step\\_5 | not evaluated |" in card and load(made.evaluation).verdict.value in card
    assert "figures/trajectory.png" in files


# --- what is refused --------------------------------------------------------------------------------------------------
def numbers_in(value, path=()):
    if isinstance(value, dict):
        for key, one in value.items():
            yield from numbers_in(one, (*path, key))
    elif isinstance(value, list):
        for at, one in enumerate(value):
            yield from numbers_in(one, (*path, at))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def test_any_changed_number_of_the_evaluation_is_refused(made):
    values = json.loads(made.evaluation.read_text(encoding="utf-8"))
    paths = list(numbers_in(values))
    for path in paths[:: max(1, len(paths) // 25)]:
        broken = json.loads(json.dumps(values))
        at = broken
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] += 1
        made.evaluation.write_text(json.dumps(broken), encoding="utf-8")
        with pytest.raises(RefusedError, match="evaluation"), prepared(request_of(made)):
            pass


def swap_adapter(made):
    file = made.pair / "av" / "adapter_model.safetensors"
    save_file({key: tensor + 1 for key, tensor in load_file(file).items()}, file)


def truncate_head(made):
    file = made.pair / "ar" / "linear_head.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def plant(where: str, text: str):
    def mutate(made):
        file = made.pair / where
        file.write_text(file.read_text(encoding="utf-8") + f"\nremark: {text}\n", encoding="utf-8")

    return mutate


def foreign_adapter(made):
    file = made.pair / "av" / "adapter_model.safetensors"
    save_file({key: torch.zeros(8, 3) for key in load_file(file)}, file)


def other_rows(made):
    file = made.evaluation.parent / "rows.parquet"
    file.write_bytes(file.read_bytes() + b"x")


def other_table(made):
    made.tables[0].write_bytes(made.tables[1].read_bytes())


def no_contract(made):
    (made.pair / "ar" / "nla_meta.yaml").unlink()


def template_gone(made):
    file = made.pair / "av" / "nla_meta.yaml"
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    del values["av_template"]
    file.write_text(yaml.safe_dump(values), encoding="utf-8")


MUTATIONS = [
    (swap_adapter, "av/adapter_model.safetensors is not the one that was measured"),
    (truncate_head, "ar/linear_head.safetensors is not a readable safetensors file"),
    (plant("av/nla_meta.yaml", "hf_" + "Q7" * 17), r"av/nla_meta.yaml|nla_meta.yaml, line \d+: a Hugging Face token"),
    (foreign_adapter, "tensors do not fit"),
    (other_rows, "rows.parquet is not the table"),
    (other_table, "eval.parquet"),
    (no_contract, "nla_meta.yaml"),
    (template_gone, "av_template"),
]


@pytest.mark.parametrize(("mutate", "message"), MUTATIONS, ids=lambda one: getattr(one, "__name__", ""))
def test_what_was_tampered_with_is_refused_and_nothing_is_sent(writable, made, mutate, message):
    mutate(made)
    seen = len(writable.requests)
    with pytest.raises(NLAError, match=message), prepared(request_of(made, tables=made.tables)):
        pass
    assert all(one.method in ("GET", "HEAD") for one in writable.requests[seen:]), (
        "only the base's config was asked for"
    )
    assert writable.head("owner/cat-av") is None


def test_a_home_path_is_told_by_file_and_not_repeated(made):
    plant("av/nla_meta.yaml", "/home/ada/secret")(made)
    with pytest.raises(RefusedError) as caught, prepared(request_of(made)):
        pass
    assert "/home/ada" not in str(caught.value)


def test_published_figures_are_not_published_as_measured(made):
    from tests.cards.samples import published

    made.evaluation.write_text(dumps(published()), encoding="utf-8")
    with pytest.raises(RefusedError, match="only a measured evaluation"), prepared(request_of(made)):
        pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": None, "evaluation": None}, "Nothing to publish"),
        ({"repo": "cat"}, "is not OWNER/NAME"),
        ({"checkpoint": Path("nowhere")}, "is not a folder"),
        ({"evaluation": Path("nowhere.json")}, "does not exist"),
        ({"pair": "owner/x"}, "this checkpoint holds both"),
    ],
)
def test_requests_that_make_no_sense_are_refused(made, changes, message):
    with pytest.raises(InputError, match=message), prepared(request_of(made, **changes)):
        pass


# --- tokens -----------------------------------------------------------------------------------------------------------
def test_without_a_token_with_a_reading_one_or_a_foreign_owner_nothing_is_sent(writable, made, monkeypatch):
    writable.roles[TOKEN] = "read"
    with pytest.raises(AccessTokenError, match="can only read"):
        go(request_of(made, evaluation=None))
    writable.roles[TOKEN] = "write"
    with pytest.raises(AccessTokenError, match="stranger/cat-av belongs to stranger; this token is ada's"):
        go(request_of(made, evaluation=None, repo="stranger/cat"))
    monkeypatch.setenv("HF_TOKEN", "hf_" + "unknown" * 5)
    with pytest.raises(AccessTokenError):
        go(request_of(made, evaluation=None))
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(AccessTokenError, match="hf auth login"):
        go(request_of(made, evaluation=None))
    assert not [one for one in writable.requests if one.method not in ("GET", "HEAD")]


# --- faults -----------------------------------------------------------------------------------------------------------
def state(hub) -> dict:
    """Branch heads, by repository."""
    names = ("owner/cat-av", "owner/cat-ar")
    return {name: hub.head(name) for name in names}


def whole(hub, name: str) -> bool:
    files = hub.files(name)
    return {"README.md", "nla_meta.yaml", "adapter_model.safetensors", ".nla-files.json"} <= set(files)


def calm(monkeypatch):
    """The client's own pauses between attempts, without the waiting."""
    import huggingface_hub.utils._http as http

    monkeypatch.setattr(http.time, "sleep", lambda seconds: None)


def passing(at: int) -> Fault:
    """Trouble that passes, of another kind for each request."""
    kinds = [Fault(at, "429"), Fault(at, "cut"), Fault(at, "cut", acted=True), Fault(at, "cut", after_bytes=20)]
    return kinds[at % len(kinds)]


def troubles(requests) -> list[Fault]:
    """For each request of a publication trouble that passes, or an outage from then on: what the one half's meets first
    is not what the same request of the other half meets; both meet a commit. Of files that are sent or read one after
    the other the first stands for all."""
    kinds = [(one.method, re.sub(r"[0-9a-f]{40}.*", "", one.path)) for one in requests]
    firsts = [at for at, kind in enumerate(kinds) if at < 2 or kind != kinds[at - 2]]
    found = []
    for number, at in enumerate(firsts):
        passes, lasts = passing(at), Fault(at, "500", times=10_000)
        alternating = [passes, lasts][(number + ("-ar" in requests[at].path)) % 2]
        found += [passes, lasts] if "/commit/" in requests[at].path else [alternating]
    return found


def test_a_fault_at_any_request_leaves_old_or_new_and_a_second_run_finishes(writable, made, monkeypatch):
    """Every request of a publication meets trouble in turn."""
    calm(monkeypatch)
    request = request_of(made, evaluation=None, tag="v1")
    with prepared(request) as plan:
        api = connect()
        writable.fault()
        writable.requests.clear()
        publish_once(api, plan, request)
        nothing = dict.fromkeys(state(writable))
        assert writable.count == len(writable.requests) > 20
        for fault in troubles(list(writable.requests)):
            forget(writable)
            writable.fault(fault)
            try:
                publish_once(api, plan, request)
                finished = True
            except NLAError as error:  # a PublishError once anything was to be sent, before that another
                finished = False
                assert TOKEN not in str(error)
                assert "again to complete" in str(error) or state(writable) == nothing
            writable.fault()
            assert finished or fault.kind == "500", f"{fault} was not survived"
            for name, head in state(writable).items():
                if head is not None and len(writable.commits(name)) > 1:
                    assert whole(writable, name), f"{name} is half published after {fault}"
            if not finished:
                publish_once(api, plan, request)
            for name in state(writable):
                assert whole(writable, name) and len(writable.commits(name)) == 2, "one commit a repository"
                assert writable.tags(name) == {"v1": writable.head(name)}


def publish_once(api, plan, request):
    look(api, plan, request)
    return publish(api, plan, request, lambda line: None)


def forget(hub):
    """As if nothing had been published."""
    for name in ("owner/cat-av", "owner/cat-ar"):
        hub.store.repositories.pop(("model", name), None)
    for file in (hub.store.folder / "objects").iterdir():
        if file.name not in {
            one for repo in hub.store.repositories.values() for c in repo.commits.values() for one in c.files.values()
        }:
            file.unlink()


def test_the_second_half_failing_is_told_and_completed(writable, made, monkeypatch):
    calm(monkeypatch)
    request = request_of(made, evaluation=None)
    with prepared(request) as plan:
        api = connect()
        look(api, plan, request)
        real = type(api).create_commit

        def failing(self, repo_id, *arguments, **options):
            if repo_id.endswith("-ar"):
                raise ValueError("no room for it")
            return real(self, repo_id, *arguments, **options)

        monkeypatch.setattr(type(api), "create_commit", failing)
        with pytest.raises(
            PublishError, match="owner/cat-ar was not published.*Published already: owner/cat-av"
        ) as caught:
            publish(api, plan, request, print)
        assert "again to complete" in str(caught.value)
        monkeypatch.setattr(type(api), "create_commit", real)
        outcome = publish(api, plan, request, print)
    assert [one.changed for one in outcome] == [False, True]


def test_somebody_elses_commit_in_between_is_not_overwritten(writable, made, published, monkeypatch):
    published()
    (made.pair / "av" / "NOTICE.md").write_text("new")
    with prepared(request_of(made, evaluation=None)) as plan:
        api = connect()
        look(api, plan, request_of(made, evaluation=None))
        real = type(api).create_commit

        def beaten(self, repo_id, *arguments, **options):
            writable.store.commit(writable.store.find("model", repo_id), "main", {"other.md": b"x"}, "theirs")
            return real(self, repo_id, *arguments, **options)

        monkeypatch.setattr(type(api), "create_commit", beaten)
        with pytest.raises(PublishError, match="somebody committed to main meanwhile"):
            publish(api, plan, request_of(made, evaluation=None), print)
    assert writable.commits("owner/cat-av")[0].title == "theirs"


def test_a_file_that_arrived_wrong_is_found_by_reading_back(writable, made, monkeypatch):
    from training.publish.remote import Remote

    real = Remote.read
    monkeypatch.setattr(Remote, "read", lambda self, path, commit: real(self, path, commit) + b" ")
    with (
        pytest.raises(PublishError, match="is another file there"),
        prepared(request_of(made, evaluation=None)) as plan,
    ):
        api = connect()
        look(api, plan, request_of(made, evaluation=None))
        publish(api, plan, request_of(made, evaluation=None), print)


def test_reading_back_names_what_is_missing_and_what_is_another_file_large_or_small(writable, made):
    from training.publish.remote import Remote

    with prepared(request_of(made, evaluation=None)) as plan:
        api = connect()
        look(api, plan, request_of(made, evaluation=None))
        outcome = publish(api, plan, request_of(made, evaluation=None), print)[0]
        remote = Remote(api, plan.repositories[0].staged)
        remote.check(outcome.commit)
        files = writable.files("owner/cat-av")
        del files["nla_meta.yaml"]
        wrong = writable.add("owner/cat-av", files | {"README.md": b"x", "adapter_model.safetensors": b"x"})
        with pytest.raises(PublishError) as caught:
            remote.check(wrong)
    said = "nla_meta.yaml is missing; README.md is another file there; adapter_model.safetensors is another file there"
    assert said in str(caught.value)


# --- the command ------------------------------------------------------------------------------------------------------
def test_dry_run_works_offline_and_shows_what_would_be_sent(made, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(made.pair.parent))
    done = command("--repo", "owner/cat", "--checkpoint", made.pair, "--evaluation", made.evaluation, "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "model owner/cat-av" in done.stdout and "adapter_model.safetensors" in done.stdout
    assert "nothing was sent" in done.stdout


def test_nobody_to_ask_and_no_yes_is_an_error_of_one_line(writable, made):
    done = command("--repo", "owner/cat", "--checkpoint", made.pair)
    assert done.exit_code == 2 and "pass --yes" in done.stderr and "Traceback" not in done.stderr
    assert writable.head("owner/cat-av") is None


@pytest.mark.parametrize("form", [["--token", TOKEN], [f"--token={TOKEN}"]])
def test_a_token_on_the_command_line_is_refused_and_not_repeated(writable, made, form):
    done = command("--repo", "owner/cat", "--checkpoint", made.pair, "--yes", *form)
    assert done.exit_code == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: Publishing takes no --token") and "HF_TOKEN" in done.stderr
    assert TOKEN not in done.stdout + done.stderr and writable.head("owner/cat-av") is None
    assert "--token" not in command("--help").stdout


def test_a_refusal_is_an_error_of_one_line(writable, made):
    swap_adapter(made)
    done = command("--repo", "owner/cat", "--checkpoint", made.pair, "--evaluation", made.evaluation, "--yes")
    assert done.exit_code == 2 and done.stderr.strip().splitlines()[-1].startswith("error: Not published: ")
    assert "Traceback" not in done.stderr
