"""The faults of py-libp2p 0.8.1 and what is done about each. File and line are upstream's, of that version.

Unpatched, one authenticated peer ends the process with a few bytes, and a host goes deaf after 250 inbound connections.

====  =========================================================  ====================================================
P1    a stream handler's exception ends the host                 :func:`guard_streams`, :class:`ContainedManager`
P2    inbound slots are never released                           :func:`accept_inbound`
P3    cancelling a writer breaks the connection                  :mod:`transport.host.tcp`, :func:`open_muxed_stream`
P4    every dial sleeps 250 ms                                   :func:`dial`
P5    a failed dial bars the peer for 60 s                       :func:`dial`, :func:`forbid_hidden_dials`
P6    the yamux receive window is not enforced                   :func:`enforce_receive_window`
P7    a write stalls at most 5 s on an empty window              kept: a control message that waits longer is lost
P8    inbound streams are unbounded, and block the read loop     :func:`guard_streams`
P9    plaintext and secio are accepted                           :func:`noise_only`
P10   the private network cipher is not the spec's               :mod:`transport.host.pnet`
P11   half-open connections shut others out                      :class:`HalfOpenBudget`
P12   kad-dht                                                    not used: :mod:`dht` is ours
P13   gossipsub heartbeat of 120 s, 10 messages/s                :mod:`transport.host.gossip`
P14   IPv6 peers have no address                                 :mod:`transport.host.tcp`
P15   reads give up after 100 pieces                             :mod:`transport.host.tcp`
P13a  more than 32 frames queued for a neighbour are lost        :func:`widen_gossip_queues`
P13b  each gossip frame is signed and verified as such       :func:`skip_sender_records`
P16   listeners and identify run as trio system tasks            :mod:`transport.host.tcp`, :func:`identify_in`
====  =========================================================  ====================================================
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from libp2p.crypto.ed25519 import Ed25519PrivateKey
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519_key_pair
from libp2p.host.basic_host import BasicHost, _IdentifyNotifee
from libp2p.network.connection import swarm_connection
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.pubsub import gossipsub, pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux import yamux
from libp2p.tools.anyio_service.trio_manager import TrioManager
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr

from transport.host.limits import (
    GOSSIP_QUEUE,
    INBOUND_HANDSHAKE_S,
    MAX_HALF_OPEN,
    MAX_HALF_OPEN_PER_ADDRESS,
    MAX_INBOUND_STREAMS,
    NEGOTIATE_S,
    STREAM_WINDOW_BYTES,
)

log = logging.getLogger("cocoon.host")


# --- P1: nothing that a peer sends may end the host ---------------------------------------------------------------


class ContainedManager(TrioManager):  # type: ignore[misc]  # libp2p ships no types
    """Runs a libp2p service so that the failure of one of its tasks stays the failure of that task.

    tools/anyio_service/trio_manager.py:375 cancels the whole service, hence the host, when any task raises: a gossip
    message whose key does not parse is enough (pubsub/validators.py:62 through pubsub/pubsub.py:586). It also refuses
    to start tasks once a task has had too many children, and searches all tasks for each start (trio_manager.py:300).
    """

    def run_task(
        self, async_fn: Any, *args: Any, daemon: bool = False, name: str | None = None, _internal: bool = False
    ) -> None:
        """Start a task in the service's nursery; a daemon that fails starts again after a second."""
        if self._task_nursery is None:
            raise RuntimeError("the service does not run")
        self._task_nursery.start_soon(self._contain, async_fn, args, daemon, name=name or str(async_fn))

    async def _contain(self, async_fn: Any, args: tuple[Any, ...], daemon: bool) -> None:
        while True:
            try:
                await async_fn(*args)
            except Exception as error:
                log.debug("a libp2p task failed: %s: %r", async_fn, error)
            if not daemon or self.is_cancelled:
                return
            await trio.sleep(1.0)


def guard_streams(swarm: Swarm) -> None:
    """Reset the stream, and nothing else, when its handler fails (P1); refuse a connection's 65th stream (P8).

    host/basic_host.py:1554 lets everything but ``MultiselectError`` out of the handler, and
    network/connection/swarm_connection.py:309 passes it on to the host's nursery. A protocol name that is not UTF-8
    (protocol_muxer/multiselect_communicator.py:58) or a malformed gossip frame (pubsub/pubsub.py:562) suffices.
    The muxer's queue of ten unaccepted streams is awaited in its read loop (stream_muxer/yamux/yamux.py:685, 1383),
    so streams are taken from it at once and the surplus is reset.
    """
    inner = swarm.common_stream_handler
    open_streams: Counter[int] = Counter()

    async def guarded(stream: Any) -> None:
        connection = id(stream.muxed_conn)
        open_streams[connection] += 1
        try:
            if open_streams[connection] > MAX_INBOUND_STREAMS:
                await stream.reset()
                return
            await inner(stream)
        except Exception as error:
            log.debug("a stream of %s was reset: %r", stream.muxed_conn.peer_id, error)
            with trio.move_on_after(NEGOTIATE_S):
                await stream.reset()
        finally:
            open_streams[connection] -= 1
            if not open_streams[connection]:
                del open_streams[connection]

    swarm.set_stream_handler(guarded)


