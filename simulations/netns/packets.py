"""IPv4 packets as a NAT sees them: who talks to whom, and the same packet with another address and port.

Checksums are updated, not computed anew (RFC 1624): a NAT must not mend a packet that was damaged before it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

_HEADER = 20
_FIN, _RST = 0x01, 0x04
_FRAGMENT = 0x3FFF  # more fragments, and the offset (RFC 791 §3.1)
_ECHO_REQUEST, _ECHO_REPLY = 8, 0


class Protocol(IntEnum):
    """Those of IANA's numbers that a NAT translates."""

    ICMP = 1
    TCP = 6
    UDP = 17


Endpoint = tuple[int, int]
"""An IPv4 address as a number, and a port (or the identifier of an ICMP echo)."""

_CHECKSUM_AT = {Protocol.TCP: 16, Protocol.UDP: 6, Protocol.ICMP: 2}
_LEAST = {Protocol.TCP: 20, Protocol.UDP: 8, Protocol.ICMP: 8}


@dataclass(frozen=True, slots=True)
class Flow:
    """Whom a packet is from and for. ``closing``: it ends a TCP connection; ``offset``: where its payload begins."""

    protocol: Protocol
    source: Endpoint
    target: Endpoint
    closing: bool
    offset: int


def addresses(packet: bytes | bytearray) -> tuple[int, int] | None:
    """Source and target address of a whole IPv4 packet; ``None`` for anything else."""
    if len(packet) < _HEADER or packet[0] >> 4 != 4:
        return None
    if int.from_bytes(packet[2:4], "big") != len(packet) or (packet[0] & 15) * 4 < _HEADER:
        return None
    source, target = struct.unpack_from(">II", packet, 12)
    return source, target


def flow_of(packet: bytes | bytearray) -> Flow | None:
    """The flow of a packet with ports; ``None`` for other protocols, fragments, ICMP errors and what is damaged."""
    ends = addresses(packet)
    if ends is None or packet[9] not in _LEAST or int.from_bytes(packet[6:8], "big") & _FRAGMENT:
        return None
    protocol, offset = Protocol(packet[9]), (packet[0] & 15) * 4
    if len(packet) < offset + _LEAST[protocol]:
        return None
    if protocol is Protocol.ICMP:
        if packet[offset] not in (_ECHO_REQUEST, _ECHO_REPLY):
            return None
        (identifier,) = struct.unpack_from(">H", packet, offset + 4)
        return Flow(protocol, (ends[0], identifier), (ends[1], identifier), False, offset)
    source, target = struct.unpack_from(">HH", packet, offset)
    closing = protocol is Protocol.TCP and bool(packet[offset + 13] & (_FIN | _RST))
    return Flow(protocol, (ends[0], source), (ends[1], target), closing, offset)


def with_source(packet: bytes | bytearray, flow: Flow, source: Endpoint) -> bytes:
    """The same packet from somebody else. ``flow`` is that of ``packet``."""
    return _rewritten(packet, flow, 12, 4 if flow.protocol is Protocol.ICMP else 0, flow.source, source)


def with_target(packet: bytes | bytearray, flow: Flow, target: Endpoint) -> bytes:
    """The same packet to somebody else. ``flow`` is that of ``packet``."""
    return _rewritten(packet, flow, 16, 4 if flow.protocol is Protocol.ICMP else 2, flow.target, target)


def _rewritten(packet: bytes | bytearray, flow: Flow, at: int, port_at: int, old: Endpoint, new: Endpoint) -> bytes:
    changed = bytearray(packet)
    struct.pack_into(">I", changed, at, new[0])
    struct.pack_into(">H", changed, flow.offset + port_at, new[1])
    old_address, new_address = struct.pack(">I", old[0]), struct.pack(">I", new[0])
    old_port, new_port = struct.pack(">H", old[1]), struct.pack(">H", new[1])
    _update(changed, 10, old_address, new_address)
    checksum_at = flow.offset + _CHECKSUM_AT[flow.protocol]
    if flow.protocol is Protocol.UDP and not any(changed[checksum_at : checksum_at + 2]):
        return bytes(changed)  # its sender computed none (RFC 768)
    if flow.protocol is Protocol.ICMP:
        _update(changed, checksum_at, old_port, new_port)  # no pseudo-header: the address is not in it
    else:
        _update(changed, checksum_at, old_address + old_port, new_address + new_port)
        if flow.protocol is Protocol.UDP and not any(changed[checksum_at : checksum_at + 2]):
            changed[checksum_at : checksum_at + 2] = b"\xff\xff"  # zero would say that there is none
    return bytes(changed)


def _update(packet: bytearray, at: int, old: bytes, new: bytes) -> None:
    """HC' = ~(~HC + ~m + m') (RFC 1624 eqn. 3), over as many 16-bit words as changed."""
    total = ~int.from_bytes(packet[at : at + 2], "big") & 0xFFFF
    for index in range(0, len(old), 2):
        total += (~int.from_bytes(old[index : index + 2], "big") & 0xFFFF) + int.from_bytes(
            new[index : index + 2], "big"
        )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    packet[at : at + 2] = (~total & 0xFFFF).to_bytes(2, "big")
