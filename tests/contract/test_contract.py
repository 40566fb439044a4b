"""nla_meta.yaml: every dialect in, one canonical form out, nothing lost, every refusal named."""

import copy
import datetime
import math
import os
import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nla_sdk.contract import DIALECTS, SIDECAR_NAME, Contract, sidecar_path
from nla_sdk.errors import ContractError, ContractMismatchError, MarkerError, MissingFileError, NLAError

quick = settings(max_examples=60, deadline=None, database=None)

AV = {
    "kind": "nla_model",
    "role": "av",
    "base_model": "owner/lm",
    "d_model": 1536,
    "layer": 23,
    "injection_char": "㊗",
    "av_template": "Vector: <concept>{injection_char}</concept>",
}
AR = {
    "kind": "nla_model",
    "role": "ar",
    "base_model": "owner/lm",
    "d_model": 1536,
    "layer": 23,
    "ar_num_blocks": 18,
    "ar_template": "Summary of: <text>{explanation}</text> <summary>",
}


def put(contract: dict, key: str, value) -> dict:
    """A copy with `key` (also `block.key`) set, and the attribute's canonical key gone."""
    contract = copy.deepcopy(contract)
    attribute = next((name for name, keys in DIALECTS.items() if key in keys), key)
    contract.pop(attribute, None)
    block, _, leaf = key.rpartition(".")
    (contract.setdefault(block, {}) if block else contract)[leaf] = value
    return contract


def drop(contract: dict, *names: str) -> dict:
    return {key: value for key, value in contract.items() if key not in names}


# --- dialects --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("base", "key", "value", "attribute", "expected"),
    [
        (AV, "role", "av", "role", "av"),
        (AV, "role", "actor", "role", "av"),
        (AR, "role", "ar", "role", "ar"),
        (AR, "role", "critic", "role", "ar"),
        (AV, "base_model", "a/b", "base_model", "a/b"),
        (AV, "base_checkpoint", "a/b", "base_model", "a/b"),
        (AV, "extraction.base_model", "a/b", "base_model", "a/b"),
        (AV, "d_model", 64, "d_model", 64),
        (AV, "extraction.d_model", 64, "d_model", 64),
        (AV, "layer", 0, "layer", 0),
        (AV, "extraction.layer", 7, "layer", 7),
        (AV, "extraction.layer_index", 7, "layer", 7),
        (AV, "extraction_layer_index", 7, "layer", 7),
        *[
            (AV, key, value, key.split(".")[-1], value)
            for name, value in [
                ("injection_char", "㈎"),
                ("injection_token_id", 9),
                ("injection_left_neighbor_id", 8),
                ("injection_right_neighbor_id", 7),
            ]
            for key in (name, f"tokens.{name}", f"extraction.{name}")
        ],
        (AR, "critic_suffix_ids", [1, 2], "critic_suffix_ids", [1, 2]),
        (AR, "tokens.critic_suffix_ids", [1, 2], "critic_suffix_ids", [1, 2]),
        (AR, "tokens.critic_suffix_ids", None, "critic_suffix_ids", None),
        (AR, "tokens.critic_suffix_ids", [], "critic_suffix_ids", None),
        (AV, "prompt_templates.av", "{injection_char}!", "av_template", "{injection_char}!"),
        (AV, "prompt_templates.actor", "{injection_char}!", "av_template", "{injection_char}!"),
        (AR, "prompt_templates.ar", "{explanation}!", "ar_template", "{explanation}!"),
        (AR, "prompt_templates.critic", "{explanation}!", "ar_template", "{explanation}!"),
        (AR, "ar_num_blocks", 18, "ar_num_blocks", 18),
        (AR, "ar.num_hidden_layers", 17, "ar_num_blocks", 18),
        (AR, "critic.num_hidden_layers", 17, "ar_num_blocks", 18),
        (AR, "critic.extraction_layer_index", "17", "ar_num_blocks", 18),
        (AR, "compute_dtype", "torch.bfloat16", "compute_dtype", "bfloat16"),
        (AR, "compute_dtype", "fp16", "compute_dtype", "float16"),
    ],
)
def test_every_dialect_of_a_key_is_read(base, key, value, attribute, expected):
    contract = Contract.from_dict(put(base, key, value))
    assert getattr(contract, attribute) == expected
    assert contract.origins[attribute] == ("default" if expected is None else "sidecar")
    assert "." not in "".join(map(str, contract.to_dict()))
    assert not contract.extras, "a known key must not survive in its old place"


@pytest.mark.parametrize("place", ["injection_scale", "extraction.injection_scale"])
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("150", 150.0),
        ("150.5", 150.5),
        ("1e4", 1e4),  # a string in YAML 1.1
        ("'39.19'", 39.19),
        ("'20_000'", 20_000.0),
        ("20_000", 20_000.0),
        ("sqrt_d_model", math.sqrt(1536)),
        ("null", None),
        ("raw", None),
    ],
)
def test_a_scale_is_a_number_a_numeric_string_the_root_of_d_model_or_null(place, written, expected):
    contract = Contract.from_dict(put(AV, place, yaml.safe_load(written)))
    assert contract.injection_scale == expected
    assert contract.origins["injection_scale"] == "sidecar"


def test_an_absent_scale_is_the_root_of_d_model():
    contract = Contract.from_dict(AV)
    assert contract.injection_scale == contract.mse_scale == math.sqrt(1536)
    assert contract.origins["injection_scale"] == "default"


