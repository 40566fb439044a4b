"""A contract held against the live tokenizer. `verify` is a method of `Contract`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import ContractMismatchError
from ..dialects import NEIGHBOURS
from ..refusals import needed
from ..values import MARKER_FIELD
from .ar import ar_prompt, around_explanation, encoded, suffix_text
from .ar import begins_with_bos as begins_with_bos_ar
from .av import marker_text, mismatch
from .fields import filled, stand_ins, touches
from .prompt import begins_with_bos, prompt_tokens
from .tokens import common_tail, encode, neighbours, pieces, plain, standing_alone

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..model import Contract


def verify(contract: Contract, tokenizer: PreTrainedTokenizerBase, vocabulary: int | None = None) -> Contract:
    """Hold the contract against the tokenizer the model will be run with.

    AV: the marker is one token, not UNK, and the one the contract names; it occurs exactly once in the prompt,
    between its two neighbours. AR: prompts end in the suffix's tokens whatever the explanation (only punctuation,
    or the one token that touches the explanation, may merge with it: `.` + `</` is one token for some). Both: BOS
    exactly once where the tokenizer has one, and of every token of a prompt there is an embedding.

    Args:
        vocabulary: how many embeddings the model has (`Backbone.vocabulary`, `vocab_size` of its config); a tokenizer
            may know more tokens. None: not at hand.
    Returns:
        A contract completed with what the tokenizer tells (marker text and id, neighbours, suffix ids; origin
        "derived"); this one is not changed.
    Raises:
        ContractMismatchError: with the expected and the found ids and pieces.
    Example:
        >>> contract = contract.verify(load_tokenizer(folder_of_the_base))
    """
    roleless = contract.kind == "nla_dataset" and contract.role is None  # a table may hold either half's prompts
    has_marker = contract.injection_char or contract.injection_token_id is not None
    learned: dict[str, Any] = {}
    if contract.role == "av" or (roleless and contract.av_template and has_marker):
        learned |= _verify_av(contract, tokenizer, vocabulary)
    if contract.role == "ar" or (roleless and contract.ar_template):
        learned |= _verify_ar(contract, tokenizer, vocabulary)
    changes = {name: value for name, value in learned.items() if getattr(contract, name) is None and value is not None}
    return contract.replace(**changes) if changes else contract


def _verify_av(contract: Contract, tokenizer: PreTrainedTokenizerBase, vocabulary: int | None) -> dict[str, Any]:
    learned = _verify_marker(contract, tokenizer)
    marker, fields = learned["injection_char"], stand_ins(contract)
    stated = contract.injection_markers
    both: tuple[int | None, int | None] = (None, None)
    for number in (1, 2, 3) if stated == "any" else (stated,):
        if contract.prompt_style is None and contract.kind == "nla_dataset":
            # A table need not say it: the marker is one token between the same neighbours in either style.
            tokens = encode(tokenizer, [_content(contract, marker * number, fields)])[0]
        else:
            _, tokens = prompt_tokens(contract, tokenizer, marker * number, fields)
            _verify_embedded(contract, tokenizer, tokens, vocabulary, "AV")
        begins = begins_with_bos(contract, tokenizer)
        content = plain(tokenizer, _content(contract, marker * number, fields) + (contract.prefill or ""))
        chat = contract.prompt_style == "chat"
        said = content + plain(tokenizer, contract.system or "") if chat else tokens
        _verify_bos(contract, tokenizer, tokens, _count(tokenizer, said) + (chat and begins), begins, "AV")
        if contract.prompt_style == "raw" and tokens[-1] != content[-1]:
            what = "The tokenizer appends a token to the AV prompt"
            raise mismatch(contract, tokenizer, what, content[-1:], tokens[-1:])
        both = _verify_markers(contract, tokenizer, tokens, marker, number)
    template = needed(contract, "av_template")
    before, _, after = template.partition(MARKER_FIELD)
    touched = (touches(contract, before, -1), touches(contract, after, 0))  # by a field, whose text differs
    return learned | {name: token for name, token, varies in zip(NEIGHBOURS, both, touched, strict=True) if not varies}


def _verify_marker(contract: Contract, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The marker by itself: one token, known to the tokenizer, and the one that the contract names."""
    marker, expected = marker_text(contract, tokenizer), contract.injection_token_id
    ids = standing_alone(tokenizer, marker)
    if getattr(tokenizer, "unk_token_id", None) in ids:
        raise mismatch(contract, tokenizer, f"The marker {marker!r} is unknown to the tokenizer", expected, ids)
    if len(ids) != 1:
        raise mismatch(contract, tokenizer, f"The marker {marker!r} is {len(ids)} tokens, not one", expected, ids)
    if expected not in (None, ids[0]):
        raise mismatch(contract, tokenizer, f"The marker {marker!r} is another token", expected, ids)
    return {"injection_char": marker, "injection_token_id": ids[0]}


def _content(contract: Contract, markers: str, fields: dict[str, str]) -> str:
    head, _, tail = needed(contract, "av_template").partition(MARKER_FIELD)
    return filled(contract, head, fields) + markers + filled(contract, tail, fields)


