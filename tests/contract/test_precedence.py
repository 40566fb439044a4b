"""What is given stands above the file, the file above those beside it, and all above the release: leaf by leaf, but for
what goes together. And whatever was merged so, its canonical form is a fixed point."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nla_sdk.contract import Contract, Injection, written_as
from nla_sdk.errors import ContractError, UnstatedFactError
from tests.contract.samples import AR, AV, READ, drop, quick

LAYERS = ("given", "sidecar", "files", "release")
PLACE = drop(AV, "injection_scale", "prompt_style", "base_model")
FLOOR = {"base_model": "owner/lm", "prompt_style": "raw", "injection_scale": 7}


def merged(layers: dict[str, dict], sidecar=PLACE, floor=FLOOR) -> Contract:
    """A contract from four layers; what an AV may not lack is in the lowest, unless that one says otherwise."""
    return Contract.from_dict(
        sidecar | layers["sidecar"],
        given=layers["given"],
        found=layers["files"],
        known=(floor if "injection" not in layers["release"] else drop(floor, "injection_scale")) | layers["release"],
    )


def four(values: dict) -> st.SearchStrategy:
    return st.fixed_dictionaries({layer: st.fixed_dictionaries({}, optional=values) for layer in LAYERS})


LEAVES = {
    "max_new_tokens": st.integers(1, 9),
    "prefill": st.sampled_from(["<explanation>", "Yes"]),
    "quantization": st.sampled_from(["nf4", "int8"]),
    "output.form": st.sampled_from(["tagged", "lines"]),
    "output.stop": st.sampled_from(["eos", "budget", 5]),
    "output.top_p": st.sampled_from([0.5, 0.9]),
    "source_model": st.sampled_from(["a/b", "c/d"]),
}


def nested(flat: dict) -> dict:
    """`block.leaf` as a file has it."""
    blocks: dict = {}
    for key, value in flat.items():
        block, _, leaf = key.rpartition(".")
        (blocks.setdefault(block, {}) if block else blocks)[leaf] = value
    return blocks


@quick
@given(layers=four(LEAVES))
def test_each_leaf_is_the_uppermost_layers_that_has_it(layers):
    contract = merged({layer: nested(values) for layer, values in layers.items()})
    for key in LEAVES:
        name = key.replace(".", "_")
        said = [(layer, layers[layer][key]) for layer in LAYERS if key in layers[layer]]
        origin, value = said[0] if said else ("default", None)
        assert (contract.origins[name], getattr(contract, name)) == (origin, value)


TOGETHER = [
    ("base_model", ["a/b", "c/d"], {"base_revision": ["v1", "v2"]}),
    ("prompt_style", ["raw", "chat"], {"bos": [True, False], "system": ["s", "t"], "enable_thinking": [True, False]}),
    ("activation_mean", ["m.npy", "n.npy"], {"centred_norm": [1.0, 2.0], "baseline_mse": [0.5, 0.25]}),
    ("weights.kind", ["full", "lora"], {"weights.parent": ["a", "b"], "weights.rslora": [True, False]}),
    ("injection_char", ["x", "y"], {"injection_token_id": [5], "injection_left_neighbor_id": [3, 4]}),
]


@pytest.mark.parametrize(("head", "choices", "following"), TOGETHER)
@quick
@given(data=st.data())
def test_what_belongs_to_another_value_is_not_taken_from_below(head, choices, following, data):
    values = {head: st.sampled_from(choices)} | {key: st.sampled_from(options) for key, options in following.items()}
    layers = data.draw(four(values))
    sidecar = drop(PLACE, head)
    contract = merged({layer: nested(said) for layer, said in layers.items()}, sidecar, FLOOR | {"injection_char": "x"})
    # The floor's own value of the head is the release's, where that says none.
    if head in FLOOR or head == "injection_char":
        layers["release"].setdefault(head, {"injection_char": "x", **FLOOR}[head])
    expected, top = {}, None
    for layer in LAYERS:
        said = layers[layer]
        of_another = top is not None and head in said and said[head] != top
        for key in following:
            if key in said and key not in expected and not of_another:
                expected[key] = said[key]
        top = said.get(head) if top is None else top
    assert getattr(contract, head.replace(".", "_")) == top
    assert {key: getattr(contract, key.replace(".", "_")) for key in following} == {
        key: expected.get(key) for key in following
    }


INJECTIONS = [
    {"site": "embedding", "rule": "replace", "norm": "fixed", "scale": 150.0},
    {"site": "embedding", "rule": "replace", "norm": "multiply", "scale": 16.0},
    {"site": "embedding", "rule": "replace", "norm": "raw"},
    {"site": "embedding", "rule": "add", "norm": "fixed", "scale": 3.0, "coefficient": 2.0},
    {"site": "block", "block": 1, "rule": "add", "norm": "match"},
    {"site": "block", "block": 1, "rule": "add", "norm": "match", "coefficient": 2.0},
    {"site": "block", "block": 4, "rule": "replace", "norm": "raw", "coefficient": 0.5},
]


@quick
@given(layers=four({"injection": st.sampled_from(INJECTIONS)}))
def test_an_injection_is_never_made_of_two(layers):
    contract = merged(layers)
    whole = next((layers[layer]["injection"] for layer in LAYERS if layers[layer]), None)
    said = Injection(**{"block": None, **(whole or INJECTIONS[0] | {"scale": 7.0})})
    found = contract.injection
    assert (found.site, found.block, found.rule, found.norm) == (said.site, said.block, said.rule, said.norm)
    assert found.scale == said.scale
    below = [layers[layer]["injection"] for layer in LAYERS if layers[layer]]
    # A coefficient that the upper one leaves out may only be one of the very same injection.
    same = [one for one in below if {**one, "coefficient": 0} == {**(whole or {}), "coefficient": 0}]
    assert found.coefficient in {1.0, said.coefficient, *(one.get("coefficient", 1.0) for one in same)}


def test_a_scale_that_is_given_for_a_vector_that_has_none_is_refused():
    known = FLOOR | {"injection": INJECTIONS[4]}
    with pytest.raises(ContractError, match="`injection_scale` is given as 5.0, but the vector goes in after a block"):
        Contract.from_dict(PLACE, known=drop(known, "injection_scale"), given={"injection_scale": 5})
    stated = {"injection.norm": "fixed", "injection.scale": 5}
    contract = Contract.from_dict(PLACE, known=drop(known, "injection_scale"), given=stated)
    assert contract.injection == Injection("block", 1, "add", "fixed", 5.0)
    with pytest.raises(UnstatedFactError, match=r"`injection\.scale` is not stated"):
        Contract.from_dict(
            PLACE, known=FLOOR | {"injection_scale": "raw"}, given={"injection": {"site": "embedding", "norm": "fixed"}}
        )


def test_the_number_of_markers_stays_when_the_site_is_corrected():
    sidecar = PLACE | {"injection": INJECTIONS[0] | {"markers": "any"}}
    contract = Contract.from_dict(sidecar, known=FLOOR, given={"injection": INJECTIONS[4]})
    assert contract.injection == Injection("block", 1, "add", "match", markers="any")


def test_fields_are_merged_leaf_by_leaf():
    template = {"av_template": "{layer} {depth} {injection_char} {question}"}
    known = FLOOR | {"fields": {"layer": {}, "depth": {"rule": "start", "values": [25, 50]}, "question": {}}}
    given_ = {"fields": {"question": {"default": "Why?"}, "depth": {"nearest": True}}}
    contract = Contract.from_dict(PLACE | template, known=known | template, given=given_)
    assert contract.to_dict()["fields"] == {
        "layer": {},
        "depth": {"values": [25, 50], "nearest": True, "rule": "start"},
        "question": {"default": "Why?"},
    }


# --- the canonical form -----------------------------------------------------------------------------------------------
AR_LEAVES = {
    "ar.bos": st.booleans(),
    "ar.final_norm": st.sampled_from(["kept", "dropped"]),
    "ar.state": st.sampled_from(["raw", "sqrt_d"]),
    "ar.position": st.just("turn"),
    "ar.truncation": st.sampled_from(["left", "right", "refuse"]),
    "ar.heads": st.sampled_from(["one", "per_layer", "none"]),
    "ar.head_file": st.just("head.pt"),
    "ar.bias": st.booleans(),
    "ar.dropout": st.floats(0, 1),
    "weights.adapters": st.just(["a", "b"]),
}


@quick
@given(
    half=st.sampled_from(["av", "ar"]),
    leaves=st.fixed_dictionaries({}, optional=LEAVES),
    of_ar=st.fixed_dictionaries({"ar.prompt_style": st.just("chat")}, optional=AR_LEAVES),
    injection=st.sampled_from(INJECTIONS),
    markers=st.sampled_from([1, 3, "any", None]),
    style=st.sampled_from(["raw", "chat"]),
)
def test_the_canonical_form_says_what_the_contract_says_and_is_written_again_as_it_is(
    tmp_path_factory, half, leaves, of_ar, injection, markers, style
):
    if half == "av":
        injected = injection | ({} if markers is None else {"markers": markers})
        said = drop(AV, "injection_scale") | nested(leaves) | {"injection": injected, "prompt_style": style}
    else:
        said = drop(AR, "ar_num_blocks") | nested(leaves | of_ar | {"ar.num_hidden_layers": 17}) | READ
        said = said if "ar.bos" not in of_ar else drop(said, "ar_bos")
        said = said if "ar.final_norm" not in of_ar else drop(said, "ar_final_norm")
    contract = Contract.from_dict(said)
    again = Contract.from_dict(contract.to_dict())
    assert again == contract and again.extras == contract.extras
    assert all(getattr(again, name) == getattr(contract, name) for name in Contract.model_fields)
    folder = tmp_path_factory.mktemp("contract")
    file = contract.save(folder)
    assert Contract.load(folder).save(folder / "again").read_bytes() == file.read_bytes()
    assert not any("injection" in key for key in contract.to_dict()) or half == "av"
    for name in contract.origins:
        block = written_as(name).rpartition(".")[0]
        assert not block or name not in contract.to_dict(), "a leaf of a block stands in its block only"


def test_an_unknown_key_inside_the_ars_block_stays_beside_ours():
    contract = Contract.from_dict(AR | {"ar": {"dropout": 0.1, "state": "sqrt_d", "notes": {"a": [1]}}})
    assert contract.extras == {"ar": {"dropout": 0.1, "notes": {"a": [1]}}}
    expected = {"bos": True, "final_norm": "dropped", "state": "sqrt_d", "target": "raw", "dropout": 0.1}
    assert contract.to_dict()["ar"] == expected | {"notes": {"a": [1]}}
    assert contract.replace(layer=1).to_dict()["ar"] == contract.to_dict()["ar"]


def test_a_block_of_ours_that_is_something_else_is_refused_where_ours_would_be_written_into_it():
    with pytest.raises(ContractError, match="`ar` is 'owner/ar'; expected a mapping"):
        Contract.from_dict(AR | {"ar": "owner/ar"})
    assert Contract.from_dict(AV | {"ar": "owner/ar"}).to_dict()["ar"] == "owner/ar"


ADD = {"injection": {"site": "block", "block": 1, "rule": "add", "norm": "match"}}
BLOCK = {"injection": {"site": "block", "block": 1, "rule": "add"}}


@pytest.mark.parametrize("word", [None, "none", "raw", "sqrt_d_model"])
def test_a_files_scale_that_is_a_word_is_no_norm_of_a_vector_that_goes_in_after_a_block(word):
    for said in ({"injection_scale": word}, {"extraction": {"injection_scale": word}}):
        sidecar = PLACE | {"prompt_style": "raw"} | said
        contract = Contract.from_dict(sidecar, known={"base_model": "owner/lm"} | ADD)
        assert contract.injection == Injection("block", 1, "add", "match")
        with pytest.raises(UnstatedFactError, match=r"`injection\.norm` is not stated"):
            Contract.from_dict(sidecar | {"base_model": "owner/lm"}, given=BLOCK)
    with pytest.raises(ContractError, match="a scale alone says nothing"):
        Contract.from_dict(drop(AV, "injection_scale") | ADD, given={"injection_scale": word})


@pytest.mark.parametrize("more", [{"injection.rule": "add"}, {"injection.block": 3}])
def test_a_scale_alone_says_no_site_once_something_else_of_an_injection_is_said(more):
    for said, given_too in ((nested(more), None), ({}, more)):
        with pytest.raises(UnstatedFactError, match=r"`injection\.site` is not stated"):
            Contract.from_dict(PLACE | FLOOR | said, given=given_too)


def test_a_block_of_a_vector_that_goes_into_the_embedding_is_refused():
    own, stated = drop(AV, "injection_scale"), {"site": "embedding", "norm": "fixed", "scale": 7}
    with pytest.raises(ContractError, match=r"`injection\.block` is 3, but `injection\.site` is embedding"):
        Contract.from_dict(own | {"injection": stated | {"block": 3}})
    assert Contract.from_dict(own | ADD, given={"injection": stated}).injection_block is None


def test_what_a_sidecar_says_of_its_trainings_injection_is_its_norm():
    said = PLACE | {"base_model": "owner/lm", "prompt_style": "raw", "extraction": {"injection_scale": 150}}
    for mode, norm in (("normalize", "fixed"), ("multiply", "multiply")):
        found = Contract.from_dict(said | {"training": {"injection_mode": mode, "lr": 1}})
        assert (found.injection_norm, found.injection_scale, found.extras) == (norm, 150, {"training": {"lr": 1}})
    with pytest.raises(ContractError, match=r"`training\.injection_mode` is 'spin'"):
        Contract.from_dict(said | {"training": {"injection_mode": "spin"}})
