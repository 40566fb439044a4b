"""A tiny GGUF file of Gemma 3, converted here and by transformers itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

gguf = pytest.importorskip("gguf", reason="needs the [demo] extra")

from safetensors.torch import load_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: E402

from nla_sdk.errors import DemoBaseError  # noqa: E402
from nla_sdk.halves.conversion.fields import Reader  # noqa: E402
from nla_sdk.halves.conversion.tokenizer import save_tokenizer  # noqa: E402
from nla_sdk.halves.conversion.weights import save_weights  # noqa: E402

BLOCKS, WIDTH, INNER, HEADS, HEAD = 2, 64, 96, 2, 32
PIECES = ["▁", "a", "b", "c", "ab", "ba", "▁a", "abc", "bc", "▁ab", "aa", "aaa", "aaaa", "é", "<br>"]
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
CONTROL, NORMAL, USER, BYTE = 3, 1, 4, 6
TOKENS = [
    *[(token, CONTROL) for token in SPECIAL],
    *[(f"<0x{byte:02X}>", BYTE) for byte in range(256)],
    ("\n", USER),
    ("  ", USER),  # a run of spaces, as the file spells it
    ("   ", NORMAL),
    *[(token, NORMAL) for token in PIECES],
    ("<start_of_turn>", CONTROL),
]
TEXTS = ["ab abc  a", "aaaa aaaaa", "   é\nü<start_of_turn>a<br> <bos>x", "", "babacab"]
Q8, Q5 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q5_0


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def ours(file, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ours")
    reader = Reader(file)
    save_tokenizer(reader, folder)
    save_weights(reader, folder)
    return folder


@pytest.fixture(scope="module")
def theirs(file, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("theirs")
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    return folder


def write(path: Path, without: str = "", beside: str = "") -> Path:
    """A GGUF file as llama.cpp writes it of a tiny random Gemma 3."""
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(16)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token for token, _ in TOKENS])
    writer.add_token_scores([-float(number) for number in range(len(TOKENS))])
    writer.add_token_types([kind for _, kind in TOKENS])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    for number, (name, shape) in enumerate(shapes().items()):
        if name == without:
            continue
        values = np.random.default_rng(number).normal(size=shape).astype(np.float32)
        kind = None if len(shape) == 1 else Q5 if "ffn" in name else Q8
        data = values if kind is None else gguf.quantize(values, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    if beside:
        writer.add_tensor(beside, np.zeros(WIDTH, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def shapes() -> dict[str, tuple[int, ...]]:
    block = {
        "attn_q": (HEADS * HEAD, WIDTH),
        "attn_k": (HEAD, WIDTH),
        "attn_v": (HEAD, WIDTH),
        "attn_output": (WIDTH, HEADS * HEAD),
        "ffn_gate": (INNER, WIDTH),
        "ffn_up": (INNER, WIDTH),
        "ffn_down": (WIDTH, INNER),
        "attn_q_norm": (HEAD,),
        "attn_k_norm": (HEAD,),
        **dict.fromkeys(("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"), (WIDTH,)),
    }
    blocks = {f"blk.{at}.{name}.weight": shape for at in range(BLOCKS) for name, shape in block.items()}
    return {"token_embd.weight": (len(TOKENS), WIDTH), "output_norm.weight": (WIDTH,), **blocks}


def test_the_weights_are_the_bytes_that_transformers_writes(ours, theirs):
    assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()


def test_quantised_numbers_are_scale_times_whole_number(file, ours):
    written = load_file(ours / "model.safetensors")["model.embed_tokens.weight"]
    stored = next(tensor for tensor in gguf.GGUFReader(file).tensors if tensor.name == "token_embd.weight")
    for row in (0, 7, len(TOKENS) - 1):
        blocks = [stored.data[row].tobytes()[start : start + 34] for start in range(0, 68, 34)]  # float16, 32 × int8
        plain = [
            np.float32(np.frombuffer(block, "<f2", 1)[0]) * np.float32(number)
            for block in blocks
            for number in np.frombuffer(block, "i1", 32, 2)
        ]
        assert written[row].tolist() == [float(number) for number in plain]


def test_the_config_says_what_transformers_reads_of_the_file(ours, theirs):
    read = [json.loads((folder / "config.json").read_text()) for folder in (ours, theirs)]
    beside = {"_model_name_or_path", "unk_token_id"}  # where it came from; what no model computes with
    assert read[0] == {key: value for key, value in read[1].items() if key not in beside}
    generation = [(folder / "generation_config.json").read_text() for folder in (ours, theirs)]
    assert generation[0] == generation[1]


def test_the_tokenizer_is_the_one_that_transformers_makes_of_the_file(ours, theirs):
    files = [Tokenizer.from_file(str(folder / "tokenizer.json")).to_str() for folder in (ours, theirs)]
    assert files[0] == files[1]
    loaded = [AutoTokenizer.from_pretrained(folder) for folder in (ours, theirs)]
    assert loaded[0].backend_tokenizer.to_str() == loaded[1].backend_tokenizer.to_str() == files[0]
    assert type(loaded[0]) is type(loaded[1])
    assert loaded[0].special_tokens_map == loaded[1].special_tokens_map
    assert loaded[0].added_tokens_decoder == loaded[1].added_tokens_decoder
    for text in TEXTS:
        assert loaded[0](text).input_ids == loaded[1](text).input_ids


def test_the_reader_finds_what_gguf_finds(file):
    plain, quick = gguf.GGUFReader(file), Reader(file)
    assert list(plain.fields) == list(quick.fields)
    for key, field in plain.fields.items():
        assert quick.value(key) == field.contents()
    for one, other in zip(plain.tensors, quick.tensors, strict=True):
        assert (one.name, one.tensor_type, one.data_offset) == (other.name, other.tensor_type, other.data_offset)
        assert np.array_equal(one.data, other.data)


def test_a_tensor_that_is_missing_or_left_over_is_named(tmp_path):
    lacking = Reader(write(tmp_path / "lacking.gguf", without="blk.1.ffn_up.weight"))
    with pytest.raises(DemoBaseError, match=r"lacks 1 of the model's 28 tensors \(first: model.layers.1.mlp.up_proj"):
        save_weights(lacking, tmp_path)
    more = Reader(write(tmp_path / "more.gguf", beside="blk.0.attn_q.bias"))
    with pytest.raises(DemoBaseError, match=r"holds 1 that it has no place for \(first: blk.0.attn_q.bias\)"):
        save_weights(more, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