def _verify_markers(
    contract: Contract, tokenizer: PreTrainedTokenizerBase, tokens: list[int], marker: str, number: int
) -> tuple[int | None, int | None]:
    """The markers in the prompt: all there, side by side, nowhere else; their neighbours' ids."""
    [token] = standing_alone(tokenizer, marker)
    positions = [position for position, found in enumerate(tokens) if found == token]
    if positions != list(range(positions[0], positions[0] + number)) if positions else True:
        before, _, after = needed(contract, "av_template").partition(MARKER_FIELD)
        context = plain(tokenizer, before[-8:] + marker * number + after[:8])  # shows what the marker merged with
        wanted = "once" if number == 1 else f"{number} times side by side"
        what = f"The marker {marker!r} occurs {len(positions)} times in the AV prompt, not {wanted}"
        raise mismatch(contract, tokenizer, what, [token] * number, context)
    both = (neighbours(tokens, positions[0])[0], neighbours(tokens, positions[-1])[1])
    for side, name, found in zip(("left", "right"), NEIGHBOURS, both, strict=True):
        if (expected := getattr(contract, name)) not in (None, found):
            what = f"The marker {marker!r} has another {side} neighbour"
            raise mismatch(contract, tokenizer, what, expected, found)
    return both


def _verify_ar(contract: Contract, tokenizer: PreTrainedTokenizerBase, vocabulary: int | None) -> dict[str, Any]:
    # One explanation that ends in punctuation, which tends to merge with a tag after it, and one that does not: the
    # suffix holds if both do. The AR reads its last token, so that one must be the same for every explanation.
    explanations, fields, chat = ("a cat.", "42"), stand_ins(contract), contract.ar_prompt_style == "chat"
    tokenised, begins = encoded(contract, tokenizer, explanations, fields), begins_with_bos_ar(contract, tokenizer)
    for explanation, tokens in zip(explanations, tokenised, strict=True):
        _verify_embedded(contract, tokenizer, tokens, vocabulary, "AR")
        said = plain(tokenizer, ar_prompt(contract, explanation, fields)) if chat else tokens
        _verify_bos(contract, tokenizer, tokens, _count(tokenizer, said) + (chat and begins), begins, "AR")
    text = suffix_text(contract, tokenizer, fields)
    suffix = plain(tokenizer, text) if text else []
    expected, stable = contract.critic_suffix_ids, len(suffix)
    for explanation, tokens in zip(explanations, tokenised, strict=True):
        where = f"The AR prompt of {explanation!r} ends in other tokens than"
        matching = common_tail(tokens, suffix)
        # What did not match is the suffix's beginning, merged with the explanation. One token of it, or punctuation
        # only, is how tokenizers are (`.` + `</`); letters among it mean that another suffix is being tokenised.
        merged = suffix[: len(suffix) - matching]
        if suffix and (not matching or (len(merged) > 1 and any(char.isalnum() for char in tokenizer.decode(merged)))):
            raise mismatch(contract, tokenizer, f"{where} its template's suffix", suffix, tokens[-len(suffix) :])
        # A file's ids are those of a prompt or those of the suffix by itself: writers differ, and both are right. Those
        # of a chat's may end where the template does.
        if expected and not _ends_in(tokens, suffix, expected, plain(tokenizer, around_explanation(contract)[1])):
            raise mismatch(contract, tokenizer, f"{where} critic_suffix_ids", expected, tokens[-len(expected) :])
        stable = min(stable, matching)
    learned: dict[str, Any] = {}
    if not touches(contract, around_explanation(contract)[1]):
        learned["critic_suffix_ids"] = suffix[len(suffix) - stable :] or None  # those that no explanation changes
    if contract.ar_position == "marker":
        learned |= _verify_marker(contract, tokenizer)
        for tokens in tokenised:
            if (count := tokens.count(learned["injection_token_id"])) != 1:
                what = (
                    f"The marker {learned['injection_char']!r}, where the AR reads, occurs {count} times in its prompt"
                )
                raise mismatch(contract, tokenizer, f"{what}, not once", [learned["injection_token_id"]], tokens[-8:])
    return learned


def _ends_in(tokens: list[int], suffix: list[int], expected: list[int], alone: list[int]) -> bool:
    return expected in (tokens[-len(expected) :], suffix[-len(expected) :], alone[-len(expected) :])


def _verify_embedded(
    contract: Contract, tokenizer: PreTrainedTokenizerBase, tokens: list[int], vocabulary: int | None, half: str
) -> None:
    """Gemma 3's tokenizer has <image_soft_token> for a marker to be, its text models have no row for it."""
    if vocabulary is None:
        return
    if beyond := [token for token in tokens if token >= vocabulary]:
        raise ContractMismatchError(
            f"{contract.source}: the {half} prompt holds {pieces(tokenizer, beyond)}, for which the model has no "
            f"embedding: its ids end at {vocabulary - 1}. Load the base it was trained with (base model "
            f"{contract.base_model}), or correct the contract."
        )


def _bos_of(tokenizer: PreTrainedTokenizerBase) -> int | None:
    return getattr(tokenizer, "bos_token_id", None)


def _count(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> int:
    bos = _bos_of(tokenizer)
    return 0 if bos is None else tokens.count(bos)


def _verify_bos(
    contract: Contract, tokenizer: PreTrainedTokenizerBase, tokens: list[int], count: int, begins: bool, half: str
) -> None:
    """BOS once, in front and not again in the text; or not at all. A chat template may use it as its turn delimiter."""
    bos = _bos_of(tokenizer)
    if bos is None:
        return
    if (tokens[0] == bos) != begins or count != begins:
        wanted = "once" if begins else "at all"
        raise mismatch(
            contract, tokenizer, f"The {half} prompt holds BOS {count} times, not {wanted}", [bos], tokens[:8]
        )
