"""One end of a connection between two hosts: delay, order, bandwidth, loss, and an other end that falls silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import trio

from simulations.network.limits import (
    FRAME_BYTES,
    KEEPALIVE_S,
    MAX_RETRANSMITS,
    RETRANSMIT_MIN_S,
    TICK_S,
)
from transport.host.interface import PeerInfo
from transport.host.limits import WRITE_STALL_S

if TYPE_CHECKING:
    from simulations.network.host import VirtualHost
    from simulations.network.internet import VirtualNetwork
    from simulations.network.streams import VirtualStream

MESSAGE, OPEN, ANSWER, END, RESET, CONTROL, GOSSIP, CLOSE, CONNECT = range(1, 10)
"""Kinds of events in the log."""

Act = Callable[[Any], None]


class Link:
    """The end of a connection that ``host`` holds; ``remote`` is the other one.

    What is sent arrives in order. Whatever arrives after the receiving end has closed is lost.
    """

    __slots__ = (
        "_info",
        "addr",
        "grafted",
        "host",
        "inbound",
        "inbound_streams",
        "is_open",
        "last_tick",
        "network",
        "one_way_s",
        "remote",
        "round_trip_s",
        "stalled_at",
        "streams",
        "topics",
        "used_at",
        "waiting",
    )

    remote: Link

    def __init__(self, network: VirtualNetwork, host: VirtualHost, round_trip_s: float, addr: str, inbound: bool):
        self.network = network
        self.host = host
        self.round_trip_s = round_trip_s
        self.one_way_s = round_trip_s / 2
        self.addr = addr
        self._info: PeerInfo | None = None
        self.inbound = inbound
        self.is_open = True
        self.last_tick = 0
        self.used_at = trio.current_time()
        self.streams: dict[VirtualStream, None] = {}
        self.inbound_streams = 0
        self.stalled_at: float | None = None
        # A swarm has millions of links, so what few of them need is made when it is needed.
        self.waiting: list[tuple[int, bytes, int, Act, Any]] | None = None
        self.topics: dict[str, None] | None = None
        """Topics that the other end says it follows; None for none."""
        self.grafted = 0
        """Of how many meshes of ours the other end is a member; such a link is not trimmed."""

    @property
    def rank(self) -> int:
        """Which of two connections between the same hosts both use: the one with the lower dialler."""
        return self.remote.host.number if self.inbound else self.host.number

    @property
    def info(self) -> PeerInfo:
        """The peer at the other end."""
        if self._info is None:
            self._info = PeerInfo(self.remote.host.peer_id, self.addr, self.inbound, relayed=False)
        return self._info

    def send(self, kind: int, payload: bytes, size: int, act: Act, argument: Any) -> None:
        """Let ``act(argument)`` happen at the other end when ``size`` bytes and a frame have travelled there.

        ``payload`` is what the event log sees.
        """
        network = self.network
        if (
            network.faulty
            and kind != CLOSE
            and (self.stalled_at is not None or network.is_cut(self.host, self.remote.host))
        ):
            self._hold(kind, payload, size, act, argument)
            return
        host = self.host
        now = network.timeline.now()
        self.used_at = now
        leaves = host.uplink_free_s
        if leaves < now:
            leaves = now
        leaves += (size + FRAME_BYTES) / host.place.up_bytes_per_s
        host.uplink_free_s = leaves
        draw = network.rng.random
        arrives = leaves + self.one_way_s + draw() * network.jitter_s
        if network.loss and draw() < network.loss:
            delay = self._retransmit_s()
            if delay is None:
                self.break_both("too many losses")
                return
            arrives += delay
        self.last_tick = network.timeline.at(
            arrives, self.remote._arrive, (kind, payload, size, act, argument), self.last_tick
        )

    def _retransmit_s(self) -> float | None:
        """What a lost segment costs: the timeout doubles with each loss in a row (RFC 6298 §5.5)."""
        timeout = max(RETRANSMIT_MIN_S, 2 * self.round_trip_s)
        delay = 0.0
        for _ in range(MAX_RETRANSMITS):
            delay += timeout
            timeout *= 2
            if self.network.rng.random() >= self.network.loss:
                return delay
        return None

    def _arrive(self, parcel: tuple[int, bytes, int, Act, Any]) -> None:
        """The last bit is at our end of the path; the access line may still be busy with what came before."""
        host = self.host
        if not self.is_open or not host.alive:
            return
        network = self.network
        timeline = network.timeline
        kind, payload, size, act, argument = parcel
        size += FRAME_BYTES
        now = timeline.tick * TICK_S
        free = host.downlink_free_s
        if free < now:
            free = now
        host.downlink_free_s = free = free + size / host.place.down_bytes_per_s
        if free > now + TICK_S or host.downlink_tick > timeline.tick:
            host.downlink_tick = timeline.at(free, self._land, parcel, host.downlink_tick)
            return
        network.messages += 1
        network.bytes += size
        network.log.event(kind, timeline.tick, self.remote.host.number, host.number, payload)
        act(argument)

    def _land(self, parcel: tuple[int, bytes, int, Act, Any]) -> None:
        """What the access line kept waiting."""
        if not self.is_open or not self.host.alive:
            return
        kind, payload, size, act, argument = parcel
        network = self.network
        network.messages += 1
        network.bytes += size + FRAME_BYTES
        network.log.event(kind, network.timeline.tick, self.remote.host.number, self.host.number, payload)
        act(argument)

    # --- the other end does not answer --------------------------------------------------------------------------------

    def _hold(self, kind: int, payload: bytes, size: int, act: Act, argument: Any) -> None:
        """Keep what cannot leave; if it still cannot after WRITE_STALL_S the connection is dead (a new process at the
        same address says so at once)."""
        if not self.host.alive:
            return
        if self.waiting is None:
            self.waiting = []
        self.waiting.append((kind, payload, size, act, argument))
        if self.stalled_at is None:
            self.stalled_at = now = trio.current_time()
            reborn = not self.remote.host.alive and self.network.is_up(self.remote.host)
            self.network.timeline.at(now + (self.round_trip_s if reborn else WRITE_STALL_S), self._give_up, now)

    def _give_up(self, since: float) -> None:
        if self.is_open and self.stalled_at == since:
            self.shut("the other end does not answer")

    def watch(self) -> None:
        """The other end fell silent: unless it is heard again, the keep-alive finds out."""
        self.network.timeline.at(trio.current_time() + KEEPALIVE_S, self.probe, None)

    def probe(self, _: object = None) -> None:
        """Give the connection up if the other end cannot be heard."""
        if self.is_open and (not self.remote.is_open or self.network.is_cut(self.host, self.remote.host)):
            self.shut("the other end does not answer")

    def heal(self) -> None:
        """The path is there again: send what waits."""
        if self.stalled_at is not None and self.is_open and self.remote.host.alive:
            self.stalled_at = None
            waiting, self.waiting = self.waiting, None
            for parcel in waiting or ():
                self.send(*parcel)

    # --- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close this end now; the other one learns it when the packet arrives."""
        if self.is_open:
            if self.host.crashed or self.network.parted(self.host, self.remote.host):
                self.remote.watch()
            else:  # a host that has just stopped says so, too
                self.send(CLOSE, b"", 0, self.remote.shut, "the other side closed the connection")
            self.shut("the connection is closed")

    def break_both(self, reason: str) -> None:
        """The path resets both ends."""
        self.remote.shut(reason)
        self.shut(reason)

    def shut(self, reason: str) -> None:
        """This end is gone, and its streams with it."""
        if not self.is_open:
            return
        self.is_open = False
        self.waiting = None
        streams, self.streams = self.streams, {}
        for stream in streams:
            stream.fail(reason)
        self.host.unlink(self)
