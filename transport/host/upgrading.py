"""From a raw connection to an authenticated, multiplexed one; for those we dial, without waiting for an echo.

Upstream's dialler waits for four echoes of multistream-select: its own name and ``/noise`` before the Noise handshake,
its name and ``/yamux/1.0.0`` after it. All of them can be read later, since we speak one protocol of each kind::

    dialler                                     listener
    multistream, /noise, Noise message 1   ──▶
                                           ◀──  multistream, /noise, Noise message 2    the peer is authenticated
    Noise message 3, multistream, /yamux,
    and the first streams                  ──▶
                                           ◀──  multistream, /yamux, and their answers

A connection is usable after two round trips, TCP's own among them, and the first request is answered after three. As in
TLS 1.3 the dialler does not know by then whether the listener wants it; a listener that does not closes the connection.
"""

from __future__ import annotations

from typing import Any

import trio
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.transport.exceptions import SecurityUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader

from transport.host.hardening.quiet import log
from transport.host.limits import MAX_PROTOCOL_NAME_BYTES, NEGOTIATE_S
from transport.host.negotiation import Answers, Refusal, proposal


async def read_answers(connection: Any, answers: Answers) -> None:
    """Read the answers to a proposal from a connection whose ``read(n)`` gives ``n`` bytes, and no byte more than them.
    Raises :class:`Refusal`."""
    while not answers.complete:
        first, second = (await connection.read(1))[0], 0
        if first > 0x7F:
            second = (await connection.read(1))[0]
        length = first & 0x7F | second << 7
        if not 0 < length <= MAX_PROTOCOL_NAME_BYTES:
            raise Refusal(f"answered the proposal of {answers.protocol} with garbage")
        answers.take(await connection.read(length))


class _ProposedConnection(RawConnection):  # type: ignore[misc]  # libp2p ships no types
    """A raw connection on which a security protocol was proposed: the answers come before all else that is read."""

    def __init__(self, raw: Any, protocol: str) -> None:
        super().__init__(raw.stream, True, raw.get_connection_type(), raw.get_transport_addresses())
        self._answers = Answers(protocol)

    async def read(self, n: int | None = None) -> bytes:
        if not self._answers.complete:
            await read_answers(super(), self._answers)
        return bytes(await super().read(n))


class _ProposedYamux(Yamux):  # type: ignore[misc]  # upstream is untyped
    """The dialler's muxer: it writes at once, and takes the answers to its proposal before the first frame."""

    async def handle_incoming(self) -> None:
        try:
            with trio.fail_after(NEGOTIATE_S):
                await read_answers(self.secured_conn, Answers(YAMUX_ID))
        except Exception as error:
            log.debug("%s did not agree to %s: %r", self.peer_id, YAMUX_ID, error)
            await self._cleanup_on_error()
            return
        await super().handle_incoming()


class EagerUpgrader(TransportUpgrader):  # type: ignore[misc]  # upstream is untyped
    """Upgrades with one security protocol, given by its name, and yamux. As a listener it waits, as listeners do."""

    def __init__(self, security: dict[Any, Any], negotiate_timeout_s: float) -> None:
        super().__init__(security, {YAMUX_ID: Yamux}, int(negotiate_timeout_s))
        self._noise = security[NOISE_ID]

    async def upgrade_security(self, raw_conn: Any, is_initiator: bool, peer_id: ID | None = None) -> Any:
        """The authenticated connection to ``peer_id``. Raises ``SecurityUpgradeFailure``."""
        if not is_initiator:
            return await super().upgrade_security(raw_conn, False)
        assert peer_id is not None, "we dial peers, not addresses"
        await raw_conn.write(proposal(NOISE_ID))
        try:
            secured = await self._noise.secure_outbound(_ProposedConnection(raw_conn, NOISE_ID), peer_id)
        except Refusal as refusal:
            raise SecurityUpgradeFailure(f"the peer {refusal}") from None
        except HandshakeFailure as error:
            raise SecurityUpgradeFailure("the Noise handshake failed") from error
        assert secured.get_remote_peer() == peer_id, "Noise compares them (security/noise/patterns.py)"
        secured.negotiated_security_protocol = str(NOISE_ID)
        return secured

    async def upgrade_connection(self, conn: Any, peer_id: ID) -> Any:
        """The multiplexed connection. A dialled one closes if the listener turns out to speak no yamux."""
        if not conn.is_initiator:
            return await super().upgrade_connection(conn, peer_id)
        await conn.write(proposal(YAMUX_ID))
        muxed = _ProposedYamux(conn, peer_id, is_initiator=True)
        return self.muxer_multistream._annotate_connection(muxed, conn, YAMUX_ID)
