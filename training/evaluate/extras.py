"""Other people's models in an evaluation: an embedder for retrieval by meaning, a labeler that paraphrases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nla_sdk.errors import InputError, first_line
from nla_sdk.io.files import sha256_of

from ..configs.label import ProviderSettings as Settings
from ..label.faults import Fault, Transient
from ..label.providers.choose import provider_of
from ..label.providers.protocol import LabelRequest, Provider
from ..runs.patience import patiently

ATTEMPTS = 3  # of one paraphrase
PAUSE, LONGEST_PAUSE = 1.0, 20.0  # seconds, where the provider asks for none
PARAPHRASE = """Say the text between the tags in other words: another order, other sentence shapes, synonyms. Keep every
fact, name, number and quoted span; add nothing. Answer with the new text only.

<text>
{text}
</text>"""


@dataclass(frozen=True)
class Embedder:
    """Texts → float32 [n, k].

    Attributes:
        name: the Hub id, or a folder's own name.
        digest: SHA-256 of a folder's files; None for a Hub id.
    """

    name: str
    digest: str | None
    encode: Callable[[list[str]], np.ndarray]

    def __call__(self, texts: list[str]) -> np.ndarray:
        return self.encode(texts)


@dataclass(frozen=True)
class Paraphraser:
    """Explanation → the same in other words, or None where there is nothing usable.

    Attributes:
        name: kind and model.
        digest: SHA-256 of everything that decides its answers.
    """

    name: str
    digest: str
    say: Callable[[str], str | None]

    def __call__(self, text: str) -> str | None:
        return self.say(text)


def embedder(model: str) -> Embedder:
    """A sentence-transformers model.

    Args:
        model: Hub id or folder.
    Raises:
        InputError: the library is not installed, or the model cannot be loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise InputError("--embedder needs sentence-transformers: pip install sentence-transformers") from None
    try:
        loaded = SentenceTransformer(model, device="cpu")
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"The embedder {model} cannot be loaded: {first_line(error)}") from error

    def encode(texts: list[str]) -> np.ndarray:
        return loaded.encode(texts, convert_to_numpy=True, show_progress_bar=False)

    folder = Path(model)
    if not folder.is_dir():
        return Embedder(model, None, encode)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return Embedder(
        folder.resolve().name, _digest({str(file.relative_to(folder)): sha256_of(file) for file in files}), encode
    )


def paraphraser(config: Path) -> Paraphraser:
    """A label provider that says an explanation in other words.

    Args:
        config: YAML of one provider, as in a label set (`kind: anthropic`, `model: …`). Of `kind: file`: JSONL whose
            `text` is an explanation and whose `explanation` is its paraphrase.
    Raises:
        InputError: the file is missing or malformed, or the provider cannot paraphrase.
        LabelError: the provider cannot work at all: no key, not installed.
    """
    settings = Settings.read(config, "paraphraser")
    if settings.is_offline and settings.kind != "file":
        raise InputError(
            f"The paraphraser {config}: {settings.kind} cannot paraphrase; name a model (kind: anthropic, openai, "
            "claude-cli, gemini-cli or transformers) or a file of paraphrases (kind: file)."
        )
    provider = provider_of(settings)

    def paraphrase(text: str) -> str | None:
        return _ask(provider, LabelRequest(text, (), PARAPHRASE.format(text=text)))

    # Where the key is and how long a call may take decide no answer.
    facts = settings.model_dump(mode="json", exclude={"key_env", "timeout", "path"})
    facts |= {"prompt": PARAPHRASE, "file": settings.path and sha256_of(settings.path)}
    return Paraphraser(settings.name, _digest(facts), paraphrase)


def _digest(facts: Mapping) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _ask(provider: Provider, request: LabelRequest) -> str | None:
    try:
        completion = patiently(
            lambda: provider.complete(request),
            again=lambda error: isinstance(error, Transient),
            attempts=ATTEMPTS,
            pause=PAUSE,
            longest=LONGEST_PAUSE,
            asked=lambda fault: fault.retry_after,
        )
    except Fault:
        return None
    answer = completion.text.strip()
    return answer if answer and answer != request.text else None
