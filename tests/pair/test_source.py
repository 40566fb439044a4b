"""Activations read from a fine-tune of the base, full or an adapter, while the pair stays the base's."""

from __future__ import annotations

import shutil

import pytest
import torch

from nla_sdk import NLAPair
from nla_sdk.contract import Contract
from nla_sdk.errors import ForeignActivationError, MismatchedHalvesError, MissingFileError, MissingParentError
from nla_sdk.halves.memory.bases import Base
from nla_sdk.halves.memory.source import Source
from nla_sdk.jobs.identity import identify
from tests import reference, tiny
from tests.conftest import DEPTHS
from tests.merged import merged

TEXTS = ["The cat sat on the mat.", "Go"]
LAYER = DEPTHS["shared"][0]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, gemma_base, gemma):
    """An adapter, and a full checkpoint with it merged by hand."""
    root = tmp_path_factory.mktemp("tuned")
    adapter = tiny.write_adapter(root / "adapter", tiny.lora_tensors(gemma, tiny.EVERY_LINEAR, 6000), tiny.EVERY_LINEAR)
    model = merged(gemma_base, adapter)
    model.save_pretrained(root / "full")
    tiny.tokenizer().save_pretrained(root / "full")
    return {"adapter": adapter, "full": root / "full", "model": model.eval()}


def states(pair, model, text):
    ids = pair.source.tokenizer("<bos>" + text, add_special_tokens=False).input_ids
    return reference.states(model, ids, LAYER)


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_texts_are_read_from_the_source_and_all_else_is_the_bases(lora_folders, pair, tuned, gemma, kind):
    audited = NLAPair.from_pretrained(lora_folders["shared"], source=tuned[kind])
    for text in TEXTS:
        found = audited.extract(text, "all")
        assert reference.distance(found.vectors, states(audited, tuned["model"], text)) < 1e-4
        assert found.model == str(tuned[kind])
        assert reference.distance(pair.extract(text, "all").vectors, states(pair, gemma, text)) < 1e-4
    vectors = audited.extract(TEXTS).vectors
    assert reference.distance(vectors, pair.extract(TEXTS).vectors) > 0.1, "the fine-tune must matter"
    rows = tiny.random(3, tiny.D_MODEL, seed=5, scale=4.0)
    assert audited.explain(rows) == pair.explain(rows)
    assert torch.equal(audited.reconstruct(TEXTS), pair.reconstruct(TEXTS))
    trip = audited.round_trip(TEXTS[0])
    assert reference.distance(trip.activation, states(audited, tuned["model"], TEXTS[0])[-1]) < 1e-4
    assert trip.explanation == pair.explain(trip.activation)
    assert (audited.source is pair.source) == (kind == "adapter"), "an adapter shares the base in memory"
    assert f"layer {LAYER} of {tuned[kind]} (a fine-tune of the base)" in repr(audited)


def test_work_done_with_another_source_is_not_gone_on_with(lora_folders, pair, tuned):
    told = [
        identify(NLAPair.from_pretrained(lora_folders["shared"], source=tuned[kind])) for kind in ("adapter", "full")
    ]
    assert "source" not in identify(pair)
    assert all(str(tuned[kind]) in one["source"] for kind, one in zip(("adapter", "full"), told, strict=True))


def test_activations_of_the_source_are_taken_and_those_of_the_base_are_not(lora_folders, pair, tuned):
    audited = NLAPair.from_pretrained(lora_folders["shared"], source=tuned["full"])
    audited.explain(audited.extract(TEXTS))
    with pytest.raises(ForeignActivationError, match=r"activations of model .*; this pair reads model .*full"):
        audited.explain(pair.extract(TEXTS))
    with pytest.raises(ForeignActivationError, match="this pair reads model"):
        pair.explain(audited.extract(TEXTS))


def test_a_table_says_the_base_and_the_source(lora_folders, tuned):
    audited = NLAPair.from_pretrained(lora_folders["shared"], source=tuned["full"])
    audited.extract(TEXTS[0])
    facts = audited.origin.facts()
    assert (facts["base_model"], facts["source_model"]) == (audited.base.ref, str(tuned["full"]))


def test_a_saved_pair_remembers_its_source_and_its_contract_is_obeyed(tmp_path, lora_folders, tuned):
    audited = NLAPair.from_pretrained(lora_folders["shared"], source=tuned["adapter"])
    expected = audited.extract(TEXTS).vectors
    audited.save_pretrained(tmp_path / "saved")
    assert Contract.load(tmp_path / "saved" / "av").source_model == str(tuned["adapter"])
    assert torch.equal(NLAPair.from_pretrained(tmp_path / "saved").extract(TEXTS).vectors, expected)


