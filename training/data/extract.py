"""Stage 0: text → activations. `python -m training.data.extract --config training/configs/demo.yaml`

Reads the config's corpora text by text, picks positions by an RNG keyed on (seed, document, text), runs the base to the
highest layer wanted and stops there, and writes `<out>/activations_L<layer>.parquet` with raw vectors. For the
extractive labeler it also records the base's likeliest next tokens, which costs the later blocks and the lm_head.

    python -m training.data.extract --config x.yaml --layers 10,12,14      several layers in one pass
    python -m training.data.extract --config x.yaml --shard 1/2            on one machine
    python -m training.data.extract --config x.yaml --shard 2/2            on another
    python -m training.data.extract --config x.yaml --merge                where both shards' files lie

Work is done in chunks of `texts_per_chunk` texts; inside a chunk, texts are batched by length. A shard takes every n-th
chunk, so shards merge into the very table that one run makes.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import typer

from nla_sdk.cli.options import expand
from nla_sdk.errors import InputError
from nla_sdk.halves.fetch import fetch_base
from nla_sdk.io.chunks import ChunkError, Chunks, identity_of, is_finished, write_stream
from nla_sdk.io.files import atomic, read_sidecar, read_vectors, sha256_of, vector_column
from nla_sdk.io.progress import progress_bar
from nla_sdk.model.backbone import Backbone, pick_device, pick_dtype
from nla_sdk.model.extraction import tokenize
from nla_sdk.model.reconstructor import pad_right

from ..configs.config import Config
from ..configs.data import CorpusSource
from ..runs.command import ConfigOptions, OverwriteOption, PushOption, run_command
from ..runs.results import keep
from .corpus import Corpus, Text
from .moments import moments


@dataclass(frozen=True)
class Reading:
    """One window of a text, and where in it activations are read.

    Attributes:
        ids: its tokens up to the last one read, BOS included where there is one.
        positions: indices into `ids`.
        prefixes: for each position, the text up to and including that token.
    """

    doc_id: str
    family: str | None
    ids: list[int]
    positions: list[int]
    prefixes: list[str]


def plan(text: Text, source: CorpusSource, config: Config, tokenizer) -> tuple[list[Reading], Counter[str]]:
    """The windows of a text with their positions, and what was dropped: the same in every run, shard and order.

    A text longer than `max_tokens` is read in consecutive windows, each with its own BOS: what stands before a window
    is not in its activations, so it is not in its prefixes either. `positions: last` reads the whole text.
    """
    settings = config.extract
    drops: Counter[str] = Counter()
    ids = tokenize(tokenizer, text.text)
    if source.positions == "last":
        if len(ids) <= settings.min_context:
            drops["too_short"] += 1
            return [], drops
        return [Reading(text.doc_id, text.family, ids, [len(ids) - 1], [text.text])], drops
    start = [ids[0]] if ids and ids[0] == tokenizer.bos_token_id else []
    body, size = ids[len(start) :], settings.max_tokens - len(start)
    content = hashlib.sha256(text.text.encode()).hexdigest()
    readings = []
    for number, at in enumerate(range(0, len(body), size)):
        window = start + body[at : at + size]
        choices = range(settings.min_context, len(window))
        if not choices:
            drops["too_short"] += 1
            continue
        rng = random.Random(f"{config.seed}|{text.doc_id}|{content}|{number}")
        positions, prefixes = [], []
        for position in sorted(rng.sample(choices, min(source.positions, len(choices)))):
            prefix = tokenizer.decode(window[: position + 1], skip_special_tokens=True)
            if prefix.endswith("\ufffd"):  # the token ends within a character: there is no such text
                drops["broken_character"] += 1
                continue
            positions.append(position)
            prefixes.append(prefix)
        if positions:
            # Causal: what stands after the last position read changes nothing, and costs a fifth of the pass.
            readings.append(Reading(text.doc_id, text.family, window[: positions[-1] + 1], positions, prefixes))
    return readings, drops


def row_id(doc_id: str, tokens: int, text: str) -> str:
    """A name for one activation of one layer, the same wherever it is extracted."""
    return hashlib.sha256(f"{doc_id}\n{tokens}\n{text}".encode()).hexdigest()[:16]


def batches(readings: Sequence[Reading], tokens_per_batch: int) -> Iterator[list[int]]:
    """Indices of readings to run together, longest first, so that little is padded."""
    order = sorted(range(len(readings)), key=lambda index: (-len(readings[index].ids), index))
    while order:
        size = max(1, tokens_per_batch // len(readings[order[0]].ids))
        yield order[:size]
        order = order[size:]


def read_states(
    backbone: Backbone, readings: Sequence[Reading], layers: Sequence[int], guesses: int
) -> tuple[dict[int, list[torch.Tensor]], list[list[list[int]]]]:
    """Run one batch.

    Args:
        layers: blocks whose output is read.
        guesses: how many likeliest next tokens to find; 0 stops the forward after the highest layer.
    Returns:
        For each layer and reading float32 [positions, d]; for each reading and position the next tokens' ids.
    """
    captured: dict[int, torch.Tensor] = {}

    def hook(layer: int):
        def take(module, args, output):
            captured[layer] = output[0] if isinstance(output, tuple) else output

        return take

    handles = [backbone.blocks[layer].register_forward_hook(hook(layer)) for layer in layers]
    padded, _ = pad_right([reading.ids for reading in readings])
    rows = torch.tensor([row for row, reading in enumerate(readings) for _ in reading.positions])
    columns = torch.tensor([position for reading in readings for position in reading.positions])
    sizes = [len(reading.positions) for reading in readings]
    try:
        with torch.no_grad(), backbone.using(None):
            if guesses:
                decoder = getattr(backbone.model, backbone.model.base_model_prefix)
                last = decoder(input_ids=padded.to(backbone.device), use_cache=False).last_hidden_state
                logits = backbone.model.get_output_embeddings()(last[rows, columns])
                found = [part.tolist() for part in logits.topk(guesses).indices.split(sizes)]
            else:
                backbone.run_to_block(padded, max(layers))
                found = [[[] for _ in reading.positions] for reading in readings]
    finally:
        for handle in handles:
            handle.remove()
    states = {layer: list(captured[layer][rows, columns].float().cpu().split(sizes)) for layer in layers}
    return states, found


def schema(d_model: int) -> pa.Schema:
    """Of an activations table."""
    return pa.schema(
        [
            ("row_id", pa.string()),
            ("doc_id", pa.string()),
            ("n_raw_tokens", pa.int32()),
            ("activation_layer", pa.int32()),
            ("activation_vector", pa.list_(pa.float32(), d_model)),
            ("activation_norm", pa.float32()),
            ("detokenized_text_truncated", pa.string()),
            ("source_family", pa.string()),
            ("next_tokens", pa.list_(pa.string())),
        ]
    )


def extract_chunk(
    backbone: Backbone,
    readings: Sequence[Reading],
    layers: Sequence[int],
    config: Config,
    progress: Callable[[float], object] = lambda share: None,
) -> dict[int, pa.Table]:
    """Rows of one chunk in the corpus's order: layer → table. `progress` is told what share of the chunk is done."""
    settings, tokenizer = config.extract, backbone.tokenizer
    total = sum(len(reading.ids) for reading in readings)
    states: dict[int, list] = {layer: [None] * len(readings) for layer in layers}
    guesses: list = [None] * len(readings)
    done = 0
    for picked in batches(readings, settings.tokens_per_batch):
        found, following = read_states(backbone, [readings[index] for index in picked], layers, settings.next_tokens)
        for at, index in enumerate(picked):
            guesses[index] = following[at]
            for layer in layers:
                states[layer][index] = found[layer][at]
        done += sum(len(readings[index].ids) for index in picked)
        progress(done / total)
    columns: dict[str, list] = {name: [] for name in ("row", "doc", "tokens", "text", "family", "next")}
    for reading, following in zip(readings, guesses, strict=True):
        for position, prefix, tokens in zip(reading.positions, reading.prefixes, following, strict=True):
            columns["row"].append(row_id(reading.doc_id, position + 1, prefix))
            columns["doc"].append(reading.doc_id)
            columns["tokens"].append(position + 1)
            columns["text"].append(prefix)
            columns["family"].append(reading.family)
            columns["next"].append([tokenizer.decode([token]) for token in tokens])
    tables = {}
    for layer in layers:
        vectors = torch.cat(states[layer]).numpy()
        if not np.isfinite(vectors).all():
            row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
            raise InputError(
                f"The base gave NaN or Inf at layer {layer} for document {columns['doc'][row]!r}; its dtype "
                f"({str(backbone.dtype).removeprefix('torch.')}) is too narrow: set extract.dtype to float32."
            )
        arrays = [
            columns["row"],
            columns["doc"],
            columns["tokens"],
            [layer] * len(vectors),
            vector_column(vectors),
            np.linalg.norm(vectors.astype(np.float64), axis=1),
            columns["text"],
            columns["family"],
            columns["next"],
        ]
        wanted = schema(vectors.shape[1])
        tables[layer] = pa.table(
            [
                array if isinstance(array, pa.Array) else pa.array(array, type=field.type, from_pandas=False)
                for array, field in zip(arrays, wanted, strict=True)
            ],
            schema=wanted,
        )
    return tables


