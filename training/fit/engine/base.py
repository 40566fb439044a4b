"""The base in training: loaded for this process, with the adapter to train on it, its frozen blocks shared out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch

from nla_sdk.errors import InputError, first_line
from nla_sdk.halves.fetch import fetch_base
from nla_sdk.model.backbone import Backbone
from nla_sdk.model.quiet import quiet
from nla_sdk.model.weights.adapters.lean import import_peft
from nla_sdk.model.weights.loading import pick_device
from nla_sdk.model.weights.quantized import holds_4bit, keep_compute_dtype

from ...configs.config import Config
from ...configs.fit import Train

if TYPE_CHECKING:
    from accelerate import Accelerator
    from peft import LoraConfig


def processes() -> tuple[Accelerator, torch.device]:
    """This process among those of `accelerate launch` or `torchrun` (mostly the only one), and its device."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=pick_device().type == "cpu")
    device = accelerator.device
    return accelerator, torch.device("cpu") if device.type == "cpu" else device


def load_base(config: Config, settings: Train, device: torch.device, reads: str | None = None) -> Backbone:
    """The base as `settings` want it for training: quantised or not, on the device of this process.

    Args:
        reads: the `tokenizer` of the contract of what training goes on from.
    """
    files = fetch_base(config.base)
    backbone = Backbone.load(
        files.path,
        ref=config.base_id,
        dtype=settings.dtype,
        quantization=settings.quantization,
        device=device,
        reads=reads,
    )
    keep_compute_dtype(backbone.model)  # bitsandbytes' repacked CPU layers have no gradient
    if settings.gradient_checkpointing:
        checkpoint_gradients(backbone.model)
    return backbone


def checkpoint_gradients(model: torch.nn.Module) -> None:
    """Keep block inputs only and compute blocks again in the backward. Not reentrant: that kind corrupts gradients."""
    with quiet():  # its name changes in transformers 6
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def compile_blocks(backbone: Backbone) -> None:
    """Have each block of the text model compiled where it is first run: what stands between its products becomes a few
    passes over memory, which on a CPU in bfloat16 takes more time than the products do.

    Block by block, so that a forward can be abandoned between two of them, and for any number of rows and tokens.

    Raises:
        InputError: nothing can be compiled here.
    """
    try:
        torch.compile(lambda x: x + 1)(torch.ones(1, device=backbone.device))
    except Exception as error:  # of the compiler's own many kinds
        raise InputError(
            f"compile: torch.compile does not work here ({first_line(error)}); set it to false."
        ) from error
    for block in backbone.blocks:
        block.compile(dynamic=True)


def uncompiled() -> AbstractContextManager[None]:
    """In it compiled blocks run as they were written: a text is written token by token over states that are kept, and
    for each of a step's forms of those the compiler would begin anew, until it gives up on training too."""
    return torch.compiler.set_stance("force_eager")


def lora_config(settings: Train, backbone: Backbone, num_blocks: int | None = None) -> LoraConfig:
    """LoRA on the text blocks that run, everything named in full so that no tower is matched."""
    import_peft()
    from peft import LoraConfig

    running = range(num_blocks or backbone.num_blocks)
    prefix = backbone.blocks_name.replace(".", r"\.")
    blocks = "|".join(map(str, running))
    targets = "|".join(settings.lora.targets)
    there = {name.rpartition(".")[2] for number in running for name, _ in backbone.blocks[number].named_modules()}
    if missing := [name for name in settings.lora.targets if name not in there]:
        raise InputError(f"lora.targets: no module of the text blocks is called {', '.join(missing)}.")
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
        if packed := [name for name in found if holds_4bit(backbone.model.get_submodule(name))]:
            raise InputError(
                f"modules_to_save: {packed[0]} is held in 4 bits ({backbone.quantization}), which cannot be trained or "
                "saved; leave it out, or set quantization: null."
            )
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
