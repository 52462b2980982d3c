"""The machine of a simulated node: virtual network, model chain, books in memory, seeded randomness.

What is on its disk (identity, keys, ledger) outlives the node that runs on it, so that a node that crashes comes back
with what a real one would find.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass

from compute.engines import Engine
from compute.scheduler import Scheduler
from dht import CapacityIndex
from dht.kad.storage import Storage
from overlay.chain import Chain
from overlay.config import Config
from overlay.control import Command
from overlay.events import EventLog
from overlay.node.machine import Machine
from overlay.settlement import channel_public_key
from overlay.settlement.ledger import GroupCommit, open_ledger
from overlay.settlement.wallet import Wallet
from overlay.subnet import Subnet
from simulations.network import Place, VirtualHost, VirtualNetwork
from simulations.network.meanfield import MeanFieldGossip
from simulations.world.books import Books
from simulations.world.chain import NETWORK_ID, Connection, SimulatedChain, chain_of
from simulations.world.index import LateIndex
from simulations.world.inline import inline
from transport.host.interface import Host
from transport.identity import Identity
from transport.tunnel import Tunnel, TunnelEndpoint, TunnelListener
from transport.tunnel.limits import HANDSHAKE_SECONDS


@dataclass(frozen=True)
class Surroundings:
    """What all machines of a world share."""

    seed: int
    network: VirtualNetwork
    chain: SimulatedChain


class VirtualMachine(Machine):
    """Number and role name it: ``provider 3``. ``funds_nanoton`` is in its wallet at the start."""

    def __init__(
        self, around: Surroundings, name: str, place: Place, *, funds_nanoton: int, chain_delay_s: float
    ) -> None:
        self.name = name
        self.place = place
        self.skew_s = 0.0
        """How far its clock is ahead."""
        self.way = Connection(chain_delay_s)
        self._around = around
        self._secrets = random.Random(f"secrets of {name} in {around.seed}")  # noqa: S311  # a model
        self.rng = random.Random(f"choices of {name} in {around.seed}")  # noqa: S311  # a model
        self.random_bytes = self._secrets.randbytes
        self.clock = lambda: around.network.unix_time() + self.skew_s
        self._host: VirtualHost
        self._identity = Identity(self._key("identity"))
        self.wallet = Wallet(self._key("wallet"), NETWORK_ID)
        self.channel_seed = self._key("channel")
        self.channel_key = channel_public_key(self.channel_seed)
        self.books: Books | None = None
        """Its ledger, once it has had one."""
        self.dead = False
        """Whether the node that ran on it was killed; whatever is left of it reaches no disk."""
        around.chain.fund(self.wallet, funds_nanoton)

    def _key(self, what: str) -> bytes:
        return hashlib.sha256(f"{what} of {self.name} in {self._around.seed}".encode()).digest()

    def identity(self) -> Identity:
        """Drawn from the seed."""
        return self._identity

    def open_host(
        self, config: Config, identity: Identity, subnet: Subnet, bootstrap: Sequence[str], log: EventLog, *,
        listen: bool = True,
    ) -> AbstractAsyncContextManager[Host]:  # fmt: skip
        """A host of the virtual network, at this machine's place."""
        jitter = random.Random(self.rng.random())  # noqa: S311  # of retries
        return self._hosted(self._around.network.open(identity, self.place, bootstrap=bootstrap, rng=jitter))

    @asynccontextmanager
    async def _hosted(self, opening: AbstractAsyncContextManager[VirtualHost]) -> AsyncIterator[Host]:
        async with opening as self._host:
            yield self._host

    def index(self) -> CapacityIndex:
        """One that lets news in when it is read, where gossip is a mean field."""
        gossip = self._host.gossip
        return LateIndex(gossip) if isinstance(gossip, MeanFieldGossip) else CapacityIndex()

    @asynccontextmanager
    async def open_chain(self, config: Config, log: EventLog, *, may_start_devnet: bool) -> AsyncIterator[Chain]:
        """The model chain."""
        chain = chain_of(self._around.chain, self.wallet, self.channel_seed, self.way, self._secrets)
        await chain.account.resume()
        yield chain

    def open_ledger(self) -> AbstractAsyncContextManager[GroupCommit]:
        """Books in memory, kept when the node ends."""
        if self.books is None:
            self.books = Books(lambda: self.dead)
        return open_ledger(self.books, inline=True)

    def kill(self) -> None:
        """From now on nothing is written: as after a kill, the disk has what was committed, and no more."""
        self.dead = True

    def boot(self) -> None:
        """A new process begins."""
        self.dead = False

    def open_scheduler(self, engines: Sequence[Engine], max_queue: int) -> AbstractAsyncContextManager[Scheduler]:
        """Engines in virtual time, without threads."""
        return Scheduler.run(engines, max_queue=max_queue, driver=inline(self._around.network.timeline))

    @asynccontextmanager
    async def open_tunnels(
        self, config: Config, endpoint: TunnelEndpoint, serve: Callable[[Tunnel], Awaitable[None]]
    ) -> AsyncIterator[TunnelListener]:
        """No TCP here: tunnels come over streams of the control plane, which the node carries itself."""
        yield TunnelListener(endpoint, serve, HANDSHAKE_SECONDS)

    def table_storage(self, subnet: Subnet) -> Storage | None:
        """None: the hash table starts anew."""
        return None

    def neighbourhood(self, subnet: Subnet, identity: Identity, addrs: list[str]) -> AbstractContextManager[None]:
        """Nobody else is on this machine."""
        return nullcontext()

    @asynccontextmanager
    async def open_control(self, commands: Mapping[str, Command]) -> AsyncIterator[None]:
        """Nobody types commands."""
        yield

    def settled(self) -> None:
        """The world freezes its heap once, for all."""
