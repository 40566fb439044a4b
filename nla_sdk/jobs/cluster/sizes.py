"""What an actor takes of a machine, and how many of them fit: from the files on this disk, nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import NLAError
from ...halves.fetch import fetch_base
from ...io.rows.row_source import TEXTS

if TYPE_CHECKING:
    from ...halves.half import Half
    from .held import Lies

PROCESS = 800_000_000
"""Bytes of Python, libraries and activations beside the weights: the demo pair at work takes 1.85 GB, its weights 1.07
(benchmarks/footprint.json)."""
BITS = {"float32": 32, "bfloat16": 16, "float16": 16}
NF4_BITS = 4.25
"""A weight of a linear layer in NF4, its scales included; embeddings and norms stay in 16 bits."""


@dataclass(frozen=True)
class ActorSize:
    """What one actor is given.

    Attributes:
        cpus, gpus: shares of a GPU are shares of its memory, which nobody enforces.
        memory: bytes of RAM; None: not known, and not asked for.
        gpu_memory: bytes that its weights and activations take there; None: not known, or no GPU.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int | None = None
    gpu_memory: int | None = None

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPU{'s' * (self.cpus != 1)}"]
        if self.gpus:
            parts.append(f"{self.gpus:g} GPU{'s' * (self.gpus != 1)}")
            parts += [f"about {_gb(self.gpu_memory)} of its memory"] if self.gpu_memory else []
        parts.append("RAM not known" if self.memory is None else f"about {_gb(self.memory)} RAM")
        return ", ".join(parts)


@dataclass(frozen=True)
class Machine:
    """A node of a cluster, or this machine."""

    name: str
    cpus: float
    gpus: float
    memory: float

    def holds(self, size: ActorSize) -> int:
        """How many actors fit."""
        counts = [] if not size.cpus else [self.cpus / size.cpus]
        counts += [] if not size.gpus else [self.gpus / size.gpus]
        counts += [] if not size.memory else [self.memory / size.memory]
        return int(min(counts) + 1e-9) if counts else 0

    def __str__(self) -> str:
        gpus = f", {self.gpus:g} GPU{'s' * (self.gpus != 1)}" if self.gpus else ""
        return f"{self.name}: {self.cpus:g} CPU{'s' * (self.cpus != 1)}{gpus}, {_gb(self.memory)} RAM"


@dataclass(frozen=True)
class Fit:
    """How many actors of which size fit where.

    Attributes:
        unknown: why the size of the weights is not known; "" where it is.
    """

    size: ActorSize
    machines: Sequence[Machine]
    weights: int | None = None
    unknown: str = ""

    @property
    def actors(self) -> int:
        """On all machines together."""
        return sum(one.holds(self.size) for one in self.machines)

    def __str__(self) -> str:
        weights = f"weights: {self.unknown}" if self.weights is None else f"weights: {_gb(self.weights)}"
        lines = [weights, f"an actor: {self.size}"]
        lines += [f"{one}: {one.holds(self.size)} actors" for one in self.machines]
        return "\n".join([*lines, f"in all: {self.actors} actors"])


def fit(
    lying: Lies,
    told: Mapping[str, Any],
    holds: str,
    machines: Sequence[Machine],
    *,
    cpus: float | None = None,
    gpus: float | None = None,
) -> Fit:
    """The size of an actor of this pair, and how many fit.

    Args:
        told: as `NLAPair.from_pretrained` is.
        holds: what the rows hold: texts are read by the base, which whole checkpoints do without else.
        cpus, gpus: of an actor; None: one CPU, and a GPU where a machine has one and the pair may run there.
    """
    device = str(told.get("device", "auto"))
    if gpus is None:
        runs = device != "cpu" and (holds == TEXTS or bool(_in_memory(lying, told)))
        gpus = 1.0 if runs and any(one.gpus for one in machines) else 0.0
    try:
        weights, unknown = _bytes_of(lying, told, holds, on_gpu=gpus > 0), ""
    except (NLAError, OSError) as error:
        weights, unknown = None, f"not known here ({error})"
    on_gpu = None if weights is None or not gpus else weights + PROCESS
    # Weights go to a GPU file by file; in RAM stays what a process takes, twice: CUDA's libraries are as large again.
    memory = None if weights is None else 2 * PROCESS if gpus else weights + PROCESS
    return Fit(ActorSize(1.0 if cpus is None else cpus, gpus, memory, on_gpu), machines, weights, unknown)


def _bytes_of(lying: Lies, told: Mapping[str, Any], holds: str, *, on_gpu: bool) -> int:
    """Bytes that the pair's weights take in memory.

    Raises:
        NLAError, OSError: not all of them are on this disk.
    """
    halves = _in_memory(lying, told)
    folders = {
        half.parent.path if half.parent else half.folder for half in halves if half.parent or not half.is_adapter
    }
    if holds == TEXTS or any(half.is_adapter and half.parent is None for half in halves):
        folders.add(fetch_base(lying.base, local_files_only=True).path)
    if lying.source is not None and holds == TEXTS:
        folders.add(lying.source.path)
    stated = told.get("quantization", "auto")
    stored = next((one for half in halves if (one := half.contract.quantization)), None)
    nf4 = "nf4" in (stated, stored if stated == "auto" else None)
    bits = BITS.get(str(told.get("dtype", "auto")), 16 if on_gpu else 32)
    total = sum(_bits(shape, name, nf4=nf4, bits=bits) for folder in folders for name, shape in _tensors(folder))
    adapters = {folder for half in halves for folder in half.adapters} - folders
    return int(total / 8) + sum(file.stat().st_size for one in adapters for file in one.glob("*.safetensors"))


def _in_memory(lying: Lies, told: Mapping[str, Any]) -> list[Half]:
    """The halves whose weights an actor loads: not an AV that a server holds."""
    return [half for half in lying.halves if half.role != "av" or told.get("av_engine") is None]


def _bits(shape: Sequence[int], name: str, *, nf4: bool, bits: int) -> float:
    packed = nf4 and len(shape) == 2 and "embed" not in name and "lm_head" not in name
    return prod(shape) * (NF4_BITS if packed else min(bits, 16) if nf4 else bits)


def _tensors(folder: Path) -> Iterable[tuple[str, Sequence[int]]]:
    """Name and shape of every tensor of a folder's files, of which only the heads are read."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 it is no mapping
                yield name, opened.get_slice(name).get_shape()


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
