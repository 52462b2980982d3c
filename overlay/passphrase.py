"""Where the passphrase of sealed keys comes from: a file, the environment, a systemd credential, or whoever sits there.

It is never taken from the command line: every process of the machine can read those. In this order:

1. ``ton.passphrase_file`` of the configuration;
2. ``COCOON_PASSPHRASE``, for containers and tests;
3. ``COCOON_PASSPHRASE_FILE``;
4. ``$CREDENTIALS_DIRECTORY/cocoon-passphrase``: ``LoadCredential=`` or ``LoadCredentialEncrypted=`` of a systemd unit;
5. a prompt, when a terminal is there to ask.
"""

from __future__ import annotations

import getpass
import os
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from overlay.errors import ConfigError

VARIABLE = "COCOON_PASSPHRASE"
FILE_VARIABLE = "COCOON_PASSPHRASE_FILE"
NEW_VARIABLE = "COCOON_NEW_PASSPHRASE"
CREDENTIAL = "cocoon-passphrase"

_MAX_FILE_BYTES = 4096

Ask = Callable[[str], str]
"""Shows a prompt and returns what was typed, unseen."""


def terminal_ask() -> Ask | None:
    """How to ask whoever sits at the terminal; ``None`` when nobody does."""
    return getpass.getpass if sys.stdin.isatty() and sys.stderr.isatty() else None


def stored_passphrase(configured: str = "", environ: Mapping[str, str] = os.environ) -> str | None:
    """The passphrase that is laid down somewhere, ``None`` when there is none.

    ``configured`` is ``ton.passphrase_file``. Raises :class:`~overlay.errors.ConfigError` for a file that cannot be
    read, is empty, or may be read by others.
    """
    if configured:
        return _from_file(Path(configured), "ton.passphrase_file")
    if environ.get(VARIABLE):
        return environ[VARIABLE]
    if environ.get(FILE_VARIABLE):
        return _from_file(Path(environ[FILE_VARIABLE]), FILE_VARIABLE)
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory and (Path(directory) / CREDENTIAL).exists():
        # systemd keeps these in memory, for the unit's user alone.
        return _read(Path(directory) / CREDENTIAL, "the systemd credential")
    return None


def existing_passphrase(
    what: str, configured: str = "", *, environ: Mapping[str, str] = os.environ, ask: Ask | None = None
) -> str:
    """The passphrase of ``what``, asked for when it is laid down nowhere and ``ask`` can.

    Raises :class:`~overlay.errors.ConfigError` that names every way to give it.
    """
    found = stored_passphrase(configured, environ)
    if found is not None:
        return found
    if ask is not None:
        return ask(f"Passphrase of {what}: ")
    raise ConfigError(
        f"{what} is sealed and its passphrase is not given: put it into a file (chmod 600) and name that by "
        f"ton.passphrase_file or {FILE_VARIABLE}, set {VARIABLE}, or load a systemd credential {CREDENTIAL!r}"
    )


def new_passphrase(
    what: str,
    configured: str = "",
    *,
    environ: Mapping[str, str] = os.environ,
    ask: Ask | None = None,
    changing: bool = False,
) -> str:
    """A passphrase to seal ``what`` with: laid down, or asked for twice.

    When ``changing``, what is laid down is the old one, and ``COCOON_NEW_PASSPHRASE`` or the prompt gives the new.
    """
    found = environ.get(NEW_VARIABLE) if changing else stored_passphrase(configured, environ)
    if found is not None:
        return found
    if ask is None:
        variable = NEW_VARIABLE if changing else VARIABLE
        raise ConfigError(f"no passphrase to seal {what} with: set {variable}, or run this on a terminal")
    first = ask(f"New passphrase of {what}: ")
    if ask("The same again: ") != first:
        raise ConfigError("the two passphrases differ; nothing was changed")
    return first


def _from_file(path: Path, source: str) -> str:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"{source}: {path} cannot be read: {error.strerror}") from error
    if stat.S_ISREG(mode) and mode & 0o077:
        raise ConfigError(f"{source}: {path} may be read by others; run `chmod 600 {path}`")
    return _read(path, source)


def _read(path: Path, source: str) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: {path} cannot be read: {error}") from error
    passphrase = text.rstrip("\r\n")
    if not passphrase or len(text) > _MAX_FILE_BYTES or "\n" in passphrase:
        raise ConfigError(f"{source}: {path} should hold one line, the passphrase")
    return passphrase
