"""How long, how large and how dear a job is, from rates that were measured. `python benchmarks/scale.py`

A row costs an actor --row-seconds, and the command that hands rows out and writes what comes back --command-ms, on one
machine and one row after another. So actors add up until they bring rows faster than the command takes them; from
there on the table is cut into parts, each with a command of its own. Before its work a command reads INPUT once to
refuse what is malformed (--check-ms), and in the end it waits for the last chunk. Rates default to
`benchmarks/cluster.json`: the demo pair's, on a CPU core.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

CHUNK_ROWS = 64
"""What an actor is handed at a time by `nla explain`: nobody helps with the last one."""
MEASURED = Path(__file__).with_name("cluster.json")


@dataclass(frozen=True)
class Rates:
    """What a row costs.

    Attributes:
        row: seconds of an actor.
        command, check: seconds of the command: handing out and writing, and looking at it before.
        start: seconds until an actor has loaded the pair, whatever the rows.
        bytes_in, bytes_out: of a row on disk.
        dollars: an actor's hour.
    """

    row: float
    command: float
    check: float
    start: float
    bytes_in: int
    bytes_out: int
    dollars: float

    @property
    def most_actors(self) -> int:
        """Beyond so many, the command is what everybody waits for."""
        return max(1, math.floor(self.row / self.command))

    def hours(self, rows: float, actors: int, parts: int = 1) -> float:
        """From the command to OUT, the table cut into `parts` that run side by side.

        Args:
            actors: of all parts together.
        """
        share, mine = rows / parts, actors / parts
        work = share * (self.check + max(self.row / mine, self.command))
        return (self.start + work + min(CHUNK_ROWS, share / mine) * self.row) / 3600

    def price(self, rows: float) -> float:
        """Dollars for actors that never wait."""
        return rows * self.row / 3600 * self.dollars


def measured() -> dict[str, float]:
    """Seconds of a row, as `cluster.py` has them on this or another machine."""
    found = json.loads(MEASURED.read_text(encoding="utf-8"))
    explain, instant = found["overhead"], found["instant"]
    row = sorted(explain["local_seconds"])[len(explain["local_seconds"]) // 2] * explain["cores"] / explain["rows"]
    command, check = instant["ray_ms_a_row"] / 1000, instant["check_ms_a_row"] / 1000
    return {"row": row, "command": command, "check": check, "start": explain["start_seconds"]}


def lines(rates: Rates, actors: list[int], rows: list[float]) -> list[str]:
    """The table."""
    head = ["rows", "INPUT", "OUT", "dollars", *(f"{count:,} actors" for count in actors)]
    shown = [head]
    for count in rows:
        sizes = [_size(count * one) for one in (rates.bytes_in, rates.bytes_out)]
        cells = [f"{count:.0e}".replace("e+", "e"), *sizes, f"{rates.price(count):,.0f}"]
        for number in actors:
            parts = math.ceil(number / rates.most_actors)
            cells.append(_time(rates.hours(count, number, parts)) + (f" in {parts} parts" if parts > 1 else ""))
        shown.append(cells)
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in shown]


def _size(size: float) -> str:
    return f"{size / 1e12:.3g} TB" if size >= 1e12 else f"{size / 1e9:.3g} GB"


def _time(hours: float) -> str:
    for unit, size in (("years", 24 * 365), ("days", 24), ("hours", 1), ("minutes", 1 / 60)):
        if hours >= 2 * size:
            return f"{hours / size:.3g} {unit}"
    return f"{hours * 3600:.3g} seconds"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6, 1e8, 1e10])
    parser.add_argument("--actors", type=int, nargs="+", default=[16, 256, 4096])
    parser.add_argument("--row-seconds", type=float, help="of an actor, for a row")
    parser.add_argument("--command-ms", type=float, help="of the command, for a row")
    parser.add_argument("--check-ms", type=float, help="of the command, for a row, before any work")
    parser.add_argument("--start", type=float, help="seconds until an actor is ready")
    parser.add_argument("--width", type=int, default=640, help="d_model")
    parser.add_argument("--text-bytes", type=int, default=200, help="of an explanation and what stands beside it")
    parser.add_argument("--dollars", type=float, default=0.04, help="an hour of an actor")
    options = parser.parse_args()
    command, check = (one if one is None else one / 1000 for one in (options.command_ms, options.check_ms))
    said = {"row": options.row_seconds, "command": command, "check": check, "start": options.start}
    given = {name: value for name, value in said.items() if value is not None}
    sizes = {"bytes_in": 4 * options.width, "bytes_out": 4 * options.width + options.text_bytes}
    rates = Rates(**(measured() | given if len(given) < len(said) else given), **sizes, dollars=options.dollars)
    print(
        f"a row: {rates.row:.3g} s of an actor, {1000 * rates.command:.3g} ms of the command, "
        f"{1000 * rates.check:.3g} ms before; one command keeps {rates.most_actors:,} actors at work"
    )
    print("\n".join(lines(rates, options.actors, options.rows)))


if __name__ == "__main__":
    main()
