"""A clean copy of what is published: known files only, contracts without this machine's paths, heads in safetensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from types import MappingProxyType
from typing import Any

from cards.facts.dataset import LONGEST, TableFacts
from cards.report import report
from nla_sdk.claims.calibration import CLAIMS
from nla_sdk.contract import Contract
from nla_sdk.evaluation.reading import save
from nla_sdk.evaluation.schema import EVALUATION, ROWS, Evaluation
from nla_sdk.halves.half import ADAPTER_FILES, OTHER, Half
from nla_sdk.halves.hub.renames import named_now
from nla_sdk.io.logs import log_lines
from nla_sdk.io.parsing import parse_json
from nla_sdk.io.sidecars import sidecar_of
from nla_sdk.io.tables import read_table
from nla_sdk.io.text import ENCODING

from ..runs.scan import Scanner
from .checks.half import named_by_folder

# What a half consists of, by name; anything else in its folder (optimizer states, logs, notes to self) stays here.
PARTS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "linear_head.pt",
    "adapter_config.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab*",
    "merges.txt",
    "LICENSE*",
    "NOTICE*",
    "*_TERMS.html",
)
LOGS = ("log.jsonl", "training_log.jsonl", "training_log_{role}.jsonl")
LOG = "training_log.jsonl"
PLACES = ("parent", "path", "folder", "continue_from")  # keys that may hold a folder of this machine
LICENCES = ("LICENSE*", "NOTICE*", "*_TERMS.html")


def copy_half(
    half: Half,
    folder: Path,
    *,
    pair: str | None,
    of_run: bool = False,
    present: Mapping[str, str] = MappingProxyType({}),
) -> Contract:
    """Copy a half into `folder` (which is made), with the contract it is published with.

    Args:
        present: old name → present one, of repositories that peft's config may name; empty where an evaluation holds
            that file's SHA-256.
        pair: the other half's repository, for the contract's cross-link.
        of_run: a checkpoint on the way: of the run's log it gets what was written up to its step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in PARTS:
        for file in sorted(half.folder.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
    if is_of_pair(half):  # licences of both lie beside them
        for pattern in LICENCES:
            for file in sorted(half.folder.parent.glob(pattern)):
                if file.is_file() and not (folder / file.name).exists():
                    shutil.copyfile(file, folder / file.name)
    name_base(folder / ADAPTER_FILES[0], half.contract, present)
    convert_head(folder)
    if log := log_of(half):
        copy_log(log, folder / LOG, _step(half.contract) if of_run else None, of_run and log.parent != half.folder)
    contract = clean(half.contract, pair)
    contract.save(folder)
    return contract


def is_of_pair(half: Half) -> bool:
    """Whether the half's folder lies beside the other's, in a folder that is the pair's and nothing else's."""
    role = half.contract.role
    return half.folder.name == role and (half.folder.parent / OTHER[role]).is_dir()


def log_of(half: Half) -> Path | None:
    """The training log of a half: in its folder, or beside it."""
    names = [name.format(role=half.contract.role) for name in LOGS]
    places = (folder / name for folder in (half.folder, half.folder.parent) for name in names)
    return next((place for place in places if place.is_file()), None)


def _step(contract: Contract) -> int | None:
    training = contract.provenance.get("training")
    step = training.get("step") if isinstance(training, Mapping) else None
    return step if isinstance(step, int) else None


def copy_log(log: Path, copy: Path, step: int | None, of_others: bool) -> None:
    """Copy a log up to a step; without one, not at all if it tells of other checkpoints too."""
    if step is None:
        if not of_others:
            shutil.copyfile(log, copy)
        return
    records = log_lines(log, strict=False)
    kept = [f"{line}\n" for line, record in records if isinstance(at := record.get("step"), int) and at <= step]
    copy.write_text("".join(kept), encoding="utf-8", newline="\n")


def name_base(config: Path, contract: Contract, present: Mapping[str, str]) -> None:
    """A base that peft's config names by a folder of this machine, or by an old name, gets that of the contract."""
    if not config.is_file():
        return
    values = parse_json(config.read_text(encoding=ENCODING))
    stated = values.get("base_model_name_or_path")
    if named_by_folder(stated) or (isinstance(stated, str) and present.get(stated) == contract.base_model):
        values["base_model_name_or_path"] = contract.base_model
        config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8", newline="\n")


def convert_head(folder: Path) -> None:
    """Put `linear_head.safetensors` beside a `linear_head.pt`, which stays for old readers."""
    old, new = folder / "linear_head.pt", folder / "linear_head.safetensors"
    if old.is_file() and not new.is_file():
        import torch
        from safetensors.torch import save_file

        state = torch.load(old, map_location="cpu", weights_only=True)
        tensors = {str(key).rpartition(".")[2]: tensor.contiguous() for key, tensor in state.items()}
        save_file(tensors, new, metadata={"format": "pt"})


def clean(contract: Contract, pair: str | None = None, base_model: str | None = None) -> Contract:
    """The contract with its cross-link, and without folders of this machine in `parent` and `path` fields.

    Args:
        base_model: the base's Hub id, if the contract may name it by a folder.
    """
    values = without_folders(contract.to_dict())
    if pair is not None:
        values["pair"] = pair
    if base_model is not None:
        values["base_model"] = base_model
    return Contract.from_dict(values, source=contract.source)


def without_folders(value: Any, key: Any = "") -> Any:
    """`parent` and `path` fields with the last part of absolute paths only; everything else as it is."""
    if isinstance(value, Mapping):
        return {name: without_folders(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item, key) for item in value]
    is_place = isinstance(key, str) and any(word in key.lower() for word in PLACES)
    if isinstance(value, str) and is_place:
        if PureWindowsPath(value).is_absolute():
            return PureWindowsPath(value).name
        if value.startswith(("/", "~")):
            return Path(value).name
    return value


def copy_evaluation(evaluation: Evaluation, tables: Path, folder: Path) -> None:
    """Put a verified evaluation into `folder/evaluation`: the file, its tables, and a report written from it.

    Args:
        tables: the folder that holds the tables it names.
    """
    save(evaluation, folder / "evaluation" / EVALUATION)
    for name in evaluation.files:
        shutil.copyfile(tables / name, folder / "evaluation" / name)
    write_text(folder / "evaluation" / "report.md", report(evaluation))


def write_text(file: Path, text: str) -> None:
    """Write a text, the same bytes on every machine; its folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8", newline="\n")


def copy_claims(calibration: Path | None, folder: Path) -> None:
    """Put an AV's calibration, as `checks.claims` has found and checked it, where the SDK looks for it."""
    if calibration is not None:
        shutil.copyfile(calibration, folder / CLAIMS)


def draw_figures(evaluation: Evaluation, tables: Path, logs: Mapping[str, Path], folder: Path) -> Path:
    """Draw a verified evaluation's figures, for the cards of both halves; returns `folder`."""

    from cards.figures.drawing import draw

    draw(evaluation, read_table(tables / ROWS), folder, logs, suffixes=("png",))
    return folder


def figures_of(folder: Path) -> tuple[str, ...]:
    """The names of the figures staged in a repository's folder."""
    return tuple(sorted(figure.stem for figure in (folder / "figures").glob("*.png")))


def copy_table(table: Path, folder: Path, base_model: str | None, present: Mapping[str, str]) -> Path:
    """Copy a table and its sidecar into `folder/data`; returns the copy.

    Args:
        present: old name → present one, of repositories that its sidecar may name.
        base_model: the base's Hub id, where the sidecar names it by a folder; None: it doesn't.
    """
    copy = folder / "data" / table.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(table, copy)
    contract = clean(Contract.load(table), base_model=base_model)
    Contract.from_dict(named_now(contract.to_dict(), present), source=contract.source).save(sidecar_of(copy))
    return copy


ROWS_TRIED = 256  # for an example row that may stand in a card


def clean_example(table: Path, facts: TableFacts, scanner: Scanner) -> dict[str, str]:
    """The table's first row that names no address and no folder, for its card; {} if none of the first ones does."""
    import pyarrow.parquet as pq

    columns = list(facts.example)
    if not columns:
        return {}
    for batch in pq.ParquetFile(table).iter_batches(batch_size=ROWS_TRIED, columns=columns):
        for row in batch.to_pylist():
            texts = {name: str(value) for name, value in row.items() if value is not None}
            if not scanner.text("README.md", "\n".join(texts.values())):
                return {
                    name: text if len(text) <= LONGEST else text[: LONGEST - 1] + "…" for name, text in texts.items()
                }
        break
    return {}