def test_a_null_scale_stays_null_through_save_and_load(tmp_path):
    contract = Contract.from_dict(AV | {"injection_scale": None})
    assert "injection_scale: null" in contract.save(tmp_path).read_text()
    loaded = Contract.load(tmp_path)
    assert loaded.injection_scale is None
    assert loaded.mse_scale == math.sqrt(1536)


@pytest.mark.parametrize("value", ["auto", "", True, [1], -3, 0, math.nan, math.inf, "nan"])
def test_an_av_whose_scale_cannot_be_known_is_refused(value):
    with pytest.raises(ContractError, match=r"extraction\.injection_scale"):
        Contract.from_dict(put(AV, "extraction.injection_scale", value), source="x.yaml")


@pytest.mark.parametrize("value", [None, "auto"])
def test_the_injection_scale_of_an_ar_is_unused(value):
    assert Contract.from_dict(put(AR, "extraction.injection_scale", value)).injection_scale is None


def test_the_reference_dialect_as_a_whole():
    contract = Contract.from_dict(
        yaml.safe_load(
            """
            kind: nla_model
            schema_version: 2
            role: critic
            base_checkpoint: owner/lm
            d_model: 3840
            extraction_layer_index: 32
            extraction: {injection_scale: null, mse_scale: 61.96, norm: none}
            tokens: {injection_char: ㈜, injection_token_id: 246566, critic_suffix_ids: null}
            prompt_templates: {actor: "<c>{injection_char}</c>", critic: "{explanation}</text>"}
            critic: {num_hidden_layers: 32, extraction_layer_index: 32}
            """
        )
    )
    assert contract.to_dict() == {
        "kind": "nla_model",
        "role": "ar",
        "base_model": "owner/lm",
        "d_model": 3840,
        "layer": 32,
        "injection_scale": None,
        "mse_scale": 61.96,
        "injection_char": "㈜",
        "injection_token_id": 246566,
        "av_template": "<c>{injection_char}</c>",
        "ar_template": "{explanation}</text>",
        "prompt_style": "raw",
        "ar_num_blocks": 33,
        "schema_version": 2,
        "extraction": {"norm": "none"},
    }


def test_the_role_follows_from_the_only_template_or_depth():
    av, ar = Contract.from_dict(drop(AV, "role")), Contract.from_dict(drop(AR, "role"))
    assert (av.role, ar.role) == ("av", "ar")
    assert av.origins["role"] == "derived"
    with pytest.raises(ContractError, match="`role` is missing"):
        Contract.from_dict(drop(AV | AR, "role"))


def test_a_table_needs_neither_role_nor_geometry(tmp_path):
    contract = Contract.from_dict({"kind": "nla_dataset", "stage": "av_sft", "row_count": 696})
    assert (contract.role, contract.d_model, contract.injection_scale) == (None, None, None)
    assert contract.to_dict() == {
        "kind": "nla_dataset",
        "prompt_style": "raw",
        "stage": "av_sft",
        "row_count": 696,
    }
    file = contract.save(tmp_path / "rows.parquet")
    assert file == tmp_path / f"rows.parquet.{SIDECAR_NAME}"
    assert Contract.load(tmp_path / "rows.parquet") == Contract.load(file) == contract


def test_the_kind_of_a_sidecar_without_one_follows_from_its_name(tmp_path):
    (tmp_path / f"rows.parquet.{SIDECAR_NAME}").write_text("d_model: 64")
    contract = Contract.load(tmp_path / "rows.parquet")
    assert contract.kind == "nla_dataset"
    assert contract.origins["kind"] == "derived"


def test_the_constructor_takes_and_checks_the_same():
    assert Contract(**AV) == Contract.from_dict(AV)
    with pytest.raises(ContractError, match="`d_model` is 'wide': expected a whole number"):
        Contract(**AV | {"d_model": "wide"})


# --- contradictions and refusals -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("extra", "keys", "values"),
    [
        ({"extraction": {"d_model": 64}}, ("d_model", "extraction.d_model"), ("1536", "64")),
        ({"extraction": {"layer": 23, "layer_index": 24}}, ("layer", "extraction.layer_index"), ("23", "24")),
        ({"base_checkpoint": "a/b"}, ("base_model", "base_checkpoint"), ("'owner/lm'", "'a/b'")),
        ({"ar_num_blocks": 18, "ar": {"num_hidden_layers": 18}}, ("ar_num_blocks", "ar.num_hidden_layers"), ("18",)),
        (
            {"injection_scale": 150, "extraction": {"injection_scale": None}},
            ("injection_scale", "extraction.injection_scale"),
            ("150", "None"),
        ),
        (
            {"prompt_templates": {"av": "{injection_char}", "actor": "{injection_char}!"}},
            ("av_template", "prompt_templates.av"),
            ("'{injection_char}'",),
        ),
    ],
)
def test_two_keys_that_disagree_are_both_named(extra, keys, values):
    with pytest.raises(ContractError) as caught:
        Contract.from_dict(AV | extra, source="some/nla_meta.yaml")
    message = str(caught.value)
    assert "some/nla_meta.yaml" in message
    for word in (*(f"`{key}`" for key in keys), *values):
        assert word in message


def test_two_keys_that_agree_are_fine():
    contract = Contract.from_dict(
        AR
        | {
            "base_checkpoint": "owner/lm",
            "extraction": {"d_model": "1536", "layer": 23, "layer_index": 23.0, "injection_scale": "sqrt_d_model"},
            "injection_scale": "39.19",
            "ar": {"num_hidden_layers": 17},
            "critic": {"num_hidden_layers": 17, "extraction_layer_index": 17},
        }
    )
    assert (contract.ar_num_blocks, contract.layer, contract.injection_scale) == (18, 23, 39.19)
    assert not contract.extras


