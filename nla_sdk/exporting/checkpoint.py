"""A half's model in memory → a plain checkpoint of it: whole for an AV, cut to the blocks that run for an AR."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import ExportError
from ..model.backbone import Backbone
from ..model.quiet import quiet
from ..model.weights.leftovers import FINAL_NORMS
from ..model.weights.loading import PER_LAYER_TABLE, find_blocks, text_config
from .constant import constant_block
from .merging import merged

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_PER_LAYER_PROJECTION = "per_layer_model_projection"


def whole(backbone: Backbone, adapter: str | None, dtype: torch.dtype) -> PreTrainedModel:
    """The language model with `adapter` merged in, as a model of its own, without towers.

    What is in memory already as it is to be written is shared, not copied: it is for saving, not for running.

    Raises:
        ExportError: an adapter that is not merged, or weights that the model's class has no place for.
    """
    config = _plain_config(backbone, dtype)
    weights = _weights(backbone, adapter, dtype, config)
    shape = _empty(config)
    embedding, head = (_name_of(shape, part) for part in (shape.get_input_embeddings(), shape.get_output_embeddings()))
    if getattr(config, "tie_word_embeddings", False) and {embedding, head} <= weights.keys():
        if torch.equal(weights[head], weights[embedding]):
            del weights[head]
        else:  # the adapter made two of what was one
            config.tie_word_embeddings = False
    return _filled(config, weights)


def truncated(
    backbone: Backbone, adapter: str | None, dtype: torch.dtype, blocks: int, offset: torch.Tensor | None = None
) -> PreTrainedModel:
    """The first `blocks` blocks with `adapter` merged in, without final norm and lm_head; shared as of `whole`.

    Args:
        offset: [d], added to the state by one more block; None: no such block.
    Raises:
        ExportError: as `whole`; a model that is not cut here, or an offset that its kind of block cannot add.
    """
    complete = _plain_config(backbone, dtype)
    config = _cut(complete, blocks)
    shape = _empty(config)
    stack, modules = find_blocks(shape, blocks)
    root = stack.rpartition(".")[0]
    head = _name_of(shape, shape.get_output_embeddings())
    left_out = {head, *(f"{root}.{norm}.{part}" for norm in FINAL_NORMS for part in ("weight", "bias"))}
    kept = {
        name: _of_blocks(name, tensor, complete, blocks)
        for name, tensor in _weights(backbone, adapter, dtype, complete).items()
        if name not in left_out and not (name.startswith(f"{stack}.") and _number(name, stack) >= blocks)
    }
    if offset is not None:
        added = constant_block(modules[-1], offset, config)
        kept |= {f"{stack}.{blocks}.{name}": tensor.to(dtype) for name, tensor in added.items()}
        config = _with_one_more(config)
    return _filled(config, kept, headless=True)


def size(backbone: Backbone, dtype: torch.dtype, blocks: int | None = None) -> int:
    """Bytes that the weights of `whole` (of `truncated`, with its block more) take at most."""
    config = _plain_config(backbone, dtype)
    model = _empty(config if blocks is None else _cut(config, blocks))
    one_more = 1 if blocks is None else 1 + 1 / blocks
    return int(sum(tensor.numel() for tensor in model.parameters()) * dtype.itemsize * one_more)


# --- weights --------------------------------------------------------------------------------------------------------
def _weights(
    backbone: Backbone, adapter: str | None, dtype: torch.dtype, config: PretrainedConfig
) -> dict[str, torch.Tensor]:
    """Merged weights in `dtype`, under the names that a model of `config` has for them."""
    live = backbone.blocks_name.rpartition(".")[0]
    own = find_blocks(_empty(config), config.num_hidden_layers)[0].rpartition(".")[0]
    weights = {}
    with torch.no_grad(), backbone.using(adapter) as model:
        for name, tensor in merged(model):
            if name.startswith(f"{live}."):  # of a model with towers the text model is nested one deeper
                name = f"{own}.{name.removeprefix(f'{live}.')}"
            weights[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return weights


def _number(name: str, stack: str) -> int:
    return int(name.removeprefix(f"{stack}.").partition(".")[0])


def _of_blocks(name: str, tensor: torch.Tensor, complete: PretrainedConfig, blocks: int) -> torch.Tensor:
    """Gemma 4's per-layer embeddings stand side by side in one table: the columns of the blocks that are kept."""
    width = blocks * (getattr(complete, "hidden_size_per_layer_input", 0) or 0)
    if name.endswith(f"{PER_LAYER_TABLE}.weight"):
        return tensor[:, :width].contiguous()
    return tensor[:width].contiguous() if name.endswith(f"{_PER_LAYER_PROJECTION}.weight") else tensor


