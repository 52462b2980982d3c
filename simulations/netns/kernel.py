"""What the kernel does for a swarm, through pyroute2: namespaces, links, a bridge, rates, and netem if it has it.

All of it blocks for milliseconds: it is called from worker threads, or before and after the swarm runs.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, netns
from pyroute2.netlink.exceptions import NetlinkError

from overlay.errors import ConfigError
from simulations.netns.limits import MTU, NETEM_LIMIT_PACKETS, QUEUE_MIN_BYTES, QUEUE_S, TBF_BURST_S
from simulations.netns.shape import Shape
from simulations.netns.tun import DEVICE, open_tun

NAMESPACES = Path("/run/netns")
"""Where named namespaces are mounted, as `ip netns` does it."""

INSIDE = "eth0"
"""The name of every machine's interface in its namespace."""

_NOBODY = "02:00:00:00:00:01"
"""A hardware address that no interface has: what is sent there reaches nobody."""

_NUD_PERMANENT = 0x80
_HANDLE = 0x10000
_SCOPE_LINK = 253


def namespace_path(name: str) -> Path:
    """What `setns` opens."""
    return NAMESPACES / name


def may_make_networks() -> None:
    """Raises :class:`~overlay.errors.ConfigError` when this user may not, or this kernel cannot."""
    if os.geteuid() != 0:
        raise ConfigError(
            "--netns makes network namespaces and links, which needs root: run it with sudo, or leave --netns out"
        )


def routes() -> list[IPv4Network]:
    """Where this machine routes to, the default route left out."""
    with IPRoute() as ip:
        found = []
        for route in ip.get_routes(family=2):
            target = route.get_attr("RTA_DST")
            if target is not None and route["dst_len"]:
                found.append(IPv4Network((target, route["dst_len"]), strict=False))
        return found


def make_namespace(name: str) -> None:
    """Raises :class:`~overlay.errors.ConfigError` where it cannot be made."""
    with explained("network namespaces"):
        netns.create(name)
        if not namespace_path(name).exists():
            raise OSError(errno.EPERM, f"{namespace_path(name)} was not made")
        with IPRoute(netns=name) as inside:
            inside.link("set", index=_index(inside, "lo"), state="up")


def remove_namespace(name: str) -> None:
    """With all that is in it; nothing when it is gone already."""
    try:
        netns.remove(name)
    except FileNotFoundError:
        return


def remove_link(name: str) -> None:
    """Nothing when it is gone already."""
    with IPRoute() as ip:
        for index in ip.link_lookup(ifname=name):
            try:
                ip.link("del", index=index)
            except NetlinkError as error:
                if error.code != errno.ENODEV:
                    raise


def link_names() -> list[str]:
    """The interfaces of this namespace."""
    with IPRoute() as ip:
        return [str(link.get_attr("IFLA_IFNAME")) for link in ip.get_links()]


def add_bridge(name: str, address: IPv4Address, prefix: int) -> None:
    """A bridge with an address of the host's, and up."""
    with explained("bridges"), IPRoute() as ip:
        ip.link("add", ifname=name, kind="bridge")
        _bring_up(ip, name, address, prefix)


def add_veth(namespace: str, outside: str, bridge: str, address: IPv4Address, prefix: int) -> None:
    """A pair of interfaces: one in the namespace, with the address; the other on the bridge."""
    with explained("veth pairs"), IPRoute() as ip, IPRoute(netns=namespace) as inside:
        ip.link("add", ifname=outside, kind="veth", peer={"ifname": INSIDE, "net_ns_fd": namespace})
        ip.link("set", index=_index(ip, outside), master=_index(ip, bridge), state="up")
        _bring_up(inside, INSIDE, address, prefix)


def move_tun(name: str, namespace: str, address: IPv4Address) -> None:
    """Give the TUN interface ``name`` of this namespace to ``namespace``, as its only way out."""
    with explained("TUN devices"), IPRoute() as ip, IPRoute(netns=namespace) as inside:
        ip.link("set", index=_index(ip, name), net_ns_fd=namespace)
        inside.link("set", index=_index(inside, name), ifname=INSIDE)
        _bring_up(inside, INSIDE, address, 32)
        inside.route("add", family=socket.AF_INET, dst="default", oif=_index(inside, INSIDE), scope=_SCOPE_LINK)


def bring_up_tun(name: str, address: IPv4Address, prefix: int) -> None:
    """The host's own TUN interface."""
    with explained("TUN devices"), IPRoute() as ip:
        _bring_up(ip, name, address, prefix)


