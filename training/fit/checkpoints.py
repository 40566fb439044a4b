"""What both trainers do alike: load the base, put an adapter on it, run the loop, write a loadable half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from nla_sdk.contract import Contract
from nla_sdk.errors import InputError
from nla_sdk.halves.fetch import fetch_base
from nla_sdk.halves.half import Half
from nla_sdk.io.files import code_version, sha256_of
from nla_sdk.io.progress import say
from nla_sdk.model.backbone import Backbone, keep_compute_dtype, pick_device, quiet

from ..configs.config import Config
from ..configs.fit import Train
from ..data.statistics import Statistics
from ..runs.machine import hardware, libraries
from .loop import Loop, data_order, make_optimizer


def processes():
    """This process among those of `accelerate launch` or `torchrun` (mostly the only one), and its device."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=pick_device().type == "cpu")
    device = accelerator.device
    return accelerator, torch.device("cpu") if device.type == "cpu" else device


def load_base(config: Config, settings: Train, device: torch.device) -> Backbone:
    """The base as `settings` want it for training: quantised or not, on the device of this process."""
    files = fetch_base(config.base)
    backbone = Backbone.load(
        files.path, ref=config.base_id, dtype=settings.dtype, quantization=settings.quantization, device=device
    )
    keep_compute_dtype(backbone.model)  # bitsandbytes' repacked CPU layers have no gradient
    if settings.gradient_checkpointing:
        checkpoint_gradients(backbone.model)
    return backbone


def checkpoint_gradients(model: torch.nn.Module) -> None:
    """Keep block inputs only and compute blocks again in the backward. Not reentrant: that kind corrupts gradients."""
    with quiet():  # its name changes in transformers 6
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def lora_config(settings: Train, backbone: Backbone, num_blocks: int | None = None):
    """LoRA on the text blocks that run, everything named in full so that no tower is matched."""
    with quiet():  # importing PEFT imports bitsandbytes, which logs
        from peft import LoraConfig

    running = range(num_blocks or backbone.num_blocks)
    prefix = backbone.blocks_name.replace(".", r"\.")
    blocks = "|".join(map(str, running))
    targets = "|".join(settings.lora.targets)
    saved = []
    for wanted in settings.lora.modules_to_save:
        found = [
            f"{backbone.blocks_name}.{number}.{name}"
            for number in running
            for name, module in backbone.blocks[number].named_modules()
            if name.rpartition(".")[2] == wanted and any(True for _ in module.parameters(recurse=False))
        ]
        if not found:
            raise InputError(f"modules_to_save: no module of the text blocks is called {wanted!r}.")
        saved += found
    return LoraConfig(
        r=settings.lora.r,
        lora_alpha=settings.lora.alpha,
        lora_dropout=settings.lora.dropout,
        target_modules=rf"{prefix}\.({blocks})\..*\.({targets})",
        modules_to_save=saved or None,
        task_type="CAUSAL_LM",
    )


def add_adapter(
    backbone: Backbone, name: str, settings: Train, seed: int, num_blocks: int | None = None
) -> dict[str, torch.nn.Parameter]:
    """Put the adapter to train on the base: a fresh one, or that in the folder `settings.continue_from`.

    Returns:
        Its parameters by name, float32, with gradients on.
    Raises:
        AdapterMismatchError: `continue_from` is not of this base.
    """
    if settings.continue_from is not None:
        backbone.load_adapter(name, settings.continue_from, num_blocks_run=num_blocks)
    else:
        torch.manual_seed(seed)  # the adapter's first numbers are part of the run
        backbone.add_lora(name, lora_config(settings, backbone, num_blocks))
    parameters = backbone.adapter_parameters(name)
    for parameter in parameters.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return parameters


def shard_base(backbone: Backbone, parameters: Mapping[str, torch.nn.Parameter], settings: Train) -> None:
    """Split the frozen weights of every block over the processes (FSDP2): each holds its share, and has a block's whole
    weights only while it computes that block.

    What is trained stays whole in every process and is summed by `Loop`, as without sharding. Blocks are sharded one by
    one, and the model around them is not, so that the AR's forward can be abandoned after its last block.

    Raises:
        InputError: the base is quantised (its packed weights cannot be split), or there is one process only.
    """
    import torch.distributed as dist

    if settings.quantization is not None:
        raise InputError("shard_base splits full-precision bases only: set quantization: null.")
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError("shard_base needs several processes: accelerate launch --multi_gpu --num_processes N -m …")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(backbone.device.type, (dist.get_world_size(),))
    trained = set(parameters.values())
    for block in backbone.blocks:
        fully_shard(block, mesh=mesh, ignored_params=trained & set(block.parameters()))


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
    facts = {
        "name": "/".join(settings.continue_from.parts[-2:]),
        "commit": half.commit,
        "adapter_sha256": sha256_of(half.folder / "adapter_model.safetensors"),
    }
    settings = settings.model_copy(update={"continue_from": half.folder})
    return config.model_copy(update={role: settings}), facts


def run_facts(settings: Train, backbone: Backbone, parent: dict | None, tables: Sequence[Path], rows: int) -> dict:
    """What a contract's provenance says about how a half is made, before what is measured.

    Args:
        parent: what it starts from, see `with_parent`.
        rows: how many of the tables' rows are trained on (those of the right sources, that fit).
    """
    return {
        "settings": settings.model_dump(mode="json", exclude={"continue_from"}),
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
    return {"settings": settings, "parent": facts["parent"], "tables_sha256": facts["tables_sha256"]}


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
    """Write adapter, contract, activation mean and, for an AR, the head into the existing, empty `folder`."""
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
    contract.replace(provenance={**contract.provenance, "training": dict(facts)}).save(folder)


def train(config: Config, role: str, trainer_of, name: str, metric: tuple[str, bool]) -> Path:
    """Train one half; returns the folder of the best one.

    Args:
        role: "av" or "ar": which settings, and the adapter's name.
        trainer_of: makes the trainer from config and base: `sft_av.Trainer` or `sft_ar.Trainer`.
        name: of the run, a folder in `config.out`.
        metric: the held-out figure that decides which is the best, and whether more is better.
    """
    accelerator, device = processes()
    config, parent = with_parent(config, role)
    settings = getattr(config, role)
    backbone = load_base(config, settings, device)
    trainer = trainer_of(config, backbone)
    if settings.shard_base:
        shard_base(backbone, trainer.parameters, settings)
    if trainer.left_out and accelerator.is_main_process:
        say(f"{trainer.left_out} rows are longer than {role}.max_length and are left out")
    facts = run_facts(settings, backbone, parent, trainer.tables, len(trainer.rows))

    def save(folder: Path, measured: Mapping[str, Any]) -> None:
        save_half(
            folder,
            backbone,
            role,
            trainer.contract,
            trainer.statistics,
            {**facts, **measured},
            dtype=settings.save_dtype,
            head=trainer.head,
        )

    with backbone.using(role):
        loop = Loop(
            config.out / name,
            settings,
            make_optimizer(trainer.groups, settings, backbone.device),
            trainer.parameters,
            identity_of_run(facts) | {"layer": config.layer, "seed": config.seed},
            config.seed,
            save=save,
            metric=metric,
            accelerator=accelerator,
        )
        batches = data_order(trainer.lengths, settings.batch_size, settings.epochs, config.seed)
        loop.run(batches, trainer.share_of_loss, trainer.evaluate, f"sft_{role}", trainer.tokens)
    accelerator.end_training()  # a process group left to the interpreter's exit aborts it now and then
    return config.out / name / "final"
