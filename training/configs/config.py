"""One YAML file configures every stage: `python -m training.<stage> --config training/configs/demo.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from nla_sdk.halves.demo_base import DEMO_BASE_ID

from .label import Label, Provider, Section

READOUT = "readout.jsonl"


class Source(Section):
    """One corpus: what to read, and where in it activations are taken."""

    corpus: str = Field(
        description="A .jsonl or .parquet file, a folder (of .txt, .md, .jsonl, .parquet files), or a Hub dataset id."
    )
    positions: int | Literal["last"] = Field(
        2, description="Activations per text, at random tokens; or the last token only (for texts that have a label)."
    )
    text: str = Field("text", description="Field that holds the text.")
    doc_id: str | None = Field(
        "doc_id", description="Field that names the document; null: every text is a document of its own."
    )
    family: str = Field("family", description="Field that says what kind of text it is; may be missing.")
    limit: int | None = Field(None, ge=1, description="Read only the first this many texts.")
    share: float = Field(1.0, gt=0, le=1, description="Read only this share of the documents, picked by their hash.")
    config: str | None = Field(None, description="Of a Hub dataset: its configuration.")
    split: str = Field("train", description="Of a Hub dataset: its split.")
    revision: str | None = Field(None, description="Of a Hub dataset: branch, tag or commit.")

    @field_validator("positions")
    @classmethod
    def _some(cls, value):
        if value != "last" and value < 1:
            raise ValueError('expected "last" or at least 1')
        return value


class Extract(Section):
    """Text → activations."""

    sources: list[Source] = Field(min_length=1, description="Corpora, read one after the other.")
    layers: list[int] = Field([], description="More layers to read in the same pass; `layer` is always read.")
    min_context: int = Field(50, ge=1, description="Fewest tokens (BOS included) before the token read.")
    max_tokens: int = Field(160, ge=2, description="Texts are read in windows of at most this many tokens.")
    next_tokens: int = Field(
        3,
        ge=0,
        description="How many of the base's likeliest next tokens to record, for the extractive labeler; 0 "
        "stops every forward at the highest layer read.",
    )
    texts_per_chunk: int = Field(256, ge=1, description="What is done again after a kill, at most.")
    tokens_per_batch: int = Field(2048, ge=2, description="Padded tokens in one forward.")
    quantization: Literal["nf4"] | None = Field(None, description="Of the source model while it is read.")
    dtype: str = Field("auto", description="Of the source model while it is read.")


class Split(Section):
    """Shares of the documents; they add up to at most 1, the rest is left out."""

    eval: float = Field(0.1, gt=0, lt=1)
    av_sft: float = Field(0.45, gt=0, lt=1)
    ar_sft: float = Field(0.3, gt=0, lt=1)
    rl: float = Field(0.15, ge=0, lt=1)

    @model_validator(mode="after")
    def _at_most_one(self):
        total = self.eval + self.av_sft + self.ar_sft + self.rl
        if total > 1 + 1e-9:
            raise ValueError(f"the shares add up to {total:g}, expected at most 1")
        return self


class Readout(Section):
    """Labels that linear probes read out of the activations (`training.label.readout`)."""

    next_tokens: int = Field(4, ge=1, le=5, description="Next tokens a label names.")
    words: int = Field(6, ge=1, description="Context words a label names.")
    next_candidates: int = Field(12, ge=1, description="Next tokens the pursuit chooses from: those found strongest.")
    word_candidates: int = Field(
        16, ge=1, description="Words the pursuit chooses from; more fit the vector better and the text worse."
    )
    min_documents: int = Field(12, ge=1, description="Training documents that a token or word must occur in.")
    window: int = Field(40, ge=1, description="Words before the one read that count as its context.")
    shrinkage: float = Field(0.05, gt=0, description="Of the probes, as a share of the mean variance.")
    penalty: float = Field(
        10.0, gt=0, description="Ridge penalty, in rows, of the directions that tokens and words add."
    )
    rarity: float = Field(0.5, ge=0, le=1, description="Power of frequency that scores are divided by.")


class Published(Section):
    """A table that somebody else has built already, with explanations."""

    dataset: str = Field(description="A Hub dataset id, a .parquet file, or a folder of them.")
    split: Literal["av_sft", "ar_sft", "rl"] = Field(description="The table its rows are appended to.")
    revision: str | None = Field(None, description="Of a Hub dataset: branch, tag or commit.")


class Build(Section):
    """Activations and labels → training tables."""

    eval_rows: int = Field(512, ge=2, description="Most activations of the eval table, one a document first.")
    published: list[Published] = Field(
        [], description="Published tables to add; if nothing was extracted here, the tables are made of them alone."
    )


class Lora(Section):
    r: int = Field(64, ge=1)
    alpha: int = Field(128, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: list[str] = Field(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        min_length=1,
        description="Linear layers of the text blocks that run.",
    )
    modules_to_save: list[str] = Field(
        [], description="Norms of the text blocks trained whole, by their last name (q_norm, input_layernorm, …)."
    )


class Train(Section):
    """What both trainers share. The defaults are the recipe of the first public Gemma 4 pair, made for 4 GB."""

    quantization: Literal["nf4"] | None = Field("nf4", description="Of the base; null: as `dtype` says.")
    dtype: str = Field("auto", description="What is computed in; auto: bfloat16 or float16 on a GPU, float32 on a CPU.")
    shard_base: bool = Field(
        False, description="Split the frozen blocks over the processes (FSDP), for bases that fit on no one GPU."
    )
    gradient_checkpointing: bool = Field(True, description="Keep block inputs only and compute blocks again: slower.")
    lora: Lora = Lora()
    optimizer: Literal["auto", "adamw", "adamw8bit"] = Field("auto", description="auto: 8 bits on CUDA.")
    lr: float = Field(1e-4, gt=0)
    warmup_steps: int = Field(0, ge=0)
    decay: Literal["constant", "linear", "cosine"] = "constant"
    batch_size: int = Field(16, ge=1, description="Rows of one optimizer step, over all processes.")
    micro_batch: int | None = Field(1, ge=1, description="Rows of one forward; null: a process's whole share.")
    epochs: float = Field(1.0, gt=0)
    max_rows: int | None = Field(None, ge=1)
    max_length: int = Field(512, ge=16, description="Most tokens of a prompt (with its response); longer rows go.")
    log_interval: int = Field(1, ge=1, description="Log every how many steps; with more than 1 the trend sees fewer.")
    save_interval: int = Field(50, ge=1)
    keep_checkpoints: int = Field(2, ge=1, description="How many of the latest checkpoints stay on the disk.")
    save_dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Of the written adapters.")
    eval_interval: int = Field(50, ge=1)
    eval_rows: int = Field(96, ge=2)
    clip: float = Field(1.0, gt=0)
    continue_from: Path | None = Field(
        None, description="Start from this half (a checkpoint, or any pair's), with a new optimizer."
    )
    sources: list[str] = Field(
        ["extractive"], description="Which labels to train on: extractive, readout, written, on_policy."
    )


class AV(Train):
    template: str = Field(description="Raw prompt; {injection_char} is the marker.")
    max_new_tokens: int = 64
    sampled_negatives: int = Field(
        0,
        ge=0,
        description="0: softmax over the whole vocabulary. N: exact over the tokens of the training responses, the "
        "rest of the normaliser estimated from N tokens drawn anew each step.",
    )
    logit_slice: int = Field(
        64, ge=1, description="Response tokens whose logits are alive at once: each is a row of the whole vocabulary."
    )


class AR(Train):
    template: str = Field(description="Raw prompt; {explanation} is replaced.")
    num_blocks: int | None = Field(None, ge=1, description="How many blocks run; default: those up to `layer`.")
    head_lr: float = Field(1e-3, gt=0)
    head_init: float = Field(1.0, gt=0, description="The head starts at this times the identity.")
    centred: bool = Field(
        False, description="Predict the direction of v − mean only; docs/demo-pair.md says what that costs."
    )
    contrastive: float = Field(
        0.0, ge=0, description="Weight of InfoNCE: which of the batch's activations is this explanation's?"
    )
    contrastive_temperature: float = Field(0.1, gt=0)
    explanation_dropout: float = Field(0.0, ge=0, lt=1, description="Share of an explanation's words left out.")
    prose_share: float = Field(
        0.0, ge=0, lt=1, description="Share of rows read without their quoted spans: prose must carry something too."
    )
    on_policy_rows: int = Field(1200, ge=1, description="How many of the AR's activations the AV explains for it.")
    on_policy_vocabulary: Literal["labels", "all"] = Field(
        "labels",
        description="labels: the AV writes tokens of its training labels only, in a third of the time on a CPU.",
    )
    tables: list[Literal["ar_sft", "av_sft"]] = Field(
        ["ar_sft"], min_length=1, description="Whose true labels to train on; the AV's documents serve as well."
    )


class Expert(Section):
    """Rejection sampling: the AV's own best words, to train it on (`training.fit.expert`)."""

    rows: int = Field(1000, ge=1, description="Activations of the rl split.")
    best_of: int = Field(4, ge=2, description="Explanations written for each; the one the AR inverts best is kept.")
    temperature: float = Field(0.7, gt=0)
    vocabulary: Literal["labels", "all"] = Field("labels", description="As ar.on_policy_vocabulary.")


