"""Texts are read as tokenizer.json says, whatever transformers' class makes of it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from nla_sdk.errors import LoadError, TokenizerWarning
from nla_sdk.model.weights import tokenizers
from nla_sdk.model.weights.tokenizers import load_tokenizer, used

TEXT = "It's 12345 miles\n\n to  the café."


def byte_level(digits: str) -> Tokenizer:
    """A byte-level BPE that splits digits by `digits`."""
    vocabulary = {
        token: at for at, token in enumerate(["<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    merges = [("1", "2"), ("12", "3"), ("4", "5"), ("'", "s"), ("Ġ", "t"), ("Ċ", "Ċ")]
    for pair in merges:
        vocabulary["".join(pair)] = len(vocabulary)
    core = Tokenizer(models.BPE(vocabulary, merges))
    words = pre_tokenizers.Split(Regex(rf"{digits}| ?\p{{L}}+|\s+|[^\s\p{{L}}\p{{N}}]+"), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<bos>", "<eos>"])
    return core


def spaced(*, prepend: bool) -> Tokenizer:
    """A SentencePiece-like BPE; `prepend`: with the space that Llama's puts in front of every text."""
    letters = sorted(set("".join(map(chr, range(33, 127)))) | set("é世界\n\t"))
    tokens = ["<unk>", "<bos>", "<eos>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    vocabulary = {token: at for at, token in enumerate(tokens)}
    core = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps = [normalizers.Prepend("▁")] if prepend else []
    core.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens(["<unk>", "<bos>", "<eos>"])
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return core


FILES = {
    "digits in threes": byte_level(r"\p{N}{1,3}"),
    "prepended space": spaced(prepend=True),
    "as it is": spaced(prepend=False),
}
CONFIG = {"bos_token": "<bos>", "eos_token": "<eos>", "chat_template": "{{ messages[0]['content'] }}!"}


def folder_of(folder: Path, core: Tokenizer, model_type: str, named: str | None, **config) -> Path:
    folder.mkdir(exist_ok=True)
    core.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(CONFIG | config | ({"tokenizer_class": named} if named else {}))
    )
    return folder


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    monkeypatch.setattr(tokenizers, "_said", set())


@pytest.mark.parametrize(
    "named", [None, "PreTrainedTokenizerFast", "Qwen2Tokenizer", "LlamaTokenizer", "GemmaTokenizer"]
)
@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "gemma3_text", "llama", "gpt2"])
@pytest.mark.parametrize("file", FILES)
def test_whatever_class_a_folder_names_its_own_file_is_what_reads(tmp_path, file, model_type, named):
    folder = folder_of(tmp_path / "base", FILES[file], model_type, named)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TokenizerWarning)
        live = load_tokenizer(folder)
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in (TEXT, *tokenizers.PROBES):
        assert live(text, add_special_tokens=False).input_ids == own.encode(text, add_special_tokens=False).ids
        assert live.decode(own.encode(text, add_special_tokens=False).ids) == own.decode(
            own.encode(text, add_special_tokens=False).ids, skip_special_tokens=False
        )
    assert live.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi!"
    assert (live.bos_token, live.eos_token) == ("<bos>", "<eos>")


@pytest.mark.parametrize(
    ("model_type", "named"), [("qwen2", None), ("qwen2", "PreTrainedTokenizerFast"), ("qwen3", None)]
)
def test_transformers_replaces_the_splitting_of_these_which_is_said_once(tmp_path, model_type, named):
    folder = folder_of(tmp_path / "base", FILES["digits in threes"], model_type, named)
    own = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids
    assert AutoTokenizer.from_pretrained(folder)(TEXT).input_ids != own, "nothing to guard against any more"
    with pytest.warns(TokenizerWarning, match=r"transformers' Qwen2Tokenizer reads texts otherwise .* contract=\{'tok"):
        load_tokenizer(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_tokenizer(folder)(TEXT).input_ids == own


def test_a_contract_says_which_and_then_nothing_is_said(tmp_path):
    folder = folder_of(tmp_path / "base", FILES["digits in threes"], "qwen2", None)
    own = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file, kind = (load_tokenizer(folder, choice=choice) for choice in ("file", "class"))
    assert file(TEXT).input_ids == own != kind(TEXT).input_ids
    assert kind(TEXT).input_ids == AutoTokenizer.from_pretrained(folder)(TEXT).input_ids
    assert (used(file, folder), used(kind, folder)) == ("file", "class")


def test_a_tokenizer_that_agrees_is_transformers_own_and_nothing_is_said(tmp_path):
    folder = folder_of(tmp_path / "base", FILES["digits in threes"], "llama", "PreTrainedTokenizerFast")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        live = load_tokenizer(folder)
    assert type(live) is type(AutoTokenizer.from_pretrained(folder))
    assert used(live, folder) == "file"


def test_a_difference_that_only_the_contracts_prompt_shows_is_found(tmp_path):
    class Odd:
        """Reads all but one text as the file does, and is built otherwise."""

        backend_tokenizer = None

        def __init__(self, own):
            self.own = own

        def __call__(self, text, **_):
            ids = self.own.encode(text, add_special_tokens=False).ids
            return {"input_ids": ids[:-1] if "odd one" in text else ids}

        def decode(self, ids, **_):
            return self.own.decode(ids, skip_special_tokens=False)

    folder = folder_of(tmp_path / "base", FILES["as it is"], "llama", None)
    file = folder / "tokenizer.json"
    live = Odd(Tokenizer.from_file(str(file)))
    assert tokenizers._difference(live, file, tokenizers.PROBES) is None
    assert "odd one" in tokenizers._difference(live, file, (*tokenizers.PROBES, "the odd one"))


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("asked", [True, False, None])
def test_bos_is_added_as_the_file_says_by_either_reader_whatever_the_config_asks(tmp_path, asked, adds):
    core = spaced(prepend=False)
    if not adds:
        core.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    folder = folder_of(tmp_path / "base", core, "qwen2", None, **({} if asked is None else {"add_bos_token": asked}))
    readers = [load_tokenizer(folder, choice=choice) for choice in ("file", "class")]
    assert [reader("x").input_ids[0] == 1 for reader in readers] == [adds, adds]


def test_a_folder_without_tokenizer_json_is_read_by_the_class(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    vocabulary = {token: at for at, token in enumerate(["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}))
    live = load_tokenizer(folder)
    assert len(live("cat").input_ids) == 3
    assert used(live, folder) is None
    with pytest.raises(LoadError, match=r"holds no tokenizer\.json, which the contract wants read"):
        load_tokenizer(folder, choice="file")


def test_a_damaged_file_is_named(tmp_path):
    folder = folder_of(tmp_path / "base", FILES["as it is"], "llama", "PreTrainedTokenizerFast")
    (folder / "tokenizer.json").write_text(
        (folder / "tokenizer.json").read_text(encoding="utf-8")[:3000], encoding="utf-8"
    )
    with pytest.raises(LoadError, match="tokenizer"):
        load_tokenizer(folder)
    with pytest.raises(LoadError, match="Could not load the tokenizer"):
        load_tokenizer(tmp_path / "nowhere")


@settings(max_examples=60, deadline=None, database=None)
@given(text=st.text(alphabet=st.sampled_from("a B'.\n\t 0123456789é世 \u0301</>"), max_size=40))
def test_what_is_loaded_reads_any_text_as_the_file_does(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp() / "any-text"
    if not folder.exists():
        folder_of(folder, FILES["digits in threes"], "qwen2", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TokenizerWarning)
        live = load_tokenizer(folder)
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert live(text, add_special_tokens=False).input_ids == own.encode(text, add_special_tokens=False).ids
