"""A base language model in memory: load it, quantise it, hold adapters on it, run it to a block and stop.

One `Backbone` serves all roles of a pair: AV and AR are two named LoRA adapters on it, the source model is the same
weights with adapters off. Switching adapters is state, so every use goes through `Backbone.using(name)`, which holds
the backbone's lock: two threads never run each other's adapter.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..errors import AdapterMismatchError, LayerError, LoadError, MissingFileError, QuantizationError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOWERS = ("vision_tower", "audio_tower", "vision_model", "embed_vision", "embed_audio", "multi_modal_projector")
TOWER_CONFIGS = ("vision_config", "audio_config")
PER_LAYER_TABLE = "embed_tokens_per_layer"
_BLOCK_PATH = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)$")
_STACK = re.compile(r"(?P<stack>(?:.*?\.)?(?:layers|h|blocks))\.\d+\.")
_SAVED_KEY = re.compile(
    r"^(?:base_model\.model\.)?(?P<module>.+?)\."
    r"(?:(?P<lora>lora_[AB])(?:\.(?!weight)[^.]+)?|modules_to_save(?:\.(?!weight|bias)[^.]+)?|(?=(?:weight|bias)$))"
    r"\.?(?P<leaf>weight|bias)$"
)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries' progress bars, log lines and warnings off the terminal while a model loads.

    What matters of them is checked here explicitly and raised as an error; bitsandbytes logs on import, PEFT only
    warns where a key fits nowhere, transformers draws bars for loads of a second.
    """
    os.environ.setdefault("BITSANDBYTES_NOWELCOME", "1")
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    others = [logging.getLogger(name) for name in ("bitsandbytes", "accelerate", "peft")]
    levels = [logger.level for logger in others]
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for logger in others:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        for logger, level in zip(others, levels, strict=True):
            logger.setLevel(level)


class _StopForward(Exception):
    """Raised by a hook once the block that is wanted has run, so that the rest is never computed."""


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


@dataclass(frozen=True)
class AdapterPlan:
    """Where each tensor of an adapter file goes in a given model: see `plan_adapter`."""

    slots: Mapping[str, tuple[str, str]]
    """saved key → (live module path, "lora_A.weight" | "lora_B.weight" | "weight" | "bias")."""
    inert: Mapping[str, str]
    misfits: Mapping[str, str]

    def modules(self, kind: str) -> list[str]:
        """Live module paths that get a LoRA (`kind="lora"`) or a saved copy (`kind="saved"`)."""
        return sorted({module for module, leaf in self.slots.values() if leaf.startswith("lora_") == (kind == "lora")})


def text_config(config):
    """The text part of a config (a multimodal model keeps it under `text_config`)."""
    return config.get_text_config()