def in_chunks(texts: Iterable, size: int) -> Iterator[tuple[int, list]]:
    """(0, the first `size` texts), (1, the next ones), …"""
    part: list = []
    index = 0
    for text in texts:
        part.append(text)
        if len(part) == size:
            yield index, part
            part, index = [], index + 1
    if part:
        yield index, part


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


def run(
    config: Config,
    *,
    shard: tuple[int, int] = (1, 1),
    overwrite: bool = False,
    push_dataset: str | None = None,
) -> list[Path]:
    """Extract; returns the tables, one per layer.

    Raises:
        InputError: a corpus that cannot be read. ChunkError: a finished table of other settings is in the way.
    """
    settings = config.extract
    layers = sorted({config.layer, *settings.layers})
    corpora = [Corpus(source, config.seed) for source in settings.sources]
    base = fetch_base(config.base)
    precision = settings.quantization or str(pick_dtype(settings.dtype, pick_device())).removeprefix("torch.")
    facts = {
        "base": config.base_id,
        "revision": base.commit,
        "precision": precision,
        "layers": layers,
        "seed": config.seed,
        "extract": settings.model_dump(mode="json", exclude={"sources", "layers", "dtype", "quantization"}),
        "sources": [source.model_dump(mode="json", exclude={"corpus"}) for source in settings.sources],
        "inputs": [corpus.fingerprint() for corpus in corpora],
    }
    chunks = Chunks(config.out / "chunks", "extract", facts | {"shard": list(shard)})
    paths = {layer: table_path(config, layer, shard) for layer in layers}
    missing = {
        layer: path for layer, path in paths.items() if not is_finished(path, chunks.identity, overwrite=overwrite)
    }
    if missing:
        _extract_missing(config, corpora, base, layers, shard, chunks)
        meta = _facts_for_sidecars(config, facts) | {
            "shard": f"{shard[0]}/{shard[1]}",
            "chunks": [index for index, record in sorted(chunks.done.items()) if record["outputs"]],
        }
        if not chunks.rows(f"L{config.layer}"):
            raise InputError(
                f"No activation was read: {chunks.drops() or 'the corpora are empty'}. Texts need more than "
                f"extract.min_context ({settings.min_context}) tokens."
            )
        for layer, path in missing.items():
            name = f"L{layer}"
            _write(path, lambda name=name: chunks.tables(name), chunks.sidecar(meta | {"layer": layer}))
    chunks.remove()
    for path in paths.values():
        keep(config, path, push_dataset)
    return list(paths.values())


