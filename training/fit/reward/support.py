"""The support of an explanation: the mean calibrated probability of its claims, by the starting pair's `claims.json`.

FVE rises with invented claims as with true ones; the calibration was fitted where texts are known, to receipts that
need no text, so that it can be asked of any activation. The AR that it is asked with is the one being trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from nla_sdk.checking.gathering import Row, gather
from nla_sdk.checking.parts import Parts
from nla_sdk.claims.calibration import CLAIMS, Calibration, load_calibration
from nla_sdk.claims.cutting import claims_of
from nla_sdk.claims.receipts import ReceiptName
from nla_sdk.errors import InputError, MissingFileError
from nla_sdk.halves.beside.claims import differences, found_beside
from nla_sdk.halves.half import Half

WITHOUT_MORE: frozenset[ReceiptName] = frozenset({"ablation", "replacement", "alone", "lens", "repeats"})
"""Receipts that take nothing but the explanation, its activation and the models."""
PARTNERS = 8  # activations whose explanations lend their claims


def find_calibration(key: str, given: Path | None, halves: Mapping[str, Half]) -> Calibration:
    """The calibration that the config names, else the one beside the AV or in the folder above.

    Args:
        key: of the config, for messages: "grpo" or "expert".
        halves: that training starts from, "av" and "ar".
    Raises:
        MissingFileError: there is none.
        EvaluationError: it does not hold.
        InputError: it is of other halves, or of receipts that training cannot make.
    """
    av = halves["av"].folder
    path = given or found_beside(av)
    if path is None:
        raise MissingFileError(
            f"{key}.reward.support is over 0 and there is no {CLAIMS} in {av} or the folder above. Evaluate the pair "
            f"on rows whose texts are known and name the file that this writes in {key}.claims, or set the weight to 0."
        )
    found = load_calibration(path)
    if wrong := [one for half in halves.values() for one in differences(found.made_from, half)]:
        raise InputError(
            f"{path} was fitted with other halves than those that training starts from: {'; '.join(wrong)}. Evaluate "
            f"this pair and name its {CLAIMS} in {key}.claims."
        )
    if beyond := sorted(found.needed - WITHOUT_MORE):
        raise InputError(
            f"{path} rests on {', '.join(beyond)}; training can make {', '.join(sorted(WITHOUT_MORE))} only. Evaluate "
            f"the pair without, or set {key}.reward.support to 0."
        )
    return found


class Support:
    """How well an explanation's claims are supported, of many explanations at once.

    Args:
        parts: the AR, the source and FVE's denominator.
        others: [n, d] activations and as many explanations, whose claims stand in for others (`replacement`).
    Raises:
        InputError: what the calibration rests on is not at hand; names it.
    """

    def __init__(
        self, calibration: Calibration, parts: Parts, others: tuple[torch.Tensor, Sequence[str]] | None = None
    ) -> None:
        self.calibration = calibration
        self.which: list[ReceiptName] = [name for name in sorted(WITHOUT_MORE) if name in calibration.needed]
        self.parts = replace(parts, baseline_mse=calibration.baseline_mse)
        self.spared = {name: calibration.does_without(name) for name in self.which}
        self.others = others if others is not None and "replacement" in self.which else None
        self.kinds = [{claim.kind for claim in claims_of(text)} for text in (self.others or (None, ()))[1]]
        if "lens" in self.which and parts.source is None:
            raise InputError(
                f"The calibration rests on lens: {parts.why.get('source', 'the source model is not in memory')}."
            )
        if "replacement" in self.which and (others is None or len(others[1]) < 2):
            raise InputError("The calibration rests on replacement, which takes at least two activations.")

    def __call__(self, explanations: Sequence[str], vectors: torch.Tensor) -> torch.Tensor:
        """The mean probability of each explanation's claims, 0 to 1: float32 [n], whatever rows are beside.

        A claim that has no probability (a kind that was not calibrated, a receipt that cannot be had) counts as 0, and
        so does an explanation without claims: else saying something that nobody can check would pay.

        Args:
            vectors: [n, d], the raw activations that they are of.
        """
        if not explanations:
            return torch.zeros(0)
        texts, rows, partners = list(explanations), vectors.float().cpu(), None
        if self.others is not None:
            pool, said = self.others
            first = len(texts)
            partners = [first + self._partner(*row) for row in zip(texts, rows, strict=True)] + [None] * len(said)
            texts, rows = [*texts, *said], torch.cat([rows, pool])
        if self.parts.reconstructor is not None:
            self.parts.reconstructor.reset()  # its weights may have changed
        found = gather(self.parts, texts, rows, which=self.which, partners=partners, spared=self.spared)
        return torch.tensor(
            [self.of(text, row) for text, row in zip(explanations, found[: len(explanations)], strict=True)]
        )

    def of(self, explanation: str, receipts: Row) -> float:
        """The mean probability of one explanation's claims."""
        each = [
            self.calibration.support(claim.kind, given) or 0.0
            for claim, given in zip(claims_of(explanation), receipts, strict=True)
        ]
        return sum(each) / len(each) if each else 0.0

    def _partner(self, explanation: str, vector: torch.Tensor) -> int:
        """The one of the others that lends a row its claims: by the row alone, one that has claims of all its kinds
        where there is one, and never the row itself."""
        pool, _ = self.others
        able = [at for at in range(len(pool)) if not torch.equal(pool[at], vector)]
        kinds = {claim.kind for claim in claims_of(explanation)}
        able = [at for at in able if kinds <= self.kinds[at]] or able
        drawn = hashlib.sha256(vector.numpy().tobytes()).digest()
        return able[int.from_bytes(drawn[:8], "little") % len(able)]
