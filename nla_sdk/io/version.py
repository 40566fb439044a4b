"""Which code wrote a file."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .. import __version__


def code_version() -> str:
    """The commit this runs from, "+changes" if the tree differs from it; else the package version."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "-C", here, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
        return commit + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return f"nla-sdk {__version__}"
