"""What is wrong with a file of vectors, or missing from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError


class VectorFileError(InputError):
    """A file of vectors is damaged, of no kind that is read here, or not what its name and its neighbours say."""

    remedy = "docs/vectors.md lists the files that are read; the message names the line that exports others."


class SiteError(InputError):
    """Vectors are of a site that is not the residual stream after a block, or not in its coordinates."""

    remedy = "Take the dictionary or the capture of the residual stream (hook_resid_post, -res, layers.L)."


class UnstatedVectorError(InputError):
    """A file of vectors does not say what its vectors are, and a guess would turn them into something else."""

    remedy = "Say it: the message lists the choices and the option for each."


OPTIONS = {"dtype": "--vectors-dtype", "centred": "--centred or --not-centred"}
"""Options that are not called as the arguments are: --dtype is the model's."""


@dataclass(frozen=True)
class Question:
    """What a file leaves open.

    Attributes:
        fact: the argument of `load` that says it: layer, kind, maker, sign, centred, site, column, dtype, model.
        why: what the file says in its place, and why it cannot be guessed: a clause.
        choices: what may be said, each as `value: what it means`; empty: any (a layer's number, a model's name).
    """

    fact: str
    why: str
    choices: tuple[str, ...] = ()

    @property
    def option(self) -> str:
        """As on the command line."""
        return OPTIONS.get(self.fact, f"--{self.fact}")

    def __str__(self) -> str:
        said = "; ".join(self.choices)
        return f"{self.fact} ({self.why}): {self.fact}=… ({self.option}){f', one of: {said}' if said else ''}"


def unstated(name: str, questions: Sequence[Question]) -> UnstatedVectorError:
    """One error for all that must be told of a file."""
    return UnstatedVectorError(f"{name} does not say: " + "; and ".join(map(str, questions)) + ".")
