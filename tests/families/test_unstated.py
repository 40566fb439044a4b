"""Where a generic loader goes wrong without an error as nobody says it: refused, with the fact and how to state it."""

from __future__ import annotations

import math
import shutil

import pytest
import yaml

from nla_sdk import NLAPair
from nla_sdk.contract.releases.known import known_release
from nla_sdk.errors import MissingParentError, UnstatedFactError
from tests import tiny

from . import easy, plain, templates
from .family import load, without

pytestmark = pytest.mark.filterwarnings("ignore::nla_sdk.errors.UnmatchedPairWarning")
ADD_1 = ["nanoNLA merged", "EasyNLA with the norm kept", "several layers in one prompt"]


# --- where and at what norm the vector goes -------------------------------------------------------------------------
@pytest.mark.parametrize("name", ADD_1)
def test_an_av_of_add_1_is_refused_until_its_site_is_stated_and_then_named_with_who_has_it(name, family):
    found = family(name)
    with pytest.raises(UnstatedFactError) as refused:
        NLAPair.from_pretrained(found.halves["av"], contract=without(found.contract, "injection"))
    said = str(refused.value)
    assert "`injection.site` is not stated" in said and "kitft/" in said and "embedding" in said and "block" in said
    assert "--contract injection.site=" in said


def test_the_same_vectors_overwritten_and_added_are_other_words(family, loaded):
    vectors, _ = family("nanoNLA merged").clear_rows()
    overwrite = {"site": "embedding", "rule": "replace", "norm": "fixed", "scale": 150}
    wrong = load(family("nanoNLA merged"), injection=overwrite)
    right = list(loaded("nanoNLA merged").explain(vectors))
    assert sum(a != b for a, b in zip(wrong.explain(vectors), right, strict=True)) > len(right) // 4


def test_a_sidecar_with_a_scale_is_never_taken_for_add_1(loaded):
    assert loaded("kitft on Qwen").av_contract.injection.site == "embedding"
    assert loaded("nanoNLA merged").av_contract.injection.scale is None


@pytest.mark.parametrize("left", [None, "absent"])
def test_an_overwriting_av_without_its_scale_is_refused_not_run_at_another(left, copied):
    folder, found = copied("kitft on Qwen", "av")
    extraction = yaml.safe_load((folder / "nla_meta.yaml").read_text(encoding="utf-8"))["extraction"]
    extraction["injection_scale"] = None
    tiny.write_sidecar(folder, extraction=without(extraction, "injection_scale") if left else extraction)
    stated = found.contract | {"injection": {"site": "embedding", "rule": "replace"}}
    with pytest.raises(UnstatedFactError, match=r"`injection\.norm` is not stated.*never guessed"):
        NLAPair.from_pretrained(folder, contract=stated)
    stated["injection"] = {"site": "embedding", "rule": "replace", "norm": "fixed"}
    with pytest.raises(UnstatedFactError, match=r"`injection\.scale` is not stated.*150.*--contract injection\.scale"):
        NLAPair.from_pretrained(folder, contract=stated)


def test_of_one_release_the_folders_have_the_scale_that_each_was_trained_at():
    repo = "Solshine/gemma-4-e2b-nla-L23-av-v0_1_x-trajectory"
    for folder in ("inj20k_a", "norms_inj20k_b", "norms_inj20k_cumstep_c", "short_hybrid_d"):
        assert known_release(repo, folder)["injection"]["scale"] == 20000
    for folder in ("step_000050", "r80_step_000100"):
        assert known_release(repo, folder)["injection"]["norm"] == "sqrt_d"


def test_multiplied_by_a_number_and_set_to_it_are_told_apart(family, loaded):
    vectors, expected = family("frozen multiplier").clear_rows()
    injection = family("frozen multiplier").stated["injection"] | {"norm": "fixed"}
    set_to = load(family("frozen multiplier"), injection=injection)
    assert list(loaded("frozen multiplier").explain(vectors)) == expected
    assert list(set_to.explain(vectors)) != expected


# --- adapters and what they sit on ----------------------------------------------------------------------------------
def test_a_lora_whose_flag_nobody_reads_would_be_weaker_and_is_not(family, loaded):
    found = family("EasyNLA with the norm kept")
    vectors, expected = found.clear_rows()
    base = plain.model_of(loaded("EasyNLA with the norm kept").base_path, (found.halves["av"], easy.PLAIN))
    weak = type(found.av)(**{**vars(found.av), "model": base})
    assert [text for text, _ in weak.written(vectors)] != expected
    assert math.isclose(easy.STABLE / easy.PLAIN, math.sqrt(easy.R))


@pytest.mark.parametrize("name", ["EasyNLA with the norm kept", "two LoRAs at once"])
def test_the_ar_file_that_no_config_goes_with_runs_rank_stabilised(name, family, loaded):
    texts = templates.TEXTS
    assert plain.distance(family(name).reconstruct(loaded(name), texts), family(name).ar(texts)) < 1e-4
    stated = family(name).contract | {"weights": {"rslora": False}}
    weak = NLAPair.from_pretrained(None, family(name).halves["ar"], contract=stated)
    assert plain.distance(weak.reconstruct(texts), family(name).ar(texts)) > 1e-2


def test_an_adapter_on_a_parent_that_is_not_there_is_refused(tmp_path, family):
    found = family("LoRA on a merged parent")
    repo = shutil.copytree(found.halves["av"], tmp_path / "repo")
    shutil.rmtree(repo / "av_base")
    with pytest.raises(MissingParentError, match=r"trained on top of av_base.*could not be had"):
        NLAPair.from_pretrained(repo, subfolder=found.halves["subfolder"], contract=found.contract)


def test_on_the_plain_base_such_an_adapter_would_write_other_words(family, loaded):
    found = family("LoRA on a merged parent")
    vectors, expected = found.clear_rows()
    on_base = plain.model_of(found.notes["base"], (found.notes["adapter"], easy.STABLE))
    assert [text for text, _ in type(found.av)(**{**vars(found.av), "model": on_base}).written(vectors)] != expected
    assert list(loaded("LoRA on a merged parent").explain(vectors)) == expected


def test_an_adapter_that_names_another_model_than_the_base_is_refused_until_its_parent_is_stated(tmp_path, family):
    found = family("EasyNLA with the norm kept")
    folder = shutil.copytree(found.halves["av"], tmp_path / "av")
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace(str(found.notes["base"]), "owner/warmstart"))
    with pytest.raises(MissingParentError, match=r"trained on owner/warmstart"):
        NLAPair.from_pretrained(folder, contract=found.contract | {"base_model": "owner/lm"}, base=found.notes["base"])
