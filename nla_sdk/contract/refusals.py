"""What a contract may not lack, and how a refusal is worded: the key, the file, what it means and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ContractError
from .dialects import names_of
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
    # Of a scale null is a statement (raw), so it is absent where nobody stated it.
    if contract.role == "av" and contract.origins["injection_scale"] == "default":
        raise ContractError(
            f"{contract.source}: `injection_scale` is missing, the norm an activation gets before it is injected. It "
            "is never guessed: some mean √d_model by that, some a number of theirs, some that the vector is added "
            "after a block, which is not done here. Ask the publisher, then state it: contract={'injection_scale': …} "
            "(nla: --contract injection_scale=…), or in the file: a number, sqrt_d_model, or null (as it is)."
        )


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
        f"{contract.source}: `{name}` is missing and cannot be derived{because}. It may be given as {names_of(name)}. "
        f"It means: {meaning}. Add it to the file, or state it: contract={{'{name}': …}}."
    )
