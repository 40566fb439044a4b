"""A pair of whole checkpoints, as the reference releases them: chat template, dialects, truncated AR, no head bias."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from nla_sdk import NLAPair
from nla_sdk.errors import ContractMismatchError, DamagedFileError, InputError, LoadError, MismatchedHalvesError
from nla_sdk.model.extraction import tokenize
from tests import reference, tiny

CHAT = ("<bos>[user]\n", "\n[model]\n")
BLOCKS = tiny.LLAMA_LAYER + 1


def vectors(count: int) -> torch.Tensor:
    return tiny.random(count, tiny.D_MODEL, seed=8, scale=2.0)


def truncated_by_hand(folder, source_seed: int = 22):
    """The AR's blocks in a model that has a final norm and lm_head of its own, which must not matter."""
    model = tiny.randomize(tiny.LlamaForCausalLM(tiny.llama_config(BLOCKS)), seed=source_seed + 1000)
    left = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert sorted(left.missing_keys) == ["lm_head.weight", "model.norm.weight"]
    assert not left.unexpected_keys
    return model.eval()


def test_explain_equals_full_forwards_through_the_chat_template(full_pair, full_folder):
    model, tokenizer = reference.load(full_folder / "av"), full_pair.verbalizer.backbone.tokenizer
    prompt, marker = reference.av_prompt(tokenizer, *CHAT), tokenizer.convert_tokens_to_ids(tiny.MARKER)
    rows = vectors(4)
    written = [reference.write(model, prompt, marker, reference.scaled(row, 150.0), 12) for row in rows]
    expected = [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in written]
    explanations = full_pair.explain(rows)
    assert explanations == expected
    assert len(set(explanations)) == len(rows)
    assert explanations == [full_pair.explain(row) for row in rows]


def test_reconstruct_equals_the_value_head_on_the_last_block(full_pair, full_folder):
    model, head = truncated_by_hand(full_folder / "ar"), load_file(full_folder / "ar" / "value_head.safetensors")
    tokenizer, texts = full_pair.reconstructor.backbone.tokenizer, ["", "a cat", "An old sailor. " * 9]
    prompts = [reference.ar_prompt(tokenizer, text) for text in texts]
    expected = torch.stack([reference.reconstruct(model, ids, BLOCKS, head) for ids in prompts])
    found = full_pair.reconstruct(texts)
    assert reference.distance(found, expected) < 1e-4
    assert reference.distance(found, torch.stack([full_pair.reconstruct(text) for text in texts])) < 1e-4


@pytest.mark.parametrize("layer", range(tiny.LLAMA_BLOCKS))
def test_extract_reads_the_base_named_in_the_contract_not_a_half(full_pair, llama_base, layer):
    model, tokenizer = reference.load(llama_base), full_pair.source.tokenizer
    ids = tokenizer("<bos>The cat sat.", add_special_tokens=False).input_ids
    acts = full_pair.extract("The cat sat.", "all", layer=layer)
    assert reference.distance(acts.vectors, reference.states(model, ids, layer)) < 1e-4
    assert full_pair.layer == tiny.LLAMA_LAYER


def test_a_chat_is_read_through_the_template_with_one_bos(full_pair):
    chat = [{"role": "user", "content": "Who?"}]
    acts = full_pair.extract(chat, "all")
    assert "".join(acts.tokens) == "<bos>[user]\nWho?\n[model]\n"
    both = full_pair.extract([chat, "Who?"], -1)
    assert both.texts == [0, 1]
    assert reference.distance(both.vectors[:1], acts.vectors[-1:]) < 1e-4
    trip = full_pair.round_trip(chat)
    assert reference.distance(trip.activation, acts.vectors[-1]) < 1e-4


def test_a_text_never_gets_two_bos_or_none():
    tokens = tiny.tokenizer()
    assert tokenize(tokens, "a") == tokenize(tokens, "<bos>a")
    assert tokenize(tokens, "a")[0] == tokens.bos_token_id
    assert tokenize(tiny.tokenizer(bos=False), "a") == tiny.tokenizer(bos=False)("a").input_ids


