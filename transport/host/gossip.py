"""gossipsub behind our interface: signed messages, validated before relay, delivered without back-pressure."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub

from transport.host.hardening import ContainedManager
from transport.host.interface import GossipMessage, GossipValidator, HostError
from transport.host.limits import (
    BAD_GOSSIP_WINDOW_S,
    GOSSIP_DEGREE,
    GOSSIP_DEGREE_HIGH,
    GOSSIP_DEGREE_LOW,
    GOSSIP_HEARTBEAT_S,
    GOSSIP_MESSAGES_PER_S,
    MAX_BAD_GOSSIP,
    MAX_GOSSIP_BYTES,
    MAX_GOSSIP_RPC_BYTES,
    MAX_SUBSCRIPTIONS_PER_PEER,
    SUBSCRIPTION_QUEUE,
)
from transport.host.queues import NewsQueue
from transport.identity import PeerId, public_key_of

# Not 1.2: py-libp2p says IDONTWANT for every message however small, which doubles the frames of ours. Later names are
# its drafts, which nothing else speaks.
PROTOCOLS = ("/meshsub/1.1.0", "/meshsub/1.0.0")


def _new_router() -> GossipSub:
    """The router with explicit bounds (P13: pubsub/gossipsub.py:179 has a heartbeat of 120 s, line 190 10 messages/s).

    Address diversity in the mesh and the "adaptive" degrees are py-libp2p's own inventions and off: the first makes
    grafts without end where all nodes share an address, the second moves D out of the specification's range.
    """
    return GossipSub(
        protocols=PROTOCOLS,
        degree=GOSSIP_DEGREE,
        degree_low=GOSSIP_DEGREE_LOW,
        degree_high=GOSSIP_DEGREE_HIGH,
        heartbeat_initial_delay=0.1,
        heartbeat_interval=GOSSIP_HEARTBEAT_S,
        adaptive_gossip_enabled=False,
        eclipse_protection_enabled=False,
        max_messages_per_topic_per_second=GOSSIP_MESSAGES_PER_S,
        max_pending_messages_per_peer=16,
    )


class Gossip:
    """One gossipsub router and its listeners. ``offend`` is told of a neighbour that keeps relaying bad messages;
    ``now`` is Unix seconds."""

    def __init__(self, host: Any, offend: Callable[[PeerId, str], object], now: float) -> None:
        self._router = _new_router()
        self._pubsub = Pubsub(
            host,
            self._router,
            strict_signing=True,
            max_inbound_rpc_size=MAX_GOSSIP_RPC_BYTES,
            max_subscriptions_per_peer=MAX_SUBSCRIPTIONS_PER_PEER,
            max_subscriptions_per_rpc=MAX_SUBSCRIPTIONS_PER_PEER,
        )
        # Upstream counts messages from the second of the start (pubsub/pubsub.py:478): who has sent more messages than
        # seconds went by is taken for repeating himself after a restart. As go-libp2p, from the nanosecond.
        self._pubsub.counter = int(now * 1e9)
        # Upstream's subscriber channel drops the newest message (pubsub/pubsub.py:1358); a market wants the newest.
        self._pubsub.notify_subscriptions = self._deliver
        self._offend = offend
        self._own = str(host.get_id())
        self._queues: dict[str, set[NewsQueue[GossipMessage]]] = defaultdict(set)
        self._bad: dict[str, deque[float]] = {}

    async def start(self, nursery: trio.Nursery) -> None:
        """Run in ``nursery`` until it is cancelled."""
        for service in (self._router, self._pubsub):
            manager = ContainedManager(service)
            service._manager = manager
            nursery.start_soon(manager.run)
            await manager.wait_started()
        await self._pubsub.wait_until_ready()

    def stop(self) -> None:
        """End the thread that upstream starts for each cache of seen messages and leaves running
        (tools/timed_cache/base_timed_cache.py:25)."""
        self._pubsub.seen_messages._stop_event.set()

    def mesh(self) -> Collection[PeerId]:
        """The neighbours in some topic's mesh: at most D_hi a topic."""
        return {PeerId(str(peer)) for peers in self._router.mesh.values() for peer in peers}

    async def publish(self, topic: str, data: bytes) -> None:
        """Sign ``data`` and give it to the mesh. Raises :class:`HostError` when it is too long."""
        if len(data) > MAX_GOSSIP_BYTES:
            raise HostError(f"a gossip message of {len(data)} bytes, where at most {MAX_GOSSIP_BYTES} are allowed")
        await self._pubsub.publish(topic, data)

    @asynccontextmanager
    async def subscribe(self, topic: str, validator: GossipValidator) -> AsyncIterator[AsyncIterator[GossipMessage]]:
        """Join ``topic`` for the length of the block. One subscription a topic."""
        if self._queues.get(topic):
            raise HostError(f"{topic} is subscribed to already")
        queue: NewsQueue[GossipMessage] = NewsQueue(SUBSCRIPTION_QUEUE)
        self._queues[topic].add(queue)
        self._pubsub.set_topic_validator(topic, self._guard(topic, validator), is_async_validator=False)
        await self._pubsub.subscribe(topic)
        try:
            yield queue
        finally:
            queue.close()
            del self._queues[topic]
            self._pubsub.remove_topic_validator(topic)
            with trio.CancelScope(shield=True), trio.move_on_after(1.0):
                await self._pubsub.unsubscribe(topic)

    def _guard(self, topic: str, validator: GossipValidator) -> Callable[[ID, Any], bool]:
        def check(forwarder: ID, message: Any) -> bool:
            gossip = _parse(topic, message)
            verdict = validator(gossip) if gossip is not None else False
            if verdict is False and str(forwarder) != self._own:
                self._count_bad(PeerId(str(forwarder)), topic)
            return verdict is True

        return check

    def _count_bad(self, forwarder: PeerId, topic: str) -> None:
        now = trio.current_time()
        times = self._bad.setdefault(forwarder, deque(maxlen=MAX_BAD_GOSSIP))
        times.append(now)
        if len(times) == MAX_BAD_GOSSIP and now - times[0] < BAD_GOSSIP_WINDOW_S:
            del self._bad[forwarder]
            self._offend(forwarder, f"relayed {MAX_BAD_GOSSIP} bad messages on {topic}")

    def connection_lost(self, connection: Any) -> None:
        """One of several connections to a peer is gone. If our gossip stream to it was there, open another.

        Upstream keeps the dead stream while any connection to the peer stands (pubsub/pubsub.py:1231-1246): a neighbour
        that comes back before its old connection is cleared away would never hear from us again. What it subscribed to
        is kept, since it may have said so on the new connection already.
        """
        peer = connection.muxed_conn.peer_id
        stream = self._pubsub.peers.get(peer)
        if stream is None or stream.muxed_conn is not connection.muxed_conn:
            return
        topics = [topic for topic, peers in self._pubsub.peer_topics.items() if peer in peers]
        self._pubsub._handle_dead_peer(peer)
        for topic in topics:
            self._pubsub.peer_topics.setdefault(topic, set()).add(peer)

    def forget(self, peer: PeerId) -> None:
        """A peer is gone; what was held against it goes as well."""
        self._bad.pop(peer, None)

    def _deliver(self, message: Any) -> None:
        topic = message.topicIDs[0]
        gossip = _parse(topic, message)
        if gossip is not None:
            for queue in self._queues.get(topic, ()):
                queue.put(gossip)


def _parse(topic: str, message: Any) -> GossipMessage | None:
    """The message if it is of one topic, of a sane size and of an origin with an Ed25519 peer id."""
    if list(message.topicIDs) != [topic] or len(message.data) > MAX_GOSSIP_BYTES:
        return None
    origin = str(ID(message.from_id))
    try:
        public_key_of(origin)
    except ValueError:
        return None
    return GossipMessage(topic, PeerId(origin), bytes(message.data))
