"""nla_meta.yaml on disk: read, written whole or not at all, nothing lost."""

import copy
import datetime
import math
import os

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.contract import SIDECAR_NAME, Contract, sidecar_path
from nla_sdk.errors import ContractError, MissingFileError
from tests.contract.samples import AR, AV, put, quick


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
    # A block that is partly ours is written where ours stands; all else keeps its order.
    assert second.extras.keys() == first.extras.keys()
    assert all(same(second.extras[key], value) for key, value in first.extras.items())
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


def test_with_a_known_release_the_sidecar_may_be_absent(tmp_path):
    contract = Contract.load(tmp_path, known=AV)
    assert contract == Contract.from_dict(AV)
    assert "absent" in contract.source


def test_dates_and_other_yaml_types_survive(tmp_path):
    extras = {"when": datetime.date(2026, 5, 1), "blob": b"\x00\xff", "set": {1, 2}, "inf": math.inf}
    Contract.from_dict(AV | extras).save(tmp_path)
    assert Contract.load(tmp_path).extras == extras
