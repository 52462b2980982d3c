"""P16, P17: identify in our nursery, and within bounds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import trio
from libp2p.host import basic_host
from libp2p.host.basic_host import BasicHost, _IdentifyNotifee
from libp2p.identity.identify_push import identify_push
from libp2p.peer.id import ID
from libp2p.utils.varint import read_length_prefixed_protobuf
from multiaddr import Multiaddr

from transport.host.hardening.quiet import log
from transport.host.limits import (
    IDENTIFY_ADDR_TTL_S,
    MAX_ADDR_BYTES,
    MAX_DIAL_ADDRS,
    MAX_IDENTIFY_BYTES,
    MAX_IDENTIFY_PROTOCOLS,
    MAX_PROTOCOL_NAME_BYTES,
    NEGOTIATE_S,
)


def identify_in(host: BasicHost, nursery: trio.Nursery, identified: Callable[[ID], None]) -> None:
    """Run identify in ``nursery``, once a connection, without pushing (P16); tell ``identified`` of its end.

    host/basic_host.py:223 and 1207 start it as trio system tasks: they outlive the host, and what escapes them is a
    ``TrioInternalError`` for the whole program.
    """
    swarm = host.get_network()
    swarm.notifees = [notifee for notifee in swarm.notifees if not isinstance(notifee, _IdentifyNotifee)]
    running: set[ID] = set()

    async def identify(peer: ID) -> None:
        try:
            with trio.move_on_after(2 * NEGOTIATE_S):
                await host._identify_peer(peer, reason="connected")
                identified(peer)
        except Exception as error:
            log.debug("identify of %s failed: %r", peer, error)
        finally:
            running.discard(peer)

    def schedule(peer: ID, *, reason: str) -> None:
        if peer not in running and peer not in host._identified_peers:
            running.add(peer)
            nursery.start_soon(identify, peer)

    host._schedule_identify = schedule


def listen_addrs(message: Any) -> list[Multiaddr]:
    """What an identify message says that its sender listens on: the first few addresses of sane length."""
    found: list[Multiaddr] = []
    for raw in list(message.listen_addrs)[: 4 * MAX_DIAL_ADDRS]:
        if len(found) < MAX_DIAL_ADDRS and len(raw) <= MAX_ADDR_BYTES:
            try:
                found.append(Multiaddr(str(Multiaddr(raw))))  # from bytes alone it would not be parsed yet
            except Exception as error:
                log.debug("an address in identify does not parse: %r", error)
    return found


async def _remember(peerstore: Any, peer: ID, message: Any) -> None:
    await trio.lowlevel.checkpoint()
    if addrs := listen_addrs(message):
        peerstore.clear_addrs(peer)
        peerstore.add_addrs(peer, addrs, IDENTIFY_ADDR_TTL_S)
    protocols = [
        name for name in list(message.protocols)[:MAX_IDENTIFY_PROTOCOLS] if len(name) <= MAX_PROTOCOL_NAME_BYTES
    ]
    if protocols:
        peerstore.set_protocols(peer, protocols)


def bound_identify() -> None:
    """Read at most 64 KiB of identify and keep a few addresses and protocols of it (P17).

    Upstream reads 1 MiB (utils/varint.py:285), keeps 1000 addresses and every protocol name of each of a thousand
    peers (identity/update.py:67, 105), and caches the last 1000 addresses as bytes whatever their length
    (update.py:23): identify pushes of one address of a megabyte each fill a gigabyte that is never given back.
    """
    read = partial(read_length_prefixed_protobuf, max_length=MAX_IDENTIFY_BYTES)
    for module in (basic_host, identify_push):
        module.read_length_prefixed_protobuf = read
        module.update_peerstore_from_identify = _remember
