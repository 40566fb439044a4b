"""The `label:` section of a config: who writes the explanations, who checks them, and what that may cost."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from .section import Section


class ProviderSettings(Section):
    """One source of completions."""

    kind: Literal["extractive", "readout", "file", "anthropic", "openai", "gemini-cli", "claude-cli", "transformers"]
    model: str | None = Field(None, description="The model's name; of `transformers`: a Hub id or a folder.")
    base_url: str | None = Field(
        None, description="Of `openai`: a compatible server (vLLM, llama.cpp, …). Of `anthropic`: a proxy."
    )
    key_env: str | None = Field(
        None, description="Environment variable that holds the key; default: OPENAI_API_KEY or ANTHROPIC_API_KEY."
    )
    path: Path | None = Field(None, description="Of `file`: JSONL with text and explanation.")
    command: list[str] | None = Field(
        None, min_length=1, description="Of a CLI: what to run instead of the name on PATH; its options follow."
    )
    max_tokens: int = Field(400, ge=16, description="Most tokens of one completion.")
    temperature: float | None = Field(None, ge=0, description="Of `openai` only.")
    timeout: float = Field(120, gt=0, description="Seconds one call may take.")

    @model_validator(mode="after")
    def _complete(self):
        needed = {"anthropic": "model", "openai": "model", "transformers": "model", "file": "path"}.get(self.kind)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"a provider of kind {self.kind} needs `{needed}`")
        if self.temperature is not None and self.kind != "openai":
            # Anthropic's API refuses it since version 2026-10-21, the CLIs have no option for it, and transformers
            # decodes greedily: a value that does nothing would go into the prompt's hash.
            raise ValueError(f"a provider of kind {self.kind} takes no temperature")
        if self.base_url and "@" in urlsplit(self.base_url).netloc:
            raise ValueError("base_url holds credentials; put the key into an environment variable")
        return self

    @property
    def name(self) -> str:
        """For messages: `anthropic:claude-haiku-4-5`, `file:labels.jsonl`."""
        return ":".join(part for part in (self.kind, self.public_model, self.path and self.path.name) if part)

    @property
    def public_model(self) -> str | None:
        """The model's name; of a folder its last part: tables get published, and say nothing of anybody's disk."""
        is_folder = self.kind == "transformers" and self.model and Path(self.model).is_dir()
        return Path(self.model).resolve().name if is_folder else self.model

    @property
    def is_offline(self) -> bool:
        """Whether it only looks something up: no calls, no prompt, the same answer every time."""
        return self.kind in ("extractive", "readout", "file")

    @property
    def is_local(self) -> bool:
        """Whether its address is on this machine."""
        return urlsplit(self.base_url or "").hostname in ("localhost", "127.0.0.1", "::1", "0.0.0.0")


class LabelSet(Section):
    """One label per row: the first provider that gives one."""

    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    providers: list[ProviderSettings] = Field(min_length=1, description="Tried in this order, row by row.")
    auditors: list[ProviderSettings] = Field(
        [], description="Check every label against the text; none: labels are taken as they are."
    )
    splits: list[Literal["av_sft", "ar_sft", "validation", "eval"]] = Field(
        ["av_sft", "ar_sft", "validation", "eval"], description="Those of them that there are."
    )

    @model_validator(mode="after")
    def _auditors_can_read(self):
        if found := [one.kind for one in self.auditors if one.is_offline]:
            raise ValueError(f"{found[0]} cannot audit: it writes labels without reading any")
        return self


class Label(Section):
    """Activations → explanations."""

    sets: list[LabelSet] = Field(
        [LabelSet(name="extractive", providers=[ProviderSettings(kind="extractive")])],
        min_length=1,
        description="Each set labels every row once; the tables hold all of them, told apart by `labeler_model`.",
    )
    concurrency: int = Field(4, ge=1, description="Calls in flight at once.")
    max_attempts: int = Field(
        4, ge=1, description="Calls per provider, row and pass, before the next provider is tried."
    )
    max_usd: float | None = Field(None, ge=0, description="Stop before spending more than this.")
    max_calls: int | None = Field(None, ge=1, description="Stop before making more calls than this.")
    prices: Path | None = Field(None, description="Price file; default: the one in the package.")
    wait_for_quota: bool = Field(False, description="Sleep until a quota resets and go on, instead of stopping.")
    cache: Path | None = Field(
        None, description="Completions shared between runs; default: <cache>/nla-sdk/labels.sqlite."
    )
    rows_per_chunk: int = Field(256, ge=1)

    @model_validator(mode="after")
    def _names_differ(self):
        names = [one.name for one in self.sets]
        if len(set(names)) < len(names):
            raise ValueError(f"two label sets have one name: {', '.join(names)}")
        return self
