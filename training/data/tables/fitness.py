"""Whether an explanation can be trained on: the drop reasons that depend on the tokenizer and the two prompts.

Both contracts are held against the live tokenizer before any row is read, so a template that the tokenizer cuts up
differently stops the build, not the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nla_sdk.io.text import fault_of
from nla_sdk.model.output import CLOSE_TAG, OPEN_TAG

from ...configs.config import Config
from ..statistics import contract_of
from .columns import INJECT, response_of, target_text
from .splits import HELD_OUT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TAGS = (OPEN_TAG, CLOSE_TAG, "<concept>", "</concept>", INJECT)


class Fitness:
    """The verified contracts of both halves, and what of an explanation doesn't fit them.

    Args:
        config: templates, marker and length limits.
        tokenizer: of the base model.
        d_model: width of the vectors.
        vocabulary: how many embeddings the base has; None: one for every token of the tokenizer.
    Raises:
        ContractMismatchError: marker, neighbours or suffix come out otherwise in this tokenizer.
        MarkerError: the marker is not exactly once in the AV prompt, between its neighbours.
    """

    def __init__(
        self, config: Config, tokenizer: PreTrainedTokenizerBase, d_model: int, vocabulary: int | None = None
    ) -> None:
        self.config, self.tokenizer, self.vocabulary = config, tokenizer, vocabulary
        self.av = contract_of(config, "av", tokenizer, d_model, vocabulary)
        self.ar = contract_of(config, "ar", tokenizer, d_model, vocabulary)
        prompt = self.av.av_prompt_ids(tokenizer)
        self.av.find_marker(prompt)
        self.prompt_length = len(prompt)
        suffix = tokenizer(self.ar.ar_suffix, add_special_tokens=False).input_ids if self.ar.ar_suffix else []
        # The suffix's first token may merge with the explanation's end, as `.` + `</` does; all after it may not.
        merging = max(1, len(suffix) - len(self.ar.critic_suffix_ids or []))
        self.suffix = suffix[merging:] or suffix[-1:]

    def wording(self, explanation: str) -> str | None:
        """The reason to drop an explanation that can be told without tokens: "empty", "holds_marker", no text."""
        if not explanation.strip():
            return "empty"
        if self.config.marker in explanation or any(tag in explanation for tag in TAGS):
            return "holds_marker"
        return fault_of(explanation)

    def of_av(self, explanations: Sequence[str]) -> list[str | None]:
        """For each: None, "holds_marker", "no_embedding" or "too_long_av" (with the prompt over `av.max_length`)."""
        template = self.config.av.template
        texts = [target_text(response_of(text), template) for text in explanations]
        ends = 0 if template.endswith(OPEN_TAG) else 1  # the end token that the trainer puts after the response
        reasons: list[str | None] = []
        for ids in self.tokenizer(texts, add_special_tokens=False, verbose=False).input_ids if texts else []:
            if self.av.injection_token_id in ids:
                reasons.append("holds_marker")
            elif self._beyond(ids):
                reasons.append("no_embedding")
            else:
                long = self.prompt_length + len(ids) + ends > self.config.av.max_length
                reasons.append("too_long_av" if long else None)
        return reasons

    def of_ar(self, explanations: Sequence[str]) -> list[str | None]:
        """For each: None, "too_long_ar" (over `ar.max_length`), "ar_suffix" (ends in other tokens), "no_embedding"."""
        reasons: list[str | None] = []
        for ids, cut in self.ar.ar_prompt_ids_batch(self.tokenizer, list(explanations)):
            if cut or self._beyond(ids):
                reasons.append("too_long_ar" if cut else "no_embedding")
            else:
                reasons.append(None if ids[len(ids) - len(self.suffix) :] == self.suffix else "ar_suffix")
        return reasons

    def _beyond(self, ids: Sequence[int]) -> bool:
        """Whether a token has no embedding in the base."""
        return self.vocabulary is not None and max(ids, default=0) >= self.vocabulary

    def of_table(self, name: str, explanations: Sequence[str]) -> list[str | None]:
        """The first reason against each explanation as a row of the table `name`, for whoever trains on it."""
        reasons: list[str | None] = [None] * len(explanations)
        if name in ("av_sft", *HELD_OUT):
            reasons = self.of_av(explanations)
        if name in ("ar_sft", *HELD_OUT) or name in self.config.ar.tables:
            reasons = [av or ar for av, ar in zip(reasons, self.of_ar(explanations), strict=True)]
        return reasons
