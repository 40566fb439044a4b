"""The memory a run needs, line by line: what stands all the time, what a step adds, and which knob helps."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil
import torch
from torch import nn

from nla_sdk.errors import InputError, OfflineError, first_line
from nla_sdk.halves.demo_base import DEMO_BASE_ID
from nla_sdk.halves.fetch import fetch_base, fetch_file
from nla_sdk.model.quiet import quiet
from nla_sdk.model.weights.loading import pick_dtype

from ...configs.config import Config
from .dry_run import Step, add_lora, build, dry_run
from .footprint import Counts, count, optimizer_bytes

if TYPE_CHECKING:
    from transformers import PretrainedConfig

GIB = 2**30


@dataclass(frozen=True)
class Line:
    """One item: its name, bytes, and what they are."""

    name: str
    bytes: int
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """The memory of one run at its peak: see `plan`.

    Attributes:
        title: which half, at which settings.
        device: "cuda" or "cpu".
        lines: what is in the device's memory at the peak; they add up to `total`.
        ram: what is needed of CPU RAM besides (on a CPU, all is in `lines`).
        limit: bytes there are.
        advice: if it does not fit: what each knob alone would bring, by planning again.
    """

    title: str
    device: str
    lines: tuple[Line, ...]
    ram: tuple[Line, ...]
    limit: int
    advice: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Bytes on the device at the peak."""
        return sum(line.bytes for line in self.lines)

    @property
    def fits(self) -> bool:
        """Whether `total` is within `limit`."""
        return self.total <= self.limit

    def table(self) -> str:
        """The plan as text, in GiB (2^30 bytes)."""
        rows = [self.title, *map(_row, self.lines)]
        verdict = "fits" if self.fits else "DOES NOT FIT"
        where = "GPU" if self.device == "cuda" else "RAM"
        rows.append(_row(Line(f"peak, {where}", self.total, f"{verdict} in {_gib(self.limit)} GiB")))
        if self.ram:
            rows += ["  CPU RAM besides, without Python and its libraries:", *map(_row, self.ram)]
        if self.advice:
            rows += ["  What would help, one change at a time:", *(f"    {line}" for line in self.advice)]
        return "\n".join(rows)


@dataclass(frozen=True)
class _Setup:
    """The knobs."""

    batch: int
    length: int
    rank: int
    checkpointing: bool
    optimizer: str
    quantization: str | None
    logit_slice: int


