"""Making tunnels: the handshake over a link, for the side that dials and the side that answers."""

from __future__ import annotations

import ipaddress
import socket

import trio

from transport.identity import PeerId
from transport.tunnel.addresses import parse_addr
from transport.tunnel.errors import HandshakeError, ProtocolViolation, TunnelDialError
from transport.tunnel.handshake import HELLO_BYTES, Handshake, HandshakeResult, choose_pattern, parse_hello
from transport.tunnel.keys import TunnelEndpoint
from transport.tunnel.limits import HANDSHAKE_SECONDS
from transport.tunnel.links import SYSTEM_TUNING, WOULD_BLOCK, Link, SocketLink, Tuning
from transport.tunnel.tunnel import Tunnel

_LENGTH_BYTES = 2


async def dial(
    endpoint: TunnelEndpoint,
    addr: str,
    expected_peer: PeerId,
    *,
    static_key: bytes | None = None,
    deadline_s: float = HANDSHAKE_SECONDS,
    tuning: Tuning = SYSTEM_TUNING,
) -> Tunnel:
    """Connect to ``addr`` and authenticate ``expected_peer``; the tunnel works inside ``async with`` (or ``run``).

    ``static_key`` is the peer's tunnel key from its signed record: with it the handshake is IK (IKpsk2 in a private
    subnet, where it is required), without it XX. Raises :class:`TunnelDialError` when there is no connection or no
    answer within ``deadline_s``, :class:`HandshakeError` when the peer is not who it should be or refuses.
    On cancellation the connection is closed.
    """
    try:
        host, port = parse_addr(addr)
    except ValueError as error:
        raise TunnelDialError(str(error)) from error
    try:
        with trio.fail_after(deadline_s):
            try:
                link = await _open_link(host, port, tuning)
            except OSError as error:
                raise TunnelDialError(f"{addr} cannot be reached: {error}") from error
            return await connect(link, endpoint, expected_peer, static_key=static_key)
    except trio.TooSlowError:
        raise TunnelDialError(f"{addr} did not complete a handshake within {deadline_s:g} s") from None


async def _open_link(host: str, port: int, tuning: Tuning) -> SocketLink:
    """Connect a socket: at once to an IP address, by name resolution and happy eyeballs to a name."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        return SocketLink.of_trio(await trio.open_tcp_stream(host, port), tuning)
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        tuning.apply(sock)
        await sock.connect((host, port))
        return SocketLink(socket.socket(fileno=sock.detach()), tuning.spin_seconds)
    except BaseException:
        sock.close()
        raise


async def connect(
    link: Link, endpoint: TunnelEndpoint, expected_peer: PeerId, *, static_key: bytes | None = None
) -> Tunnel:
    """The initiator's handshake over a link that is already there (a relayed stream, for example); see :func:`dial`.

    The caller sets the deadline. The link is closed when this raises or is cancelled.
    """
    try:
        pattern = choose_pattern(endpoint, static_key)
        handshake = Handshake(endpoint, pattern, initiator=True, peer_static=static_key, expected_peer=expected_peer)
        result = await _exchange(link, handshake, handshake.hello)
        tunnel = Tunnel(link, result)
        await tunnel.send_first_record()
    except BaseException as error:
        await link.aclose()
        if isinstance(error, OSError):
            raise HandshakeError(f"the peer closed the connection during the handshake: {error}") from error
        raise
    return tunnel


async def answer(link: Link, endpoint: TunnelEndpoint) -> Tunnel:
    """The responder's handshake over an accepted link, up to the initiator's first record, which proves it is live.

    The caller sets the deadline and closes the link when this raises :class:`HandshakeError` or is cancelled.
    """
    try:
        hello = await _receive(link, HELLO_BYTES)
        pattern = parse_hello(hello, private=endpoint.psk is not None)
        result = await _exchange(link, Handshake(endpoint, pattern, initiator=False), b"")
        tunnel = Tunnel(link, result)
        await tunnel.first_record()
    except OSError as error:
        raise HandshakeError(f"the peer closed the connection during the handshake: {error}") from error
    except ProtocolViolation as error:
        raise HandshakeError(f"the peer's first record: {error}") from error
    return tunnel


async def _exchange(link: Link, handshake: Handshake, prefix: bytes) -> HandshakeResult:
    while handshake.result is None:
        if handshake.reading:
            length = int.from_bytes(await _receive(link, _LENGTH_BYTES), "big")
            if length != handshake.message_length:
                raise HandshakeError("a handshake message of the wrong length")
            handshake.read(await _receive(link, length))
        else:
            message = handshake.write()
            data = memoryview(prefix + len(message).to_bytes(_LENGTH_BYTES, "big") + message)
            prefix = b""
            while data:
                data = data[(link.send_now(data) or await link.send(data)) :]
    return handshake.result


async def _receive(link: Link, size: int) -> bytes:
    """Exactly ``size`` bytes. Raises ``OSError`` when the link ends before."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        got = link.receive_now(view)
        if got == WOULD_BLOCK:
            await link.wait_receivable()
            continue
        if got == 0:
            raise ConnectionResetError("cut off")
        view = view[got:]
    return bytes(buffer)
