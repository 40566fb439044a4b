"""`pair.steer`: with a vector added to its stream the source writes what a plain loop of full forwards writes."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from nla_sdk import ActivationMean, NLAPair, Vectors
from nla_sdk.errors import (
    ActivationShapeError,
    EmptyBatchError,
    ForeignActivationError,
    ForeignActivationWarning,
    InjectionError,
    InputError,
    LayerError,
    MissingHalfError,
    MissingMeanError,
    NonFiniteActivationError,
    NonFiniteOutputError,
    SuspectActivationsWarning,
    ZeroActivationError,
)
from nla_sdk.io.origins import Origin
from nla_sdk.model.decoding import steering
from nla_sdk.sampling import Sampling
from tests import reference, tiny
from tests.conftest import DEPTHS
from tests.merged import merged

PROMPTS = ["The cat sat on the mat.", "Go", "An old sailor tells of his ships and", "No"]
STEPS = 6
LAYER = DEPTHS["shared"][0]


def direction(seed: int = 3) -> torch.Tensor:
    return tiny.random(tiny.D_MODEL, seed=seed)


def plain_logits(model, ids: list[int], block: int, vector: torch.Tensor) -> torch.Tensor:
    """Of the last token of a full forward without a cache, the vector added by another `forward` of the block."""
    layer = model.get_submodule(next(name for name, _ in model.named_modules() if name.endswith(f"layers.{block}")))
    original = layer.forward

    def patched(*args, **kwargs):
        output = original(*args, **kwargs)
        states = output[0] if isinstance(output, tuple) else output
        states = torch.cat([states[:, :1], states[:, 1:] + vector], dim=1)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    layer.forward = patched
    try:
        with torch.no_grad():
            return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    finally:
        del layer.forward


def plain_text(pair, model, prompt: str, block: int, vector: torch.Tensor, steps: int = STEPS) -> str:
    tokenizer = pair.source.tokenizer
    ids = tokenizer("<bos>" + prompt, add_special_tokens=False).input_ids
    written: list[int] = []
    for _ in range(steps):
        scores = plain_logits(model, [*ids, *written], block, vector)
        best, second = scores.topk(2).values.tolist()
        assert best - second > 1e-3, "a near tie: choose another seed"
        if (token := int(scores.argmax())) == tokenizer.eos_token_id:
            break
        written.append(token)
    return tokenizer.decode(written, skip_special_tokens=True)


@pytest.mark.parametrize("block", [0, 2, LAYER, 5])
def test_it_writes_what_full_forwards_without_a_cache_write_with_the_vector_added(pair, gemma, block):
    vector = direction() * 4
    for prompt in PROMPTS:
        found = pair.steer(prompt, vector, 1.5, kind="difference", layer=block, max_new_tokens=STEPS)
        assert found.steered == plain_text(pair, gemma, prompt, block, vector * 1.5)
        assert found.plain == plain_text(pair, gemma, prompt, block, vector * 0)
        assert (found.layer, found.strength, found.towards, found.prompt) == (block, 1.5, "#0", prompt)


def test_the_vector_matters_to_what_is_written(pair):
    written = [pair.steer(prompt, direction() * 4, 1, kind="difference", max_new_tokens=STEPS) for prompt in PROMPTS]
    assert all(one.plain != one.steered for one in written)


def test_what_moved_are_the_next_tokens_probabilities(pair, gemma):
    vector = direction() * 2
    found = pair.steer(PROMPTS[0], vector, 1, kind="difference", max_new_tokens=1)
    ids = pair.source.tokenizer("<bos>" + PROMPTS[0], add_special_tokens=False).input_ids
    before, after = (plain_logits(gemma, ids, LAYER, one).softmax(-1) for one in (vector * 0, vector))
    order = (after - before).abs().argsort(descending=True)[: len(found.moved)]
    assert [one.token for one in found.moved] == [pair.source.tokenizer.decode([int(token)]) for token in order]
    for one, token in zip(found.moved, order, strict=True):
        assert math.isclose(one.plain, float(before[token]), abs_tol=1e-5)
        assert math.isclose(one.steered, float(after[token]), abs_tol=1e-5)


def test_strength_0_gives_the_models_own_text_and_logits_to_the_bit(pair):
    assert (off := pair.steer(PROMPTS[0], direction(), 0, max_new_tokens=STEPS)).plain == off.steered
    assert off.moved == ()
    source = pair.source
    ids = source.tokenizer("<bos>" + PROMPTS[0], add_special_tokens=False).input_ids
    with torch.no_grad(), source.using(None):
        own = source.model(input_ids=torch.tensor([ids]), use_cache=True, logits_to_keep=1).logits[0, -1]
        zeros = steering.adding(source, LAYER, torch.zeros(1, tiny.D_MODEL), len(ids))
        for add in (None, zeros):
            _, logits = steering.write(source, [ids], add, Sampling(1), 1)
            assert torch.equal(logits[0], own)


def test_it_is_what_generate_writes_with_a_hook_on_the_block(pair):
    source, vector = pair.source, direction() * 3
    ids = source.tokenizer("<bos>" + PROMPTS[2], add_special_tokens=False, return_tensors="pt").input_ids
    found = pair.steer(PROMPTS[2], vector, 1, kind="difference", max_new_tokens=STEPS)

    def hook(module, args, output):
        added = output + vector
        return torch.cat([output[:, :1], added[:, 1:]], dim=1) if output.shape[1] == ids.shape[1] else added

    with torch.no_grad(), source.using(None):
        handle = source.blocks[LAYER].register_forward_hook(hook)
        try:
            written = source.model.generate(ids, do_sample=False, max_new_tokens=STEPS, pad_token_id=0)
        finally:
            handle.remove()
    assert found.steered == source.tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_list_gives_what_each_prompt_gives_alone(pair, temperature):
    vectors = tiny.random(len(PROMPTS), tiny.D_MODEL, seed=8, scale=4.0)
    how = {"kind": "difference", "max_new_tokens": STEPS, "temperature": temperature, "seed": 3}
    together = pair.steer(PROMPTS, vectors, [1, 0.5, 2, -1], **how)
    alone = [pair.steer(*one, **how) for one in zip(PROMPTS, vectors, [1, 0.5, 2, -1], strict=True)]
    assert [(one.plain, one.steered) for one in together] == [(one.plain, one.steered) for one in alone]
    assert [one.strength for one in together] == [1, 0.5, 2, -1]


def test_rows_that_end_leave_the_batch_and_the_others_go_on(pair, gemma, monkeypatch):
    vectors = tiny.random(3, tiny.D_MODEL, seed=11, scale=4.0)
    whole = pair.steer(PROMPTS[0], vectors, 1, kind="difference", max_new_tokens=STEPS)
    ids = [pair.source.tokenizer(one.steered, add_special_tokens=False).input_ids for one in whole]
    end = next(token for token in ids[1][1:] if all(token not in (*ids[0], *ids[2][:1]) for _ in ids))
    monkeypatch.setattr(steering, "end_token_ids", lambda backbone: frozenset({end}))
    cut = pair.steer(PROMPTS[0], vectors, 1, kind="difference", max_new_tokens=STEPS)
    assert cut[0].steered == whole[0].steered
    assert cut[1].steered == whole[1].steered.partition(pair.source.tokenizer.decode([end]))[0] != whole[1].steered


def test_sampling_depends_on_the_seed_and_draws_alike_with_and_without(pair):
    first, again, other = (
        pair.steer(PROMPTS[0], direction(), kind="difference", temperature=2.0, seed=seed, max_new_tokens=12)
        for seed in (1, 1, 2)
    )
    assert (first.plain, first.steered) == (again.plain, again.steered) and first.plain != other.plain
    nothing = pair.steer(PROMPTS[0], direction() * 1e-9, kind="difference", temperature=2.0, seed=1, max_new_tokens=12)
    assert nothing.steered == nothing.plain == first.plain


# --- what is added ------------------------------------------------------------------------------------------------
@pytest.fixture
def added(monkeypatch):
    """The vectors that come to a block, by their rows."""
    seen: list[steering.Ask] = []
    original = steering.write_both

    def watch(backbone, asks, *how):
        seen[:] = asks
        return original(backbone, asks, *how)

    monkeypatch.setattr("nla_sdk.calls.steering.write_both", watch)
    return seen


def alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).norm() <= 1e-5 * b.norm())


def test_of_a_text_it_is_what_the_ar_says_over_the_mean_as_long_as_that_is_in_activations(lora_pair, added):
    centred = lora_pair("centred")
    centred.steer(PROMPTS[0], "a cat", 0.5, max_new_tokens=1)
    rest = centred.reconstruct("a cat") - centred.reconstructor.mean
    assert math.isclose(float(rest.norm()), 20.0, rel_tol=1e-4), "its centred_norm"
    assert alike(added[0].vector, 0.5 * rest) and added[0].block == centred.layer


def test_of_an_ar_of_whole_activations_the_mean_is_taken_off_at_their_length(lora_pair, added):
    pair = lora_pair("shared")
    statistics, _ = pair.activation_statistics()
    states = pair.extract([*PROMPTS, "Then he ran"], "all").vectors
    pair.steer(PROMPTS[0], ["a cat", "two ships"], 1.0, max_new_tokens=1)
    length = float(statistics.log_norm[1].exp())
    for ask, text in zip(added, ["a cat", "two ships"], strict=True):
        whole = pair.reconstruct(text)
        rest = whole / whole.norm() * length - statistics.mean
        assert torch.cosine_similarity(ask.vector, rest, dim=0) > 1 - 1e-5
        typical = math.sqrt(length**2 - float(statistics.mean.norm()) ** 2)
        assert math.isclose(float(ask.vector.norm()), typical, rel_tol=1e-4)
    assert 0.5 < typical / float((states - states.mean(0)).norm(dim=1).median()) < 2


def test_a_direction_has_the_typical_length_a_difference_its_own_an_activation_no_mean(lora_pair, added):
    pair, rows = lora_pair("centred"), tiny.random(2, tiny.D_MODEL, seed=4)
    mean = pair.verbalizer.mean
    expected = {
        "direction": rows / rows.norm(dim=1, keepdim=True) * 20,
        "difference": rows,
        "activation": (rows - mean) / (rows - mean).norm(dim=1, keepdim=True) * 20,
    }
    for kind, wanted in expected.items():
        for given in (Vectors(rows, kind, pair.layer), rows):
            pair.steer(PROMPTS[0], given, -2.0, kind=kind if given is rows else None, max_new_tokens=1)
            assert all(alike(ask.vector, -2 * one) for ask, one in zip(added, wanted, strict=True))
    pair.steer(PROMPTS[0], rows, 1, max_new_tokens=1)
    assert alike(added[0].vector, expected["direction"][0]), "bare vectors are directions"


def test_vectors_go_in_where_they_are_from_unless_another_layer_is_said(pair, added):
    rows = tiny.random(2, tiny.D_MODEL, seed=4)
    given = Vectors(rows, "difference", (1, 3), labels=("cats", "dogs"))
    found = pair.steer(PROMPTS[0], given, max_new_tokens=1)
    assert [ask.block for ask in added] == [1, 3] == [one.layer for one in found]
    assert [one.towards for one in found] == ["cats", "dogs"]
    pair.steer(PROMPTS[0], given, layer=2, max_new_tokens=1)
    assert [ask.block for ask in added] == [2, 2]


def test_activations_are_steered_along_what_they_have_over_the_mean(lora_pair, added):
    pair = lora_pair("centred")
    read = pair.extract(PROMPTS[0])
    pair.steer(PROMPTS[1], read, 1, max_new_tokens=1)
    rest = read.vectors[0] - pair.verbalizer.mean
    assert alike(added[0].vector, rest / rest.norm() * 20)


def test_another_layer_has_a_typical_length_of_its_own(pair, added):
    pair.steer(PROMPTS[0], direction(), 1, layer=1, max_new_tokens=1)
    states = torch.cat([pair.extract(text, "all", layer=1).vectors[1:] for text in PROMPTS])
    typical = float((states - states.mean(0)).norm(dim=1).median())
    assert 0.5 < float(added[0].vector.norm()) / typical < 2


def test_the_mean_that_is_passed_says_how_long_a_direction_is(pair, added, tmp_path):
    mean = ActivationMean(tiny.random(tiny.D_MODEL, seed=9), 7.0, pair.layer)
    mean.save(tmp_path / "mean.safetensors")
    for given in (mean, tmp_path / "mean.safetensors"):
        pair.steer(PROMPTS[0], direction(), mean=given, strength=1, max_new_tokens=1)
        assert math.isclose(float(added[0].vector.norm()), 7.0, rel_tol=1e-5)


def test_a_centred_pairs_own_length_is_of_its_own_layer_only(lora_pair, added):
    pair = lora_pair("centred")
    pair.steer(PROMPTS[0], direction(), 1, layer=1, max_new_tokens=1)
    elsewhere = float(added[0].vector.norm())
    lora_pair("shared").steer(PROMPTS[0], direction(), 1, layer=1, max_new_tokens=1)
    assert math.isclose(elsewhere, float(added[0].vector.norm()), rel_tol=1e-6) and abs(elsewhere - 20) > 0.1


def test_where_nobody_knows_the_length_a_direction_is_refused_and_a_difference_is_not(pair, monkeypatch):
    monkeypatch.setattr(NLAPair, "activation_statistics", lambda self, **_: (None, "nothing was measured"))
    monkeypatch.setattr("nla_sdk.steps.steering.statistics_at", lambda base, layer: None)
    for towards in (direction(), "a cat"):
        with pytest.raises(MissingMeanError, match="mean activation of layer 4 is not known.*nothing was measured"):
            pair.steer(PROMPTS[0], towards)
    with pytest.raises(MissingMeanError, match="directions are at layer 1 is not known.*nla mean REF --layer"):
        pair.steer(PROMPTS[0], direction(), layer=1)
    assert pair.steer(PROMPTS[0], direction(), kind="difference", layer=1, max_new_tokens=1).layer == 1


# --- whom it is added to ------------------------------------------------------------------------------------------
def test_the_source_is_steered_with_its_own_adapter_on_and_the_halves_off(lora_folders, gemma_base, gemma, tmp_path):
    adapter = tiny.write_adapter(tmp_path, tiny.lora_tensors(gemma, tiny.EVERY_LINEAR, 6000), tiny.EVERY_LINEAR)
    tuned = merged(gemma_base, adapter).eval()
    pair = NLAPair.from_pretrained(lora_folders["shared"], source=adapter)
    vector = direction() * 4
    pair.explain(tiny.random(tiny.D_MODEL, seed=1))  # the AV's adapter is the last one on
    for prompt in PROMPTS[:2]:
        found = pair.steer(prompt, vector, 1, kind="difference", max_new_tokens=STEPS)
        assert found.steered == plain_text(pair, tuned, prompt, LAYER, vector)
        assert found.plain == plain_text(pair, tuned, prompt, LAYER, vector * 0)


def test_a_pair_of_whole_checkpoints_is_steered_in_its_source(full_pair, llama_base):
    model, vector = tiny.plain_model(llama_base), direction() * 3
    found = full_pair.steer(PROMPTS[0], vector, 1, kind="difference", max_new_tokens=STEPS)
    assert found.steered == plain_text(full_pair, model, PROMPTS[0], tiny.LLAMA_LAYER, vector)


def test_a_chat_is_gone_on_from_as_its_template_puts_it(full_pair):
    chat = [{"role": "user", "content": "Who?"}]
    text = "[user]\nWho?\n[model]\n"
    how = {"kind": "difference", "max_new_tokens": STEPS}
    found, same = full_pair.steer(chat, direction(), **how), full_pair.steer(text, direction(), **how)
    assert (found.plain, found.steered) == (same.plain, same.steered) and found.prompt == chat


def test_in_4_bits_it_is_the_quantised_model_that_is_steered(lora_pair, gemma_base):
    quantised, model = lora_pair("shared", "nf4"), reference.load(gemma_base, None, "nf4")
    ids = quantised.source.tokenizer("<bos>" + PROMPTS[0], add_special_tokens=False).input_ids
    with torch.no_grad(), quantised.source.using(None):
        add = steering.adding(quantised.source, 2, 3 * direction()[None], len(ids))
        _, logits = steering.write(quantised.source, [ids], add, Sampling(1), 1)
    expected = plain_logits(model, ids, 2, 3 * direction())
    own = plain_logits(model, ids, 2, 0 * direction())
    assert (logits[0] - expected).abs().max() < 0.02 * (own - expected).abs().max()


def test_other_threads_are_neither_steered_nor_in_the_way(pair):
    rows = tiny.random(4, tiny.D_MODEL, seed=21, scale=3.0)
    how = {"kind": "difference", "max_new_tokens": STEPS}
    alone = pair.explain(rows), pair.steer(PROMPTS[0], rows, **how), pair.extract(PROMPTS).vectors
    with ThreadPoolExecutor(6) as pool:
        explained = [pool.submit(pair.explain, rows) for _ in range(2)]
        steered = [pool.submit(pair.steer, PROMPTS[0], rows, **how) for _ in range(2)]
        read = [pool.submit(pair.extract, PROMPTS) for _ in range(2)]
        assert all(one.result() == alone[0] for one in explained)
        assert all(one.result() == alone[1] for one in steered)
        assert all(torch.equal(one.result().vectors, alone[2]) for one in read)


# --- what is left behind, and what is refused -----------------------------------------------------------------------
def hooks(pair) -> int:
    return sum(len(module._forward_hooks) for module in pair.source.model.modules())


def test_no_failure_leaves_a_hook_behind(pair, monkeypatch):
    before, own = hooks(pair), pair.steer(PROMPTS[0], direction(), 0, max_new_tokens=STEPS).plain
    with pytest.raises(NonFiniteOutputError, match="with the vector added is NaN or infinite in float32.*smaller"):
        pair.steer(PROMPTS[:2], direction() * 1e30, [1.0, 1e8], kind="difference")
    monkeypatch.setattr(steering, "draw", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pair.steer(PROMPTS[0], direction())
    monkeypatch.undo()
    assert hooks(pair) == before
    assert pair.steer(PROMPTS[0], direction(), 0, max_new_tokens=STEPS).plain == own


def test_the_rows_that_are_too_strong_are_named(pair):
    with pytest.raises(NonFiniteOutputError, match="row 1: ") as caught:
        pair.steer(PROMPTS[0], direction() * 1e30, [1e-30, 1e8], kind="difference")
    assert caught.value.rows == (1,)


def test_a_block_that_never_runs_and_one_of_another_shape_are_refused(pair):
    module, vectors = torch.nn.Identity(), torch.ones(1, 4)
    with (
        pytest.raises(InjectionError, match="block 2 of a was never called"),
        steering.Adding(module, vectors, 3, 1, "block 2 of a"),
    ):
        pass
    with (
        pytest.raises(InjectionError, match=r"gives states of shape \(3, 4\)"),
        steering.Adding(module, vectors, 3, 1, "it"),
    ):
        module(torch.ones(3, 4))
    assert not module._forward_hooks


def test_what_is_refused(pair, lora_folders):
    vector, text = direction(), PROMPTS[0]
    for wrong in (math.nan, math.inf, "1", True, None, [1.0, math.nan], object()):
        with pytest.raises(InputError, match="strength=.*expected a finite number"):
            pair.steer(text, vector, wrong)
    with pytest.raises(EmptyBatchError, match="list of strengths is empty"):
        pair.steer(text, vector, [])
    for layer in (-1, 6, 99):
        with pytest.raises(LayerError, match="layers 0 to 5"):
            pair.steer(text, vector, layer=layer)
    with pytest.raises(LayerError, match="layer -1"):
        pair.steer(text, Vectors(vector[None], "direction", -1))
    with pytest.raises(ZeroActivationError):
        pair.steer(text, vector * 0)
    with pytest.raises(NonFiniteActivationError):
        pair.steer(text, vector * math.nan)
    with pytest.raises(ActivationShapeError):
        pair.steer(text, vector[:5])
    with pytest.raises(EmptyBatchError):
        pair.steer("", vector)
    with pytest.raises(EmptyBatchError, match="steer towards is empty"):
        pair.steer(text, ["ships", " "])
    with pytest.raises(EmptyBatchError):
        pair.steer([], vector)
    with pytest.raises(InputError, match="prompt is a int"):
        pair.steer(3, vector)
    with pytest.raises(InputError, match="2 prompts, 3 directions, 1 strengths"):
        pair.steer(PROMPTS[:2], tiny.random(3, tiny.D_MODEL, seed=1))
    with pytest.raises(InputError, match="said of vectors"):
        pair.steer(text, "a cat", kind="direction")
    with pytest.raises(InputError, match="kind='feature': expected 'activation', 'direction', 'difference'"):
        pair.steer(text, vector, kind="feature")
    with pytest.raises(InputError, match="max_new_tokens=0"):
        pair.steer(text, vector, max_new_tokens=0)
    av = NLAPair.from_pretrained(lora_folders["shared"] / "av", None)
    object.__setattr__(av, "reconstructor", None)
    with pytest.raises(MissingHalfError, match="steering towards a text needs an AR"):
        av.steer(text, "a cat")


def test_a_prompt_of_no_tokens_is_refused(pair, monkeypatch):
    monkeypatch.setattr("nla_sdk.calls.steering.tokenize", lambda tokenizer, text: [tokenizer.bos_token_id])
    with pytest.raises(EmptyBatchError, match="row 0 has no tokens"):
        pair.steer(" ", direction())


def test_vectors_of_another_model_are_refused_unless_forced(pair, monkeypatch):
    foreign = Vectors(direction()[None], "difference", LAYER, model="someone/other-model")
    monkeypatch.setattr(NLAPair, "origin", Origin(layer=LAYER, model="google/gemma-3-270m"))
    with pytest.raises(ForeignActivationError, match="model someone/other-model"):
        pair.steer(PROMPTS[0], foreign)
    with pytest.warns(ForeignActivationWarning, match="Taken all the same"):
        pair.steer(PROMPTS[0], foreign, force=True, max_new_tokens=1)
    own = replace(foreign, model="google/gemma-3-270m")
    assert pair.steer(PROMPTS[0], own, max_new_tokens=1).layer == LAYER


def test_a_bare_activation_is_warned_of(lora_pair):
    pair = lora_pair("centred")
    looks = pair.verbalizer.mean + 0.1 * direction()
    with pytest.warns(SuspectActivationsWarning, match="looks like an activation .*kind='activation'") as caught:
        pair.steer(PROMPTS[0], looks, max_new_tokens=1)
    assert caught[0].filename == __file__
    with pytest.raises(ZeroActivationError, match="the mean activation itself"):
        pair.steer(PROMPTS[0], pair.verbalizer.mean, kind="activation")


def test_a_result_prints_both_side_by_side_and_is_a_row():
    from nla_sdk.calls.steered import Moved, Steered

    one = Steered("Go", "a <b> text", 1.5, 2, "home", "<i>away</i>", (Moved(" a", 0.1, 0.5),))
    assert repr(one).splitlines()[1:] == ["  plain   'home'", "  steered '<i>away</i>'"]
    assert "&lt;i&gt;away" in one._repr_html_() and "<i>" not in one._repr_html_()
    assert one.to_row() == {
        "prompt": "Go",
        "towards": "a <b> text",
        "strength": 1.5,
        "layer": 2,
        "plain": "home",
        "steered": "<i>away</i>",
        "moved": [{"token": " a", "plain": 0.1, "steered": 0.5}],
    }
