"""Receipts of many rows' claims at once: one function for a pair's check, its evaluation and a reward."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from ..claims.cutting import claims_of
from ..claims.editing import instead, without
from ..claims.forms.claim import Claim
from ..claims.receipts import RECEIPTS, Receipt, ReceiptName
from ..claims.truth import in_text, in_text_exact
from ..claims.words import content_words, said_by
from ..errors import InputError
from ..model.running.watching import UNWATCHED, Watch
from .meaning import likeness
from .naming import Names
from .parts import Context, Parts
from .probabilities import Said, at_positions, ids_of
from .rereading import Rereading
from .saying import share_saying, times
from .steering import next_scores, raised

if TYPE_CHECKING:
    from ..assembly import Assembly
    from ..vectors.kinds import Vectors

Row = list[dict[ReceiptName, Receipt]]
FROM_AR: tuple[ReceiptName, ...] = ("ablation", "replacement", "alone")
OF_STRINGS: tuple[ReceiptName, ...] = ("in_text", "in_text_exact", "in_text_after")
TOP = 10  # features of a dictionary whose labels are looked at


class Gathered(list[Row]):
    """[rows][claims] of receipts by name.

    Attributes:
        unit: of ablation, replacement and alone: "FVE", or "gain" where FVE's denominator is not known.
        missing: why a receipt that was asked for is there for no claim.
        places: [rows][claims] of next tokens with `model_agrees`: how many tokens the source finds likelier at the
            position, from the same logits; None of others, and where no token is named.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        unit: str | None,
        missing: dict[ReceiptName, str],
        places: Sequence[Sequence[int | None]] = (),
    ) -> None:
        super().__init__(rows)
        self.places = places
        self.unit, self.missing = unit, missing


def gather(
    parts: Parts | Assembly,
    explanations: Sequence[str],
    vectors: torch.Tensor,
    *,
    which: Collection[ReceiptName],
    reconstructions: torch.Tensor | None = None,
    texts: Sequence[Context | None] | None = None,
    partners: Sequence[int | None] | None = None,
    layers: Sequence[int | None] | None = None,
    nearby: Sequence[Sequence[str]] | None = None,
    samples: Sequence[Sequence[str]] | None = None,
    dictionary: Vectors | None = None,
    spared: Mapping[ReceiptName, Collection[str]] | None = None,
    seed: int = 0,
    watch: Watch = UNWATCHED,
) -> Gathered:
    """Receipts (`nla_sdk.claims.receipts.RECEIPTS`) for every claim of every explanation.

    Each stands beside what it is by chance, its null. Of `ablation`, `replacement` and `alone`: the same words held
    against the partner's vector. Of `lens`, `model_agrees`, `steering` and `in_text…`: the mean over the partner's
    claims of this kind at this row. Of `repeats`, `recurs_…` and `dictionary`: the same claim in what the partner has.
    Without a partner: what the calibration says, else None.

    Args:
        parts: a pair, or `Parts`.
        explanations: one a row.
        vectors: float32 [rows, d_model], the raw activations that they are of.
        which: the receipts that are wanted.
        reconstructions: float32 [rows, d_model], what the AR makes of the explanations, where that is known.
        texts: where each vector was read; None: not known.
        partners: for each row the number of another one, of another document where documents are known.
        layers: that each row is of; default: the pair's.
        nearby: of each row the explanations of neighbouring positions.
        samples: of each row further explanations of the same vector.
        dictionary: directions with labels, of the pair's width.
        spared: of `ablation`, `replacement` and `alone` the kinds of claims that do without: the AR reads less.
        seed: of the claims that stand in another's place (`replacement`).
        watch: may call it off.
    Returns:
        [rows][claims of `claims_of(explanation)`, in their order] a dict of Receipts; one that cannot be had is absent.
    Raises:
        InputError: lists are not as many; an unknown receipt; a dictionary without labels or of another width.
        CancelledCallError; what the AR and the source raise.
    Example:
        >>> gather(pair, ["About whales."], acts.vectors, which=["ablation"])[0][0]["ablation"].value  # doctest: +SKIP
        0.031
    """
    job = _Job(parts if isinstance(parts, Parts) else Parts.of(parts), explanations, vectors, which, partners, seed)
    job.fits(reconstructions=reconstructions, texts=texts, layers=layers, nearby=nearby, samples=samples)
    job.spared, job.watch, job.layers = dict(spared or {}), watch, list(layers or [None] * len(explanations))
    job.of_texts(texts)
    job.of_others("recurs_nearby", nearby)
    job.of_others("recurs_in_samples", samples)
    if "repeats" in job.which:
        job.repeats()
    if "dictionary" in job.which:
        job.dictionary(dictionary)
    job.of_source(texts)
    job.of_ar(reconstructions)
    if "steering" in job.which:
        job.steering()
    job.by_chance()
    return Gathered(
        job.rows,
        job.unit,
        {name: why for name, why in job.why.items() if name in job.which and not job.has(name)},
        job.places,
    )


