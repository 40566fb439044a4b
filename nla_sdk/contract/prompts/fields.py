"""The fields of a template beside marker and explanation: {depth}, {layer}, {question}, {model_tag}.

Only a field that the contract declares is replaced, and what stands in its place is data: braces in it are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast, get_args

from ...errors import ContractError, InputError, LayerError, NotAnOracleError, TextError, UnseenValueError
from ...io.text import FAULTS, fault_of
from ..values import EXPLANATION_FIELD, MARKER_FIELD, FieldName, FieldRule, short

if TYPE_CHECKING:
    from ..model import Contract

NAMES: tuple[str, ...] = get_args(get_args(FieldName)[0])
_FIELD = re.compile(r"\{(" + "|".join(NAMES) + r")\}")
# Of each half: the attribute of its template, and the field of the other half's, which has no meaning in it.
_TEMPLATES = {"av": ("av_template", EXPLANATION_FIELD), "ar": ("ar_template", MARKER_FIELD)}
# What other people's code calls a field of ours; left as it is, the braces would be put to the model.
_FOREIGN = {"{pct}": "{depth}"}


def require_fields(contract: Contract) -> None:
    """Refuse declared fields that stand nowhere, and fields that stand somewhere and are not declared.

    Raises:
        ContractError: names the field and the template.
    """
    for name, rule in contract.fields.items():
        _require_rule(contract, name, rule)
    if contract.kind == "nla_dataset":
        return
    templates = [text for text in (contract.av_template, contract.ar_template) if text]
    for name in contract.fields:
        if not any(f"{{{name}}}" in text for text in templates):
            raise ContractError(
                f"{contract.source}: `fields.{name}` is declared, but no template holds {{{name}}}. Put it where the "
                f"{name.replace('_', ' ')} stands, or take it out of `fields`."
            )
    require_declared(contract, str(contract.role))


def require_declared(contract: Contract, half: str) -> None:
    """Refuse a half's template that holds what nobody will replace, or a declared field twice.

    Raises:
        ContractError: names the field and the template.
    """
    name, foreign = _TEMPLATES[half]
    template = getattr(contract, name) or ""
    found = _FIELD.findall(template)
    if undeclared := [field for field in found if field not in contract.fields]:
        raise ContractError(
            f"{contract.source}: `{name}` holds {{{undeclared[0]}}}, which `fields` does not declare, so the braces "
            f"themselves would be put to the model. Declare it (fields: {{{undeclared[0]}: …}}), or correct the "
            "template."
        )
    if twice := [field for field in found if found.count(field) > 1]:
        raise ContractError(
            f"{contract.source}: `{name}` holds {{{twice[0]}}} {found.count(twice[0])} times; expected exactly once."
        )
    if foreign in template:
        meant = "write the marker itself" if half == "ar" else f"an AV's template has {MARKER_FIELD}"
        raise ContractError(f"{contract.source}: `{name}` holds {foreign}, which nothing replaces there: {meant}.")
    for theirs, ours in _FOREIGN.items():
        if theirs in template:
            raise ContractError(
                f"{contract.source}: `{name}` holds {theirs}, which nothing replaces. Write {ours}, and declare it "
                f"(fields: {{{ours[1:-1]}: …}})."
            )


def _require_rule(contract: Contract, name: str, rule: FieldRule) -> None:
    def refuse(what: str) -> ContractError:
        return ContractError(f"{contract.source}: `fields.{name}`: {what}.")

    if name == "depth":
        if rule.rule is None and rule.default is None:
            raise refuse("how a depth is rounded is not stated: rule: start (100·L/n) or middle (100·(L + ½)/n)")
        if any(isinstance(value, str) for value in rule.values or ()):
            raise refuse(f"`values` is {short(rule.values)}; expected whole numbers, percent")
    elif rule.rule is not None or rule.blocks is not None:
        raise refuse("`rule` and `blocks` are of {depth} only")
    if rule.nearest and (not rule.values or name not in ("depth", "layer")):
        raise refuse("`nearest` needs a number and its `values`")
    if rule.default is not None and rule.values and str(rule.default) not in map(str, rule.values):
        raise refuse(f"`default` {short(rule.default)} is none of its `values` {_list(rule.values)}")


def rule_of(contract: Contract, name: str) -> FieldRule:
    """What a declared field may be."""
    return contract.fields[cast(FieldName, name)]


def own_fields(contract: Contract) -> list[str]:
    """The declared fields that the contract's own template holds; of a table, those of either template."""
    templates = [_TEMPLATES[contract.role][0]] if contract.role else ["av_template", "ar_template"]
    text = "".join(getattr(contract, name) or "" for name in templates)
    return [name for name in contract.fields if f"{{{name}}}" in text]


