"""Work in chunks that need no more than their number: made here, or by the actors of a cluster.

Where `nla_sdk.jobs.local` works on the rows of a file, a stage has what it works on with it, and what becomes of its
chunks is its caller's: training and evaluation keep them in a `Chunks` folder and put tables together from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from ...io.progress import progress_bar
from ..local import Made
from .held import Held
from .pool import Pool

if TYPE_CHECKING:
    from ...io.chunks import ChunkFolder
    from ...pair import NLAPair

Spread = Callable[[Held], AbstractContextManager[Pool]]
"""Actors for a pair or a base, as an `--engine ray` asks for them."""


class Stage(Protocol):
    """The number of a chunk to tables by name.

    It is pickled without a pair, and given one where it is called. Every actor has a copy, and what that keeps stays
    there: a chunk may not depend on which were made before it.

    Attributes:
        pair: what it is made with; None: not given yet.
    """

    pair: NLAPair | None

    @property
    def sizes(self) -> Sequence[int]:
        """Rows of each chunk."""
        ...

    def __call__(self, number: int) -> Mapping[str, pa.Table]: ...


def missing(stage: Stage, chunks: ChunkFolder) -> list[int]:
    """The numbers of the chunks that are not there yet."""
    return [number for number in range(len(stage.sizes)) if not chunks.has(number)]


def made(stage: Stage, numbers: Sequence[int], by: NLAPair | Pool) -> Iterator[Made]:
    """These chunks, by a pair of this process one after another, by a pool's actors in any order.

    Raises:
        ClusterError: a chunk has ended two actors.
    """
    if isinstance(by, Pool):
        yield from by.stage(stage, numbers)
        return
    stage.pair = by
    for number in numbers:
        yield Made(number, stage.sizes[number], stage(number))


def make(
    stage: Stage,
    chunks: ChunkFolder,
    by: NLAPair | Pool,
    what: str,
    *,
    drops: Callable[[Made], Mapping[str, int]] = lambda _: {},
    shown: bool = True,
) -> None:
    """Make the chunks that are missing, whoever has made the others, and keep each as soon as it is there.

    Args:
        what: is done, in a word or two.
        drops: how many rows of a chunk are left out, by reason.
        shown: False: no progress bar.
    Raises:
        ClusterError: a chunk has ended two actors.
    """
    numbers = missing(stage, chunks)
    done = sum(stage.sizes) - sum(stage.sizes[number] for number in numbers)
    with progress_bar(sum(stage.sizes), "row", what, done=done, shown=shown) as bar:
        for one in made(stage, numbers, by):
            chunks.write(one.number, one.outputs, drops(one))
            bar.set_postfix_str(one.note, refresh=False)
            bar.update(one.rows)
