"""`push_to_hub`: what the command publishes, from Python; and as nobody is asked, nothing of others goes."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from safetensors.torch import load_file, save_file

from nla_sdk import Contract, NLAPair
from nla_sdk.errors import AccessTokenError, InputError, MissingRepositoryError
from nla_sdk.evaluation.reading import EvaluationError, load
from tests.publish.conftest import BASE, go, request_of
from training.publish.errors import PublishWarning, RefusedError

AV, AR, DATA = "owner/cat-av", "owner/cat-ar", "owner/cat-data"
ENTRIES = ".eval_results/nla.yaml"


@pytest.fixture
def pair(writable, made) -> NLAPair:
    return NLAPair.from_pretrained(made.pair, base=made.base)


def commit(hub, repo: str, files: dict[str, bytes]) -> None:
    hub.store.commit(hub.store.find("model", repo), "main", files, "theirs")


def nothing_sent(hub) -> bool:
    return hub.head(AV) is None and hub.head(AR) is None


# --- a pair -----------------------------------------------------------------------------------------------------------
def test_a_pair_is_published_as_the_command_publishes_its_folder(writable, made, pair):
    go(request_of(made, repo="owner/qzx", tables=made.tables))
    pushed = pair.push_to_hub("owner/cat", evaluation=made.evaluation.parent, tables=made.tables)
    assert [str(one) for one in pushed[:2]] == [f"{writable.endpoint}/{AV}", f"{writable.endpoint}/{AR}"]
    assert pushed[0].loads == f'NLAPair.from_pretrained("{AV}")' and pushed[0].commit == writable.head(AV)
    for role, kind in (("av", "model"), ("ar", "model"), ("data", "dataset")):
        by_command, here = (writable.files(f"owner/{name}-{role}", kind=kind) for name in ("qzx", "cat"))
        renamed = {name: data.replace(b"qzx", b"cat") for name, data in by_command.items()}
        assert set(here) == set(renamed)
        assert [name for name in here if here[name] != renamed[name]] == []
    assert pickle.loads(pickle.dumps(pushed[0])).commit == pushed[0].commit
    again = pair.push_to_hub("owner/cat", evaluation=made.evaluation, tables=made.tables)
    assert not any(one.changed for one in again)


def test_what_a_pair_became_in_memory_is_not_published(writable, made):
    pair = NLAPair.from_pretrained(made.pair, base=made.base, quantization=None, dtype="bfloat16")
    with pytest.warns(PublishWarning, match="no evaluation"):
        pair.push_to_hub("owner/cat", private=True, tag="v1", commit_message="Better labels")
    weights = (made.pair / "av" / "adapter_model.safetensors").read_bytes()
    assert writable.files(AV)["adapter_model.safetensors"] == weights
    before, after = Contract.load(made.pair / "av"), yaml.safe_load(writable.files(AV)["nla_meta.yaml"])
    assert Contract.from_dict(after).replace(pair=None) == before.replace(pair=None)
    assert writable.commits(AV)[0].title.startswith("Better labels, with nla-sdk (")
    assert writable.store.find("model", AV).private and writable.tags(AV) == {"v1": writable.head(AV)}


def test_what_was_stated_at_loading_is_in_the_contract_and_an_evaluation_of_another_is_refused(writable, made):
    pair = NLAPair.from_pretrained(made.pair, base=made.base, contract={"max_new_tokens": 11})
    with pytest.raises(RefusedError, match="av/nla_meta.yaml is not the one that was measured"):
        pair.push_to_hub("owner/cat", evaluation=made.evaluation)
    assert nothing_sent(writable)
    with pytest.warns(PublishWarning):
        pair.push_to_hub("owner/cat")
    assert yaml.safe_load(writable.files(AV)["nla_meta.yaml"])["max_new_tokens"] == 11


def test_a_pair_of_the_hub_is_published_under_another_name_with_its_log(writable, made):
    (made.pair / "av" / "LICENSE").write_text("As you like.")
    go(request_of(made))
    pair = NLAPair.from_pretrained(AV)
    pair.push_to_hub("lab/copy", evaluation=made.evaluation)
    there, here = writable.files(AV), writable.files("lab/copy-av")
    same = ("adapter_model.safetensors", "training_log.jsonl", "LICENSE", "evaluation/rows.parquet")
    assert all(here[name] == there[name] for name in same)
    assert yaml.safe_load(here["nla_meta.yaml"])["pair"] == "lab/copy-ar"
    assert NLAPair.from_pretrained("lab/copy-av").matched


def test_one_half_goes_to_the_name_as_it_is(writable, made):
    half = NLAPair.from_pretrained(None, made.pair / "ar", base=made.base)
    half.av = None  # which lies beside it
    with pytest.warns(PublishWarning):
        assert [one.repo for one in half.push_to_hub("owner/alone")] == ["owner/alone"]
    assert "linear_head.safetensors" in writable.files("owner/alone")


def test_halves_that_do_not_name_each_other_are_no_pair(writable, made, pair):
    pair.matched = False
    with pytest.raises(InputError, match="do not name each other; published as a pair they would"):
        pair.push_to_hub("owner/cat")
    assert nothing_sent(writable)


def test_a_pair_on_another_base_than_its_contracts_name_is_refused(writable, made):
    files = {path.name: path.read_bytes() for path in made.base.iterdir() if path.is_file()}
    writable.add("lab/other-base", files)
    pair = NLAPair.from_pretrained(made.pair, base="lab/other-base", contract={"weights.parent": "base"})
    with pytest.raises(InputError, match=f"runs on lab/other-base.*contracts name {BASE}"):
        pair.push_to_hub("owner/cat")


@pytest.mark.parametrize("key", ["source_model", "weights.parent"])
def test_what_lies_in_a_folder_here_is_nothing_that_others_could_load(writable, made, pair, key):
    from dataclasses import replace

    pair.av = replace(pair.av, contract=pair.av.contract.replace(**{key.replace(".", "_"): "mine"}))
    with pytest.raises(RefusedError, match=f"names 'mine' as {key}, which is no repository on the Hub"):
        pair.push_to_hub("owner/cat")
    assert nothing_sent(writable)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"repo": "cat"}, "is not OWNER/NAME"),
        ({"commit_message": "two\nlines"}, "is not one line"),
        ({"benchmark": "owner/data"}, "pass the evaluation too"),
        ({"create_pr": True, "tag": "v1"}, "A pull request is not tagged"),
        ({"licence": "mine"}, "is not of the Hub's list"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_copied(writable, pair, given, message):
    with pytest.raises(InputError, match=message):
        pair.push_to_hub(**{"repo": "owner/cat", **given})


def test_the_token_that_is_passed_is_the_one_that_writes_and_shows_nowhere(writable, pair, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(AccessTokenError, match="hf auth login"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pair.push_to_hub("owner/cat")
    other = "hf_" + "x" * 34
    writable.tokens[other] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pair.push_to_hub("owner/cat", token=other)
    assert {one.token for one in writable.requests if one.method == "POST" and "/commit/" in one.path} == {other}
    from training.publish.request import PublishRequest

    assert other not in repr(PublishRequest("owner/cat", token=other))


def test_saved_and_pushed_in_one_call(writable, made, pair, tmp_path):
    with pytest.raises(InputError, match="private= is of a push"):
        pair.save_pretrained(tmp_path / "saved", private=True)
    assert not (tmp_path / "saved").exists()
    assert pair.save_pretrained(tmp_path / "saved", push="owner/cat", evaluation=made.evaluation) == tmp_path / "saved"
    assert {"av", "ar"} == {path.name for path in (tmp_path / "saved").iterdir()}
    assert "evaluation/evaluation.json" in writable.files(AV)


# --- what of others is there ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("theirs", ["README.md", "adapter_model.safetensors"])
def test_files_that_nla_sdk_did_not_put_there_are_not_replaced(writable, made, pair, theirs):
    writable.add(AV, {theirs: b"by hand"})
    with pytest.raises(RefusedError, match=f"{AV} holds {theirs}, which nla-sdk did not put there"):
        pair.push_to_hub("owner/cat", evaluation=made.evaluation)
    assert writable.files(AV)[theirs] == b"by hand" and writable.head(AR) is None
    pushed = pair.push_to_hub("owner/cat", evaluation=made.evaluation, create_pr=True)
    assert "/discussions/1" in pushed[0] and writable.files(AV)[theirs] == b"by hand"


def test_a_card_by_hand_that_marks_what_stays_is_taken_over(writable, made, pair):
    writable.add(AV, {"README.md": b"# Mine\n\n<!-- keep -->\nBy hand.\n<!-- /keep -->\n"})
    pair.push_to_hub("owner/cat", evaluation=made.evaluation)
    card = writable.files(AV)["README.md"].decode()
    assert "By hand." in card and "Verdict" in card


def test_a_published_evaluation_is_not_removed_without_a_word(writable, made, published, pair):
    published(evaluation=True)
    with pytest.raises(RefusedError, match="holds an evaluation, none was passed"), pytest.warns(PublishWarning):
        pair.push_to_hub("owner/cat")
    assert "evaluation/evaluation.json" in writable.files(AV)


# --- results for the Hub ----------------------------------------------------------------------------------------------
def test_entries_are_of_the_dataset_that_holds_the_table_and_say_the_files_figures(writable, made, pair):
    pair.push_to_hub("owner/cat", evaluation=made.evaluation, tables=made.tables)
    evaluation, files = load(made.evaluation), writable.files(AV)
    entries = {one.task_id: one for one in parse_eval_result_entries(yaml.safe_load(files[ENTRIES]))}
    trip = evaluation.round_trip
    assert entries["round_trip_fve"].value == round(trip.fve.value, 4)
    assert entries["round_trip_gain"].value == round(trip.gain.value, 4)
    for entry in entries.values():
        assert entry.dataset_id == DATA and entry.date == evaluation.created
        assert entry.source_url == f"https://huggingface.co/{AV}/blob/main/evaluation/evaluation.json"
        assert f"(n = {trip.fve.n}, 95 % [" in entry.notes and f"verdict {evaluation.verdict.value};" in entry.notes
        assert evaluation.data.sha256[:12] in entry.notes
    card = ModelCard(files["README.md"].decode()).data
    assert {one.dataset_type for one in card.eval_results} == {DATA} and card.library_name == "nla-sdk"
    assert {one.metric_type: one.metric_value for one in card.eval_results}["verdict"] == evaluation.verdict.value


def test_without_the_table_on_the_hub_there_are_no_entries_and_another_dataset_is_refused(writable, made, pair):
    pair.push_to_hub("owner/cat", evaluation=made.evaluation, tables=made.tables[1:])
    assert ENTRIES not in writable.files(AV)
    with pytest.raises(RefusedError, match=f"dataset {DATA} holds no file with the SHA-256 of"):
        pair.push_to_hub("owner/cat", evaluation=made.evaluation, benchmark=DATA)
    with pytest.raises(MissingRepositoryError):
        pair.push_to_hub("owner/cat", evaluation=made.evaluation, benchmark="owner/nowhere")
    writable.add("lab/heldout", {"data/rows.parquet": made.tables[0].read_bytes()}, kind="dataset")
    pair.push_to_hub("owner/cat", evaluation=made.evaluation, benchmark="lab/heldout")
    assert yaml.safe_load(writable.files(AR)[ENTRIES])[0]["dataset"]["id"] == "lab/heldout"
    pair.push_to_hub("owner/cat", evaluation=made.evaluation)
    assert ENTRIES not in writable.files(AV), "they would be of a dataset that nobody names any more"


# --- contracts --------------------------------------------------------------------------------------------------------
def test_a_contract_alone_is_put_beside_weights_and_a_card_by_hand_stays(writable, made):
    files = {path.name: path.read_bytes() for path in (made.pair / "av").iterdir() if path.is_file()}
    contract = Contract.load(made.pair / "av")
    writable.add(AV, {**files, "README.md": b"# By hand", "nla_meta.yaml": b"role: av\n", "mine.txt": b"x"})
    pushed = contract.push_to_hub(AV, commit_message="Say the layer")
    there = writable.files(AV)
    assert pushed == f"{writable.endpoint}/{AV}" and pushed.changed
    assert Contract.from_dict(yaml.safe_load(there["nla_meta.yaml"])) == contract
    assert there["README.md"] == b"# By hand" and there["mine.txt"] == b"x"
    assert there["adapter_model.safetensors"] == files["adapter_model.safetensors"]
    assert json.loads(there[".nla-files.json"]) == [".nla-files.json", "nla_meta.yaml"]
    assert writable.commits(AV)[0].title.startswith("Say the layer, with nla-sdk (")
    assert not contract.push_to_hub(AV).changed


def test_a_contract_is_held_against_the_weights_that_are_there(writable, made, published):
    published()
    head = writable.head(AV)
    for wrong, message in (
        ({"layer": 99}, "layer is 99, lab/tiny-base has 4 blocks"),
        ({"injection_token_id": 7}, "marker"),
        ({"source_model": "mine"}, "names 'mine' as source_model"),
    ):
        with pytest.raises((RefusedError, InputError), match=message):
            Contract.load(made.pair / "av").replace(**wrong).push_to_hub(AV)
    with pytest.raises(InputError, match="contract of a table"):
        Contract.load(made.tables[0]).push_to_hub(AV)
    with pytest.raises(MissingRepositoryError):
        Contract.load(made.pair / "av").push_to_hub("owner/nowhere")
    assert writable.head(AV) == head


def test_a_changed_contract_renders_the_card_anew_with_the_notes_and_keeps_the_rest(writable, made):
    notes = made.pair.parent / "notes.md"
    notes.write_text("# Mine\n\nTrained on a <train>.")
    go(request_of(made, evaluation=None, notes=notes, licence="mit", tables=made.tables))
    before = writable.files(AV)
    Contract.load(made.pair / "av").replace(max_new_tokens=11, pair=AR).push_to_hub(AV)
    after = writable.files(AV)
    assert {name for name in after if after[name] != before[name]} == {"nla_meta.yaml", "README.md"}
    old, new = (files["README.md"].decode().splitlines() for files in (before, after))
    said = {line for line in new if line not in old and "nla_meta" not in line}
    written = "written = model.generate(ids, max_new_tokens=11, do_sample=False)"
    assert said == {"| tokens written at most | 11 |", written}
    assert "### Mine" in new and "license: mit" in new


def test_a_contract_that_an_evaluation_there_was_not_measured_with_is_refused(writable, made, published):
    published(evaluation=True)
    contract = Contract.load(made.pair / "av").replace(pair=AR)
    with pytest.raises(RefusedError, match="av/nla_meta.yaml is not the one that was measured"):
        contract.replace(max_new_tokens=11).push_to_hub(AV)
    provenance = {**contract.provenance, "remark": "said later"}
    assert contract.replace(provenance=provenance).push_to_hub(AV).changed
    assert "evaluation/evaluation.json" in writable.files(AV)


# --- evaluations ------------------------------------------------------------------------------------------------------
def test_an_evaluation_is_put_beside_the_weights_of_both_halves(writable, made):
    notes = made.pair.parent / "notes.md"
    notes.write_text("Mine.")
    go(request_of(made, evaluation=None, notes=notes))
    writable.add(DATA, {"data/eval.parquet": made.tables[0].read_bytes()}, kind="dataset")
    before = writable.files(AV)
    pushed = load(made.evaluation).push_to_hub("owner/cat", made.evaluation.parent, benchmark=DATA)
    assert [one.repo for one in pushed] == [AV, AR] and all(one.changed for one in pushed)
    after = writable.files(AV)
    assert {"evaluation/evaluation.json", "evaluation/rows.parquet", "figures/retrieval.png", ENTRIES} <= set(after)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"README.md", ".nla-files.json"}
    assert set(before) | {"evaluation/report.md"} <= set(json.loads(after[".nla-files.json"])) | {".gitattributes"}
    card = after["README.md"].decode()
    assert "Not evaluated" not in card and "Mine." in card and ModelCard(card).data.eval_results
    assert not any(
        one.changed for one in load(made.evaluation).push_to_hub("owner/cat", made.evaluation, benchmark=DATA)
    )
    pair = NLAPair.from_pretrained(AV)
    assert (
        pair.matched
        and not pair.push_to_hub("owner/cat", evaluation=made.evaluation, notes=notes, benchmark=DATA)[0].changed
    )


def test_what_the_evaluation_before_had_and_this_one_has_not_goes(writable, made, published):
    published(evaluation=True)
    repository = writable.store.find("model", AV)
    names = [*json.loads(writable.files(AV)[".nla-files.json"]), "evaluation/old.parquet", "old.txt"]
    more = {
        "old.txt": b"z",
        "evaluation/old.parquet": b"x",
        "evaluation/mine.md": b"y",
        ".nla-files.json": json.dumps(names).encode(),
    }
    writable.store.commit(repository, "main", more, "before")
    load(made.evaluation).push_to_hub(AV, made.evaluation)
    files = writable.files(AV)
    assert "evaluation/old.parquet" not in files and files["evaluation/mine.md"] == b"y"
    assert files["old.txt"] == b"z" and "old.txt" in json.loads(files[".nla-files.json"]), "of no evaluation"


def test_an_evaluation_of_other_weights_or_other_tables_is_refused(writable, made, published):
    published()
    heads = writable.head(AV), writable.head(AR)
    evaluation = load(made.evaluation)
    other = evaluation.model_copy(update={"created": "2020-01-01T00:00:00Z"})
    with pytest.raises(EvaluationError, match="is another evaluation than the one that is pushed"):
        other.push_to_hub("owner/cat", made.evaluation)
    rows = made.evaluation.parent / "rows.parquet"
    whole = rows.read_bytes()
    rows.write_bytes(whole + b"x")
    with pytest.raises(RefusedError, match=r"rows\.parquet is not the table"):
        evaluation.push_to_hub("owner/cat", made.evaluation)
    rows.write_bytes(whole)
    assert (writable.head(AV), writable.head(AR)) == heads
    file = made.pair / "ar" / "adapter_model.safetensors"
    save_file({key: tensor + 1 for key, tensor in load_file(file).items()}, file)
    commit(writable, AR, {"adapter_model.safetensors": file.read_bytes()})
    with pytest.raises(RefusedError, match="ar/adapter_model.safetensors is not the one that was measured"):
        evaluation.push_to_hub("owner/cat", made.evaluation)
    assert writable.head(AV) == heads[0]
    with pytest.raises(MissingRepositoryError):
        evaluation.push_to_hub("owner/nowhere", made.evaluation)


def test_an_evaluation_does_not_replace_a_card_by_hand(writable, made):
    files = {path.name: path.read_bytes() for path in (made.pair / "av").iterdir() if path.is_file()}
    writable.add(AV, {**files, "README.md": b"# By hand"})
    with pytest.raises(RefusedError, match="holds README.md"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(made.evaluation).push_to_hub(AV, made.evaluation)
    assert writable.files(AV)["README.md"] == b"# By hand"


def test_somebody_elses_commit_after_the_check_is_not_built_on(writable, made, published, monkeypatch):
    published()
    from training.publish.from_code import pushing

    real = pushing.connect

    def beaten(token):
        commit(writable, AV, {"adapter_model.safetensors": b"other weights"})
        return real(token)

    monkeypatch.setattr(pushing, "connect", beaten)
    with pytest.raises(Exception, match="somebody committed to main meanwhile"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(made.evaluation).push_to_hub(AV, made.evaluation)
    assert "evaluation/evaluation.json" not in writable.files(AV)


# --- the publisher ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("missing", ["jinja2", "tenacity"])
def test_what_is_not_installed_is_said_with_the_extra_that_brings_it(writable, pair, monkeypatch, missing):
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    from cards import sandbox

    sandbox._environment.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InputError, match=rf"not installed \({missing}.*nla-sdk\[publish,eval\]"):
            pair.push_to_hub("owner/cat")
    assert nothing_sent(writable)


def test_another_package_called_training_is_said_to_hide_ours(tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text("")
    code = """
from nla_sdk.errors import InputError
from nla_sdk.publishing.publisher import publisher
try:
    with publisher():
        pass
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "nla-sdk's training.publish is not found" in done.stdout and str(tmp_path / "training") in done.stdout, (
        done.stderr
    )


def test_the_sdk_knows_the_publisher_by_name_alone():
    code = "import sys; from nla_sdk.publishing import publisher, pushed; print({'training', 'cards'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "set()\n", done.stderr
