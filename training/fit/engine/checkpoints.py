"""What a run writes: loadable halves with all that is known of how they were made, and the trainer's state beside them.

`<run>/step_NNNNNN/` holds a half (or a pair) as anybody loads it, and in `trainer/state.pt` what the trainer needs to
go on from there as if it had never stopped.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from nla_sdk.contract import Contract
from nla_sdk.errors import InputError, NLAError, first_line
from nla_sdk.halves.half import Half
from nla_sdk.io.files import atomic, sha256_of
from nla_sdk.io.sidecars import code_version
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.weights.files import adapter_files

from ...configs.config import Config
from ...configs.fit import Train
from ...data.statistics import Statistics
from ...runs.machine import hardware, libraries

STEP = re.compile(r"step_(\d+)")
STATE = Path("trainer") / "state.pt"
SINCE = {
    "family_weights": "none",
    "compile": False,
    "no_repeats": False,
    "on_policy_sampled": 0.0,
    "on_policy_temperature": 0.7,
}
"""Settings that there were not always, and what was done before: a run that began then is gone on with."""


class TrainingError(NLAError):
    """Training cannot go on: NaN, a checkpoint of another run or damaged, an optimizer not for this device."""

    remedy = "Of NaN: a lower lr, from the last good checkpoint; of another run's checkpoint: another out: or --name."


# --- halves -----------------------------------------------------------------------------------------------------------
def parent_facts(half: Half, name: Path) -> dict[str, Any]:
    """What a half says of the one its training started from.

    Args:
        name: what the user called it; its last two parts are kept, so that no path of this machine is.
    """
    return {
        "name": "/".join(name.parts[-2:]),
        "commit": half.commit,
        "adapter_sha256": "+".join(sha256_of(file) for file in adapter_files(half.folder)),
    }


def with_parent(config: Config, role: str) -> tuple[Config, dict | None]:
    """The config with `continue_from` as a folder on this disk, and what the half to be made says of that parent.

    Raises:
        RepositoryError, WrongRoleError: it cannot be had, or is no half of this role.
        InputError: it is no adapter.
    """
    settings = getattr(config, role)
    if settings.continue_from is None:
        return config, None
    half = Half.find(str(settings.continue_from), role)
    if not half.is_adapter:
        raise InputError(f"{settings.continue_from} is a whole model; training goes on from an adapter only.")
    facts = parent_facts(half, settings.continue_from)
    if half.contract.tokenizer is not None:
        facts["tokenizer"] = half.contract.tokenizer
    settings = settings.model_copy(update={"continue_from": half.folder})
    return config.model_copy(update={role: settings}), facts


def run_facts(settings: Train, backbone: Backbone, parent: dict | None, tables: Sequence[Path], rows: int) -> dict:
    """What a contract's provenance says about how a half is made, before what is measured.

    Args:
        parent: what it starts from, see `with_parent`.
        rows: how many of the tables' rows are trained on (those of the right sources, that fit).
    """
    stated = settings.model_dump(mode="json", exclude={"continue_from"})
    for name, before in SINCE.items():
        if stated.get(name) == before:
            del stated[name]
    return {
        "settings": stated,
        "parent": parent,
        "tables_sha256": {table.name: sha256_of(table) for table in tables},
        "table_rows": {table.name: pq.read_metadata(table).num_rows for table in tables},
        "rows": rows,
        "code_version": code_version(),
        "hardware": hardware(backbone.device),
        "libraries": libraries(),
    }


def identity_of_run(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint must agree in to be gone on from: data, parent, and all settings that change the result."""
    free = ("save_interval", "keep_checkpoints", "log_interval")
    settings = {key: value for key, value in facts["settings"].items() if key not in free}
    also = {key: facts[key] for key in ("claims_sha256",) if key in facts}
    return {"settings": settings, "parent": facts["parent"], "tables_sha256": facts["tables_sha256"], **also}


def save_half(
    folder: Path,
    backbone: Backbone,
    adapter: str,
    contract: Contract,
    statistics: Statistics,
    facts: Mapping[str, Any],
    *,
    dtype: str,
    head: torch.nn.Linear | None = None,
) -> None:
    """Write adapter, contract, statistics of activations and, for an AR, the head into the existing, empty `folder`."""
    from safetensors.torch import save_file

    backbone.save_adapter(adapter, folder, dtype=getattr(torch, dtype))
    if head is not None:
        state = {
            key: tensor.detach().to("cpu", getattr(torch, dtype)).contiguous()
            for key, tensor in head.state_dict().items()
        }
        save_file(state, folder / "linear_head.safetensors")
    if contract.activation_mean:
        save_file({"mean": statistics.mean}, folder / contract.activation_mean)
    if contract.activation_statistics and statistics.states is not None:
        shutil.copyfile(statistics.states, folder / contract.activation_statistics)
    contract.replace(provenance={**contract.provenance, "training": dict(facts)}).save(folder)


# --- steps ------------------------------------------------------------------------------------------------------------
def write_checkpoint(run: Path, step: int, save: Callable[[Path], None], state: Mapping[str, Any], keep: int) -> Path:
    """Write `run/step_NNNNNN/` whole or not at all, and drop all but the `keep` latest.

    Args:
        save: writes the half into the empty folder it is given.
        state: what the trainer needs to go on; tensors and plain values only, it is read with weights_only=True.
    """
    path = run / f"step_{step:06d}"
    with atomic(path) as sibling:
        sibling.mkdir()
        save(sibling)
        (sibling / STATE).parent.mkdir()
        torch.save(dict(state), sibling / STATE)
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return path


def read_state(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer's state of the checkpoint `path`.

    Raises:
        TrainingError: it cannot be read, or is of a run with another `identity`.
    """
    try:
        state = torch.load(path / STATE, weights_only=True, map_location="cpu")
        stated = state["identity"]
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, pickle.UnpicklingError) as error:
        why = first_line(error)[:100]
        raise TrainingError(f"{path / STATE} cannot be read ({why}); remove {path} to go on without it.") from error
    if stated != identity_text(identity):
        raise TrainingError(
            f"{path} belongs to a run with other settings or data; give this one another `out:` or --name, or "
            f"remove {path.parent} to start over."
        )
    return state


def identity_text(identity: Mapping[str, Any]) -> str:
    """An identity as a checkpoint keeps it."""
    return json.dumps(identity, sort_keys=True)


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    found = [path for path in folder.glob("step_*") if STEP.fullmatch(path.name) and (path / STATE).is_file()]
    return sorted(found, key=lambda path: int(STEP.fullmatch(path.name)[1]))


@contextmanager
def kept_on_stop(run: Path) -> Iterator[None]:
    """Ctrl-C inside the block says which step of the run is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if str(stop):  # the loop knows more
            raise
        latest = latest_checkpoint(run)
        kept = f"{latest} is kept. Run the same command again to go on from it." if latest else ""
        raise KeyboardInterrupt(
            f"stopped; {kept or 'no step is saved yet. Run the same command again to begin anew.'}"
        ) from None


def latest_checkpoint(folder: Path) -> Path | None:
    """The finished checkpoint a run goes on from; None: it begins."""
    return next(iter(reversed(checkpoints(folder))), None)
