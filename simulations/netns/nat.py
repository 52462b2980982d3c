"""A NAT: which outside port stands for which flow of the inside, and whom it lets in (RFC 4787, RFC 5382).

kind       mapping                                  lets in
full-cone  one outside port for an inside port      anybody
restricted one outside port for an inside port      remote ends that were dialled
symmetric  one outside port for every remote end    the remote end that was dialled
firewall   none: addresses stay what they are       the remote end that was dialled
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from simulations.netns.limits import (
    NAT_CLOSING_S,
    NAT_FIRST_PORT,
    NAT_ICMP_S,
    NAT_LAST_PORT,
    NAT_MAPPINGS,
    NAT_TCP_S,
    NAT_UDP_S,
)
from simulations.netns.packets import Endpoint, Flow, Protocol

_LIFETIME_S = {Protocol.TCP: NAT_TCP_S, Protocol.UDP: NAT_UDP_S, Protocol.ICMP: NAT_ICMP_S}


class NatKind(StrEnum):
    """What stands between a node and the network."""

    FULL_CONE = "full-cone"
    RESTRICTED = "restricted"
    """What most home routers are: endpoint-independent mapping, address- and port-dependent filtering (RFC 4787 §5)."""
    SYMMETRIC = "symmetric"
    FIREWALL = "firewall"

    @property
    def is_cone(self) -> bool:
        """Whether one outside port serves an inside port, whatever the remote end."""
        return self in (NatKind.FULL_CONE, NatKind.RESTRICTED)

    @property
    def translates(self) -> bool:
        """Whether the inside has addresses of its own."""
        return self is not NatKind.FIREWALL


@dataclass(slots=True)
class _Mapping:
    protocol: Protocol
    inside: Endpoint
    outside: Endpoint
    remote: Endpoint | None
    expires_s: float
    established: bool = False
    closing: bool = False
    dialled: set[Endpoint] = field(default_factory=set)
    """Of a restricted cone: the remote ends that are let in."""


class Nat:
    """One NAT in front of one machine. ``address`` is the outside one; times are any clock's, in seconds."""

    def __init__(self, kind: NatKind, address: int, *, max_mappings: int = NAT_MAPPINGS) -> None:
        self.kind = kind
        self.address = address
        self.refused = 0
        """Flows that found the table full."""
        self._max = max_mappings
        self._from_inside: dict[tuple[Protocol, Endpoint, Endpoint | None], _Mapping] = {}
        self._from_outside: dict[tuple[Protocol, int, Endpoint | None], _Mapping] = {}
        self._next_port = NAT_FIRST_PORT

    def __len__(self) -> int:
        return len(self._from_inside)

    def outbound(self, now_s: float, flow: Flow) -> Endpoint | None:
        """The source that others see for a packet of the inside; ``None`` when the table is full."""
        remote = None if self.kind.is_cone else _remote(flow.protocol, flow.target)
        key = (flow.protocol, flow.source, remote)
        mapping = self._from_inside.get(key)
        if mapping is not None and mapping.expires_s <= now_s:
            self._forget(mapping)
            mapping = None
        if mapping is None:
            mapping = self._open(now_s, flow, remote)
            if mapping is None:
                self.refused += 1
                return None
        if self.kind is NatKind.RESTRICTED:
            end = _remote(flow.protocol, flow.target)
            if end not in mapping.dialled and len(mapping.dialled) >= self._max:
                self.refused += 1
                return None
            mapping.dialled.add(end)
        self._used(mapping, now_s, flow, inbound=False)
        return mapping.outside

    def inbound(self, now_s: float, flow: Flow) -> Endpoint | None:
        """Whom inside a packet from outside is for; ``None`` when nobody let it in."""
        remote = None if self.kind.is_cone else _remote(flow.protocol, flow.source)
        mapping = self._from_outside.get((flow.protocol, flow.target[1], remote))
        if mapping is None:
            return None
        if mapping.expires_s <= now_s:
            self._forget(mapping)
            return None
        if self.kind is NatKind.RESTRICTED and _remote(flow.protocol, flow.source) not in mapping.dialled:
            return None
        self._used(mapping, now_s, flow, inbound=True)
        return mapping.inside

    def _open(self, now_s: float, flow: Flow, remote: Endpoint | None) -> _Mapping | None:
        if len(self._from_inside) >= self._max:
            for old in [m for m in self._from_inside.values() if m.expires_s <= now_s]:
                self._forget(old)
            if len(self._from_inside) >= self._max:
                return None
        outside = (self.address, self._port(flow.protocol, flow.source[1], remote))
        mapping = _Mapping(flow.protocol, flow.source, outside, remote, now_s)
        self._from_inside[flow.protocol, flow.source, remote] = mapping
        self._from_outside[flow.protocol, outside[1], remote] = mapping
        return mapping

    def _port(self, protocol: Protocol, own: int, remote: Endpoint | None) -> int:
        if self.kind is NatKind.FIREWALL:
            return own
        # A cone keeps the port where it is free (RFC 4787 §4.2.1); a symmetric NAT takes another for every remote end.
        if self.kind.is_cone and (protocol, own, None) not in self._from_outside:
            return own
        while True:
            port = self._next_port
            self._next_port = NAT_FIRST_PORT if port == NAT_LAST_PORT else port + 1
            # There are more ports than mappings, so one is free.
            if (protocol, port, remote) not in self._from_outside:
                return port

    def _used(self, mapping: _Mapping, now_s: float, flow: Flow, *, inbound: bool) -> None:
        mapping.established |= inbound
        mapping.closing |= flow.closing
        lifetime_s = _LIFETIME_S[mapping.protocol]
        # A cone's mapping serves other connections beside the one that is being closed.
        ending = mapping.closing and not self.kind.is_cone
        if mapping.protocol is Protocol.TCP and (ending or not mapping.established):
            lifetime_s = NAT_CLOSING_S
        mapping.expires_s = now_s + lifetime_s

    def _forget(self, mapping: _Mapping) -> None:
        del self._from_inside[mapping.protocol, mapping.inside, mapping.remote]
        del self._from_outside[mapping.protocol, mapping.outside[1], mapping.remote]


def _remote(protocol: Protocol, end: Endpoint) -> Endpoint:
    """An echo's identifier is the sender's on the way out and the NAT's on the way back: it tells no remote end."""
    return (end[0], 0) if protocol is Protocol.ICMP else end
