"""What hatchling does beside packing files: a wheel and an sdist are told the commit they are built from."""

from __future__ import annotations

import runpy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Commit(BuildHookInterface):
    """Puts `nla_sdk/commit.txt` into what is built; `nla --version` and all records read it there.

    Nothing is written into the tree, where it would soon be another commit's. An sdist has the file already: a wheel
    made from it says the same. Where no commit is known there is no file, and `nla --version` says so.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        package = Path(self.root) / "nla_sdk"
        about = runpy.run_path(str(package / "__about__.py"))
        found = about["commit"](package)
        if version == "editable" or found is None or (package / about["BUILT"]).exists():
            return
        self._kept = TemporaryDirectory()
        file = Path(self._kept.name, about["BUILT"])
        file.write_text(f"{found}\n", encoding="utf-8", newline="\n")
        build_data["force_include"][str(file)] = f"nla_sdk/{about['BUILT']}"
