"""Which program this is: every figure and every replay names it."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

UNKNOWN = "unknown"
"""Outside of a checkout."""


@cache
def commit() -> str:
    """The checkout's commit, with ``+`` when tracked files differ from it; :data:`UNKNOWN` outside of one."""
    here = Path(__file__).resolve().parent
    try:
        head = _git(here, "rev-parse", "--short=12", "HEAD")
        dirty = _git(here, "status", "--porcelain", "-uno")
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return head + ("+" if dirty else "")


def _git(where: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
