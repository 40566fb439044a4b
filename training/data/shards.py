"""Activation tables: where each layer's goes, whole or as one shard of several, and how shards become the whole."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nla_sdk.errors import ChunkError, InputError
from nla_sdk.io.chunks import identity_of, is_finished
from nla_sdk.io.files import atomic, sha256_of
from nla_sdk.io.progress import say
from nla_sdk.io.rows.formats import write_stream
from nla_sdk.io.sidecars import read_sidecar
from nla_sdk.io.tables import read_vectors

from ..configs.config import Config
from ..runs.results import keep
from .moments import moments


def parse_shard(shard: str) -> tuple[int, int]:
    """`"2/8"` → (2, 8). InputError: anything else."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"--shard {shard}: expected I/N with 1 ≤ I ≤ N, as in 1/2.")
    return int(match[1]), int(match[2])


def table_path(config: Config, layer: int, shard: tuple[int, int] = (1, 1)) -> Path:
    """Where the table of one layer goes, or of one shard of it."""
    part = "" if shard[1] == 1 else f".shard-{shard[0]}-of-{shard[1]}"
    return config.out / f"activations_L{layer}{part}.parquet"


def write_activations(path: Path, tables: Callable[[], Iterable[pa.Table]], meta: Mapping[str, Any]) -> None:
    """The table, its sidecar with the moments of its vectors, and beside them the mean vector."""
    from safetensors.numpy import save_file

    found = moments(lambda: (read_vectors(table) for table in tables()))
    if line := found.said():
        say(f"{path.name}: {line}")
    name = f"{path.stem}.mean.safetensors"
    with atomic(path.with_name(name)) as sibling:
        save_file({"mean": found.mean}, sibling)
    meta = {**meta, "d_model": len(found.mean), "activation_mean": name, "centred_norm": found.centred_norm}
    meta |= {"baseline_mse": found.baseline_mse, "median_norm": found.median_norm}
    if found.left_out:
        meta["mean"] = found.facts()
    write_stream(path, tables(), meta)


def merge(config: Config, *, overwrite: bool = False, push_dataset: str | None = None) -> list[Path]:
    """Shards in `<out>` → the tables that one run would have made; returns them.

    Raises:
        ChunkError: a shard is missing, damaged, or of another run.
    """
    made = []
    for layer in sorted({config.layer, *config.extract.layers}):
        name = f"activations_L{layer}.shard-*-of-*.parquet"
        shards = sorted(config.out.glob(name), key=lambda path: int(path.stem.split("-")[1]))
        if not shards:
            raise ChunkError(f"{config.out} holds no {name}: run training.data.extract with --shard 1/N … N/N first.")
        sidecars = [read_sidecar(shard) for shard in shards]
        if len({sidecar.get("extraction") for sidecar in sidecars}) > 1:
            raise ChunkError(f"The shards {', '.join(shard.name for shard in shards)} are of different runs.")
        count = int(sidecars[0]["shard"].partition("/")[2])
        found = sorted(sidecar["shard"] for sidecar in sidecars)
        if found != sorted(f"{number}/{count}" for number in range(1, count + 1)):
            raise ChunkError(
                f"Found the shards {', '.join(found)} of layer {layer}; expected 1/{count} … {count}/{count}."
            )
        for shard, sidecar in zip(shards, sidecars, strict=True):
            if sha256_of(shard) != sidecar["sha256"]:
                raise ChunkError(f"{shard} is damaged: its SHA-256 is not its sidecar's. Copy it again.")
        path = table_path(config, layer)
        identity = identity_of({"merged": [sidecar["sha256"] for sidecar in sidecars]})
        if not is_finished(path, identity, overwrite=overwrite):
            where = sorted(
                (chunk, shard, group)
                for shard, sidecar in zip(shards, sidecars, strict=True)
                for group, chunk in enumerate(sidecar["chunks"])
            )
            drops = sum((Counter(sidecar["drops"]) for sidecar in sidecars), Counter())
            own = (
                "rows",
                "sha256",
                "code_version",
                "shard",
                "activation_mean",
                "median_norm",
                "mean",
                "drops",
                "identity",
            )
            meta = {key: value for key, value in sidecars[0].items() if key not in own}
            meta |= {"chunks": [chunk for chunk, _, _ in where], "drops": dict(sorted(drops.items()))}
            meta |= {
                "shard": "1/1",
                "identity": identity,
                "merged": {shard.name: sidecar["sha256"] for shard, sidecar in zip(shards, sidecars, strict=True)},
            }

            def tables(where=where) -> Iterator[pa.Table]:
                for _, shard, group in where:
                    yield pq.ParquetFile(shard).read_row_group(group)

            write_activations(path, tables, meta)
        keep(config, path, push_dataset)
        made.append(path)
    return made
