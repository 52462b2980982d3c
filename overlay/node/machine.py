"""What a node stands on: the clock, randomness, the disk, the network and the chain, all in one place.

A node is put together from a :class:`Machine` and touches nothing else of the outside. :class:`LocalMachine` is the one
that people have; the simulator brings another, and the node cannot tell.
"""

from __future__ import annotations

import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager

from compute.engines import Engine
from compute.scheduler import Scheduler
from dht import CapacityIndex
from dht.kad import SqliteStorage
from dht.kad.storage import Storage
from overlay.chain import Chain, open_chain
from overlay.config import Config
from overlay.control import Command, serve_control
from overlay.datadir import DataDir, running_here
from overlay.errors import PortBusy
from overlay.events import EventLog
from overlay.node.hosting import open_host
from overlay.node.upkeep import settle_memory
from overlay.settlement.ledger import GroupCommit, open_ledger
from overlay.subnet import Subnet
from transport.host import background
from transport.host.interface import Host
from transport.identity import Identity
from transport.tunnel import Tunnel, TunnelEndpoint, TunnelListener, open_tunnel_listener


class Machine(ABC):
    """See the module's docstring. Each ``open_…`` is a block for whose length something stands."""

    clock: Callable[[], float]
    """Unix seconds."""
    random_bytes: Callable[[int], bytes]
    """For keys and nonces: secret, outside of simulations."""
    rng: random.Random
    """For nonces of negotiations, shortlists and phases; a ``random.SystemRandom`` outside of simulations."""

    @abstractmethod
    def identity(self) -> Identity:
        """The node's identity."""

    @abstractmethod
    def open_host(
        self, config: Config, identity: Identity, subnet: Subnet, bootstrap: Sequence[str], log: EventLog, *,
        listen: bool = True,
    ) -> AbstractAsyncContextManager[Host]:  # fmt: skip
        """The control plane. Raises :class:`~overlay.errors.ConfigError`."""

    @abstractmethod
    def open_chain(
        self, config: Config, log: EventLog, *, may_start_devnet: bool
    ) -> AbstractAsyncContextManager[Chain]:
        """The node's place on TON. Raises :class:`~overlay.errors.CocoonError`."""

    @abstractmethod
    def open_ledger(self) -> AbstractAsyncContextManager[GroupCommit]:
        """The books. Raises :class:`~overlay.settlement.ledger.LedgerError`."""

    @abstractmethod
    def open_scheduler(self, engines: Sequence[Engine], max_queue: int) -> AbstractAsyncContextManager[Scheduler]:
        """What drives the engines."""

    @abstractmethod
    def open_tunnels(
        self, config: Config, endpoint: TunnelEndpoint, serve: Callable[[Tunnel], Awaitable[None]]
    ) -> AbstractAsyncContextManager[TunnelListener]:
        """Where tunnels are answered. Raises :class:`~overlay.errors.PortBusy`."""

    @abstractmethod
    def table_storage(self, subnet: Subnet) -> Storage | None:
        """What the hash table remembers across runs, if it does."""

    def index(self) -> CapacityIndex:
        """An empty capacity index."""
        return CapacityIndex()

    def neighbourhood(self, subnet: Subnet, identity: Identity, addrs: list[str]) -> AbstractContextManager[None]:
        """Be listed among the nodes that run on this machine."""
        return running_here("node", subnet.id, identity.peer_id, addrs)

    @abstractmethod
    def open_control(self, commands: Mapping[str, Command]) -> AbstractAsyncContextManager[None]:
        """Answer the command line."""

    def settled(self) -> None:
        """Everything has started: what is in memory now is there to stay."""
        settle_memory()


class LocalMachine(Machine):
    """This computer, with a data directory that the caller has locked."""

    def __init__(self, data_dir: DataDir) -> None:
        self.data_dir = data_dir
        self.clock = time.time
        self.random_bytes = os.urandom
        self.rng = random.SystemRandom()

    def identity(self) -> Identity:
        """The data directory's identity, made on first use."""
        return self.data_dir.identity()

    def open_host(
        self, config: Config, identity: Identity, subnet: Subnet, bootstrap: Sequence[str], log: EventLog, *,
        listen: bool = True,
    ) -> AbstractAsyncContextManager[Host]:  # fmt: skip
        """libp2p on this computer's addresses."""
        return open_host(config, self.data_dir, identity, subnet, bootstrap, log, listen=listen)

    def open_chain(
        self, config: Config, log: EventLog, *, may_start_devnet: bool
    ) -> AbstractAsyncContextManager[Chain]:
        """The configured network, or the local devnet."""
        return open_chain(config, self.data_dir, log, may_start_devnet=may_start_devnet)

    def open_ledger(self) -> AbstractAsyncContextManager[GroupCommit]:
        """SQLite in the data directory."""
        return open_ledger(self.data_dir.ledger_path)

    def open_scheduler(self, engines: Sequence[Engine], max_queue: int) -> AbstractAsyncContextManager[Scheduler]:
        """A thread for each engine."""
        return Scheduler.run(engines, max_queue=max_queue)

    def open_tunnels(
        self, config: Config, endpoint: TunnelEndpoint, serve: Callable[[Tunnel], Awaitable[None]]
    ) -> AbstractAsyncContextManager[TunnelListener]:
        """TCP, on the configured port."""
        return _listen(config, endpoint, serve)

    def table_storage(self, subnet: Subnet) -> Storage | None:
        """A file in the data directory."""
        return SqliteStorage(self.data_dir.path / f"kad-{subnet.id}.sqlite3")

    def open_control(self, commands: Mapping[str, Command]) -> AbstractAsyncContextManager[None]:
        """The control socket of the data directory."""
        return _controlled(self.data_dir, commands)


@asynccontextmanager
async def _controlled(data_dir: DataDir, commands: Mapping[str, Command]) -> AsyncIterator[None]:
    async with background() as nursery:
        await nursery.start(serve_control, data_dir.path, commands)
        yield


@asynccontextmanager
async def _listen(
    config: Config, endpoint: TunnelEndpoint, serve: Callable[[Tunnel], Awaitable[None]]
) -> AsyncIterator[TunnelListener]:
    node = config.node
    try:
        context = open_tunnel_listener(endpoint, node.tunnel_host or None, node.tunnel_port, serve)
        listener = await context.__aenter__()
    except OSError as error:
        raise PortBusy(node.tunnel_host or "every address", node.tunnel_port) from error
    try:
        yield listener
    finally:
        await context.__aexit__(None, None, None)
