"""The data directory: identity, wallet, ledger, and the lock that keeps two processes out of one directory.

    <data dir>/identity.key     32-byte Ed25519 seed, hex          0600
    <data dir>/channel.key      32-byte Ed25519 seed, hex          0600   signs vouchers; may be sealed
    <data dir>/wallet.words     24-word TON mnemonic               0600   may be sealed (overlay.keys)
    <data dir>/ledger.sqlite3   channels, vouchers, receipts       0600
    <data dir>/outbox.sqlite3   the wallet's message in flight     0600
    <data dir>/trusted-block.json   newest proved key block; can be deleted
    <data dir>/peers-<subnet>.sqlite3   where peers were reached; can be deleted
    <data dir>/cocoon.toml      configuration, if any
    <data dir>/lock             held while a process runs here
    <data dir>/control.sock     how commands reach that process    0600

All of it lives under one home (`$COCOON_HOME`, else the platform's data directory): `node` and `client` are the default
data directories, `devnet` belongs to the local test chain, `run` lists the nodes that run on this machine now.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import platformdirs

from overlay.errors import ConfigError, DataDirBusy
from transport.identity import SEED_BYTES, Identity


def home() -> Path:
    """Where everything lives: ``$COCOON_HOME`` or the platform's data directory."""
    configured = os.environ.get("COCOON_HOME")
    return Path(configured) if configured else Path(platformdirs.user_data_dir("cocoon"))


class DataDir:
    """An open, locked data directory. Use :func:`open_data_dir`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def ledger_path(self) -> Path:
        """The SQLite ledger."""
        return self.path / "ledger.sqlite3"

    @property
    def outbox_path(self) -> Path:
        """The wallet's signed message that is not settled yet."""
        return self.path / "outbox.sqlite3"

    @property
    def trusted_block_path(self) -> Path:
        """The newest key block that was proved, for trust level 0."""
        return self.path / "trusted-block.json"

    def peers_path(self, subnet: str) -> Path:
        """Where the control plane remembers its peers of ``subnet``."""
        return self.path / f"peers-{subnet}.sqlite3"

    @property
    def config_path(self) -> Path | None:
        """The directory's own configuration file, if there is one."""
        path = self.path / "cocoon.toml"
        return path if path.exists() else None

    def identity(self, entropy: Callable[[int], bytes] = os.urandom) -> Identity:
        """The node's libp2p identity, made on first use."""
        return Identity(self.secret("identity.key", entropy))

    def secret(self, name: str, entropy: Callable[[int], bytes] = os.urandom) -> bytes:
        """A 32-byte secret kept as hex in file ``name``, made on first use."""
        text = self.text(name, lambda: entropy(SEED_BYTES).hex())
        try:
            seed = bytes.fromhex(text.strip())
        except ValueError:
            seed = b""
        if len(seed) != SEED_BYTES:
            raise ConfigError(
                f"{self.path / name} is damaged: it should hold {2 * SEED_BYTES} hexadecimal digits. Restore it from a "
                "backup; deleting it makes a new identity, to which nothing that was owed to the old one is paid"
            )
        return seed

    def text(self, name: str, make: Callable[[], str]) -> str:
        """The contents of the private file ``name``, written from ``make()`` on first use (0600, fsynced)."""
        path = self.path / name
        try:
            return path.read_text("ascii")
        except FileNotFoundError:
            text = make()
            write_private(path, text + "\n")
            return text
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error


def write_private(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically: readable by the owner alone, on disk before this returns."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def open_data_dir(path: Path) -> Iterator[DataDir]:
    """Create (0700) and lock a data directory for the length of the block.

    Raises :class:`~overlay.errors.DataDirBusy` while another process holds it and
    :class:`~overlay.errors.ConfigError` when it cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (path / "lock").open("a+")
    except OSError as error:
        raise ConfigError(
            f"the data directory {path} cannot be used: {error.strerror}; name another with --data-dir"
        ) from error
    with lock:
        _take(lock, path)
        yield DataDir(path)


def _take(lock: IO[str], path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        raise DataDirBusy(f"{path} is in use by {holder}; stop it, or give this one a --data-dir of its own") from None
    lock.seek(0)
    lock.truncate()
    lock.write(f"process {os.getpid()}\n")
    lock.flush()


@contextmanager
def running_here(kind: str, subnet: str, peer_id: str, addrs: list[str]) -> Iterator[None]:
    """List this process among those that run on this machine, so that others here find it with no bootstrap given."""
    directory = home() / "run"
    path = directory / f"{peer_id}.json"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(path, json.dumps({"kind": kind, "subnet": subnet, "pid": os.getpid(), "addrs": addrs}))
    except OSError:
        # A read-only home costs only the convenience of being found without a bootstrap address.
        yield
        return
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def neighbours(subnet: str) -> list[str]:
    """Addresses of nodes of ``subnet`` that run on this machine now, for a start without bootstrap peers."""
    found: list[str] = []
    for path in sorted((home() / "run").glob("*.json")):
        try:
            entry = json.loads(path.read_text())
            pid, addrs = int(entry["pid"]), [str(a) for a in entry["addrs"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if entry.get("subnet") == subnet and pid != os.getpid() and _alive(pid):
            found.extend(addrs)
    return found


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
