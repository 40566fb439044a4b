"""A calibration of claims is published with the AV and the evaluation that it belongs to, and with no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cards.figures.curves import heldout_curves
from nla_sdk.claims.calibration import CLAIMS, Calibration, Weight, Weights, load_calibration
from nla_sdk.errors import InputError
from nla_sdk.evaluation.reading import dumps, load
from nla_sdk.evaluation.schema import CLAIMS_TABLE, EVALUATION
from nla_sdk.halves.beside.digests import half_digests
from nla_sdk.io.files import sha256_of
from nla_sdk.io.logs import read_log, read_losses
from tests.publish.conftest import request_of
from training.evaluate import verify
from training.publish import bundle
from training.publish.checks.check import halves_in
from training.publish.errors import RefusedError
from training.publish.request import PublishRequest
from training.publish.stage import prepared

WORD = Weights(n=50, supported=20, intercept=-0.4, receipts={"lens": Weight(weight=1.0, mean=-5.0, std=2.0)})


def calibration(made, file: Path, **made_from) -> Path:
    """A calibration of the pair that is to be published."""
    found = load(made.evaluation).inputs["eval.parquet"]
    digests = {"eval.parquet": found}
    for half in halves_in(made.pair):
        digests |= half_digests(half.contract.role, half.folder, half.contract)
    return Calibration(
        made_from=digests | made_from, data="eval.parquet", unit="FVE", baseline_mse=0.2, kinds={"word": WORD}
    ).save(file)


@pytest.fixture
def claimed(made, monkeypatch):
    """An evaluation that names a calibration and a table of claims; what its figures are is told elsewhere."""
    folder = made.evaluation.parent
    calibration(made, folder / CLAIMS)
    if not (folder / CLAIMS_TABLE).is_file():
        pq.write_table(pa.table({"claim": ["cat"]}), folder / CLAIMS_TABLE)
    named(made)
    monkeypatch.setattr(verify, "_recompute", lambda *_: iter(()))
    return made


def named(made) -> None:
    """Have the evaluation name the files beside it as they are."""
    found = load(made.evaluation)
    own = {name: sha256_of(made.evaluation.parent / name) for name in (*found.files, CLAIMS, CLAIMS_TABLE)}
    made.evaluation.write_text(dumps(found.model_copy(update={"files": own})), encoding="utf-8")


def refused(request: PublishRequest, message: str) -> None:
    with pytest.raises(RefusedError, match=message), prepared(request):
        pass


def test_the_calibration_goes_with_the_av_and_both_tables_with_the_evaluation(writable, claimed):
    source = claimed.evaluation.parent
    with prepared(request_of(claimed)) as plan:
        av, ar = (repository.staged.files() for repository in plan.repositories)
        assert av[CLAIMS].read_bytes() == (source / CLAIMS).read_bytes() and CLAIMS not in ar
        for files in (av, ar):
            for name in (CLAIMS, CLAIMS_TABLE):
                assert files[f"evaluation/{name}"].read_bytes() == (source / name).read_bytes()
        manifest = json.loads(av[".nla-files.json"].read_text())
        assert CLAIMS in manifest and f"evaluation/{CLAIMS_TABLE}" in manifest
        found = load_calibration(av[CLAIMS]).made_from
        for half in halves_in(av[CLAIMS].parent):  # what is published is what it was made from
            own = half_digests("av", half.folder, half.contract)
            assert own.items() <= found.items()
        card = (av[CLAIMS].parent / "README.md").read_text(encoding="utf-8")
        assert "| claims.json |" in card and "| claims.json, SHA-256 |" in card


@pytest.mark.parametrize("place", ["av", "."])
def test_without_an_evaluation_the_calibration_beside_the_av_is_published(writable, made, place):
    file = calibration(made, made.pair / place / CLAIMS)
    with prepared(request_of(made, evaluation=None)) as plan:
        staged = plan.repositories[0].staged.files()
        assert staged[CLAIMS].read_bytes() == file.read_bytes()
        assert CLAIMS not in plan.repositories[1].staged.files()


def test_a_calibration_of_another_evaluation_is_refused(writable, claimed):
    own = calibration(claimed, claimed.pair / "av" / CLAIMS)
    with prepared(request_of(claimed)) as plan:
        assert CLAIMS in plan.repositories[0].staged.files(), "the same file twice is no contradiction"
    calibration(claimed, own, texts="11")
    refused(
        request_of(claimed), r"av's claims.json \(av/claims.json\) is not the one of the evaluation, which is another"
    )
    own.unlink()
    calibration(claimed, claimed.evaluation.parent / CLAIMS, **{"eval.parquet": "22"})
    refused(request_of(claimed), "claims.json is not the table that .* was computed from")
    named(claimed)
    refused(request_of(claimed), "claims.json is of another evaluation: eval.parquet is not the one of its inputs")


def test_an_evaluation_without_claims_and_an_av_with_a_calibration_are_refused(writable, made):
    calibration(made, made.pair / CLAIMS)
    refused(request_of(made), r"av's claims.json \(pair/claims.json\) is not the one of the evaluation, which has none")


def test_a_calibration_of_other_halves_is_refused(writable, made):
    for role in ("av", "ar"):
        name = f"{role}/adapter_model.safetensors"
        calibration(made, made.pair / "av" / CLAIMS, **{name: "00"})
        refused(request_of(made, evaluation=None), f"claims.json is of other halves: {name} differs")
    file = made.pair / "av" / CLAIMS
    Calibration(
        made_from={"eval.parquet": "0"}, data="eval.parquet", unit="FVE", baseline_mse=0.2, kinds={"word": WORD}
    ).save(file)
    refused(request_of(made, evaluation=None), "claims.json is of other halves: it names no AV; it names no AR")
    calibration(made, file)
    file.write_text(file.read_text(encoding="utf-8").replace("-0.4", "-0.5"), encoding="utf-8")
    refused(request_of(made, evaluation=None), "claims.json was changed after it was written")


def test_a_calibration_of_a_base_in_a_folder_is_refused(writable, made):
    """Publishing names the base by its Hub id there: the file would not be the one that the calibration names."""
    config = made.pair / "av" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "/models/base"}))
    calibration(made, made.pair / "av" / CLAIMS)
    refused(request_of(made, evaluation=None), "names the base by a folder of this machine, and claims.json holds")


def test_an_av_alone_is_published_with_its_calibration_and_says_what_was_not_checked(writable, made):
    calibration(made, made.pair / "av" / CLAIMS)
    with prepared(request_of(made, checkpoint=made.pair / "av", evaluation=None)) as plan:
        assert CLAIMS in plan.repositories[0].staged.files()
        assert any("the AR that claims.json was made with is not at hand" in warning for warning in plan.warnings)


def test_a_checkpoint_of_a_trajectory_has_its_calibration(writable, claimed, tmp_path):
    steps = [shutil.copytree(claimed.pair / "av", tmp_path / name) for name in ("step_5", "step_10")]
    shutil.copytree(claimed.evaluation.parent, steps[1] / "evaluation")
    with prepared(PublishRequest(repo="owner/run", trajectory=steps)) as plan:
        files = plan.repositories[0].staged.files()
        assert f"step_10/{CLAIMS}" in files and f"step_5/{CLAIMS}" not in files
        assert f"step_10/evaluation/{CLAIMS_TABLE}" in files
    calibration(claimed, steps[0] / CLAIMS, **{"av/adapter_model.safetensors": "00"})
    refused(PublishRequest(repo="owner/run", trajectory=steps), "step_5: claims.json is of other halves")


# --- the bundled pair -------------------------------------------------------------------------------------------------
@pytest.fixture
def demo(claimed, tmp_path, monkeypatch) -> Path:
    """A bundled pair's folder."""
    folder = shutil.copytree(claimed.pair, tmp_path / "demo")
    shutil.copyfile(claimed.tables[0], folder / "heldout.parquet")
    monkeypatch.setattr(bundle, "DEMO", folder)
    real = bundle.verify
    monkeypatch.setattr(bundle, "verify", lambda path, **named: real(path, av=named["av"], ar=named["ar"]))
    return folder


