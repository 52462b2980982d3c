"""A host of the virtual network: what `transport.host.Libp2pHost` does for its callers, without sockets."""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING

import trio

from simulations.network.dialling import Dial, split_addr, split_peer
from simulations.network.limits import MAX_KNOWN_PEERS, PROMPT_IDLE_S, TRIM_SHARE
from simulations.network.links import ANSWER, Link
from simulations.network.streams import Entry, VirtualStream
from simulations.network.workers import Workers
from transport.host.interface import (
    DialError,
    EventKind,
    GossipMessage,
    GossipValidator,
    Host,
    HostEvent,
    HostStream,
    PeerInfo,
    PromptHandler,
    StreamError,
    StreamHandler,
)
from transport.host.limits import (
    BOOTSTRAP_ENOUGH,
    BOOTSTRAP_MAX_RETRY_S,
    BOOTSTRAP_RECHECK_S,
    DIALLER_ENOUGH,
    DROPPED_PEER_S,
    EVENT_QUEUE,
    MAX_CONNECTIONS,
    MAX_DROPPED_PEERS,
    MAX_INBOUND_STREAMS,
    NEGOTIATE_S,
    REJOIN_TRIES,
)
from transport.host.queues import NewsQueue
from transport.identity import Identity, PeerId

if TYPE_CHECKING:
    from simulations.network.internet import VirtualNetwork
    from simulations.network.world import Place

log = logging.getLogger("cocoon.host")


