"""Who owns which namespaces and interfaces, so that nothing is left behind and nothing of others is touched.

A swarm writes a file before it makes anything, and holds a lock on it while it lives; the kernel lets go of the lock
when the process is gone, however it ended. Whoever can take the lock knows that the owner is dead, and only then and
only by that file are namespaces, interfaces and processes recognised as leftovers.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from overlay.errors import ConfigError
from simulations.netns import kernel
from simulations.netns.limits import ORPHAN_GRACE_S

RUN = Path("/run/cocoon-swarms")
"""One file for each swarm; gone with a restart of the machine, as namespaces are."""

_SETTING_UP = "setting-up.lock"
"""Held while a swarm chooses its addresses, so that two that start at once choose different ones."""


@dataclass(frozen=True)
class Owner:
    """A swarm, by the process that runs it. All names begin with its process id."""

    pid: int

    def namespace(self, machine: str) -> str:
        """The name of a machine's namespace, as `ip netns` lists it."""
        return f"cocoon-{self.pid}-{machine}"

    def link(self, suffix: str) -> str:
        """The name of an interface outside the namespaces: at most 15 characters, as the kernel takes."""
        name = f"cc{self.pid}-{suffix}"
        assert len(name) <= 15
        return name

    @property
    def path(self) -> Path:
        """Its file."""
        return RUN / f"{self.pid}.json"

    def namespaces(self) -> list[str]:
        """Those that exist now."""
        prefix = self.namespace("")
        try:
            return sorted(name for name in os.listdir(kernel.NAMESPACES) if name.startswith(prefix))
        except FileNotFoundError:
            return []

    def links(self) -> list[str]:
        """Those that exist now."""
        prefix = self.link("")
        return sorted(name for name in kernel.link_names() if name.startswith(prefix))

    def remove(self) -> None:
        """Everything that bears its name; the file last, so that whatever is left is found again."""
        for namespace in self.namespaces():
            kernel.remove_namespace(namespace)
        for link in self.links():
            kernel.remove_link(link)
        self.path.unlink(missing_ok=True)


@dataclass
class Removed:
    """What a killed swarm had left."""

    owner: Owner
    namespaces: list[str]
    links: list[str]
    processes: list[int] = field(default_factory=list)

    @property
    def text(self) -> str:
        """For people."""
        ended = f", and ended {len(self.processes)} of its processes" if self.processes else ""
        parts = f"{len(self.namespaces)} namespaces and {len(self.links)} links"
        return f"removed {parts} of a swarm that was killed (process {self.owner.pid}){ended}"


@contextmanager
def owned(home: Path) -> Iterator[Owner]:
    """Be the owner of a swarm's network for the length of the block; everything of it is removed at the end."""
    owner = Owner(os.getpid())
    with ExitStack() as stack:
        with setting_up():  # nobody looks for leftovers between our making the file and locking it
            file = stack.enter_context(owner.path.open("w"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write(json.dumps({"pid": owner.pid, "home": str(home)}))
        file.flush()
        try:
            yield owner
        finally:
            owner.remove()


@contextmanager
def setting_up() -> Iterator[None]:
    """One process at a time. Not to be nested. Raises :class:`~overlay.errors.ConfigError` without the right to."""
    try:
        RUN.mkdir(mode=0o755, exist_ok=True)
        file = (RUN / _SETTING_UP).open("w")
    except OSError as error:
        raise ConfigError(
            f"{RUN} cannot be written ({error.strerror}), where swarms with --netns note what is theirs; run it as root"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove_leftovers() -> list[Removed]:
    """Remove what swarms left whose process is gone: processes, namespaces, links. Others are not touched."""
    if not RUN.exists():
        return []
    removed = []
    with setting_up():
        for path in sorted(RUN.glob("*.json")):
            try:
                owner, file = Owner(int(path.stem)), path.open("r+")
            except (ValueError, FileNotFoundError):
                continue
            with file:
                if not _abandoned(file):
                    continue
                found = Removed(owner, owner.namespaces(), owner.links())
                found.processes = _end_processes(found.namespaces)
                owner.remove()
                removed.append(found)
    return removed


def _abandoned(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end_processes(namespaces: list[str]) -> list[int]:
    """End those that run in these namespaces, and no others: a namespace of ours has only processes of ours."""
    inodes = _inodes(namespaces)
    processes = [process for process in psutil.process_iter() if _lives_in(process.pid, inodes)]
    for process in processes:
        _signal(process, signal.SIGCONT)
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=ORPHAN_GRACE_S)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=ORPHAN_GRACE_S)
    return [process.pid for process in processes]


def _inodes(namespaces: list[str]) -> set[tuple[int, int]]:
    found = set()
    for namespace in namespaces:
        status = kernel.namespace_path(namespace).stat()
        found.add((status.st_dev, status.st_ino))
    return found


def _lives_in(pid: int, inodes: set[tuple[int, int]]) -> bool:
    try:
        status = os.stat(f"/proc/{pid}/ns/net")
    except OSError:
        return False
    return (status.st_dev, status.st_ino) in inodes


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


__all__ = ["RUN", "Owner", "Removed", "owned", "remove_leftovers", "setting_up"]