def field_values(
    contract: Contract,
    *,
    layer: int | None = None,
    num_blocks: int | None = None,
    question: str | None = None,
    model_tag: str | None = None,
) -> dict[str, str]:
    """What stands in the declared fields of the template, as text.

    The depth of block L among n is round(100·L/n) (rule `start`) or round(100·(L + ½)/n) (`middle`); with `nearest` the
    closest of the trained values to the unrounded number, the lower of two equally close.

    Args:
        layer: block that the vectors are read from; None: the contract's `layer`, or the field's default.
        num_blocks: how many blocks the base has, for {depth}; not needed where the contract says `blocks`.
        question: for {question}; None: the field's default.
        model_tag: for {model_tag}; None: the field's default.
    Returns:
        By field, in the contract's order; empty where it declares none. For `prompt` and `ar_prompt_ids_batch`.
    Raises:
        UnseenValueError: a value that was not trained; lists those that were.
        LayerError: the base has no such block.
        InputError: a field that nobody states, or a question that is no text.
        NotAnOracleError: a question, and no place for one.
    Example:
        >>> contract.field_values(num_blocks=28)  # doctest: +SKIP
        {'depth': '73'}
    """
    if question is not None and "question" not in contract.fields:
        raise NotAnOracleError(
            f"{contract.source}: a question was asked, but its prompt has no place for one ({{question}}): it is no "
            "activation oracle. Use explain."
        )
    if model_tag is not None and "model_tag" not in contract.fields:
        raise InputError(f"{contract.source}: a model tag was given, but its prompt has no place for one.")
    block = readable_block(contract, layer, num_blocks)
    said = {"question": question, "model_tag": model_tag}
    return {
        name: _text(contract, name, said.get(name), layer is not None, block, num_blocks)
        for name in own_fields(contract)
    }


def _text(
    contract: Contract, name: str, said: str | None, layer_said: bool, block: int | None, num_blocks: int | None
) -> str:
    """What stands in one field."""
    rule, value = rule_of(contract, name), said
    if value is None and not (layer_said and name in ("depth", "layer")):
        value = rule.default
    if value is None and name == "depth":
        value = _depth(contract, rule, block, num_blocks)
    elif value is None and name == "layer" and block is not None:
        value = _nearest(rule.values or [], block) if rule.nearest else block
    if value is None:
        raise _unsaid(contract, name)
    return allowed(contract, name, said if value is said and said is not None else str(value))


def readable_block(contract: Contract, layer: int | None, num_blocks: int | None) -> int | None:
    """The block that is read, if it may be; the contract's where none is said.

    Raises:
        LayerError, UnseenValueError, InputError: see `field_values`.
    """
    if layer is None:
        return contract.layer
    if isinstance(layer, bool) or not isinstance(layer, int):
        raise InputError(f"layer is {short(layer)}; expected a whole number.")
    if layer < 0 or (num_blocks is not None and layer >= num_blocks):
        last = "" if num_blocks is None else f" to {num_blocks - 1}"
        raise LayerError(f"Layer {layer} does not exist: layers run from 0{last}.")
    readable = contract.layers if contract.layers is not None else [contract.layer]
    if readable != "any" and contract.layer is not None and layer != contract.layer and layer not in readable:
        raise UnseenValueError(
            f"{contract.source}: layer {layer} was never trained; it reads {_list(readable)}. Use one of them."
        )
    return layer


