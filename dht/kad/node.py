"""The Kademlia of a node: put, get, provide and find, on any :class:`transport.host.Host`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import trio

from dht.kad.answers import Answers, is_multihash, rfc3339
from dht.kad.config import KadConfig
from dht.kad.contacts import Contact, contact, contact_of
from dht.kad.errors import KadError, StoreRefused
from dht.kad.keys import peer_bytes
from dht.kad.limits import HOLDERS_S, MAX_HOLDERS, MAX_SAVED_PEERS, STORE_WIDTH, K
from dht.kad.lookup import LookupRequest
from dht.kad.messages import Message, MessageType, Record
from dht.kad.neighbours import Neighbours
from dht.kad.providers import ProviderStore
from dht.kad.publications import Publication, Publications
from dht.kad.queries import LookupReport, Queries
from dht.kad.routing import RoutingTable
from dht.kad.serving import Server
from dht.kad.session import Wire
from dht.kad.storage import Snapshot, Storage, StorageError
from dht.kad.store import RecordStore
from dht.kad.upkeep import Upkeep
from dht.kad.validators import Validator, Validators
from transport.host import Host, HostStream, background
from transport.identity import PeerId


@dataclass(frozen=True)
class FoundPeer:
    """A peer and the multiaddrs to reach it by, each ending in ``/p2p/<peer id>``."""

    peer_id: PeerId
    addrs: tuple[str, ...]
    answered: bool = True
    """Whether the peer itself has answered us; else others say that it is there."""


@dataclass(frozen=True)
class FoundProvider:
    """A peer that said it provides a key, as those who hold its record tell. Its addresses are claims until the host
    has authenticated the peer behind one."""

    peer_id: PeerId
    addrs: tuple[str, ...]


@dataclass(frozen=True)
class KadStats:
    """The node in numbers, as of now."""

    peers: int
    bucket_sizes: tuple[int, ...]
    records: int
    record_bytes: int
    provider_records: int
    publications: int
    served: Mapping[str, int]
    """Requests answered since the start, by type."""
    refused: int
    """Streams and requests refused since the start: malformed, invalid or over a limit."""
    lookups: int
    requests: int
    """Requests of look-ups since the start; ``failures`` of them were not answered."""
    failures: int
    timeout_s: float
    """What a request gets at present."""
    save_failures: int


class Kademlia:
    """Run it with ``async with``. Within the block the node serves others (unless ``client_only``), learns peers from
    whoever connects and from every look-up, and keeps what it published alive.

    ``validators`` says by namespace which records are believed; keys of other namespaces are refused. ``clock`` gives
    Unix seconds, by which records end; every duration is measured by trio's clock. ``on_lookup`` is told of each
    look-up. A host behind NAT that nobody can dial is ``client_only``: it asks, and enters nobody's table. So
    does one while it is not ``serving()``: it does not answer, and others forget it.
    """

    def __init__(
        self,
        host: Host,
        subnet: str,
        *,
        validators: Mapping[str, Validator],
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        config: KadConfig | None = None,
        client_only: bool = False,
        serving: Callable[[], bool] = lambda: True,
        storage: Storage | None = None,
        on_lookup: Callable[[LookupReport], None] | None = None,
    ) -> None:
        self.protocol = f"/cocoon/{subnet}/kad/1.0.0"
        """The protocol id that is spoken."""
        self._host = host
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311  # jitter and samples, no secret
        self._config = config or KadConfig()
        self._client_only = client_only
        self._serving = serving
        self._storage = storage
        self._on_lookup = on_lookup
        self._lookups = self._requests = self._failures = self._save_failures = 0
        self._saved: tuple[Contact, ...] = ()
        self._holders: dict[bytes, tuple[float, list[Contact]]] = {}
        self._bootstrapping = False
        self._stack = AsyncExitStack()
        self._nursery: trio.Nursery | None = None
        self._build(validators)

    def _build(self, by_namespace: Mapping[str, Validator]) -> None:
        config, own = self._config, self._host.peer_id
        validators = self._validators = Validators(by_namespace)
        self._wire = Wire(self._open_stream)
        self._table = RoutingTable(own, k=config.k, diversity=config.diversity)
        self._records = RecordStore(own, self._table.own_key, validators, ttl_s=config.record_ttl_s)
        self._providers = ProviderStore(ttl_s=config.provider_ttl_s)
        self._publications = Publications()
        self._neighbours = Neighbours(self._table, self._wire, self._joined, probe_inbound=config.probe_inbound)
        self._queries = Queries(self._neighbours, validators, self._wire, config, self._note_lookup)
        answers = Answers(self._table, self._records, self._providers, self._own_contact, self._rng, config.k)
        self._server = Server(self._host, answers, self._neighbours, self._clock, self._serving)
        self._upkeep = Upkeep(
            own,
            self._neighbours,
            self._queries,
            self._records,
            self._providers,
            self._publications,
            config,
            self._clock,
            self._rng,
            self._publish,
            self._save if self._storage else None,
        )

    async def __aenter__(self) -> Self:
        if not self._client_only:
            # First of all: who is told that we do not speak the protocol leaves us alone for a while.
            self._host.set_handler(self.protocol, self._server)
        await self._load()
        async with AsyncExitStack() as stack:
            events = await stack.enter_async_context(self._host.events())
            self._nursery = await stack.enter_async_context(background())
            self._neighbours.run_in(self._nursery)
            self._nursery.start_soon(self._upkeep.run, events, self._nursery)
            self._server.begin()
            for peer in self._saved:
                self._neighbours.probe(peer)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.end()
        self._neighbours.stop()
        self._nursery = None
        if self._storage is not None:
            with trio.CancelScope(shield=True):
                await self._save()
        await self._stack.__aexit__(kind, error, trace)

    async def _open_stream(self, peer: Contact) -> HostStream:
        return await self._host.open_stream(peer.peer_id, self.protocol, addrs=peer.texts())

    def _own_contact(self) -> Contact:
        return contact_of(self._host.peer_id, self._host.addrs)

    def _joined(self) -> None:
        if not self._bootstrapping:
            self._upkeep.soon()

    # --- values -------------------------------------------------------------------------------------------------------

    async def put(self, key: bytes, value: bytes, *, republish: bool = True) -> int:
        """Store ``value`` under ``key`` at the peers nearest to it; how many took it.

        The node holds it too, and with ``republish`` renews it until it ends, is withdrawn or replaced. Raises
        :class:`dht.kad.InvalidRecord` when the validator refuses it, :class:`dht.kad.StoreRefused` when a better value
        is known here. On cancellation no request is left in flight; some peers may hold the value.
        """
        publication = Publication(key, value)
        message = self._accept(publication)
        if republish:
            self._publications.add(publication, trio.current_time() + self._config.republish_s)
        return await self._send(message)

    async def get(self, key: bytes, *, quorum: int | None = None) -> bytes | None:
        """The best value under ``key``; None if nobody near it has one.

        It asks on until ``quorum`` peers (default: the configuration's) of two disjoint paths returned a valid value,
        or nobody is left. Peers that returned a worse one are sent the best, in the background. Where the key admits
        one value only (:attr:`Validator.self_certifying`), it ends at the first, and at once if the node holds it.
        """
        held = self._records.get(key, self._clock())
        own = held.value if held else None
        if own is not None and self._validators.self_certifying(key):
            return own
        wanted = quorum if quorum is not None else self._config.quorum
        best, stale = await self._queries.get_value(key, own, wanted, self._clock)
        if best is not None and own is not None and best != own:
            self._records.put(key, best, self._host.peer_id, self._clock())
        if best is not None and stale and self._nursery is not None:
            self._nursery.start_soon(self._correct, key, best, stale)
        return best

    async def _correct(self, key: bytes, value: bytes, stale: Sequence[Contact]) -> None:
        async with self._queries.session() as session:
            await self._queries.store(stale, self._put_message(key, value), session)

    def withdraw(self, key: bytes) -> None:
        """Renew the record or the provider record under ``key`` no more; holders forget it when it ends."""
        self._publications.withdraw_record(key)
        self._publications.withdraw_provided(key)

    # --- providers ----------------------------------------------------------------------------------------------------

    async def provide(self, key: bytes) -> int:
        """Tell the peers nearest to ``key``, a multihash, that this node provides it, and renew that; how many were
        told. Who has just asked for the providers of ``key`` has found those peers and looks for them no more.

        Raises :class:`KadError` when ``key`` is none, or this node has no address to be reached by."""
        if not is_multihash(key):
            raise KadError("a provided key is a multihash, such as 0x12 0x20 and a SHA-256 digest")
        publication = Publication(key, None)
        message = self._accept(publication)
        self._publications.add(publication, trio.current_time() + self._config.provider_republish_s)
        looked_at, holders = self._holders.pop(key, (float("-inf"), []))
        if trio.current_time() < looked_at + HOLDERS_S:
            async with self._queries.session() as session:
                return await self._queries.store(holders, message, session)
        return await self._send(message)

    async def find_providers(self, key: bytes, limit: int = K) -> list[FoundProvider]:
        """Up to ``limit`` other peers that provide ``key``."""
        own = self._host.peer_id
        known = self._providers.get(key, self._clock(), limit, self._rng)
        others = [peer for peer in known if peer.peer_id != own]
        found, holders = await self._queries.get_providers(key, others, limit)
        self._holders.pop(key, None)
        if holders:
            self._holders[key] = (trio.current_time(), holders)
            if len(self._holders) > MAX_HOLDERS:
                del self._holders[next(iter(self._holders))]
        return [FoundProvider(peer.peer_id, peer.texts()) for peer in found if peer.peer_id != own]

    # --- peers --------------------------------------------------------------------------------------------------------

    async def find_peer(self, peer: PeerId) -> FoundPeer | None:
        """Where a peer can be reached; None if nobody knows, as for a peer that is a client only. Raises ``ValueError``
        for what is no Ed25519 peer id."""
        if peer == self._host.peer_id:
            return _found(self._own_contact())
        if (known := self._table.get(peer)) is not None:
            return _found(known)
        told: list[Contact] = []

        def until(step: LookupRequest, reply: Message) -> bool:
            told.extend(other for other in reply.closer if other.peer_id == peer)
            if step.contact.peer_id == peer:
                told[:] = [step.contact]
            return step.contact.peer_id == peer

        async with self._queries.session() as session:
            lookup = await self._queries.find_node(peer_bytes(peer), session, until=until)
        nearest = next(iter(lookup.closest(1)), None)
        if nearest is not None and nearest.peer_id == peer:
            return _found(nearest)
        addrs = dict.fromkeys(addr for other in told for addr in other.addrs)
        return _found(contact(peer, addrs), answered=False) if addrs else None

    async def closest(self, key: bytes) -> list[FoundPeer]:
        """The k peers nearest to ``key`` that answered, nearest first."""
        async with self._queries.session() as session:
            lookup = await self._queries.find_node(key, session)
        return [_found(peer) for peer in lookup.closest(self._config.k)]

    async def bootstrap(self) -> int:
        """Ask whoever is connected, look up our own id and fill the far buckets; how many peers are known then.

        It happens by itself soon after the first peer is known; call it to wait for it.
        """
        self._bootstrapping = True
        self._upkeep.self_refreshed()  # by us, in a moment
        try:
            await self.greet()
        finally:
            self._bootstrapping = False
        await self._upkeep.refresh_self()
        if self._config.bootstrap_refresh:
            await self._upkeep.refresh_buckets(self._config.bucket_refresh_s)
        return len(self._table)

    async def greet(self) -> int:
        """Ask those who are connected, or were remembered, and are not in the table whether they serve; how many are
        known then."""
        strangers: list[Contact] = []
        for info in self._host.peers():
            # Whoever is only a client comes to us, and serves nothing; one that serves is probed when it comes.
            if info.peer_id not in self._table and not (info.inbound and self._neighbours.refused(info.peer_id)):
                strangers.append(contact_of(info.peer_id, [] if info.inbound else [info.addr]))
        strangers += [peer for peer in self._saved if peer.peer_id not in self._table]

        async def ask() -> None:
            while strangers:
                await self._neighbours.ask_for_itself(strangers.pop())

        async with trio.open_nursery() as nursery:
            for _ in range(min(STORE_WIDTH, len(strangers))):
                nursery.start_soon(ask)
        return len(self._table)

    def peers(self) -> list[FoundPeer]:
        """The peers in the routing table, the farthest bucket first."""
        return [_found(peer) for peer in self._table]

    # --- publishing and remembering -----------------------------------------------------------------------------------

    def _put_message(self, key: bytes, value: bytes) -> Message:
        return Message(MessageType.PUT_VALUE, key, Record(key, value, rfc3339(self._clock())))

    def _accept(self, publication: Publication) -> Message:
        """Hold it ourselves, as any holder does; the message that tells the others."""
        now = self._clock()
        if publication.value is None:
            own = self._own_contact()
            if not own.addrs:
                raise KadError("this node has no address to be reached by: it cannot provide anything")
            self._providers.add(publication.key, own, now)
            return Message(MessageType.ADD_PROVIDER, publication.key, providers=(own,))
        held = self._records.put(publication.key, publication.value, self._host.peer_id, now)
        if held.value != publication.value:
            raise StoreRefused("a better value is known under this key already")
        return self._put_message(publication.key, publication.value)

    async def _send(self, message: Message) -> int:
        async with self._queries.session(keep=True) as session:
            holders = await self._queries.find_holders(message.key, session)
            return await self._queries.store(holders, message, session)

    async def _publish(self, publication: Publication) -> int:
        return await self._send(self._accept(publication))

    async def _load(self) -> None:
        if self._storage is None:
            return
        snapshot = await trio.to_thread.run_sync(self._storage.load)
        self._saved = snapshot.peers
        for publication in snapshot.publications:
            try:
                if publication.value is not None:
                    self._records.put(publication.key, publication.value, self._host.peer_id, self._clock())
                self._publications.add(publication, trio.current_time())
            except KadError:  # it ended while we were away
                continue

    async def _save(self) -> None:
        assert self._storage is not None
        peers = (
            tuple(self._table)[:MAX_SAVED_PEERS] or self._saved
        )  # an empty table is no reason to forget the last one
        try:
            await trio.to_thread.run_sync(self._storage.save, Snapshot(peers, tuple(self._publications)))
        except StorageError:  # a full disk does not stop a node; the numbers say so
            self._save_failures += 1

    # --- numbers ------------------------------------------------------------------------------------------------------

    def _note_lookup(self, report: LookupReport) -> None:
        self._lookups += report.requests > 0  # a node that knows nobody yet looks up in vain, and asks nobody
        self._requests += report.requests
        self._failures += report.failures
        if self._on_lookup is not None:
            self._on_lookup(report)

    def stats(self) -> KadStats:
        """The node in numbers."""
        return KadStats(
            peers=len(self._table),
            bucket_sizes=tuple(self._table.bucket_sizes()),
            records=len(self._records),
            record_bytes=self._records.size,
            provider_records=len(self._providers),
            publications=len(self._publications),
            served={kind.name: count for kind, count in self._server.served.items()},
            refused=self._server.refused,
            lookups=self._lookups,
            requests=self._requests,
            failures=self._failures,
            timeout_s=self._wire.times.timeout_s,
            save_failures=self._save_failures,
        )


def _found(peer: Contact, *, answered: bool = True) -> FoundPeer:
    return FoundPeer(peer.peer_id, peer.texts(), answered)
