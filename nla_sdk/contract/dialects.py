"""Every dialect found in published files → the attributes of the canonical form, and which key each came from."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ContractError
from .file import SIDECAR_NAME
from .releases.known import recognise
from .values import agree, lower, number, role, short, whole_number

# What other files call an attribute; "block.key" is a key inside a block. The attribute's own name, at the top level,
# is always read too, and is the only one ever written.
DIALECTS: dict[str, tuple[str, ...]] = {
    "base_model": ("base_checkpoint", "extraction.base_model"),
    "d_model": ("extraction.d_model",),
    "layer": ("extraction.layer", "extraction.layer_index", "extraction_layer_index"),
    "injection_scale": ("extraction.injection_scale",),
    "mse_scale": ("extraction.mse_scale",),
    "injection_char": ("tokens.injection_char", "extraction.injection_char"),
    "injection_token_id": ("tokens.injection_token_id", "extraction.injection_token_id"),
    "injection_left_neighbor_id": ("tokens.injection_left_neighbor_id", "extraction.injection_left_neighbor_id"),
    "injection_right_neighbor_id": ("tokens.injection_right_neighbor_id", "extraction.injection_right_neighbor_id"),
    "critic_suffix_ids": ("tokens.critic_suffix_ids", "extraction.critic_suffix_ids"),
    "av_template": ("prompt_templates.av", "prompt_templates.actor"),
    "ar_template": ("prompt_templates.ar", "prompt_templates.critic"),
    "ar_num_blocks": ("ar.num_hidden_layers", "critic.num_hidden_layers", "critic.extraction_layer_index"),
}
# These hold K where K + 1 blocks are kept.
_INDEX_OF_LAST_BLOCK = frozenset(DIALECTS["ar_num_blocks"])
_BLOCKS = sorted({key.split(".")[0] for keys in DIALECTS.values() for key in keys if "." in key})
SCALES = ("injection_scale", "mse_scale")
NEIGHBOURS = ("injection_left_neighbor_id", "injection_right_neighbor_id")
# What only one half has a use for. Of what is given for a pair, the other half takes none of it.
_OF_ONE_HALF = {
    "av": frozenset(
        ("av_template", "prompt_style", "injection_scale", "injection_char", "injection_token_id", "max_new_tokens")
        + NEIGHBOURS
    ),
    "ar": frozenset(("ar_template", "ar_num_blocks", "critic_suffix_ids", "head_bias", "max_length")),
}
_NEVER_GIVEN = {"pair": "pass the other half itself (av=, ar=)", "provenance": "it says how the half was made"}


@dataclass(frozen=True)
class Reading:
    """What a file says, in the canonical form's words.

    Attributes:
        values: by attribute, as they stand in the file; not yet checked.
        origins: "given", "sidecar", "release", "derived" or "default", by attribute.
        keys: the key each value was found under.
        extras: the keys nobody here knows, where they stood.
    """

    values: dict[str, Any]
    origins: dict[str, str]
    keys: dict[str, str]
    extras: dict[Any, Any]


def read(
    d: Mapping, known: Mapping | None, attributes: Iterable[str], source: str, given: Mapping | None = None
) -> Reading:
    """What a mapping in any dialect says, filled from a known release and completed with what follows from the rest.

    Args:
        d: what a sidecar holds. Not changed.
        known: a mapping in any dialect that fills what `d` lacks.
        attributes: names of the canonical form, in its order.
        source: the file's name, for messages.
        given: what the user says, in any dialect: stands above `d`. What only the other half has a use for is left out.
    Raises:
        ContractError: two keys contradict each other, a number that others follow from is none, or a key that is given
            is none of a contract.
    """
    attributes = tuple(attributes)
    entries, extras = _collect(d, attributes)
    sidecar, sidecar_keys = _choose(entries, source)
    release, release_keys = _choose(_collect(known or {}, attributes)[0], f"{source} (known release)")
    stated, stated_keys = _choose(_collect_given(given or {}, attributes), "contract=")
    filed = release | sidecar
    half = filed.get("role") or stated.get("role") or _role_of(filed)
    others = _OF_ONE_HALF.get({"av": "ar", "ar": "av"}.get(str(half), ""), frozenset())
    if "role" in filed:  # a half is what it is; only of one that does not say so it can be told
        others |= {"role"}
    stated = {name: value for name, value in stated.items() if name not in others}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    keys: dict[str, str] = {}
    layers = (("given", stated, stated_keys), ("sidecar", sidecar, sidecar_keys), ("release", release, release_keys))
    for origin, layer, layer_keys in layers:
        _fill(values, origins, keys, layer, layer_keys, origin)
    is_av = (half or _role_of(values)) == "av" and values.get("kind", "nla_model") == "nla_model"
    if known is None and is_av and "prompt_style" not in values:
        _fill(values, origins, keys, recognise(values)[0], {}, "release")
    _derive(values, origins, keys, source)
    return Reading(values, origins, keys, extras)


def _fill(values: dict, origins: dict, keys: dict, layer: Mapping, layer_keys: Mapping, origin: str) -> None:
    """Take from a layer what those above it lack (in place)."""
    stale = _stale(values, layer)
    for name, value in layer.items():
        if name not in values and name not in stale:
            values[name], origins[name], keys[name] = value, origin, layer_keys.get(name, name)


def _collect_given(given: Mapping, attributes: tuple[str, ...]) -> dict[str, list[tuple[str, Any]]]:
    """Like `_collect`, but `block.key` may be one word, and a key that is none of a contract is refused."""
    if not isinstance(given, Mapping):
        raise ContractError(f"contract=: expected a mapping of keys to values, found a {type(given).__name__}.")
    nested: dict[Any, Any] = {}
    for key, value in given.items():
        block, _, leaf = str(key).rpartition(".")
        if block in _BLOCKS:
            nested.setdefault(block, {})[leaf] = value
        elif key in _BLOCKS and isinstance(value, Mapping):
            nested.setdefault(key, {}).update(value)
        else:
            nested[key] = value
    entries, unknown = _collect(nested, attributes)
    for key in unknown:
        inner = unknown[key]
        name = f"{key}.{next(iter(inner), '')}" if key in _BLOCKS and isinstance(inner, Mapping) else str(key)
        near = difflib.get_close_matches(name, [*attributes, *(key for keys in DIALECTS.values() for key in keys)], 1)
        meant = f" Did you mean `{near[0]}`?" if near else ""
        raise ContractError(f"contract=: `{name}` is no key of a contract; docs/contract.md lists them.{meant}")
    for name, instead in _NEVER_GIVEN.items():
        if name in entries:
            raise ContractError(f"contract=: `{name}` is not stated this way: {instead}.")
    return entries


def _collect(raw: Mapping, attributes: tuple[str, ...]) -> tuple[dict[str, list[tuple[str, Any]]], dict[Any, Any]]:
    """Every known key with its value, by attribute, and all the rest where it stood."""
    rest = copy.deepcopy(dict(raw))
    for block in _BLOCKS:
        if isinstance(rest.get(block), dict):
            rest[block] = dict(rest[block])  # a YAML alias may share the block with an unknown key
    entries: dict[str, list[tuple[str, Any]]] = {}
    for name in attributes:
        for key in (name, *DIALECTS.get(name, ())):
            block, _, leaf = key.rpartition(".")
            holder = rest.get(block) if block else rest
            if isinstance(holder, dict) and leaf in holder:
                entries.setdefault(name, []).append((key, holder.pop(leaf)))
                if block and not holder:
                    del rest[block]
    return entries, rest


def _choose(entries: dict[str, list[tuple[str, Any]]], source: str) -> tuple[dict[str, Any], dict[str, str]]:
    """One value per attribute, with the key it was found under; two keys that disagree are refused."""
    values: dict[str, Any] = {}
    keys: dict[str, str] = {}
    first: dict[str, Any] = {}
    for name, candidates in entries.items():
        for key, raw in candidates:
            # Null and [] are how some writers leave a key out; only of a scale is null a statement (raw).
            if (raw is None and name not in SCALES) or (isinstance(raw, list) and not raw):
                continue
            value = raw
            if key in _INDEX_OF_LAST_BLOCK:
                try:
                    value = whole_number(raw) + 1
                except ValueError as error:
                    raise ContractError(f"{source}: `{key}` is {short(raw)}: {error}.") from None
            if name == "role":
                value = role(raw)
            if name not in values:
                values[name], keys[name], first[name] = value, key, raw
            elif not agree(values[name], value, values.get("d_model")):
                raise ContractError(
                    f"{source}: `{keys[name]}` is {short(first[name])} but `{key}` is {short(raw)}, and both give "
                    f"`{name}`. Correct the wrong one, or keep only `{name}`."
                )
    return values, keys


def _stale(values: Mapping[str, Any], below: Mapping[str, Any]) -> set[str]:
    """What the layer below must not fill, because it belongs to another marker or template than what stands above it.

    A sidecar that changes a marker or template and names no ids would else get the release's: the wrong token would be
    overwritten, or a right prompt refused. Left open, they are derived from the live tokenizer by `verify`.
    """

    def differs(name: str) -> bool:
        return name in values and name in below and not agree(values[name], below[name])

    stale = set()
    # The id is another marker's too, and so is the text where only the id differs; both have other neighbours.
    if differs("injection_char") or differs("injection_token_id"):
        stale |= {"injection_char", "injection_token_id", *NEIGHBOURS}
    if differs("av_template"):
        stale |= set(NEIGHBOURS)
    if differs("ar_template"):
        stale.add("critic_suffix_ids")
    return stale


def _derive(values: dict[str, Any], origins: dict[str, str], keys: dict[str, str], source: str) -> None:
    """Fill in what follows from the rest: kind, role and the scales (in place)."""
    if "kind" not in values:
        is_table = source.endswith(f".parquet.{SIDECAR_NAME}")
        values["kind"], origins["kind"] = ("nla_dataset", "derived") if is_table else ("nla_model", "default")
    if "role" not in values and values["kind"] == "nla_model" and (found := _role_of(values)):
        values["role"], origins["role"] = found, "derived"
    try:
        root = math.sqrt(whole_number(values.get("d_model")))
    except ValueError:  # a table may lack it; of a checkpoint it is refused later, by its own name
        root = None
    # Null means raw: a scale that is neither null nor a number must not become either, as a wrong norm loads without
    # complaint and only makes explanations worse. Nor is an absent `injection_scale` √d_model: half of its writers mean
    # that, the others have none, as they add the vector after a block and overwrite nothing.
    for name in SCALES:
        if name not in values:
            if root and name == "mse_scale":
                values[name] = root
            continue
        word = lower(values[name])
        if word in ("raw", "none"):
            values[name] = None
        elif word == "sqrt_d_model":
            if root:
                values[name] = root
            else:
                del values[name], origins[name]
        elif word is not None:
            try:
                values[name] = number(values[name])
            except ValueError:
                if name == "injection_scale" and values.get("role") == "ar":
                    values[name] = None  # an AR injects nothing
                    continue
                raise ContractError(
                    f"{source}: `{keys[name]}` is {short(values[name])}; expected a number, `sqrt_d_model` "
                    "(= √d_model) or null (= raw). A scale cannot be guessed: ask the publisher which one was used."
                ) from None


def _role_of(values: Mapping[str, Any]) -> str | None:
    """The half that a file's only template or depth is of; of a file that serves both halves it cannot be told."""
    av, ar = "av_template" in values, "ar_template" in values or "ar_num_blocks" in values
    return None if av == ar else "av" if av else "ar"


def names_of(attribute: str) -> str:
    """What the files call an attribute, for messages."""
    others = ", ".join(f"`{key}`" for key in DIALECTS.get(attribute, ()))
    if attribute == "ar_num_blocks":
        others += " (these hold K, where K + 1 blocks run)"
    return f"`{attribute}`" + (f"; in other dialects {others}" if others else "")
