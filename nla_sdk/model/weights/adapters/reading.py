"""An adapter read from disk for a given model: its config and its tensors held against each other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ....errors import AdapterMismatchError, MissingFileError
from ..files import adapter_files, open_adapter
from ..loading import TOWERS, find_blocks, innermost, text_config
from .config import NAME, AdapterFacts, read_config
from .faults import check_copy, check_ties, listed, refuse_biases, refuse_misfits, refuse_shares
from .plan import MAGNITUDE, TOKEN_ROWS, AdapterPlan, kind_of, module_name, plan_adapter

if TYPE_CHECKING:
    from peft import LoraConfig

_STACK = re.compile(r"(?P<stack>(?:.*?\.)?(?:layers|h|blocks))\.\d+\.")


@dataclass(frozen=True)
class AdapterReport:
    """What became of every tensor of an adapter file.

    Attributes:
        loaded: tensors copied into the model.
        parameters: how many numbers those tensors hold.
        inert: tensor name → why it can have no effect (a block that never runs, a tower that is not kept, …).
    """

    loaded: int
    parameters: int
    inert: Mapping[str, str] = field(default_factory=dict)


def read_adapter(
    folder: Path,
    model: nn.Module,
    ref: str,
    num_blocks_run: int | None = None,
    facts: AdapterFacts | None = None,
) -> tuple[LoraConfig, AdapterPlan, dict[str, torch.Tensor]]:
    """Read an adapter from disk for `model`, which is not changed.

    Args:
        folder: holds `adapter_config.json` and `adapter_model.safetensors` (or shards of it with their index, or
            `adapter_model.bin`, read as bare tensors).
        ref: what messages call the model.
        num_blocks_run: see `plan_adapter`.
        facts: what a contract says where adapter_config.json does not, or where there is none.
    Returns:
        A config that names the live modules, where each tensor goes, and the tensors that have an effect.
    Raises:
        MissingFileError: one of the files is not there.
        AdapterConfigError: the config asks for something that changes the base, or is not known.
        DamagedFileError: a file that is no weights, or holds one process's share of them.
        AdapterMismatchError: some tensors fit nowhere, or config and tensors do not agree; the message lists them.
        UnsafeFileError: a pickle that would run code.
    """
    described = (folder / NAME).is_file()
    if not described and (facts is None or facts.alpha is None or facts.rslora is None):
        raise MissingFileError(f"{folder} holds no {NAME}; expected a PEFT LoRA adapter.")
    adapter_files(folder)
    config = read_config(folder, facts) if described else None
    with open_adapter(folder) as file:
        shapes = file.shapes
        config = config or read_config(folder, facts, shapes)
        plan = plan_adapter(model, shapes, num_blocks_run=num_blocks_run)
        refuse_shares(folder, plan, shapes, config, model)
        refuse_misfits(folder, plan, model, ref)
        if described:
            refuse_biases(folder, plan)
        if problems := fit_config(config, model, plan, shapes, num_blocks_run):
            raise AdapterMismatchError(
                f"{folder} is not loaded, its adapter_config.json and {file.files[0].name} do not agree:"
                f"{listed(problems)}\nDownload it again, or ask its author."
            )
        for key, (path, leaf) in plan.copies.items():
            check_copy(folder, key, file.get(key), model, path, leaf)
        tensors = {key: file.get(key) for key in plan.slots}
    check_ties(folder, config, plan, tensors)
    return config, plan, tensors


# --- config against tensors -----------------------------------------------------------------------------------------
def fit_config(
    config: LoraConfig,
    model: nn.Module,
    plan: AdapterPlan,
    shapes: Mapping[str, tuple[int, ...]],
    num_blocks_run: int | None,
) -> list[str]:
    """Make a saved `LoraConfig` name exactly the live modules of `plan`, once file and config are seen to agree.

    Patterns in the config (targets, ranks, alphas) are read under the names the file uses: the live ones may be nested
    differently, and a pattern that matches nothing is something PEFT says nothing about.

    Returns:
        What does not agree, as messages; if there is anything, the config is not changed.
    """
    from peft.utils.other import get_pattern_key

    # PEFT picks modules by pattern and fills ranks and alphas by pattern; where one misses, it builds a LoRA of other
    # shape or leaves random weights, and warns at most. So each pattern is resolved here and replaced by full paths.
    held: dict[str, dict[str, tuple[int, ...]]] = {}
    names: dict[str, str] = {}
    for key, (live, leaf) in plan.slots.items():
        held.setdefault(live, {})[leaf] = shapes[key]
        names[live] = module_name(key)
    problems: list[str] = []
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for live in plan.modules("lora"):
        name = names[live]
        rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern, name), config.r)
        problems += _lora_problems(name, held[live], rank, config)
        ranks[re.escape(live)] = rank
        alphas[re.escape(live)] = config.alpha_pattern.get(
            get_pattern_key(config.alpha_pattern, name), config.lora_alpha
        )
    rows, row_problems = _token_rows(config, names, held, model)
    problems += row_problems
    problems += _unfilled_copies(plan, names, held, model)
    problems += _lacking(config, model, plan, names, num_blocks_run)
    problems += _untargeted(config, [names[live] for live in plan.modules("lora")])
    if not problems:
        saved = plan.modules("saved")
        config.target_modules = set(plan.modules("lora"))
        config.modules_to_save = saved or None
        config.trainable_token_indices = rows or None
        config.layers_to_transform = config.layers_pattern = config.exclude_modules = None
        config.rank_pattern = {live: rank for live, rank in ranks.items() if rank != config.r}
        config.alpha_pattern = {live: alpha for live, alpha in alphas.items() if alpha != config.lora_alpha}
        # LoRA matrices on a tied head are in the file; PEFT would tie (and skip) what is asked for by name here.
        config.ensure_weight_tying = bool(config.ensure_weight_tying and (saved or rows) and _is_tied(model))
        if config.ensure_weight_tying and any(_is_table(model, live) for live in saved):
            config.modules_to_save = [live for live in saved if not _is_head(model, live)]
    return problems


def _untargeted(config: LoraConfig, names: Sequence[str]) -> list[str]:
    """Modules of blocks that the file has matrices for and the config leaves out: PEFT would drop them with a warning.

    Of a tied embedding and head PEFT saves both where the config targets one.
    """
    from peft.tuners.tuners_utils import check_target_module_exists

    if config.target_modules is None or config.target_modules == "all-linear":
        return []
    return [
        f"{name}: the file has tensors for it, adapter_config.json does not target it"
        for name in names
        if re.search(r"\.\d+\.", name) and not check_target_module_exists(config, name)
    ]


def _lora_problems(name: str, leaves: Mapping[str, tuple[int, ...]], rank: int, config: LoraConfig) -> list[str]:
    is_table = any(leaf.startswith("lora_embedding_") for leaf in leaves)
    a, b = ("lora_embedding_A", "lora_embedding_B") if is_table else ("lora_A.weight", "lora_B.weight")
    if lacking := sorted({a, b} - leaves.keys()):
        return [f"{name}: {lacking[0]} is missing, half a LoRA is not loaded"]
    if any(kind_of(leaf) == "saved" for leaf in leaves):
        return [f"{name}: both a LoRA and a saved copy of the module"]
    found = []
    for leaf, asked, option in (
        (MAGNITUDE, config.use_dora, "use_dora"),
        ("lora_B.bias", config.lora_bias, "lora_bias"),
    ):
        if (leaf in leaves) != asked:
            state = f"the file holds {leaf}" if leaf in leaves else f"{leaf} is missing"
            found.append(f"{name}: {state}, adapter_config.json says {option}: {str(asked).lower()}")
    if (ranks := (leaves[a][0], leaves[b][1])) != (rank, rank):
        shown = " and ".join(map(str, sorted(set(ranks))))
        found.append(f"{name}: rank {shown}, adapter_config.json says {rank}")
    return found


def _token_rows(
    config: LoraConfig, names: Mapping[str, str], held: Mapping[str, Mapping[str, tuple[int, ...]]], model: nn.Module
) -> tuple[dict[str, list[int]], list[str]]:
    """The token ids whose rows were trained, by live module; and what does not agree."""
    asked = config.trainable_token_indices or {}
    given: dict[str, list[int]] = {}
    problems: list[str] = []
    for live in (live for live, leaves in held.items() if TOKEN_ROWS in leaves):
        name, count = names[live], held[live][TOKEN_ROWS][0]
        if isinstance(asked, dict):
            key = next((key for key in asked if f".{name}".endswith(f".{key}") or f".{live}".endswith(f".{key}")), None)
            indices = asked[key] if key is not None else None
        else:  # a list is of the input embedding
            indices = list(asked)
        if not indices:
            problems.append(
                f"{name}: the file holds trained token rows, adapter_config.json names no token ids for them"
            )
        elif len(indices) != count:
            problems.append(f"{name}: {count} trained token rows, adapter_config.json names {len(indices)} tokens")
        elif max(indices) >= (size := text_config(model.config).vocab_size) or len({*indices}) < len(indices):
            problems.append(
                f"{name}: token ids {min(indices)} to {max(indices)}; the model has {size} tokens, each once"
            )
        else:
            given[live] = indices
    wanted = list(asked) if isinstance(asked, dict) else ["the input embedding"] if asked else []
    for key in wanted:
        has = (
            any(f".{x}".endswith(f".{key}") for live in given for x in (live, names[live]))
            if isinstance(asked, dict)
            else given
        )
        if not has and not problems and not (config.ensure_weight_tying and given):
            problems.append(f"{key}: adapter_config.json names trained tokens, the file has no rows for them")
    return given, problems


def _unfilled_copies(
    plan: AdapterPlan, names: Mapping[str, str], held: Mapping[str, Mapping[str, tuple[int, ...]]], model: nn.Module
) -> list[str]:
    """A saved copy replaces the whole module, so the file must hold each of its parts."""
    problems = []
    for live in plan.modules("saved"):
        own = {leaf for leaf, _ in innermost(model.get_submodule(live)).named_parameters(recurse=False)}
        if lacking := sorted(own - held[live].keys()):
            problems.append(f"{names[live]}: {lacking[0]} of the saved copy is missing")
        if TOKEN_ROWS in held[live]:
            problems.append(f"{names[live]}: both trained token rows and a saved copy of the module")
    return problems


def _lacking(
    config: LoraConfig, model: nn.Module, plan: AdapterPlan, names: Mapping[str, str], num_blocks_run: int | None
) -> list[str]:
    """Modules that the config says were trained and that the file has nothing for."""
    from peft.tuners.tuners_utils import check_target_module_exists

    held = {live for live, _ in plan.slots.values()}
    problems = []
    blocks_name, blocks = find_blocks(model, text_config(model.config).num_hidden_layers)
    stacks = {match["stack"] for name in names.values() if (match := _STACK.match(name))}
    for stack in sorted(stacks)[:1] if config.target_modules and config.target_modules != "all-linear" else ():
        for number, block in enumerate(blocks[:num_blocks_run]):
            for rest, module in block.named_modules():
                live, name = f"{blocks_name}.{number}.{rest}", f"{stack}.{number}.{rest}"
                inner = ".lora_" in live or live.endswith(".base_layer")
                if live in held or inner or not hasattr(module, "in_features"):
                    continue
                if check_target_module_exists(config, name):
                    problems.append(f"{name}: adapter_config.json targets it, the file has no tensors for it")
    told = [f".{name}." for name in {*names.values(), *map(_module_of, plan.inert)}]
    bare = [
        f".{live}."
        for live, module in model.named_modules()
        if not any(tower in live for tower in TOWERS) and any(True for _ in module.parameters(recurse=False))
    ]
    for wanted in config.modules_to_save or ():
        part = f".{wanted.strip('.')}."
        if any(part in name for name in bare) and not any(part in name for name in told):
            problems.append(f"{wanted}: adapter_config.json says it was trained whole, the file has no copy of it")
    return problems


def _module_of(key: str) -> str:
    return key.removeprefix("base_model.model.").rpartition(".")[0]


def _is_tied(model: nn.Module) -> bool:
    return bool(getattr(text_config(model.config), "tie_word_embeddings", False))


def _is_table(model: nn.Module, live: str) -> bool:
    return live.rpartition(".")[2] == "embed_tokens" or isinstance(model.get_submodule(live), nn.Embedding)


def _is_head(model: nn.Module, live: str) -> bool:
    return model.get_submodule(live) is model.get_output_embeddings()
