"""Tunnel addresses: ``/ip4/…/tcp/…``, ``/ip6/…/tcp/…`` and ``/dns4|dns6|dns/…/tcp/…`` (multiaddr, TCP only)."""

from __future__ import annotations

import ipaddress
import re

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}\.?)+\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")


def parse_addr(addr: str) -> tuple[str, int]:
    """Host and port of a tunnel address. Raises ``ValueError`` that says what is wrong with it."""
    if len(addr) > 300:
        raise ValueError("a tunnel address has at most 300 characters")
    parts = addr.split("/")
    if len(parts) != 5 or parts[0] or parts[3] != "tcp":
        raise ValueError(f"{addr!r} is not a tunnel address such as /ip4/192.0.2.1/tcp/4002")
    kind, host, port = parts[1], parts[2], parts[4]
    if not _PORT.match(port) or not 0 < int(port) < 65536:
        raise ValueError(f"{addr!r}: {port!r} is not a port")
    if kind == "ip4":
        return str(ipaddress.IPv4Address(host)), int(port)
    if kind == "ip6":
        return str(ipaddress.IPv6Address(host)), int(port)
    if kind in ("dns", "dns4", "dns6") and _HOST_NAME.match(host):
        return host, int(port)
    raise ValueError(f"{addr!r} names no host that can be reached")


def format_addr(host: str, port: int) -> str:
    """The tunnel address of an IP address and port."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return f"/ip{address.version}/{address}/tcp/{port}"


def budget_key(host: str) -> str:
    """What counts as one address in budgets: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)