def find_blocks(model: nn.Module, num_blocks: int) -> tuple[str, nn.ModuleList]:
    """The decoder blocks of `model`: its name and the ModuleList.

    Raises:
        LoadError: no list of `num_blocks` modules outside the towers.
    """
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == num_blocks
        and not any(tower in name for tower in TOWERS)
    ]
    if not lists:
        raise LoadError(
            f"Found no list of {num_blocks} decoder blocks in {type(model).__name__}; expected a causal language model "
            "as transformers' AutoModelForCausalLM builds it."
        )
    return min(lists, key=lambda item: len(item[0]))


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
    config = text_config(model.config)
    blocks_name, blocks = find_blocks(model, config.num_hidden_layers)
    modules = dict(model.named_modules())
    first_shared = len(blocks) - (getattr(config, "num_kv_shared_layers", 0) or 0)
    slots: dict[str, tuple[str, str]] = {}
    inert: dict[str, str] = {}
    misfits: dict[str, str] = {}
    for key, shape in shapes.items():
        match = _SAVED_KEY.match(key)
        if match is None:
            misfits[key] = "not the name of a LoRA matrix or of a saved module's weight"
            continue
        path, leaf = match["module"], match["leaf"]
        if any(tower in path for tower in TOWERS):
            inert[key] = "belongs to a vision or audio tower, which is not kept"
            continue
        in_block = _BLOCK_PATH.search(path)
        if in_block:
            number, rest = int(in_block[1]), in_block[2]
            if num_blocks_run is not None and num_blocks_run <= number < len(blocks):
                inert[key] = f"block {number} never runs (the AR stops after block {num_blocks_run - 1})"
                continue
            if number >= len(blocks):
                misfits[key] = f"block {number} of a model with {len(blocks)} blocks"
                continue
            path = f"{blocks_name}.{number}.{rest}"
            if path not in modules and number >= first_shared and rest in _KV_MODULES:
                inert[key] = f"block {number} takes its keys and values from an earlier block"
                continue
        elif path not in modules:  # a part outside the blocks that another version nests elsewhere
            root, parts = blocks_name.rpartition(".")[0], path.split(".")
            ends = (".".join([root, *parts[at:]]).removeprefix(".") for at in range(len(parts)))
            path = next((end for end in ends if end in modules), path)
        module = modules.get(path)
        if module is None:
            misfits[key] = f"no module {path!r} in {type(model).__name__}"
            continue
        for wrapped in ("base_layer", "original_module"):  # what PEFT calls a module that it has wrapped
            module = module._modules.get(wrapped, module)
        if match["lora"] is None:
            parameter = getattr(module, leaf, None)
            if parameter is None:
                if any(True for _ in module.parameters()):
                    misfits[key] = f"{path!r} has no {leaf}"
                else:
                    inert[key] = f"{path!r} has no parameters"
            elif tuple(parameter.shape) != tuple(shape):
                misfits[key] = f"shape {tuple(shape)}, the model's {path!r} has {tuple(parameter.shape)}"
            else:
                slots[key] = (path, leaf)
            continue
        in_features, out_features = getattr(module, "in_features", None), getattr(module, "out_features", None)
        if in_features is None or leaf != "weight":
            misfits[key] = f"{path!r} is a {type(module).__name__}, not a linear layer"
        elif len(shape) != 2 or (shape[1] != in_features if match["lora"] == "lora_A" else shape[0] != out_features):
            misfits[key] = f"shape {tuple(shape)} does not fit {path!r}, which is {in_features} → {out_features}"
        else:
            slots[key] = (path, f"{match['lora']}.{leaf}")
    return AdapterPlan(slots, inert, misfits)


_KV_MODULES = {"self_attn.k_proj", "self_attn.v_proj", "self_attn.k_norm", "self_attn.v_norm"}


def fit_config(
    config, model: nn.Module, plan: AdapterPlan, shapes: Mapping[str, tuple[int, ...]], num_blocks_run: int | None
) -> list[str]:
    """Make a saved `LoraConfig` name exactly the live modules of `plan`, once file and config are seen to agree.

    Patterns in the config (targets, ranks, alphas) are read under the names the file uses: the live ones may be nested
    differently, and a pattern that matches nothing is something PEFT says nothing about.

    Returns:
        What does not agree, as messages; if there is anything, the config is not changed.
    """
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.other import get_pattern_key

    held: dict[str, dict[str, tuple[int, ...]]] = {}
    names: dict[str, str] = {}
    for key, (live, leaf) in plan.slots.items():
        held.setdefault(live, {})[leaf] = shapes[key]
        names[live] = _SAVED_KEY.match(key)["module"]
    problems: list[str] = []
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for live in plan.modules("lora"):
        leaves, name = held[live], names[live]
        rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern, name), config.r)
        if lacking := {"lora_A.weight", "lora_B.weight"} - leaves.keys():
            problems.append(f"{name}: {lacking.pop()} is missing, half a LoRA is not loaded")
        elif len(leaves) > 2:
            problems.append(f"{name}: both a LoRA and a saved copy of the module")
        elif (found := (leaves["lora_A.weight"][0], leaves["lora_B.weight"][1])) != (rank, rank):
            shown = " and ".join(map(str, sorted(set(found))))
            problems.append(f"{name}: rank {shown}, adapter_config.json says {rank}")
        ranks[re.escape(live)] = rank
        alphas[re.escape(live)] = config.alpha_pattern.get(
            get_pattern_key(config.alpha_pattern, name), config.lora_alpha
        )

    blocks_name, blocks = find_blocks(model, text_config(model.config).num_hidden_layers)
    stacks = {match["stack"] for name in names.values() if (match := _STACK.match(name))}
    if config.target_modules and config.target_modules != "all-linear":
        for stack in sorted(stacks)[:1]:
            for number, block in enumerate(blocks[:num_blocks_run]):
                for rest, module in block.named_modules():
                    live, name = f"{blocks_name}.{number}.{rest}", f"{stack}.{number}.{rest}"
                    inner = ".lora_" in live or live.endswith(".base_layer")
                    if live in held or inner or not hasattr(module, "in_features"):
                        continue
                    if check_target_module_exists(config, name):
                        problems.append(f"{name}: adapter_config.json targets it, the file has no tensors for it")
    if not problems:
        config.target_modules = plan.modules("lora")
        config.modules_to_save = plan.modules("saved") or None
        config.layers_to_transform = config.layers_pattern = config.exclude_modules = None
        config.rank_pattern = {live: rank for live, rank in ranks.items() if rank != config.r}
        config.alpha_pattern = {live: alpha for live, alpha in alphas.items() if alpha != config.lora_alpha}
    return problems


