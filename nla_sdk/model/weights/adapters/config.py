"""adapter_config.json: every field of PEFT's LoraConfig, and what becomes of it.

PEFT makes an adapter from this file and may rewrite the base's weights while doing so (PiSSA, OLoRA, CorDA, LoftQ,
…), and the base is shared by all roles. So each field is known here: it is kept, it says only how training began, or
it is refused. PEFT gets a config of what is kept, with an initialisation that touches nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....errors import AdapterConfigError, MissingFileError, first_line
from ....io.parsing import parse_json
from ....io.text import ENCODING
from ...quiet import quiet
from ..files import damage
from .lean import import_peft

if TYPE_CHECKING:
    from peft import LoraConfig

NAME = "adapter_config.json"
Check = Callable[[Any], bool]


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_scale(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value != 0


def _is_rate(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _is_pattern(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        re.compile(value)
    except re.error:
        return False
    return True


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _patterns_to(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(_is_pattern, value)) and all(map(check, value.values()))


def _either(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_TEXTS = _list_of(_is_text)

# What makes the adapter: name → (what it must be, in words, and what an absent or null one means).
KEPT: dict[str, tuple[Check, str, Any]] = {
    "r": (_is_count, "a whole number above 0", 8),
    "lora_alpha": (_is_scale, "a number other than 0", 8),
    "lora_dropout": (_is_rate, "a number from 0 to 1", 0.0),
    "rank_pattern": (_patterns_to(_is_count), "patterns, each with a whole number above 0", {}),
    "alpha_pattern": (_patterns_to(_is_scale), "patterns, each with a number other than 0", {}),
    "use_rslora": (_is_bool, "true or false", False),
    "use_dora": (_is_bool, "true or false", False),
    "lora_bias": (_is_bool, "true or false", False),
    "target_modules": (_either(_is_pattern, _TEXTS), "a pattern or a list of names", None),
    "exclude_modules": (_either(_is_pattern, _TEXTS), "a pattern or a list of names", None),
    "layers_to_transform": (_either(_is_index, _list_of(_is_index)), "block numbers", None),
    "layers_pattern": (_either(_is_text, _TEXTS), "names", None),
    "modules_to_save": (_TEXTS, "a list of names", None),
    "trainable_token_indices": (
        _either(
            _list_of(_is_index), lambda value: isinstance(value, dict) and all(map(_list_of(_is_index), value.values()))
        ),
        "token ids, or module names each with token ids",
        None,
    ),
    "ensure_weight_tying": (_is_bool, "true or false", False),
}
# Who made it, and how training began or went: nothing of it is in what the adapter computes.
HISTORY = {
    "peft_type",
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "runtime_config",
    "megatron_core",
    "qalora_group_size",
    "fan_in_fan_out",  # of GPT-2's Conv1D; PEFT itself sets it right for linear layers and embeddings
    "init_lora_weights",  # its word is looked at, see INITIALISATIONS
    "bias",  # likewise, see `read_config`
    "loftq_config",  # these are read by PEFT with the initialisation of their name only
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",  # compresses activations for the backward pass
    "merge_weights",  # of PEFT before 0.3
    "lora_dtype",  # of ms-swift
    "lorap_lr_ratio",
    "lorap_emb_lr",
}
# Initialisations that leave the base alone: A and B are all there is.
INITIALISATIONS = {"gaussian", "eva", "orthogonal", "mica"}
# Initialisations that take the adapter's first values out of the base: A and B belong to what was left.
_REWRITES = re.compile(r"pissa(_niter_\d+)?|olora|corda|loftq|lora_ga")
# What the adapter computes with these is not LoRA, or not on this base.
REFUSED = {
    "kasa_config": "KaSA takes small singular values out of the base",
    "layer_replication": "it repeats blocks of the base, which all roles share",
    "alora_invocation_tokens": "an activated LoRA acts only after certain tokens, which an NLA's prompt does not hold",
    "megatron_config": "it needs Megatron's parallel layers",
    "use_qalora": "QA-LoRA works on GPTQ weights in groups",
    "monteclora_config": "MonteCLoRA adds sampled matrices",
    "target_parameters": "LoRA on bare parameters (experts) is not supported",
    "use_bdlora": "block-diagonal LoRA is not supported",
    "arrow_config": "Arrow routes between several adapters",
}


@dataclass(frozen=True)
class AdapterFacts:
    """What a contract says of an adapter; None: nothing.

    Attributes:
        alpha, rslora: `lora_alpha` and `use_rslora` of PEFT. The update is s·B·A with s = alpha/r, or alpha/√r where it
            is rank-stabilised (Kalajdzievski 2023).
    """

    alpha: float | None = None
    rslora: bool | None = None

    def fill(self, raw: Mapping[str, Any], file: Path) -> dict[str, Any]:
        """What stands in adapter_config.json, and of this what does not.

        Raises:
            AdapterConfigError: the two disagree.
        """
        filled = dict(raw)
        for key, name in (("lora_alpha", "alpha"), ("use_rslora", "rslora")):
            value, said = getattr(self, name), raw.get(key)
            if value is not None and said is not None and said != value:
                raise AdapterConfigError(
                    f"{file} says {key}: {json.dumps(said)}, the contract `weights.{name}`: {json.dumps(value)}; with "
                    "the wrong one the adapter is too weak or too strong. Correct the wrong one."
                )
            if said is None and value is not None:
                filled[key] = value
        return filled


def read_config(
    folder: Path, facts: AdapterFacts | None = None, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> LoraConfig:
    """The adapter's config: what is kept of it, as PEFT takes it.

    Args:
        facts: what the contract says of it.
        shapes: of its tensors; with them and an alpha in `facts` the file may be absent.
    Raises:
        MissingFileError: there is none.
        AdapterConfigError: no JSON, no LoRA, a field that changes the base, an unknown one, or a value of another kind.
        DamagedFileError: something else than JSON is in its place.
    """
    facts = facts or AdapterFacts()
    if not (folder / NAME).is_file() and facts.alpha is not None and facts.rslora is not None and shapes is not None:
        raw = _of_shapes(shapes)
    else:
        raw = read_json(folder)
    kept = check_config(facts.fill(raw, folder / NAME), folder)
    import_peft()
    from peft import LoraConfig

    with quiet():
        try:
            config = LoraConfig(**kept, init_lora_weights=True, bias="none", task_type="CAUSAL_LM", inference_mode=True)
        except (ValueError, TypeError) as error:
            raise AdapterConfigError(f"{folder / NAME} is not taken by PEFT: {first_line(error)}") from error
    return config


def _of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What an adapter's tensors say of it: the rank of each module."""
    ranks = {key.partition(".lora_A")[0]: shape[0] for key, shape in shapes.items() if ".lora_A" in key and shape}
    usual = Counter(ranks.values()).most_common(1)[0][0] if ranks else KEPT["r"][2]
    pattern = {re.escape(_bare(module)): rank for module, rank in ranks.items() if rank != usual}
    return {"peft_type": "LORA", "r": usual, "rank_pattern": pattern}