class VirtualHost:
    """A :class:`transport.host.interface.Host` in a virtual network. Made by ``VirtualNetwork.open``.

    ``identity`` names it and signs nothing: in here nobody can send in another's name.
    """

    def __init__(
        self, network: VirtualNetwork, identity: Identity, place: Place, number: int, nursery: trio.Nursery
    ) -> None:
        self.network = network
        self.place = place
        self.number = number
        """What the event log calls it; an identity keeps its number when it comes back."""
        self.alive = True
        self.crashed = False
        """Whether it fell silent rather than stopped: then nothing answers at its address either."""
        self.uplink_free_s = self.downlink_free_s = 0.0
        """Until when the access line is busy, in trio's time."""
        self.downlink_tick = 0
        """The tick before which nothing that arrives can be taken in: what came before is still arriving."""
        self.last_dial_s = float("-inf")
        """When it last dialled out, which is what keeps a NAT's mapping."""
        self.gossip = network.router(self)
        self._peer_id = identity.peer_id
        self._addrs = tuple(f"{addr}/p2p/{identity.peer_id}" for addr in place.addrs())
        self._workers = Workers(nursery)
        self._links: dict[PeerId, Link] = {}
        self._second: dict[PeerId, Link] = {}
        """Second connections, of two hosts that dialled each other at once."""
        self._handlers: dict[str, StreamHandler] = {}
        self._prompt: dict[StreamHandler, Callable[[PeerId, bytes], bytes | None]] = {}
        """Handlers that can answer at once, and how."""
        self._served: dict[VirtualStream, tuple[float, StreamHandler]] = {}
        """Streams that have no task, when each was last asked something, in that order, and their handlers."""
        self._followers: dict[NewsQueue[HostEvent], None] = {}
        self._dialling: dict[PeerId, trio.Event] = {}
        self._awaited: dict[PeerId, trio.Event] = {}
        """Set when a connection ends that somebody wants to keep."""
        self._known: dict[PeerId, tuple[str, ...]] = {}
        self._refused_until: dict[PeerId, float] = {}
        self._opening: dict[VirtualStream, float] = {}
        """Streams that the other side has not answered for, and since when, in that order."""
        self._sweeping = False

    # --- who and where ----------------------------------------------------------------------------------------------

    @property
    def peer_id(self) -> PeerId:
        """Our own id."""
        return self._peer_id

    @property
    def addrs(self) -> Sequence[str]:
        """Where we can be reached; empty behind a NAT that lets nobody in."""
        return list(self._addrs)

    def peers(self) -> Sequence[PeerInfo]:
        """Who is connected now."""
        return [link.info for link in self._links.values()]

    def links(self) -> list[Link]:
        """Our ends of the connections that stand."""
        return list(self._links.values())

    @property
    def has_links(self) -> bool:
        """Whether it is connected to anybody."""
        return bool(self._links)

    def only_link(self, link: Link) -> bool:
        """Whether ``link`` is the one connection that it has."""
        return len(self._links) == 1 and self._links.get(link.remote.host.peer_id) is link

    # --- connections ------------------------------------------------------------------------------------------------

    async def connect(self, addr: str) -> PeerId:
        """Dial a multiaddr that ends in ``/p2p/<peer id>``; at once if connected. Raises :class:`DialError`."""
        peer = split_peer(addr)
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._ensure_connected(peer, (addr,))
        return peer

    async def _ensure_connected(self, peer: PeerId, addrs: Sequence[str]) -> Link:
        if peer == self._peer_id:
            raise DialError("that is this node's own peer id")
        while True:
            if trio.current_time() < self._refused_until.get(peer, 0.0):
                raise DialError(f"{peer} broke a protocol a moment ago and is refused for up to {DROPPED_PEER_S:.0f} s")
            if (link := self._links.get(peer)) is not None:
                return link
            if not self.alive:
                raise DialError("this host has stopped")
            if (other := self._dialling.get(peer)) is None:
                break
            await other.wait()
        done = self._dialling[peer] = trio.Event()
        try:
            return await Dial(self, peer, [*addrs, *self._known.get(peer, ())]).run()
        finally:
            del self._dialling[peer]
            done.set()

    def accept(self, dialler: VirtualHost, round_trip_s: float, addr: str, seen_as: str) -> Link | None:
        """Both ends of the connection that a handshake of ``dialler`` made, the dialler's returned; None if one of us
        is full."""
        if not (self.has_room() and dialler.has_room()):
            return None
        ours = Link(self.network, self, round_trip_s, seen_as, inbound=True)
        theirs = Link(self.network, dialler, round_trip_s, addr, inbound=False)
        ours.remote, theirs.remote = theirs, ours
        return theirs

    def stand(self, link: Link) -> None:
        """Our end of a connection that was dialled from elsewhere stands, unless we have stopped or filled up since."""
        if self.alive and self.has_room():
            self.link(link)
        elif self.alive or not self.crashed:
            link.close()
        else:
            link.remote.watch()

    def has_room(self) -> bool:
        """Whether there is room for one connection more, after closing the idlest if need be. Other dials may
        have ended since it was asked last: it is asked again when a connection stands."""
        if len(self._links) < MAX_CONNECTIONS:
            return True
        idle = [link for link in self._links.values() if not link.streams and not link.grafted]
        for link in heapq.nsmallest(int(TRIM_SHARE * MAX_CONNECTIONS), idle, key=lambda link: link.used_at):
            link.close()
        return len(self._links) < MAX_CONNECTIONS

    def link(self, link: Link) -> None:
        """Our end of a new connection stands."""
        if not link.is_open:
            return
        other = link.remote.host
        peer = other.peer_id
        self._learn(peer, other._addrs)
        older = self._links.get(peer)
        if older is None:
            self._links[peer] = link
            self._tell(HostEvent(EventKind.CONNECTED, peer, link.addr))
        elif peer in self._second:
            link.close()
            return
        else:  # both dialled at once: both stand, and both sides use the same one
            first, second = (older, link) if older.rank < link.rank else (link, older)
            self._links[peer], self._second[peer] = first, second
            if first is older:
                return
            self.gossip.forget(older)
        if trio.current_time() < self._refused_until.get(peer, 0.0):
            link.close()
        else:
            self.gossip.greet(link)

    def unlink(self, link: Link) -> None:
        """One of our connections is gone."""
        peer = link.remote.host.peer_id
        if self._second.get(peer) is link:
            del self._second[peer]
        elif self._links.get(peer) is link:
            self.gossip.forget(link)
            if (second := self._second.pop(peer, None)) is not None:
                self._links[peer] = second
                self.gossip.greet(second)
            else:
                del self._links[peer]
                if (awaited := self._awaited.pop(peer, None)) is not None:
                    awaited.set()
                self._tell(HostEvent(EventKind.DISCONNECTED, peer, link.addr))

    def _learn(self, peer: PeerId, addrs: tuple[str, ...]) -> None:
        """What identify tells: where the peer listens."""
        self._known.pop(peer, None)
        if addrs:
            self._known[peer] = addrs
            if len(self._known) > MAX_KNOWN_PEERS:
                del self._known[next(iter(self._known))]

    def halt(self, *, crash: bool = False) -> None:
        """Stop: connections are closed, or with ``crash`` nobody hears of it until they miss an answer."""
        if not self.alive:
            return
        if crash:
            self.crashed = True
            self.network.faulty = True
        links = [*self._second.values(), *self._links.values()]
        for link in links:
            if crash:
                link.remote.watch()
            else:
                link.close()
        self.alive = False
        for link in links:
            link.shut("this host has stopped")

    # --- streams ----------------------------------------------------------------------------------------------------

    async def open_stream(self, peer: PeerId, protocol: str, *, addrs: Sequence[str] = ()) -> HostStream:
        """Open a stream for ``protocol``, dialling ``addrs`` and what is known of the peer if not connected. On a
        connection that stands it waits for nothing."""
        await trio.lowlevel.checkpoint_if_cancelled()
        link = self._links.get(peer)
        if link is None or peer in self._refused_until:
            link = await self._ensure_connected(peer, [addr for addr in addrs if split_addr(addr) is not None])
        stream = VirtualStream(link, peer, protocol)
        self.network.opened(stream)
        self._opening[stream] = now = self.network.timeline.now()
        self._sweep_at(now + NEGOTIATE_S)
        return stream

    def _sweep_at(self, when_s: float) -> None:
        # At whole seconds, so that all hosts share few ticks: an answer has up to a second longer.
        if not self._sweeping:
            self._sweeping = True
            self.network.timeline.at(math.ceil(when_s), self._sweep, None)

    def _sweep(self, _: object) -> None:
        """Give up the openings that were not answered, and streams without a task that are silent to their handlers."""
        self._sweeping = False
        now = self.network.timeline.now()
        while self._opening:
            stream, since = next(iter(self._opening.items()))
            if since + NEGOTIATE_S > now:
                self._sweep_at(since + NEGOTIATE_S)
                break
            del self._opening[stream]
            stream.give_up()
        while self._served:
            stream, (since, handler) = next(iter(self._served.items()))
            if since + PROMPT_IDLE_S > now:
                self._sweep_at(since + PROMPT_IDLE_S)
                break
            self._give_task(stream, handler)

    def answered(self, answer: tuple[VirtualStream, str, Entry | None]) -> None:
        """The other side has a stream that we opened and may have answered the first request, or says why not."""
        stream, refusal, entry = answer
        self._opening.pop(stream, None)
        stream.answered(refusal)
        if entry is not None:
            stream.take(entry)

    def serve_open(self, asked: tuple[VirtualStream, str, Entry | None]) -> None:
        """A stream arrives, maybe with its first message: serve it, and say whether we do."""
        theirs, protocol, entry = asked
        link = theirs.link.remote
        handler = self._handlers.get(protocol)
        if handler is None:
            refusal = f"{self._peer_id} does not speak {protocol}"
        elif link.inbound_streams >= MAX_INBOUND_STREAMS:
            refusal = f"the stream to {self._peer_id} was reset: too many are open"
        else:
            refusal = ""
            stream = VirtualStream(link, link.remote.host.peer_id, protocol, opened=True)
            stream.other, theirs.other = theirs, stream
            link.inbound_streams += 1
            if entry is None or handler not in self._prompt:
                self._workers.start(self._serve, (stream, handler))
            else:
                stream.prompt = self._prompted
                self._served[stream] = (self.network.timeline.now(), handler)
                if self._prompted(stream, entry, protocol):
                    self._sweep_at(self.network.timeline.now() + PROMPT_IDLE_S)
                    return
            if entry is not None:
                stream.take(entry)
        link.send(ANSWER, b"", len(protocol), link.remote.host.answered, (theirs, refusal, None))

    def _prompted(self, stream: VirtualStream, entry: Entry | None, protocol: str = "") -> bool:
        """Let the handler of a stream that has no task answer a request at once; else, False, it gets a task. None: the
        stream is over. ``protocol``: the other side is still to be told that we serve it."""
        if entry is None:
            stream.prompt = None
            del self._served[stream]
            stream.link.inbound_streams -= 1
            stream.retire()
            return True
        total, size, request = entry
        _, handler = self._served[stream]
        if request is not None and size == total:
            reply = self._prompt[handler](stream.peer_id, request)
            if reply is not None and stream.reply(size, reply, protocol):
                if self._served.pop(stream, None) is not None:  # else the connection broke under the reply
                    self._served[stream] = (self.network.timeline.now(), handler)
                return True
        self._give_task(stream, handler)
        return False

    def _give_task(self, stream: VirtualStream, handler: StreamHandler) -> None:
        del self._served[stream]
        stream.prompt = None
        self._workers.start(self._serve, (stream, handler))

    async def _serve(self, job: tuple[VirtualStream, StreamHandler]) -> None:
        stream, handler = job
        try:
            await handler(stream)
        except StreamError:
            await stream.reset()
        except Exception as error:
            log.debug("a stream of %s was reset: %r", stream.peer_id, error)
            self.network.count_failure(error)
            await stream.reset()
        except BaseException:
            await stream.reset()
            raise
        else:
            await stream.aclose()
        finally:
            stream.link.inbound_streams -= 1

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        """Serve ``protocol``; at most one handler each."""
        if protocol in self._handlers:
            raise ValueError(f"{protocol} has a handler already")
        self.replace_handler(protocol, handler)

    def replace_handler(self, protocol: str, handler: StreamHandler) -> None:
        """Serve ``protocol`` otherwise from now on: what somebody does who has changed his node's code."""
        self._handlers[protocol] = handler
        if isinstance(handler, PromptHandler):
            self._prompt[handler] = handler.prompt

    # --- gossip -----------------------------------------------------------------------------------------------------

    async def publish(self, topic: str, data: bytes) -> None:
        """Gossip ``data`` in our name. Delivery is best effort."""
        await self.gossip.publish(topic, data)

    def subscribe(
        self, topic: str, validator: GossipValidator
    ) -> AbstractAsyncContextManager[AsyncIterator[GossipMessage]]:
        """Join ``topic`` for the length of the block."""
        return self.gossip.subscribe(topic, validator)

    # --- events and offenders ---------------------------------------------------------------------------------------

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[HostEvent]]:
        """Follow events, beginning with the addresses listened on and the peers connected already."""
        queue: NewsQueue[HostEvent] = NewsQueue(EVENT_QUEUE)
        for addr in self._addrs:
            queue.put(HostEvent(EventKind.LISTENING, None, addr))
        for peer, link in self._links.items():
            queue.put(HostEvent(EventKind.CONNECTED, peer, link.addr))
        self._followers[queue] = None
        try:
            yield queue
        finally:
            del self._followers[queue]

    def _tell(self, event: HostEvent) -> None:
        for queue in self._followers:
            queue.put(event)

    def tell_unreachable(self, peer: PeerId, addr: str, reason: str) -> None:
        """A bootstrap peer did not answer."""
        self._tell(HostEvent(EventKind.UNREACHABLE, peer, addr, reason))

    def connected(self, peer: PeerId) -> bool:
        """Whether a connection to ``peer`` stands."""
        return peer in self._links

    def served(self, peer: PeerId) -> bool:
        """Whether the bootstrap ``peer`` is connected, or enough others are."""
        return peer in self._links or self._in_company

    @property
    def _in_company(self) -> bool:
        return len(self._links) >= (BOOTSTRAP_ENOUGH if self._addrs else DIALLER_ENOUGH)

    async def rejoin(self, addr: str) -> None:
        """Find company again: first among those whom it met since it started, as the real host does by its peer store,
        else at the bootstrap peer at ``addr``. Raises :class:`DialError`."""
        for peer in list(islice(reversed(self._known), REJOIN_TRIES)):
            if self._in_company:
                return
            with suppress(DialError):
                await self._ensure_connected(peer, ())
        await self.connect(addr)

    async def lost(self, peer: PeerId) -> None:
        """Wait until ``peer`` is not connected any more, and then for as long as the real host takes to notice; it
        looks every few seconds, and here it is enough to look once a minute whether the others are still enough."""
        if self.connected(peer):
            await self._awaited.setdefault(peer, trio.Event()).wait()
            await trio.sleep(BOOTSTRAP_RECHECK_S / 2)
        else:
            await trio.sleep(BOOTSTRAP_MAX_RETRY_S)

    async def drop(self, peer: PeerId, reason: str) -> None:
        """Disconnect a peer that broke a protocol and refuse it for a while."""
        self.refuse(peer, reason)
        await trio.lowlevel.checkpoint()

    def refuse(self, peer: PeerId, reason: str) -> None:
        """The same, at once."""
        while len(self._refused_until) >= MAX_DROPPED_PEERS:
            del self._refused_until[next(iter(self._refused_until))]
        self._refused_until[peer] = trio.current_time() + DROPPED_PEER_S
        link = self._links.get(peer)
        self._tell(HostEvent(EventKind.DROPPED, peer, link.addr if link is not None else "", reason))
        for connection in (self._second.get(peer), link):
            if connection is not None:
                connection.close()


if TYPE_CHECKING:
    _implements: type[Host] = VirtualHost
