"""The publisher, found by its name when something is to be pushed.

It stands in `training.publish`, above this package, and is installed with it. So it is looked up as a plug-in is, in
one place, and nothing here imports it. It is no entry point of the package's metadata, which an editable install would
know only after it was installed again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypedDict, cast

from ..errors import InputError

if TYPE_CHECKING:
    from ..contract import Contract
    from ..evaluation.schema import Evaluation
    from ..halves.half import Half
    from .pushed import Pushed

PUBLISHER = "training.publish.from_code.pushing"
NEEDS = 'pip install "nla-sdk[publish,eval]"'


class Sending(TypedDict):
    """How something is sent, whatever it is."""

    token: str | None
    commit_message: str | None
    create_pr: bool


class Pushing(TypedDict, total=False):
    """What `NLAPair.push_to_hub` takes beside the repository's name; the publisher is handed all of it."""

    evaluation: str | os.PathLike | None
    tables: Sequence[str | os.PathLike]
    benchmark: str | None
    notes: str | os.PathLike | None
    licence: str | None
    private: bool
    token: str | None
    commit_message: str | None
    create_pr: bool
    revision: str | None
    tag: str | None


class Publisher(Protocol):
    """What the publisher offers; see `training.publish.from_code.pushing`."""

    def push_halves(self, halves: Sequence[Half], repo: str, *, how: Pushing) -> list[Pushed]:
        """Publish halves, with their tables if any."""
        ...

    def push_contract(self, contract: Contract, repo: str, *, how: Sending) -> Pushed:
        """Put a contract beside the weights that are there."""
        ...

    def push_evaluation(
        self, evaluation: Evaluation, file: Path, repo: str, *, benchmark: str | None, how: Sending
    ) -> list[Pushed]:
        """Put an evaluation beside the weights that are there."""
        ...


@contextmanager
def publisher() -> Iterator[Publisher]:
    """The publisher; what it needs and is not installed is said inside the block too.

    Raises:
        InputError: a library is missing, or another package of the name `training` hides ours.
    """
    try:
        yield cast(Publisher, import_module(PUBLISHER))
    except ModuleNotFoundError as error:
        name = error.name or "a library"
        top = name.partition(".")[0]
        if top in ("training", "cards") and (hiding := sys.modules.get(top)) is not None:
            where = ", ".join(map(str, getattr(hiding, "__path__", [hiding])))
            raise InputError(
                f"nla-sdk's {name} is not found: {where}, another {top}, stands before it on sys.path. Run this from "
                "another folder."
            ) from None
        raise InputError(f"Publishing needs what is not installed ({name}): {NEEDS}") from None
