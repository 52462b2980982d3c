"""Production nodes in a simulated world: started, stopped, crashed, restarted, and watched from outside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import trio

from overlay.config import Config
from overlay.errors import CocoonError
from overlay.events import EventLog, NodeEvent
from overlay.node.client import ClientNode, open_client
from overlay.node.provider import ProviderNode, open_provider
from overlay.subnet import Subnet
from simulations.network import VirtualHost
from simulations.world.attackers import ClientBehaviour, ProviderBehaviour
from simulations.world.engines import ModelEngine
from simulations.world.hardware import Offering
from simulations.world.machine import VirtualMachine
from transport.host.interface import Host
from transport.identity import PeerId

RESTART_S = 2.0
"""Between a crash and the next start, of a node that starts again by itself."""


class _Node(Protocol):
    host: Host


N = TypeVar("N", bound=_Node)


@contextmanager
def dying_quietly(machine: VirtualMachine) -> Iterator[None]:
    """A process that was killed has no last words: what its tasks raise while they are taken down is nothing."""
    try:
        yield
    except Exception:
        if not machine.dead:
            raise


@dataclass(eq=False)
class Peer(ABC, Generic[N]):
    """A machine and the node that runs on it, if one does. ``number`` counts among those of its role."""

    number: int
    group: str
    behaviour: str
    machine: VirtualMachine
    config: Config
    subnet: Subnet
    bootstrap: Sequence[str]
    told: Callable[[Peer[N], NodeEvent], None]
    """Hears every line of the node's log."""
    node: N | None = None
    host: VirtualHost | None = None
    shifts: list[tuple[float, float]] = field(default_factory=list)
    """From when to when it ran, this time not included."""
    started_at: float = 0.0
    warnings: Counter[str] = field(default_factory=Counter)
    failure: str = ""
    """Why it could not start, or ended by itself."""
    crashes: int = 0
    """How often it was killed."""
    at_crash: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """What the books said of each channel at the last kill (:meth:`Books.summary`)."""
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    _ended: trio.Event | None = None
    """While it runs, starts or ends; set when it has ended."""

    @property
    def peer_id(self) -> PeerId:
        """Its identity's, whether it runs or not."""
        return self.machine.identity().peer_id

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return self.node is not None

    @property
    def running(self) -> bool:
        """Whether it runs, starts or ends."""
        return self._ended is not None

    def uptime_s(self) -> float:
        """Seconds that it has run so far."""
        return sum(ends_s - begins_s for begins_s, ends_s in self.shifts_now())

    def shifts_now(self) -> list[tuple[float, float]]:
        """From when to when it ran, this time included as far as it has come."""
        return [*self.shifts, (self.started_at, trio.current_time())] if self.up else list(self.shifts)

    def observe(self, event: NodeEvent) -> None:
        """A line of the node's log."""
        if event.level != "info":
            self.warnings[event.kind] += 1
        self.told(self, event)

    @abstractmethod
    def opened(self) -> AbstractAsyncContextManager[N]:
        """The node, as a block."""

    async def run(
        self, use: Callable[[N], Awaitable[None]] | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:  # fmt: skip
        """Run the node until :meth:`stop`, and ``use`` with it. A node that cannot start leaves :attr:`failure`.

        It may be run again when it has ended, and finds what is on the machine's disk."""
        assert self._ended is None, "one node at a time on a machine"
        self._scope, self._ended, self.failure = trio.CancelScope(), trio.Event(), ""
        self.machine.boot()
        try:
            with dying_quietly(self.machine), self._scope:
                async with self.opened() as node:
                    assert isinstance(node.host, VirtualHost)
                    self.node, self.host, self.started_at = node, node.host, trio.current_time()
                    task_status.started()
                    try:
                        if use is not None:
                            await use(node)
                        await trio.sleep_forever()
                    finally:
                        self.shifts.append((self.started_at, trio.current_time()))
                        self.node = None
        except CocoonError as error:
            self.failure = str(error)
        finally:
            self.node = self.host = None
            ended, self._ended = self._ended, None
            ended.set()

    async def stop(self, *, crash: bool = False, silent: bool = False) -> None:
        """End it, if it runs: in good order and with a farewell, or with ``crash`` at once, as a kill does: nothing is
        said or written any more. The kernel of a process that was killed closes its connections; with ``silent`` the
        machine is gone with it, and peers find out for themselves."""
        ended = self._ended
        if ended is None:
            return
        if crash:
            self.crashes += 1
            self.machine.kill()
            books = self.machine.books
            self.at_crash = {} if books is None else books.summaries()
            if self.host is not None:
                self.host.halt(crash=silent)
        self._scope.cancel()
        await ended.wait()


@dataclass(eq=False, kw_only=True)
class ProviderPeer(Peer[ProviderNode]):
    """One that sells. ``engines`` makes its engines anew for each start."""

    does: ProviderBehaviour
    hardware: str = ""
    sold: Sequence[Offering] = ()
    floor: float = 1.0
    """The least that its owner works for, as a multiple of what the work costs."""
    engines: Callable[[], Sequence[ModelEngine]] = tuple
    used: list[ModelEngine] = field(default_factory=list)
    """The engines of all its runs: what they made is what it cost."""

    def opened(self) -> AbstractAsyncContextManager[ProviderNode]:
        """As `cocoon node run` opens it."""
        log = EventLog(self.observe, self.machine.clock)
        fresh = self.engines()
        self.used += fresh
        return open_provider(self.config, self.machine, self.subnet, self.bootstrap, log, fresh)

    def engines_now(self) -> Sequence[ModelEngine]:
        """Those of the node that runs."""
        return self.used[-len(self.sold) :] if self.up else ()

    async def leave(self) -> None:
        """As after SIGTERM: withdraw, drain, stop."""
        node = self.node
        if node is not None:
            with dying_quietly(self.machine):
                await node.drain(self.config.node.drain_timeout_s)
        if self.node is node:  # else it was killed while it drained, and another may run by now
            await self.stop()


@dataclass(eq=False, kw_only=True)
class ClientPeer(Peer[ClientNode]):
    """One that buys. Prices are nanoTON per million of the main unit."""

    does: ClientBehaviour
    value_nanoton: int = 0
    value_of_time_nanoton_per_s: int = 0
    channels: int = 0
    """With which it begins."""

    def opened(self) -> AbstractAsyncContextManager[ClientNode]:
        """As `cocoon gateway run` opens it."""
        return open_client(self.config, self.machine, self.subnet, self.bootstrap, self.observe)
