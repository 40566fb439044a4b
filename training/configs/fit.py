"""The sections of the trainers: adapters, optimisation, and what is particular to each of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from .section import Section


class Lora(Section):
    """The adapter that is trained."""

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
    compile: bool = Field(
        False,
        description="Compile the blocks (torch.compile; on a CPU it needs a C++ compiler): a minute at the start, then "
        "about half of the time a step in bfloat16 on a CPU.",
    )
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
    trackers: list[Literal["tensorboard", "wandb"]] = Field(
        ["tensorboard"],
        exclude=True,  # of no result, so of no checkpoint's settings either
        description="Where a run's numbers go besides its log; tensorboard only if it is installed.",
    )
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


class Injection(Section):
    """How the AV is given its vectors: the contract's `injection` block (docs/contract.md)."""

    site: Literal["embedding", "block"] = "embedding"
    block: int | None = Field(None, ge=0, description="At site block: the one whose output the vector goes into.")
    rule: Literal["replace", "add"] | None = Field(None, description="Default: replace an embedding, add to a block.")
    norm: Literal["fixed", "sqrt_d", "match", "raw", "multiply"] | None = Field(
        None, description="Default: sqrt_d for an embedding, match (of the state at the marker) for a block."
    )
    scale: float | None = Field(None, gt=0, description="The norm of `fixed`, the factor of `multiply`.")
    coefficient: float = Field(1.0, gt=0)
    layers: list[int] = Field(
        [], description="Blocks whose vectors of one token go in together, a marker each; `layer` is one of them."
    )

    @model_validator(mode="after")
    def _whole(self):
        self.rule = self.rule or ("replace" if self.site == "embedding" else "add")
        self.norm = self.norm or ("sqrt_d" if self.site == "embedding" else "match")
        if (self.block is None) != (self.site == "embedding"):
            raise ValueError("site block needs a block, and an embedding has none")
        if (self.scale is None) == (self.norm in ("fixed", "multiply")):
            raise ValueError("the norms fixed and multiply need a scale, the others have none")
        if len(set(self.layers)) < len(self.layers) or len(self.layers) == 1 or min(self.layers, default=0) < 0:
            raise ValueError("layers takes at least two different blocks, counted from 0")
        return self

    def facts(self) -> dict[str, Any]:
        """As a contract's attributes."""
        stated = {
            f"injection_{name}": value for name, value in self.model_dump(exclude_none=True).items() if value != []
        }
        return stated | ({"injection_markers": len(self.layers)} if self.layers else {})


class Supervised(Train):
    """What is trained on rows with labels, each of a family."""

    family_weights: Literal["none", "balanced"] = Field(
        "none",
        description="balanced: of a table's rows, families have as many as each other; those of few rows come up to "
        "three times, those of many have fewer. none: each row once, or `max_rows` evenly spaced ones.",
    )


class AV(Supervised):
    """Supervised training of the AV (`training.fit.av`)."""

    template: str = Field(description="Raw prompt; {injection_char} is the marker.")
    injection: Injection = Field(Injection(), description="Where and at what norm the vector goes in.")
    max_new_tokens: int = 64
    no_repeats: bool = Field(
        False,
        description="Never say an item of a list twice: the contract's output.no_repeats, in every rollout too.",
    )
    sampled_negatives: int = Field(
        0,
        ge=0,
        description="0: softmax over the whole vocabulary. N: exact over the tokens of the training responses, the "
        "rest of the normaliser estimated from N tokens drawn anew each step.",
    )
    logit_slice: int = Field(
        64, ge=1, description="Response tokens whose logits are alive at once: each is a row of the whole vocabulary."
    )


class AR(Supervised):
    """Supervised training of the AR (`training.fit.ar`)."""

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
    on_policy_sampled: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of them that is sampled, so that the AR reads more than the likeliest words.",
    )
    on_policy_temperature: float = Field(0.7, gt=0, description="Of what is sampled.")
    on_policy_vocabulary: Literal["labels", "all"] = Field(
        "labels",
        description="labels: the AV writes tokens of its training labels only, in a third of the time on a CPU.",
    )
    on_policy_engine: str | None = Field(
        None,
        exclude=True,
        description="Address of a vLLM or SGLang server that holds the exported AV and writes for it"
        " (docs/howto/engines.md). SGLang needs `on_policy_vocabulary: all`.",
    )
    tables: list[Literal["ar_sft", "av_sft"]] = Field(
        ["ar_sft"], min_length=1, description="Whose true labels to train on; the AV's documents serve as well."
    )


class Reward(Section):
    """What an explanation is rewarded for: −mse of what the AR makes of it, and how well its claims are supported."""

    mse: float = Field(1.0, ge=0, description="Weight of −mse.")
    support: float = Field(
        0.0, ge=0, description="Weight of the mean calibrated probability of its claims (docs/claims.md); 0: not asked."
    )

    @model_validator(mode="after")
    def _something(self):
        if not self.mse and not self.support:
            raise ValueError("both weights are 0, so that every explanation is as good as any other")
        return self


# A path of this machine, of which the checkpoints name the SHA-256 of what it held.
_CLAIMS = Field(
    None, exclude=True, description="claims.json of the pair that training starts from; default: the one beside the AV."
)


class Expert(Section):
    """Rejection sampling: the AV's own best words, to train it on (`training.fit.expert`)."""

    rows: int = Field(1000, ge=1, description="Activations of the rl split.")
    best_of: int = Field(4, ge=2, description="Explanations written for each; the best by `reward` is kept.")
    temperature: float = Field(0.7, gt=0)
    vocabulary: Literal["labels", "all"] = Field("labels", description="As ar.on_policy_vocabulary.")
    reward: Reward = Reward()
    claims: Path | None = _CLAIMS


class Grpo(Train):
    """Group-relative policy optimisation of the AV, with the AR trained alongside (`training.fit.grpo`).

    `batch_size` is in activations; each gets `samples` explanations.
    """

    av: Path | None = Field(
        None, description="Half to start from; default: the run's own (<out>/av/final), or that of `after`."
    )
    ar: Path | None = Field(None, description="Half to start from; default: as of the AV.")
    samples: int = Field(8, ge=2, description="Explanations of one activation: the group that is compared.")
    temperature: float = Field(1.0, gt=0, description="Of the sampling.")
    kl: float = Field(0.05, ge=0, description="Weight of the divergence from the AV that training started from.")
    truncation_penalty: float = Field(0.5, ge=0, description="Taken from the reward of an output without an end.")
    length_penalty: float = Field(0.0, ge=0, description="Taken from the reward for each token.")
    reward: Reward = Reward()
    claims: Path | None = _CLAIMS
    ar_lr: float = Field(1e-5, ge=0, description="Of the AR's adapter and head; 0: the AR stays as it is.")
    vocabulary: Literal["labels", "all"] = Field("labels", description="As ar.on_policy_vocabulary.")
    min_unique: float = Field(0.3, ge=0, le=1, description="Fewer different explanations of a step: collapse, stop.")
    max_kl: float = Field(0.5, gt=0, description="More nats a token from the start: no longer its language, stop.")
    max_truncated: float = Field(0.3, gt=0, le=1, description="More outputs of a step without an end: stop.")
