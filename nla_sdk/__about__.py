"""The commit this code is of. hatch_build.py runs this file by itself: nothing but the standard library."""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).parent
BUILT = "commit.txt"
"""In a wheel and an sdist, what they were built from; never in a checkout."""


def commit(package: Path = HERE) -> str | None:
    """The commit of the code in `package`, "+changes" if the tracked files differ from it; None if nobody knows.

    A wheel and an sdist say it in a file, a checkout by git. That some repository lies above is not enough: an
    environment in a user's project would be taken for that project's commit.
    """
    if (built := package / BUILT).is_file():
        return built.read_text(encoding="utf-8").strip()
    own = Path(__file__).name
    try:
        if _git(package, "ls-files", "--full-name", "--error-unmatch", own) != f"{package.name}/{own}":
            return None
        changes = _git(package, "status", "--porcelain", "--untracked-files=no")
        return _git(package, "rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
