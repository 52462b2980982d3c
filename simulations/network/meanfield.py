"""Gossip for thousands of hosts: what a mesh does to each follower in the mean, without its messages.

A publication is written once into its topic's log. A follower hears it some time later, as a mesh would bring it, and
its validator runs when the host next looks (:meth:`MeanFieldGossip.let_in`), so that idle hosts cost nothing. Of each
origin a follower hears the newest publication that has reached it; older ones that it did not look at in time are
skipped, which is right for news that replaces what came before it, and for nothing else.

Who hears: every follower that has a connection, on the origin's side of a partition at the time of publication. What a
validator refuses goes no further, and the origin has to answer for it as a relay of the mesh has.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from simulations.network.gossip import VirtualGossip
from simulations.network.limits import (
    GOSSIP_OVERHEAD_BYTES,
    MEAN_FIELD_COPIES,
    MEAN_FIELD_HOP_S,
    MEAN_FIELD_LATEST_S,
    MEAN_FIELD_SPREAD,
)
from simulations.network.links import GOSSIP
from simulations.network.world import round_trip_s
from transport.host.interface import GossipMessage, GossipValidator, HostError
from transport.host.limits import MAX_GOSSIP_BYTES, SUBSCRIPTION_QUEUE
from transport.host.queues import NewsQueue
from transport.identity import PeerId

if TYPE_CHECKING:
    from simulations.network.host import VirtualHost
    from simulations.network.links import Link


@dataclass(slots=True)
class Publication:
    """One message of one origin. ``sides`` is the partition at the time."""

    number: int
    at_s: float
    host: VirtualHost
    message: GossipMessage
    sides: dict[int, int]
    refused: bool = False


@dataclass
class Topic:
    """What was published: by origin, whoever published last at the end."""

    published: int = 0
    origins: dict[PeerId, list[Publication]] = field(default_factory=dict)
    """Of each origin what may still be news to somebody, the newest last."""
    followers: int = 0
    hungry: dict[MeanFieldGossip, None] = field(default_factory=dict)
    """Who waits for news of it."""

    def add(self, publication: Publication) -> None:
        """The newest of its origin; those go that nobody can need any more."""
        origin = publication.message.origin
        kept = self.origins.pop(origin, [])
        reached = publication.at_s - MEAN_FIELD_LATEST_S
        kept.append(publication)
        while len(kept) > 1 and kept[1].at_s < reached and kept[1].sides is kept[0].sides:
            del kept[0]
        self.origins[origin] = kept


class Ether:
    """The topics of one network."""

    def __init__(self) -> None:
        self.topics: dict[str, Topic] = {}

    def topic(self, name: str) -> Topic:
        """Made on first use."""
        found = self.topics.get(name)
        if found is None:
            found = self.topics[name] = Topic()
        return found


@dataclass
class _Followed:
    """A topic that this host follows."""

    topic: Topic
    validator: GossipValidator
    queue: NewsQueue[GossipMessage]
    cursor: int
    """Everything up to this number was heard, or never will be."""
    ahead: set[int] = field(default_factory=set)
    """What was heard beyond it."""


class MeanFieldGossip(VirtualGossip):
    """The gossip of one host. It sends nothing and is sent nothing."""

    def __init__(self, host: VirtualHost, ether: Ether) -> None:
        super().__init__(host)
        self._ether = ether
        self._follows: dict[str, _Followed] = {}
        self._looking = False

    # --- what the host offers -----------------------------------------------------------------------------------------

    async def publish(self, topic: str, data: bytes) -> None:
        """Write ``data`` into the topic's log, our own validator first. Raises :class:`HostError` when it is too
        long."""
        if len(data) > MAX_GOSSIP_BYTES:
            raise HostError(f"a gossip message of {len(data)} bytes, where at most {MAX_GOSSIP_BYTES} are allowed")
        await trio.lowlevel.checkpoint()
        host = self._host
        message = GossipMessage(topic, host.peer_id, bytes(data))
        followed = self._follows.get(topic)
        if followed is not None and followed.validator(message) is not True:
            return
        if followed is not None:
            followed.queue.put(message)
        if not host.alive or not host.has_links:
            return
        network, ether = host.network, self._ether.topic(topic)
        ether.published += 1
        publication = Publication(ether.published, network.timeline.now(), host, message, network.sides)
        ether.add(publication)
        size = len(data) + len(topic) + GOSSIP_OVERHEAD_BYTES
        copies = round(MEAN_FIELD_COPIES * max(0, ether.followers - 1))
        carried = network.carried[topic]
        carried.messages += copies
        carried.bytes += copies * size
        network.messages += copies
        network.bytes += copies * size
        network.log.event(GOSSIP, network.timeline.tick, host.number, 0, message.data)
        for waiting in ether.hungry:
            if waiting is not self:
                network.timeline.at(waiting.arrival_s(publication), waiting.let_in, None)

    @asynccontextmanager
    async def subscribe(self, topic: str, validator: GossipValidator) -> AsyncIterator[AsyncIterator[GossipMessage]]:
        """Join ``topic`` for the length of the block. One subscription a topic."""
        if topic in self._follows:
            raise HostError(f"{topic} is subscribed to already")
        ether = self._ether.topic(topic)
        queue: NewsQueue[GossipMessage] = NewsQueue(SUBSCRIPTION_QUEUE)
        self._follows[topic] = _Followed(ether, validator, queue, ether.published)
        ether.followers += 1
        try:
            yield queue
        finally:
            queue.close()
            del self._follows[topic]
            ether.followers -= 1
            ether.hungry.pop(self, None)

    def newest(self, topic: str) -> list[Publication]:
        """What we published last, as far as anybody may still hear of it."""
        return list(self._ether.topic(topic).origins.get(self._host.peer_id, ()))

    def mesh(self, topic: str) -> list[Link]:
        """There is none."""
        return []

    def greet(self, link: Link) -> None:
        """A new neighbour. With the first one we begin to hear."""
        if self._host.only_link(link):
            for followed in self._follows.values():
                followed.cursor = followed.topic.published
                followed.ahead.clear()

    def forget(self, link: Link) -> None:
        """A neighbour is gone, and what was held against it. With the last one we hear nothing more."""
        self._bad.pop(link.remote.host.peer_id, None)
        if self._host.only_link(link):
            self.let_in()

    # --- hearing ------------------------------------------------------------------------------------------------------

    def hunger(self) -> None:
        """Look as soon as there is news: somebody waits for it."""
        for followed in self._follows.values():
            followed.topic.hungry[self] = None

    def let_in(self, _: Any = None) -> None:
        """Hear what has reached us by now."""
        if self._looking or not self._host.alive or not self._host.has_links:
            return
        now = self._host.network.timeline.now()
        for followed in self._follows.values():
            topic = followed.topic
            if topic.published == followed.cursor:
                continue
            arrived, pending = [], topic.published + 1
            for publications in reversed(topic.origins.values()):
                if publications[-1].number <= followed.cursor:
                    break
                for publication in reversed(publications):
                    if publication.number <= followed.cursor:
                        break
                    if not self._reaches(publication):
                        continue
                    if publication.number in followed.ahead:
                        break
                    if now >= publication.at_s + MEAN_FIELD_LATEST_S or now >= self.arrival_s(publication):
                        arrived.append(publication)
                        break
                    pending = min(pending, publication.number)
            followed.cursor = pending - 1
            if followed.ahead or pending <= topic.published:
                followed.ahead = {number for number in followed.ahead if number >= pending}
            arrived.sort(key=_number)
            for publication in arrived:
                if publication.number >= pending:
                    followed.ahead.add(publication.number)
                self._hear(followed, publication)

    def origins(self) -> list[PeerId]:
        """Who has published anything in the topics that this host follows."""
        return [origin for followed in self._follows.values() for origin in followed.topic.origins]

    def let_in_of(self, origin: PeerId) -> None:
        """The same of one origin."""
        if self._looking or not self._host.alive or not self._host.has_links:
            return
        for followed in self._follows.values():
            if followed.topic.published == followed.cursor:
                continue
            for publication in reversed(followed.topic.origins.get(origin, ())):
                if publication.number <= followed.cursor or publication.number in followed.ahead:
                    break
                if self._reaches(publication) and self._host.network.timeline.now() >= self.arrival_s(publication):
                    followed.ahead.add(publication.number)
                    self._hear(followed, publication)
                    break

    def _reaches(self, publication: Publication) -> bool:
        """Whether it comes to us at all: not our own, and from our side of the partition that there was."""
        if publication.host is self._host or publication.refused:
            return False
        sides = publication.sides
        return not sides or sides.get(publication.host.number, 0) == sides.get(self._host.number, 0)

    def arrival_s(self, publication: Publication) -> float:
        """When a mesh would bring it: the way there through as many others as a mesh of so many has between two."""
        origin, host = publication.host, self._host
        # Anybody's place in a mesh is as good as another's: a fixed draw for each pair.
        draw = ((origin.number * 0x9E3779B1 ^ host.number * 0x85EBCA77) * 0xC2B2AE35 >> 16 & 0xFFFF) / 0x10000
        hops = math.log(1 + self._ether.topics[publication.message.topic].followers)
        way_s = round_trip_s(origin.place, host.place) / 2
        return publication.at_s + way_s + MEAN_FIELD_HOP_S * hops * (1 + MEAN_FIELD_SPREAD * (2 * draw - 1))

    def _hear(self, followed: _Followed, publication: Publication) -> None:
        host, message = self._host, publication.message
        host.network.log.event(GOSSIP, host.network.timeline.tick, publication.host.number, host.number)
        self._looking = True
        try:
            verdict = followed.validator(message)
        finally:
            self._looking = False
        if verdict is True:
            followed.topic.hungry.pop(self, None)
            followed.queue.put(message)
        elif verdict is False:
            publication.refused = True
            self._count_bad(message.origin, message.topic)


def _number(publication: Publication) -> int:
    return publication.number
