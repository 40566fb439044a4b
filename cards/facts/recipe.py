"""How a half was made, as its contract and its training log say: settings and facts, never how well it turned out.

A contract's `training` block is free: trainers write held-out figures there, authors remarks. On a card those would be
claims that nobody checked, so what is shown is listed here, by name, and each value must look like a setting.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nla_sdk.contract import Contract
from nla_sdk.io.logs import log_lines

from .. import text

# Names as the trainers' settings have them, and a few that published sidecars use.
SETTINGS = frozenset(
    """
    quantization dtype shard_base gradient_checkpointing optimizer lr continued_at_lr warmup_steps decay batch_size
    micro_batch gradient_accumulation grad_accum epochs max_rows max_length save_dtype save_interval clip sources tables
    sampled_negatives head_lr head_init centred contrastive contrastive_temperature explanation_dropout prose_share
    on_policy_rows on_policy_sampled on_policy_temperature on_policy_vocabulary vocabulary samples temperature kl
    ar_lr truncation_penalty length_penalty compile no_repeats family_weights min_unique max_kl max_truncated reward.mse
    reward.support
    lora.r lora.alpha lora.dropout lora.targets lora.modules_to_save lora.target_modules
    chosen_by.table rows step steps processes gpu_hours cost_usd hardware trainable_params trainable_params_approx
    """.split()  # noqa: SIM905 (as a list it would fill a page)
)
MADE_FROM = {
    "code_version": "trained with code",
    "table_sha256": "training table, SHA-256",
    "parent.name": "continued from",
    "parent.commit": "continued from commit",
    "parent.adapter_sha256": "continued from adapter, SHA-256",
    "chosen_by.table_sha256": "the table that chose it, SHA-256",
    "claims_sha256": "support rewarded by claims.json, SHA-256",
}
BY_NAME = ("libraries", "table_rows", "tables_sha256")  # blocks whose keys are names of packages and tables
WORD = re.compile(r"[\w.+/@=:^$|*()\[\]\\-]{1,200}")
WORDS = re.compile(r"[\w.,+/@() -]{1,80}")
HAVE_SPACES = frozenset({"hardware", "optimizer"})


@dataclass(frozen=True)
class Recipe:
    """Rows of two tables of a card, each (name, value).

    Attributes:
        how: settings, rows, steps, time, hardware, libraries.
        made_from: code, and SHA-256 of tables and of the half it started from.
    """

    how: list[tuple[str, str]]
    made_from: list[tuple[str, str]]

    @classmethod
    def read(cls, contract: Contract, log: Path | None = None) -> Recipe:
        """What the contract says, and steps, hours and memory of `log.jsonl` if it is at hand."""
        stated = dict(_stated(contract))
        made_from = {label: stated.pop(name) for name, label in MADE_FROM.items() if name in stated}
        tables = {name: value for name, value in stated.items() if name.startswith("tables_sha256.")}
        made_from |= {f"{name.removeprefix('tables_sha256.')}, SHA-256": value for name, value in tables.items()}
        how = {name: value for name, value in stated.items() if name not in tables}
        return cls([*how.items(), *_logged(log)], list(made_from.items()))


def _stated(contract: Contract) -> Iterator[tuple[str, str]]:
    """Name → value of what may be shown; a repository's own `training` block goes before what a release says of it."""
    training: dict[Any, Any] = {}
    # A value of `extras`, the repository's own sidecar, replaces the release list's word on the same setting.
    for holder in (contract.provenance, contract.extras):
        if isinstance(block := holder.get("training"), Mapping):
            training |= block
    if isinstance(lora := contract.extras.get("av_lora"), Mapping):
        training["lora"] = lora
    for path, value in _flat(training):
        name = ".".join(path[1:] if path[0] == "settings" else path)
        block, _, key = name.partition(".")
        if block in BY_NAME:
            shown = bool(WORD.fullmatch(key))
        elif name == "wall_seconds":
            name, value, shown = "hours", _hours(value), True
        else:
            shown = name in SETTINGS or name in MADE_FROM
        if shown and (setting := _setting(name, value)):
            yield name, setting


def _flat(values: Mapping, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, (*path, str(key)))
        else:
            yield (*path, str(key)), value


def _setting(name: str, value: object) -> str | None:
    """A setting's value as a card shows it; None for what is no setting: absent, a sentence, a digest of no shape."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if "sha256" in name:
        return value if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) else None
    if isinstance(value, int | float):
        return str(value)
    form = WORDS if name in HAVE_SPACES else WORD
    parts = value if isinstance(value, list) else [value]
    if not parts or not all(isinstance(part, str) and form.fullmatch(part) for part in parts):
        return None
    return ", ".join(parts)


def _hours(seconds: object) -> str | None:
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return text.number(seconds / 3600, 2) if is_number else None


def _logged(log: Path | None) -> Iterator[tuple[str, str]]:
    records = [record for _, record in log_lines(log, strict=False)] if log is not None else []
    if records and isinstance(records[-1].get("step"), int):
        yield "steps in the log", str(records[-1]["step"])
    seconds = [record["seconds"] for record in records if isinstance(record.get("seconds"), int | float)]
    if seconds:
        yield "hours in steps", text.number(sum(seconds) / 3600, 2)
    peaks = (record.get("peak_memory_gib") for record in records)
    if memory := [peak for peak in peaks if isinstance(peak, int | float)]:
        yield "peak memory, GiB", text.number(max(memory), 2)
