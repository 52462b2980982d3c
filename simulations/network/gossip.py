"""gossipsub v1.1 between virtual hosts: a mesh for each topic, validation before relay, IHAVE and IWANT for the rest.

As the real host sets it up (`transport.host.gossip`): D 6, D_lo 4, D_hi 12, heartbeat 1 s, no flood publishing, no peer
exchange, no scores. A signature is not made and not checked: here nobody can send in another's name. A host whose
topics are quiet has no heartbeat, so that ten thousand idle ones cost nothing.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from simulations.network.limits import (
    GOSSIP_HISTORY,
    GOSSIP_LAZY,
    GOSSIP_OVERHEAD_BYTES,
    GOSSIP_WINDOW,
    IHAVE_ID_BYTES,
    PRUNE_BACKOFF_S,
    SEEN_S,
    TICK_S,
)
from simulations.network.links import CONTROL, GOSSIP
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
    MAX_SUBSCRIPTIONS_PER_PEER,
    SUBSCRIPTION_QUEUE,
)
from transport.host.queues import NewsQueue
from transport.identity import PeerId

if TYPE_CHECKING:
    from simulations.network.host import VirtualHost
    from simulations.network.links import Link

log = logging.getLogger("cocoon.host")

MessageId = tuple[int, int]
"""The number of the origin's host and its sequence number."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message under way: one object for all its copies."""

    id: MessageId
    message: GossipMessage


@dataclass
class _Topic:
    """A topic that this host follows."""

    validator: GossipValidator
    queue: NewsQueue[GossipMessage]
    mesh: dict[Link, None] = field(default_factory=dict)
    backoff: dict[PeerId, float] = field(default_factory=dict)
    """Until when a neighbour is not to be grafted."""