def has_tun() -> bool:
    """Whether there is a device to open."""
    return Path(DEVICE).exists()


def has_netem(namespace: str) -> bool:
    """Whether the kernel has it, tried on the loopback interface of an empty namespace of ours."""
    with IPRoute(netns=namespace) as inside:
        index = _index(inside, "lo")
        try:
            inside.tc("add", "netem", index, handle=_HANDLE, delay=1000)
        except NetlinkError:
            return False
        inside.tc("del", index=index, root=True)
        return True


def shape_link(namespace: str | None, link: str, shape: Shape) -> None:
    """Let the kernel do ``shape`` to what leaves by ``link``: netem for delay, jitter and loss, tbf for rate."""
    with explained("netem and tbf"), _inside(namespace) as ip:
        index = _index(ip, link)
        parent: dict[str, int] = {}
        if not shape.only_rate:
            ip.tc("add", "netem", index, handle=_HANDLE, **netem_parameters(shape))
            parent = {"parent": _HANDLE + 1}
        if shape.rate_bit_s is not None:
            ip.tc("add", "tbf", index, handle=_HANDLE << 1, **parent, **tbf_parameters(shape.rate_bit_s))


def netem_parameters(shape: Shape) -> dict[str, Any]:
    """As pyroute2 takes them: microseconds, per cent."""
    return {
        "delay": round(shape.delay_s * 1e6),
        "jitter": round(shape.jitter_s * 1e6),
        "loss": shape.loss * 100,
        "limit": NETEM_LIMIT_PACKETS,
    }


def tbf_parameters(rate_bit_s: int) -> dict[str, Any]:
    """As pyroute2 takes them: bytes a second, bytes, microseconds."""
    byte_s = rate_bit_s / 8
    burst = max(2 * MTU, round(byte_s * TBF_BURST_S))
    latency_s = max(QUEUE_S, QUEUE_MIN_BYTES / byte_s)
    return {"rate": round(byte_s), "burst": burst, "latency": round(latency_s * 1e6)}


def unreach(namespace: str | None, link: str, addresses: list[IPv4Address]) -> None:
    """Let packets to these addresses reach nobody, silently, as behind a broken path."""
    with _inside(namespace) as ip:
        index = _index(ip, link)
        for address in addresses:
            ip.neigh("replace", dst=str(address), lladdr=_NOBODY, ifindex=index, state=_NUD_PERMANENT)


def reach_again(namespace: str | None, link: str, addresses: list[IPv4Address]) -> None:
    """Undo :func:`unreach`."""
    with _inside(namespace) as ip:
        index = _index(ip, link)
        for address in addresses:
            try:
                ip.neigh("del", dst=str(address), ifindex=index)
            except NetlinkError as error:
                if error.code != errno.ENOENT:
                    raise


def _inside(namespace: str | None) -> IPRoute:
    return IPRoute() if namespace is None else IPRoute(netns=namespace)


def _index(ip: IPRoute, name: str) -> int:
    found = ip.link_lookup(ifname=name)
    if not found:
        raise OSError(errno.ENODEV, f"there is no interface {name}")
    return int(found[0])


def _bring_up(ip: IPRoute, name: str, address: IPv4Address, prefix: int) -> None:
    index = _index(ip, name)
    ip.link("set", index=index, state="up", mtu=MTU)
    ip.addr("add", index=index, address=str(address), prefixlen=prefix)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn a refusal of the kernel's into a :class:`~overlay.errors.ConfigError` that names what it refused."""
    try:
        yield
    except (NetlinkError, OSError) as error:
        code = error.code if isinstance(error, NetlinkError) else error.errno
        raise ConfigError(
            f"this machine does not let us make {what} ({os.strerror(code or errno.EIO)}), which --netns needs: its "
            "kernel lacks them, or root here is without CAP_NET_ADMIN and CAP_SYS_ADMIN (as in most containers). "
            "`cocoon swarm up` without --netns needs neither"
        ) from error


__all__ = [
    "DEVICE", "INSIDE", "NAMESPACES", "add_bridge", "add_veth", "bring_up_tun", "explained", "has_netem", "has_tun",
    "link_names", "make_namespace", "may_make_networks", "move_tun", "namespace_path", "netem_parameters", "open_tun",
    "reach_again", "remove_link", "remove_namespace", "routes", "shape_link", "tbf_parameters", "unreach",
]  # fmt: skip
