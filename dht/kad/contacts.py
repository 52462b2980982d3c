"""A peer as the Kademlia knows it: its id, its addresses in binary, where it lies, and which networks it is in.

Contacts are immutable and shared: everything that is computed of one is computed once.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from multiaddr import Multiaddr

from dht.kad.keys import key_of, peer_bytes
from dht.kad.limits import MAX_ADDR_BYTES, MAX_ADDRS_BYTES, MAX_PEER_ADDRS
from transport.identity import PeerId

_IP4, _IP6 = 0x04, 0x29  # multiaddr protocol codes
_P2P = b"\xa5\x03"  # protocol code 421 as a varint
_CIRCUIT = "/p2p-circuit"
_CACHED = 16_384


@lru_cache(maxsize=_CACHED)
def addr_from_wire(raw: bytes) -> str | None:
    """A binary multiaddr as text; None if it is malformed, too long or of a protocol that we do not know."""
    if not 0 < len(raw) <= MAX_ADDR_BYTES:
        return None
    try:
        text = str(Multiaddr(raw))
        if Multiaddr(text).to_bytes() != raw:  # the decoder forgives some truncated addresses
            return None
    except Exception:  # the library raises whatever it stumbles over
        return None
    return text


@lru_cache(maxsize=_CACHED)
def addr_to_wire(text: str, peer_id: PeerId) -> bytes | None:
    """A multiaddr in binary, without the ``/p2p/…`` of the peer itself; None if it is malformed or too long."""
    try:
        raw = bytes(Multiaddr(text.removesuffix(f"/p2p/{peer_id}")).to_bytes())
    except Exception:  # the library raises whatever it stumbles over
        return None
    return raw if addr_from_wire(raw) is not None else None


@lru_cache(maxsize=_CACHED)
def networks_of(raw: bytes) -> tuple[bytes, ...]:
    """The networks that a binary multiaddr's public IP address lies in: (/24, /16) or (/48, /32); empty for names,
    private and loopback addresses. Each is a family byte and the leading address bytes."""
    if len(raw) >= 5 and raw[0] == _IP4:
        ip4 = raw[1:5]
        return (b"4" + ip4[:3], b"4" + ip4[:2]) if IPv4Address(ip4).is_global else ()
    if len(raw) >= 17 and raw[0] == _IP6:
        ip6 = raw[1:17]
        return (b"6" + ip6[:6], b"6" + ip6[:4]) if IPv6Address(ip6).is_global else ()
    return ()


def is_narrow(network: bytes) -> bool:
    """Whether a network of :func:`networks_of` is a /24 or /48."""
    return len(network) in (4, 7)


class Contact:
    """A peer and where to reach it. Make one with :func:`contact`."""

    __slots__ = ("_texts", "addrs", "key", "networks", "peer_id", "shares", "wire")

    def __init__(self, peer_id: PeerId, raw: bytes, addrs: tuple[bytes, ...]) -> None:
        self.peer_id = peer_id
        self.addrs = addrs
        """Binary multiaddrs without the peer's own ``/p2p/…``, at most eight."""
        self.key = key_of(raw)
        networks = {network: None for addr in addrs for network in networks_of(addr)}
        self.networks = tuple(networks)
        """Of its claimed addresses. The address of a standing connection counts more (:mod:`dht.kad.routing`)."""
        self.shares = tuple((network, is_narrow(network)) for network in networks)
        """The same, each with whether it is a /24 or /48."""
        self._texts: tuple[str, ...] | None = None
        self.wire = _encode(raw, addrs)
        """The protobuf ``Message.Peer``, without its tag and length."""

    def __repr__(self) -> str:
        return f"Contact({self.peer_id}, {list(self.texts())})"

    def texts(self) -> tuple[str, ...]:
        """Its addresses as multiaddrs that end in ``/p2p/<peer id>``."""
        if self._texts is None:
            plain = [addr_from_wire(addr) for addr in self.addrs]
            self._texts = tuple(f"{text}/p2p/{self.peer_id}" for text in plain if text is not None)
        return self._texts

    def merged(self, other: Contact) -> Contact:
        """With the addresses of ``other`` (the same peer) behind its own."""
        assert other.peer_id == self.peer_id
        return contact(self.peer_id, [*self.addrs, *other.addrs])


def contact(peer_id: PeerId, addrs: Iterable[bytes] = ()) -> Contact:
    """A contact of the first eight well-formed addresses, of 512 bytes together. Raises ``ValueError`` for what is no
    Ed25519 peer id."""
    return contact_from(peer_id, peer_bytes(peer_id), addrs)


@lru_cache(maxsize=_CACHED)
def unaddressed(peer_id: PeerId) -> Contact:
    """A contact of a peer of whom no address is known. Raises ``ValueError`` as :func:`contact` does."""
    return contact(peer_id)


def contact_from(peer_id: PeerId, raw: bytes, addrs: Iterable[bytes]) -> Contact:
    """The same when the id's multihash ``raw`` is at hand: base58 is slow."""
    good: list[bytes] = []
    size = 0
    own = _P2P + bytes([len(raw)]) + raw
    for addr in dict.fromkeys(addr.removesuffix(own) for addr in addrs):  # js-libp2p leaves it on in ADD_PROVIDER
        if len(good) < MAX_PEER_ADDRS and size + len(addr) <= MAX_ADDRS_BYTES and addr_from_wire(addr) is not None:
            good.append(addr)
            size += len(addr)
    return _shared(peer_id, raw, tuple(good))


def contact_of(peer_id: PeerId, texts: Iterable[str]) -> Contact:
    """The same from multiaddrs as text, with or without the peer's own ``/p2p/…``."""
    found = [addr_to_wire(text, peer_id) for text in texts]
    return contact(peer_id, [addr for addr in found if addr is not None])


@lru_cache(maxsize=_CACHED)
def _shared(peer_id: PeerId, raw: bytes, addrs: tuple[bytes, ...]) -> Contact:
    return Contact(peer_id, raw, addrs)


@lru_cache(maxsize=_CACHED)
def seen_networks(addr: str) -> tuple[bytes, ...] | None:
    """The networks of the address that a connection stands on; None when it does not tell (relayed, or no IP)."""
    if _CIRCUIT in addr:
        return None
    plain = addr.partition("/p2p/")[0]
    try:
        raw = bytes(Multiaddr(plain).to_bytes())
    except Exception:  # the library raises whatever it stumbles over
        return None
    return networks_of(raw) if raw[:1] in (bytes([_IP4]), bytes([_IP6])) else None


def _encode(raw: bytes, addrs: tuple[bytes, ...]) -> bytes:
    out = bytearray()
    out += bytes([0x0A, len(raw)]) + raw
    for addr in addrs:
        size = len(addr)
        assert size <= MAX_ADDR_BYTES
        out += b"\x12" + (bytes([size]) if size < 0x80 else bytes([size & 0x7F | 0x80, size >> 7])) + addr
    return bytes(out)