def plan(
    config: Config,
    role: Literal["av", "ar"],
    *,
    base_config: PretrainedConfig,
    batch: int = 1,
    length: int = 512,
    response_tokens: int = 120,
    gpu_gib: float = 4.0,
    checkpointing: bool = True,
    optimizer: Literal["adamw8bit", "adamw"] = "adamw8bit",
    quantization: Literal["nf4"] | None = "nf4",
    dtype: str | torch.dtype = "auto",
    logit_slice: int = 64,
    device: Literal["cuda", "cpu"] = "cuda",
    cuda_context_gib: float = 0.45,
    slack: float = 0.05,
) -> Plan:
    """Add up what training one half will need.

    The AV's loss is planned over the whole vocabulary, also where `sampled_negatives` estimates it. Evaluation between
    steps is not planned: it must not take more rows or logits at a time than a step does.

    Args:
        config: the pair's; LoRA, depth and head are taken from it.
        role: which half.
        base_config: the base's transformers config. A per-layer embedding table is planned to stay in CPU RAM.
        batch, length: rows of one forward (the micro-batch), and tokens of the longest.
        response_tokens: of a row, how many are scored (AV).
        gpu_gib: what there is, in GiB; with `device="cpu"`, of RAM.
        checkpointing: recompute each block in the backward.
        optimizer: "adamw8bit" (bitsandbytes) or "adamw" (fp32 states; what a CPU gets in any case). The AR's head has
            fp32 states in both.
        quantization: "nf4" with double quantisation, or None.
        dtype: what is computed in; "auto": bfloat16 on a GPU (float16 is as large), float32 on a CPU.
        logit_slice: response tokens whose logits over the vocabulary are alive at a time.
        cuda_context_gib: an estimate; it depends on card and driver.
        slack: share added for the allocator's fragmentation; an estimate.
    Returns:
        The plan; `advice` is filled if it does not fit.
    Raises:
        InputError: a value that cannot be, or a depth that the base does not have.
        LoadError: transformers cannot build a model from `base_config`.
    Example:
        >>> print(plan(config, "av", base_config=AutoConfig.from_pretrained("base")).table())      # doctest: +SKIP
    """
    positive = {"batch": batch, "length": length, "logit_slice": logit_slice, "response_tokens": response_tokens}
    for name, value in (positive | {"gpu_gib": gpu_gib}).items():
        if value <= 0:
            raise InputError(f"{name} is {value}; expected more than 0.")
    for name, value, known in (
        ("role", role, ("av", "ar")),
        ("optimizer", optimizer, ("adamw8bit", "adamw")),
        ("quantization", quantization, ("nf4", None)),
        ("device", device, ("cuda", "cpu")),
    ):
        if value not in known:
            raise InputError(f"{name} is {value!r}; expected {' or '.join(map(repr, known))}.")
    settings, text = getattr(config, role), base_config.get_text_config()
    num_blocks = text.num_hidden_layers if role == "av" else config.ar.num_blocks or config.layer + 1
    if num_blocks > text.num_hidden_layers:
        raise InputError(f"The AR is to run {num_blocks} blocks; this base has {text.num_hidden_layers}.")
    dtype = torch.bfloat16 if dtype == "auto" and device == "cuda" else pick_dtype(dtype, torch.device("cpu"))
    optimizer = "adamw" if device == "cpu" else optimizer
    setup = _Setup(batch, length, settings.lora.r, checkpointing, optimizer, quantization, logit_slice)

    @functools.cache
    def counted(setup: _Setup) -> tuple[Counts, Step]:  # by all but the optimizer, which changes none of it
        backbone = build(base_config, dtype, setup.quantization)
        lora = settings.lora.model_copy(update={"r": setup.rank})
        adapters = add_lora(backbone, settings.model_copy(update={"lora": lora}), num_blocks)
        head = nn.Linear(backbone.d_model, backbone.d_model, device="meta") if role == "ar" else None
        counts = count(backbone, adapters, head, off_loaded=device == "cuda")
        scored = setup.batch * min(response_tokens, setup.length)
        shape = {"num_blocks": num_blocks, "batch": setup.batch, "length": setup.length, "scored": scored}
        return counts, dry_run(
            backbone, head, **shape, logit_slice=setup.logit_slice, checkpointing=setup.checkpointing
        )

    def planned(setup: _Setup) -> Plan:
        counts, step = counted(replace(setup, optimizer="adamw"))
        lines = [*_standing(counts, setup, dtype), *_passing(counts, step, setup, role, num_blocks, device)]
        used = sum(line.bytes for line in lines)
        lines.append(Line("allocator slack", int(used * slack), f"{slack:.0%} of the above, an estimate"))
        if device == "cuda":
            lines.append(Line("CUDA context", int(cuda_context_gib * GIB), "with cuBLAS workspaces; an estimate"))
        ram = tuple(_ram(counts)) if device == "cuda" else ()
        title = f"{role.upper()} of {config.base_id}: {setup.batch} × {setup.length} tokens, LoRA r={setup.rank}, "
        title += f"{setup.quantization or _short(dtype)} base"
        return Plan(title, device, tuple(line for line in lines if line.bytes or line.note), ram, int(gpu_gib * GIB))

    result = planned(setup)
    return result if result.fits else replace(result, advice=tuple(_advice(setup, result, planned, role)))


# --- lines --------------------------------------------------------------------------------------------------------
def _standing(counts: Counts, setup: _Setup, dtype: torch.dtype) -> Iterator[Line]:
    if setup.quantization:
        yield Line("weights, NF4", counts.packed, f"{_millions(counts.four_bit)} numbers in linear layers")
        yield Line("their scales", counts.scales, "double-quantised")
    what = "embeddings and norms; a tied lm_head is the embedding" if setup.quantization else "all; tied ones once"
    yield Line(f"weights, {_short(dtype)}", counts.plain, what)
    trained = sum(counts.adapters)
    yield Line("LoRA, fp32", 4 * trained, f"{_millions(trained)} numbers in {len(counts.adapters)} tensors")
    yield Line("their gradients, fp32", 4 * trained)
    yield Line(f"their states, {setup.optimizer}", optimizer_bytes(counts.adapters, setup.optimizer))
    if counts.head:
        yield Line("AR head, fp32", 16 * counts.head, "weights, gradients and AdamW states")


def _passing(counts: Counts, step: Step, setup: _Setup, role: str, num_blocks: int, device: str) -> Iterator[Line]:
    """What comes and goes. Loss, backward and optimizer step are never at once: the largest counts."""
    # torch's AdamW makes a root of all second moments at once on a GPU; bitsandbytes works in place.
    stepping = 4 * sum(counts.adapters) if setup.optimizer == "adamw" and device == "cuda" else 0
    moments = {"loss": step.kept + step.loss, "backward": step.kept + step.backward, "step": stepping}
    peak = max(moments, key=moments.get)
    tokens = f"{setup.batch} × {setup.length} tokens × {num_blocks} blocks"
    kept = f"inputs of each block, {tokens}" if setup.checkpointing else f"all intermediates, {tokens}"
    loss = f"with gradients, {setup.logit_slice} tokens at a time" if role == "av" else "with gradients"
    block = "the widest block, recomputed and differentiated" if setup.checkpointing else "on top of what was kept"
    for name, size, note, when in (
        ("kept for the backward", step.kept, kept, ("loss", "backward")),
        ("logits" if role == "av" else "head's output", step.loss, loss, ("loss",)),
        ("backward of a block", step.backward, block, ("backward",)),
        ("optimizer step", stepping, "temporary copies", ("step",)),
    ):
        if peak in when:
            yield Line(name, size, note)
        elif size:
            yield Line(name, 0, f"{note}: {_gib(size)}, not at the peak")


