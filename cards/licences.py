"""What licence a derivative of a base model carries, and what that obliges its users to."""

from __future__ import annotations

from dataclasses import dataclass

GEMMA = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at https://ai.google.dev/gemma/terms. This "
    "adapter is a model derivative of Gemma: whoever passes it on passes on the same terms, keeps this notice and says "
    "what was changed (what was trained is listed above); the prohibited uses of the Gemma Prohibited Use Policy apply."
)
APACHE = "The base model is under the Apache License 2.0; keep its licence and notices with copies."
LLAMA = (
    "Built with Llama. The base model is under its Llama community licence, whose terms (attribution, naming, "
    "acceptable use) apply to this derivative too."
)


@dataclass(frozen=True)
class Licence:
    """As the Hub's metadata has it, and in words.

    Attributes:
        id: of the Hub's list, or "other".
        name, link: only of "other".
        obligations: for the card.
    """

    id: str
    obligations: str
    name: str | None = None
    link: str | None = None


# By the beginning of the base's name without its owner; the first that fits.
KNOWN = (
    ("gemma-4", Licence("apache-2.0", APACHE)),
    ("gemma", Licence("gemma", GEMMA)),
    ("qwen2.5-3b", Licence("other", "The base model is under the Qwen research licence.", "qwen-research")),
    ("qwen2.5-72b", Licence("other", "The base model is under the Qwen licence.", "qwen")),
    ("qwen", Licence("apache-2.0", APACHE)),
    ("smollm", Licence("apache-2.0", APACHE)),
    ("llama-3.3", Licence("llama3.3", LLAMA)),
    ("llama-3.2", Licence("llama3.2", LLAMA)),
    ("llama-3.1", Licence("llama3.1", LLAMA)),
)


def licence_of(base_model: str | None, stated: str | None = None) -> Licence:
    """The licence of what is trained on `base_model`.

    Args:
        stated: the author's word (an id of the Hub's list), which goes before what is known here.
    """
    name = (base_model or "").rpartition("/")[2].lower()
    known = next((licence for start, licence in KNOWN if name.startswith(start)), None)
    if stated and (known is None or known.id != stated):
        return Licence(stated, "The licence of the base model applies to this derivative too; look it up there.")
    if known is not None:
        return known
    return Licence(
        "other", "The licence of the base model applies to this derivative; look it up there.", "see-base-model"
    )
