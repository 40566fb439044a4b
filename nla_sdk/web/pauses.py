"""When a server says to come again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime


def again_in(headers: Mapping[str, str], longest: float) -> float | None:
    """Seconds that a server asks to wait (a number, or a date); None: it does not say, or more than is waited here.

    Args:
        headers: of its answer, in lower case or looked up in any.
        longest: seconds that are waited at most.
    Example:
        >>> again_in({"retry-after": "7"}, longest=30), again_in({"retry-after": "70"}, longest=30), again_in({}, 30)
        (7.0, None, None)
    """
    said = headers.get("retry-after", "")
    try:
        number = said.replace(".", "", 1).isdigit()
        wait = float(said) if number else parsedate_to_datetime(said).timestamp() - time.time()
    except (TypeError, ValueError):
        return None
    return max(wait, 0.0) if wait <= longest else None
