"""The network between the machines, without I/O: packets go in with their time, and come out when they are due.

    sender's NAT → its line up (rate) → the way (delay, jitter, loss, partition) → receiver's NAT → its line down (rate)

Packets from one machine to another stay in order, as on nearly every path of the internet; jitter delays, it never
reorders.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from simulations.netns.addresses import AddressPlan
from simulations.netns.limits import MAX_UNDERWAY_BYTES, QUEUE_MIN_BYTES, QUEUE_S
from simulations.netns.nat import Nat
from simulations.netns.packets import addresses, flow_of, with_source, with_target
from simulations.netns.shape import Shape


class Line:
    """One direction of a machine's line: a queue of bounded length that drains at ``rate_bit_s``."""

    __slots__ = ("_byte_s", "_free_s", "_most_s")

    def __init__(self, rate_bit_s: int) -> None:
        self._byte_s = 8 / rate_bit_s
        self._free_s = 0.0
        self._most_s = max(QUEUE_S, QUEUE_MIN_BYTES * self._byte_s)

    def through_s(self, now_s: float, size: int) -> float | None:
        """When a packet that comes now is through; ``None`` when the queue is full and it is dropped."""
        begins = max(now_s, self._free_s)
        ends = begins + size * self._byte_s
        if ends - now_s > self._most_s + 1e-9:  # for what adding up fractions is off
            return None
        self._free_s = ends
        return ends


@dataclass
class Counts:
    """What became of the packets."""

    carried: int = 0
    carried_bytes: int = 0
    lost: int = 0
    """By the option."""
    queue_full: int = 0
    cut: int = 0
    """By a partition."""
    refused: int = 0
    """By a NAT, inwards or because its table was full."""
    astray: int = 0
    """Not IPv4, or for an address that nobody has."""


class Switch:
    """Carries packets between the machines of ``plan``. Times are any monotonic clock's, in seconds.

    ``nats`` are by the machine's name. What is drawn, ``rng`` draws.
    """

    def __init__(self, plan: AddressPlan, shape: Shape, nats: Mapping[str, Nat], rng: random.Random) -> None:
        self.counts = Counts()
        self._shape = shape
        self._rng = rng
        self._nats = dict(nats)
        self._by_address = {int(machine.address): machine.name for machine in plan.machines}
        self._up, self._down = self._lines(plan), self._lines(plan)
        self._last_s: dict[tuple[str, str], float] = {}
        self._part: dict[str, int] = {}
        # (when, order of arrival, receiver, whether it is past the receiver's line, packet)
        self._underway: list[tuple[float, int, str, bool, bytes]] = []
        self._underway_bytes = 0
        self._order = 0

    def _lines(self, plan: AddressPlan) -> dict[str, Line]:
        rate = self._shape.rate_bit_s
        return {} if rate is None else {machine.name: Line(rate) for machine in plan.machines}

    def cut(self, parts: Iterable[Iterable[str]]) -> None:
        """Let machines of different parts not reach each other; those in no part reach all. Replaces an earlier cut."""
        self._part = {name: index for index, part in enumerate(parts) for name in part}

    @property
    def next_s(self) -> float | None:
        """When :meth:`due` has something next."""
        return self._underway[0][0] if self._underway else None

    def send(self, now_s: float, sender: str, packet: bytes) -> None:
        """A packet leaves ``sender``; it is lost, or comes out of :meth:`due`."""
        counts = self.counts
        if (nat := self._nats.get(sender)) is not None:
            flow = flow_of(packet)
            source = nat.outbound(now_s, flow) if flow is not None else None
            if flow is None or source is None:
                counts.refused += 1
                return
            packet = with_source(packet, flow, source)
        ends = addresses(packet)
        receiver = self._by_address.get(ends[1]) if ends is not None else None
        if receiver is None or receiver == sender:
            counts.astray += 1
            return
        through_s: float | None = now_s
        if self._up:
            through_s = self._up[sender].through_s(now_s, len(packet))
        if through_s is None or self._underway_bytes + len(packet) > MAX_UNDERWAY_BYTES:
            counts.queue_full += 1
            return
        shape = self._shape
        if shape.loss and self._rng.random() < shape.loss:
            counts.lost += 1
            return
        due_s = through_s + shape.delay_s
        if shape.jitter_s:
            due_s += self._rng.uniform(-shape.jitter_s, shape.jitter_s)
        pair = (sender, receiver)
        if self._is_cut(pair):
            counts.cut += 1
            return
        self._last_s[pair] = due_s = max(due_s, self._last_s.get(pair, due_s))
        self._push(due_s, receiver, False, packet)

    def due(self, now_s: float) -> list[tuple[str, bytes]]:
        """Packets that have arrived by now, each with its receiver, in the order of their arrival."""
        arrived: list[tuple[str, bytes]] = []
        underway = self._underway
        while underway and underway[0][0] <= now_s:
            at_s, _, receiver, past_line, packet = heapq.heappop(underway)
            self._underway_bytes -= len(packet)
            if not past_line:
                translated = self._let_in(at_s, receiver, packet)
                if translated is None:
                    self.counts.refused += 1
                    continue
                packet = translated
                if self._down:
                    through_s = self._down[receiver].through_s(at_s, len(packet))
                    if through_s is None:
                        self.counts.queue_full += 1
                        continue
                    if through_s > now_s:
                        self._push(through_s, receiver, True, packet)
                        continue
            self.counts.carried += 1
            self.counts.carried_bytes += len(packet)
            arrived.append((receiver, packet))
        return arrived

    def _push(self, at_s: float, receiver: str, past_line: bool, packet: bytes) -> None:
        self._order += 1
        self._underway_bytes += len(packet)
        heapq.heappush(self._underway, (at_s, self._order, receiver, past_line, packet))

    def _is_cut(self, pair: tuple[str, str]) -> bool:
        one, other = self._part.get(pair[0]), self._part.get(pair[1])
        return one is not None and other is not None and one != other

    def _let_in(self, now_s: float, receiver: str, packet: bytes) -> bytes | None:
        nat = self._nats.get(receiver)
        if nat is None:
            return packet
        flow = flow_of(packet)
        target = nat.inbound(now_s, flow) if flow is not None else None
        return with_target(packet, flow, target) if flow is not None and target is not None else None
