"""A contract held against the live tokenizer. `verify` is a method of `Contract`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import ContractMismatchError
from ..dialects import NEIGHBOURS
from ..refusals import needed
from ..values import MARKER_FIELD
from .ar import ar_prompt, around_explanation
from .av import av_prompt_ids, marker_text, mismatch
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
        learned |= _verify_av(contract, tokenizer)
        if contract.prompt_style is not None:  # of a table nobody may have said it
            _verify_embedded(contract, tokenizer, av_prompt_ids(contract, tokenizer), vocabulary, "AV")
    if contract.role == "ar" or (roleless and contract.ar_template):
        learned |= _verify_ar(contract, tokenizer)
        _verify_embedded(contract, tokenizer, encode(tokenizer, [ar_prompt(contract, "")])[0], vocabulary, "AR")
    changes = {name: value for name, value in learned.items() if getattr(contract, name) is None and value is not None}
    return contract.replace(**changes) if changes else contract


def _verify_av(contract: Contract, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    template, marker = needed(contract, "av_template"), marker_text(contract, tokenizer)
    ids, expected = standing_alone(tokenizer, marker), contract.injection_token_id
    if getattr(tokenizer, "unk_token_id", None) in ids:
        raise mismatch(contract, tokenizer, f"The marker {marker!r} is unknown to the tokenizer", expected, ids)
    if len(ids) != 1:
        raise mismatch(contract, tokenizer, f"The marker {marker!r} is {len(ids)} tokens, not one", expected, ids)
    if expected not in (None, ids[0]):
        raise mismatch(contract, tokenizer, f"The marker {marker!r} is another token", expected, ids)

    content = plain(tokenizer, template.replace(MARKER_FIELD, marker))
    if contract.prompt_style is None and contract.kind == "nla_dataset":
        # A table need not say it: the marker is one token between the same neighbours in either style.
        tokens = encode(tokenizer, [template.replace(MARKER_FIELD, marker)])[0]
    else:
        tokens = av_prompt_ids(contract, tokenizer)
    _verify_bos(contract, tokenizer, tokens, content, "AV")
    if contract.prompt_style == "raw" and tokens[-1] != content[-1]:
        what = "The tokenizer appends a token to the AV prompt"
        raise mismatch(contract, tokenizer, what, content[-1:], tokens[-1:])
    positions = [position for position, token in enumerate(tokens) if token == ids[0]]
    if len(positions) != 1:
        before, _, after = template.partition(MARKER_FIELD)
        context = plain(tokenizer, before[-8:] + marker + after[:8])  # shows what the marker merged with
        what = f"The marker {marker!r} occurs {len(positions)} times in the AV prompt, not once"
        raise mismatch(contract, tokenizer, what, ids, context)
    both = neighbours(tokens, positions[0])
    for side, name, token in zip(("left", "right"), NEIGHBOURS, both, strict=True):
        if (expected := getattr(contract, name)) not in (None, token):
            what = f"The marker {marker!r} has another {side} neighbour"
            raise mismatch(contract, tokenizer, what, expected, token)
    return {"injection_char": marker, "injection_token_id": ids[0]} | dict(zip(NEIGHBOURS, both, strict=True))


def _verify_ar(contract: Contract, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    # One explanation that ends in punctuation, which tends to merge with a tag after it, and one that does not: the
    # suffix holds if both do. The AR reads its last token, so that one must be the same for every explanation.
    explanations = ("a cat.", "42")
    prompts = [ar_prompt(contract, explanation) for explanation in explanations]
    tokenised = encode(tokenizer, prompts)
    for prompt, tokens in zip(prompts, tokenised, strict=True):
        _verify_bos(contract, tokenizer, tokens, plain(tokenizer, prompt), "AR")
    text = around_explanation(contract)[1]
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
        # A file's ids are those of a prompt or those of the suffix by itself: writers differ, and both are right.
        if expected and expected not in (tokens[-len(expected) :], suffix[-len(expected) :]):
            raise mismatch(contract, tokenizer, f"{where} critic_suffix_ids", expected, tokens[-len(expected) :])
        stable = min(stable, matching)
    return {"critic_suffix_ids": suffix[len(suffix) - stable :] or None}  # those that no explanation changes


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


def _verify_bos(
    contract: Contract, tokenizer: PreTrainedTokenizerBase, tokens: list[int], content: list[int], half: str
) -> None:
    """BOS once: in front, and not again in the text. A chat template may use BOS as its turn delimiter."""
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None:
        return
    chat = half == "AV" and contract.prompt_style == "chat"
    count = 1 + content.count(bos) if chat else tokens.count(bos)
    if tokens[0] != bos or count != 1:
        raise mismatch(contract, tokenizer, f"The {half} prompt holds BOS {count} times, not once", [bos], tokens[:8])
