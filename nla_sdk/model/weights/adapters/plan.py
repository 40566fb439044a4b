"""Every tensor of an adapter file accounted for: where it goes, why it can have no effect, or that it fits nowhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from ..loading import TOWERS, find_blocks, innermost, text_config

_BLOCK_PATH = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)$")
_ADAPTER = r"(?:\.(?!weight$|bias$)[^.]+)?"  # its name, where whoever saved it left it in
_SAVED_KEY = re.compile(
    rf"^(?P<module>.+?)\.(?:(?P<lora>lora_[AB]){_ADAPTER}\.(?P<part>weight|bias)"
    rf"|(?P<table>lora_embedding_[AB]){_ADAPTER}(?:\.weight)?"
    rf"|(?P<magnitude>lora_magnitude_vector){_ADAPTER}(?:\.weight)?"
    rf"|(?:token_adapter\.)?(?P<rows>trainable_tokens_delta){_ADAPTER}"
    r"|(?:token_adapter\.)?(?P<copy>base_layer|original_module)\.(?P<own>weight|bias)"
    rf"|(?:modules_to_save{_ADAPTER}\.)?(?P<leaf>weight|bias))$"
)
# What FSDP, torch.compile and checkpointing put into the names of the modules they wrap.
WRAPPERS = {"_fsdp_wrapped_module", "_orig_mod", "_orig_module", "_checkpoint_wrapped_module"}
_KV_MODULES = {"self_attn.k_proj", "self_attn.v_proj", "self_attn.k_norm", "self_attn.v_norm"}
TOKEN_ROWS, MAGNITUDE = "trainable_tokens_delta", "lora_magnitude_vector"


@dataclass(frozen=True)
class AdapterPlan:
    """Where each tensor of an adapter file goes in a given model: see `plan_adapter`."""

    slots: Mapping[str, tuple[str, str]]
    """saved key → (live module path, "lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_embedding_A",
    "lora_embedding_B", "lora_magnitude_vector", "trainable_tokens_delta", or a saved copy's "weight" or "bias")."""
    inert: Mapping[str, str]
    misfits: Mapping[str, str]
    copies: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """saved key → (live module path, "weight" or "bias"): the base's own numbers, saved along by PEFT."""
    causes: Mapping[str, str] = field(default_factory=dict)
    """misfit → "name", "block", "shape", "rows" (tokens were added) or "twice"."""

    def modules(self, kind: str) -> list[str]:
        """Live module paths that get a LoRA (`kind="lora"`), a saved copy ("saved") or trained token rows ("rows")."""
        return sorted({module for module, leaf in self.slots.values() if kind_of(leaf) == kind})


def kind_of(leaf: str) -> str:
    """What a leaf of `AdapterPlan.slots` is part of: "lora", "saved" or "rows"."""
    return "rows" if leaf == TOKEN_ROWS else "lora" if leaf.startswith("lora_") else "saved"


def module_name(key: str) -> str:
    """The module that a saved key of a plan's slots names, in the file's own words, without wrappers."""
    match = _SAVED_KEY.match(_bare(key))
    assert match is not None, "a key with a slot has been matched"
    return match["module"]


def _bare(key: str) -> str:
    """A saved name without what PEFT, DDP, FSDP and torch.compile put around the model's own."""
    key = ".".join(part for part in key.split(".") if part not in WRAPPERS).removeprefix("module.")
    while key.startswith("base_model.model."):
        key = key.removeprefix("base_model.model.").removeprefix("module.")
    return key


class _Misfit(Exception):
    def __init__(self, cause: str, why: str) -> None:
        super().__init__(why)
        self.cause = cause


class _Inert(Exception):
    pass


def plan_adapter(
    model: nn.Module, shapes: Mapping[str, tuple[int, ...]], *, num_blocks_run: int | None = None
) -> AdapterPlan:
    """Account for every tensor of an adapter file: where it goes, why it can have no effect, or that it fits nowhere.

    Works on the module tree alone (the meta device will do), so nothing is changed before all is known. Another
    transformers version or class nests the text model differently; blocks are therefore matched by number and by the
    path inside the block.

    Args:
        model: the bare base model (no adapters yet, or with some: PEFT's `base_layer` is looked through).
        shapes: saved tensor name → shape.
        num_blocks_run: B, how many blocks ever run; tensors of later blocks are inert. None: all run.
    """
    places = _Places(model, num_blocks_run)
    slots: dict[str, tuple[str, str]] = {}
    copies: dict[str, tuple[str, str]] = {}
    inert: dict[str, str] = {}
    misfits: dict[str, str] = {}
    causes: dict[str, str] = {}
    holders: dict[tuple[str, str], str] = {}
    for key, shape in shapes.items():
        try:
            match = _SAVED_KEY.match(_bare(key))
            if ".lora_velora_" in key:
                raise _Inert("VeLoRA's, for the backward pass only")
            if match is None:
                raise _Misfit("name", "not the name of a LoRA matrix or of a saved module's weight")
            path = places.find(match["module"])
            slot = path, places.leaf(path, match, tuple(shape))
            if match["copy"]:
                copies[key] = slot
            elif (other := holders.setdefault(slot, key)) != key:
                raise _Misfit("twice", f"the same place as {other}")
            else:
                slots[key] = slot
        except _Inert as reason:
            inert[key] = str(reason)
        except _Misfit as error:
            misfits[key], causes[key] = str(error), error.cause
    return AdapterPlan(slots, inert, misfits, copies, causes)


class _Places:
    """The modules of a model that an adapter's tensors can belong to."""

    def __init__(self, model: nn.Module, num_blocks_run: int | None) -> None:
        config = text_config(model.config)
        self.model = model
        self.run = num_blocks_run
        self.blocks_name, blocks = find_blocks(model, config.num_hidden_layers)
        self.count = len(blocks)
        self.modules = dict(model.named_modules())
        self.first_shared = self.count - (getattr(config, "num_kv_shared_layers", 0) or 0)
        self.vocabulary = config.vocab_size

    def find(self, path: str) -> str:
        """The live path of a module that a file calls `path`."""
        if any(tower in path for tower in TOWERS):
            raise _Inert("belongs to a vision or audio tower, which is not kept")
        in_block = _BLOCK_PATH.search(path)
        if in_block:
            number, rest = int(in_block[1]), in_block[2]
            if self.run is not None and self.run <= number < self.count:
                raise _Inert(f"block {number} never runs (the AR stops after block {self.run - 1})")
            if number >= self.count:
                raise _Misfit("block", f"block {number} of a model with {self.count} blocks")
            path = f"{self.blocks_name}.{number}.{rest}"
            if path not in self.modules and number >= self.first_shared and rest in _KV_MODULES:
                raise _Inert(f"block {number} takes its keys and values from an earlier block")
        elif path not in self.modules:  # a part outside the blocks that another version nests elsewhere
            root, parts = self.blocks_name.rpartition(".")[0], path.split(".")
            ends = [".".join([root, *parts[start:]]).removeprefix(".") for start in range(len(parts))]
            ends += [".".join(parts[start:]) for start in range(1, len(parts))]
            path = next((end for end in ends if end in self.modules), path)
        if path not in self.modules:
            raise _Misfit("name", f"no module {path!r} in {type(self.model).__name__}")
        return path

    def module(self, path: str) -> nn.Module:
        """The base's own module there, PEFT's wrappers looked through."""
        return innermost(self.modules[path])

    def leaf(self, path: str, match: re.Match[str], shape: tuple[int, ...]) -> str:
        """Which of a module's parts a tensor is; its shape is looked at."""
        module = self.module(path)
        if leaf := match["leaf"] or match["own"]:
            parameter = getattr(module, leaf, None)
            if parameter is None:
                if any(True for _ in module.parameters()):
                    raise _Misfit("name", f"{path!r} has no {leaf}")
                raise _Inert(f"{path!r} has no parameters")
            expected = tuple(parameter.shape)
            if match["own"] and getattr(parameter, "quant_state", None) is not None:
                return leaf  # packed in 4 bits: its shape says nothing
            self._check_rows(path, shape, expected)
            if shape != expected:
                raise _Misfit("shape", f"shape {shape}, the model's {path!r} has {expected}")
            return leaf
        is_table = isinstance(module, nn.Embedding)
        inside = module.num_embeddings if is_table else getattr(module, "in_features", None)
        out = module.embedding_dim if is_table else getattr(module, "out_features", None)
        leaf = (
            f"{match['lora']}.{match['part']}"
            if match["lora"]
            else match["table"] or match["magnitude"] or match["rows"]
        )
        if inside is None or (match["lora"] and is_table) or leaf == "lora_A.bias":
            raise _Misfit(
                "name",
                f"{path!r} is a {type(module).__name__}, not a linear layer"
                + (" with such a bias" * (leaf == "lora_A.bias")),
            )
        if match["table"] and not is_table:
            raise _Misfit("name", f"{path!r} is a {type(module).__name__}, not an embedding")
        rank = shape[0 if leaf[-1] == "A" or leaf.startswith("lora_A") else -1] if len(shape) == 2 else 0
        expected = {
            "lora_A.weight": (rank, inside),
            "lora_B.weight": (out, rank),
            "lora_B.bias": (out,),
            "lora_embedding_A": (rank, inside),
            "lora_embedding_B": (out, rank),
            MAGNITUDE: (out,),
            TOKEN_ROWS: (shape[0] if shape else 0, out if is_table else inside),
        }[leaf]
        if leaf in ("lora_B.weight", "lora_B.bias", MAGNITUDE) and not is_table:
            self._check_rows(path, shape, expected)
        if leaf == "lora_embedding_A":
            self._check_rows(path, shape[::-1], expected[::-1])
        if shape != expected:
            raise _Misfit("shape", f"shape {shape} does not fit {path!r}, which is {inside} → {out}")
        return leaf

    def _check_rows(self, path: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if expected and shape[1:] == expected[1:] and expected[0] == self.vocabulary and shape[0] > expected[0]:
            raise _Misfit(
                "rows",
                f"shape {shape}: {shape[0] - expected[0]} tokens were added in training, the model's {path!r} has "
                f"{expected[0]} rows",
            )