def _extract_missing(config: Config, corpora, base, layers, shard, chunks: Chunks) -> None:
    """Run the base over every chunk of this shard that is not there yet."""
    settings = config.extract
    backbone = None
    known = [corpus.length() for corpus in corpora]
    bar = progress_bar(None if None in known else sum(known), "text", "extract")
    for index, part in in_chunks(_texts_of(settings.sources, corpora), settings.texts_per_chunk):
        if index % shard[1] != shard[0] - 1 or chunks.has(index):
            bar.initial += len(part)  # another shard's, or done before: not part of the rate shown
            bar.n += len(part)
            continue
        if backbone is None:
            backbone = Backbone.load(
                base.path, ref=config.base_id, dtype=settings.dtype, quantization=settings.quantization
            )
            if max(layers) >= backbone.num_blocks:
                raise InputError(
                    f"Layer {max(layers)} does not exist: {config.base_id} has layers 0 to {backbone.num_blocks - 1}."
                )
        readings: list[Reading] = []
        drops: Counter[str] = Counter()
        for source, text in part:
            more, dropped = plan(text, source, config, backbone.tokenizer)
            readings += more
            drops += dropped
        start, texts = bar.n, len(part)

        def show(share: float, start=start, texts=texts) -> None:
            bar.update(start + int(share * texts) - bar.n)

        tables = extract_chunk(backbone, readings, layers, config, show) if readings else {}
        chunks.write(index, {f"L{layer}": table for layer, table in tables.items()}, drops)
        show(1.0)
    bar.close()


def _texts_of(sources: Sequence[CorpusSource], corpora: Sequence[Corpus]) -> Iterator[tuple[CorpusSource, Text]]:
    for source, corpus in zip(sources, corpora, strict=True):
        for text in corpus:
            yield source, text


