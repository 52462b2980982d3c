"""DCUtR's exchange of messages (libp2p specs, relay/DCUtR.md), both sides of it. Pure.

B, whom A reached through a relay                    A
CONNECT(where B is seen)   ─────────────────────▶
                           ◀─────────────────────    CONNECT(where A is seen)
SYNC                       ─────────────────────▶    dials at once, as a client
dials half a round trip later, and then serves
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from google.protobuf.message import DecodeError, EncodeError
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch
from multiaddr import Multiaddr

from transport.host.addresses import plain_ip
from transport.host.interface import StreamError
from transport.host.limits import PUNCH_MAX_ADDRS, PUNCH_MAX_ROUND_TRIP_S

DCUTR = "/libp2p/dcutr"


def usable(addrs: Sequence[Multiaddr], outside: Callable[[str], bool]) -> list[Multiaddr]:
    """Those of somebody's addresses that we dial: a few IP addresses of the outside. Names and what is in our own
    network are left out: a stranger must not have us knock there."""
    found = [addr for addr in addrs if (ip := plain_ip(addr)) is not None and outside(ip)]
    return list(dict.fromkeys(found))[:PUNCH_MAX_ADDRS]


@dataclass(frozen=True)
class Plan:
    """Where to dial, and after how many seconds."""

    addrs: tuple[Multiaddr, ...]
    after_s: float


def connect_message(own: Sequence[Multiaddr]) -> bytes:
    """CONNECT."""
    addrs = [addr.to_bytes() for addr in own[:PUNCH_MAX_ADDRS]]
    return bytes(HolePunch(type=HolePunch.CONNECT, ObsAddrs=addrs).SerializeToString())


SYNC = bytes(HolePunch(type=HolePunch.SYNC).SerializeToString())


def read_message(data: bytes) -> tuple[bool, list[Multiaddr]]:
    """Whether it is CONNECT (else SYNC), and the addresses in it that parse. Raises :class:`StreamError`."""
    message = HolePunch()
    try:
        message.ParseFromString(data)
        if not message.IsInitialized():
            raise StreamError("a hole punching message without a type")
    except (DecodeError, EncodeError):
        raise StreamError("a hole punching message that does not parse") from None
    addrs = []
    for raw in message.ObsAddrs:
        try:
            addrs.append(Multiaddr(str(Multiaddr(raw))))  # from bytes alone it would not be parsed yet
        except Exception:  # noqa: S112  # an address of a kind that we do not know is none
            continue
    return message.type == HolePunch.CONNECT, addrs


class Initiator:
    """One attempt of B. Times are seconds of any one clock."""

    def __init__(self, own: Sequence[Multiaddr], outside: Callable[[str], bool], now: float) -> None:
        self._outside = outside
        self._started = now
        self.first = connect_message(own)
        """What to send first."""

    def answered(self, data: bytes, now: float) -> Plan:
        """The answer came: send :data:`SYNC` now, and follow the plan. Raises :class:`StreamError`."""
        is_connect, addrs = read_message(data)
        if not is_connect:
            raise StreamError("the peer answered CONNECT with SYNC")
        targets = usable(addrs, self._outside)
        if not targets:
            raise StreamError("the peer named no address that can be dialled")
        round_trip_s = min(now - self._started, PUNCH_MAX_ROUND_TRIP_S)
        return Plan(tuple(targets), round_trip_s / 2)


class _Stage(Enum):
    IDLE = auto()
    CONNECTED = auto()


class Responder:
    """A's side, for as many attempts as come on one stream."""

    def __init__(self, own: Sequence[Multiaddr], outside: Callable[[str], bool]) -> None:
        self._own = own
        self._outside = outside
        self._stage = _Stage.IDLE
        self._targets: list[Multiaddr] = []

    def received(self, data: bytes) -> bytes | Plan:
        """What to send in answer, or where to dial at once. Raises :class:`StreamError`."""
        is_connect, addrs = read_message(data)
        if self._stage is _Stage.IDLE and is_connect:
            self._targets = usable(addrs, self._outside)
            if not self._targets:
                raise StreamError("the peer named no address that can be dialled")
            self._stage = _Stage.CONNECTED
            return connect_message(self._own)
        if self._stage is _Stage.CONNECTED and not is_connect:
            self._stage = _Stage.IDLE
            return Plan(tuple(self._targets), 0.0)
        raise StreamError("hole punching messages out of order")


__all__ = ["DCUTR", "SYNC", "Initiator", "Plan", "Responder", "connect_message", "read_message", "usable"]
