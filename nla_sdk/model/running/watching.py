"""Who watches while rows are written: told how far they are, and may call the whole off."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import CancelledCallError, InputError


@dataclass(frozen=True)
class Watch:
    """What a call is watched by, from whichever thread happens to write its rows.

    Attributes:
        progress: called with the number of rows that have just ended.
        on_text: called with a row's number and its text so far, at most once a step.
        cancel: once it is set, the call ends.
    Raises:
        InputError: one of them is something else.
    """

    progress: Callable[[int], None] | None = None
    on_text: Callable[[int, str], None] | None = None
    cancel: threading.Event | None = None

    def __post_init__(self) -> None:
        for name in ("progress", "on_text"):
            if (given := getattr(self, name)) is not None and not callable(given):
                raise InputError(f"{name} is a {type(given).__name__}; expected a function.")
        if self.cancel is not None and not callable(getattr(self.cancel, "is_set", None)):
            raise InputError(f"cancel is a {type(self.cancel).__name__}; expected a threading.Event.")

    @property
    def cancelled(self) -> bool:
        """Whether the caller has called it off."""
        return self.cancel is not None and self.cancel.is_set()

    def check(self) -> None:
        """Go no further once the caller has called it off.

        Raises:
            CancelledCallError: that is so.
        """
        if self.cancelled:
            raise CancelledCallError("The call was cancelled (its `cancel` is set); what it had written is dropped.")

    def numbered(self, number: Callable[[int], int], each: int = 1) -> Watch:
        """The same for rows that are numbered otherwise: row r is the caller's number(r), as `each` rows in a row."""
        progress, on_text = self.progress, self.on_text

        def tell(row: int, text: str) -> None:
            assert on_text is not None
            for at in range(each):
                on_text(number(row) * each + at, text)

        return Watch(
            progress if progress is None or each == 1 else lambda done: progress(done * each),
            None if on_text is None else tell,
            self.cancel,
        )


UNWATCHED = Watch()
