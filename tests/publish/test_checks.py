"""What must hold before anything is sent: each thing that does not is told, with its place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from nla_sdk.contract import Contract
from nla_sdk.errors import ContractError, InputError, NLAError
from nla_sdk.evaluation.reading import dumps, load
from tests.publish.conftest import BASE, DRAW, command, request_of
from training.publish import copies
from training.publish.checks.check import check
from training.publish.copies import LOG, clean
from training.publish.errors import RefusedError
from training.publish.request import PublishRequest
from training.publish.stage import prepared


def refused(request: PublishRequest, message: str) -> None:
    with pytest.raises(NLAError, match=message), prepared(request):
        pass


def changed(half: Path, **values) -> None:
    """Change a half's sidecar as an editor would."""
    file = half / "nla_meta.yaml"
    found = yaml.safe_load(file.read_text(encoding="utf-8")) | values
    file.write_text(yaml.safe_dump(found, allow_unicode=True), encoding="utf-8")


def adapter_config(half: Path, **values) -> None:
    file = half / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture
def steps(made, tmp_path) -> list[Path]:
    """Two checkpoints of a run; the second is evaluated."""
    found = [shutil.copytree(made.pair / "av", tmp_path / name) for name in ("step_5", "step_10")]
    shutil.copytree(made.evaluation.parent, found[1] / "evaluation")
    return found


# --- evaluations ------------------------------------------------------------------------------------------------------
def test_a_trajectorys_evaluations_are_verified(made, steps):
    rows = steps[1] / "evaluation" / "rows.parquet"
    rows.write_bytes(rows.read_bytes() + b"x")
    refused(PublishRequest(repo="owner/run", trajectory=steps), "step_10: .*rows.parquet is not the table")


def test_report_and_figures_are_made_from_the_evaluation(writable, made, monkeypatch):
    once = copies.draw_figures
    monkeypatch.setattr(copies, "draw_figures", DRAW)
    (made.evaluation.parent / "report.md").write_text("# FVE 0.99, reads-content")
    figures = made.evaluation.parent / "figures"
    figures.mkdir()
    for name in ("mine.png", "cosine_per_row.png"):
        (figures / name).write_bytes(b"another picture")
    with prepared(request_of(made)) as plan:
        staged = plan.repositories[0].staged
        assert "0.99, reads-content" not in (staged.folder / "evaluation" / "report.md").read_text()
        assert "figures/mine.png" not in staged.files()
        assert (staged.folder / "figures" / "cosine_per_row.png").read_bytes().startswith(b"\x89PNG")
        first = written(staged)
    monkeypatch.setattr(copies, "draw_figures", once)
    with prepared(request_of(made)) as plan:
        assert written(plan.repositories[0].staged) == first


def written(staged) -> dict[str, bytes]:
    """All but the figures, which are the same bytes whenever they are drawn: tests/cards/test_figures.py."""
    return {name: file.read_bytes() for name, file in staged.files().items() if not name.startswith("figures/")}


def test_an_evaluation_of_another_base_is_refused_and_one_of_a_folder_is_said(writable, made):
    from training.publish.checks.check import halves_in
    from training.publish.checks.evaluation import check_evaluation
    from training.publish.errors import Findings

    halves = halves_in(made.pair)
    for base, place in (("lab/other", "problems"), ("plain", "warnings")):
        found = load(made.evaluation)
        subject = found.subject.model_copy(update={"base_model": base})
        made.evaluation.write_text(dumps(found.model_copy(update={"subject": subject})), encoding="utf-8")
        findings = Findings()
        check_evaluation(made.evaluation, halves, (), findings)
        assert any("base" in one for one in getattr(findings, place)), base


def test_the_held_out_table_is_known_by_its_bytes(writable, made):
    other = made.tables[0].with_name("rows of today.parquet")
    sidecar = ".nla_meta.yaml"
    made.tables[0].rename(other)
    made.tables[0].with_name(made.tables[0].name + sidecar).rename(other.with_name(other.name + sidecar))
    with prepared(request_of(made, tables=[other])) as plan:
        assert not any("none of the tables" in one for one in plan.warnings)
    with prepared(request_of(made, tables=made.tables[1:])) as plan:
        assert any("none of the tables" in one for one in plan.warnings)


# --- contracts and weights --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("role", "values", "message"),
    [
        ("av", {"injection_token_id": 7}, "marker"),
        ("ar", {"layer": 99}, "layer is 99, lab/tiny-base has 4 blocks"),
        ("ar", {"ar_num_blocks": 77}, "ar_num_blocks is 77, lab/tiny-base has 4 blocks"),
        ("av", {"base_model": "/data/models/base"}, "is not a repository on the Hub"),
        ("av", {"base_model": "base"}, "is not a repository on the Hub"),
    ],
)
def test_a_contract_is_held_against_its_base(writable, made, role, values, message):
    changed(made.pair / role, **values)
    refused(request_of(made, evaluation=None), message)


def test_without_the_base_that_is_said(hub, made):
    with prepared(request_of(made, evaluation=None)) as plan:
        assert sum("were not held against the base: " in one for one in plan.warnings) == 1


