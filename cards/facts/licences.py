"""What licence a base model puts on what is made with it, and what that obliges its users to.

Only families whose licence is certain are named, and exactly: a sister of another size is often under other terms.
Everything else is "other", with a pointer to the base.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Made = Literal["adapter", "model", "data"]
WHAT = {"adapter": "This adapter is", "model": "This model is", "data": "The activations here were read from"}

GEMMA = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at https://ai.google.dev/gemma/terms. {what} "
    "a model derivative of Gemma: whoever passes it on passes on the same terms, keeps this notice and says what was "
    "changed (what was trained is listed above); the prohibited uses of the Gemma Prohibited Use Policy apply."
)
GEMMA_DATA = (
    "{what} Gemma, which is provided under and subject to the Gemma Terms of Use found at "
    "https://ai.google.dev/gemma/terms; the prohibited uses of the Gemma Prohibited Use Policy apply. The terms say "
    "when a model trained on what Gemma gave out is a model derivative of it."
)
APACHE = "The base model is under the Apache License 2.0; keep its licence and notices with copies."
LLAMA = (
    "Built with Llama. The base model is under its Llama community licence, whose terms (attribution, naming, "
    "acceptable use) apply to what is made with it too."
)
QWEN = "The base model is under the {name}, whose terms apply to what is made with it too."
UNKNOWN = "The licence of the base model applies to what is made with it; look it up there."


@dataclass(frozen=True)
class Licence:
    """As the Hub's metadata has it, and in words.

    Attributes:
        id: of the Hub's list, or "other".
        name: only of "other", for which the Hub wants one.
        obligations: for the card.
    """

    id: str
    obligations: str
    name: str | None = None


@dataclass(frozen=True)
class Family:
    """Base models under one licence; `names` matches the beginning of a name without its owner, up to a hyphen."""

    names: str
    licence: Licence
    for_data: str | None = None


KNOWN = (
    Family(r"gemma-4-[ea]?\d+b", Licence("apache-2.0", APACHE)),
    Family(r"gemma(-1\.1|-2|-3|-3n)?-e?\d+[bm]", Licence("gemma", GEMMA), GEMMA_DATA),
    Family(r"qwen2\.5(-coder)?-(0\.5|1\.5|7|14|32)b", Licence("apache-2.0", APACHE)),
    Family(r"qwen3-(0\.6b|1\.7b|4b|8b|14b|32b|30b-a3b|235b-a22b)", Licence("apache-2.0", APACHE)),
    Family(r"qwen2\.5(-coder)?-3b", Licence("other", QWEN.format(name="Qwen research licence"), "qwen-research")),
    Family(r"qwen2\.5-72b", Licence("other", QWEN.format(name="Qwen licence"), "qwen")),
    Family(r"smollm2?-(135m|360m|1\.7b)", Licence("apache-2.0", APACHE)),
    Family(r"llama-3\.3-70b", Licence("llama3.3", LLAMA)),
    Family(r"llama-3\.2-(1b|3b|11b|90b)", Licence("llama3.2", LLAMA)),
    Family(r"(meta-)?llama-3\.1-(8b|70b|405b)", Licence("llama3.1", LLAMA)),
)


def licence_of(base_model: str | None, stated: str | None = None, made: Made = "adapter") -> Licence:
    """The licence of what is made with `base_model`.

    Args:
        stated: the author's word (an id of the Hub's list). It goes into the metadata before what is known here; what
            the base obliges to is said all the same.
        made: data have sources with licences of their own, so theirs is the author's word or "other".
    """
    name = (base_model or "").rpartition("/")[2].lower()
    family = next((family for family in KNOWN if re.match(rf"(?:{family.names})(?=-|$)", name)), None)
    obligations = UNKNOWN
    if family is not None:
        obligations = family.licence.obligations if made != "data" else family.for_data or family.licence.obligations
        obligations = obligations.format(what=WHAT[made])
    # Data carry their sources' licences: the base's own is never theirs.
    known = family.licence if family is not None and made != "data" else None
    if stated and (known is None or stated != known.id):
        return Licence(stated, obligations, "see-card" if stated == "other" else None)
    if known is not None:
        return Licence(known.id, obligations, known.name)
    return Licence("other", obligations, "see-card" if made == "data" else "see-base-model")