class VirtualGossip:
    """The router of one host."""

    def __init__(self, host: VirtualHost) -> None:
        self._host = host
        self._topics: dict[str, _Topic] = {}
        self._fanout: dict[str, dict[Link, None]] = {}
        self._history: deque[list[Parcel]] = deque([[]], maxlen=GOSSIP_HISTORY)
        self._held: dict[MessageId, Parcel] = {}
        self._seen: dict[MessageId, None] = {}
        self._seen_before: dict[MessageId, None] = {}
        self._rotate_at = 0.0
        self._sequence = 0
        self._beating = False
        self._bad: dict[PeerId, deque[float]] = {}
        self._rates: OrderedDict[tuple[Link, str], tuple[int, int]] = OrderedDict()

    # --- what the host offers -----------------------------------------------------------------------------------------

    async def publish(self, topic: str, data: bytes) -> None:
        """Give ``data`` to the mesh, our own validator first. Raises :class:`HostError` when it is too long."""
        if len(data) > MAX_GOSSIP_BYTES:
            raise HostError(f"a gossip message of {len(data)} bytes, where at most {MAX_GOSSIP_BYTES} are allowed")
        await trio.lowlevel.checkpoint()
        self._sequence += 1
        parcel = Parcel((self._host.number, self._sequence), GossipMessage(topic, self._host.peer_id, bytes(data)))
        followed = self._topics.get(topic)
        if followed is not None and followed.validator(parcel.message) is not True:
            return
        self._accept(parcel, followed, None)

    @asynccontextmanager
    async def subscribe(self, topic: str, validator: GossipValidator) -> AsyncIterator[AsyncIterator[GossipMessage]]:
        """Join ``topic`` for the length of the block. One subscription a topic."""
        if topic in self._topics:
            raise HostError(f"{topic} is subscribed to already")
        queue: NewsQueue[GossipMessage] = NewsQueue(SUBSCRIPTION_QUEUE)
        followed = self._topics[topic] = _Topic(validator, queue)
        self._fanout.pop(topic, None)
        for link in self._host.links():
            link.send(CONTROL, topic.encode(), len(topic), link.remote.host.gossip.hear_join, (link.remote, topic))
        self._balance(topic, followed)
        self._keep_beating()
        try:
            yield queue
        finally:
            queue.close()
            del self._topics[topic]
            for link in followed.mesh:
                link.grafted -= 1
            for link in self._host.links():
                link.send(CONTROL, topic.encode(), len(topic), link.remote.host.gossip.hear_leave, (link.remote, topic))

    def greet(self, link: Link) -> None:
        """A new neighbour: tell it what we follow."""
        for topic in self._topics:
            link.send(CONTROL, topic.encode(), len(topic), link.remote.host.gossip.hear_join, (link.remote, topic))

    def forget(self, link: Link) -> None:
        """A neighbour is gone, and what was held against it."""
        self._bad.pop(link.remote.host.peer_id, None)
        for followed in self._topics.values():
            if followed.mesh.pop(link, _ABSENT) is not _ABSENT:
                self._keep_beating()
        for fanout in self._fanout.values():
            fanout.pop(link, None)

    # --- what neighbours say; ``link`` is our end ---------------------------------------------------------------------

    def mesh(self, topic: str) -> list[Link]:
        """The neighbours in our mesh of a topic."""
        followed = self._topics.get(topic)
        return list(followed.mesh) if followed is not None else []

    def hear_join(self, said: tuple[Link, str]) -> None:
        """The neighbour follows a topic."""
        link, topic = said
        if link.topics is None:
            link.topics = {}
        if len(link.topics) < MAX_SUBSCRIPTIONS_PER_PEER:
            link.topics[topic] = None
            if topic in self._topics:
                self._keep_beating()

    def hear_leave(self, said: tuple[Link, str]) -> None:
        """The neighbour follows it no longer."""
        link, topic = said
        if link.topics is not None:
            link.topics.pop(topic, None)
        if topic in self._topics:
            self._leave_mesh(link, topic)
            self._keep_beating()
        self._fanout.get(topic, {}).pop(link, None)

    def hear_graft(self, said: tuple[Link, str]) -> None:
        """The neighbour took us into its mesh; we take it into ours, or say no."""
        link, topic = said
        followed = self._topics.get(topic)
        if followed is None or link in followed.mesh:
            return
        if len(followed.mesh) >= GOSSIP_DEGREE_HIGH or self._backed_off(link, followed):
            self._send_prune(link, topic)
        else:
            followed.mesh[link] = None
            link.grafted += 1

    def hear_prune(self, said: tuple[Link, str]) -> None:
        """The neighbour has us in its mesh no longer."""
        link, topic = said
        followed = self._topics.get(topic)
        if followed is not None:
            self._leave_mesh(link, topic)
            followed.backoff[link.remote.host.peer_id] = trio.current_time() + PRUNE_BACKOFF_S
            self._keep_beating()

    def hear(self, said: tuple[Link, Parcel]) -> None:
        """A message from a neighbour."""
        link, parcel = said
        if parcel.id in self._seen or parcel.id in self._seen_before:
            return
        topic = parcel.message.topic
        followed = self._topics.get(topic)
        if followed is None or not self._within_rate(link, topic):
            return
        verdict = followed.validator(parcel.message)
        if verdict is True:
            self._accept(parcel, followed, link)
        elif verdict is False:
            self._count_bad(link.remote.host.peer_id, topic)

    def hear_have(self, said: tuple[Link, str, list[MessageId]]) -> None:
        """A neighbour outside of the mesh names what it holds; ask for what we have not seen."""
        link, topic, ids = said
        if topic not in self._topics:
            return
        wanted = [id for id in ids if id not in self._seen and id not in self._seen_before]
        if wanted:
            size = len(wanted) * IHAVE_ID_BYTES
            link.send(CONTROL, b"want", size, link.remote.host.gossip.hear_want, (link.remote, wanted))

    def hear_want(self, said: tuple[Link, list[MessageId]]) -> None:
        """A neighbour asks for messages."""
        link, ids = said
        for id in ids:
            if (parcel := self._held.get(id)) is not None:
                self._send(link, parcel)

    # --- messages -----------------------------------------------------------------------------------------------------

    def _accept(self, parcel: Parcel, followed: _Topic | None, source: Link | None) -> None:
        self._seen[parcel.id] = None
        self._held[parcel.id] = parcel
        self._history[-1].append(parcel)
        if followed is not None:
            followed.queue.put(parcel.message)
            targets = followed.mesh
        else:
            targets = self._fanout_of(parcel.message.topic)
        origin = parcel.message.origin
        for link in list(targets):
            if link is not source and link.remote.host.peer_id != origin:
                self._send(link, parcel)
        self._keep_beating()

    def _send(self, link: Link, parcel: Parcel) -> None:
        message = parcel.message
        size = len(message.data) + len(message.topic) + GOSSIP_OVERHEAD_BYTES
        carried = self._host.network.carried[message.topic]
        carried.messages += 1
        carried.bytes += size
        link.send(GOSSIP, message.data, size, link.remote.host.gossip.hear, (link.remote, parcel))

    def _fanout_of(self, topic: str) -> dict[Link, None]:
        """Neighbours that get what we publish without following the topic."""
        fanout = self._fanout.setdefault(topic, {})
        missing = GOSSIP_DEGREE - len(fanout)
        if missing > 0:
            fanout.update(dict.fromkeys(self._draw([x for x in self._followers(topic) if x not in fanout], missing)))
        return fanout

    def _within_rate(self, link: Link, topic: str) -> bool:
        second = int(self._host.network.timeline.tick * TICK_S)
        since, count = self._rates.get((link, topic), (second, 0))
        count = count + 1 if since == second else 1
        self._rates[link, topic] = (second, count)
        self._rates.move_to_end((link, topic))
        while len(self._rates) > MAX_SUBSCRIPTIONS_PER_PEER:
            self._rates.popitem(last=False)
        return count <= GOSSIP_MESSAGES_PER_S

    def _count_bad(self, forwarder: PeerId, topic: str) -> None:
        now = trio.current_time()
        times = self._bad.setdefault(forwarder, deque(maxlen=MAX_BAD_GOSSIP))
        times.append(now)
        if len(times) == MAX_BAD_GOSSIP and now - times[0] < BAD_GOSSIP_WINDOW_S:
            del self._bad[forwarder]
            self._host.refuse(forwarder, f"relayed {MAX_BAD_GOSSIP} bad messages on {topic}")

    # --- the mesh -----------------------------------------------------------------------------------------------------

    def _followers(self, topic: str) -> list[Link]:
        return [link for link in self._host.links() if link.topics and topic in link.topics]

    def _draw(self, links: list[Link], count: int) -> list[Link]:
        return self._host.network.rng.sample(links, min(count, len(links)))

    def _backed_off(self, link: Link, followed: _Topic) -> bool:
        until = followed.backoff.get(link.remote.host.peer_id)
        return until is not None and trio.current_time() < until

    def _leave_mesh(self, link: Link, topic: str) -> None:
        if self._topics[topic].mesh.pop(link, _ABSENT) is not _ABSENT:
            link.grafted -= 1

    def _send_prune(self, link: Link, topic: str) -> None:
        link.send(CONTROL, b"prune", len(topic), link.remote.host.gossip.hear_prune, (link.remote, topic))

    def _balance(self, topic: str, followed: _Topic) -> bool:
        """Graft up to D when under D_lo, prune down to D when over D_hi (gossipsub v1.0, "Mesh maintenance"); whether
        members are still missing that a later heartbeat may find."""
        mesh = followed.mesh
        if len(mesh) < GOSSIP_DEGREE_LOW:
            outside = [link for link in self._followers(topic) if link not in mesh]
            free = [link for link in outside if not self._backed_off(link, followed)]
            for link in self._draw(free, GOSSIP_DEGREE - len(mesh)):
                mesh[link] = None
                link.grafted += 1
                link.send(CONTROL, b"graft", len(topic), link.remote.host.gossip.hear_graft, (link.remote, topic))
            return len(mesh) < GOSSIP_DEGREE_LOW and len(outside) > len(free)
        if len(mesh) > GOSSIP_DEGREE_HIGH:
            for link in self._draw(list(mesh), len(mesh) - GOSSIP_DEGREE):
                self._leave_mesh(link, topic)
                followed.backoff[link.remote.host.peer_id] = trio.current_time() + PRUNE_BACKOFF_S
                self._send_prune(link, topic)
        return False

    # --- the heartbeat, while there is something to do ----------------------------------------------------------------

    def _keep_beating(self) -> None:
        if not self._beating:
            self._beating = True
            period = round(GOSSIP_HEARTBEAT_S / TICK_S)
            timeline = self._host.network.timeline
            now = round(trio.current_time() / TICK_S)
            phase = self._host.number * 7919 % period  # heartbeats of hosts do not coincide
            timeline.at((now - (now - phase) % period + period) * TICK_S, self._beat, None)

    def _beat(self, _: object) -> None:
        self._beating = False
        if not self._host.alive:
            return
        now = trio.current_time()
        if now >= self._rotate_at:
            self._seen_before, self._seen = self._seen, {}
            self._rotate_at = now + SEEN_S
        unbalanced = False
        for topic, followed in self._topics.items():
            unbalanced |= self._balance(topic, followed)
            self._offer(topic, followed)
        if len(self._history) == GOSSIP_HISTORY:
            for parcel in self._history[0]:
                self._held.pop(parcel.id, None)
        self._history.append([])
        if unbalanced or self._held:
            self._keep_beating()

    def _offer(self, topic: str, followed: _Topic) -> None:
        recent = list(self._history)[-GOSSIP_WINDOW:]
        ids = [parcel.id for parcels in recent for parcel in parcels if parcel.message.topic == topic]
        if ids:
            outside = [link for link in self._followers(topic) if link not in followed.mesh]
            for link in self._draw(outside, GOSSIP_LAZY):
                size = len(ids) * IHAVE_ID_BYTES
                link.send(CONTROL, b"have", size, link.remote.host.gossip.hear_have, (link.remote, topic, ids))


_ABSENT = object()
