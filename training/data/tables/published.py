"""Tables that somebody else published, read as they are: the reference column names, whatever is missing.

Needed is `activation_vector`, an explanation (`api_explanation`, or inside `response`) unless it is for RL, and
`doc_id` or the text. The layer must be known, from `activation_layer` or the dataset's `nla_meta.yaml`. A file of
somebody else's names no path here: only parquet and YAML files are fetched and read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nla_sdk.contract import SIDECAR_NAME, Contract, sidecar_path
from nla_sdk.errors import InputError
from nla_sdk.halves.hub.errors import hub_errors
from nla_sdk.io.files import sha256_of
from nla_sdk.io.tables import holds_texts, open_parquet, read_vectors, texts_of

from ...configs.config import Config
from ...configs.data import Published as Entry
from .choosing import Head
from .columns import ABOUT_LABEL, USABLE, Block, explanation_of
from .labelled import in_steps
from .splits import NOT_IDS

DOC_KEY = 64  # characters; activations of one passage are read at the ends of its prefixes, which begin alike
_OPTIONAL = (
    *("doc_id", "n_raw_tokens", "activation_layer", "detokenized_text_truncated", "source_family"),
    *("api_explanation", "response", *ABOUT_LABEL),
)
_TEXTS = {"detokenized_text_truncated", "api_explanation", "response", "label_status", "labeler_model", "source_family"}


class PublishedTable:
    """One `build.published` entry: its files and how to read them.

    Args:
        entry: which dataset, for which table.
        config: says the layer and the base that the vectors must be of.
        d_model: the width they must have.
    Raises:
        InputError: no parquet file, no vectors, no explanations, no way to name documents, or another layer or base.
        MissingRepositoryError, GatedRepositoryError, OfflineError: the Hub did not give it.
    """

    def __init__(self, entry: Entry, config: Config, d_model: int) -> None:
        self.entry, self.config, self.d_model = entry, config, d_model
        local = Path(entry.dataset).expanduser()
        # The name in files that travel: of a folder here its last part only.
        self.name = local.name if local.exists() else entry.dataset
        self.root, self.commit = fetch(entry)
        self.paths = [self.root] if self.root.is_file() else sorted(self.root.rglob("*.parquet"))
        if not self.paths:
            raise InputError(f"The published dataset {entry.dataset} holds no .parquet file.")
        self.hashes = {path: sha256_of(path) for path in self.paths}
        self.documents_derived = False
        self.rows = 0
        for path in self.paths:
            self.rows += self._check(path)

    def files(self) -> dict[str, Path]:
        """Its files, by the names a sidecar's `inputs` gives them."""
        # With the hash: two folders may have one name.
        return {f"published/{self.name}/{self.hashes[path][:12]}/{self._inside(path)}": path for path in self.paths}

    def facts(self) -> dict[str, Any]:
        """What a sidecar says of it."""
        derived = f"hash of the text's first {DOC_KEY} characters" if self.documents_derived else "as published"
        return {
            "dataset": self.name,
            "revision": self.entry.revision,
            "commit": self.commit,
            "split": self.entry.split,
            "doc_id": derived,
            "prompt": "replaced by this config's",
        }

    def blocks(self, *, vectors: bool = True) -> Iterator[Block]:
        """Its activations in order, each with its one label; `vectors` off leaves them out (shape [n, 0]).

        Raises:
            InputError: a row of another layer or width, or of no document.
        """
        for path in self.paths:
            there = open_parquet(path).schema_arrow.names
            columns = [name for name in _OPTIONAL if name in there]
            start = 0
            for table in in_steps(path, [*columns, "activation_vector"] if vectors else columns):
                for column in _TEXTS & set(columns):
                    texts_of(table, column, name=self._where(path), first=start)
                found = table.select(columns).to_pylist()
                rows = [self._row(path, start + at, one) for at, one in enumerate(found)]
                numbers = np.zeros((len(found), 0), dtype=np.float32)
                if vectors:
                    numbers = self._vectors(path, start, table)
                yield Block(rows, numbers, [[self._label(one)] for one in found])
                start += len(found)

    def heads(self) -> Iterator[Head]:
        """Of every activation what is known without reading its vector."""
        for block in self.blocks(vectors=False):
            for row, (label,) in zip(block.rows, block.labels, strict=True):
                usable = label["label_status"] in USABLE
                text, family = row["detokenized_text_truncated"], row["source_family"]
                yield Head(row["row_id"], row["doc_id"], text, family, usable)

    def _where(self, path: Path) -> str:
        return f"The published table {self.entry.dataset}: {self._inside(path)}"

    def _inside(self, path: Path) -> str:
        return path.name if path == self.root else path.relative_to(self.root).as_posix()

    def _check(self, path: Path) -> int:
        """Rows of a file whose columns and contract are usable."""
        where = self._where(path)
        try:
            file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{where} is not a parquet file that can be read ({error}).") from error
        names = set(file.schema_arrow.names)
        has = ", ".join(file.schema_arrow.names)
        if "activation_vector" not in names:
            raise InputError(f"{where} has no activation_vector column (it has {has}).")
        if self.entry.split != "rl" and not names & {"api_explanation", "response"}:
            raise InputError(f"{where} has neither api_explanation nor response (it has {has}): nothing to train on.")
        if not names & {"doc_id", "detokenized_text_truncated"}:
            raise InputError(
                f"{where} has neither doc_id nor detokenized_text_truncated (it has {has}), so its rows cannot be kept "
                "apart by document: add a doc_id column."
            )
        for column in sorted(names & _TEXTS):
            field = file.schema_arrow.field(column)
            if not holds_texts(field) and not pa.types.is_null(field.type):
                raise InputError(f"{where}: {column} is a column of {field.type}; expected texts.")
        sidecars = (sidecar_path(path), path.parent / SIDECAR_NAME)
        contract = next((Contract.load(one) for one in sidecars if one.is_file()), None)
        self._agrees(where, "layer", contract and contract.layer, self.config.layer)
        self._agrees(where, "d_model", contract and contract.d_model, self.d_model)
        if not Path(self.config.base).exists():  # a folder's name says nothing of what is in it
            self._agrees(where, "base_model", contract and contract.base_model, self.config.base_id)
        if "activation_layer" not in names and (contract is None or contract.layer is None):
            raise InputError(
                f"{where} says of no row which layer it was read at: neither an activation_layer column nor a layer in "
                f"{SIDECAR_NAME} beside it. Add one of them."
            )
        return file.metadata.num_rows

    def _agrees(self, where: str, what: str, found: Any, expected: Any) -> None:
        if found is not None and found != expected:
            raise InputError(f"{where} has {what} {found}, expected {expected}: its activations are of another kind.")

    def _row(self, path: Path, at: int, found: dict[str, Any]) -> dict[str, Any]:
        where = f"{self._where(path)}, row {at}"
        self._agrees(where, "activation_layer", found.get("activation_layer"), self.config.layer)
        text, doc_id = found.get("detokenized_text_truncated"), found.get("doc_id")
        if doc_id is None or str(doc_id).strip().lower() in NOT_IDS:
            if not text:
                raise InputError(f"{where} has doc_id {doc_id!r} and no text to tell its document by.")
            doc_id = "text:" + hashlib.sha256(text[:DOC_KEY].encode()).hexdigest()[:16]
            self.documents_derived = True
        key = f"{self.hashes[path]}|{at}"
        return {
            "doc_id": str(doc_id),
            "n_raw_tokens": found.get("n_raw_tokens"),
            "activation_layer": self.config.layer,
            "detokenized_text_truncated": text,
            "source_family": found.get("source_family"),
            "row_id": hashlib.sha256(key.encode()).hexdigest()[:16],
        }

    def _label(self, found: dict[str, Any]) -> dict[str, Any]:
        explanation = found.get("api_explanation")
        if explanation is None:
            explanation = explanation_of(found.get("response"))
        status = found.get("label_status") or ("none" if explanation is None else "accepted")
        about = {name: found.get(name) for name in ABOUT_LABEL}
        about["labeler_model"] = about["labeler_model"] or f"published:{self.name}"
        if explanation is None and status in USABLE:
            status = "none"
        return {**about, "api_explanation": explanation, "label_status": status}

    def _vectors(self, path: Path, start: int, table: pa.Table) -> np.ndarray:
        """float32 [n, d] from whatever type of column its maker wrote."""
        return read_vectors(table, name=self._where(path), first=start, width=self.d_model)


def fetch(entry: Entry) -> tuple[Path, str | None]:
    """The folder or file that an entry names, and the Hub commit it is from (None for what lies here).

    Raises:
        InputError: the path does not exist.
        MissingRepositoryError, GatedRepositoryError, AccessTokenError, OfflineError: see the message.
    """
    path = Path(entry.dataset).expanduser()
    if path.exists():
        return path, None
    if path.is_absolute() or entry.dataset.startswith((".", "~")) or path.suffix == ".parquet":
        raise InputError(f"The published dataset {entry.dataset} does not exist: neither a file nor a folder.")
    from huggingface_hub import snapshot_download

    with hub_errors(f"datasets/{entry.dataset}", entry.revision):
        snapshot = snapshot_download(
            entry.dataset,
            repo_type="dataset",
            revision=entry.revision,
            allow_patterns=["*.parquet", "*.yaml"],
            library_name="nla-sdk",
        )
    return Path(snapshot), Path(snapshot).name