@pytest.mark.parametrize(
    ("contract", "attribute", "dialects"),
    [
        (drop(AV, "role") | {"ar_template": "{explanation}"}, "role", ()),
        (drop(AV, "base_model"), "base_model", ("base_checkpoint",)),
        (drop(AV, "d_model"), "d_model", ("extraction.d_model",)),
        (drop(AV, "layer"), "layer", ("extraction.layer", "extraction.layer_index", "extraction_layer_index")),
        (drop(AV, "av_template"), "av_template", ("prompt_templates.av", "prompt_templates.actor")),
        (drop(AV, "injection_char"), "injection_char", ("tokens.injection_char", "injection_token_id")),
        (drop(AR, "ar_template"), "ar_template", ("prompt_templates.ar", "prompt_templates.critic")),
        (
            drop(AR, "ar_num_blocks"),
            "ar_num_blocks",
            ("ar.num_hidden_layers", "critic.num_hidden_layers", "critic.extraction_layer_index"),
        ),
        (AR | {"activation_mean": "mean.safetensors"}, "centred_norm", ()),
    ],
)
def test_what_is_missing_is_named_with_its_file_and_other_names(tmp_path, contract, attribute, dialects):
    file = tmp_path / SIDECAR_NAME
    file.write_text(yaml.safe_dump(contract, allow_unicode=True), encoding="utf-8")
    with pytest.raises(ContractError) as caught:
        Contract.load(tmp_path)
    message = str(caught.value)
    for word in (f"`{attribute}` is missing", str(file), "Add it", *dialects):
        assert word in message


@pytest.mark.parametrize(
    ("base", "key", "value"),
    [
        (AV, "kind", "nla_thing"),
        (AV, "role", "judge"),
        (AV, "d_model", "wide"),
        (AV, "extraction.d_model", 0),
        (AV, "d_model", True),
        (AV, "d_model", 15.5),
        (AV, "extraction.layer_index", -1),
        (AV, "layer", [23]),
        (AV, "base_checkpoint", 5),
        (AV, "base_model", ""),
        (AV, "base_revision", 123),
        (AV, "tokens.injection_token_id", -1),
        (AV, "prompt_templates.actor", ["a"]),
        (AV, "prompt_style", "poem"),
        (AV, "compute_dtype", "int3"),
        (AV, "max_length", 0),
        (AV, "max_new_tokens", "many"),
        (AV, "centred_norm", 0),
        (AV, "baseline_mse", "nan"),
        (AV, "provenance", "by hand"),
        (AR, "critic.num_hidden_layers", "all"),
        (AR, "ar_num_blocks", 0),
        (AR, "head_bias", "perhaps"),
        (AR, "tokens.critic_suffix_ids", ["a"]),
    ],
)
def test_a_wrong_value_is_refused_with_the_key_it_was_found_under(base, key, value):
    with pytest.raises(ContractError) as caught:
        Contract.from_dict(put(base, key, value), source="dir/nla_meta.yaml")
    assert f"`{key}` is {value!r}" in str(caught.value) or f"`{key}`" in str(caught.value)
    assert str(caught.value).startswith("dir/nla_meta.yaml: ")
    assert "pydantic" not in str(caught.value)


@pytest.mark.parametrize("name", ["../mean.npy", "a/b.npy", "a\\b.npy", "..", ".hidden", "/etc/passwd", "C:x", "a\n"])
def test_activation_mean_is_a_bare_file_name(name):
    with pytest.raises(ContractError, match="`activation_mean`"):
        Contract.from_dict(AV | {"activation_mean": name})
    assert Contract.from_dict(AV | {"activation_mean": "mean-v1.0.safetensors"}).activation_mean


@pytest.mark.parametrize("pair", ["../ar", "/tmp/ar", "a\\b", "owner/../x", "~/ar", "https://x.y/z"])
def test_pair_is_a_repository_and_never_a_path_elsewhere(pair):
    with pytest.raises(ContractError, match="`pair`"):
        Contract.from_dict(AV | {"pair": pair})
    assert Contract.from_dict(AV | {"pair": "owner/name-v0_1.x"}).pair == "owner/name-v0_1.x"


