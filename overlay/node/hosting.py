"""The control plane of a node: its libp2p host as the configuration wants it, and a line for what happens on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from overlay.config import Config, NodeSection, RelaySection
from overlay.datadir import DataDir, neighbours
from overlay.errors import ConfigError
from overlay.events import EventLog
from overlay.subnet import Subnet
from transport.host import (
    HostError,
    HostEvent,
    Libp2pHost,
    NatOptions,
    Reach,
    RelayLimits,
    of_any_network,
    of_the_internet,
)
from transport.host.interface import EventKind, Host
from transport.identity import Identity


@asynccontextmanager
async def open_host(
    config: Config,
    data_dir: DataDir,
    identity: Identity,
    subnet: Subnet,
    bootstrap: Sequence[str],
    log: EventLog,
    *,
    listen: bool = True,
) -> AsyncIterator[Libp2pHost]:
    """The control plane of a node or a client. Without bootstrap peers, the nodes of this machine serve, and those that
    it met in earlier runs."""
    peerstore = data_dir.peers_path(subnet.id)
    targets = list(bootstrap) or neighbours(subnet.id)

    def opening(addrs: Sequence[str]) -> AbstractAsyncContextManager[Libp2pHost]:
        announce = config.node.announce if listen else ()
        return Libp2pHost.open(
            identity, addrs, bootstrap=targets, psk=subnet.swarm_key, announce=announce, peerstore=peerstore,
            relay=_relay_limits(config.relay) if listen and config.relay.serve is True else None,
            relays=config.relay.use if listen else (), nat=_nat_options(config, listen),
        )  # fmt: skip

    async with AsyncExitStack() as stack:
        try:
            try:
                host = await stack.enter_async_context(opening(config.node.listen if listen else ()))
            except HostError as error:
                if not listen or config.node.listen != NodeSection().listen or "in use" not in str(error):
                    raise
                # Nobody asked for port 4001: a second node on one machine simply takes another.
                log.warning("port_busy", f"{config.node.listen[0]} is in use; listening on any free port instead")
                host = await stack.enter_async_context(opening(["/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"]))
        except HostError as error:
            raise ConfigError(f"{error} (see node.listen, node.announce, relay.use and --bootstrap)") from error
        yield host


def _relay_limits(section: RelaySection) -> RelayLimits:
    return RelayLimits(
        reservations=section.reservations, circuits=section.circuits, circuit_bytes=section.circuit_bytes,
        circuit_s=float(section.circuit_s), bytes_per_s=section.bytes_per_s,
    )  # fmt: skip


def _nat_options(config: Config, listen: bool) -> NatOptions:
    """What the host does by itself to be reached. Who listens nowhere is reached by nobody, and need not ask."""
    section = config.nat
    return NatOptions(
        probe=section.probe and listen, find_relays=config.relay.find,
        relay=_relay_limits(config.relay) if listen and config.relay.serve == "auto" else None,
        assume=Reach(section.assume or Reach.UNKNOWN),
        outside=of_any_network if section.private_internet else of_the_internet,
    )  # fmt: skip


_REACHABILITY = {
    Reach.PUBLIC.value: "others dial this node directly",
    Reach.PRIVATE.value: (
        "nobody can dial this node, which is behind a router or firewall; others will reach it through relays"
    ),
    Reach.UNKNOWN.value: "it is not known any more whether others can dial this node",
}


async def tell_host_events(host: Host, log: EventLog) -> None:
    """One line for each thing that happens on the control plane."""
    async with host.events() as events:
        async for event in events:
            _tell_host_event(event, log)


def _tell_host_event(event: HostEvent, log: EventLog) -> None:
    peer = event.peer_id or ""
    match event.kind:
        case EventKind.LISTENING:
            pass  # `ready` says it, when the rest is there too
        case EventKind.CONNECTED:
            where = event.addr.partition("/p2p/")[0]
            log.info("peer_connected", f"connected to …{peer[-8:]} at {where}", peer_id=peer, addr=event.addr)
        case EventKind.DISCONNECTED:
            log.info("peer_disconnected", f"…{peer[-8:]} is gone", peer_id=peer)
        case EventKind.UNREACHABLE:
            log.warning("unreachable", f"{event.addr} is not reachable: {event.detail}", peer_id=peer, addr=event.addr)
        case EventKind.REACHABILITY:
            log.info("reachability", _REACHABILITY[event.detail], verdict=event.detail)
        case EventKind.UPGRADED:
            where = event.addr.partition("/p2p/")[0]
            log.info("upgraded", f"…{peer[-8:]} is reached directly now, at {where}", peer_id=peer, addr=event.addr)
        case EventKind.DROPPED:
            log.warning("dropped", f"…{peer[-8:]} broke a protocol and was dropped: {event.detail}", peer_id=peer)