def test_a_bundled_log_shows_what_the_whole_one_does(tmp_path):
    whole = [{"step": step, "loss": 1 / (step + 1), "lr": 0.1, "seconds": 1.5} for step in range(5)]
    whole[4] |= {"heldout_loss": 1.0, "heldout_loss_shuffled": 2.0, "peak_memory_gib": 3.0}
    log, thin = tmp_path / "log.jsonl", tmp_path / "thin.jsonl"
    log.write_text("".join(json.dumps(record) + "\n" for record in whole))
    thin.write_text("".join(f"{line}\n" for line in bundle.thinned(log)))
    assert read_losses(thin) == read_losses(log) and heldout_curves(thin, "av") == heldout_curves(log, "av")
    assert [record["seconds"] for record in read_log(thin)] == [1.5] * 5 and read_log(thin)[4] == whole[4]
    assert thin.stat().st_size < log.stat().st_size


def test_bundling_an_evaluation_puts_its_claims_beside_it_and_takes_old_ones_away(claimed, demo):
    source = claimed.evaluation.parent
    calibration(claimed, demo / CLAIMS, texts="of the evaluation before")
    bundle.ship_evaluation(source)
    for name in (CLAIMS, CLAIMS_TABLE, EVALUATION, *load(claimed.evaluation).files):
        assert (demo / name).read_bytes() == (source / name).read_bytes()
    found = load(claimed.evaluation)
    files = {name: digest for name, digest in found.files.items() if name not in (CLAIMS, CLAIMS_TABLE)}
    claimed.evaluation.write_text(dumps(found.model_copy(update={"files": files})), encoding="utf-8")
    bundle.ship_evaluation(source)
    assert not (demo / CLAIMS).exists() and not (demo / CLAIMS_TABLE).exists()