def _facts_for_sidecars(config: Config, facts: dict) -> dict:
    settings = config.extract.model_dump(mode="json")
    for source in settings["sources"]:  # sidecars get published, and say nothing of anybody's disk
        if Path(source["corpus"]).exists():
            source["corpus"] = Path(source["corpus"]).name
    return {
        "base_model": facts["base"],
        **({"base_revision": facts["revision"]} if facts["revision"] else {}),
        "extraction_precision": facts["precision"],
        "seed": config.seed,
        "inputs": facts["inputs"],
        "config": settings,
        "extraction": identity_of(facts),
    }


def _write(path: Path, tables: Callable[[], Iterable[pa.Table]], meta: dict) -> None:
    """The table, its sidecar with the moments of its vectors, and beside them the mean vector."""
    from safetensors.numpy import save_file

    found = moments(lambda: (read_vectors(table) for table in tables()))
    name = f"{path.stem}.mean.safetensors"
    with atomic(path.with_name(name)) as sibling:
        save_file({"mean": found.mean}, sibling)
    meta = {**meta, "d_model": len(found.mean), "activation_mean": name, "centred_norm": found.centred_norm}
    meta |= {"baseline_mse": found.baseline_mse, "median_norm": found.median_norm}
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
        about = [read_sidecar(shard) for shard in shards]
        if len({one.get("extraction") for one in about}) > 1:
            raise ChunkError(f"The shards {', '.join(shard.name for shard in shards)} are of different runs.")
        count = int(about[0]["shard"].partition("/")[2])
        found = sorted(one["shard"] for one in about)
        if found != sorted(f"{number}/{count}" for number in range(1, count + 1)):
            raise ChunkError(
                f"Found the shards {', '.join(found)} of layer {layer}; expected 1/{count} … {count}/{count}."
            )
        for shard, one in zip(shards, about, strict=True):
            if sha256_of(shard) != one["sha256"]:
                raise ChunkError(f"{shard} is damaged: its SHA-256 is not its sidecar's. Copy it again.")
        path = table_path(config, layer)
        identity = identity_of({"merged": [one["sha256"] for one in about]})
        if not is_finished(path, identity, overwrite=overwrite):
            where = sorted(
                (chunk, shard, group)
                for shard, one in zip(shards, about, strict=True)
                for group, chunk in enumerate(one["chunks"])
            )
            drops = sum((Counter(one["drops"]) for one in about), Counter())
            own = ("rows", "sha256", "code_version", "shard", "activation_mean", "median_norm", "drops", "identity")
            meta = {key: value for key, value in about[0].items() if key not in own}
            meta |= {"chunks": [chunk for chunk, _, _ in where], "drops": dict(sorted(drops.items()))}
            meta |= {
                "shard": "1/1",
                "identity": identity,
                "merged": {shard.name: one["sha256"] for shard, one in zip(shards, about, strict=True)},
            }

            def tables(where=where) -> Iterator[pa.Table]:
                for _, shard, group in where:
                    yield pq.ParquetFile(shard).read_row_group(group)

            _write(path, tables, meta)
        keep(config, path, push_dataset)
        made.append(path)
    return made


@expand
def main(
    config: ConfigOptions,
    layers: Annotated[str, typer.Option(help="More layers to read in the same pass, as in 10,12,14.")] = "",
    shard: Annotated[str, typer.Option(metavar="I/N", help="Read only every N-th chunk, from the I-th on.")] = "1/1",
    merge_shards: Annotated[bool, typer.Option("--merge", help="Put finished shards together.")] = False,
    overwrite: OverwriteOption = False,
    push_dataset: PushOption = None,
) -> None:
    settings = config.load({"extract.layers": parse_layers(layers)})
    if merge_shards:
        made = merge(settings, overwrite=overwrite, push_dataset=push_dataset)
    else:
        made = run(settings, shard=parse_shard(shard), overwrite=overwrite, push_dataset=push_dataset)
    print("\n".join(map(str, made)))


def parse_layers(layers: str) -> list[int] | None:
    """`10,12,14`, as `--layers` takes them; None for nothing."""
    if not layers:
        return None
    if not re.fullmatch(r"\d+(,\d+)*", layers):
        raise InputError(f"--layers {layers}: expected numbers with commas between, as in 10,12,14.")
    return [int(layer) for layer in layers.split(",")]


main.__doc__ = __doc__

if __name__ == "__main__":
    run_command(main)
