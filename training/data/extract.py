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

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from nla_sdk.cli.options import expand
from nla_sdk.errors import InputError
from nla_sdk.halves.fetch import fetch_base
from nla_sdk.halves.measured import kept
from nla_sdk.io.chunks import Chunks, identity_of, is_finished
from nla_sdk.io.files import atomic
from nla_sdk.io.progress import progress_bar, say
from nla_sdk.io.text import FAULTS
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.statistics.states import STATISTICS_FILE as STATES_FILE
from nla_sdk.model.weights.loading import pick_device, pick_dtype

from ..configs.command import ConfigOptions, OverwriteOption, PushOption, run_command
from ..configs.config import Config
from ..configs.data import CorpusSource
from ..runs.results import keep
from .corpus import Corpus, Text
from .reading import Reading, extract_chunk, windows
from .shards import merge, parse_shard, table_path, write_activations


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
        with chunks.kept_on_stop("extract"):
            _extract_missing(config, corpora, base, layers, shard, chunks)
        meta = _facts_for_sidecars(config, facts) | {
            "shard": f"{shard[0]}/{shard[1]}",
            "chunks": [index for index, record in sorted(chunks.done.items()) if record["outputs"]],
        }
        if not chunks.rows(f"L{config.layer}"):
            raise InputError(
                f"No activation was read from {', '.join(source.corpus for source in settings.sources)}: "
                f"{chunks.drops() or 'there is no text in it'}. Texts need more than "
                f"extract.min_context ({settings.min_context}) tokens."
            )
        for fault, count in chunks.drops().items():
            if fault in FAULTS and count:
                say(f"{count} document{'s' * (count > 1)} dropped: {FAULTS[fault]}")
        for layer, path in missing.items():
            name = f"L{layer}"
            write_activations(path, lambda name=name: chunks.tables(name), chunks.sidecar(meta | {"layer": layer}))
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
            _look_at(backbone, config, base.path)
        readings: list[Reading] = []
        drops: Counter[str] = Counter()
        for source, text in part:
            more, dropped = windows(text, source, config, backbone.tokenizer, backbone.vocabulary)
            if faults := [FAULTS[name] for name in dropped if name in FAULTS]:
                say(f"{text.where} dropped: {ascii(text.doc_id)} holds {faults[0]}")
            readings += more
            drops += dropped
        start, texts = bar.n, len(part)

        def show(share: float, start=start, texts=texts) -> None:
            bar.update(start + int(share * texts) - bar.n)

        tables = extract_chunk(backbone, readings, layers, config, show) if readings else {}
        chunks.write(index, {f"L{layer}": table for layer, table in tables.items()}, drops)
        show(1.0)
    bar.close()


def _look_at(backbone: Backbone, config: Config, base: Path) -> None:
    """While the base is in memory: what activations of the pair's layer look like, for the halves to carry along.

    Other shards, and a run that goes on, find it measured.
    """
    with atomic(config.out / STATES_FILE) as sibling:
        kept(backbone, config.layer, base, told=False).save(sibling)


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
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", layers):
        raise InputError(f"--layers {layers:.60}: expected numbers with commas between, as in 10,12,14.")
    return [int(layer) for layer in layers.split(",")]


main.__doc__ = __doc__

if __name__ == "__main__":
    run_command(main)
