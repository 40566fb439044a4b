"""Stage 0: text → activations. `python -m training.data.extract --config training/configs/demo.yaml`

Reads the config's corpora text by text, picks positions by an RNG keyed on (seed, document, text), runs the base to the
highest layer wanted and stops there, and writes `<out>/activations_L<layer>.parquet` with raw vectors. For the
extractive labeler it also records the base's likeliest next tokens, which costs the later blocks and the lm_head.

    python -m training.data.extract --config x.yaml --layers 10,12,14      several layers in one pass
    python -m training.data.extract --config x.yaml --shard 1/2            on one machine
    python -m training.data.extract --config x.yaml --shard 2/2            on another
    python -m training.data.extract --config x.yaml --merge                where both shards' files lie

Work is done in chunks of `texts_per_chunk` texts; inside a chunk, texts are batched by length. A shard takes every n-th
chunk, so shards merge into the very table that one run makes. With `--engine ray` the actors of a cluster make the
chunks, of a shard too, from texts that are read here (docs/howto/cluster.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer
from tqdm import tqdm

from nla_sdk.cli.options import EngineOptions, expand
from nla_sdk.errors import InputError
from nla_sdk.halves.fetch import fetch_base
from nla_sdk.io.chunks import Chunks, identity_of, is_finished
from nla_sdk.io.files import atomic
from nla_sdk.io.progress import progress_bar, say
from nla_sdk.io.sidecars import read_sidecar
from nla_sdk.io.text import FAULTS
from nla_sdk.jobs.cluster.pool import Pool
from nla_sdk.jobs.cluster.stages import Spread
from nla_sdk.model.statistics.states import STATISTICS_FILE as STATES_FILE

from ..configs.command import ConfigOptions, OverwriteOption, PushOption, run_command, spread_of
from ..configs.config import Config
from ..runs.results import keep
from .corpus import Corpus, Text
from .reading import DROPS, LOOKS, STATES, Extraction, Part, extract_chunk, precision_of, sent, told_of
from .shards import merge, parse_shard, table_path, write_activations


def run(
    config: Config,
    *,
    shard: tuple[int, int] = (1, 1),
    overwrite: bool = False,
    push_dataset: str | None = None,
    spread: Spread | None = None,
) -> list[Path]:
    """Extract; returns the tables, one per layer.

    Args:
        spread: gives the actors that run the base; None: this process does.
    Raises:
        InputError: a corpus that cannot be read. ChunkError: a finished table of other settings is in the way.
        ClusterError: there are no such actors, or a chunk has ended two of them.
    """
    settings = config.extract
    layers = sorted({config.layer, *settings.layers})
    corpora = [Corpus(source, config.seed) for source in settings.sources]
    base = fetch_base(config.base, weights=spread is None)
    unit = Extraction(config, layers, base)
    paths = {layer: table_path(config, layer, shard) for layer in layers}
    finished = not overwrite and all(path.is_file() for path in paths.values())
    with nullcontext() if spread is None or finished else spread(unit) as pool:
        facts = {
            "base": config.base_id,
            "revision": base.commit,
            "precision": _precision(config, pool, paths[config.layer] if spread and finished else None),
            "layers": layers,
            "seed": config.seed,
            "extract": settings.model_dump(mode="json", exclude={"sources", "layers", "dtype", "quantization"}),
            "sources": [source.model_dump(mode="json", exclude={"corpus"}) for source in settings.sources],
            "inputs": [corpus.fingerprint() for corpus in corpora],
        }
        chunks = Chunks(config.out / "chunks", "extract", facts | {"shard": list(shard)})
        missing = {
            layer: path for layer, path in paths.items() if not is_finished(path, chunks.identity, overwrite=overwrite)
        }
        if missing:
            with chunks.kept_on_stop("extract"):
                _extract_missing(config, corpora, unit, shard, chunks, pool)
    if missing:
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


def _precision(config: Config, pool: Pool | None, finished: Path | None) -> str:
    """What the base runs at: here, or where the actors are.

    Args:
        finished: a table that is there, whoever has made it, so that no actor need be asked.
    """
    settings = config.extract
    if pool is not None:
        return pool.about
    stated = settings.quantization is not None or settings.dtype != "auto"
    if finished is None or stated:
        return precision_of(settings)
    return str(read_sidecar(finished).get("extraction_precision"))


def _extract_missing(
    config: Config,
    corpora: Sequence[Corpus],
    unit: Extraction,
    shard: tuple[int, int],
    chunks: Chunks,
    pool: Pool | None,
) -> None:
    """Run the base over every chunk of this shard that is not there yet."""
    known = [corpus.length() for corpus in corpora]
    bar = progress_bar(None if None in known else sum(known), "text", "extract")

    def parts() -> Iterator[tuple[int, Part]]:
        for index, part in in_chunks(_texts_of(corpora), config.extract.texts_per_chunk):
            if index % shard[1] == shard[0] - 1 and not chunks.has(index):
                yield index, part
            else:
                bar.initial += len(part)  # another shard's, or done before: not part of the rate shown
                bar.n += len(part)

    if pool is None:
        _here(config, unit, parts(), chunks, bar)
    else:
        _by_actors(config, parts(), chunks, bar, pool)
    bar.close()


def _here(config: Config, unit: Extraction, parts: Iterator[tuple[int, Part]], chunks: Chunks, bar: tqdm) -> None:
    """By this process, chunk after chunk."""
    looked = False
    for index, part in parts:
        if not looked:
            with atomic(config.out / STATES_FILE) as sibling:
                unit.look(sibling)
            looked = True
        readings, drops, lines = unit.windows(part)
        for line in lines:
            say(line)
        start, texts = bar.n, len(part)

        def show(share: float, start=start, texts=texts) -> None:
            bar.update(start + int(share * texts) - bar.n)

        tables = extract_chunk(unit.load(), readings, unit.layers, config, show) if readings else {}
        chunks.write(index, {f"L{layer}": table for layer, table in tables.items()}, drops)
        show(1.0)


def _by_actors(config: Config, parts: Iterator[tuple[int, Part]], chunks: Chunks, bar: tqdm, pool: Pool) -> None:
    """By a pool's actors, in any order; one of them looks at the base while the others begin."""

    def given() -> Iterator[tuple[int, pa.Table]]:
        for place, (index, part) in enumerate(parts):
            if place == 0:
                yield LOOKS, sent([])
            yield index, sent(part)

    looked, held = False, None
    for made in pool.fed(given()):
        if STATES in made.outputs:
            with atomic(config.out / STATES_FILE) as sibling:
                sibling.write_bytes(made.outputs[STATES]["file"][0].as_py())
            looked, made, held = True, held, None
        elif not looked and held is None:  # kept once the base was looked at: while a chunk is missing, a run looks
            made, held = None, made
        if made is None:
            continue
        outputs = dict(made.outputs)
        drops, lines = told_of(outputs.pop(DROPS))
        for line in lines:
            say(line)
        chunks.write(made.number, outputs, drops)
        bar.set_postfix_str(made.note, refresh=False)
        bar.update(made.rows)


def _texts_of(corpora: Sequence[Corpus]) -> Iterator[tuple[int, Text]]:
    for source, corpus in enumerate(corpora):
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
    *,
    engine: EngineOptions,
) -> None:
    spread = spread_of(engine)
    settings = config.load({"extract.layers": parse_layers(layers)})
    if merge_shards:
        if spread is not None:
            raise InputError("--merge puts finished files together and runs no model: leave --engine ray out.")
        made = merge(settings, overwrite=overwrite, push_dataset=push_dataset)
    else:
        made = run(settings, shard=parse_shard(shard), overwrite=overwrite, push_dataset=push_dataset, spread=spread)
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