@pytest.mark.parametrize(
    ("base", "key", "text", "field"),
    [
        (AV, "prompt_templates.av", "no field", "{injection_char}"),
        (AV, "av_template", "{injection_char}{injection_char}", "{injection_char}"),
        (AR, "prompt_templates.critic", "no field", "{explanation}"),
        (AR, "ar_template", "{explanation} {explanation}", "{explanation}"),
    ],
)
def test_a_template_has_its_field_exactly_once(base, key, text, field):
    with pytest.raises(ContractError) as caught:
        Contract.from_dict(put(base, key, text))
    assert field in str(caught.value)
    assert key in str(caught.value)
    assert "exactly once" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"- a\n- b\n", "holds a list"),
        (b"just text", "holds a str"),
        (b"a: [1, 2\nb: 3", "not valid YAML at line"),
        (b"a: b: c", "not valid YAML at line 1"),
        (b"\xff\xfe\xfa", "not valid YAML"),
        (b"a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        (b"a: 2024-99-99", "not valid YAML"),
        (b"[" * 20_000, "not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_says_what_it_is(tmp_path, content, said):
    file = tmp_path / SIDECAR_NAME
    file.write_bytes(content)
    with pytest.raises(ContractError) as caught:
        Contract.load(tmp_path)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_and_a_missing_folder_are_told_apart(tmp_path):
    with pytest.raises(MissingFileError, match=r"nla_meta\.yaml does not exist: a checkpoint needs"):
        Contract.load(tmp_path)
    with pytest.raises(MissingFileError, match=r"nowhere does not exist"):
        Contract.load(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match=r"rows\.parquet\.nla_meta\.yaml does not exist"):
        Contract.load(tmp_path / "rows.parquet")


@pytest.mark.parametrize("value", [None, 5, [("kind", "nla_model")]])
def test_only_a_mapping_is_a_contract(value):
    with pytest.raises(ContractError, match="expected a mapping"):
        Contract.from_dict(value)


def test_shared_nodes_do_not_grow_and_blocks_shared_by_alias_stay_whole(tmp_path):
    bomb = "x0: &x0 [a, a]\n" + "".join(f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}, *x{n - 1}]\n" for n in range(1, 40))
    blocks = "extraction: &e {d_model: 1536, foo: 1}\nbackup: *e\n"
    file = tmp_path / SIDECAR_NAME
    file.write_text(yaml.safe_dump(drop(AV, "d_model"), allow_unicode=True) + blocks + bomb, encoding="utf-8")
    contract = Contract.load(file)
    assert contract.d_model == 1536
    assert contract.extras["extraction"] == {"foo": 1}
    assert contract.extras["backup"] == {"d_model": 1536, "foo": 1}
    assert contract.save(tmp_path / "again").stat().st_size < 10_000


# --- nothing is lost -------------------------------------------------------------------------------------------------
def same(a, b) -> bool:
    """Equal in value and type, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


WILD = """
version: v0.0.1
training:
  lr: 1e-4
  lr_continuation: 1.0e-4
  trainable_params_approx: 120_000_000
  wall_time: 1:30:00
  started: 2026-05-01
  "on": yes
  1: one
training_data: [{rows: 696, name: a}, {rows: 4734, name: b}]
eval_provenance: {delta: +0.001, commit: 0123456, sha256: 00e1}
provenance_notes: |
  two
    lines
comparison_v0: null
av_lora: {r: 64, target_modules: 'model\\.layers\\.\\d+'}
extraction: {norm: none, foo: {bar: [1, 2.0, '3']}}
tokens: {tokenizer_revision: abc}
prompt_templates: {judge: "{x}"}
ar: {dropout: 0.05}
critic: {}
"""


def test_unknown_keys_of_the_wild_survive_with_values_and_types(tmp_path):
    wild = yaml.safe_load(WILD)
    assert wild["training"]["lr"] == "1e-4"
    assert wild["training"]["trainable_params_approx"] == 120_000_000
    Contract.from_dict(AV | copy.deepcopy(wild)).save(tmp_path)
    loaded = Contract.load(tmp_path)
    assert same(loaded.extras, wild)
    assert same({key: loaded.to_dict()[key] for key in wild}, wild)
    assert loaded.save(tmp_path / "again").read_bytes() == (tmp_path / SIDECAR_NAME).read_bytes()


ODD_TEXT = st.sampled_from(
    ["=", "<<", "~", "1e-4", "120_000", "on", "1:30", "a\n b", "\n a", " \n", "a\x85b", "\u2028", "-"]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=12),
    ODD_TEXT,
    st.dates(),
)
KEYS = st.one_of(st.text(max_size=8), st.integers(), ODD_TEXT).map(
    lambda key: f"x{key}" if isinstance(key, str) else key
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
BLOCKS = ["extraction", "tokens", "prompt_templates", "ar", "critic", "training", "av_lora"]


@quick
@given(
    top=st.dictionaries(KEYS, TREES, max_size=3),
    nested=st.dictionaries(st.sampled_from(BLOCKS), st.dictionaries(KEYS, TREES, min_size=1, max_size=3), max_size=3),
    base=st.sampled_from([AV, AR]),
)
def test_random_unknown_keys_survive_and_the_canonical_form_is_a_fixed_point(tmp_path_factory, top, nested, base):
    folder = tmp_path_factory.mktemp("contract")
    given_keys = copy.deepcopy(nested)
    wild = put(base | top | nested, "extraction.layer_index", 23)
    first = Contract.from_dict(wild)
    file = first.save(folder)
    second = Contract.load(folder)
    assert same(second.extras, first.extras)
    for key, value in (top | given_keys).items():
        assert same(second.extras[key], value)
    assert same(second.to_dict(), first.to_dict())
    assert second.save(folder / "again").read_bytes() == file.read_bytes()


@quick
@given(template=st.text(max_size=30), tail=st.text(max_size=30))
def test_templates_survive_byte_for_byte(tmp_path_factory, template, tail):
    text = template.replace("{injection_char}", "") + "{injection_char}" + tail.replace("{injection_char}", "")
    folder = tmp_path_factory.mktemp("contract")
    Contract.from_dict(AV | {"av_template": text}).save(folder)
    assert Contract.load(folder).av_template == text


def test_the_canonical_file_starts_with_kind_and_shows_templates_as_blocks(tmp_path):
    text = Contract.from_dict(AV | {"av_template": "One.\n\nTwo {injection_char}"}).save(tmp_path).read_text("utf-8")
    assert text.startswith("kind: nla_model\nrole: av\nbase_model: owner/lm\n")
    assert "av_template: |-\n  One.\n\n  Two {injection_char}\n" in text
    assert "㊗" in text
    assert "base_revision" not in text


def test_from_dict_leaves_its_argument_alone():
    wild = put(AV, "extraction.layer", 23) | {"training": {"a": [1]}}
    before = copy.deepcopy(wild)
    contract = Contract.from_dict(wild)
    contract.extras["training"]["a"].append(2)
    contract.to_dict()["training"]["a"].append(3)
    assert wild == before
    assert contract.extras == {"training": {"a": [1]}}


# --- saving ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_failing_write_leaves_the_old_file_whole_and_nothing_beside_it(tmp_path, monkeypatch, broken):
    Contract.from_dict(AV).save(tmp_path)
    before = (tmp_path / SIDECAR_NAME).read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="disk full"):
        Contract.from_dict(AR).save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [SIDECAR_NAME]
    assert (tmp_path / SIDECAR_NAME).read_bytes() == before


def test_what_yaml_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    contract = Contract.from_dict(AV | {"training": {"hook": object()}})
    with pytest.raises(ContractError, match="what YAML cannot"):
        contract.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_save_makes_the_folder_and_does_not_write_through_a_link(tmp_path):
    blob = tmp_path / "blob"
    blob.write_text("untouched")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / SIDECAR_NAME).symlink_to(blob)
    assert Contract.from_dict(AV).save(tmp_path / "run") == tmp_path / "run" / SIDECAR_NAME
    assert blob.read_text() == "untouched"
    assert Contract.from_dict(AV).save(tmp_path / "a" / "b-v0.1").parent.name == "b-v0.1"
    assert Contract.from_dict(AV).save(tmp_path / "c" / "my.yaml").name == "my.yaml"


def test_sidecar_path(tmp_path):
    (tmp_path / "x.parquet").mkdir()
    assert sidecar_path(tmp_path) == tmp_path / SIDECAR_NAME
    assert sidecar_path(tmp_path / "x.parquet") == tmp_path / "x.parquet" / SIDECAR_NAME
    assert sidecar_path("y.parquet").name == f"y.parquet.{SIDECAR_NAME}"
    assert sidecar_path("some.yaml").name == "some.yaml"


# --- known releases and origins --------------------------------------------------------------------------------------
def test_a_known_release_fills_what_the_sidecar_lacks_and_the_sidecar_wins(tmp_path):
    (tmp_path / SIDECAR_NAME).write_text("role: av\nextraction: {layer: 9}\nquantization: null", encoding="utf-8")
    known = AV | {"quantization": "nf4", "extraction": {"injection_scale": "sqrt_d_model"}, "notes": "x"}
    contract = Contract.load(tmp_path, known=known)
    assert (contract.layer, contract.d_model, contract.quantization) == (9, 1536, "nf4")
    assert contract.injection_scale == math.sqrt(1536)
    origins = contract.origins
    assert origins["layer"] == "sidecar"
    assert origins["d_model"] == origins["injection_scale"] == origins["quantization"] == "release"
    assert origins["mse_scale"] == origins["prompt_style"] == "default"
    assert not contract.extras
    contract.save(tmp_path)
    assert Contract.load(tmp_path).origins["d_model"] == "sidecar"
    assert "origins" not in (tmp_path / SIDECAR_NAME).read_text("utf-8")


def test_with_a_known_release_the_sidecar_may_be_absent(tmp_path):
    contract = Contract.load(tmp_path, known=AV)
    assert contract == Contract.from_dict(AV)
    assert "absent" in contract.source


def test_a_release_does_not_fill_in_for_another_marker_or_template():
    known = AV | {"injection_token_id": 5, "injection_left_neighbor_id": 6, "injection_right_neighbor_id": 7}
    other_marker = Contract.from_dict({"tokens": {"injection_char": "§"}}, known=known)
    assert (other_marker.injection_char, other_marker.injection_token_id) == ("§", None)
    assert other_marker.injection_left_neighbor_id is None
    other_template = Contract.from_dict({"prompt_templates": {"av": "({injection_char})"}}, known=known)
    assert (other_template.injection_token_id, other_template.injection_left_neighbor_id) == (5, None)
    same_marker = Contract.from_dict({"tokens": {"injection_char": "㊗"}}, known=known)
    assert (same_marker.injection_token_id, same_marker.injection_left_neighbor_id) == (5, 6)


def test_a_bad_value_of_the_release_is_told_from_one_of_the_file():
    with pytest.raises(ContractError, match=r"`extraction\.layer` \(of the known release\) is -1"):
        Contract.from_dict({}, known=put(AV, "extraction.layer", -1))


def test_replace_checks_again_and_keeps_origins_and_unknown_keys():
    contract = Contract.from_dict(AV | {"training": {"lr": 1}})
    changed = contract.replace(pair="owner/ar", injection_scale=None, d_model=64)
    assert (changed.pair, changed.injection_scale, changed.mse_scale) == ("owner/ar", None, 8.0)
    assert changed.to_dict()["injection_scale"] is None
    assert changed.extras == {"training": {"lr": 1}}
    assert changed.origins["pair"] == "derived"
    assert changed.origins["layer"] == "sidecar"
    assert contract.pair is None
    with pytest.raises(ContractError, match="`layer` is -1"):
        contract.replace(layer=-1)
    with pytest.raises(ContractError, match="`av_template` is missing"):
        contract.replace(av_template=None)


# --- prompts ---------------------------------------------------------------------------------------------------------
@quick
@given(explanation=st.text() | st.sampled_from(["{}", "{explanation}", "{0.__class__}", "a\n\n{b", "%s \\1 ㊗ 👍🏽"]))
def test_any_explanation_stands_in_the_prompt_as_it_is(explanation):
    contract = Contract.from_dict(AR)
    assert contract.ar_prompt(explanation) == f"Summary of: <text>{explanation}</text> <summary>"
    assert contract.ar_prompt(explanation) == contract.ar_prefix + explanation + contract.ar_suffix


def test_the_av_prompt_holds_the_marker_and_leaves_other_braces_alone():
    contract = Contract.from_dict(AV | {"av_template": '{"v": {injection_char}} {x}'})
    assert contract.av_prompt() == '{"v": ㊗} {x}'


def test_prompts_of_the_other_half_say_what_is_lacking():
    with pytest.raises(ContractError, match="lacks `ar_template`"):
        Contract.from_dict(AV).ar_prompt("x")
    with pytest.raises(ContractError, match=r"lacks `injection_char`.*verify"):
        Contract.from_dict(drop(AV, "injection_char") | {"injection_token_id": 5}).av_prompt()


# --- tokenizers ------------------------------------------------------------------------------------------------------
SPECIAL = ["<unk>", "<bos>", "<eos>", "<turn>"]
CHAT = "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<turn>\n{% endfor %}{{ '<turn>model\\n' }}"
CHARACTERS = [chr(code) for code in range(32, 127)] + ["\n", "㊗"]


def tokenizer(bos="<bos>", *, adds="$A", chat=None, merges=(), characters=CHARACTERS, unk="<unk>"):
    """One token a character, plus `merges` (pairs) and specials; `adds` is what is put around every text."""
    tokens = [*SPECIAL, *characters, *("".join(pair) for pair in merges)]
    vocab = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=list(merges), unk_token=unk))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(SPECIAL)
    backend.post_processor = processors.TemplateProcessing(
        single=adds, special_tokens=[(token, vocab[token]) for token in SPECIAL]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, unk_token=unk, eos_token="<eos>", chat_template=chat
    )


def ids_of(live, text):
    return live(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("adds", ["<bos> $A", "$A", "<bos> <bos> $A"])
def test_a_raw_prompt_has_bos_exactly_once_whatever_the_tokenizer_adds(adds):
    live = tokenizer(adds=adds)
    av, ar = Contract.from_dict(AV), Contract.from_dict(AR)
    assert av.av_prompt_ids(live) == [1, *ids_of(live, av.av_prompt())]
    assert ar.ar_prompt_ids(live, "a{}") == ([1, *ids_of(live, ar.ar_prompt("a{}"))], False)
    av.verify(live)
    ar.verify(live)


def test_without_a_bos_none_is_put_there():
    live = tokenizer(bos=None)
    contract = Contract.from_dict(AV)
    assert contract.av_prompt_ids(live) == ids_of(live, contract.av_prompt())
    contract.verify(live)


@pytest.mark.parametrize(("bos", "chat"), [("<bos>", "<bos>" + CHAT), ("<bos>", CHAT), (None, CHAT)])
@pytest.mark.parametrize("adds", ["<bos> $A", "$A"])
def test_a_chat_prompt_has_bos_exactly_once_where_there_is_one(bos, chat, adds):
    live = tokenizer(bos, adds=adds, chat=chat)
    contract = Contract.from_dict(AV | {"prompt_style": "chat"})
    ids = contract.av_prompt_ids(live)
    rendered = ids_of(live, f"<turn>user\n{contract.av_prompt()}<turn>\n<turn>model\n")
    assert ids == ([1] if bos else []) + rendered
    assert ids.count(1) == (1 if bos else 0)
    assert contract.verify(live).find_marker(ids) == ids.index(live.convert_tokens_to_ids("㊗"))


def test_a_chat_template_may_use_bos_as_its_turn_delimiter():
    live = tokenizer(bos="<turn>", chat=CHAT)
    ids = Contract.from_dict(AV | {"prompt_style": "chat"}).verify(live).av_prompt_ids(live)
    assert ids[0] == 3
    assert ids[1] != 3


@pytest.mark.parametrize("style", ["raw", "chat"])
def test_bos_inside_the_template_is_refused(style):
    live = tokenizer(adds="<bos> $A", chat="<bos>" + CHAT)
    contract = Contract.from_dict(AV | {"prompt_style": style, "av_template": "x <bos> <c>{injection_char}</c>"})
    with pytest.raises(ContractMismatchError, match="AV prompt holds BOS 2 times"):
        contract.verify(live)


def test_a_chat_contract_needs_a_chat_template():
    with pytest.raises(ContractMismatchError, match="no chat template"):
        Contract.from_dict(AV | {"prompt_style": "chat"}).av_prompt_ids(tokenizer())


def test_verify_completes_the_contract_and_says_so():
    live = tokenizer(merges=[("<", "/")])
    contract = Contract.from_dict(AV)
    verified = contract.verify(live)
    marker, left, right = (live.convert_tokens_to_ids(token) for token in ("㊗", ">", "</"))
    assert verified.injection_token_id == marker
    assert (verified.injection_left_neighbor_id, verified.injection_right_neighbor_id) == (left, right)
    assert verified.origins["injection_token_id"] == verified.origins["injection_left_neighbor_id"] == "derived"
    assert verified.origins["injection_char"] == "sidecar"
    assert contract.injection_token_id is None
    assert verified.verify(live) is verified


def test_the_marker_is_derived_from_its_token_id():
    live = tokenizer()
    contract = Contract.from_dict(drop(AV, "injection_char") | {"injection_token_id": live.convert_tokens_to_ids("㊗")})
    assert contract.av_prompt_ids(live) == Contract.from_dict(AV).av_prompt_ids(live)
    assert contract.verify(live).injection_char == "㊗"


def test_the_marker_of_a_byte_level_tokenizer_is_derived_as_text():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    first, second = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("§")[0][0]
    vocab = {token: index for index, token in enumerate([*alphabet, first + second])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[(first, second)]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    live = PreTrainedTokenizerFast(tokenizer_object=backend)
    contract = Contract.from_dict(drop(AV, "injection_char") | {"injection_token_id": vocab[first + second]}).verify(
        live
    )
    assert contract.injection_char == "§"
    with pytest.raises(ContractMismatchError, match="is 3 tokens, not one"):
        Contract.from_dict(AV).verify(live)


@pytest.mark.parametrize("token", [10**6, 0])
def test_a_token_id_that_stands_for_no_text_is_refused(token):
    live = tokenizer()
    with pytest.raises(ContractMismatchError, match=f"{token}"):
        Contract.from_dict(drop(AV, "injection_char") | {"injection_token_id": token}).verify(live)


def test_a_marker_the_tokenizer_does_not_know_is_refused():
    live = tokenizer(characters=[character for character in CHARACTERS if character != "㊗"])
    with pytest.raises(ContractMismatchError, match=r"'㊗' is unknown to the tokenizer.*0 '<unk>'"):
        Contract.from_dict(AV).verify(live)


def test_a_word_level_tokenizer_with_an_unknown_marker_is_refused():
    vocab = {word: index for index, word in enumerate(["<unk>", "Vector", ":", "<", "concept", ">", "</"])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    live = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    with pytest.raises(ContractMismatchError, match="unknown to the tokenizer"):
        Contract.from_dict(AV).verify(live)


def test_a_marker_of_two_tokens_is_refused_with_its_pieces():
    live = tokenizer()
    with pytest.raises(ContractMismatchError) as caught:
        Contract.from_dict(AV | {"injection_char": "ab", "injection_token_id": 7}, source="dir/nla_meta.yaml").verify(
            live
        )
    message = str(caught.value)
    a, b = live.convert_tokens_to_ids(["a", "b"])
    for word in (
        "dir/nla_meta.yaml",
        "is 2 tokens, not one",
        "Expected [7 '#']",
        f"found [{a} 'a', {b} 'b']",
        "owner/lm",
    ):
        assert word in message


def test_a_marker_with_another_token_id_is_refused_with_both():
    live = tokenizer()
    marker = live.convert_tokens_to_ids("㊗")
    with pytest.raises(ContractMismatchError, match=rf"Expected \[7 '#'\], found \[{marker} '㊗'\]"):
        Contract.from_dict(AV | {"injection_token_id": 7}).verify(live)


def test_a_marker_that_also_stands_elsewhere_in_the_template_is_refused():
    with pytest.raises(ContractMismatchError, match="occurs 2 times"):
        Contract.from_dict(AV | {"av_template": "㊗ marks <c>{injection_char}</c>"}).verify(tokenizer())


def test_a_marker_that_merges_with_its_neighbour_is_refused():
    with pytest.raises(ContractMismatchError, match=r"occurs 0 times.*'>㊗'"):
        Contract.from_dict(AV).verify(tokenizer(merges=[(">", "㊗")]))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_wrong_neighbour_is_refused_with_both(side):
    live = tokenizer()
    with pytest.raises(
        ContractMismatchError, match=rf"another {side} neighbour. Expected \[7 '#'\], found \[\d+ '[<>]'\]"
    ):
        Contract.from_dict(AV | {f"injection_{side}_neighbor_id": 7}).verify(live)


def test_a_tokenizer_that_appends_eos_is_refused():
    live = tokenizer(adds="<bos> $A <eos>")
    with pytest.raises(ContractMismatchError, match=r"appends a token.*found \[2 '<eos>'\]"):
        Contract.from_dict(AV).verify(live)
    with pytest.raises(ContractMismatchError, match="ends in other tokens"):
        Contract.from_dict(AR).verify(live)


def test_find_marker_wants_it_once_and_between_its_neighbours():
    live = tokenizer()
    contract = Contract.from_dict(AV).verify(live)
    ids = contract.av_prompt_ids(live)
    at = contract.find_marker(ids)
    assert ids[at] == contract.injection_token_id
    assert contract.find_marker(tuple(ids)) == at
    with pytest.raises(MarkerError, match="occurs 2 times"):
        contract.find_marker(ids + ids)
    with pytest.raises(MarkerError, match="occurs 0 times"):
        contract.find_marker(ids[:at])
    with pytest.raises(MarkerError, match="left neighbour"):
        contract.find_marker([*ids[: at - 1], 5, *ids[at:]])
    with pytest.raises(MarkerError, match="has None as its right neighbour"):
        contract.find_marker(ids[: at + 1])
    with pytest.raises(ContractError, match="lacks `injection_token_id`"):
        Contract.from_dict(AV).find_marker(ids)


# --- the AR's suffix and its truncation ------------------------------------------------------------------------------
def test_the_suffix_ids_are_derived():
    live = tokenizer()
    contract = Contract.from_dict(AR).verify(live)
    assert contract.critic_suffix_ids == ids_of(live, contract.ar_suffix)
    assert contract.origins["critic_suffix_ids"] == "derived"


@pytest.mark.parametrize("dropped", [0, 1])
def test_a_suffix_whose_first_token_merges_with_a_full_stop_keeps_its_stable_rest(dropped):
    live = tokenizer(merges=[("<", "/"), (".", "</")])  # so does Gemma's: `.</` is one token
    suffix = ids_of(live, "</text> <summary>")
    assert Contract.from_dict(AR).verify(live).critic_suffix_ids == suffix[1:]
    given_ids = Contract.from_dict(AR | {"critic_suffix_ids": suffix[dropped:]})
    assert given_ids.verify(live) is given_ids


def test_other_suffix_ids_than_the_contract_says_are_refused():
    live = tokenizer()
    found = live.convert_tokens_to_ids(["y", ">"])
    with pytest.raises(ContractMismatchError) as caught:
        Contract.from_dict(AR | {"critic_suffix_ids": [7, found[1]]}).verify(live)
    assert f"Expected [7 '#', {found[1]} '>'], found [{found[0]} 'y', {found[1]} '>']" in str(caught.value)


def test_a_suffix_whose_last_token_depends_on_the_explanation_is_refused():
    live = tokenizer(merges=[(".", ">")])
    with pytest.raises(ContractMismatchError, match=r"'a cat\.' ends in other tokens"):
        Contract.from_dict(AR | {"ar_template": "{explanation}>"}).verify(live)


def test_a_template_that_ends_in_the_explanation_has_no_suffix():
    contract = Contract.from_dict(AR | {"ar_template": "about {explanation}"}).verify(tokenizer())
    assert (contract.ar_suffix, contract.critic_suffix_ids) == ("", None)


@quick
@given(
    explanation=st.text(alphabet="ab.</> \n", max_size=120),
    limit=st.integers(min_value=40, max_value=80),
    merges=st.sampled_from([(), (("<", "/"), (".", "</")), (("a", "b"), ("ab", "ab"))]),
)
def test_a_long_explanation_is_cut_and_the_suffix_never(explanation, limit, merges):
    live = tokenizer(adds="<bos> $A", merges=merges)
    contract = Contract.from_dict(AR | {"max_length": limit}).verify(live)
    suffix, prefix = contract.critic_suffix_ids, [1, *ids_of(live, contract.ar_prefix[:-1])]
    ids, cut = contract.ar_prompt_ids(live, explanation)
    whole = [1, *ids_of(live, contract.ar_prompt(explanation))]
    assert cut == (len(whole) > limit)
    assert len(ids) <= limit
    assert ids[-len(suffix) :] == suffix
    assert ids[: len(prefix)] == prefix
    if not cut:
        assert ids == whole
    elif not merges:
        assert len(ids) == limit, "no more than needed is cut"
    kept = live.decode(ids[1:]).removeprefix(contract.ar_prefix).removesuffix(contract.ar_suffix)
    assert explanation.startswith(kept)


def test_the_argument_overrides_the_contracts_max_length():
    live = tokenizer()
    contract = Contract.from_dict(AR | {"max_length": 50})
    assert contract.ar_prompt_ids(live, "a" * 99, max_length=200)[1] is False
    assert len(contract.ar_prompt_ids(live, "a" * 99, max_length=60)[0]) == 60
    assert Contract.from_dict(AR).ar_prompt_ids(live, "a" * 5000)[1] is False


def test_a_max_length_below_the_template_is_refused():
    with pytest.raises(ContractError, match="`max_length` 9 leaves no room"):
        Contract.from_dict(AR | {"max_length": 9}).ar_prompt_ids(tokenizer(), "abc")


class Counting:
    """A tokenizer that counts how often it is called."""

    def __init__(self, live):
        self.live, self.calls = live, 0

    def __call__(self, *args, **options):
        self.calls += 1
        return self.live(*args, **options)

    def __getattr__(self, name):
        return getattr(self.live, name)


def test_a_batch_is_one_call_and_equals_single_prompts():
    live = tokenizer(adds="<bos> $A")
    contract = Contract.from_dict(AR | {"max_length": 60})
    short, long = ["a cat.", "", "{}", "42"], "abc " * 50
    counting = Counting(live)
    assert contract.ar_prompt_ids_batch(counting, short) == [contract.ar_prompt_ids(live, text) for text in short]
    assert counting.calls == 1
    batch = contract.ar_prompt_ids_batch(live, [*short, long])
    assert batch[-1] == contract.ar_prompt_ids(live, long)
    assert [cut for _, cut in batch] == [False] * 4 + [True]
    assert contract.ar_prompt_ids_batch(live, []) == []


# --- house rules -----------------------------------------------------------------------------------------------------
def test_every_attribute_is_described():
    assert all(field.description for field in Contract.model_fields.values())


def test_a_contract_is_immutable():
    with pytest.raises(Exception, match="frozen"):
        Contract.from_dict(AV).layer = 3


def test_reading_a_contract_needs_no_torch_or_transformers():
    code = "import sys, nla_sdk.contract; sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_contract_errors_are_nla_errors_and_value_errors():
    with pytest.raises(NLAError):
        Contract.from_dict({})
    with pytest.raises(ValueError, match="missing"):
        Contract.from_dict({})


def test_dates_and_other_yaml_types_survive(tmp_path):
    extras = {"when": datetime.date(2026, 5, 1), "blob": b"\x00\xff", "set": {1, 2}, "inf": math.inf}
    Contract.from_dict(AV | extras).save(tmp_path)
    assert Contract.load(tmp_path).extras == extras


@pytest.mark.parametrize(
    "written, read",
    [("fp16", "float16"), ("torch.bfloat16", "bfloat16"), ("NF4", "nf4"), ("int8 by gguf", "int8 by gguf")],
)
def test_a_precision_is_read_under_any_of_its_names(written, read):
    table = Contract.from_dict({"kind": "nla_dataset", "extraction_precision": written})
    assert table.extraction_precision == read
