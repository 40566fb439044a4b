"""The sections of the data stages: which corpora are read, how documents are split, what tables are made of."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from .section import Section


class CorpusSource(Section):
    """One corpus: what to read, and where in it activations are taken."""

    corpus: str = Field(
        description="A .jsonl or .parquet file, a folder (of .txt, .md, .jsonl, .parquet files), or a Hub dataset id."
    )
    positions: int | Literal["last"] = Field(
        2, description="Activations per text, at random tokens; or the last token only (for texts that have a label)."
    )
    text: str = Field("text", description="Field that holds the text.")
    doc_id: str | None = Field(
        "doc_id", description="Field that names the document; null: every text is a document of its own."
    )
    family: str = Field("family", description="Field that says what kind of text it is; may be missing.")
    limit: int | None = Field(None, ge=1, description="Read only the first this many texts.")
    share: float = Field(1.0, gt=0, le=1, description="Read only this share of the documents, picked by their hash.")
    config: str | None = Field(None, description="Of a Hub dataset: its configuration.")
    split: str = Field("train", description="Of a Hub dataset: its split.")
    revision: str | None = Field(None, description="Of a Hub dataset: branch, tag or commit.")

    @field_validator("positions")
    @classmethod
    def _some(cls, value):
        if value != "last" and value < 1:
            raise ValueError('expected "last" or at least 1')
        return value


class Extract(Section):
    """Text → activations."""

    sources: list[CorpusSource] = Field(min_length=1, description="Corpora, read one after the other.")
    layers: list[int] = Field([], description="More layers to read in the same pass; `layer` is always read.")
    min_context: int = Field(50, ge=1, description="Fewest tokens (BOS included) before the token read.")
    max_tokens: int = Field(160, ge=2, description="Texts are read in windows of at most this many tokens.")
    next_tokens: int = Field(
        3,
        ge=0,
        description="How many of the base's likeliest next tokens to record, for the extractive labeler; 0 "
        "stops every forward at the highest layer read.",
    )
    texts_per_chunk: int = Field(256, ge=1, description="What is done again after a kill, at most.")
    tokens_per_batch: int = Field(2048, ge=2, description="Padded tokens in one forward.")
    quantization: Literal["nf4"] | None = Field(None, description="Of the source model while it is read.")
    dtype: str = Field("auto", description="Of the source model while it is read.")


class Held(Section):
    """What of one family's documents is held out; a share that is not given is that of all documents."""

    eval: float | None = Field(None, ge=0, le=1)
    validation: float | None = Field(None, ge=0, le=1)


class Split(Section):
    """Shares of the documents; they add up to at most 1, the rest is left out."""

    eval: float = Field(0.1, gt=0, lt=1, description="What figures are reported on; no trainer reads it.")
    validation: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="What trainers choose by. 0: they choose by eval, and say so; so they do where a config gives "
        "other shares and not this one, as configs did before there was one.",
    )
    av_sft: float = Field(0.43, gt=0, lt=1)
    ar_sft: float = Field(0.28, gt=0, lt=1)
    rl: float = Field(0.14, ge=0, lt=1)
    families: dict[str, Held] = Field(
        {},
        description="Other shares of eval and validation, by family; the rest of the family's documents is divided as "
        "the rest of all.",
    )

    @model_validator(mode="after")
    def _at_most_one(self):
        if self.model_fields_set - {"families"} and "validation" not in self.model_fields_set:
            self.validation = 0.0
        total = self.eval + self.validation + self.av_sft + self.ar_sft + self.rl
        if total > 1 + 1e-9:
            raise ValueError(f"the shares add up to {total:g}, expected at most 1")
        for family in self.families:
            if (held := sum(self._held_out(family))) > 1 + 1e-9:
                raise ValueError(f"eval and validation of the family {family} add up to {held:g}, expected at most 1")
        return self

    @property
    def names(self) -> list[str]:
        """The splits that there are, in the order in which documents are given to them."""
        validated = self.validation or any(held.validation for held in self.families.values())
        return ["eval", *(["validation"] if validated else []), "av_sft", "ar_sft", "rl"]

    def of_family(self, family: str | None) -> dict[str, float]:
        """The shares of one family's documents, in that order; `family` is None where it is not known.

        Example:
            >>> shares = Split(eval=0.1, validation=0.1, av_sft=0.4, ar_sft=0.4, rl=0, families={"code": {"eval": 0.5}})
            >>> shares.of_family("code")
            {'eval': 0.5, 'validation': 0.1, 'av_sft': 0.2, 'ar_sft': 0.2, 'rl': 0.0}
        """
        held_out, trained = self._held_out(family), (self.av_sft, self.ar_sft, self.rl)
        if family in self.families:
            left = (1 - sum(held_out)) / (1 - self.eval - self.validation)
            trained = tuple(share * left for share in trained)
        return dict(zip(("eval", "validation", "av_sft", "ar_sft", "rl"), (*held_out, *trained), strict=True))

    def held_out_of_any(self) -> float:
        """The largest share of documents held out in any family."""
        return max(sum(self._held_out(family)) for family in (None, *self.families))

    def _held_out(self, family: str | None) -> tuple[float, float]:
        own = self.families.get(family, Held()) if family is not None else Held()
        return (
            self.eval if own.eval is None else own.eval,
            self.validation if own.validation is None else own.validation,
        )

    def facts(self) -> dict[str, Any]:
        """What tables depend on. Without validation and families what it was before there were any, so that runs of
        that time are gone on with."""
        found = self.model_dump(exclude_none=True)
        return {name: value for name, value in found.items() if value or name not in ("validation", "families")}


