"""Stage 0: text → activations. `python -m training.extract --config training/configs/demo.yaml`

Reads a JSONL corpus, picks positions by an RNG keyed on (seed, doc_id, text), runs the base to the chosen block and
writes `<out>/activations.parquet` with raw vectors. For the extractive labeler it also records the base's likeliest
next tokens, which costs the later blocks and the lm_head at the chosen positions.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import torch
import typer
from tqdm import tqdm

from nla_sdk.backbone import Backbone
from nla_sdk.errors import InputError
from nla_sdk.extraction import tokenize
from nla_sdk.hub import fetch_base
from nla_sdk.reconstructor import pad_right

from .cli import run_stage
from .config import Config
from .files import sha256_of, vector_column, write_table

TEXTS_PER_CHUNK = 256
TOKENS_PER_BATCH = 2048


def read_corpus(path: Path) -> Iterator[dict]:
    """Lines of a JSONL corpus; InputError names the line that is no object with doc_id and text."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    row["doc_id"], row["text"]
                except (json.JSONDecodeError, KeyError, TypeError) as error:
                    raise InputError(
                        f"{path}, line {number}: expected a JSON object with doc_id and text ({error})."
                    ) from error
                yield row
    except OSError as error:
        raise InputError(f"Cannot read the corpus {path}: {error.strerror}.") from error


def pick_positions(row: dict, length: int, config: Config) -> list[int]:
    """Token indices to read in a text of `length` tokens; none if it is too short."""
    settings = config.extract
    if row.get("explanation"):
        return [length - 1] if length > settings.min_context else []
    choices = range(settings.min_context, length)
    key = hashlib.sha256(f"{config.seed}|{row['doc_id']}|{row['text']}".encode()).digest()
    rng = random.Random(key)
    return sorted(rng.sample(choices, min(settings.positions_per_text, len(choices))))


def read_states_and_guesses(
    backbone: Backbone, rows: list[list[int]], wanted: list[list[int]], layer: int, guesses: int
) -> tuple[list[torch.Tensor], list[list[list[int]]]]:
    """For each row: float32 [len(wanted), d] after block `layer`, and the ids of the likeliest next tokens."""
    captured: list[torch.Tensor] = []
    handle = backbone.blocks[layer].register_forward_hook(
        lambda module, args, output: captured.append(output[0] if isinstance(output, tuple) else output)
    )
    padded, _ = pad_right(rows)
    decoder = getattr(backbone.model, backbone.model.base_model_prefix)
    try:
        with torch.no_grad(), backbone.using(None):
            last = decoder(input_ids=padded.to(backbone.device), use_cache=False).last_hidden_state
            head = backbone.model.get_output_embeddings()
            vectors = [captured[0][i, where].float().cpu() for i, where in enumerate(wanted)]
            flat = head(torch.cat([last[i, where] for i, where in enumerate(wanted)])).topk(guesses).indices.tolist()
    finally:
        handle.remove()
    taken = iter(flat)
    return vectors, [[next(taken) for _ in where] for where in wanted]


def run(config: Config) -> Path:
    """Extract; returns the table's path."""
    import pyarrow as pa

    backbone = Backbone.load(fetch_base(config.base).path, ref=config.base_id, dtype="float32")
    tokenizer, settings = backbone.tokenizer, config.extract
    sources = [path for path in (settings.labeled_corpus, settings.corpus) if path is not None]
    todo = []
    for path in sources:
        for row in read_corpus(path):
            ids = tokenize(tokenizer, row["text"])[: settings.max_tokens if not row.get("explanation") else None]
            positions = pick_positions(row, len(ids), config)
            if positions:
                todo.append((row, ids, positions))
    order = random.Random(config.seed)
    order.shuffle(todo)
    # Written labels are few and dear: none of them is dropped by max_rows.
    todo.sort(key=lambda item: not item[0].get("explanation"))
    if settings.max_rows is not None:
        kept, count = [], 0
        for item in todo:
            if count >= settings.max_rows:
                break
            kept.append(item)
            count += len(item[2])
        todo = kept
    columns: dict[str, list] = {
        name: [] for name in ("doc_id", "n_raw_tokens", "text", "family", "written", "labeler", "next")
    }
    vectors = []
    bar = tqdm(total=len(todo), unit="text", desc="extract", mininterval=5)
    for chunk_start in range(0, len(todo), TEXTS_PER_CHUNK):
        chunk = sorted(todo[chunk_start : chunk_start + TEXTS_PER_CHUNK], key=lambda item: len(item[1]))
        while chunk:
            size = max(1, TOKENS_PER_BATCH // len(chunk[-1][1]))
            batch, chunk = chunk[-size:], chunk[:-size]
            states, guesses = read_states_and_guesses(
                backbone,
                [ids for _, ids, _ in batch],
                [where for _, _, where in batch],
                config.layer,
                max(settings.next_tokens, 1),
            )
            for (row, ids, where), found, following in zip(batch, states, guesses, strict=True):
                for position, vector, tokens in zip(where, found, following, strict=True):
                    prefix = (
                        row["text"]
                        if row.get("explanation")
                        else tokenizer.decode(ids[: position + 1], skip_special_tokens=True)
                    )
                    columns["doc_id"].append(row["doc_id"])
                    columns["n_raw_tokens"].append(position + 1)
                    columns["text"].append(prefix)
                    columns["family"].append(row.get("family"))
                    columns["written"].append(row.get("explanation"))
                    columns["labeler"].append(row.get("labeler_model"))
                    columns["next"].append([tokenizer.decode([token]) for token in tokens[: settings.next_tokens]])
                    vectors.append(vector)
            bar.update(len(batch))
    bar.close()
    matrix = torch.stack(vectors).numpy()
    table = pa.table(
        {
            "doc_id": columns["doc_id"],
            "n_raw_tokens": pa.array(columns["n_raw_tokens"], pa.int32()),
            "activation_layer": pa.array([config.layer] * len(matrix), pa.int32()),
            "activation_vector": vector_column(matrix),
            "detokenized_text_truncated": columns["text"],
            "source_family": columns["family"],
            "written_explanation": pa.array(columns["written"], pa.string()),
            "labeler_model": pa.array(columns["labeler"], pa.string()),
            "next_tokens": pa.array(columns["next"], pa.list_(pa.string())),
        }
    )
    path = config.out / "activations.parquet"
    meta = {
        "base_model": config.base_id,
        "d_model": backbone.d_model,
        "layer": config.layer,
        "extraction_precision": "float32",
        "seed": config.seed,
        "inputs": {source.name: sha256_of(source) for source in sources},
    }
    write_table(path, table, meta)
    return path


if __name__ == "__main__":
    typer.run(run_stage(run))
