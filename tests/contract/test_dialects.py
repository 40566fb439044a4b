"""Every dialect in, what follows from the rest, and what a known release may fill."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.contract import SIDECAR_NAME, Contract, Injection
from nla_sdk.errors import ContractError, UnstatedFactError
from tests.contract.samples import AR, AV, READ, drop, put, quick


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
        (AR | READ, "ar.num_hidden_layers", 17, "ar_num_blocks", 18),
        (AR | READ, "critic.num_hidden_layers", 17, "ar_num_blocks", 18),
        (AR | READ, "critic.extraction_layer_index", "17", "ar_num_blocks", 18),
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
    ("written", "norm", "expected"),
    [
        ("150", "fixed", 150.0),
        ("150.5", "fixed", 150.5),
        ("1e4", "fixed", 1e4),  # a string in YAML 1.1
        ("'39.19'", "fixed", 39.19),
        ("'20_000'", "fixed", 20_000.0),
        ("20_000", "fixed", 20_000.0),
        ("sqrt_d_model", "sqrt_d", math.sqrt(1536)),
        ("raw", "raw", None),
    ],
)
def test_a_scale_alone_overwrites_the_embedding_at_a_number_the_root_of_d_model_or_raw(place, written, norm, expected):
    contract = Contract.from_dict(put(AV, place, yaml.safe_load(written)))
    assert contract.injection == Injection("embedding", None, "replace", norm, expected)
    stated = "injection_scale" if norm == "fixed" else "injection_norm"
    assert contract.origins[stated] == "sidecar"
    assert contract.origins["injection_site"] == contract.origins["injection_rule"] == "derived"


def test_null_is_raw_under_our_own_name_and_says_nothing_under_the_one_whose_writers_mean_different_things():
    assert Contract.from_dict(AV | {"injection_scale": None}).injection == Injection(
        "embedding", None, "replace", "raw"
    )
    for nested in ({"injection_scale": None}, {"injection_scale": None, "norm": "none"}):
        with pytest.raises(UnstatedFactError, match=r"`injection\.site` is not stated"):
            Contract.from_dict(drop(AV, "injection_scale") | {"extraction": nested})
    add_at_1 = {"site": "block", "block": 1, "rule": "add", "norm": "match"}
    for place in ("injection_scale", "extraction.injection_scale"):  # null gives way to what is said
        contract = Contract.from_dict(put(AV, place, None) | {"injection": add_at_1})
        assert contract.injection == Injection("block", 1, "add", "match")


def test_two_norms_in_one_file_are_both_named():
    with pytest.raises(ContractError, match=r"`injection_scale` is raw but `injection\.norm` is 'match'"):
        Contract.from_dict(AV | {"injection_scale": "raw", "injection": {"norm": "match"}})
    with pytest.raises(ContractError, match=r"`injection_scale` is 150.0 and `injection\.norm` is match"):
        Contract.from_dict(AV | {"injection_scale": 150, "injection": {"norm": "match"}})


def test_an_absent_mse_scale_is_the_root_of_d_model_and_an_absent_injection_is_refused():
    contract = Contract.from_dict(AV)
    assert contract.mse_scale == math.sqrt(1536)
    assert contract.origins["mse_scale"] == "default"
    with pytest.raises(UnstatedFactError, match=r"`injection\.site` is not stated.*never guessed"):
        Contract.from_dict(drop(AV, "injection_scale"))
    with pytest.raises(UnstatedFactError, match=r"`injection\.scale` is not stated: what norm \(`fixed`\)"):
        Contract.from_dict(drop(AV, "injection_scale") | {"injection": {"site": "embedding", "norm": "fixed"}})
    assert Contract.from_dict(AR).injection_scale is None  # an AR injects nothing


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
        ),
        known=READ,
    )
    assert contract.to_dict() == {
        "kind": "nla_model",
        "role": "ar",
        "base_model": "owner/lm",
        "d_model": 3840,
        "layer": 32,
        "mse_scale": 61.96,
        "injection_char": "㈜",
        "injection_token_id": 246566,
        "av_template": "<c>{injection_char}</c>",
        "ar_template": "{explanation}</text>",
        "ar_num_blocks": 33,
        "ar": {"bos": True, "final_norm": "dropped", "target": "raw"},
        "schema_version": 2,
        "extraction": {"norm": "none"},
    }


def test_the_role_follows_from_the_only_template_or_depth():
    av, ar = Contract.from_dict(drop(AV, "role")), Contract.from_dict(drop(AR, "role"))
    assert (av.role, ar.role) == ("av", "ar")
    assert av.origins["role"] == "derived"
    with pytest.raises(ContractError, match="`role` is missing"):
        Contract.from_dict(drop(AV | AR, "role"))


def test_the_kind_of_a_sidecar_without_one_follows_from_its_name(tmp_path):
    (tmp_path / f"rows.parquet.{SIDECAR_NAME}").write_text("d_model: 64")
    contract = Contract.load(tmp_path / "rows.parquet")
    assert contract.kind == "nla_dataset"
    assert contract.origins["kind"] == "derived"


@pytest.mark.parametrize(
    ("extra", "keys", "values"),
    [
        ({"extraction": {"d_model": 64}}, ("d_model", "extraction.d_model"), ("1536", "64")),
        ({"extraction": {"layer": 23, "layer_index": 24}}, ("layer", "extraction.layer_index"), ("23", "24")),
        ({"base_checkpoint": "a/b"}, ("base_model", "base_checkpoint"), ("'owner/lm'", "'a/b'")),
        ({"ar_num_blocks": 18, "ar": {"num_hidden_layers": 18}}, ("ar_num_blocks", "ar.num_hidden_layers"), ("18",)),
        (
            {"injection_scale": 150, "extraction": {"injection_scale": "raw"}},
            ("injection_scale", "extraction.injection_scale"),
            ("150", "'raw'"),
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
            "extraction": {"d_model": "1536", "layer": 23, "layer_index": 23.0},
            "ar": {"num_hidden_layers": 17},
            "critic": {"num_hidden_layers": 17, "extraction_layer_index": 17},
        }
    )
    assert (contract.ar_num_blocks, contract.layer) == (18, 23)
    assert not contract.extras
    scales = {"injection_scale": "39.19", "extraction": {"injection_scale": "sqrt_d_model"}}
    assert Contract.from_dict(AV | scales).injection_scale == 39.19


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


def test_a_known_release_fills_what_the_sidecar_lacks_and_the_sidecar_wins(tmp_path):
    (tmp_path / SIDECAR_NAME).write_text("role: av\nextraction: {layer: 9}\nquantization: null", encoding="utf-8")
    known = drop(AV, "injection_scale") | {"quantization": "nf4", "notes": "x"}
    known["extraction"] = {"injection_scale": "sqrt_d_model"}
    contract = Contract.load(tmp_path, known=known)
    assert (contract.layer, contract.d_model, contract.quantization) == (9, 1536, "nf4")
    assert contract.injection_scale == math.sqrt(1536)
    origins = contract.origins
    assert origins["layer"] == "sidecar"
    assert origins["d_model"] == origins["injection_norm"] == origins["quantization"] == "release"
    assert (origins["mse_scale"], origins["prompt_style"]) == ("default", "release")
    assert not contract.extras
    contract.save(tmp_path)
    assert Contract.load(tmp_path).origins["d_model"] == "sidecar"
    assert "origins" not in (tmp_path / SIDECAR_NAME).read_text("utf-8")


@quick
@given(data=st.data())
def test_what_is_given_stands_above_the_file_which_stands_above_the_release(data):
    values = {
        "injection_scale": st.sampled_from([None, 1, "2.5", "sqrt_d_model"]),
        "prompt_style": st.sampled_from(["raw", "chat"]),
        "max_new_tokens": st.integers(1, 9),
        "compute_dtype": st.sampled_from(["float16", "float32"]),
    }
    given, sidecar, release = (
        data.draw(st.fixed_dictionaries({}, optional=values), label=where) for where in ("given", "sidecar", "release")
    )
    base = drop(AV, "injection_scale", "prompt_style")
    stated = {"injection_scale": 7, "prompt_style": "raw"} | release | sidecar | given
    known = {"injection_scale": 7, "prompt_style": "raw"} | release
    contract = Contract.from_dict(base | sidecar, known=known, given=given)
    expected = Contract.from_dict(base | stated)
    assert {name: getattr(contract, name) for name in values} == {name: getattr(expected, name) for name in values}
    for name in {*known, *sidecar, *given}:
        origin = "given" if name in given else "sidecar" if name in sidecar else "release"
        if name == "prompt_style" and given.get(name) == sidecar.get(name, ""):
            origin = "sidecar"  # said again it is still the file's
        of_the_norm = name == "injection_scale" and stated[name] in (None, "sqrt_d_model")
        assert contract.origins["injection_norm" if of_the_norm else name] == origin
    assert contract.replace(layer=1).to_dict() == contract.to_dict() | {"layer": 1}


def test_a_release_does_not_fill_in_for_another_marker_or_template():
    known = AV | {"injection_token_id": 5, "injection_left_neighbor_id": 6, "injection_right_neighbor_id": 7}
    other_marker = Contract.from_dict({"tokens": {"injection_char": "§"}}, known=known)
    assert (other_marker.injection_char, other_marker.injection_token_id) == ("§", None)
    assert other_marker.injection_left_neighbor_id is None
    other_template = Contract.from_dict({"prompt_templates": {"av": "({injection_char})"}}, known=known)
    assert (other_template.injection_token_id, other_template.injection_left_neighbor_id) == (5, None)
    same_marker = Contract.from_dict({"tokens": {"injection_char": "㊗"}}, known=known)
    assert (same_marker.injection_token_id, same_marker.injection_left_neighbor_id) == (5, 6)
