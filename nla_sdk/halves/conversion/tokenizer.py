"""Gemma's tokenizer out of a GGUF file, written as transformers reads it fastest.

The file holds tokens and their types. Gemma's merges are what the tokens imply: each token, in the vocabulary's order,
from every two tokens that it is put together of, the longer left part first. How text is normalised and split is in no
GGUF file; transformers' class for Gemma knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .fields import Reader

CONTROL, USER_DEFINED = 3, 4
"""Types of tokens that a text is first searched for: special ones, and others."""
SPACE = "▁"


def save_tokenizer(reader: Reader, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json into a folder.

    transformers (5.23) reads them in a third of the time that it takes for those it writes itself: a merge is a string
    and no list, which Python would make half a million of, and the config lists the added tokens, for which the other
    file would else be parsed a second time.
    """
    from transformers import GemmaTokenizer

    stored: list[str] = reader.value("tokenizer.ggml.tokens")
    # A run of spaces is stored as such; in a text, each space is the sign for one by the time it is looked up.
    tokens = [SPACE * len(token) if " " in token and not token.strip() else token for token in stored]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    kinds = dict(zip(stored, reader.value("tokenizer.ggml.token_type"), strict=True))
    added = list(_added(kinds, vocabulary))
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    bare = GemmaTokenizer(
        vocab={token["content"]: token["id"] for token in added if token["special"]},
        add_bos_token=reader.value("tokenizer.ggml.add_bos_token"),
        add_eos_token=reader.value("tokenizer.ggml.add_eos_token"),
        **{f"{name}_token": stored[reader.value(f"tokenizer.ggml.{key}_token_id")] for name, key in names.items()},
    )
    bare.save_pretrained(folder)
    written = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    written["added_tokens"] = added
    written["model"]["vocab"] = vocabulary
    written["model"]["merges"] = [f"{left} {right}" for left, right in merges(vocabulary)]
    _write(folder / "tokenizer.json", written)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["added_tokens_decoder"] = {token.pop("id"): token for token in added}
    _write(folder / "tokenizer_config.json", config)


def merges(vocabulary: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The merges that a vocabulary implies, the first that is made first.

    Args:
        vocabulary: its tokens in their order, with a fast `in`.
    Example:
        >>> list(merges(dict.fromkeys(["a", "b", "ab", "ba", "aba"])))
        [('a', 'b'), ('b', 'a'), ('ab', 'a'), ('a', 'ba')]
    """
    for token in vocabulary:
        for at in range(len(token) - 1, 0, -1):
            if (left := token[:at]) in vocabulary and (right := token[at:]) in vocabulary:
                yield left, right


def _added(kinds: Mapping[str, int], vocabulary: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """The tokens that a text is first searched for, as tokenizer.json lists them."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for token, kind in kinds.items():
        if kind in (CONTROL, USER_DEFINED) and token in vocabulary:
            yield {"id": vocabulary[token], "content": token, **flags, "special": kind == CONTROL}


def _write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
