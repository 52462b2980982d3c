"""Files that are whole or not there, and a directory that will take them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from overlay.errors import ConfigError

MIB = 1 << 20


class OutputError(ConfigError):
    """What a run leaves behind cannot be written."""

    code = "output"


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` so that a file with this name is always whole. Raises ``OSError``."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def prepare_directory(path: Path, needed_bytes: int, option: str) -> None:
    """Make ``path`` a directory that can be written to and has room, before work starts.

    Raises :class:`OutputError`.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".cocoon-probe"
        probe.write_bytes(b"")
        probe.unlink()
        free = shutil.disk_usage(path).free
    except OSError as error:
        raise OutputError(f"{option} {path}: {error.strerror or error}; name a directory that can be written") from None
    if free < needed_bytes:
        raise OutputError(
            f"{option} {path}: {free // MIB} MiB are free there and up to {needed_bytes // MIB + 1} MiB are needed; "
            "make room, or name a directory on another disk"
        )
