"""Every dialect found in published files → the attributes of the canonical form, and which key each came from."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ContractError
from .derive import OWN_DEPTH, derive, norm_of_scale, of_an_embedding_only, role_of
from .keys import DIALECTS, INJECTION, WRITTEN, WRITTEN_BLOCKS
from .releases.known import recognise
from .values import agree, lower, over, role, short, whole_number

# A block may be one word: `output: lines`.
_WORD_OF = {"output": "form", "weights": "kind"}
# Nobody but this form has such blocks: a key in them that is not known is a mistake, not somebody's note.
_OWN_BLOCKS = frozenset(("injection", "output", "weights"))

# These hold K where K + 1 blocks are kept.
_INDEX_OF_LAST_BLOCK = frozenset(DIALECTS["ar_num_blocks"][1:])
_BLOCKS = sorted({key.split(".")[0] for keys in (*DIALECTS.values(), WRITTEN.values()) for key in keys if "." in key})
# What a key that is not ours calls a norm.
_NORM_OF = {"training.injection_mode": {"normalize": "fixed", "normalise": "fixed"}}
NEIGHBOURS = ("injection_left_neighbor_id", "injection_right_neighbor_id")
_OTHER = {"av": "ar", "ar": "av"}
# What only one half has a use for. Of what is given for a pair, the other half takes none of it.
_OF_ONE_HALF = {
    "av": frozenset(
        ("av_template", "prompt_style", "bos", "system", "enable_thinking", "prefill", "max_new_tokens")
        + ("injection_char", "injection_token_id", *NEIGHBOURS, *INJECTION)
        + tuple(name for name in WRITTEN if name.startswith("output_"))
    ),
    "ar": frozenset(
        ("ar_template", "ar_num_blocks", "critic_suffix_ids", "head_bias", "max_length", "reconstruction_map")
        + tuple(name for name in WRITTEN if name.startswith("ar_"))
    ),
}
# By what it goes with: an upper layer that says another of these leaves nothing of the lower one's.
_BELONGS_TO: dict[tuple[str, ...], frozenset[str]] = {
    ("base_model",): frozenset(("base_revision",)),
    ("injection_site", "injection_rule", "injection_block"): frozenset(
        ("injection_site", "injection_block", "injection_rule", "injection_norm", "injection_scale")
        + ("injection_coefficient",)
    ),
    ("injection_norm",): frozenset(("injection_scale", "injection_coefficient")),
    ("prompt_style",): frozenset(("bos", "system", "enable_thinking")),
    ("activation_mean",): frozenset(("centred_norm", "baseline_mse")),
    ("ar_heads", "ar_head_file"): frozenset(("ar_head_file", "ar_head_key", "head_bias")),
    ("weights_kind",): frozenset(("weights_adapters", "weights_parent", "weights_rslora", "weights_alpha")),
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
    d: Mapping,
    known: Mapping | None,
    attributes: Iterable[str],
    source: str,
    given: Mapping | None = None,
    found: Mapping | None = None,
    wanted: str | None = None,
) -> Reading:
    """What a mapping in any dialect says, filled from a known release and completed with what follows from the rest.

    Args:
        d: what a sidecar holds. Not changed.
        known: a mapping in any dialect that fills what `d` lacks.
        attributes: names of the canonical form, in its order.
        source: the file's name, for messages.
        given: what the user says, in any dialect: stands above `d`. What only the other half has a use for is left out.
        found: what the checkpoint's other files say, in any dialect: stands below `d` and above `known`.
        wanted: the half that it is asked for as, where nothing tells which one it is of.
    Raises:
        ContractError: two keys contradict each other, a number that others follow from is none, or a key that is given
            is none of a contract.
    """
    attributes = tuple(attributes)
    entries, extras = _collect(d, attributes, source)
    sidecar, sidecar_keys = _choose(entries, source)
    release, release_keys = _choose_from(known, attributes, f"{source} (known release)")
    files, files_keys = _choose_from(found, attributes, f"{source} (the files beside it)")
    stated, stated_keys = _choose(_collect_given(given or {}, attributes), "contract=")
    filed = release | files | sidecar
    half = filed.get("role") or stated.get("role") or role_of(filed) or wanted
    others = _OF_ONE_HALF.get(_OTHER.get(str(half), ""), frozenset())
    if "role" in filed:  # a half is what it is; only of one that does not say so it can be told
        others |= {"role"}
    templates = {
        "av": stated.get("av_template", filed.get("av_template")),
        "ar": stated.get("ar_template", filed.get("ar_template")),
    }
    stated = {name: value for name, value in stated.items() if name not in others}
    _keep_own_fields(stated, str(half), templates)
    layers = [
        _Layer("given", stated, stated_keys),
        _Layer("sidecar", sidecar, sidecar_keys),
        _Layer("files", files, files_keys),
        _Layer("release", release, release_keys),
    ]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    keys: dict[str, str] = {}
    for layer in layers:
        norm_of_scale(layer.values, layer.keys, source)
    sites = [layer.values["injection_site"] for layer in layers if "injection_site" in layer.values]
    for layer in layers:
        if sites and lower(sites[0]) == "block":
            of_an_embedding_only(layer.values, layer.keys, layer.origin, source)
        _fill(values, origins, keys, layer)
    if "prompt_style" in sidecar and agree(values["prompt_style"], sidecar["prompt_style"]):
        # Said again it is still the file's, which means by it that BOS is put where there is one.
        origins["prompt_style"] = "sidecar"
    is_model = values.get("kind", "nla_model") == "nla_model"
    if known is None and is_model and _left_open(half or role_of(values), values, keys):
        _fill(values, origins, keys, _Layer("release", recognise(values)[0], {}))
    if "role" not in values and half is not None and half == wanted:
        values["role"], origins["role"] = wanted, "derived"
    derive(values, origins, keys, source)
    for block in {written_as(name).rpartition(".")[0] for name in values} & extras.keys():
        if not isinstance(extras[block], dict):
            raise _no_block(block, extras[block], source)
    return Reading(values, origins, keys, extras)


def _keep_own_fields(stated: dict[str, Any], half: str, templates: Mapping[str, Any]) -> None:
    """Of the fields that are given for a pair a half takes those of its own template (in place).

    What stands in neither template that is known here stays, to be refused.
    """
    fields, other = stated.get("fields"), _OTHER.get(half)
    if not isinstance(fields, Mapping) or other is None:
        return
    own, others = (str(templates[role] or "") for role in (half, other))
    unknown = templates[other] is None and half == "ar"  # the other half's own file may hold its template

    def of_the_other(name: Any) -> bool:
        field = f"{{{name}}}"
        return field not in own and (unknown or field in others)

    if any(map(of_the_other, fields)):
        stated["fields"] = {name: rule for name, rule in fields.items() if not of_the_other(name)}


def _left_open(half: str | None, values: Mapping[str, Any], keys: Mapping[str, str]) -> bool:
    """Whether a half does not say what is never guessed, so that a release may be recognised in it."""
    if half == "ar":
        return not {"ar_final_norm", "ar_bos"} <= values.keys() and keys.get("ar_num_blocks") not in OWN_DEPTH
    return half == "av" and "prompt_style" not in values


@dataclass(frozen=True)
class _Layer:
    """What one source says, and under which keys; those above it win."""

    origin: str
    values: dict[str, Any]
    keys: dict[str, str]


def _fill(values: dict, origins: dict, keys: dict, layer: _Layer) -> None:
    """Take from a layer what those above it lack (in place)."""
    stale = _stale(values, layer.values)
    for name, value in layer.values.items():
        if name in stale:
            continue
        if name not in values:
            values[name], origins[name], keys[name] = value, layer.origin, layer.keys.get(name, written_as(name))
        elif name == "fields":  # each field's rule, leaf by leaf
            values[name] = over(values[name], value)


def _choose_from(
    raw: Mapping | None, attributes: tuple[str, ...], source: str
) -> tuple[dict[str, Any], dict[str, str]]:
    return _choose(_collect(raw or {}, attributes, source)[0], source)


def _collect_given(given: Mapping, attributes: tuple[str, ...]) -> dict[str, list[tuple[str, Any]]]:
    """Like `_collect`, but `block.key` may be one word, and a key that is none of a contract is refused."""
    if not isinstance(given, Mapping):
        raise ContractError(f"contract=: expected a mapping of keys to values, found a {type(given).__name__}.")
    nested: dict[Any, Any] = {}
    for key, value in _words_spelled_out(given).items():
        block, _, leaf = str(key).rpartition(".")
        if block in _BLOCKS:
            nested.setdefault(block, {})[leaf] = value
        elif key in _BLOCKS and isinstance(value, Mapping):
            nested.setdefault(key, {}).update(value)
        else:
            nested[key] = value
    entries, unknown = _collect(nested, attributes, "contract=")
    for key in unknown:
        inner = unknown[key]
        name = f"{key}.{next(iter(inner), '')}" if key in _BLOCKS and isinstance(inner, Mapping) else str(key)
        raise _no_key(name, attributes, "contract=")
    for name, instead in _NEVER_GIVEN.items():
        if name in entries:
            raise ContractError(f"contract=: `{name}` is not stated this way: {instead}.")
    return entries


def _no_key(name: str, attributes: Iterable[str], source: str) -> ContractError:
    known = [*map(written_as, attributes), *(key for keys in DIALECTS.values() for key in keys)]
    near = difflib.get_close_matches(name, known, 1)
    meant = f" Did you mean `{near[0]}`?" if near else ""
    return ContractError(f"{source}: `{name}` is no key of a contract; docs/contract.md lists them.{meant}")


def _no_block(block: str, value: Any, source: str) -> ContractError:
    leaves = ", ".join(WRITTEN_BLOCKS[block])
    return ContractError(f"{source}: `{block}` is {short(value)}; expected a mapping with keys of {leaves}.")


def _words_spelled_out(raw: Mapping) -> dict[Any, Any]:
    """A block that is one word as the block: `output: lines` is `output: {form: lines}`."""
    return {
        key: {_WORD_OF[key]: value} if key in _WORD_OF and isinstance(value, str) else value
        for key, value in raw.items()
    }


def _collect(
    raw: Mapping, attributes: tuple[str, ...], source: str
) -> tuple[dict[str, list[tuple[str, Any]]], dict[Any, Any]]:
    """Every known key with its value, by attribute, and all the rest where it stood.

    Raises:
        ContractError: a block of this form's own is none, or holds a key that is not known.
    """
    rest = copy.deepcopy(_words_spelled_out(raw))
    for block in _BLOCKS:
        if isinstance(rest.get(block), dict):
            rest[block] = dict(rest[block])  # a YAML alias may share the block with an unknown key
        elif block in _OWN_BLOCKS and rest.get(block) is not None:
            raise _no_block(block, rest[block], source)
    entries: dict[str, list[tuple[str, Any]]] = {}
    for name in attributes:
        for key in dict.fromkeys((written_as(name), name, *DIALECTS.get(name, ()))):
            block, _, leaf = key.rpartition(".")
            holder = rest.get(block) if block else rest
            if isinstance(holder, dict) and leaf in holder:
                entries.setdefault(name, []).append((key, holder.pop(leaf)))
                if block and not holder:
                    del rest[block]
    for block in _OWN_BLOCKS:
        if isinstance(rest.get(block), dict) and rest[block]:
            raise _no_key(f"{block}.{next(iter(rest[block]))}", attributes, source)
    return entries, rest


def _choose(entries: dict[str, list[tuple[str, Any]]], source: str) -> tuple[dict[str, Any], dict[str, str]]:
    """One value per attribute, with the key it was found under; two keys that disagree are refused."""
    values: dict[str, Any] = {}
    keys: dict[str, str] = {}
    first: dict[str, Any] = {}
    for name, candidates in entries.items():
        for key, raw in candidates:
            # Null and [] are how some writers leave a key out; only of a scale is null a statement (raw), and of the
            # norm for injection only under our own name: of others' null some mean raw, some have no such norm, and
            # some had one and did not write it down.
            states_null = name == "mse_scale" or key == "injection_scale"
            if (raw is None and not states_null) or (isinstance(raw, list) and not raw):
                continue
            value = raw
            if key in _INDEX_OF_LAST_BLOCK:
                try:
                    value = whole_number(raw) + 1
                except ValueError as error:
                    raise ContractError(f"{source}: `{key}` is {short(raw)}: {error}.") from None
            if key in _NORM_OF:
                value = _NORM_OF[key].get(str(lower(raw)), raw)
            if name == "role":
                value = role(raw)
            if name not in values:
                values[name], keys[name], first[name] = value, key, raw
            elif not agree(values[name], value, values.get("d_model")):
                raise ContractError(
                    f"{source}: `{keys[name]}` is {short(first[name])} but `{key}` is {short(raw)}, and both give "
                    f"`{written_as(name)}`. Correct the wrong one, or keep only `{written_as(name)}`."
                )
    return values, keys


def _stale(values: Mapping[str, Any], below: Mapping[str, Any]) -> set[str]:
    """What the layer below must not fill, because it belongs to something else than what stands above it.

    A sidecar that changes a marker or template and names no ids would else get the release's: the wrong token would be
    overwritten, or a right prompt refused. Left open, they are derived from the live tokenizer by `verify`, and what
    nobody can derive is refused.
    """

    def differs(name: str) -> bool:
        return name in values and name in below and not agree(values[name], below[name])

    stale = set()
    # The id is another marker's too, and so is the text where only the id differs; both have other neighbours.
    if differs("injection_char") or differs("injection_token_id"):
        stale |= {"injection_char", "injection_token_id", *NEIGHBOURS}
    if differs("av_template"):
        stale |= {*NEIGHBOURS, "fields"}
    if differs("ar_template"):
        stale |= {"critic_suffix_ids", "fields"}
    for names, theirs in _BELONGS_TO.items():
        if any(map(differs, names)):
            stale |= theirs
    # A scale alone is the norm of `fixed`: of another kind of norm it is not the number.
    if lower(values.get("injection_norm", "fixed")) != "fixed" and "injection_norm" not in below:
        stale.add("injection_scale")
    return stale


def written_as(attribute: str) -> str:
    """The key that an attribute is written under: `injection.site`, `layer`."""
    return WRITTEN.get(attribute, attribute)


def names_of(attribute: str) -> str:
    """What the files call an attribute, for messages."""
    others = ", ".join(f"`{key}`" for key in DIALECTS.get(attribute, ()))
    if attribute == "ar_num_blocks":
        others += " (those named index or num_hidden_layers hold K, where K + 1 blocks run)"
    return f"`{written_as(attribute)}`" + (f"; in other dialects {others}" if others else "")
