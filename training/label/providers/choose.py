"""From a section of the config to the provider it describes; what a provider needs is imported when it is chosen."""

from __future__ import annotations

from nla_sdk.errors import InputError

from ...configs.label import ProviderSettings as Settings
from ..budget import Price
from .protocol import Provider


def provider_of(settings: Settings, price: Price | None = None) -> Provider:
    """The provider that a section of the config describes; `price` is what its tokens cost (`budget.Price`).

    Raises:
        InputError: of kind readout, which only a whole config makes a file of.
        LabelError: it cannot work at all (no key, not installed).
    """
    if settings.kind == "readout":
        raise InputError(
            "A provider of kind readout stands for the labels of a run's own probes, in the label sets of that run's "
            "config. Elsewhere name their file: kind: file, path: <out>/readout.jsonl."
        )
    if settings.kind in ("anthropic", "openai"):
        from . import api

        return (api.Anthropic if settings.kind == "anthropic" else api.OpenAI)(settings, price)
    if settings.kind in ("claude-cli", "gemini-cli"):
        from . import cli

        return (cli.Claude if settings.kind == "claude-cli" else cli.Gemini)(settings)
    from . import local

    return {"extractive": local.Extractive, "file": local.File, "transformers": local.Transformers}[settings.kind](
        settings
    )
