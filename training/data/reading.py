"""Reading activations out of texts: where in a text, which texts together, and what a chunk's rows hold.

The base runs to the highest layer wanted and stops there. For the extractive labeler the base's likeliest next tokens
are recorded too, which costs the later blocks and the lm_head.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from nla_sdk.errors import InputError
from nla_sdk.io.tables import vector_column
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.batches import by_length, pad_right
from nla_sdk.model.extraction import tokenize

from ..configs.config import Config
from ..configs.data import CorpusSource
from .corpus import Text


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
