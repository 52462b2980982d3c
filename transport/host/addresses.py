"""Multiaddrs: parsing with errors that a user can act on, wildcards, and why a dial failed."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

import psutil
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from multiaddr import Multiaddr

from transport.host.interface import DialError, HostError
from transport.host.limits import MAX_ADVERTISED_ADDRS
from transport.host.tcp import host_and_port
from transport.identity import PeerId, public_key_of

_WILDCARDS = {"0.0.0.0": socket.AF_INET, "::": socket.AF_INET6}  # noqa: S104  # recognised here, not bound
_FAMILY_NAMES = {socket.AF_INET: "ip4", socket.AF_INET6: "ip6"}


_CIRCUIT = "/p2p-circuit"


def parse_addr(text: str) -> Multiaddr:
    """A TCP multiaddr without its ``/p2p/…`` part, or ``/…/tcp/…/p2p/RELAY/p2p-circuit``, likewise without the peer
    behind the relay. Raises :class:`HostError`."""
    head, circuit, _ = text.partition(_CIRCUIT)
    try:
        addr = Multiaddr(head)
        host_and_port(addr)
        plain, _, relay = str(addr).partition("/p2p/")
        if circuit:
            public_key_of(relay)
            return Multiaddr(f"{plain}/p2p/{relay}{_CIRCUIT}")
    except Exception as error:
        raise HostError(f"{text!r} is not an address like /ip4/192.0.2.1/tcp/4001: {error}") from error
    return Multiaddr(plain)


def dialable(texts: Iterable[str]) -> list[str]:
    """Those of other people's addresses that we can make sense of, without the peer at their end."""
    found = []
    for text in texts:
        try:
            found.append(str(parse_addr(text)))
        except HostError:
            continue
    return found


def plain_ip(addr: Multiaddr) -> str | None:
    """The IP address of ``/ip4|ip6/…/tcp/…[/p2p/…]`` as Python writes it; None for names, circuits and all else."""
    try:
        return None if is_circuit(addr) else str(ip_address(host_and_port(addr)[0]))
    except ValueError:
        return None


def is_circuit(addr: Multiaddr) -> bool:
    """Whether an address leads through a relay."""
    return _CIRCUIT in str(addr)


def circuit_parts(addr: Multiaddr) -> tuple[PeerId, Multiaddr]:
    """The relay in ``/…/tcp/…/p2p/RELAY/p2p-circuit`` and its own address."""
    plain, _, relay = str(addr).partition(_CIRCUIT)[0].partition("/p2p/")
    return PeerId(relay), Multiaddr(plain)


def split_peer(text: str) -> tuple[PeerId, Multiaddr]:
    """The peer id and the TCP address of ``/…/tcp/…/p2p/ID``. Raises :class:`DialError`."""
    try:
        addr = parse_addr(text)
    except HostError as error:
        raise DialError(str(error)) from error
    peer = text.rpartition("/p2p/")[2] if "/p2p/" in text else ""
    try:
        public_key_of(peer)
    except ValueError:
        raise DialError(f"{text!r} does not end in /p2p/ and the peer id of an Ed25519 key") from None
    return PeerId(peer), addr


def expand_wildcard(addr: Multiaddr) -> list[Multiaddr]:
    """``/ip4/0.0.0.0/…`` and ``/ip6/::/…`` as the addresses of our interfaces, public ones first, loopback only if
    there is no other."""
    host, port = host_and_port(addr)
    if (family := _WILDCARDS.get(host)) is None:
        return [addr]
    found = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == family and "%" not in entry.address
    ]
    outside = [address for address in found if not ip_address(address).is_loopback]
    best_first = sorted(outside or found, key=lambda address: (not ip_address(address).is_global, address))
    return [Multiaddr(f"/{_FAMILY_NAMES[family]}/{address}/tcp/{port}") for address in best_first]


def expand_all(addrs: Sequence[Multiaddr]) -> list[Multiaddr]:
    """The same of several. Loopback of one family is left out when another family leads out of this machine: it would
    be of no use to others, and is no choice of the user's."""
    found: list[Multiaddr] = []
    fallback: list[Multiaddr] = []
    for addr in addrs:
        for expanded in expand_wildcard(addr):
            alone = expanded != addr and ip_address(host_and_port(expanded)[0]).is_loopback
            (fallback if alone else found).append(expanded)
    return found or fallback


def best_first(addrs: Iterable[Multiaddr], circuits: Sequence[Multiaddr] = ()) -> list[Multiaddr]:
    """The few addresses that we advertise: public ones before others, else in the order given, then those through
    relays, for at most half of which there is always room."""

    def private(addr: Multiaddr) -> bool:
        host, _ = host_and_port(addr)
        try:
            return not ip_address(host).is_global
        except ValueError:
            return False  # a name, which somebody chose to give

    through = list(circuits)[: MAX_ADVERTISED_ADDRS // 2]
    return sorted(dict.fromkeys(addrs), key=private)[: MAX_ADVERTISED_ADDRS - len(through)] + through


def lacks_family(addr: Multiaddr, error: Exception) -> bool:
    """Whether a wildcard could not be bound because the machine has no addresses of its family."""
    host, _ = host_and_port(addr)
    return (
        host in _WILDCARDS and isinstance(error, OSError) and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
    )


def explain(error: BaseException) -> str:
    """The root of an error in a few words for a user, without libp2p's wrapping."""
    chain: list[BaseException] = [error]
    for link in chain:
        if isinstance(link, BaseExceptionGroup):
            chain.extend(link.exceptions)
        elif link.__cause__ is not None:
            chain.append(link.__cause__)
    if any(isinstance(link, PeerIDMismatchesPubkey) or "ID mismatch" in str(link) for link in chain):
        return "another peer answers there"
    if any(isinstance(link, TimeoutError) or type(link).__name__ == "TooSlowError" for link in chain):
        return "no answer in time"
    for link in reversed(chain):
        if isinstance(link, OSError) and link.errno:
            return os.strerror(link.errno).lower()
    if any("upgrade" in str(link) for link in chain):
        return "the handshake failed (not a libp2p node, or in another private network)"
    return str(chain[-1]) or type(chain[-1]).__name__
