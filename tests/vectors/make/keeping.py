"""What the scripts here share: where files go, and what is expected of them beside them.

Each script runs in an environment of its own, made for it and thrown away (its head says how), from any folder:
`python tests/vectors/make/sae_lens_6.py`. Nothing of this package is imported, and CI runs none of them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

FILES = Path(__file__).parent.parent / "files"
LARGEST = 20_000  # bytes of a file that is kept


class Kept:
    """One tool's folder, emptied, and its `expected.json`: case → layer, model, directions."""

    def __init__(self, tool: str) -> None:
        self.folder = FILES / tool
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.expected: dict[str, Any] = {}

    def case(self, name: str, directions: Any = None, **facts: Any) -> Path:
        """A case's folder; `directions` as the tool itself has them in memory, None: it is to be refused."""
        if directions is not None:
            directions = directions.detach() if hasattr(directions, "detach") else directions
            facts["directions"] = [[float(f"{number:.9g}") for number in row] for row in directions.tolist()]
        self.expected[name] = facts
        return self.folder / name

    def close(self) -> None:
        """Write what is expected, and see that all is small."""
        rows = ",\n".join(f" {json.dumps(name)}: {json.dumps(facts)}" for name, facts in self.expected.items())
        (self.folder / "expected.json").write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")
        sizes = {path: path.stat().st_size for path in self.folder.rglob("*") if path.is_file()}
        assert max(sizes.values()) <= LARGEST, sizes
        print(f"{self.folder}: {len(self.expected)} cases, {len(sizes)} files, {sum(sizes.values()):,} bytes")