# --- P2, P11: admission -------------------------------------------------------------------------------------------


class HalfOpenBudget:
    """How many unauthenticated connections there may be, in all and from one address (P11).

    Upstream counts them among the connections, so 250 silent sockets from one machine shut everybody out until they
    time out (network/swarm.py:1982).
    """

    def __init__(self, total: int = MAX_HALF_OPEN, per_address: int = MAX_HALF_OPEN_PER_ADDRESS) -> None:
        self._total = total
        self._per_address = per_address
        self._by_address: Counter[str] = Counter()

    def admit(self, address: str) -> bool:
        """Take a place for ``address``; False when there is none. Give it back with :meth:`release`."""
        if self._by_address.total() >= self._total or self._by_address[address] >= self._per_address:
            return False
        self._by_address[address] += 1
        return True

    def release(self, address: str) -> None:
        """Give a place back."""
        self._by_address[address] -= 1
        if self._by_address[address] <= 0:
            del self._by_address[address]


def accept_inbound(swarm: Swarm, budget: HalfOpenBudget) -> Callable[[Any], Awaitable[None]]:
    """The handler of accepted sockets: authenticate within the budget and a deadline, then be done (P2, P11).

    Upstream's handler keeps its task and its slot until the host stops (network/swarm.py:2044 and 2060, limiter at
    1982), so a host accepts 250 connections in its life. Established connections are bounded by ``max_connections``
    in ``Swarm.add_conn``, which counts the living.
    """

    async def accept(stream: Any) -> None:
        remote = stream.get_remote_address()
        address = remote[0] if remote else "?"
        if not budget.admit(address):
            stream.abort()
            return
        try:
            with trio.fail_after(INBOUND_HANDSHAKE_S):
                await swarm.upgrade_inbound_raw_conn(RawConnection(stream, False), None)
        except Exception as error:
            log.debug("an inbound connection from %s failed: %r", address, error)
            stream.abort()
        except BaseException:
            stream.abort()
            raise
        finally:
            budget.release(address)

    return accept


# --- P4, P5: dialling ---------------------------------------------------------------------------------------------


async def dial(swarm: Swarm, addr: Multiaddr, peer: ID) -> Any:
    """One attempt at one address: no pause, no hidden retry, no memory of failures (P4, P5).

    ``Swarm.dial_peer`` waits out the happy-eyeballs delay even after success (network/swarm.py:936), tries at most
    two addresses of a peer, never a loopback address beside a public one (818), and refuses a peer for 60 s after a
    failure (114). Back-off is the caller's, where it can be seen.
    """
    try:
        raw = await swarm.transport_manager.transport_for_dialing(addr).dial(addr)
    except OpenConnectionError as error:
        raise SwarmException(str(error)) from error
    try:
        return await swarm.upgrade_outbound_raw_conn(raw, peer)
    except BaseException:
        raw.stream.abort()
        raise


def forbid_hidden_dials(swarm: Swarm) -> None:
    """Dials happen in :func:`dial` alone; gossipsub and identify may only use connections that exist (P4, P5).

    The auto-connector would dial whoever the peer store names, which strangers fill, up to half of the high watermark
    and whatever the low one says (network/auto_connector.py).
    """

    async def refuse(peer: ID) -> Any:
        raise SwarmException(f"not connected to {peer}")

    async def no_background_task(_nursery: trio.Nursery) -> None:
        await trio.lowlevel.checkpoint()

    swarm.dial_peer = refuse
    swarm.auto_connector.run_background_task = no_background_task
    swarm._schedule_auto_connect = lambda: None


# --- P3: opening streams ------------------------------------------------------------------------------------------