def _bare(module: str) -> str:
    while module.startswith("base_model.model."):
        module = module.removeprefix("base_model.model.")
    return module


def read_json(folder: Path) -> dict[str, Any]:
    """What stands in adapter_config.json.

    Raises:
        MissingFileError, AdapterConfigError, DamagedFileError.
    """
    file = folder / NAME
    if not file.is_file():
        raise MissingFileError(f"{folder} holds no {NAME}; expected a PEFT LoRA adapter.")
    if wrong := damage(file):
        raise wrong
    try:
        raw = parse_json(file.read_text(encoding=ENCODING))  # some editors put a BOM before it
    except ValueError as error:
        raise AdapterConfigError(f"{file} is not valid JSON: {first_line(error)}. Download it again.") from error
    if not isinstance(raw, dict) or raw.get("peft_type") != "LORA":
        kind = raw.get("peft_type") if isinstance(raw, dict) else type(raw).__name__
        raise AdapterConfigError(f"{file} describes {kind!r}; expected peft_type 'LORA'.")
    return raw


def check_config(raw: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The fields that make the adapter, each of the kind it must be.

    Args:
        raw: what stands in the file.
        folder: for messages.
    Raises:
        AdapterConfigError: a field that changes the base, an unknown one, or a value of another kind.
    """
    file = folder / NAME
    for key, why in REFUSED.items():
        if raw.get(key):
            raise AdapterConfigError(
                f"{file} sets {key}: {why}, so it is not loaded. Ask its author for it as a plain LoRA."
            )
    _check_initialisation(raw.get("init_lora_weights"), file)
    if raw.get("bias") not in (None, "none", "all", "lora_only"):
        raise AdapterConfigError(f"{file}: bias is {raw['bias']!r}; expected 'none'.")
    # A newer PEFT writes its new fields with their defaults; one that is off asks for nothing.
    unknown = sorted(
        k for k, v in raw.items() if k not in {*KEPT, *HISTORY, *REFUSED} and v not in (None, False, "", [], {})
    )
    if unknown:
        shown = ", ".join(f"{key}: {json.dumps(raw[key])[:60]}" for key in unknown[:4])
        raise AdapterConfigError(
            f"{file} sets what is not known here ({shown}), so what the adapter computes is not known. Take the "
            "field out if it says only how the adapter was trained, or use a newer nla-sdk."
        )
    kept = {}
    for key, (check, expected, absent) in KEPT.items():
        if key in raw and raw[key] is None and key in ("r", "lora_alpha"):
            raise AdapterConfigError(f"{file}: {key} is null; expected {expected}.")
        value = raw.get(key)
        if value is not None and not check(value):
            raise AdapterConfigError(f"{file}: {key} is {json.dumps(value)[:80]}; expected {expected}.")
        kept[key] = absent if value is None else value
    return kept


def _check_initialisation(word: Any, file: Path) -> None:
    if word is None or isinstance(word, bool):
        return
    # PEFT reads some of the words in any case.
    word = word.lower() if isinstance(word, str) else word
    if isinstance(word, str) and word in INITIALISATIONS:
        return
    if isinstance(word, str) and _REWRITES.fullmatch(word):
        raise AdapterConfigError(
            f"{file} says init_lora_weights: {word!r}. Training took the adapter's first values out of the base's "
            "weights, so what was saved belongs to that changed base and is wrong on this one, which all roles share.\n"
            "Its author can convert it to a plain LoRA (PEFT: save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...)); if it has been converted, say init_lora_weights: true."
        )
    raise AdapterConfigError(
        f"{file} says init_lora_weights: {word!r}, which is not known here; expected true, false, "
        f"{', '.join(sorted(map(repr, INITIALISATIONS)))}."
    )
