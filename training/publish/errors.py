"""What is wrong with what is to be published, what keeps it from being published, and what was left undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nla_sdk.errors import NLAError, NLAWarning


class PublishError(NLAError):
    """Nothing was published, or not all of it; the message says which."""

    remedy = "Put right what it names and run the same command again: it completes what is missing."


class RefusedError(PublishError):
    """What was to be published does not pass its checks. Nothing was sent.

    Attributes:
        problems: every one found, each with its place.
    """

    remedy = "Correct what it lists, all of it, and run the same command again."

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        more = f" (and {len(self.problems) - 6} more)" if len(self.problems) > 6 else ""
        super().__init__(f"Not published: {'; '.join(problem.rstrip('.') for problem in self.problems[:6])}{more}.")


class TransferError(PublishError):
    """An upload or a download broke off inside the client; the same may succeed later."""

    remedy = "Run the same command again when the connection is better."


class PublishWarning(NLAWarning):
    """What was pushed holds, and its author should know something of it: no evaluation, a half that was not at hand."""

    remedy = "The message says what was not checked, or what the card will say."


@dataclass
class Findings:
    """What is wrong (nothing is published), and what the author should know."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
