"""What a contract may not lack, and how a refusal is worded: the key, the file, what it means and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ContractError, UnstatedFactError
from .dialects import names_of, written_as
from .releases.known import values_of
from .values import EXPLANATION_FIELD, MARKER_FIELD, short

if TYPE_CHECKING:
    from pydantic import ValidationError

    from .model import Contract


def require(contract: Contract) -> None:
    """Refuse what is missing: the model's own validation knows types and ranges only.

    Raises:
        ContractError: a checkpoint lacks something, or its template has not exactly one field.
    """
    if contract.kind == "nla_dataset":
        return
    reasons = {"role": "a checkpoint is an AV or an AR", "base_model": "", "d_model": "", "layer": ""}
    if contract.role == "av":
        reasons["av_template"] = "an AV needs its exact prompt"
        if contract.injection_token_id is None:
            reasons["injection_char"] = "an AV needs its marker, or the marker's injection_token_id"
    if contract.role == "ar":
        reasons["ar_template"] = "an AR needs its exact prompt"
        reasons["ar_num_blocks"] = "an AR needs its depth"
        if contract.activation_mean is not None:
            reasons["centred_norm"] = "an AR with an activation_mean needs the norm of what it adds to it"
    for name, reason in reasons.items():
        if getattr(contract, name) is None:
            raise ContractError(_missing(contract, name, reason))
    name, field = ("av_template", MARKER_FIELD) if contract.role == "av" else ("ar_template", EXPLANATION_FIELD)
    if (count := getattr(contract, name).count(field)) != 1:
        raise ContractError(
            f"{contract.source}: `{name}` ({names_of(name)}) must contain {field} exactly once, found {count} times in "
            f"{short(getattr(contract, name))}. Put {field} where the "
            f"{'vector is injected' if contract.role == 'av' else 'explanation stands'}."
        )
    if unsaid := _unstated(contract):
        raise unstated(contract, *unsaid)
    if contract.injection_site == "embedding" and contract.injection_block is not None:
        raise ContractError(
            f"{contract.source}: `injection.block` is {contract.injection_block}, but `injection.site` is embedding, "
            "which has no block. Say site: block, or take the block out."
        )
    layers, markers = contract.injection_layers, contract.injection_markers
    if layers and markers != len(layers):
        raise ContractError(
            f"{contract.source}: `injection.layers` names {len(layers)} blocks, one a marker, but `injection.markers` "
            f"is {markers}. Correct the one or the other."
        )
    if isinstance(contract.layers, list) and contract.layer not in contract.layers:
        raise ContractError(
            f"{contract.source}: `layer` {contract.layer} is none of its `layers` {short(contract.layers)}. Name the "
            "one that is read unless another is said."
        )


def _unstated(contract: Contract) -> list[str]:
    """The facts that nobody states and that are never guessed, as releases differ in them."""
    if contract.role == "ar":
        return [] if contract.ar_final_norm else ["ar_final_norm"]
    wanted = ["injection_site", "injection_rule", "injection_norm"]
    if contract.injection_site == "block":
        wanted.insert(1, "injection_block")
    if contract.injection_norm in ("fixed", "multiply"):
        wanted.append("injection_scale")
    return [name for name in wanted if getattr(contract, name) is None]


_QUESTIONS = {
    "injection_site": "whether the vector takes the place of the marker's embedding, or goes in after a block",
    "injection_block": "after which block the vector goes in",
    "injection_rule": "whether the vector replaces what stands at the marker or is added to it",
    "injection_norm": "what norm the vector gets before it goes in",
    "injection_scale": "what norm (`fixed`) or factor (`multiply`) the vector gets before it goes in",
    "ar_final_norm": "whether the base's final norm stands between the state that is read and the head",
    "ar_bos": "whether the AR's prompt begins with BOS",
    "bos": "whether the AV's prompt begins with BOS",
    "weights_alpha": "the adapter's alpha, which its own config does not say",
    "weights_rslora": "whether the adapter is rank-stabilised (alpha/√r in place of alpha/r)",
}


def unstated(contract: Contract, name: str, *others: str) -> UnstatedFactError:
    """The error for a fact that is never guessed: what it decides, which releases have which value, how to state it.

    Args:
        others: more that is not stated, and is named only.
    """
    key, options = written_as(name), values_of(name)
    said = [
        f"{_as_yaml(value)} ({repos[0]}{f' and {len(repos) - 1} more' if len(repos) > 1 else ''})"
        for value, repos in sorted(options.items(), key=lambda option: -len(option[1]))[:6]
    ]
    example = _as_yaml(next(iter(options), "…"))
    more = f" Not stated either: {', '.join(f'`{written_as(other)}`' for other in others)}." if others else ""
    return UnstatedFactError(
        f"{contract.source}: `{key}` is not stated: {_QUESTIONS[name]}. It is never guessed, as a wrong value runs "
        f"without an error. Known releases have {', '.join(said) or 'none'}. Ask the publisher, then state it: "
        f"contract={{'{key}': …}} (nla: --contract {key}={example}), or in the file.{more}"
    )


def _as_yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def needed(contract: Contract, name: str) -> Any:
    """The value of an attribute that what is asked for cannot do without.

    Raises:
        ContractError: the contract does not have it.
    """
    value = getattr(contract, name)
    if value is None:
        hint = ", or use what contract.verify(tokenizer) returns, which derives it" if "injection" in name else ""
        raise ContractError(f"{contract.source} lacks `{name}`, needed here. Add it ({names_of(name)}){hint}.")
    return value


def malformed(error: ValidationError, keys: dict[str, str], origins: dict[str, str], source: str) -> str:
    """pydantic's findings in our words: the key as the file has it, the value, what was expected."""
    problems: dict[str, str] = {}
    for entry in error.errors(include_url=False):
        name = str(entry["loc"][0])
        message = entry["msg"].removeprefix("Value error, ")
        message = message[0].lower() + message[1:]
        whose = {"release": " (of the known release)", "given": " (as given)"}.get(origins.get(name, ""), "")
        problems.setdefault(name, f"`{keys.get(name, name)}`{whose} is {short(entry['input'])}: {message}")
    what = "what was given" if all(origins.get(name) == "given" for name in problems) else "the file"
    return f"{source}: {'; '.join(problems.values())}. Correct {what}."


def _missing(contract: Contract, name: str, reason: str) -> str:
    meaning = (type(contract).model_fields[name].description or "").rstrip(".")
    because = f": {reason}" if reason else ""
    return (
        f"{contract.source}: `{written_as(name)}` is missing and cannot be derived{because}. It may be given as "
        f"{names_of(name)}. It means: {meaning}. Add it to the file, or state it: "
        f"contract={{'{written_as(name)}': …}}."
    )
