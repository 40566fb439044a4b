"""Chunks made by the actors of a Ray cluster, a pair or a base in each.

What Ray runs are plain actors, not a Ray dataset. A dataset's operators try a block again for as long as its actor
dies, so that one row which ends its process keeps a job from ever ending (findings/ray-data-killed-actor.sh), and
they keep nothing when the driver is killed. Here a chunk is what it is in `nla_sdk.jobs.local`, in the same folder: the
driver reads INPUT, hands chunks out, writes what comes back, and holds two chunks an actor at a time.

An actor that dies is replaced, and its chunk done again. Of a chunk in which two have died each row is done by itself,
wherever there is a place: halving it would cost an actor, and a pair loaded anew, for every half. A row that ends two
more of them, alone with each, is set aside with what Ray says of it.

Beside rows of an INPUT, which the driver reads, actors make the chunks of stages: of some (`stages`) they need no more
than the number, of others (`Pool.fed`) the driver reads what is in them. What a stage's chunks are put together to
needs all of them: two deaths of one end the stage.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ... import __version__
from ...io.progress import say
from ..faults import ClusterError
from ..local import Made, Making, outputs_of
from .actors import Answer, Worker, packed, unpacked
from .pieces import Apart, Piece, Seat

if TYPE_CHECKING:
    from .held import Held, Lies
    from .sizes import ActorSize
    from .stages import Stage

AHEAD = 2
"""Chunks an actor has: one that it works on, and one that waits, so that it need not."""
DEATHS = 2
"""How often a chunk, and then a row, may end its actor."""
LOST = 10
"""How often the results of a chunk may be lost with a node."""
SHOWN = 8
"""Actors whose rates are told one by one."""
WAIT, PATIENCE = 1.0, 60.0
"""Seconds between two looks at the clock, and until it is said that no actor has a place."""


class Pool:
    """Actors that work on chunks; a context, which ends them.

    Args:
        ray: the module, connected.
        unit: what each loads, a pair or a base, and what each does to rows.
        size: what each is given.
        count: how many.
        lying: it as the driver has it; actors must hold the same.
    Attributes:
        identity: what decides the results of the first that is loaded, under the driver's names of its files.
    """

    def __init__(self, ray: Any, unit: Held, size: ActorSize, count: int, lying: Lies) -> None:
        self.ray, self.lying = ray, lying
        threads = max(1, int(size.cpus))
        how = {"num_cpus": size.cpus, "num_gpus": size.gpus, "memory": size.memory, "max_restarts": 0}
        self._kind = ray.remote(Worker).options(**how)
        self._arguments = (ray.put(unit), threads, os.getcwd())
        self._again: deque[Piece] = deque()
        self._apart: dict[int, Apart] = {}
        self._told: set[str] = set()
        self._digests: dict[str, str] = {}
        self._about: Any = None
        self.identity: dict[str, Any] = {}
        self._since, self._said_waiting = time.monotonic(), False
        self._idle: Callable[[], object] = lambda: None
        self.seats = [self._seated() for _ in range(count)]

    def __enter__(self) -> Pool:
        # What Ray has to say of the cluster it prints on stdout, where nothing but results belongs.
        self._stdout = contextlib.redirect_stdout(sys.stderr)
        self._stdout.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for seat in self.seats:
            with contextlib.suppress(Exception):  # what is dead already, or a cluster that is gone
                self.ray.kill(seat.actor)
        self._stdout.__exit__(None, None, None)

    @property
    def about(self) -> Any:
        """What the first that is loaded says of itself (`Held.about`); waits until there is one.

        Raises:
            NLAError: it cannot be loaded. ClusterError: no actor lives that long.
        """
        while self._about is None:
            for _ in self._collected():
                pass
        return self._about

    def making(self, chunk_rows: int) -> Making:
        """See `nla_sdk.jobs.local.run`."""

        def make(given: Iterator[tuple[int, pa.Table]]) -> Iterator[Made]:
            return self._made(
                Piece(number, table.num_rows, number * chunk_rows, packed(table)) for number, table in given
            )

        return make

    def stage(self, stage: Stage, numbers: Sequence[int]) -> Iterator[Made]:
        """These chunks of a stage, in any order; it goes to the actors once.

        Raises:
            ClusterError: a chunk has ended two actors.
        """
        reference = self.ray.put(stage)
        return self._made(Piece(number, stage.sizes[number], stage=reference, needed=True) for number in numbers)

    def fed(self, given: Iterator[tuple[int, pa.Table]], idle: Callable[[], object] = lambda: None) -> Iterator[Made]:
        """What the unit makes of these chunks, tables by name, in any order.

        Args:
            given: (number, what is in it) of each; taken when an actor has a hand free.
            idle: called about once a second while nothing comes.
        Raises:
            ClusterError: a chunk has ended two actors.
        """
        self._idle = idle
        return self._made(Piece(number, table.num_rows, 0, packed(table), needed=True) for number, table in given)

    def drain(self, seconds: float) -> bool:
        """Wait until every actor is done with what it was handed, but no longer than that; whether they are.

        With all of it: what was done but not heard of is followed by what waited behind it.
        """
        handed = [asked for seat in self.seats for asked, _ in seat.waiting]
        return not handed or not self.ray.wait(handed, num_returns=len(handed), timeout=seconds)[1]

    def _made(self, pieces: Iterator[Piece]) -> Iterator[Made]:
        ended = False
        while not ended or self._again or any(seat.waiting for seat in self.seats):
            ended = self._hand_out(pieces)
            yield from self._collected()

    def summary(self) -> str:
        """Rows a second of each actor that has done some; of many the middle one, the slowest and the fastest."""
        rates = sorted(seat.rows / seat.seconds for seat in self.seats if seat.seconds)
        shown = ", ".join(f"{rate:.3g}" for rate in rates)
        if len(rates) > SHOWN:
            shown = f"{statistics.median(rates):.3g}, from {rates[0]:.3g} to {rates[-1]:.3g}"
        return f"{len(rates)} actor{'s' * (len(rates) != 1)} at work; rows/s each: {shown or 'none was left to do'}"

    # --- handing out ------------------------------------------------------------------------------------------
    def _seated(self) -> Seat:
        actor = self._kind.remote(*self._arguments)
        return Seat(actor, actor.load.remote())

    def _hand_out(self, pieces: Iterator[Piece]) -> bool:
        """Fill every loaded actor's hands, those with the least first; whether there was no more to give."""
        ready = [seat for seat in self.seats if seat.loading is None]
        for full in range(AHEAD):
            for seat in ready:
                if len(seat.waiting) > full or (seat.waiting and self._to_be_sure(seat)):
                    continue
                piece = self._again.popleft() if self._again else next(pieces, None)
                if piece is None:
                    return True
                if piece.stage is not None:
                    asked = seat.actor.make.remote([piece.stage], piece.number)
                elif piece.needed:
                    asked = seat.actor.feed.remote(piece.stream, piece.number)
                else:
                    asked = seat.actor.work.remote(piece.stream, piece.first)
                seat.waiting.append((asked, piece))
        return False

    def _to_be_sure(self, seat: Seat) -> bool:
        """Whether a piece is to be alone with its actor: one that is there, or the next one.

        An actor that dies as soon as it begins with what waits has not always sent what it did before, and what it did
        before is then taken for the cause.
        """
        following = self._again[0].suspect if self._again else False
        return following or any(piece.suspect for _, piece in seat.waiting)

    # --- what comes back --------------------------------------------------------------------------------------
    def _collected(self) -> Iterator[Made]:
        """What the next actors to be heard of have made."""
        heads = {seat.loading or seat.waiting[0][0]: seat for seat in self.seats if seat.loading or seat.waiting}
        if not heads:
            return
        heard, _ = self.ray.wait(list(heads), timeout=WAIT)
        for reference in heard:
            seat = heads[reference]
            if seat.loading is not None:
                self._loaded(seat)
            else:
                made = self._finished(seat)
                if made is not None:
                    self._since = time.monotonic()
                    yield made
        if not heard:
            self._say_waiting()
            self._idle()

    def _loaded(self, seat: Seat) -> None:
        """An actor has loaded its unit, or died of it."""
        try:
            version, about, identity = self._told_by(self.ray.get(seat.loading))
            self._hold_alike(seat, version, identity)
        except self.ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        except self.ray.exceptions.RayError as error:
            seat.strikes += 1
            if seat.strikes <= DEATHS:
                self._replace(seat)
                return
            self.seats.remove(seat)
            say(f"An actor could not be kept alive while it loaded the {self.lying.what}: {why(error)}")
            if not self.seats:
                raise ClusterError(f"No actor lives long enough to load the {self.lying.what}: {why(error)}") from None
            return
        self._about = self._about or about
        seat.loading, seat.strikes = None, 0

    def _hold_alike(self, seat: Seat, version: str, identity: dict[str, Any]) -> None:
        """Every actor runs this code and holds what the driver has.

        Raises:
            ClusterError: it does not.
        """
        if version != __version__:
            raise ClusterError(
                f"An actor has nla-sdk {version}, this is {__version__}; install one version everywhere."
            )
        ours = self.lying.identity()
        running = {name: value for name, value in identity.items() if name not in ours}
        if any(identity.get(name) != value for name, value in ours.items()):  # a copy has other times
            self._digests = self._digests or self.lying.digests()
            theirs = self._told_by(self.ray.get(seat.actor.digests.remote()))
            if different := sorted(name for name in self._digests if theirs.get(name) != self._digests[name]):
                raise ClusterError(
                    f"An actor's node holds another {self.lying.what}: {', '.join(different)} differ from the files "
                    f"here. Copy the {self.lying.what} to every node again, or keep it in a folder that all share."
                )
        identity = running | ours
        first = self.identity = self.identity or identity
        if different := [name for name in first | identity if identity.get(name) != first.get(name)]:
            ways = "; ".join(f"{name} {first.get(name)} and {identity.get(name)}" for name in different)
            raise ClusterError(
                f"Actors run the {self.lying.what} in two ways: {ways}. Their results would be mixed; say "
                f"{self.lying.told_by}."
            )

    def _finished(self, seat: Seat) -> Made | None:
        """The piece that an actor was at is done, or has ended it."""
        reference, piece = seat.waiting[0]
        exceptions = self.ray.exceptions
        try:
            answer = self.ray.get(reference)
        except exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error
        except exceptions.ObjectLostError as error:  # done, and its node gone with the result
            seat.waiting.popleft()
            self._again.appendleft(piece)
            piece.lost += 1
            if piece.lost > LOST:
                raise ClusterError(f"Results are lost again and again on their way: {why(error)}") from None
            return None
        except exceptions.RayError as error:
            seat.waiting.popleft()
            self._again.extendleft(other for _, other in reversed(seat.waiting))
            self._replace(seat)
            return self._died(piece, why(error))
        made = self._told_by(answer)
        seat.waiting.popleft()
        seat.rows, seat.seconds = seat.rows + piece.rows, seat.seconds + answer.seconds
        if piece.needed:
            outputs = {name: unpacked(stream) for name, stream in made.items()}
            return Made(piece.number, piece.rows, outputs, self._note())
        table = unpacked(made)
        if not piece.alone:
            self._apart.pop(piece.number, None)
            return Made(piece.number, piece.rows, outputs_of(table), self._note())
        apart = self._apart[piece.number]
        apart.tables[piece.first] = table
        return self._put_together(apart)

    def _died(self, piece: Piece, error: str) -> Made | None:
        """An actor has died at work on `piece`.

        Raises:
            ClusterError: it is a stage's, and not the first to die of it.
        """
        piece.deaths += 1
        if piece.number in self._apart and not piece.alone:  # each row went well, all together do not
            return self._apart.pop(piece.number).made()
        if piece.deaths < DEATHS:
            self._again.appendleft(piece)
        elif piece.needed:
            raise ClusterError(
                f"Chunk {piece.number} ({piece.rows} rows) has ended {piece.deaths} actors, and the others are of no "
                f"use without it: {error}. What is done is kept; give actors more memory, or finish it without a "
                "cluster."
            )
        elif piece.alone:
            apart = self._apart[piece.number]
            apart.errors[piece.first] = error
            say(f"row {piece.first} has ended {piece.deaths} actors and is set aside: {error}")
            return self._put_together(apart)
        else:
            self._apart[piece.number] = Apart(piece)
            table = unpacked(piece.stream)
            for at in reversed(range(piece.rows)):
                row = packed(table.slice(at, 1))
                self._again.appendleft(Piece(piece.number, 1, piece.first + at, row, alone=True))
        return None

    def _put_together(self, apart: Apart) -> Made | None:
        """A chunk whose rows have all had their end. If no row was to blame, the whole is tried once more.

        Two nodes may have been lost by chance under one chunk, and what is done together may differ in a last bit from
        what is done alone.
        """
        if not apart.done:
            return None
        if apart.errors:
            return self._apart.pop(apart.whole.number).made()
        self._again.appendleft(apart.whole)
        return None

    def _replace(self, seat: Seat) -> None:
        """Another actor takes the seat."""
        with contextlib.suppress(Exception):  # one that cannot be reached may still be at work
            self.ray.kill(seat.actor)
        following = self._seated()
        seat.actor, seat.loading, seat.waiting = following.actor, following.loading, deque()

    # --- saying -----------------------------------------------------------------------------------------------
    def _told_by(self, answer: Answer) -> Any:
        """What an actor was asked for; what it warns of is said once, whoever warns of it first.

        Raises:
            NLAError: it refuses.
        """
        for category, message in answer.warned:
            alike = re.sub(r"\d[\d.,]*", "#", message)  # rows and figures differ from actor to actor
            if alike not in self._told:
                self._told.add(alike)
                warnings.warn(message, category, stacklevel=2)
        if answer.refusal is not None:
            raise answer.refusal
        return answer.value

    def _note(self) -> str:
        """How many are at work, and how fast each is."""
        busy = [seat for seat in self.seats if seat.loading is None]
        rows, seconds = sum(seat.rows for seat in self.seats), sum(seat.seconds for seat in self.seats)
        return f"{len(busy)} actor{'s' * (len(busy) != 1)}, {rows / max(seconds, 1e-9):.3g} row/s each"

    def _say_waiting(self) -> None:
        """Say once that the cluster has no place for an actor."""
        placed = any(seat.loading is None for seat in self.seats)
        if not placed and not self._said_waiting and time.monotonic() - self._since > PATIENCE:
            self._said_waiting = True
            say(f"No actor has loaded the {self.lying.what} yet; the cluster may have no free place (ray status).")


def why(error: Exception) -> str:
    """Why an actor died, in one line of the many that Ray says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    known = [line for line in lines if line.startswith(("The actor is dead because", "The actor died because"))]
    raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    text = (raised[-1:] or known or lines or [type(error).__name__])[0]
    return re.sub(r"\s*Some common causes include:.*", "", text)[:300]
