"""Splits to label, without the stages that make them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from nla_sdk.io.tables import vector_column
from training.configs.config import Config

NOUNS = ("ferry", "letter", "engine", "harvest", "verdict", "bridge", "patient", "theorem", "kettle", "envoy")


def text_of(index: int) -> str:
    return f"Row {index}: the {NOUNS[index % 10]} had been {NOUNS[index // 10 % 10]} number {index}, and by then the"


def write_split(out: Path, name: str, texts: list[str], *, next_tokens: bool = True) -> None:
    """A split as `training.data.split` leaves it. Its vectors are NaN: nobody is to read them."""
    rows = len(texts)
    columns = {
        "row_id": pa.array([hashlib.sha256(f"{name}|{text}".encode()).hexdigest()[:16] for text in texts]),
        "doc_id": pa.array([f"doc{index // 2}" for index in range(rows)]),
        "n_raw_tokens": pa.array([12] * rows, pa.int32()),
        "activation_layer": pa.array([1] * rows, pa.int32()),
        "activation_vector": vector_column(np.full((rows, 8), np.nan)),
        "detokenized_text_truncated": pa.array(texts),
        "source_family": pa.array(["a"] * rows),
    }
    if next_tokens:
        columns["next_tokens"] = pa.array([[" wind", " tide"]] * rows, pa.list_(pa.string()))
    (out / "split").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), out / "split" / f"{name}.parquet", row_group_size=50)


def config_file(
    folder: Path, providers: list[dict], rows: int = 6, auditors: list[dict] | None = None, **label
) -> Path:
    """A config with one label set `t` over the eval split, and that split."""
    folder.mkdir(parents=True, exist_ok=True)
    if rows:
        write_split(folder / "out", "eval", [text_of(index) for index in range(rows)])
    label_set = {"name": "t", "providers": providers, "auditors": auditors or [], "splits": ["eval"]}
    settings = {
        "base": "none",
        "layer": 1,
        "out": str(folder / "out"),
        "results": str(folder / "results"),
        "extract": {"sources": [{"corpus": "none"}]},
        "av": {"template": "<concept>{injection_char}</concept>"},
        "ar": {"template": "{explanation}"},
        "label": {"sets": [label_set], "cache": str(folder / "labels.sqlite"), **label},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings, allow_unicode=True))
    return path


def config(folder: Path, providers: list[dict], rows: int = 6, auditors: list[dict] | None = None, **label) -> Config:
    return Config.load(config_file(folder, providers, rows, auditors, **label))


def table_of(config: Config, label_set: str = "t", split: str = "eval") -> Path:
    return config.out / "labels" / label_set / f"{split}.parquet"


def rows_of(config: Config, label_set: str = "t", split: str = "eval") -> list[dict]:
    return pq.read_table(table_of(config, label_set, split)).to_pylist()


def price_file(folder: Path, prices: dict) -> Path:
    path = folder / "prices.yaml"
    path.write_text(yaml.safe_dump(prices))
    return path