def _depth(contract: Contract, rule: FieldRule, block: int | None, num_blocks: int | None) -> int:
    blocks = rule.blocks or num_blocks
    if block is None or blocks is None:
        lacking = "a layer" if block is None else "the number of blocks (num_blocks=)"
        raise InputError(f"{contract.source}: the {{depth}} in its prompt cannot be computed without {lacking}.")
    exact = 100 * (block + (0.5 if rule.rule == "middle" else 0)) / blocks
    return _nearest(rule.values or [], exact) if rule.nearest else round(exact)


def _nearest(values: Iterable[int | str], wanted: float) -> int:
    return min(sorted(int(value) for value in values), key=lambda value: abs(value - wanted))


def _unsaid(contract: Contract, name: str) -> InputError:
    what = {"question": "pass question=", "model_tag": "pass model_tag=", "layer": "pass layer="}.get(name, "state it")
    rule = rule_of(contract, name)
    allowed_values = f" It may be {_list(rule.values)}." if rule.values else ""
    return InputError(
        f"{contract.source}: its prompt needs a {name.replace('_', ' ')} and has no default for it: {what}."
        f"{allowed_values}"
    )


def allowed(contract: Contract, name: str, text: str) -> str:
    """The text of a field if it may stand there.

    Raises:
        UnseenValueError: it was never trained; lists what was.
        InputError, TextError: it is blank, or no text.
    """
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{contract.source}: the {name.replace('_', ' ')} is {short(text)}; expected a text.")
    if fault := fault_of(text):
        raise TextError(f"{contract.source}: the {name.replace('_', ' ')} {short(text)} holds {FAULTS[fault]}.")
    values = rule_of(contract, name).values
    if values is not None and text not in map(str, values):
        raise UnseenValueError(
            f"{contract.source}: {name.replace('_', ' ')} {short(text)} was never trained; expected one of "
            f"{_list(values)}."
        )
    return text


def stand_ins(contract: Contract) -> dict[str, str]:
    """A text that may stand in each of its own fields, for whoever wants the prompt around them only."""
    # Not the default question: it may hold the marker's own token.
    plain = {"depth": "50", "layer": str(contract.layer or 0), "question": "Say it.", "model_tag": "lm"}
    return {name: str((rule_of(contract, name).values or [plain[name]])[0]) for name in own_fields(contract)}


def touches(contract: Contract, text: str, end: int | None = None) -> bool:
    """Whether a part of a template holds a declared field: where it begins (0), ends (-1), or anywhere (None)."""
    fields = [f"{{{name}}}" for name in contract.fields]
    if end is None:
        return any(field in text for field in fields)
    return text.startswith(tuple(fields)) if end == 0 else text.endswith(tuple(fields))


def filled(contract: Contract, text: str, fields: Mapping[str, str] | None) -> str:
    """A part of a template with its declared fields replaced, in one pass: what stands in a field is never read again.

    Args:
        fields: by name; what is lacking becomes what `field_values` makes of it when nothing is said.
    Raises:
        InputError: a field that the contract does not declare; and see `field_values`.
    """
    fields = fields or {}
    if unknown := [name for name in fields if name not in contract.fields]:
        raise InputError(
            f"{contract.source}: its templates have no field {{{unknown[0]}}}; {_list(contract.fields) or 'none'} "
            "can be filled."
        )
    texts = {
        name: allowed(contract, name, fields[name])
        if name in fields
        else _text(contract, name, None, False, contract.layer, None)
        for name in _FIELD.findall(text)
        if name in contract.fields
    }
    return _FIELD.sub(lambda match: texts.get(match[1], match[0]), text)


def _list(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))