def test_a_pair_whose_tokenizer_has_no_bos_works(tmp_path):
    base = tiny.save_model(tmp_path / "base", tiny.llama_config(bos_token_id=None), tiny.tokenizer(bos=False), seed=4)
    model = tiny.plain_model(base)
    pair = NLAPair.from_pretrained(tiny.lora_pair(tmp_path / "pair", base, model, layer=1, blocks=2))
    ids = pair.source.tokenizer("a cat").input_ids
    assert reference.distance(pair.extract("a cat", "all").vectors, reference.states(model, ids, 1)) < 1e-4
    av = reference.load(base, tmp_path / "pair" / "av")
    prompt = reference.av_prompt(pair.source.tokenizer, prefix="")
    marker = pair.source.tokenizer.convert_tokens_to_ids(tiny.MARKER)
    row = vectors(1)[0]
    written = reference.write(av, prompt, marker, reference.scaled(row), 8)
    assert pair.explain(row, max_new_tokens=8) == pair.source.tokenizer.decode(written).strip()


def test_the_source_is_loaded_only_when_something_is_extracted(full_folder):
    pair = NLAPair.from_pretrained(full_folder / "av", full_folder / "ar", base="/no/such/base")
    assert len(pair.explain(vectors(2))) == 2
    with pytest.raises(Exception, match="no/such/base"):
        pair.extract("a")
    assert pair.base_path == full_folder / "av", "nobody needed the base"


def test_a_full_av_and_an_adapter_ar_make_a_pair(tmp_path, full_folder, full_pair, llama_base):
    model = tiny.plain_model(llama_base)
    ar = tiny.lora_ar(tmp_path / "ar", llama_base, model, layer=tiny.LLAMA_LAYER, blocks=2)
    tiny.write_sidecar(ar, provenance={"pair_id": "tiny-full"})
    pair = NLAPair.from_pretrained(full_folder / "av", ar)
    row = vectors(1)[0]
    assert pair.explain(row) == full_pair.explain(row)
    ids = reference.ar_prompt(pair.source.tokenizer, "a cat")
    expected = reference.reconstruct(reference.load(llama_base, ar), ids, 2, torch.load(ar / "linear_head.pt"))
    assert reference.distance(pair.reconstruct("a cat"), expected) < 1e-4


# --- refusals -----------------------------------------------------------------------------------------------------
@pytest.fixture
def damaged(tmp_path, full_folder):
    import shutil

    return shutil.copytree(full_folder, tmp_path / "pair")


def test_a_checkpoint_that_lacks_weights_is_refused(damaged):
    file = damaged / "av" / "model.safetensors"
    tensors = {key: tensor for key, tensor in load_file(file).items() if "layers.1.mlp.up_proj" not in key}
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(LoadError, match=r"lacks weights .*1 missing.*layers\.1\.mlp\.up_proj\.weight.*random numbers"):
        NLAPair.from_pretrained(damaged / "av")


def test_an_av_without_its_lm_head_is_refused_though_an_ar_may_lack_it(damaged):
    file = damaged / "av" / "model.safetensors"
    tensors = {key: tensor for key, tensor in load_file(file).items() if key != "lm_head.weight"}
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(LoadError, match=r"lacks weights .*lm_head\.weight"):
        NLAPair.from_pretrained(damaged / "av")


def test_a_damaged_checkpoint_is_refused_with_its_path(damaged):
    (damaged / "av" / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DamagedFileError, match=r"pair/av/model.safetensors is a Git LFS pointer"):
        NLAPair.from_pretrained(damaged / "av")


def test_a_broken_config_is_refused_with_its_path(damaged):
    (damaged / "av" / "config.json").write_text("{")
    with pytest.raises(LoadError, match=r"pair/av/config.json is damaged"):
        NLAPair.from_pretrained(damaged / "av")


def test_an_ar_deeper_than_its_checkpoint_is_refused(damaged):
    tiny.write_sidecar(damaged / "ar", critic={"num_hidden_layers": 7})
    with pytest.raises(MismatchedHalvesError, match="runs 8 blocks, its model .* has 2"):
        NLAPair.from_pretrained(None, damaged / "ar")


def test_a_chat_contract_needs_a_chat_template(damaged):
    (damaged / "av" / "chat_template.jinja").unlink()
    with pytest.raises(ContractMismatchError, match="`prompt_style` is chat, but the tokenizer has no chat template"):
        NLAPair.from_pretrained(damaged / "av")


def test_chat_messages_need_a_chat_template(lora_pair):
    with pytest.raises(InputError, match="tokenizer has no chat template; pass plain text"):
        lora_pair("shared").extract([{"role": "user", "content": "Who?"}])