def test_an_adapter_config_that_does_not_fit_its_tensors_is_refused(writable, made):
    adapter_config(made.pair / "av", r=3)
    refused(request_of(made, evaluation=None), "av/adapter_config.json says rank 3, the tensors .* have rank 8")
    (made.pair / "av" / "adapter_config.json").write_text("{not json")
    refused(request_of(made, evaluation=None), "av/adapter_config.json is not a readable adapter config")


def test_a_base_named_by_a_folder_in_the_adapter_config_is_named_anew_or_measured_again(writable, made):
    adapter_config(made.pair / "av", base_model_name_or_path="/data/private/base")
    with prepared(request_of(made, evaluation=None)) as plan:
        config = json.loads((plan.repositories[0].staged.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == BASE and config["r"] == 8


def test_a_folder_in_an_adapter_config_that_was_measured_is_refused(writable, made):
    from training.publish.checks.check import halves_in
    from training.publish.checks.evaluation import check_evaluation
    from training.publish.errors import Findings

    adapter_config(made.pair / "av", base_model_name_or_path="/data/private/base")
    found = load(made.evaluation)
    from nla_sdk.io.files import sha256_of

    inputs = found.inputs | {"av/adapter_config.json": sha256_of(made.pair / "av" / "adapter_config.json")}
    made.evaluation.write_text(dumps(found.model_copy(update={"inputs": inputs})), encoding="utf-8")
    findings = Findings()
    check_evaluation(made.evaluation, halves_in(made.pair), (), findings)
    assert any("names the base by a folder of this machine" in one for one in findings.problems)


def test_two_heads_that_differ_are_refused(writable, made):
    head = made.pair / "ar" / "linear_head.safetensors"
    tensors = load_file(head)
    torch.save(tensors, head.with_suffix(".pt"))
    with prepared(request_of(made, evaluation=None)):
        pass
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, head)
    refused(request_of(made, evaluation=None), "two heads that differ")


def test_places_are_made_relative_wherever_they_stand():
    contract = Contract.from_dict(
        {
            "kind": "nla_dataset",
            "parent": "/data/runs/step_5",
            "run_path": "D:\\secret\\runs",
            "other_path": "C:/secret/runs",
            "block": {"path": ["/data/x", "y/z"]},
            1: "/data/kept",
        }
    )
    assert clean(contract).extras == {
        "parent": "step_5",
        "run_path": "runs",
        "other_path": "runs",
        "block": {"path": ["x", "y/z"]},
        1: "/data/kept",
    }


# --- files ------------------------------------------------------------------------------------------------------------
def test_a_folder_called_demo_is_that_folder(writable, made, monkeypatch):
    shutil.copytree(made.pair / "av", made.pair.parent / "demo")
    monkeypatch.chdir(made.pair.parent)
    with prepared(PublishRequest(repo="owner/solo", checkpoint=Path("demo"), pair="owner/x")) as plan:
        contract = Contract.load(plan.repositories[0].staged.folder)
    assert contract.base_model == BASE


def test_a_malformed_sidecar_notes_in_another_encoding_and_a_dangling_link_are_told(writable, made):
    notes = made.pair.parent / "notes.md"
    notes.write_bytes(b"\xff\xfe")
    refused(request_of(made, notes=notes), "notes.md cannot be read as UTF-8")
    notes.write_bytes(b"# About\0\n")
    refused(request_of(made, notes=notes), "notes.md holds a NUL character")
    notes.write_bytes(b"\xef\xbb\xbf# About\n")
    assert request_of(made, notes=notes).read_notes() == "# About\n"
    (made.pair / "av" / "note").symlink_to("/nowhere")
    with prepared(request_of(made, evaluation=None)):
        pass
    table = made.tables[0]
    table.with_name(table.name + ".nla_meta.yaml").write_text("a: [")
    refused(request_of(made, tables=made.tables), "eval.parquet.nla_meta.yaml is not valid YAML")


def test_a_sidecars_base_in_a_folder_gets_the_halves_name_or_is_refused(writable, made):
    with prepared(request_of(made, evaluation=None, tables=made.tables)) as plan:
        staged = plan.repositories[2].staged.folder
        assert Contract.load(staged / "data" / "eval.parquet").base_model == BASE
        assert str(made.base) not in (staged / "README.md").read_text()
    refused(PublishRequest(repo="owner/d", tables=made.tables[:1]), "the sidecar of eval.parquet names the base")


@pytest.mark.parametrize("what", ["tables", "trajectory"])
def test_two_of_one_name_are_refused(made, tmp_path, what):
    if what == "tables":
        paths = [made.tables[0], tmp_path / "other" / made.tables[0].name]
        paths[1].parent.mkdir()
        shutil.copyfile(*paths)
    else:
        paths = [shutil.copytree(made.pair / "av", tmp_path / name / "final") for name in "ab"]
    with pytest.raises(InputError, match="two are called"), prepared(PublishRequest(repo="owner/x", **{what: paths})):
        pass


def test_a_trajectory_is_of_one_half_and_holds_its_evaluations(made):
    refused(
        PublishRequest(repo="owner/run", trajectory=[made.pair / "av", made.pair / "ar"]), "A trajectory is of one half"
    )
    request = PublishRequest(repo="owner/run", trajectory=[made.pair / "av"], evaluation=made.evaluation)
    refused(request, "--evaluation is of a --checkpoint")


def test_a_step_has_the_log_up_to_itself(writable, made, steps):
    for step, folder in zip((5, 10), steps, strict=True):
        provenance = yaml.safe_load((folder / "nla_meta.yaml").read_text())["provenance"]
        provenance["training"]["step"] = step
        changed(folder, provenance=provenance)
        shutil.rmtree(folder / "evaluation", ignore_errors=True)
    with prepared(PublishRequest(repo="owner/run", trajectory=steps)) as plan:
        logs = [(plan.repositories[0].staged.folder / one.name / LOG).read_text().splitlines() for one in steps]
    assert [json.loads(log[-1])["step"] for log in logs] == [5, 10]


def test_licences_come_from_the_half_or_from_its_pairs_folder(writable, made):
    (made.pair / "LICENSE").write_text("of the pair")
    with prepared(request_of(made, evaluation=None)) as plan:
        assert all("LICENSE" in one.staged.files() for one in plan.repositories)
    alone = shutil.copytree(made.pair / "av", made.pair.parent / "project" / "half")
    (alone.parent / "LICENSE").write_text("of a whole project")
    with prepared(PublishRequest(repo="owner/solo", checkpoint=alone, pair="owner/x")) as plan:
        assert "LICENSE" not in plan.repositories[0].staged.files()


def test_the_line_that_loads_several_tables_names_one(writable, made):
    with prepared(request_of(made, evaluation=None, tables=made.tables)) as plan:
        assert plan.repositories[2].loads == 'load_dataset("owner/cat-data", "eval")'
    with prepared(request_of(made, evaluation=None, tables=made.tables[:1])) as plan:
        assert plan.repositories[2].loads == 'load_dataset("owner/cat-data")'


def test_a_dry_run_leaves_the_cards_to_be_read(made, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(made.pair.parent))
    done = command("--repo", "owner/cat", "--checkpoint", made.pair, "--dry-run")
    assert done.exit_code == 0, done.stderr
    place = next(line.partition("to read: ")[2] for line in done.stdout.splitlines() if "to read: " in line)
    assert Path(place).read_text().startswith("---\n") and made.pair.parent in Path(place).parents


def test_a_refusal_ends_in_one_full_stop():
    assert str(RefusedError(["a.", "b"])) == "Not published: a; b."


# --- where the halves of a checkpoint are -----------------------------------------------------------------------------
def moved(made, layout: dict[str, str], tmp_path):
    """The pair's halves laid out as a training run leaves them: role → folder of the run."""
    run = tmp_path / "run"
    for role, place in layout.items():
        shutil.copytree(made.pair / role, run / place)
    return run


@pytest.mark.parametrize(
    ("layout", "given"),
    [
        ({"av": "av/final", "ar": "ar/final"}, "."),
        ({"av": "av/final"}, "av"),
        ({"ar": "ar/final"}, "."),
        ({"av": "grpo/final/av", "ar": "grpo/final/ar"}, "grpo"),
        ({"av": "grpo/final/av", "ar": "grpo/final/ar"}, "grpo/final"),
    ],
)
def test_of_a_training_run_what_the_trainers_left_as_final_is_taken_and_said(made, tmp_path, layout, given):
    run = moved(made, layout, tmp_path)
    checked = check(request_of(made, checkpoint=run / given, evaluation=None))
    assert [half.folder for half in checked.halves] == [run / place for place in layout.values()]
    said = [warning for warning in checked.warnings if "is a training run: of it" in warning]
    assert len(said) == (given != "grpo/final")  # which is a pair's folder
    assert all(str(run / place) in line for place in layout.values() for line in said)


def test_a_log_beside_what_the_trainer_left_as_final_is_published(made, tmp_path):
    run = moved(made, {"av": "av/final", "ar": "ar/final"}, tmp_path)
    for role in ("av", "ar"):
        (run / role / "final" / "log.jsonl").rename(run / role / "log.jsonl")
    with prepared(request_of(made, checkpoint=run, evaluation=None)) as plan:
        assert all("training_log.jsonl" in one.staged.files() for one in plan.repositories)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"av": "av/step_10"}, r"run/av holds no nla_meta.yaml, nor does its final. There are halves in av/step_10"),
        ({"av": "av/final", "ar": "ar/step_5"}, r"run/ar holds no nla_meta.yaml, .* halves in ar/step_5, av/final"),
        ({"av": "deep/er/av"}, "it holds no nla_meta.yaml. There are halves in deep/er/av: pass one of these folders"),
        ({}, r"is no half, and no folder of av and ar: it holds no nla_meta.yaml\.$"),
    ],
)
def test_a_folder_without_halves_says_where_some_are(made, tmp_path, layout, message):
    run = moved(made, layout, tmp_path)
    run.mkdir(exist_ok=True)
    with pytest.raises(ContractError, match=message):
        check(request_of(made, checkpoint=run, evaluation=None))
