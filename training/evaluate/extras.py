"""Other people's models in an evaluation: an embedder for retrieval by meaning, a labeler that paraphrases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from nla_sdk.errors import InputError, first_line

from ..label.faults import Fault, Transient
from ..label.providers import Provider, Request, provider_of
from ..label.settings import Provider as Settings

ATTEMPTS = 3
PARAPHRASE = """Say the text between the tags in other words: another order, other sentence shapes, synonyms. Keep every
fact, name, number and quoted span; add nothing. Answer with the new text only.

<text>
{text}
</text>"""


def embedder(model: str) -> Callable[[list[str]], np.ndarray]:
    """A sentence-transformers model as a function texts → float32 [n, k].

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
    return lambda texts: loaded.encode(texts, convert_to_numpy=True, show_progress_bar=False)


def paraphraser_name(config: Path) -> str:
    """What the evaluation file calls it."""
    return _settings(config).name


def paraphraser(config: Path) -> Callable[[str], str | None]:
    """A label provider as a function explanation → the same in other words, or None where it gave nothing usable.

    Args:
        config: YAML of one provider, as in a label set (`kind: anthropic`, `model: …`). Of `kind: file`: JSONL whose
            `text` is an explanation and whose `explanation` is its paraphrase.
    Raises:
        InputError: the file is missing or malformed, or the provider cannot paraphrase.
        LabelError: the provider cannot work at all: no key, not installed.
    """
    settings = _settings(config)
    if settings.kind == "extractive":
        raise InputError(f"The paraphraser {config}: extractive cannot paraphrase; name a model or a file.")
    provider = provider_of(settings)

    def paraphrase(text: str) -> str | None:
        return _ask(provider, Request(text, (), PARAPHRASE.format(text=text)))

    return paraphrase


def _settings(config: Path) -> Settings:
    return Settings.read(config, "paraphraser")


def _ask(provider: Provider, request: Request) -> str | None:
    for _ in range(ATTEMPTS):
        try:
            answer = provider.complete(request).text.strip()
        except Transient:
            continue
        except Fault:
            return None
        return answer if answer and answer != request.text else None
    return None
