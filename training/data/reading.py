"""Reading activations out of texts: where in a text, which texts together, and what a chunk's rows hold.

The base runs to the highest layer wanted and stops there. For the extractive labeler the base's likeliest next tokens
are recorded too, which costs the later blocks and the lm_head.

Where the base is in memory, here or in an actor of a cluster, an `Extraction` is what reads.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from nla_sdk.errors import InputError
from nla_sdk.halves.fetch import Files
from nla_sdk.halves.measured import kept
from nla_sdk.io.tables import vector_column
from nla_sdk.io.text import FAULTS
from nla_sdk.jobs.unit import LoadedBase
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.batches import by_length, pad_right
from nla_sdk.model.extraction import tokenize
from nla_sdk.model.weights.loading import pick_device, pick_dtype

from ..configs.config import Config
from ..configs.data import CorpusSource, Extract
from .corpus import Text

Part = Sequence[tuple[int, Text]]
"""Texts, each with the place of its source among `extract.sources`."""
LOOKS = -1
"""In the place of a chunk's number: what activations of the pair's layer look like is asked."""
STATES, DROPS = "states", "drops"
"""Tables of an actor beside the layers': the file of statistics, and what of the texts was dropped."""


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


def windows(
    text: Text, source: CorpusSource, config: Config, tokenizer: Any, vocabulary: int | None = None
) -> tuple[list[Reading], Counter[str]]:
    """The windows of a text with their positions, and what was dropped: the same in every run, shard and order.

    A text longer than `max_tokens` is read in consecutive windows, each with its own BOS: what stands before a window
    is not in its activations, so it is not in its prefixes either. `positions: last` reads the whole text.

    A document that is no text, or holds a token of which there is no embedding, is dropped whole, under the name that
    `nla_sdk.io.text.FAULTS` has for it.

    Args:
        vocabulary: how many embeddings there are (`Backbone.vocabulary`); None: one for every token.
    """
    settings = config.extract
    drops: Counter[str] = Counter()
    if (fault := text.fault) is not None:
        drops[fault] += 1
        return [], drops
    ids = tokenize(tokenizer, text.text)
    if vocabulary is not None and max(ids, default=0) >= vocabulary:
        drops["no_embedding"] += 1
        return [], drops
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
                last = last[rows, columns]
            else:
                backbone.run_to_block(padded, max(layers))
                found = [[[] for _ in reading.positions] for reading in readings]
    finally:
        for handle in handles:
            handle.remove()
    if guesses:
        with torch.no_grad(), backbone.using(None):  # without the hooks: finding out the model's cap runs it once more
            likeliest = backbone.logits(last).topk(guesses).indices
        found = [part.tolist() for part in likeliest.split(sizes)]
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
    for picked in by_length([len(reading.ids) for reading in readings], settings.tokens_per_batch):
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


def precision_of(settings: Extract) -> str:
    """What the base runs at on this machine, as a contract's `extraction_precision` says it."""
    return settings.quantization or str(pick_dtype(settings.dtype, pick_device())).removeprefix("torch.")


@dataclass(eq=False)
class Extraction(LoadedBase):
    """Texts to activations, by a base that each process loads once.

    Args:
        config: of the run.
        layers: whose output is read.
        found: the base where this is made; another process finds it by its name and commit.
    """

    config: Config
    layers: Sequence[int]
    found: Files

    def __post_init__(self) -> None:
        settings = self.config.extract
        self.base, self.ref = self.config.base, self.config.base_id
        self.revision, self._files = self.found.commit, self.found
        self.dtype, self.quantization = settings.dtype, settings.quantization

    def load(self) -> Backbone:
        """The base.

        Raises:
            InputError: it has no such layer.
        """
        backbone = super().load()
        if max(self.layers) >= backbone.num_blocks:
            raise InputError(
                f"Layer {max(self.layers)} does not exist: {self.ref} has layers 0 to {backbone.num_blocks - 1}."
            )
        return backbone

    def about(self) -> str:
        """At what precision it runs where this is."""
        return precision_of(self.config.extract)

    def look(self, file: Path) -> None:
        """While the base is in memory: what activations of the pair's layer look like, for the halves to carry along.

        Other shards, and a run that goes on, find it measured.
        """
        kept(self.load(), self.config.layer, self.files.path, told=False).save(file)

    def windows(self, part: Part) -> tuple[list[Reading], Counter[str], list[str]]:
        """The windows of some texts, what was dropped, and a line for each document that is dropped whole."""
        readings: list[Reading] = []
        drops: Counter[str] = Counter()
        lines = []
        backbone, sources = self.load(), self.config.extract.sources
        for source, text in part:
            more, dropped = windows(text, sources[source], self.config, backbone.tokenizer, backbone.vocabulary)
            if faults := [FAULTS[name] for name in dropped if name in FAULTS]:
                lines.append(f"{text.where} dropped: {ascii(text.doc_id)} holds {faults[0]}")
            readings += more
            drops += dropped
        return readings, drops, lines

    def __call__(self, texts: pa.Table, number: int) -> dict[str, pa.Table]:
        """A chunk for the driver of a cluster: `L<layer>` tables and DROPS; of LOOKS STATES.

        Args:
            texts: as `sent` makes them.
        """
        if number == LOOKS:
            with tempfile.TemporaryDirectory() as folder:
                self.look(file := Path(folder) / STATES)
                return {STATES: pa.table({"file": pa.array([file.read_bytes()], pa.large_binary())})}
        readings, drops, lines = self.windows(received(texts))
        tables = extract_chunk(self.load(), readings, self.layers, self.config) if readings else {}
        said = [_coded(line) for line in lines]
        dropped = pa.table({"reason": [*drops, *[None] * len(said)], "count": [*drops.values(), *[0] * len(said)]})
        dropped = dropped.append_column("said", pa.array([None] * len(drops) + said, pa.large_binary()))
        return {f"L{layer}": table for layer, table in tables.items()} | {DROPS: dropped}


def sent(part: Part) -> pa.Table:
    """Texts as they travel to an actor: as bytes, since half a surrogate pair is no text to Arrow."""
    fields = ("doc_id", "text", "family", "where")
    columns = {name: pa.array([_coded(getattr(text, name)) for _, text in part], pa.large_binary()) for name in fields}
    return pa.table({"source": pa.array([source for source, _ in part], pa.int32()), **columns})


def received(texts: pa.Table) -> Part:
    """What was `sent`."""
    columns = [[_decoded(value) for value in column.to_pylist()] for column in texts.columns[1:]]
    return list(zip(texts["source"].to_pylist(), map(Text, *columns), strict=True))


def told_of(dropped: pa.Table) -> tuple[dict[str, int], list[str]]:
    """Of a DROPS table: how many by reason, and the lines that are to be said."""
    rows = dropped.to_pylist()
    lines = [line for row in rows if (line := _decoded(row["said"])) is not None]
    return {row["reason"]: row["count"] for row in rows if row["reason"] is not None}, lines


def _coded(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogatepass")


def _decoded(text: bytes | None) -> str | None:
    return None if text is None else text.decode("utf-8", "surrogatepass")
