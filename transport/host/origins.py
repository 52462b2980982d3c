"""Where a connection comes from, in the two sizes in which an attacker buys addresses."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address


@dataclass(frozen=True)
class Origin:
    """An address and the network around it, as text for counting.

    ``address`` is an IPv4 address or an IPv6 /64 (what one customer gets, RFC 6177); ``network`` is an IPv4 /24 or an
    IPv6 /48. ``local`` tells of loopback: the owner of the machine is behind it.
    """

    address: str
    network: str
    local: bool = False


_UNKNOWN = Origin("?", "?")


def origin_of(host: str | None) -> Origin:
    """The origin of an IP address; everything that is none counts as one and the same."""
    try:
        ip = ip_address((host or "").partition("%")[0])
    except ValueError:
        return _UNKNOWN
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if isinstance(ip, IPv4Address):
        return Origin(str(ip), f"{IPv4Address(int(ip) >> 8 << 8)}/24", ip.is_loopback)
    if ip.is_loopback:
        return Origin(str(ip), str(ip), True)
    return Origin(f"{IPv6Address(int(ip) >> 64 << 64)}/64", f"{IPv6Address(int(ip) >> 80 << 80)}/48")
