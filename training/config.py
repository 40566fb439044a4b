"""One YAML file configures every stage: `python -m training.<stage> --config training/configs/demo.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nla_sdk.demo_base import DEMO_BASE_ID
from nla_sdk.errors import InputError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Extract(_Section):
    """Text → activations."""

    corpus: Path = Field(
        description="JSONL with one object a line: doc_id, text, and optionally family and explanation."
    )
    labeled_corpus: Path | None = Field(
        None, description="JSONL whose `text` is read at its last token, with a written `explanation`."
    )
    positions_per_text: int = Field(2, ge=1)
    min_context: int = Field(50, ge=1, description="Fewest tokens (BOS included) before the token read.")
    max_tokens: int = Field(160, ge=2, description="Texts are read up to this many tokens.")
    max_rows: int | None = Field(None, ge=1, description="Stop after this many rows (whole texts).")
    next_tokens: int = Field(
        3, ge=0, description="How many of the base's likeliest next tokens to record, for the extractive labeler."
    )


class Build(_Section):
    """Activations and labels → training tables."""

    av_share: float = Field(
        0.5, gt=0, lt=1, description="Share of documents for the AV; the rest, less eval_share, is the AR's."
    )
    eval_share: float = Field(0.1, gt=0, lt=1)
    eval_rows: int = Field(512, ge=2)


class Lora(_Section):
    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Train(_Section):
    """What both trainers share."""

    lora: Lora = Lora()
    lr: float = Field(3e-4, gt=0)
    warmup_steps: int = Field(20, ge=0)
    decay: Literal["constant", "linear"] = "linear"
    batch_size: int = Field(8, ge=1)
    epochs: float = Field(1.0, gt=0)
    max_rows: int | None = Field(None, ge=1)
    save_interval: int = Field(50, ge=1)
    eval_interval: int = Field(100, ge=1)
    eval_rows: int = Field(96, ge=2)
    clip: float = Field(1.0, gt=0)
    continue_from: Path | None = Field(
        None, description="Start from the weights of this checkpoint, with a new optimizer."
    )
    sources: list[str] = Field(["extractive"], description="Which labels to train on: extractive, written, on_policy.")


class AV(Train):
    template: str = Field(description="Raw prompt; {injection_char} is the marker.")
    max_new_tokens: int = 64
    sampled_negatives: int = Field(
        0,
        ge=0,
        description="0: softmax over the whole vocabulary. N: exact over the tokens of the training responses, the "
        "rest of the normaliser estimated from N tokens drawn anew each step.",
    )


class AR(Train):
    template: str = Field(description="Raw prompt; {explanation} is replaced.")
    head_lr: float = Field(1e-3, gt=0)
    head_init: float = Field(1.0, gt=0, description="The head starts at this times the identity.")
    centred: bool = Field(
        False, description="Predict the direction of v − mean only; docs/demo-pair.md says what that costs."
    )
    max_length: int = 256
    on_policy_rows: int = Field(1200, ge=1, description="How many of the AR's activations the AV explains for it.")
    tables: list[Literal["ar_sft", "av_sft"]] = Field(
        ["ar_sft"], min_length=1, description="Whose true labels to train on; the AV's documents serve as well."
    )


class Config(_Section):
    """All stages of one pair."""

    base: str
    layer: int = Field(ge=0)
    seed: int = 0
    marker: str = "㊗"
    centred: bool = Field(True, description="The AV is given v − mean.")
    out: Path
    extract: Extract
    build: Build = Build()
    av: AV
    ar: AR

    @property
    def base_id(self) -> str:
        """The base's public name: what contracts and adapters say."""
        return DEMO_BASE_ID if self.base == "demo" else self.base

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read a config file.

        Raises:
            InputError: it is missing or malformed; the message names the key.
        """
        try:
            return cls.model_validate(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise InputError(f"Cannot read the config {path}: {error.strerror}.") from error
        except yaml.YAMLError as error:
            raise InputError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise InputError(f"{path}: {where}: {first['msg']} (found {first.get('input')!r:.60}).") from error