class _Job:
    """One call, receipt by receipt."""

    def __init__(
        self,
        parts: Parts,
        explanations: Sequence[str],
        vectors: torch.Tensor,
        which: Collection[ReceiptName],
        partners: Sequence[int | None] | None,
        seed: int,
    ) -> None:
        if unknown := [name for name in which if name not in RECEIPTS]:
            raise InputError(f"There is no receipt {unknown[0]!r}; known are {', '.join(RECEIPTS)}.")
        if vectors.ndim != 2:
            raise InputError(f"vectors is of shape {tuple(vectors.shape)}; expected [rows, d_model].")
        self.parts, self.which, self.seed = parts, frozenset(which), seed
        self.vectors, self.texts = vectors.float().cpu(), [str(one) for one in explanations]
        self.claims = [claims_of(text) for text in self.texts]
        self.partners = list(partners if partners is not None else [None] * len(self.texts))
        self.rows: list[Row] = [[{} for _ in claims] for claims in self.claims]
        self.places: list[list[int | None]] = [[None] * len(claims) for claims in self.claims]
        self.why: dict[ReceiptName, str] = {}
        self.unit: str | None = None
        self.watch, self.spared = UNWATCHED, dict[ReceiptName, Collection[str]]()
        self.layers: list[int | None] = []
        self.fits(vectors=self.vectors, partners=self.partners)
        self.names = None if parts.source is None else Names(parts.source)

    def fits(self, **lists: Sequence | torch.Tensor | None) -> None:
        """Refuse what is not one a row."""
        for name, given in lists.items():
            if given is not None and len(given) != len(self.texts):
                raise InputError(f"{len(self.texts)} explanations and {len(given)} {name}; expected as many of each.")

    def has(self, name: ReceiptName) -> bool:
        """Whether a receipt is there for any claim."""
        return any(name in receipts for row in self.rows for receipts in row)

    def put(self, row: int, at: int, name: ReceiptName, value: float | None, null: float | None = None) -> None:
        """A claim's receipt, where it has one."""
        if value is not None:
            self.rows[row][at][name] = Receipt(float(value), null)

    def partner_claims(self, row: int, kind: str) -> list[Claim]:
        """The partner's claims of a kind."""
        partner = self.partners[row]
        return [] if partner is None else [one for one in self.claims[partner] if one.kind == kind]

    def beside(self, row: int, name: ReceiptName, measure: Callable[[Claim], float | None]) -> None:
        """A number of each claim beside the mean over the partner's claims of its kind."""
        self.watch.check()
        nulls: dict[str, float | None] = {}
        for at, claim in enumerate(self.claims[row]):
            if (value := measure(claim)) is None:
                continue
            if claim.kind not in nulls:
                each = [one for other in self.partner_claims(row, claim.kind) if (one := measure(other)) is not None]
                nulls[claim.kind] = sum(each) / len(each) if each else None
            self.put(row, at, name, value, nulls[claim.kind])

    # --- words ------------------------------------------------------------------------------------------------------
    def of_texts(self, texts: Sequence[Context | None] | None) -> None:
        """in_text, in_text_exact, in_text_after, in_text_meaning."""
        wanted = [name for name in (*OF_STRINGS, "in_text_meaning") if name in self.which]
        for name in wanted:
            self.why[name] = "the text was not given"
        if texts is None or not wanted:
            return
        for row, context in enumerate(texts):
            if context is None:
                continue
            if "in_text" in wanted:
                self.beside(row, "in_text", lambda claim, text=context.before: in_text(claim, text))
            if "in_text_exact" in wanted:
                self.beside(row, "in_text_exact", lambda claim, text=context.before: in_text_exact(claim, text))
            if "in_text_after" in wanted and context.behind.strip():
                self.beside(row, "in_text_after", lambda claim, text=context.behind: in_text(claim, text))
        self.why["in_text_after"] = "no text stands behind the position"
        if "in_text_meaning" in wanted:
            if self.parts.encode is None:
                self.why["in_text_meaning"] = "no sentence embedder was given (meaning=)"
                return
            like = likeness(self.parts.encode, self.claims, [None if one is None else one.before for one in texts])
            for row in range(len(self.texts)):
                self.beside(row, "in_text_meaning", lambda claim, row=row: like(row, claim))

    def of_others(self, name: ReceiptName, others: Sequence[Sequence[str]] | None) -> None:
        """recurs_nearby, recurs_in_samples."""
        if name not in self.which:
            return
        self.why[name] = "no other explanations were given"
        for row, explanations in enumerate(others or []):
            partner = self.partners[row]
            theirs = [] if partner is None or others is None else others[partner]
            for at, claim in enumerate(self.claims[row]):
                if explanations:
                    null = share_saying(theirs, claim) if theirs else None
                    self.put(row, at, name, share_saying(explanations, claim), null)

    def repeats(self) -> None:
        """How often the explanation says a claim beyond once; the partner's, at all."""
        for row, text in enumerate(self.texts):
            partner = self.partners[row]
            for at, claim in enumerate(self.claims[row]):
                null = None if partner is None else float(times(self.texts[partner], claim))
                self.put(row, at, "repeats", max(0, times(text, claim) - 1), null)

    def dictionary(self, dictionary: Vectors | None) -> None:
        """Whether the label of a top feature says the claim."""
        if dictionary is None:
            self.why["dictionary"] = "no dictionary was given"
            return
        if not dictionary.labels or dictionary.vectors.shape[1] != self.vectors.shape[1]:
            raise InputError(
                f"The dictionary has {len(dictionary.labels)} labels of {len(dictionary)} directions, of "
                f"{dictionary.vectors.shape[1]} numbers each; expected a label for each, and {self.vectors.shape[1]} "
                "numbers as the pair's activations have."
            )
        over = self.vectors if self.parts.mean is None else self.vectors - self.parts.mean
        cosines = (
            torch.nn.functional.normalize(over, dim=1) @ torch.nn.functional.normalize(dictionary.vectors, dim=1).T
        )
        top = cosines.topk(min(TOP, len(dictionary)), dim=1).indices.tolist()
        labels = [[dictionary.labels[one] for one in features] for features in top]

        def said(row: int, claim: Claim) -> float:
            words = content_words(claim.text)
            return float(bool(words) and any(said_by(words, label) == 1.0 for label in labels[row]))

        for row, claims in enumerate(self.claims):
            partner = self.partners[row]
            for at, claim in enumerate(claims):
                self.put(row, at, "dictionary", said(row, claim), None if partner is None else said(partner, claim))

    # --- the source -------------------------------------------------------------------------------------------------
    def of_source(self, texts: Sequence[Context | None] | None) -> None:
        """lens and model_agrees."""
        wanted = [name for name in ("lens", "model_agrees") if name in self.which]
        source, names = self.parts.source, self.names
        for name in wanted:
            self.why[name] = self.parts.why.get("source", "the source model is not at hand")
        if source is None or names is None or not wanted:
            return
        names.learn(claim for claims in self.claims for claim in claims)
        tokens = {claim: names.tokens(claim) for claims in self.claims for claim in claims}
        if "lens" in wanted:
            self.why["lens"] = "no claim names a token"
            asked = [self._ids(row, tokens) for row in range(len(self.texts))]
            said = Said(source, self.parts.source_adapter, self.vectors, asked, self.watch)
            for row in range(len(self.texts)):
                self.beside(row, "lens", lambda claim, row=row: said.log(row, tokens[claim]))
        if "model_agrees" in wanted:
            self.why["model_agrees"] = "the text was not given, or no next token is claimed"
            asked = [self._ids(row, tokens, "next token") for row in range(len(self.texts))]
            contexts = list(texts or [])
            rows = [row for row, one in enumerate(contexts) if one is not None and self._names_next(row)]
            if not rows:
                return
            given = [one for row in rows if (one := contexts[row]) is not None]
            states = at_positions(source, self.parts.source_adapter, given, fast=self.parts.fast, watch=self.watch)
            wanted_ids = [asked[row] for row in rows]
            said = Said(source, self.parts.source_adapter, states, wanted_ids, self.watch, placed=True)
            for place, row in enumerate(rows):

                def agrees(claim: Claim, place: int = place) -> float | None:
                    if claim.kind != "next token":
                        return None
                    log = said.log(place, tokens[claim])
                    return 0.0 if log is None else float(torch.tensor(log, dtype=torch.float64).exp())

                self.beside(row, "model_agrees", agrees)
                self.places[row] = [
                    said.place(place, tokens[claim]) if claim.kind == "next token" else None
                    for claim in self.claims[row]
                ]

    def _names_next(self, row: int) -> bool:
        return any(claim.kind == "next token" for claim in self.claims[row])

    def _ids(self, row: int, tokens: dict[Claim, list[tuple[int, ...]]], kind: str | None = None) -> set[int]:
        partner = self.partners[row]
        both = [*self.claims[row], *(self.claims[partner] if partner is not None else ())]
        return {at for claim in both if kind in (None, claim.kind) for at in ids_of(tokens[claim])}

    def steering(self) -> None:
        """Nats by which steering with what the AR makes of a claim raises its tokens."""
        parts = self.parts
        if parts.source is None or self.names is None or parts.towards is None or parts.layer is None:
            why = "source" if parts.source is None else "towards"
            self.why["steering"] = parts.why.get(why, "what steers the source is not known")
            return
        self.why["steering"] = "no claim names a token"
        for row, claims in enumerate(self.claims):
            named = [(at, claim, words) for at, claim in enumerate(claims) if (words := self.names.tokens(claim))]
            if not named:
                continue
            vectors = parts.towards([claim.text for _, claim, _ in named])
            plain, steered = next_scores(parts.source, parts.source_adapter, parts.layer, vectors, self.watch)
            for (at, claim, words), scores in zip(named, steered, strict=True):
                others = [self.names.tokens(one) for one in self.partner_claims(row, claim.kind)]
                each = [one for other in others if (one := raised(plain, scores, other)) is not None]
                self.put(row, at, "steering", raised(plain, scores, words), sum(each) / len(each) if each else None)

    # --- the AR -----------------------------------------------------------------------------------------------------
    def of_ar(self, reconstructions: torch.Tensor | None) -> None:
        """ablation, replacement and alone: every text read in one call."""
        wanted = [name for name in FROM_AR if name in self.which]
        if not wanted or not len(self.texts):
            return
        for name in wanted:
            self.why[name] = self.parts.why.get("reconstructor", "there is no AR")
        if self.parts.reconstructor is None:
            return
        reading = Rereading(self.parts, self.vectors, self.layers, self.watch)
        self.unit = reading.unit
        pairs: list[tuple[int, int, ReceiptName, str, str]] = []
        for row, claims in enumerate(self.claims):
            whole = self.texts[row]
            if reconstructions is not None:
                reading.known(row, whole, reconstructions[row])
            for at, claim in enumerate(claims):

                def wants(name: ReceiptName, kind: str = claim.kind) -> bool:
                    return name in wanted and kind not in self.spared.get(name, ())

                if wants("ablation"):
                    pairs.append((row, at, "ablation", whole, without(whole, claim, claims)))
                if wants("replacement") and (other := self.other_claim(row, at)) is not None:
                    pairs.append((row, at, "replacement", whole, instead(whole, claim, other)))
                if wants("alone"):
                    pairs.append((row, at, "alone", claim.text, ""))
        self.why = {**self.why, "replacement": "no other row has a claim of this kind"}
        for row, _, _, text, less in pairs:
            reading.ask(row, text)
            reading.ask(row, less)
        reading.read()
        for row, at, name, text, less in pairs:
            partner = self.partners[row]
            null = None if partner is None else reading.lost(row, text, less, of=partner)
            self.put(row, at, name, reading.lost(row, text, less), null)

    def other_claim(self, row: int, at: int) -> str | None:
        """Another row's claim of this kind that says something else: the partner's, else of any row; by the seed."""
        claim = self.claims[row][at]
        pool = self.partner_claims(row, claim.kind) or [
            one
            for number, claims in enumerate(self.claims)
            if number != row
            for one in claims
            if one.kind == claim.kind
        ]
        pool = [one.text for one in pool if one.text.casefold() != claim.text.casefold()]
        if not pool:
            return None
        drawn = hashlib.sha256(f"{self.seed}|{self.texts[row]}|{at}".encode()).digest()
        return pool[int.from_bytes(drawn[:8], "little") % len(pool)]

    def by_chance(self) -> None:
        """The calibration's means by chance, where there is no partner's."""
        for row, claims in enumerate(self.claims):
            for claim, receipts in zip(claims, self.rows[row], strict=True):
                for name, receipt in receipts.items():
                    if receipt.null is None and (known := self.parts.chance.get(claim.kind, {}).get(name)) is not None:
                        receipts[name] = Receipt(receipt.value, known)
