"""What an evaluation says of its pair, wherever that is in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nla_sdk import NLAPair
from nla_sdk.errors import MissingHalfError
from nla_sdk.io.rows.row_source import TEXTS
from nla_sdk.jobs.cluster.pool import Pool
from nla_sdk.jobs.unit import Loaded

from ...runs.machine import hardware

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nla_sdk.contract import Contract
    from nla_sdk.halves.half import Half


@dataclass(frozen=True)
class Known:
    """A pair without its weights.

    Attributes:
        av, ar: the halves on this disk.
        contract: verified against the tokenizer.
        running: how the AV and the AR are run.
        hardware: that they are run on.
        av_tokenizer, ar_tokenizer: what they read with.
        vocabulary: how many tokens the AR has embeddings for.
    """

    av: Half
    ar: Half
    contract: Contract
    matched: bool
    running: tuple[str, str]
    hardware: str
    av_tokenizer: PreTrainedTokenizerBase
    ar_tokenizer: PreTrainedTokenizerBase
    vocabulary: int

    @classmethod
    def of(cls, pair: NLAPair) -> Known:
        """Of a pair in memory.

        Raises:
            MissingHalfError: it has one half only.
        """
        if pair.verbalizer is None or pair.reconstructor is None:
            role = "AV" if pair.verbalizer is None else "AR"
            raise MissingHalfError(f"An evaluation needs both halves, and this pair has no {role}: {pair.missing}")
        assert pair.av is not None and pair.ar is not None, "what is in memory was found on a disk"
        av, ar = pair.verbalizer.backbone, pair.reconstructor.backbone
        first, second = (f"{one.quantization or one.dtype} on {one.device.type}" for one in (av, ar))
        return cls(
            av=pair.av,
            ar=pair.ar,
            contract=pair.contract,
            matched=pair.matched,
            running=(first, second),
            hardware=hardware(av.device),
            av_tokenizer=av.tokenizer,
            ar_tokenizer=ar.tokenizer,
            vocabulary=ar.vocabulary,
        )


@dataclass(eq=False)
class Measured(Loaded):
    """The pair that actors measure.

    Args:
        pair: as `NLAPair.from_pretrained` is told.
    """

    pair: Mapping[str, Any]

    @property
    def holds(self) -> str:
        """Claims are held against the source too, which is the base."""
        return TEXTS

    def about(self) -> Known:
        """What the evaluation says of it."""
        return Known.of(self.load())


def known_of(pair: NLAPair | Pool) -> Known:
    """Of a pair in memory here, or in a pool's actors.

    Raises:
        MissingHalfError: it has one half only.
    """
    if isinstance(pair, Pool):
        return replace(pair.about, av=pair.lying.av, ar=pair.lying.ar)
    return Known.of(pair)
