"""Labels without a service: the extractive labeler, a file of labels, and a model run here with transformers."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

from nla_sdk.errors import InputError, NLAError, first_line
from nla_sdk.io.text import check_text

from ...configs.label import ProviderSettings as Settings
from .. import extractive
from ..faults import LabelError, NoLabel, Refused
from .protocol import Completion, LabelRequest


class Extractive:
    """The offline labeler, from the text and the base model's own guesses."""

    retries = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def complete(self, request: LabelRequest) -> Completion:
        try:
            return Completion(extractive.explain(request.text, request.next_tokens), extractive.VERSION)
        except ValueError as error:
            raise Refused(error) from None

    def close(self) -> None:
        """Nothing is open."""


class File:
    """Labels by text, from a JSONL file with `text`, `explanation` and, if it is there, `labeler_model`.

    Only a hash and an offset per line are held in memory. Of two lines with one text the first counts.

    Raises:
        InputError: the file is missing, or a line is not such an object. TextError: one holds what is no text.
    """

    retries = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._path = Path(str(settings.path))
        self._offsets: dict[bytes, int] = {}
        self._lock = threading.Lock()
        try:
            self._file = self._path.open("rb")
        except OSError as error:
            raise InputError(f"Cannot read the labels {self._path}: {error.strerror}.") from error
        offset = 0
        for number, line in enumerate(self._file, start=1):
            if line.strip():
                self._offsets.setdefault(_digest(self._parsed(line, number)["text"]), offset)
            offset += len(line)

    def complete(self, request: LabelRequest) -> Completion:
        offset = self._offsets.get(_digest(request.text))
        if offset is None:
            raise NoLabel(f"{self._path.name} has no label for this text")
        with self._lock:
            self._file.seek(offset)
            row = json.loads(self._file.readline())
        return Completion(row["explanation"], row.get("labeler_model") or f"file:{self._path.name}")

    def close(self) -> None:
        self._file.close()

    def _parsed(self, line: bytes, number: int) -> dict:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self._path}, line {number}: not valid JSON ({error}).") from None
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("text", "explanation")):
            raise InputError(f"{self._path}, line {number}: expected an object with the strings text and explanation.")
        for key in ("text", "explanation", "labeler_model"):
            if row.get(key) is not None and not isinstance(row[key], str):
                raise InputError(f"{self._path}, line {number}: {key} is a {type(row[key]).__name__}; expected a text.")
            check_text(row.get(key) or "", f"{self._path}, line {number}: {key}")
        return row


class Transformers:
    """An instruction-tuned model on this machine: its chat template, greedy decoding, one call at a time."""

    retries = False  # greedy: asked again, it says the same again

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._loaded = None

    def complete(self, request: LabelRequest) -> Completion:
        import torch

        with self._lock:
            model, tokenizer = self._load()
            inputs = tokenizer.apply_chat_template(
                [{"role": "user", "content": request.prompt}],
                add_generation_prompt=True,
                return_dict=True,
                return_tensors="pt",
            ).to(model.device)
            with torch.inference_mode():
                output = model.generate(
                    **inputs,
                    max_new_tokens=self.settings.max_tokens,
                    do_sample=False,
                    temperature=None,
                    top_p=None,
                    top_k=None,
                )
        read = inputs["input_ids"].shape[1]
        written = output[0, read:]
        return Completion(
            tokenizer.decode(written, skip_special_tokens=True), str(self.settings.public_model), read, len(written)
        )

    def close(self) -> None:
        self._loaded = None

    def _load(self):
        if self._loaded is None:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer
            from transformers.utils import cached_file

            from nla_sdk.model.weights.tokenizers import load_tokenizer

            name = str(self.settings.model)
            try:
                tokenizer = AutoTokenizer.from_pretrained(name)  # fetches its files
                if file := cached_file(name, "tokenizer.json", _raise_exceptions_for_missing_entries=False):
                    tokenizer = load_tokenizer(Path(file).parent)
                model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
            except (OSError, ValueError, NLAError) as error:
                raise LabelError(f"{self.settings.name} could not be loaded: {first_line(error)}") from error
            if tokenizer.chat_template is None:
                raise LabelError(
                    f"{self.settings.name} has no chat template: it is not a model that takes instructions."
                )
            self._loaded = (model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer)
        return self._loaded


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]
