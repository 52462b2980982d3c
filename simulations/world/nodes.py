"""Production nodes in a simulated world: started, stopped, crashed, restarted, and watched from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
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


@dataclass(eq=False)
class Peer(Generic[N]):
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
    up_s: float = 0.0
    started_at: float = 0.0
    warnings: Counter[str] = field(default_factory=Counter)
    failure: str = ""
    """Why it could not start, or ended by itself."""
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    _ended: trio.Event = field(default_factory=trio.Event)

    @property
    def peer_id(self) -> PeerId:
        """Its identity's, whether it runs or not."""
        return self.machine.identity().peer_id

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return self.node is not None

    def uptime_s(self) -> float:
        """Seconds that it has run so far."""
        return self.up_s + (trio.current_time() - self.started_at if self.up else 0.0)

    def observe(self, event: NodeEvent) -> None:
        """A line of the node's log."""
        if event.level != "info":
            self.warnings[event.kind] += 1
        self.told(self, event)

    def opened(self) -> AbstractAsyncContextManager[N]:
        """The node, as a block."""
        raise NotImplementedError

    async def run(
        self, use: Callable[[N], Awaitable[None]] | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:  # fmt: skip
        """Run the node until :meth:`stop`, and ``use`` with it. A node that cannot start leaves :attr:`failure`."""
        self._scope, self._ended, self.failure = trio.CancelScope(), trio.Event(), ""
        try:
            with self._scope:
                async with self.opened() as node:
                    assert isinstance(node.host, VirtualHost)
                    self.node, self.host, self.started_at = node, node.host, trio.current_time()
                    task_status.started()
                    try:
                        if use is not None:
                            await use(node)
                        await trio.sleep_forever()
                    finally:
                        self.up_s += trio.current_time() - self.started_at
                        self.node = None
        except CocoonError as error:
            self.failure = str(error)
        finally:
            self.node = self.host = None
            self._ended.set()

    async def stop(self, *, crash: bool = False) -> None:
        """End it: with ``crash`` at once, its peers finding out for themselves; else with a farewell."""
        if self.host is not None and crash:
            self.host.halt(crash=True)
        self._scope.cancel()
        await self._ended.wait()


@dataclass(eq=False, kw_only=True)
class ProviderPeer(Peer[ProviderNode]):
    """One that sells. ``engines`` makes its engines anew for each start."""

    does: ProviderBehaviour
    hardware: str = ""
    sold: Sequence[Offering] = ()
    engines: Callable[[], Sequence[ModelEngine]] = tuple
    used: list[ModelEngine] = field(default_factory=list)
    """The engines of all its runs: what they made is what it cost."""

    def opened(self) -> AbstractAsyncContextManager[ProviderNode]:
        """As `cocoon node run` opens it."""
        log = EventLog(self.observe, self.machine.clock)
        fresh = self.engines()
        self.used += fresh
        return open_provider(self.config, self.machine, self.subnet, self.bootstrap, log, fresh)

    async def leave(self) -> None:
        """As after SIGTERM: withdraw, drain, stop."""
        if self.node is not None:
            await self.node.drain(self.config.node.drain_timeout_s)
        await self.stop()


@dataclass(eq=False, kw_only=True)
class ClientPeer(Peer[ClientNode]):
    """One that buys. Prices are nanoTON per million of the main unit."""

    does: ClientBehaviour
    value_nanoton: int = 0
    value_of_time_nanoton_per_s: int = 0

    def opened(self) -> AbstractAsyncContextManager[ClientNode]:
        """As `cocoon gateway run` opens it."""
        return open_client(self.config, self.machine, self.subnet, self.bootstrap, self.observe)