class Readout(Section):
    """Labels that linear probes read out of the activations (`training.label.readout`)."""

    next_tokens: int = Field(4, ge=1, le=5, description="Most next tokens a label names.")
    words: int = Field(10, ge=1, description="Most words a label names, of the text or related.")
    least_words: int = Field(2, ge=0, description="Words that it names however little they carry, if there are any.")
    least_gain: float = Field(
        0.004,
        ge=0,
        description="Share of the direction's squared length that one more word or token must account for to be named.",
    )
    sure: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Probability, given the vector, from which a next token is named (that the source has it among its "
        "likeliest, extract.next_tokens) and a word is said to stand in the text; other words are said to be related.",
    )
    plausible: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability, given the vector, that the text has a word, from which it may be named as related. "
        "Without a limit names of one novel are related to another's ships: a code, not English.",
    )
    next_candidates: int = Field(12, ge=1, description="Next tokens the pursuit chooses from: those found strongest.")
    word_candidates: int = Field(
        24,
        ge=1,
        description="Words the pursuit chooses from: those found strongest; more fit the vector better and "
        "what was read worse.",
    )
    preference: float = Field(
        1.0, ge=0, description="How much more a word that the text is surely said to have counts than a related one."
    )
    min_documents: int = Field(12, ge=1, description="Training documents that a token or word must occur in.")
    window: int = Field(40, ge=1, description="Words before the one read that count as its context.")
    shrinkage: float = Field(0.05, gt=0, description="Of the probes, as a share of the mean variance.")
    penalty: float = Field(
        10.0, gt=0, description="Ridge penalty, in rows, of the directions that tokens and words add."
    )
    rarity: float = Field(0.5, ge=0, le=1, description="Power of frequency that scores are divided by.")


class Published(Section):
    """A table that somebody else has built already, with explanations."""

    dataset: str = Field(description="A Hub dataset id, a .parquet file, or a folder of them.")
    split: Literal["av_sft", "ar_sft", "rl"] = Field(description="The table its rows are appended to.")
    revision: str | None = Field(None, description="Of a Hub dataset: branch, tag or commit.")


class Build(Section):
    """Activations and labels → training tables."""

    eval_rows: int = Field(512, ge=2, description="Most activations of the eval table, one a document first.")
    validation_rows: int = Field(256, ge=2, description="Most activations of the validation table, the same way.")
    balance: Literal["documents", "families"] = Field(
        "documents",
        description="families: those two tables take as many activations of each family as there are, in turn; of a "
        "family one a document first.",
    )
    published: list[Published] = Field(
        [], description="Published tables to add; if nothing was extracted here, the tables are made of them alone."
    )