def pick_device(device: str | int | torch.device = "auto") -> torch.device:
    """`"auto"` → the current CUDA device, else Apple's MPS, else the CPU; anything else as torch reads it."""
    if device != "auto":
        chosen = torch.device(device)
        # An index, not a bare "cuda": accelerate's device maps read the two differently.
        return torch.device("cuda", torch.cuda.current_device()) if chosen == torch.device("cuda") else chosen
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def pick_dtype(dtype: str | torch.dtype, device: torch.device, preferred: str | None = None) -> torch.dtype:
    """`"auto"` → the contract's `compute_dtype`, else bfloat16 on a GPU that has it, float32 on a CPU.

    float16 is not offered to a CPU by "auto": its matrix products are emulated there, slow and less exact.
    """
    if dtype != "auto":
        resolved = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
            raise LoadError(
                f"dtype={dtype!r} is not a floating-point dtype; use 'auto', 'float32', 'bfloat16', 'float16'."
            )
        return resolved
    if device.type == "cpu":
        return torch.float32
    if preferred is not None:
        return pick_dtype(preferred, device)
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float16


class Backbone:
    """A causal language model that holds adapters and can run to a block and stop.

    Attributes:
        model: the transformers model, without its towers.
        tokenizer: its tokenizer.
        ref: where it came from, for messages and contracts.
        blocks: its decoder blocks; block L's output is the residual stream "at layer L".
        d_model, num_blocks, device, dtype, quantization.
        lock: held during every use of the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        ref: str = "",
        device: torch.device | None = None,
        quantization: str | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.ref = ref
        config = text_config(model.config)
        self.blocks_name, self.blocks = find_blocks(model, config.num_hidden_layers)
        self.d_model: int = config.hidden_size
        self.num_blocks: int = len(self.blocks)
        self.embedding: nn.Module = model.get_input_embeddings()
        self.device = device or next(model.parameters()).device
        self.quantization = quantization
        self.lock = threading.RLock()
        self.reports: dict[str, AdapterReport] = {}
        self._peft = None
        self._active: str | None = None
        self._uses: list[str | None] = []

    @property
    def dtype(self) -> torch.dtype:
        """The dtype activations flow in: that of the input embedding."""
        return self.embedding.weight.dtype

    # --- loading ------------------------------------------------------------------------------------------------
    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        ref: str | None = None,
        quantization: str | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        compute_dtype: str | None = None,
        tokenizer_path: str | os.PathLike | None = None,
        trust_remote_code: bool = False,
        truncated: bool = False,
    ) -> Backbone:
        """Load a model folder.

        Args:
            path: a folder with config, safetensors and (unless `tokenizer_path` is given) tokenizer.
            ref: the name to show for it; default: the path.
            quantization: "nf4" (4 bits, double quantisation; CPU too) or None.
            device: "auto", or anything torch.device takes.
            dtype: "auto" or a dtype; with "nf4", what is computed in and what is not quantised is kept in.
            compute_dtype: what the contract says, used by `dtype="auto"`.
            truncated: accept a checkpoint without final norm and lm_head (an AR that is a full fine-tune).
        Raises:
            LoadError, QuantizationError, MissingFileError.
        """
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        path = Path(path)
        device = pick_device(device)
        dtype = pick_dtype(dtype, device, compute_dtype)
        if not (path / "config.json").is_file():
            raise MissingFileError(f"{path} holds no config.json; expected the folder of a transformers model.")
        try:
            with quiet():
                config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
                if getattr(config, "model_type", "") == "gemma4":
                    for tower in TOWER_CONFIGS:  # never allocated, so never in memory
                        setattr(config, tower, None)
                options = {"config": config, "dtype": dtype, "trust_remote_code": trust_remote_code}
                has_ple = bool(getattr(text_config(config), "hidden_size_per_layer_input", 0))
                if quantization is not None:
                    options["quantization_config"] = _nf4_config(quantization, dtype, device)
                # A PLE table belongs in CPU RAM; a device map that says so makes accelerate stream it through the GPU
                # on every call. So such a model is read on the CPU and its other parts are moved.
                options["device_map"] = {"": "cpu" if has_ple or device.type != "cuda" else device.index or 0}
                model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, **options)
                tokenizer = AutoTokenizer.from_pretrained(tokenizer_path or path, trust_remote_code=trust_remote_code)
        except (OSError, ValueError, RuntimeError, ImportError, LookupError, TypeError, SafetensorError) as error:
            raise LoadError(f"Could not load the model in {path}: {first_line(error)}") from error
        _check_loading(info, path, truncated=truncated)
        drop_towers(model)
        if quantization is not None and dtype != torch.bfloat16:
            keep_compute_dtype(model)
        place(model, device)
        return cls(model, tokenizer, ref=ref or str(path), device=device, quantization=quantization)

    # --- adapters -----------------------------------------------------------------------------------------------
    def load_adapter(self, name: str, folder: str | os.PathLike, *, num_blocks_run: int | None = None) -> AdapterReport:
        """Put a LoRA adapter from disk on the model under `name`, every tensor of it accounted for.

        Args:
            name: how `using` will call it.
            folder: holds `adapter_config.json` and `adapter_model.safetensors`.
            num_blocks_run: see `plan_adapter`.
        Raises:
            MissingFileError: one of the two files is not there.
            AdapterMismatchError: some tensors fit nowhere; the message lists them and nothing is changed.
        """
        from safetensors import SafetensorError, safe_open

        folder = Path(folder)
        for needed in ("adapter_config.json", "adapter_model.safetensors"):
            if not (folder / needed).is_file():
                raise MissingFileError(f"{folder} holds no {needed}; expected a PEFT LoRA adapter.")
        config = _adapter_config(folder)
        try:
            with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
                keys = list(file.keys())
                shapes = {key: tuple(file.get_slice(key).get_shape()) for key in keys}
                plan = plan_adapter(self.model, shapes, num_blocks_run=num_blocks_run)
                self._refuse_misfits(folder, plan)
                if problems := fit_config(config, self.model, plan, shapes, num_blocks_run):
                    raise AdapterMismatchError(
                        f"{folder} is not loaded, its adapter_config.json and adapter_model.safetensors do not agree:"
                        f"{_listed(problems)}\nDownload it again, or ask its author."
                    )
                with self.lock:
                    self._add(name, config)
                    self._fill(name, plan, {key: file.get_tensor(key) for key in plan.slots})
        except SafetensorError as error:
            raise LoadError(
                f"{folder / 'adapter_model.safetensors'} is not a readable safetensors file: {error}"
            ) from error
        sizes = [torch.Size(shapes[key]).numel() for key in plan.slots]
        self.reports[name] = AdapterReport(loaded=len(sizes), parameters=sum(sizes), inert=dict(plan.inert))
        return self.reports[name]

    def add_lora(self, name: str, config) -> None:
        """Put a fresh, untrained adapter (a `peft.LoraConfig`) on the model under `name`."""
        with self.lock:
            self._add(name, config)

    def adapter_parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Live parameters of adapter `name`, by their name in the model."""
        marker = f".{name}."
        return {
            key: parameter
            for key, parameter in self.model.named_parameters()
            if marker in key and (".lora_" in key or ".modules_to_save." in key)
        }

    def adapter_state(self, name: str, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """Tensors of adapter `name` under PEFT's file names, on the CPU, cast to `dtype` if given."""
        state = {}
        for key, parameter in self.adapter_parameters(name).items():
            saved = key.replace(f".modules_to_save.{name}.", ".").replace(f".{name}.", ".")
            state[f"base_model.model.{saved}"] = parameter.detach().to("cpu", dtype or parameter.dtype).contiguous()
        return state

    def save_adapter(self, name: str, folder: str | os.PathLike, dtype: torch.dtype | None = None) -> None:
        """Write adapter `name` as PEFT's two files into an existing folder."""
        from safetensors.torch import save_file

        config = self._peft.peft_config[name]
        raw = config.to_dict()
        raw.update(base_model_name_or_path=self.ref, inference_mode=True)
        for key in ("target_modules", "modules_to_save", "exclude_modules"):
            if isinstance(raw.get(key), set):
                raw[key] = sorted(raw[key])
        text = json.dumps(raw, indent=2, sort_keys=True, default=str) + "\n"
        (Path(folder) / "adapter_config.json").write_text(text, encoding="utf-8")
        save_file(
            self.adapter_state(name, dtype), Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"}
        )

    def cap(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits as the model caps them (Gemma's final soft cap); most models don't."""
        softcap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return logits if softcap is None else torch.tanh(logits / softcap) * softcap

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[PreTrainedModel]:
        """Hold the model with `adapter` active (None: all adapters off). Nothing else runs on it meanwhile.

        A use inside a use gives the outer one its adapter back.
        """
        with self.lock:
            self._switch(adapter)
            self._uses.append(adapter)
            try:
                yield self.model
            finally:
                self._uses.pop()
                if self._uses:
                    self._switch(self._uses[-1])

    def _switch(self, adapter: str | None) -> None:
        if adapter is not None and (self._peft is None or adapter not in self._peft.peft_config):
            raise LoadError(f"{self.ref} holds no adapter {adapter!r}; load_adapter or add_lora comes first.")
        if adapter == self._active or self._peft is None:
            return
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if adapter is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(adapter, inference_mode=True)
        for parameter in trained:  # PEFT takes switching for a wish to train
            parameter.requires_grad_(True)
        self._active = adapter

    def _add(self, name: str, config) -> None:
        from peft import PeftModel

        with quiet():
            if self._peft is None:
                self._peft = PeftModel(self.model, config, adapter_name=name)
            else:
                self._peft.add_adapter(name, config)
        self._active = name
        self._peft.set_adapter(name, inference_mode=True)
        self.model.eval()

    def _fill(self, name: str, plan: AdapterPlan, tensors: Mapping[str, torch.Tensor]) -> None:
        parameters = self.adapter_parameters(name)
        for key, (module, leaf) in plan.slots.items():
            matrix, _, weight = leaf.rpartition(".")
            live = f"{module}.{matrix}.{name}.{weight}" if matrix else f"{module}.modules_to_save.{name}.{leaf}"
            parameters.pop(live).data.copy_(tensors[key])
        if parameters:
            raise LoadError(f"PEFT made {len(parameters)} tensors that no file fills, first {min(parameters)}.")

    def _refuse_misfits(self, folder: Path, plan: AdapterPlan) -> None:
        if not plan.misfits:
            if not plan.slots:
                raise AdapterMismatchError(
                    f"No tensor of {folder / 'adapter_model.safetensors'} has any effect on {self.ref}."
                )
            return
        raise AdapterMismatchError(
            f"{len(plan.misfits)} of {len(plan.misfits) + len(plan.slots) + len(plan.inert)} adapter tensors in "
            f"{folder} fit nowhere in {self.ref} ({type(self.model).__name__}), so the adapter is not loaded:"
            f"{_listed([f'{key}: {why}' for key, why in plan.misfits.items()])}\n"
            "The adapter was made for another base model: check the contract's base_model, or pass base=."
        )

    # --- running ------------------------------------------------------------------------------------------------
    def run_to_block(self, input_ids: torch.Tensor, block: int) -> torch.Tensor:
        """The residual stream after `block`, for every position; later blocks, final norm and lm_head never run.

        Rows of different lengths are padded on the RIGHT and no mask is passed: attention is causal, so no real token
        ever sees the padding, and each row's result does not depend on the batch it was in.

        Args:
            input_ids: int64 [batch, tokens], on any device.
            block: 0-indexed; the result equals transformers' `hidden_states[block + 1]` (but for the last block, where
                transformers returns the state after the final norm).
        Returns:
            [batch, tokens, d_model] in the model's dtype; with grad if grad is on.
        Raises:
            LayerError: no such block.
        """
        if not 0 <= block < self.num_blocks:
            raise LayerError(f"Block {block} does not exist: {self.ref} has blocks 0 to {self.num_blocks - 1}.")
        captured: list[torch.Tensor] = []

        def stop(module, args, output):
            captured.append(output[0] if isinstance(output, tuple) else output)
            raise _StopForward

        handle = self.blocks[block].register_forward_hook(stop)
        try:
            self.model(input_ids=input_ids.to(self.device), use_cache=False)
        except _StopForward:
            pass
        finally:
            handle.remove()
        return captured[0]


def keep_compute_dtype(model: nn.Module) -> None:
    """Have 4-bit layers on a CPU compute in the dtype they were told to.

    Where the CPU has AVX512-BF16, bitsandbytes (0.50) repacks them at their first use for a kernel that rounds to
    bfloat16 whatever the compute dtype says: results were off by 2e-3, and a row's depended on its batch.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False


def drop_towers(model: nn.Module) -> list[str]:
    """Remove vision and audio towers from memory; returns the names of what was removed."""
    dropped = []
    for name, _ in list(model.named_modules()):
        parent_name, _, leaf = name.rpartition(".")
        if leaf in TOWERS and not any(name.startswith(f"{done}.") for done in dropped):
            setattr(model.get_submodule(parent_name), leaf, None)
            dropped.append(name)
    return dropped


def place(model: nn.Module, device: torch.device) -> None:
    """Move `model` to `device`, leaving a per-layer embedding (PLE) table in CPU RAM if the device is another.

    The table of Gemma-4-E2B is 262144 × 8960 × 2 bytes = 4.7 GB and bitsandbytes does not quantise embeddings, so a
    4 GB card can hold the rest only. A lookup moves [batch, tokens, 8960] numbers across, not the table.
    """
    tables = [] if device.type == "cpu" else [m for n, m in model.named_modules() if n.endswith(PER_LAYER_TABLE)]
    kept = {id(module) for table in tables for module in table.modules()}
    moved: dict[int, nn.Parameter] = {}  # so that tied weights stay one tensor
    for module in model.modules():
        if id(module) in kept:
            continue
        for key, parameter in module._parameters.items():
            if parameter is None or parameter.device == device:
                continue
            if id(parameter) not in moved:
                # Quantised parameters carry their state through their own .to(), so that is what is called.
                there = parameter.to(device)
                moved[id(parameter)] = there if isinstance(there, nn.Parameter) else nn.Parameter(there, False)
            module._parameters[key] = moved[id(parameter)]
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = buffer.to(device)
    for table in tables:
        table.register_forward_pre_hook(lambda module, args: (args[0].to(module.weight.device), *args[1:]))
        table.register_forward_hook(lambda module, args, output: output.to(device))


def _nf4_config(quantization: str, dtype: torch.dtype, device: torch.device):
    if quantization != "nf4":
        raise QuantizationError(f"quantization={quantization!r} is not known; use 'nf4', None or 'auto'.")
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise QuantizationError(
            "quantization='nf4' needs bitsandbytes: pip install 'nla-sdk[nf4]', or pass quantization=None."
        )
    if device.type == "mps":
        raise QuantizationError(
            "quantization='nf4' runs on CUDA and on the CPU, not on MPS: pass device='cpu' or quantization=None."
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _adapter_config(folder: Path):
    with quiet():  # importing PEFT imports bitsandbytes, which logs
        from peft import LoraConfig

    try:
        raw = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LoadError(f"{folder / 'adapter_config.json'} is not valid JSON: {error}") from error
    if not isinstance(raw, dict) or raw.get("peft_type") != "LORA":
        kind = raw.get("peft_type") if isinstance(raw, dict) else type(raw).__name__
        raise LoadError(f"{folder / 'adapter_config.json'} describes {kind!r}; expected peft_type 'LORA'.")
    known = {key: value for key, value in raw.items() if key in LoraConfig.__dataclass_fields__}
    known.pop("runtime_config", None)
    with quiet():
        config = LoraConfig(**known)
    config.inference_mode = True
    return config


def _check_loading(info: Mapping, path: Path, *, truncated: bool) -> None:
    missing = set(info.get("missing_keys", ()))
    if truncated:
        missing = {
            key for key in missing if not re.search(r"(^|\.)(norm|final_layernorm|ln_f|lm_head)\.(weight|bias)$", key)
        }
    mismatched = list(info.get("mismatched_keys", ()))
    if missing or mismatched:
        names = sorted(missing)[:4] or [str(item[0]) for item in mismatched[:4]]
        raise LoadError(
            f"{path} lacks weights that its config calls for ({len(missing)} missing, {len(mismatched)} of another "
            f"shape; first: {', '.join(names)}); random numbers would stand in for them. Download it again, or ask its "
            "author."
        )


def _listed(lines: list[str], limit: int = 8) -> str:
    more = [f"… and {len(lines) - limit} more"] if len(lines) > limit else []
    return "".join(f"\n  {line}" for line in [*lines[:limit], *more])