async def open_muxed_stream(connection: Any) -> Any:
    """Open a stream; cancellation waits until the muxer's books are straight (P3, P8).

    ``Yamux.open_stream`` cancelled between taking a slot and sending its SYN keeps the slot for good
    (stream_muxer/yamux/yamux.py:872-915 cleans up after ``Exception`` only); after 256 of them it blocks for ever.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    with trio.CancelScope(shield=True), trio.fail_after(NEGOTIATE_S):
        return await connection.new_stream()


# --- P6: flow control ---------------------------------------------------------------------------------------------


class WindowOverrun(trio.TooSlowError):
    """A peer sent more than it was allowed. Derived from the one error on which yamux.py:1588 closes the connection."""


class _BoundedBuffer(bytearray):
    def extend(self, data: Any) -> None:
        if len(self) + len(data) > STREAM_WINDOW_BYTES:
            raise WindowOverrun(f"a stream overran its window of {STREAM_WINDOW_BYTES} bytes")
        super().extend(data)


class _StreamBuffers(dict[int, bytearray]):
    def __setitem__(self, stream_id: int, buffer: bytearray) -> None:
        super().__setitem__(stream_id, _BoundedBuffer(buffer))


async def _return_credit(self: Any, *, bytes_read: int = 0) -> None:
    buffered = len(self.conn.stream_buffers.get(self.stream_id, b""))
    credit = STREAM_WINDOW_BYTES - (self.recv_window + buffered)
    if 2 * credit >= STREAM_WINDOW_BYTES:
        self.recv_window += credit
        await self.send_window_update(credit)


def enforce_receive_window() -> None:
    """Close the connection of a peer that overruns a stream's window; return credit in halves of it (P6).

    stream_muxer/yamux/yamux.py:1313, 1431 and 1544 log the overrun, set the window to zero and buffer the data: 150 MiB
    were taken from one stream. Upstream also answers each one-byte read of a length prefix with a window update of
    its own (yamux.py:395), half of a gossiping node's CPU time, and lets the window grow to 16 MiB. Credit now follows
    the yamux spec's "Flow control" with a fixed window; the buffer never holds more than was granted.
    """
    if getattr(yamux.Yamux, "_cocoon_window", False):
        return
    construct = yamux.Yamux.__init__

    def bounded(self: Any, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        self.stream_buffers = _StreamBuffers()

    yamux.Yamux.__init__ = bounded
    yamux.YamuxStream._auto_tune_and_send_window_update = _return_credit
    yamux.MAX_WINDOW_SIZE = STREAM_WINDOW_BYTES
    yamux.Yamux._cocoon_window = True


# --- P9: one security protocol ------------------------------------------------------------------------------------


def libp2p_keys(seed: bytes) -> KeyPair:
    """The libp2p key pair of a 32-byte Ed25519 seed."""
    private = Ed25519PrivateKey.from_bytes(seed)
    return KeyPair(private, private.get_public_key())


def noise_only(keys: KeyPair) -> dict[Any, Any]:
    """The security protocols that we speak: Noise. Upstream's default adds plaintext and secio (__init__.py:661)."""
    return {NOISE_ID: NoiseTransport(keys, noise_privkey=new_x25519_key_pair().private_key)}


# --- P13a: bursts of gossip ---------------------------------------------------------------------------------------


def widen_gossip_queues() -> None:
    """Let a burst of gossip wait for its neighbour. pubsub/rpc_queue.py:39 holds 32 frames and rejects the
    rest, which then travel a heartbeat or more later, by IHAVE and IWANT, or not at all."""
    pubsub.RpcQueue = partial(RpcQueue, GOSSIP_QUEUE)


def skip_sender_records() -> None:
    """Verify a gossip frame's messages, not its sender, whom Noise has authenticated already.

    py-libp2p adds a signed record of the sender's addresses to every frame, outside of the gossipsub specification, and
    verifies it on each (pubsub/pubsub.py:565, gossipsub.py:932): ten signatures for every one of a message.
    """

    def ignore(_rpc: Any, _host: Any, _peer: ID) -> bool:
        return True

    pubsub.maybe_consume_signed_record = ignore
    gossipsub.maybe_consume_signed_record = ignore


# --- P16: system tasks --------------------------------------------------------------------------------------------


def identify_in(host: BasicHost, nursery: trio.Nursery) -> None:
    """Run identify in ``nursery``, once a connection, without pushing (P16).

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
        except Exception as error:
            log.debug("identify of %s failed: %r", peer, error)
        finally:
            running.discard(peer)

    def schedule(peer: ID, *, reason: str) -> None:
        if peer not in running and peer not in host._identified_peers:
            running.add(peer)
            nursery.start_soon(identify, peer)

    host._schedule_identify = schedule


# --- noise in the other sense -------------------------------------------------------------------------------------


def quiet_libp2p() -> None:
    """Keep libp2p's logging off the terminal; whoever wants it adds a handler to the logger ``libp2p``.

    network/connection/swarm_connection.py calls ``logging.debug`` on the module, which installs a handler on the root
    logger; the rest prints warnings and tracebacks through Python's handler of last resort.
    """
    swarm_connection.logging = logging.getLogger("libp2p.network.connection")
    logger = logging.getLogger("libp2p")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    logger.propagate = False
    if not log.handlers:
        log.addHandler(logging.NullHandler())