def test_a_contracts_source_is_looked_for_when_it_is_read(copied):
    folder = copied()
    for half in ("av", "ar"):
        tiny.write_sidecar(folder / half, source_model=str(folder / "gone"))
    pair = NLAPair.from_pretrained(folder)
    pair.explain(tiny.random(1, tiny.D_MODEL, seed=5, scale=4.0), force=True)
    with pytest.raises(Exception, match="gone does not exist"):
        pair.extract("a cat")


def test_halves_of_two_sources_are_no_pair(copied):
    folder = copied()
    for half in ("av", "ar"):
        tiny.write_sidecar(folder / half, source_model=f"owner/tuned-{half}")
    with pytest.raises(MismatchedHalvesError, match="has source_model owner/tuned-av, the AR .* has owner/tuned-ar"):
        NLAPair.from_pretrained(folder)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            tiny.gemma_config(
                num_hidden_layers=5, layer_types=["sliding_attention"] * 4 + ["full_attention"], num_kv_shared_layers=0
            ),
            "number of blocks 5, the pair's base .* has 6",
        ),
        (tiny.llama_config(6, hidden_size=32), "d_model 32, the pair's base .* has 64"),
    ],
)
def test_a_source_of_another_shape_is_refused_by_name(tmp_path, lora_folders, config, said):
    other = tiny.save_model(tmp_path / "other", config, tiny.tokenizer(), seed=9)
    with pytest.raises(MismatchedHalvesError, match=f"The source .*other has {said}: it is no fine-tune of that base"):
        NLAPair.from_pretrained(lora_folders["shared"], source=other)


def test_a_source_with_another_vocabulary_is_refused(tmp_path, lora_folders, tuned):
    other = shutil.copytree(tuned["full"], tmp_path / "other")
    tiny.tokenizer(marker=False).save_pretrained(other)
    with pytest.raises(MismatchedHalvesError, match=f"another vocabulary than .* \\(token '{tiny.MARKER}'\\)"):
        NLAPair.from_pretrained(lora_folders["shared"], source=other)


def test_a_source_without_a_tokenizer_reads_with_the_bases(tmp_path, lora_folders, tuned):
    other = shutil.copytree(tuned["full"], tmp_path / "other")
    for file in other.glob("*token*"):
        file.unlink()
    audited = NLAPair.from_pretrained(lora_folders["shared"], source=other)
    assert reference.distance(audited.extract("Go", "all").vectors, states(audited, tuned["model"], "Go")) < 1e-4


def test_an_adapter_of_another_model_is_no_source(tmp_path, tuned):
    other = shutil.copytree(tuned["adapter"], tmp_path / "other")
    config = other / "adapter_config.json"
    config.write_text(config.read_text().replace('"tiny"', '"lab/another"'))
    base = Base("lab/model", where={}, options={})
    source = Source(
        str(other), base, like=lambda: None, d_model=tiny.D_MODEL, where={"local_files_only": True}, options={}
    )
    with pytest.raises(MissingParentError, match=r"says it was trained on lab/another.* Merge it into that model"):
        source.find()


def test_a_source_that_is_not_there_is_refused_at_once(lora_folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match="empty holds no checkpoint"):
        NLAPair.from_pretrained(lora_folders["shared"], source=tmp_path / "empty")


def test_vectors_are_compared_with_the_bases_and_the_report_says_so(lora_folders, tuned):
    audited = NLAPair.from_pretrained(lora_folders["shared"], source=tuned["adapter"])
    report = audited.check_activations(torch.full((20, tiny.D_MODEL), 1e3) + tiny.random(20, tiny.D_MODEL, seed=3))
    assert report.verdict == "suspect"
    assert report.cause.endswith(f"(compared with the base {audited.base.ref}, not its fine-tune {tuned['adapter']})")


def test_the_command_line_reads_from_a_source(lora_folders, tuned):
    import json

    from typer.testing import CliRunner

    from nla_sdk.cli.app import app

    audited = NLAPair.from_pretrained(lora_folders["shared"], source=tuned["adapter"])
    expected = audited.round_trip("Go")
    options = ["--av", str(lora_folders["shared"]), "--source", str(tuned["adapter"]), "--json"]
    result = CliRunner().invoke(app, ["round-trip", "Go", *options])
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout.splitlines()[-1])
    assert row["api_explanation"] == expected.explanation and abs(row["cosine"] - expected.cosine) < 1e-4
