"""What the parts of an evaluation cost, stored with each chunk."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa

Result = TypeVar("Result")
TIMING = pa.schema([("part", pa.string()), ("seconds", pa.float64()), ("tokens", pa.int64()), ("code", pa.string())])


@dataclass
class Clock:
    """Seconds and written tokens by part, and the code that ran, stored with each chunk for runs that go on from it."""

    code: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    def timed(self, part: str, work: Callable[..., Result], *arguments: Any) -> Result:
        """What `work(*arguments)` returns; its seconds count for `part`."""
        start = time.perf_counter()
        result = work(*arguments)
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start
        return result

    def table(self) -> pa.Table:
        """A row a part, for the chunk."""
        rows = [
            {"part": part, "seconds": seconds, "tokens": self.tokens.get(part, 0), "code": self.code}
            for part, seconds in self.seconds.items()
        ]
        return pa.Table.from_pylist(rows, schema=TIMING)
