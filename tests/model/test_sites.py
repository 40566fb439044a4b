"""Wherever and however vectors are put in, texts are those of full forwards with a plain hook and no cache."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from peft import LoraConfig
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig

from nla_sdk.contract import Contract
from nla_sdk.errors import InjectionError, InputError, LayerError, MarkerError
from nla_sdk.model import verbalizer
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.decoding import prefixes, writing
from nla_sdk.model.running.watching import Watch
from nla_sdk.model.verbalizer import Verbalizer
from nla_sdk.model.weights.transforms import LinearMap, Transform
from nla_sdk.sampling import Sampling
from tests import tiny
from tests.model.test_reaching import GEMMA_3
from training.fit.engine.losses import response_states

D, STEPS = tiny.D_MODEL, 3
FOUR = {"num_hidden_layers": 4}
BASES = {
    "llama": tiny.llama_config(),
    "qwen": AutoConfig.for_model("qwen2", **(tiny.SIZES | FOUR)),
    "gemma 3": AutoConfig.for_model(
        "gemma3_text", **(tiny.SIZES | GEMMA_3 | FOUR | {"layer_types": ["sliding_attention", "full_attention"] * 2})
    ),
    # Block 2 sees all: one that looks 8 tokens back, before blocks that compute no keys, would never see the marker.
    "gemma 4": tiny.gemma_config(
        layer_types=[f"{kind}_attention" for kind in ("sliding", "full", "full", "sliding", "sliding", "full")]
    ),
}
SITES = {"embedding": {"site": "embedding"}, **{f"block {at}": {"site": "block", "block": at} for at in (0, 1)}}
NORMS = {
    "fixed": {"norm": "fixed", "scale": 20.0},
    "sqrt_d": {"norm": "sqrt_d"},
    "match": {"norm": "match", "coefficient": 1.5},
    "raw": {"norm": "raw", "coefficient": 0.5},
    "multiply": {"norm": "multiply", "scale": 3.0},
}
ADD_1 = {"site": "block", "block": 1, "rule": "add", "norm": "match"}
OPEN = Sampling(STEPS, ignore_end=True)
ORACLE = {
    "injection": ADD_1 | {"markers": "any"},
    "av_template": "Layer: {layer}\n{injection_char} \n{question}",
    "fields": {"layer": {}, "question": {"default": "What is it?"}},
    "prompt_style": "chat",
}


def sets(rows: int, markers: int, seed: int = 3) -> torch.Tensor:
    """Vectors [rows, markers, d] of different norms."""
    return tiny.random(rows * markers, D, seed=seed, scale=2.0).view(rows, markers, D)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    @functools.cache
    def get(base: str) -> Backbone:
        folder = tmp_path_factory.mktemp("bases") / base.replace(" ", "-")
        tokens = tiny.tokenizer(chat=base in ("qwen", "llama"))
        backbone = Backbone.load(tiny.save_model(folder, BASES[base], tokens, seed=6), device="cpu", reads="file")
        torch.manual_seed(0)
        backbone.add_lora("av", LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
        return backbone

    return get


def make(backbone: Backbone, injection: dict, adapter: str | None = None, **facts) -> Verbalizer:
    chat = backbone.model.config.model_type == "qwen2"
    contract = Contract.from_dict(
        {"kind": "nla_model", "role": "av", "base_model": "tiny", "d_model": D, "layer": 0, "max_new_tokens": STEPS}
        | {"injection_char": tiny.MARKER, "av_template": "The vector {injection_char} is:", "injection": injection}
        | {"prompt_style": "chat" if chat else "raw"}
        | facts
    )
    return Verbalizer(backbone, adapter, contract.verify(backbone.tokenizer, backbone.vocabulary))


# --- the plain computation --------------------------------------------------------------------------------------------
def put(own: torch.Tensor, vector: torch.Tensor, rule: str, norm: str, scale=None, coefficient=1.0) -> torch.Tensor:
    """One state [d] after one vector [d] came to it."""
    length = {"fixed": scale, "sqrt_d": math.sqrt(D), "match": own.norm()}
    v = vector * scale if norm == "multiply" else vector
    v = v / v.norm() * length[norm] if norm in length else v
    return coefficient * v + (own if rule == "add" else 0)


def block_of(model, block: int):
    [module] = [module for name, module in model.named_modules() if name.endswith(f".layers.{block}")]
    return module


def hooked(model, positions, rows, site, block=None, markers=1, **how):
    """A plain hook: the vectors [markers, d] of each row, at these positions of it."""

    def hook(module, args, output):
        states = (output[0] if isinstance(output, tuple) else output).clone()
        for row, vectors in enumerate(rows):
            for position, vector in zip(positions, vectors, strict=True):
                states[row, position] = put(states[row, position].clone(), vector, **how)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    module = model.get_input_embeddings() if site == "embedding" else block_of(model, block)
    return module.register_forward_hook(hook)


@torch.no_grad()
def plain(model, ids, positions, vectors, injection, **options):
    """A full forward of one row."""
    handle = hooked(model, positions, [vectors], **injection)
    try:
        return model(input_ids=torch.tensor([ids]), **({"use_cache": False} | options))
    finally:
        handle.remove()


def plain_tokens(model, prompt, vectors, injection) -> list[int]:
    written: list[int] = []
    for _ in range(STEPS):
        scores = plain(model, [*prompt.ids, *written], prompt.positions, vectors, injection).logits[0, -1]
        written.append(int(scores.argmax()))
    return written


def first_logits(monkeypatch) -> list[torch.Tensor]:
    """What a Verbalizer draws its tokens from, as it comes."""
    seen, draw = [], writing.draw
    monkeypatch.setattr(writing, "draw", lambda logits, *rest: seen.append(logits) or draw(logits, *rest))
    return seen


INJECTIONS = [
    pytest.param(SITES[site] | {"rule": rule} | NORMS[norm], id=f"{site} {rule} {norm}")
    for site in SITES
    for rule in ("replace", "add")
    for norm in NORMS
]


def combinations():
    """Every injection on Llama, each third on the other bases in turn, with one marker and with three in turn."""
    for number, base in enumerate(BASES):
        for place, injection in enumerate(INJECTIONS):
            if base == "llama" or place % 3 == number % 3:
                markers = 1 + 2 * ((place + place // (2 * len(NORMS))) % 2)
                yield pytest.param(base, *injection.values, markers, id=f"{base} {injection.id} {markers}")


@pytest.mark.parametrize(("base", "injection", "markers"), list(combinations()))
def test_texts_are_those_of_full_forwards_with_a_plain_hook(backbones, monkeypatch, base, injection, markers):
    backbone, rows = backbones(base), sets(2, markers)
    injection = injection | {"markers": markers}
    seen = first_logits(monkeypatch)
    for adapter in (None, "av") if base == "llama" else ("av",):
        av = make(backbone, injection, adapter)
        seen.clear()
        written = av.tokens(av.prepare(rows), OPEN)
        with backbone.using(adapter) as model:
            for row, (tokens, _) in enumerate(written):
                assert tokens == plain_tokens(model, av.default, rows[row], injection)
                expected = plain(model, av.prompt_ids, av.default.positions, rows[row], injection).logits[0, -1]
                torch.testing.assert_close(seen[0][row], expected, rtol=1e-4, atol=1e-4)
        assert (seen[0][0] - seen[0][1]).abs().max() > 2e-3, "the vector matters"


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("base", BASES)
def test_one_row_and_12_are_alike(backbones, base, site):
    rows = sets(12, 3)
    how = {"rule": "add", "norm": "match", "coefficient": 6.0, "markers": 3}
    av = make(backbones(base), SITES[site] | how, "av", max_new_tokens=4)
    together = av(rows)
    assert [av(row[None])[0] for row in rows] == together
    assert len(set(together)) > 3


# --- the prefix -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("base", BASES)
def test_the_cache_from_before_the_marker_is_that_of_the_whole_prompt_with_the_vector_in_it(backbones, base):
    backbone, row = backbones(base), sets(1, 1)[0]
    av = make(backbone, ADD_1)
    with torch.no_grad(), backbone.using(None) as model:
        whole = plain(model, av.prompt_ids, av.default.positions, row, ADD_1, use_cache=True).past_key_values
        fresh, tail = av.prefixes.of(av.prompt_ids[: av.marker], 1), torch.tensor([av.prompt_ids[av.marker :]])

        def run():
            return model(input_ids=tail, past_key_values=fresh(), use_cache=True).past_key_values

        prefix = av.injected(run, 0, av.prepare(row))
    # Where the whole ran at once, a sliding layer keeps its window only, and one that shares another's keeps nothing.
    pairs = [(ours, theirs) for ours, theirs in zip(prefix.layers, whole.layers, strict=True) if ours.keys is not None]
    assert len(pairs) == (tiny.FIRST_SHARED if base == "gemma 4" else 4)
    for ours, theirs in pairs:
        length = min(ours.keys.shape[-2], theirs.keys.shape[-2])
        for name in ("keys", "values"):
            torch.testing.assert_close(getattr(ours, name)[:, :, -length:], getattr(theirs, name)[:, :, -length:])
    assert max(ours.keys.shape[-2] for ours, _ in pairs) == len(av.prompt_ids) > av.marker > 8


def test_prompts_that_begin_alike_share_a_cache_and_the_most_recent_few_are_kept(backbones, monkeypatch):
    av = make(backbones("llama"), **ORACLE)
    ran = []
    run = prefixes.Prefixes._run
    monkeypatch.setattr(prefixes.Prefixes, "_run", lambda self, ids: ran.append(ids) or run(self, ids))
    rows = sets(4, 2)
    for questions in (["Why?", "How?"] * 2, ["Who?"] * 4):
        av(rows, fields=[{"question": question} for question in questions])
    assert len(ran) == 1, "questions stand behind the markers"
    layers = [{"layer": str(at)} for at in range(prefixes.KEPT)]
    av(sets(len(layers), 1), fields=layers)
    assert len(ran) == prefixes.KEPT, "layer 0 is the default"
    av(sets(len(layers), 1), fields=layers[::-1])
    assert len(ran) == prefixes.KEPT
    av(rows, fields={"layer": "99"})
    av(rows, fields=layers[0])
    assert len(ran) == prefixes.KEPT + 1, "it was used last of the eight"
    av(rows, fields=layers[-1])
    assert len(ran) == prefixes.KEPT + 2, "it was used first"


@pytest.mark.parametrize("size", [2, 64])
def test_rows_with_prompts_of_their_own_are_what_each_is_alone(backbones, monkeypatch, size):
    backbone = backbones("llama")
    av = make(backbone, adapter="av", **ORACLE)
    rows = [sets(1, 1 + at % 3, seed=at)[0] for at in range(9)]
    fields = [{"question": "Why so?" if at % 2 else "How?"} | ({"layer": "2"} if at > 4 else {}) for at in range(9)]
    monkeypatch.setattr(verbalizer, "ROWS_PER_BATCH", size)
    done: list[int] = []
    written = av(rows, OPEN, fields=fields, watch=Watch(done.append))
    assert sum(done) == len(rows)
    decode = functools.partial(backbone.tokenizer.decode, skip_special_tokens=True)
    with backbone.using("av") as model:
        for vectors, texts, one in zip(rows, fields, written, strict=True):
            text = f"Layer: {texts.get('layer', '0')}\n{tiny.MARKER * len(vectors)} \n{texts['question']}"
            ids = backbone.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True
            )
            ids = list(ids["input_ids"])
            marker = backbone.tokenizer.convert_tokens_to_ids(tiny.MARKER)
            prompt = type(av.default)(tuple(ids), tuple(at for at, token in enumerate(ids) if token == marker))
            assert one.raw == decode(plain_tokens(model, prompt, vectors, ADD_1))
    sampled = av(rows, Sampling(STEPS, 1.0, n=2, seed=5), fields=fields)
    alone = [av([row], Sampling(STEPS, 1.0, n=2, seed=5), fields=one) for row, one in zip(rows, fields, strict=True)]
    assert sampled == [text for pair in alone for text in pair]


def test_as_many_fields_as_rows_and_as_many_vectors_as_markers(backbones):
    oracle = make(backbones("llama"), **ORACLE)
    with pytest.raises(InputError, match="1 mappings of fields for 2 rows"):
        oracle(sets(2, 1), fields=[{"question": "Why?"}])
    with pytest.raises(InputError, match="2 vectors for one prompt; expected 3"):
        make(backbones("llama"), ADD_1 | {"markers": 3})(sets(2, 2))


# --- what is put in ---------------------------------------------------------------------------------------------------
def test_transforms_come_before_the_norm_and_each_marker_has_the_mean_of_its_layer(backbones):
    means = {at: tiny.random(D, seed=at) for at in (1, 2)}
    whitening, mapping = tiny.random(D, D, seed=3), LinearMap(tiny.random(D, D, seed=4), tiny.random(D, seed=5))
    av = make(backbones("llama"), {"site": "embedding", "norm": "fixed", "scale": 9.0, "markers": 2, "layers": [2, 1]})
    av.transform = Transform(D, means, whitening, mapping)
    rows = sets(3, 2)

    def expected(vector, layer):
        moved = mapping.weight @ (whitening @ (vector - means[layer])) + mapping.bias
        return moved / moved.norm() * 9.0

    both = torch.stack([torch.stack([expected(a, 2), expected(b, 1)]) for a, b in rows])
    torch.testing.assert_close(av.prepare(rows), both)
    torch.testing.assert_close(torch.stack(av.prepare(list(rows))), both)
    of_rows = torch.stack([expected(row[0], layer) for row, layer in zip(rows, (1, 2, 1), strict=True)])
    torch.testing.assert_close(av.prepare(rows[:, 0], [1, 2, 1]), of_rows)
    torch.testing.assert_close(av.prepare(rows[:, :1], [1, 2, 1])[:, 0], of_rows)


@pytest.mark.parametrize("checkpointing", ["off", "as installed", "hooks and all"])
@pytest.mark.parametrize("injection", [ADD_1, SITES["block 0"] | {"rule": "replace"} | NORMS["fixed"]], ids=str)
def test_gradients_are_those_of_a_plain_hook(backbones, injection, checkpointing, monkeypatch):
    backbone = backbones("gemma 4")
    model, block = backbone.model, backbone.blocks[injection["block"]]
    if checkpointing == "hooks and all":  # as transformers 5.20 does it
        whole = type(block).__call__

        def again(self, *args, **options):
            if not (self.gradient_checkpointing and self.training):
                return whole(self, *args, **options)

            def run(*args):
                self.gradient_checkpointing = False
                try:
                    return whole(self, *args, **options)
                finally:
                    self.gradient_checkpointing = True

            return checkpoint(run, *args, use_reentrant=False)

        monkeypatch.setattr(type(block), "__call__", again)
    av = make(backbone, injection | {"markers": 2}, "av")
    vectors, responses = sets(3, 2).requires_grad_(True), [[7, 9], [8], [11, 12, 13]]
    with backbone.using("av"):
        trained = [p for name, p in model.named_parameters() if ".av" in name]
        for parameter in trained:
            parameter.requires_grad_(True)
        try:
            states, tokens, _ = response_states(av, av.prepare(vectors), responses)
            loss = functional.cross_entropy(av.logits_of(states), tokens, reduction="sum")
            expected = []
            for row, ids in zip(vectors, responses, strict=True):
                handle = hooked(model, av.default.positions, [row], **injection)
                logits = model(input_ids=torch.tensor([[*av.prompt_ids, *ids]]), use_cache=False).logits[0]
                handle.remove()
                scored = logits[len(av.prompt_ids) - 1 : -1]
                expected.append(functional.cross_entropy(scored, torch.tensor(ids), reduction="sum"))
            wanted = torch.autograd.grad(sum(expected), [vectors, *trained])
            if checkpointing != "off":
                model.train()
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
                states, tokens, _ = response_states(av, av.prepare(vectors), responses)
                loss = functional.cross_entropy(av.logits_of(states), tokens, reduction="sum")
                assert all(block.gradient_checkpointing for block in backbone.blocks)
            found = torch.autograd.grad(loss, [vectors, *trained])
        finally:
            model.gradient_checkpointing_disable()
            model.eval().requires_grad_(False)
    torch.testing.assert_close(loss, sum(expected))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert all(one.abs().max() > 0 for one in found[:1])


def test_markers_may_stand_at_one_place_or_in_each_row_at_its_own(backbones):
    backbone = backbones("llama")
    av, vectors, ids = make(backbone, ADD_1), sets(2, 1)[:, 0], torch.arange(10, 20)[None].expand(2, -1)
    run = functools.partial(backbone.model, input_ids=ids, use_cache=False)

    def at(positions, vectors):
        with torch.no_grad(), backbone.using(None):
            return av.injected(run, positions, av.prepare(vectors)).logits

    one = at(3, vectors)
    assert torch.equal(at([3], vectors), one) and torch.equal(at(torch.tensor([3, 3]), vectors), one)
    assert torch.equal(at(torch.tensor([[3], [3]]), vectors[:, None]), one)
    moved = at(torch.tensor([3, 5]), vectors)
    torch.testing.assert_close(moved[0], one[0])
    torch.testing.assert_close(moved[1], at(5, vectors)[1])
    with pytest.raises(MarkerError, match="1 vectors a row do not fit 2 markers"):
        at([3, 4], vectors)
    with pytest.raises(MarkerError, match=r"2 activations at position 10 do not fit a batch of 2 prompts of 10 tokens"):
        at(10, vectors)


# --- what cannot work -----------------------------------------------------------------------------------------------
def test_a_block_that_is_not_there_or_that_nothing_would_see_is_refused(backbones):
    with pytest.raises(LayerError, match="after block 4; .* has blocks 0 to 3. Correct `injection.block`"):
        make(backbones("llama"), ADD_1 | {"block": 4})
    shared = tiny.FIRST_SHARED
    make(backbones("gemma 4"), ADD_1 | {"block": shared - 2})
    with pytest.raises(
        InjectionError, match=f"after block {shared - 1}; in .* the blocks after {shared - 1} take their"
    ):
        make(backbones("gemma 4"), ADD_1 | {"block": shared - 1})
    last = make(backbones("llama"), ADD_1 | {"block": 3})
    with pytest.raises(InjectionError, match="after the last block .* its prompt goes on after the marker"):
        last(sets(1, 1)[:, 0])


def test_after_the_last_block_a_marker_that_ends_the_prompt_is_read_from(backbones, monkeypatch):
    backbone, injection = backbones("llama"), ADD_1 | {"block": 3}
    av = make(backbone, injection, av_template="It is {injection_char}")
    seen, row = first_logits(monkeypatch), sets(1, 1)[0]
    av(row)
    with backbone.using(None) as model:
        expected = plain(model, av.prompt_ids, av.default.positions, row, injection).logits[0, -1]
    torch.testing.assert_close(seen[0][0], expected, rtol=1e-4, atol=1e-4)


def elsewhere(monkeypatch, way: str) -> None:
    inject, site = verbalizer.inject, Backbone.site
    if way == "another block":
        monkeypatch.setattr(Backbone, "site", lambda self, how: self.blocks[how.block - 1])
    elif way == "a module that is left out":
        monkeypatch.setattr(Backbone, "site", lambda self, how: torch.nn.Identity())
    elif way == "the block's first norm":
        monkeypatch.setattr(Backbone, "site", lambda self, how: site(self, how).input_layernorm)
    elif way == "a later block":
        monkeypatch.setattr(Backbone, "site", lambda self, how: self.blocks[how.block + 1])
    elif way == "markers swapped":
        monkeypatch.setattr(verbalizer, "inject", lambda m, p, v, **o: inject(m, p, v.flip(1), **o))
    elif way == "the first for all":
        monkeypatch.setattr(verbalizer, "inject", lambda m, p, v, **o: inject(m, p, v[:, :1].expand_as(v), **o))
    elif way == "beside":
        monkeypatch.setattr(verbalizer, "inject", lambda m, p, v, **o: inject(m, [at + 1 for at in p], v, **o))


SEEN = {
    "another block": "did not reach the model: block 2 sees another state at marker 1's place than is made there",
    "a module that is left out": r"was not injected: block 1 \(Identity\) was never called",
    "the block's first norm": "did not reach the model: block 2 sees",
    "a later block": "was not injected: block 1 .* was never called",
    "markers swapped": "block 2 sees the vector of marker 2 at marker 1's place",
    "the first for all": "block 2 sees the vector of marker 1 at marker 2's place",
    "beside": "block 2 sees marker 1's own state at its place",
}


@pytest.mark.parametrize("way", SEEN)
@pytest.mark.parametrize(("base", "rule"), [("llama", "add"), ("gemma 4", "replace")])
def test_a_hook_in_the_wrong_place_is_an_error_that_says_what_was_seen(backbones, monkeypatch, base, rule, way):
    backbone = backbones(base)
    elsewhere(monkeypatch, way)
    av = make(backbone, ADD_1 | {"rule": rule, "markers": 2}, "av")
    with pytest.raises(InjectionError, match=f"^The activation for the AV on .*{SEEN[way]}"):
        av(sets(2, 2))
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in backbone.blocks)
    monkeypatch.undo()
    av(sets(2, 2))


@pytest.mark.parametrize("norm", NORMS)
def test_the_norm_of_a_vector_matters_where_it_is_not_set(backbones, norm):
    av, rows = make(backbones("llama"), SITES["block 1"] | {"rule": "add"} | NORMS[norm]), sets(1, 1)[0]
    alike = torch.allclose(av.prepare(rows), av.prepare(rows * 2))
    assert alike == (norm not in ("raw", "multiply"))
