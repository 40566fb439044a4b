"""List the commands of training. `python -m training`"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from nla_sdk.cli import boundary

HERE = Path(__file__).parent
ROOMS = {
    "data": "text → activations → training tables",
    "label": "texts → explanations",
    "fit": "tables → a pair",
    "runs": "what a run's log says",
    "evaluate": "what a pair's explanations carry",
    "publish": "to the Hub, with cards",
}
COMMAND = 'if __name__ == "__main__":'


def commands() -> Iterator[tuple[str, str, str]]:
    """Room, name (`fit.av`) and first line of every module that is a command; read as text, importing none of them."""
    for file in sorted(HERE.rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        parts = file.relative_to(HERE).with_suffix("").parts
        if COMMAND in source and parts != ("__main__",):
            name = ".".join(parts).removesuffix(".__main__")
            yield parts[0] if len(parts) > 1 else "data", name, _first_line(source)


def paragraphs() -> Iterator[str]:
    """The help: how a command is started, then each room's, with a line of what each of them does."""
    listed = list(commands())
    width = max(len(name) for _, name, _ in listed)
    yield "Makes checkpoints. Start a command as `python -m training.COMMAND`; each of them answers --help."
    for room, what in ROOMS.items():
        own = [f"  {name:<{width}}  {line}" for place, name, line in listed if place == room]
        yield "\n".join([f"{room}: {what}", *own])


def _first_line(source: str) -> str:
    """Of a module's docstring, without the command that stands there."""
    first = source.removeprefix('"""').partition("\n")[0].removesuffix('"""')
    return re.sub(r"\s*`python -m .*", "", first).rstrip(".:")


def main() -> None: ...


main.__doc__ = "\n\n\b\n".join(paragraphs())  # \b: click leaves a paragraph's lines as they are

if __name__ == "__main__":
    boundary.run(main, sys.argv[1:] or ["--help"])
