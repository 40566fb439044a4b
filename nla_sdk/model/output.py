"""What an AV wrote: the explanation taken out of the raw output."""

from __future__ import annotations

from ..results import Explanation

OPEN_TAG, CLOSE_TAG = "<explanation>", "</explanation>"


def parse_output(raw: str, finished: bool, tokens: int = 0) -> Explanation:
    """Take the explanation out of raw output: what stands between the tags where there are any, else all of it.

    Args:
        raw: the output as decoded.
        finished: whether it came to an end of its own.
        tokens: how many were written.
    """
    text, closed, _ = raw.partition(CLOSE_TAG)
    if OPEN_TAG in text:
        text = text.split(OPEN_TAG, 1)[1].replace(OPEN_TAG, "")
    text = text.strip()
    status = "empty" if not text else "ok" if finished or closed else "truncated"
    return Explanation(text, status=status, raw=raw, tokens=tokens)
