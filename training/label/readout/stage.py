"""Labels read out of the activations themselves, by linear probes. `python -m training.label.readout --config …`

A label made of the text names what the text says; much of that is not in the vector, so an AV trained on it learns to
guess. These labels name what is there: which next tokens and which context words a ridge probe finds in the
activation, and of those the few whose own directions, taken together, come closest to it (orthogonal matching pursuit;
Pati, Rezaiifar and Krishnaprasad 1993), the most telling first and none that adds hardly anything. The probes are
fitted on the training documents alone, held-out ones are only read.

A label claims only what the vector makes one `sure` of (`.confidence`): next tokens that the source has among its
likeliest, and as what the text is about words that it has. Of the other words, which the probes take the vector for and
which carry much of it (docs/demo-pair.md), it says that they are related. All of it depends on the vector alone, so
that an AV can learn to say it: labels that name what is so, whether it can be read there or not, teach guessing.

Reads `<out>/split/*.parquet`, writes `<out>/readout.jsonl` (`text`, `explanation`, `labeler_model`) for a label
provider of kind `readout`. docs/demo-pair.md says what these labels gave, beside extractive ones.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from nla_sdk.errors import InputError
from nla_sdk.io.chunks import identity_of, is_finished
from nla_sdk.io.files import atomic, sha256_of
from nla_sdk.io.progress import progress_bar
from nla_sdk.io.sidecars import CARRIED, read_sidecar, write_sidecar
from nla_sdk.io.tables import read_table, usable_vectors

from ...configs.config import READOUT, Config
from ...configs.data import Readout
from .probes import Probes

VERSION = "readout-4"
FITTED_ON = ("av_sft", "ar_sft", "rl")
LABELLED = ("av_sft", "ar_sft", "validation", "eval")


def run(config: Config, *, overwrite: bool = False, push_dataset: str | None = None) -> Path:
    """Fit the probes and write the labels; returns their file. `push_dataset` is not used: the tables hold the labels.

    Raises:
        InputError: a split is missing, or holds too little text for any probe.
    """
    settings = config.readout or Readout()
    paths = {name: config.out / "split" / f"{name}.parquet" for name in config.split.names}
    for path in paths.values():
        if not path.is_file():
            raise InputError(f"{path} does not exist: run `python -m training.data.split` first.")
    inputs = {path.name: sha256_of(path) for path in paths.values()}
    identity = identity_of({"version": VERSION, "settings": settings.model_dump(), "inputs": inputs})
    target = config.out / READOUT
    if is_finished(target, identity, overwrite=overwrite):
        return target
    tables = {name: _read(path) for name, path in paths.items()}
    rows = [row for name in FITTED_ON for row in tables[name][1]]
    probes = Probes.fit(np.concatenate([tables[name][0] for name in FITTED_ON]), rows, settings)
    count = 0
    with atomic(target) as sibling, sibling.open("w", encoding="utf-8") as file:
        for name in (one for one in LABELLED if one in tables):
            vectors, rows = tables[name]
            bar = progress_bar(len(rows), "row", f"readout {name}")
            for start in range(0, len(rows), 512):
                part = rows[start : start + 512]
                documents = [row["doc_id"] for row in part] if name in FITTED_ON else None
                explanations = probes.explain(vectors[start : start + 512], documents)
                for row, explanation in zip(part, explanations, strict=True):
                    label = {"text": row["detokenized_text_truncated"], "explanation": explanation}
                    file.write(json.dumps({**label, "labeler_model": VERSION}, ensure_ascii=False) + "\n")
                count += len(explanations)
                bar.update(len(explanations))
            bar.close()
    source = read_sidecar(paths["av_sft"])
    write_sidecar(
        target,
        {key: source[key] for key in CARRIED if key in source}
        | {
            "stage": "readout",
            "identity": identity,
            "sha256": sha256_of(target),
            "inputs": inputs,
            "config": settings.model_dump(),
            "next_tokens_known": len(probes.next_tokens.names),
            "words_known": len(probes.words.names),
            "rows": count,
        },
    )
    return target


def _read(path: Path) -> tuple[np.ndarray, list[dict]]:
    table = read_table(path, texts=("doc_id", "detokenized_text_truncated"))
    if "next_tokens" not in table.column_names:
        raise InputError(f"{path} has no column next_tokens: extract with extract.next_tokens of at least 1.")
    return usable_vectors(table, name=str(path)), table.select(
        ["doc_id", "detokenized_text_truncated", "next_tokens"]
    ).to_pylist()
