"""A tunnel to a provider, whatever leads there: its TCP addresses first, then a stream of the control plane.

The stream goes over the libp2p connection that the negotiation used, through a relay if that is all there is. It is the
same tunnel, handshake included, at libp2p's speed: enough for prompts and tokens, not for tensors.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from dht import CapacityRecord
from overlay.errors import ProviderGone
from overlay.node.reachability import scope_of
from transport.host import HostError, HostStream
from transport.host.interface import EventKind, Host
from transport.identity import PeerId
from transport.tunnel import HostStreamLink, Tunnel, TunnelEndpoint, TunnelError, TunnelListener, connect, dial

DIAL_S = 5.0
"""For one address: a provider behind a dead one has others."""

UPGRADE_S = 1.0
"""How long a new tunnel waits for a hole to be punched: the negotiation before it has taken longer than the exchange of
that needs, so that it is all but done. In vain, it is the price of a link, once for many jobs."""

_LOOPBACK = "/ip4/127."
_IP4 = "/ip4/"


def tunnel_protocol(subnet_id: str) -> str:
    """The control-plane protocol that carries a tunnel (docs/protocols/tunnel.md §12)."""
    return f"/cocoon/{subnet_id}/tunnel/1.0.0"


def carry_tunnels(host: Host, subnet_id: str, listener: TunnelListener) -> None:
    """Answer tunnels that come over streams of ``host`` as those that come over TCP, with the same limits."""

    async def serve(stream: HostStream) -> None:
        await listener.serve_link(HostStreamLink(stream, relayed=_relayed(host, stream.peer_id)))

    host.set_handler(tunnel_protocol(subnet_id), serve)


async def reach(host: Host, endpoint: TunnelEndpoint, peer: PeerId, record: CapacityRecord) -> tuple[Tunnel, str]:
    """A tunnel to ``peer`` and the address that led to it. Raises :class:`ProviderGone`, which names every attempt.

    On cancellation nothing is left open.
    """
    failures: list[str] = []

    async def attempt(addr: str, way: Callable[[], Awaitable[Tunnel]]) -> tuple[Tunnel, str] | None:
        try:
            return await way(), addr
        except (TunnelError, HostError) as error:
            failures.append(str(error))
        except trio.TooSlowError:
            failures.append(f"{addr} did not complete a handshake within {DIAL_S:g} s")
        return None

    for addr in [*_near(host, peer, record), *_worth_dialling(host, peer, record)]:
        if (found := await attempt(addr, lambda addr=addr: _dial(endpoint, addr, peer, record))) is not None:  # type: ignore[misc]  # mypy infers no type for a lambda with a default
            return found
    if (found := await attempt("the control plane", lambda: _through(host, endpoint, peer, record))) is not None:
        tunnel, _ = found
        return tunnel, next((p.addr for p in host.peers() if p.peer_id == peer), f"/p2p/{peer}")
    raise ProviderGone(f"no tunnel to the provider …{peer[-8:]}: {'; '.join(failures)}")


async def _dial(endpoint: TunnelEndpoint, addr: str, peer: PeerId, record: CapacityRecord) -> Tunnel:
    return await dial(endpoint, addr, peer, static_key=record.noise_key, deadline_s=DIAL_S)


async def _through(host: Host, endpoint: TunnelEndpoint, peer: PeerId, record: CapacityRecord) -> Tunnel:
    protocol = tunnel_protocol(endpoint.subnet)
    with trio.fail_after(DIAL_S):
        stream = await host.open_stream(peer, protocol, addrs=record.host_addrs)
    if _relayed(host, peer):
        # Not kept open meanwhile: whoever answers it would wait for a handshake.
        await stream.reset()
        await _upgraded(host, peer)
        with trio.fail_after(DIAL_S):
            stream = await host.open_stream(peer, protocol, addrs=record.host_addrs)
    with trio.fail_after(DIAL_S):
        link = HostStreamLink(stream, relayed=_relayed(host, peer))
        return await connect(link, endpoint, peer, static_key=record.noise_key)


async def _upgraded(host: Host, peer: PeerId) -> None:
    """Wait a moment for the circuit to ``peer`` to become a direct connection. A tunnel stays where it was opened, and
    one through a relay has its bounds."""
    async with host.events() as events:
        with trio.move_on_after(UPGRADE_S):
            if not _relayed(host, peer):
                return
            async for event in events:
                if event.kind is EventKind.UPGRADED and event.peer_id == peer:
                    return


def _worth_dialling(host: Host, peer: PeerId, record: CapacityRecord) -> Sequence[str]:
    """Where it may answer. Who is behind a router names addresses of his own network, which lead elsewhere from here: a
    dial would wait for its deadline, or meet a machine of ours."""
    if not _relayed(host, peer):
        return record.tunnel_addrs
    return [addr for addr in record.tunnel_addrs if scope_of(addr) in ("outside", "unknown")]


def _relayed(host: Host, peer: PeerId) -> bool:
    ways = [info.relayed for info in host.peers() if info.peer_id == peer]
    return bool(ways) and all(ways)


def _near(host: Host, peer: PeerId, record: CapacityRecord) -> Sequence[str]:
    """Loopback first for a provider that the control plane reaches by loopback: it runs on this machine, and its
    published address may be one that routers do not lead back."""
    loopback = (_LOOPBACK, "/ip6/::1/")
    here = any(p.peer_id == peer and not p.relayed and p.addr.startswith(loopback) for p in host.peers())
    elsewhere = [addr for addr in record.tunnel_addrs if addr.startswith(_IP4) and not addr.startswith(_LOOPBACK)]
    ports = [addr.rpartition("/tcp/")[2] for addr in elsewhere]
    return [f"{_LOOPBACK}0.0.1/tcp/{port}" for port in dict.fromkeys(ports)] if here else []


__all__ = ["carry_tunnels", "reach", "tunnel_protocol"]
