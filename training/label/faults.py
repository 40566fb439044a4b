"""What can go wrong with one call, by what is done about it; and how long a provider asked us to wait.

    Transient   → the same provider again, after a pause
    Refused     → the next provider, for this row
    QuotaWall   → the next provider, for every row until the quota resets
    LabelError  → the stage stops: no other row would fare better

Every reason is scrubbed of keys when the fault is made, so that none can reach a log, a table or a traceback.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from zoneinfo import ZoneInfo

from nla_sdk.errors import NLAError

PATIENCE = 60.0
"""Seconds: a provider that asks for a longer pause has hit a quota, and others are tried meanwhile."""

KEY_VARIABLES = {"ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "HF_TOKEN"}
"""Environment variables whose values are secrets; a provider adds its own `key_env`."""

_LONGEST_REASON = 200


class LabelError(NLAError):
    """Labelling cannot go on; all finished work is kept."""

    remedy = "Put the provider, key, budget or cache right that it names, and run the same command again: it goes on."


class Fault(Exception):
    """A call that gave no usable completion.

    Args:
        reason: one line, without the text that was labelled; keys in it are replaced by `***`.
        lost: the request went out and no whole answer came back, so it may have been billed all the same.
        cost_usd: what an answer that is of no use cost.
    """

    def __init__(self, reason: object, *, lost: bool = False, cost_usd: float | None = 0.0) -> None:
        line = " ".join(scrub(str(reason)).split())
        super().__init__(line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 1] + "…")
        self.lost, self.cost_usd = lost, cost_usd or 0.0


class Transient(Fault):
    """Worth another try: 429 with a short Retry-After, 5xx, timeout, broken connection, malformed completion."""

    def __init__(
        self,
        reason: object,
        *,
        retry_after: float | None = None,
        lost: bool = False,
        cost_usd: float | None = 0.0,
    ) -> None:
        super().__init__(reason, lost=lost, cost_usd=cost_usd)
        self.retry_after = retry_after


class Refused(Fault):
    """This provider will not answer this request, however often it is asked."""


class NoLabel(Fault):
    """A file of labels has none for this text."""


class QuotaWall(Fault):
    """Nothing more from this provider until `resets_at` (seconds since the epoch; None: it did not say)."""

    def __init__(self, reason: object, *, resets_at: float | None = None) -> None:
        super().__init__(reason)
        self.resets_at = resets_at


def scrub(text: str) -> str:
    """`text` without the values of the environment's keys."""
    for name in sorted(KEY_VARIABLES):
        value = os.environ.get(name, "").strip()
        if len(value) >= 6:  # shorter ones are no secrets, and would blot out ordinary words
            text = text.replace(value, "***")
    return text


def too_many_requests(reason: str, headers: Mapping[str, str]) -> Transient | QuotaWall:
    """The fault that a 429 with these headers is."""
    pause = pause_asked(headers)
    if pause is not None and pause > PATIENCE:
        return QuotaWall(reason, resets_at=time.time() + pause)
    return Transient(reason, retry_after=pause)


def pause_asked(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds to wait, by a response's headers; None where they say nothing.

    `Retry-After` (seconds or an HTTP date) comes first. Without it, the resets of exhausted limits count:
    `anthropic-ratelimit-*-reset` (a timestamp) and `x-ratelimit-reset-*` (a duration such as `6m0s`).

    Example:
        >>> pause_asked({"retry-after": "7"})
        7.0
        >>> pause_asked({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s"})
        90.0
    """
    now = time.time() if now is None else now
    headers = {name.lower(): value.strip() for name, value in headers.items()}
    if (stated := headers.get("retry-after")) is not None:
        try:
            return max(0.0, float(stated))
        except ValueError:
            pass
        try:
            return max(0.0, parsedate_to_datetime(stated).timestamp() - now)
        except ValueError:
            pass
    pauses = []
    for name, value in headers.items():
        if match := re.fullmatch(r"anthropic-ratelimit-(.+)-reset", name):
            remaining = headers.get(f"anthropic-ratelimit-{match[1]}-remaining")
            try:
                pause = datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp() - now
            except ValueError:
                continue
        elif match := re.fullmatch(r"x-ratelimit-reset-(.+)", name):
            remaining, pause = headers.get(f"x-ratelimit-remaining-{match[1]}"), duration(value)
        else:
            continue
        if remaining == "0" and pause is not None:
            pauses.append(max(0.0, pause))
    return max(pauses, default=None)


def duration(text: str) -> float | None:
    """`1h2m3.5s`, `20ms` or plain seconds, in seconds; None if it is nothing of the kind."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[dhms])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}[unit] for number, unit in parts)


def reset_announced(text: str, now: float | None = None) -> float | None:
    """When a quota resets, by what a command-line client says of it; seconds since the epoch, None if it doesn't say.

    Example:
        >>> reset_announced("Claude AI usage limit reached|1762952400")
        1762952400.0
        >>> reset_announced("Your quota will reset after 1h2m3s.", now=0)
        3723.0
    """
    now = time.time() if now is None else now
    if match := re.search(r"\|(\d{10})\b", text):
        return float(match[1])
    if match := re.search(r"resets? (?:after|in) ((?:\d+[dhms] ?)+)", text, re.IGNORECASE):
        return now + (duration(match[1].replace(" ", "")) or 0)
    clock = r"resets? (?:at )?(\d{1,2})(?::(\d\d))? ?([ap]m)(?: \(([\w/+-]+)\))?"  # resets 3:50pm (Asia/Tokyo)
    if match := re.search(clock, text, re.IGNORECASE):
        try:
            zone = ZoneInfo(match[4]) if match[4] else None
        except (OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError
            return None
        except KeyError:
            return None
        local = datetime.fromtimestamp(now, timezone.utc).astimezone(zone)
        hour = int(match[1]) % 12 + (12 if match[3].lower() == "pm" else 0)
        reset = local.replace(hour=hour, minute=int(match[2] or 0), second=0, microsecond=0)
        return (reset if reset > local else reset + timedelta(days=1)).timestamp()
    return None
