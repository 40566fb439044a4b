"""Gemma 3's weights out of a GGUF file, unpacked to float32 and written a few megabytes at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np

from ...errors import DemoBaseError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from .fields import Reader

ROWS_AT_ONCE = 8192


def save_weights(reader: Reader, folder: Path, advance: Callable[[float], None] = lambda share: None) -> None:
    """Write config.json, generation_config.json and model.safetensors into a folder.

    Args:
        advance: told of each part that is written, as a share of all numbers.
    Raises:
        DemoBaseError: the tensors are not those of the model that the file's fields describe.
    """
    import torch
    from transformers import Gemma3ForCausalLM, GenerationConfig

    config = _config(reader)
    with torch.device("meta"):
        model = Gemma3ForCausalLM(config)
    config.architectures, config.dtype = [type(model).__name__], "float32"
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}  # a tied one once
    tensors = _placed(reader, shapes)
    numbers = sum(tensor.n_elements for tensor in tensors.values())
    with (folder / "model.safetensors").open("wb") as file:
        file.write(_header(shapes))
        for name in sorted(shapes):
            for part in _unpacked(tensors[name], centred=name.endswith("norm.weight")):
                file.write(part.data)
                advance(part.size / numbers)


def _config(reader: Reader) -> PretrainedConfig:
    """The config that the file's fields describe."""
    from transformers import Gemma3TextConfig

    fields = {
        "max_position_embeddings": "context_length",
        "hidden_size": "embedding_length",
        "num_hidden_layers": "block_count",
        "intermediate_size": "feed_forward_length",
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
        "head_dim": "attention.key_length",
        "sliding_window": "attention.sliding_window",
        "rope_theta": "rope.freq_base",
    }
    return Gemma3TextConfig(
        vocab_size=len(reader.value("tokenizer.ggml.tokens")),
        **{name: reader.value(f"gemma3.{key}") for name, key in fields.items()},
        **{
            f"{name}_token_id": reader.value(f"tokenizer.ggml.{key}_token_id")
            for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
        },
    )


def _placed(reader: Reader, shapes: dict[str, tuple[int, ...]]) -> dict[str, gguf.ReaderTensor]:
    """The file's tensor of each parameter: each of them once, none left over."""
    stored = {tensor.name: tensor for tensor in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, reader.value("gemma3.block_count"))
    placed = {name: stored.pop(names.get_name(name, try_suffixes=(".weight",)), None) for name in shapes}
    wrong = [
        f"{name} of shape {shapes[name]}"
        for name, tensor in placed.items()
        if tensor is None or tuple(reversed(tensor.shape.tolist())) != shapes[name]
    ]
    if wrong or stored:
        raise DemoBaseError(
            f"The GGUF file lacks {len(wrong)} of the model's {len(shapes)} tensors{_first(wrong)} and holds "
            f"{len(stored)} that it has no place for{_first(list(stored))}. Install the versions of constraints.txt."
        )
    return placed


def _first(names: list[str]) -> str:
    return f" (first: {names[0]})" if names else ""


def _header(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """What a safetensors file of float32 tensors begins with, they following in the order of their names."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in sorted(shapes):
        end = at + 4 * int(np.prod(shapes[name]))
        header[name] = {"dtype": "F32", "shape": shapes[name], "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _unpacked(tensor: gguf.ReaderTensor, *, centred: bool) -> Iterator[np.ndarray]:
    """A tensor's numbers in float32, some rows at a time.

    Args:
        centred: it is of a norm, whose weights Gemma keeps around 0 and GGUF around 1.
    """
    stored = np.asarray(tensor.data)  # of the mapped file: slices of a memmap are dear
    for start in range(0, len(stored), ROWS_AT_ONCE):
        part = gguf.dequantize(stored[start : start + ROWS_AT_ONCE], tensor.tensor_type)
        yield np.ascontiguousarray(part - 1 if centred else part, dtype="<f4")
