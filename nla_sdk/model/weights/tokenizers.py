"""A folder → its tokenizer, which reads texts as the folder's own tokenizer.json does.

transformers' classes build a tokenizer of their own around the file's vocabulary and merges; what the file says of
normalising and splitting is lost where the class says otherwise. transformers 5.23 does so for model type qwen2
whatever class the folder names, and for qwen3, gemma2, gemma3_text, gpt2 and others where it names none or that class:
another regular expression for words and digits, another treatment of spaces, other tokens, without a word.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import LoadError, TokenizerWarning, first_line
from ...imports import uncollected
from ..quiet import quiet
from .damage import damaged_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILE = "tokenizer.json"
# Spaces, tabs, newlines, digits, punctuation, contractions, other alphabets, composed and decomposed, a leading space.
PROBES = (
    "The cat's mat isn't 1234567 metres; it'll cost $3,500.25 (or so), won't it?",
    " leading and  double   spaces\t tabs\n\nlines \n \r\n end ",
    "café cafe\u0301 Straße 世界 こんにちは Привет नमस्ते مرحبا 👩‍💻 ﬁ ① ㊗㈎㈜㎡★",
    "def f(x):\n    return x**2 != 'a_b' # </tag> <text>x.</text> <summary>",
)
_TAKEN = {
    "file": "The file's own is used. If the pair was trained with the class, say so: contract={'tokenizer': 'class'}.",
    "class": "The class is used, as the contract says.",
}
_said: set[str] = set()


def load_tokenizer(
    path: str | os.PathLike,
    *,
    choice: str | None = None,
    probes: Iterable[str] = (),
    trust_remote_code: bool = False,
) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder.

    Args:
        path: the folder.
        choice: "file": as tokenizer.json says; "class": as transformers' class does; None: the class where it gives the
            file's tokens, else the file.
        probes: texts to compare the two on, beside `PROBES`: a contract's prompts.
        trust_remote_code: run a tokenizer class from the folder.
    Raises:
        LoadError: there is no tokenizer, or no tokenizer.json where `choice` is "file".
    Warns:
        TokenizerWarning: once a folder, where the two read texts otherwise and nobody said which.
    Example:
        >>> load_tokenizer("base")("a text").input_ids                                          # doctest: +SKIP
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    file = Path(path) / TOKENIZER_FILE
    if choice == "file" and not file.is_file():
        raise LoadError(f"{path} holds no {TOKENIZER_FILE}, which the contract wants read (`tokenizer: file`).")
    try:
        with quiet(), uncollected():
            if choice == "file":
                return PreTrainedTokenizerFast.from_pretrained(path)
            live = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
            if choice == "class" or not file.is_file():
                return live
            if (difference := _difference(live, file, (*PROBES, *probes))) is None:
                return live
            own = PreTrainedTokenizerFast.from_pretrained(path)
    except (OSError, ValueError, RuntimeError, ImportError, LookupError, TypeError, AttributeError) as error:
        if wrong := damaged_file(Path(path)):
            raise wrong from error
        raise LoadError(f"Could not load the tokenizer in {path}: {first_line(error)}") from error
    except Exception as error:  # tokenizers raises bare Exceptions where its file is damaged
        if type(error) is not Exception:
            raise
        raise LoadError(f"Could not read {file}: {first_line(error)}. Download it again.") from error
    if str(path) not in _said:
        _said.add(str(path))
        warnings.warn(
            f"transformers' {type(live).__name__} reads texts otherwise than the {TOKENIZER_FILE} in {path}: "
            f"{difference}. {_TAKEN['file']}",
            TokenizerWarning,
            stacklevel=2,
        )
    return own


def used(tokenizer: PreTrainedTokenizerBase, path: str | os.PathLike) -> str | None:
    """Which of the two a loaded tokenizer of a folder is, for a contract: "file", "class", or None without a file."""
    file = Path(path) / TOKENIZER_FILE
    if not file.is_file():
        return None
    return "file" if _difference(tokenizer, file, PROBES) is None else "class"


def _difference(live: PreTrainedTokenizerBase, file: Path, probes: tuple[str, ...]) -> str | None:
    """The first probe that the two read, or write back, otherwise, in words; None: they agree."""
    from tokenizers import Tokenizer

    backend = getattr(live, "backend_tokenizer", None)
    if backend is not None and _same_construction(backend, file):
        return None
    own = Tokenizer.from_file(str(file))
    own.no_padding()
    own.no_truncation()
    for text in probes:
        try:
            ours = list(live(text, add_special_tokens=False, verbose=False)["input_ids"])
        except Exception as error:  # tokenizers raises bare Exceptions, of a missing <unk> for one
            return f"it cannot read {text[:40]!r} ({first_line(error)})"
        theirs = own.encode(text, add_special_tokens=False).ids
        if ours != theirs:
            at = next((n for n, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), 0)
            near = max(0, at - 1)
            pieces = [[own.id_to_token(token) or token for token in ids[near : at + 3]] for ids in (ours, theirs)]
            return f"{pieces[0]} where the file has {pieces[1]} in {text[:40]!r}"
        if live.decode(theirs, clean_up_tokenization_spaces=False) != own.decode(theirs, skip_special_tokens=False):
            return f"it writes the tokens of {text[:40]!r} back as another text"
    return None


def _same_construction(backend: Tokenizer, file: Path) -> bool:
    """Whether a live tokenizer is built as the file says, but for its vocabulary: then no text can tell them apart.

    Reading Gemma's file a second time takes a second; its first kilobytes say how it is built. Whatever is written in
    another order than the tokenizers library writes it counts as not the same, and is compared by what it does.
    """
    head, found, flags = _before_vocabulary(file).partition('"model":')
    if not found:
        return False
    try:
        stated: dict[str, Any] = json.loads(head.rstrip().rstrip(",") + "}")
        options: dict[str, Any] = json.loads(flags.rstrip().rstrip(",") + "}")
        if options.pop("type", None) != "BPE":
            return False
        for name in ("normalizer", "pre_tokenizer", "decoder"):
            part = getattr(backend, name)
            if stated[name] != (None if part is None else json.loads(part.__getstate__())):
                return False
        added = all(backend.token_to_id(token["content"]) == token["id"] for token in stated["added_tokens"])
    except (ValueError, KeyError, AttributeError, TypeError):
        return False
    model = backend.model
    return added and all((getattr(model, name, None) or None) == (value or None) for name, value in options.items())


def _before_vocabulary(file: Path) -> str:
    """The beginning of a tokenizer.json, up to its vocabulary; "" where that is not found in the first megabytes."""
    start = b""
    with file.open("rb") as stream:
        while len(start) < 16 << 20 and (part := stream.read(1 << 20)):
            at = (start + part).find(b'"vocab":', max(0, len(start) - 8))
            start += part
            if at >= 0:
                return start[:at].decode(errors="replace")
    return ""