def _ram(counts: Counts) -> Iterator[Line]:
    if not counts.table:
        yield Line("while loading", counts.largest, "one tensor at a time, the largest; an estimate")
        return
    yield Line("per-layer embedding table", counts.table, "stays there all along")
    rest = counts.packed + counts.scales + counts.plain + counts.largest
    yield Line(
        "while loading, on top", rest, "the base, read on the CPU and then moved, and one tensor more; an estimate"
    )


# --- advice -----------------------------------------------------------------------------------------------------
def _advice(setup: _Setup, result: Plan, planned, role: str) -> Iterator[str]:
    """Plan again with one knob changed at a time; only what helps is said, what brings most first."""
    knobs = {
        f"batch {setup.batch} → 1": {"batch": 1},
        f"length {setup.length} → {setup.length // 2}": {"length": max(1, setup.length // 2)},
        f"lora.r {setup.rank} → {setup.rank // 2}": {"rank": max(1, setup.rank // 2)},
        "gradient checkpointing": {"checkpointing": True},
        "the 8-bit optimizer": {"optimizer": "adamw8bit"},
        "an NF4 base": {"quantization": "nf4"},
    }
    if role == "av":
        knobs[f"logit_slice {setup.logit_slice} → {setup.logit_slice // 4}"] = {
            "logit_slice": max(1, setup.logit_slice // 4)
        }
    if result.device == "cpu":
        del knobs["the 8-bit optimizer"]
    found = []
    for name, change in knobs.items():
        changed = replace(setup, **change)
        if changed != setup and (total := (tried := planned(changed)).total) < result.total:
            found.append((total, name, tried.fits, change))
    for total, name, fits, _ in sorted(found, key=lambda item: item[0]):
        yield f"{name}: {_gib(result.total - total)} GiB less, {_gib(total)}: {_verdict(fits)}"
    if len(found) > 1 and not any(fits for _, _, fits, _ in found):
        together = planned(replace(setup, **{key: value for *_, change in found for key, value in change.items()}))
        yield f"all of these together: {_gib(together.total)}: {_verdict(together.fits)}"
    if not found:
        yield "none of the settings: it takes a smaller base or more memory"


# --- text -------------------------------------------------------------------------------------------------------
def _row(line: Line) -> str:
    return f"  {line.name:<26}{_gib(line.bytes):>7}  {line.note}".rstrip()


def _gib(number: int) -> str:
    return f"{number / GIB:.2f}"


def _millions(number: int) -> str:
    return f"{number / 1e6:,.1f} M"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _verdict(fits: bool) -> str:
    return "fits" if fits else "does not fit"


# --- command line -----------------------------------------------------------------------------------------------
def settings_of(config: Config, role: str) -> dict:
    """Keyword arguments of `plan` that the config says, or that a run has by default."""
    settings = getattr(config, role)
    return {
        "batch": settings.micro_batch or settings.batch_size,
        "length": settings.max_length,
        "response_tokens": getattr(settings, "max_new_tokens", 120),
        "checkpointing": settings.gradient_checkpointing,
        "optimizer": "adamw8bit" if settings.optimizer == "auto" else settings.optimizer,
        "quantization": settings.quantization,
        "logit_slice": getattr(settings, "logit_slice", 64),
    }


def show(config: Config, role: str) -> int:
    """Print the plan of a run on this machine: its GPU, or where there is none its RAM. 0: it fits, 1: it does not."""
    where = {"device": "cpu", "gpu_gib": psutil.virtual_memory().total / GIB}
    if torch.cuda.is_available():
        where = {"device": "cuda", "gpu_gib": torch.cuda.get_device_properties(0).total_memory / GIB}
    made = plan(config, role, base_config=read_base_config(config.base), **where, **settings_of(config, role))
    print(made.table())
    return 0 if made.fits else 1


def read_base_config(base: str, file: Path | None = None) -> PretrainedConfig:
    """The transformers config of a base: of `file`, or of its folder, the demo or the Hub, without the weights.

    Raises:
        InputError: it is not the config.json of a model that transformers knows; RepositoryError: it cannot be had.
    """
    from transformers import AutoConfig

    if file is None:
        demo = base in ("demo", DEMO_BASE_ID)
        try:
            file = fetch_base(base).path / "config.json" if demo else fetch_file(base, "config.json")
        except OfflineError as error:
            raise OfflineError(f"{error} Or give the base's config.json as --base-config.") from error
    if not file.is_file():
        raise InputError(f"{file} is no file; expected the config.json of the base model.")
    try:
        with quiet():
            return AutoConfig.from_pretrained(file)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{file} is no config.json that transformers can read: {first_line(error)}") from error