class Grpo(Train):
    """Group-relative policy optimisation of the AV, with the AR trained alongside (`training.fit.grpo`).

    `batch_size` is in activations; each gets `samples` explanations.
    """

    av: Path | None = Field(None, description="Half to start from; default: <out>/av/final.")
    ar: Path | None = Field(None, description="Half to start from; default: <out>/ar/final.")
    samples: int = Field(8, ge=2, description="Explanations of one activation: the group that is compared.")
    temperature: float = Field(1.0, gt=0, description="Of the sampling.")
    kl: float = Field(0.05, ge=0, description="Weight of the divergence from the AV that training started from.")
    truncation_penalty: float = Field(0.5, ge=0, description="Taken from the reward of an output without an end.")
    length_penalty: float = Field(0.0, ge=0, description="Taken from the reward for each token.")
    ar_lr: float = Field(1e-5, ge=0, description="Of the AR's adapter and head; 0: the AR stays as it is.")
    vocabulary: Literal["labels", "all"] = Field("labels", description="As ar.on_policy_vocabulary.")
    min_unique: float = Field(0.3, ge=0, le=1, description="Fewer different explanations of a step: collapse, stop.")
    max_kl: float = Field(0.5, gt=0, description="More nats a token from the start: no longer its language, stop.")
    max_truncated: float = Field(0.3, gt=0, le=1, description="More outputs of a step without an end: stop.")