def _filled(
    config: PretrainedConfig, weights: Mapping[str, torch.Tensor], *, headless: bool = False
) -> PreTrainedModel:
    """A model of `config` that holds these weights, every one of them and nothing else."""
    model = _empty(config)
    if headless:
        stack, _ = find_blocks(model, config.num_hidden_layers)
        decoder = model.get_submodule(stack.rpartition(".")[0])
        norm = next((name for name in FINAL_NORMS if hasattr(decoder, name)), None)
        if norm is None:
            raise ExportError(
                f"Where {type(model).__name__} has its final norm is not known here, and a reader of the reference "
                f"layout takes it out. Expected one of {', '.join(FINAL_NORMS)} beside its blocks."
            )
        setattr(decoder, norm, nn.Identity())
        model.set_output_embeddings(nn.Identity())
    found = model.load_state_dict(weights, assign=True, strict=False)
    model.tie_weights()
    lacking = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if wrong := found.unexpected_keys or lacking:
        what = "has no place for" if found.unexpected_keys else "also calls for"
        raise ExportError(
            f"{type(model).__name__} by itself {what} {len(wrong)} weights (first: {wrong[0]}), so a checkpoint of it "
            "would be another model. Nothing has been written."
        )
    return model


# --- configs --------------------------------------------------------------------------------------------------------
def _plain_config(backbone: Backbone, dtype: torch.dtype) -> PretrainedConfig:
    """The config of the text model alone, of weights that are not quantised."""
    config = copy.deepcopy(text_config(backbone.model.config))
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, name):
            delattr(config, name)
    config.dtype = dtype
    config.name_or_path = ""
    return config


def _cut(config: PretrainedConfig, blocks: int) -> PretrainedConfig:
    """The config of the first `blocks` blocks: what is said block by block is cut, what counts from the end moved."""
    cut = _resized(config, blocks, lambda per_block: per_block[:blocks])
    if shared := getattr(config, "num_kv_shared_layers", 0):
        cut.num_kv_shared_layers = max(0, blocks - (config.num_hidden_layers - shared))
    return cut


def _with_one_more(config: PretrainedConfig) -> PretrainedConfig:
    return _resized(config, config.num_hidden_layers + 1, lambda per_block: [*per_block, per_block[-1]])


def _resized(config: PretrainedConfig, blocks: int, change: Callable[[list[Any]], list[Any]]) -> PretrainedConfig:
    raw = config.to_dict()
    for name, value in raw.items():
        if isinstance(value, list) and len(value) == config.num_hidden_layers:
            raw[name] = change(value)
        elif isinstance(value, dict) and value and all(str(key).isdigit() for key in value):
            raw[name] = {key: of_block for key, of_block in value.items() if int(key) < blocks}
    resized = type(config).from_dict(copy.deepcopy({**raw, "num_hidden_layers": blocks}))
    resized.dtype = config.dtype
    kept = resized.to_dict()
    for name, value in raw.items():  # Gemma 4 has its last block attend to all, whatever the config says of it
        if isinstance(value, list) and len(value) == blocks and kept.get(name) != value:
            raise ExportError(
                f"{type(config).__name__} does not take {blocks} blocks by themselves: of `{name}` it makes "
                f"{kept.get(name)}, where they are {value}. Nothing has been written."
            )
    return resized


def _empty(config: PretrainedConfig) -> PreTrainedModel:
    """A causal language model of `config` without numbers."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"), quiet():
            return AutoModelForCausalLM.from_config(copy.deepcopy(config))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(
            f"transformers builds no language model of {config.num_hidden_layers} blocks from this base's config "
            f"({type(config).__name__}): {error}"
        ) from error


def _name_of(model: PreTrainedModel, part: nn.Module) -> str:
    return next(f"{name}.weight" for name, module in model.named_modules() if module is part)