def test_bundling_refuses_a_calibration_of_another_pair(claimed, demo):
    calibration(claimed, claimed.evaluation.parent / CLAIMS, **{"ar/linear_head.safetensors": "00"})
    named(claimed)
    with pytest.raises(RefusedError, match="claims.json is of other halves: ar/linear_head.safetensors"):
        bundle.ship_evaluation(claimed.evaluation.parent)
    assert not (demo / CLAIMS).exists() and not (demo / EVALUATION).exists()


def test_examples_of_claims_are_the_first_rows_whole_with_what_does_not_hold():
    rows = pa.table({"doc_id": ["d", "d", "e"], "row_id": ["1", "2", "1"]})
    columns = ("doc_id", "row_id", "number", "claim", "claim_kind", "supported", "support")
    values = [
        ("d", "1", 2, "x|y <b>", "word", False, 0.249),
        ("d", "1", 0, "mat", "next token", True, 0.751),
        ("d", "1", 1, "sofa", "next token", False, 0.3111),
        ("e", "1", 0, "Paris", "quote", None, None),
    ]
    claims = pa.Table.from_pylist([dict(zip(columns, one, strict=True)) for one in values])
    texts = {("d", "1"): "one two " * 9 + "three", ("d", "2"): "a * b", ("e", "1"): "The city of"}
    lines = bundle.claims_table(rows, claims, texts)
    assert lines[2:] == [
        "| 1 | … two one two one two one two one two one two three | next token “mat” 0.75 ✓, “sofa” 0.31 ✗; "
        r"word “x\|y \<b\>” 0.25 ✗ |",
        r"| 2 | … a \* b | no claims |",
        "| 3 | … The city of | quote “Paris” without a probability ? |",
    ]
    with pytest.raises(InputError, match="no text of row 2 of document d"):
        bundle.claims_table(rows, claims, {("d", "1"): "a"})


def test_examples_without_shipped_claims_say_so(demo):
    with pytest.raises(InputError, match="ship an evaluation that has claims"):
        bundle.claim_examples(Path("eval.parquet"))
