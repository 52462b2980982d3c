"""Which program this is: the commit of the repository that it runs from."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

UNKNOWN = "unknown"
_PATIENCE_S = 20.0
_ROOT = Path(__file__).parents[1]


@functools.cache
def commit() -> str:
    """Its first twelve digits, with ``+`` when tracked files differ from it; ``unknown`` outside of a repository."""
    if _git("ls-files", "--error-unmatch", "simulations/commit.py") is None:
        return UNKNOWN  # installed somewhere inside a repository of somebody else is outside of ours
    return _git("describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*") or UNKNOWN


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *words],  # noqa: S607  # whichever git is on PATH
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
