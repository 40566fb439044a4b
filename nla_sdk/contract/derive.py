"""What follows from the rest of a contract: kind, role, scales, and the injection whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from typing import Any

from ..errors import ContractError
from .file import SIDECAR_NAME
from .keys import INJECTION
from .values import agree, lower, number, short, whole_number

_RAW = (None, "raw", "none")
# Files that say `injection_scale` and nothing else of the injection overwrite the marker's embedding.
_SCALE_KEYS = ("injection_scale", "extraction.injection_scale")
_SCALE_WORDS = (*_SCALE_KEYS, "injection.scale")
# The keys that this form is written with: whoever writes them means what docs/contract.md says of them.
OWN_DEPTH = ("ar_num_blocks", "ar.blocks")
_ABOVE = {"given": 0, "sidecar": 1, "files": 2, "release": 3}


def norm_of_scale(values: dict[str, Any], keys: MutableMapping[str, str], source: str) -> None:
    """What one source calls a scale and is a word is the norm's kind (in place).

    Raises:
        ContractError: it says another norm beside it.
    """
    if "injection_scale" not in values:
        return
    word = lower(values["injection_scale"])
    norm = "raw" if word in _RAW else "sqrt_d" if word == "sqrt_d_model" else None
    if norm is None:
        return
    del values["injection_scale"]
    key = keys.pop("injection_scale", "injection_scale")
    if "injection_norm" not in values:
        values["injection_norm"], keys["injection_norm"] = norm, key
    elif word is not None and lower(values["injection_norm"]) != norm:  # null gives way to what is said
        raise ContractError(
            f"{source}: `{key}` is {word} but `{keys.get('injection_norm', 'injection.norm')}` is "
            f"{short(values['injection_norm'])}. Keep only `injection.norm`."
        )


def of_an_embedding_only(values: dict[str, Any], keys: MutableMapping[str, str], origin: str, source: str) -> None:
    """Of a vector that another source puts in after a block, a source's scale that is a word says nothing (in place).

    `null`, `none` and `sqrt_d_model` under a scale's name are how files of overwriting AVs are written, and how their
    descendants' are left: with that other source's site and rule they would be an injection that nobody trained.

    Raises:
        ContractError: it is given, so it is meant.
    """
    if "injection_site" in values or (key := keys.get("injection_norm")) not in _SCALE_WORDS:
        return
    if origin == "given":
        raise ContractError(
            f"{source}: `{key}` is given as a norm ({values['injection_norm']}), but the vector goes in after a block, "
            "of which a scale alone says nothing. State injection.norm."
        )
    del values["injection_norm"], keys["injection_norm"]


def derive(values: dict[str, Any], origins: dict[str, str], keys: dict[str, str], source: str) -> None:
    """Fill in what follows from the rest (in place).

    Raises:
        ContractError: a scale is no number, or stands beside a norm that has none.
    """
    if "kind" not in values:
        is_table = source.endswith(f".parquet.{SIDECAR_NAME}")
        values["kind"], origins["kind"] = ("nla_dataset", "derived") if is_table else ("nla_model", "default")
    if "role" not in values and values["kind"] == "nla_model" and (found := role_of(values)):
        values["role"], origins["role"] = found, "derived"
    try:
        root = math.sqrt(whole_number(values.get("d_model")))
    except ValueError:  # a table may lack it; of a checkpoint it is refused later, by its own name
        root = None
    _mse_scale(values, origins, keys, source, root)
    if values.get("role") == "ar" and values["kind"] == "nla_model":
        _ar(values, origins, keys)
    else:
        _injection(values, origins, keys, source, root)


def _mse_scale(values: dict, origins: dict, keys: dict, source: str, root: float | None) -> None:
    if "mse_scale" not in values or lower(values["mse_scale"]) == "sqrt_d_model":
        values["mse_scale"] = root
        if root is None:  # nobody can say it without the width
            origins.pop("mse_scale", None)
    elif lower(values["mse_scale"]) in _RAW:
        values["mse_scale"] = None
    else:
        values["mse_scale"] = _scale(values["mse_scale"], keys["mse_scale"], source)


def _scale(value: Any, key: str, source: str) -> float:
    # A wrong norm loads without complaint and only makes explanations worse: what is no number becomes none.
    try:
        return number(value)
    except ValueError:
        raise ContractError(
            f"{source}: `{key}` is {short(value)}; expected a number, `sqrt_d_model` (= √d_model) or null (= raw). A "
            "scale cannot be guessed: ask the publisher which one was used."
        ) from None


def _ar(values: dict, origins: dict, keys: dict) -> None:
    """An AR injects nothing; and under our own name for its depth its state is read as our page says."""
    for name in values.keys() & INJECTION:
        del values[name]
        origins.pop(name, None)
    # Only of a file: whoever corrects the depth of somebody else's file has not said how its state is read.
    own = keys.get("ar_num_blocks") in OWN_DEPTH and origins.get("ar_num_blocks") == "sidecar"
    target = "centred" if values.get("activation_mean") else "raw"
    # A file that says of the norm itself was written since both can be said: it does not mean the other by silence.
    stated_by_form = {"ar_final_norm": "dropped", "ar_bos": True} if own and "ar_final_norm" not in values else {}
    for name, value in {**stated_by_form, "ar_target": target}.items():
        if name not in values:
            values[name], origins[name] = value, "derived"


def _injection(values: dict, origins: dict, keys: dict, source: str, root: float | None) -> None:
    """The injection whole: from a scale alone, or from the block with what follows from it."""
    norm, site = lower(values.get("injection_norm")), lower(values.get("injection_site"))
    if "injection_scale" in values:
        key, whose = keys["injection_scale"], origins["injection_scale"]
        scale = values["injection_scale"] = _scale(values["injection_scale"], key, source)
        if norm == "sqrt_d" and root and agree(scale, root):
            pass
        elif norm in ("sqrt_d", "match", "raw"):
            if whose == origins["injection_norm"]:
                raise ContractError(
                    f"{source}: `{key}` is {short(scale)} and `{keys['injection_norm']}` is {norm}, which has no such "
                    "number. Keep one of them; norm: fixed takes a scale."
                )
            # Of two sources the upper one speaks; a scale alone says nothing of a vector that goes in after a block.
            if whose == "given" and site == "block":
                raise ContractError(
                    f"{source}: `{key}` is given as {short(scale)}, but the vector goes in after a block at norm: "
                    f"{norm}, which has no such number. State injection.norm (fixed or multiply) as well."
                )
            if _ABOVE[whose] < _ABOVE[origins["injection_norm"]] and site != "block":
                norm = values["injection_norm"] = "fixed"
                origins["injection_norm"] = whose
            else:
                del values["injection_scale"], origins["injection_scale"]
        elif norm is None and site != "block":
            norm = values["injection_norm"] = "fixed"
            origins["injection_norm"] = "derived"
    alone = keys.get("injection_scale") in _SCALE_KEYS or keys.get("injection_norm") in _SCALE_KEYS
    elsewhere = "injection_block" in values or lower(values.get("injection_rule")) == "add"
    if site is None and norm is not None and alone and not elsewhere:
        site = values["injection_site"] = "embedding"
        origins["injection_site"] = "derived"
    if site == "embedding" and "injection_rule" not in values:
        values["injection_rule"], origins["injection_rule"] = "replace", "derived"
    if isinstance(layers := values.get("injection_layers"), list) and layers and "injection_markers" not in values:
        values["injection_markers"], origins["injection_markers"] = len(layers), "derived"
    if norm == "sqrt_d" and root:
        values["injection_scale"], origins["injection_scale"] = root, "derived"


def role_of(values: Mapping[str, Any]) -> str | None:
    """The half that a file's only template or depth is of; of a file that serves both halves it cannot be told."""
    av, ar = "av_template" in values, "ar_template" in values or "ar_num_blocks" in values
    return None if av == ar else "av" if av else "ar"