class Config(Section):
    """All stages of one pair."""

    base: str
    layer: int = Field(ge=0)
    seed: int = 0
    marker: str = "㊗"
    centred: bool = Field(True, description="The AV is given v − mean.")
    out: Path
    extract: Extract
    split: Split = Split()
    readout: Readout | None = Field(None, description="Given: the pipeline makes <out>/readout.jsonl before labelling.")
    label: Label = Label()
    build: Build = Build()
    av: AV
    ar: AR
    expert: Expert = Expert()
    grpo: Grpo | None = None
    results: Path = Field(Path("results"), description="Finished tables are copied here and listed in MANIFEST.json.")

    @model_validator(mode="after")
    def _readout_has_a_file(self):
        """A provider of kind readout is the file that `training.label.readout` writes for this run."""
        sets = []
        for one in self.label.sets:
            providers = [
                Provider(kind="file", path=self.out / READOUT) if provider.kind == "readout" else provider
                for provider in one.providers
            ]
            if providers != one.providers:
                self.readout = self.readout or Readout()
            sets.append(one.model_copy(update={"providers": providers}))
        self.label = self.label.model_copy(update={"sets": sets})
        return self

    @property
    def activations(self) -> Path:
        """The table that `extract` makes of this config's layer."""
        return self.out / f"activations_L{self.layer}.parquet"

    def half(self, role: str) -> Path:
        """The finished half that the trainer of `role` leaves: the best by its held-out metric."""
        return self.out / role / "final"

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
        return cls.read(path, "config")
