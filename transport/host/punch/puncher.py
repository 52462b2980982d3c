"""From a circuit to a direct connection: dialling back whoever can be dialled, else both dialling at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import trio
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction
from multiaddr import Multiaddr

from transport.host import hardening
from transport.host.addresses import is_circuit, plain_ip
from transport.host.autonat import DialBackRates
from transport.host.dialler import Dialler
from transport.host.interface import HostError, StreamError
from transport.host.limits import (
    PUNCH_AT_ONCE,
    PUNCH_ATTEMPTS,
    PUNCH_DIAL_S,
    PUNCH_EXCHANGE_S,
    PUNCH_GRACE_S,
    PUNCH_IN_ALL,
    PUNCH_MAX_ADDRS,
    PUNCH_MAX_MESSAGE,
    PUNCH_MAX_ROUND_TRIP_S,
    PUNCH_PER_PEER,
    PUNCH_RETRY_S,
    PUNCH_WINDOW_S,
)
from transport.host.manager import streams_in_use
from transport.host.observed import OpenOn, observed_addr
from transport.host.punch.exchange import DCUTR, SYNC, Initiator, Plan, Responder, usable
from transport.host.streams import Libp2pStream
from transport.host.swarm import is_relayed
from transport.host.tcp import TcpTransport
from transport.identity import PeerId


@dataclass(frozen=True)
class Beacon:
    """A connection that left from the shared port: ``seen`` is where its peer sees that, ``ip`` the peer's own."""

    connection: Any
    seen: Multiaddr
    ip: str


class Puncher:
    """``accept`` authenticates a connection as if it had come in; ``claims(peer)`` is where a peer says it listens;
    ``own()`` are our interfaces' addresses."""

    def __init__(
        self,
        swarm: Any,
        transport: TcpTransport,
        dialler: Dialler,
        open_on: OpenOn,
        accept: Callable[[Any], Awaitable[None]],
        spawn: Callable[..., object],
        claims: Callable[[PeerId], Sequence[str]],
        own: Callable[[], Sequence[Multiaddr]],
        outside: Callable[[str], bool],
    ) -> None:
        self._swarm = swarm
        self._transport = transport
        self._dialler = dialler
        self._open_on = open_on
        self._accept = accept
        self._spawn = spawn
        self._claims = claims
        self._own = own
        self._outside = outside
        self._beacons: dict[str, Beacon] = {}
        self._lighting: trio.Event | None = None
        self._rates = DialBackRates(PUNCH_PER_PEER, PUNCH_IN_ALL, PUNCH_WINDOW_S)
        self._busy: set[PeerId] = set()
        self._awaited: dict[PeerId, trio.Event] = {}
        """Peers being knocked at: set when one is connected directly."""

    # --- where we are seen --------------------------------------------------------------------------------------------

    def beacon_ips(self) -> set[str]:
        """The IP addresses to which a mapping of our listening port is open."""
        return {beacon.ip for beacon in self._beacons.values() if not beacon.connection.is_closed}

    async def light(self, relay: PeerId, addr: Multiaddr) -> None:
        """Have a connection from the shared port to ``relay``, unless there is one to somebody of that family. It
        keeps the router's mapping, and the relay tells what that is. Never raises."""
        ip = plain_ip(addr)
        family = "ip6" if ip is not None and ":" in ip else "ip4"
        known = self._beacons.get(family)
        if (
            self._lighting is not None
            or ip is None
            or not self._outside(ip)
            or (known and not known.connection.is_closed)
        ):
            return
        lit = self._lighting = trio.Event()
        try:
            with trio.fail_after(PUNCH_EXCHANGE_S):
                stream = await self._transport.dial_from_port(addr)
                connection = await hardening.upgrade(self._swarm, stream.raw(True), ID.from_string(relay))
                seen = await observed_addr(self._open_on, connection)
            seen_ip = None if seen is None else plain_ip(seen)
            if seen is not None and seen_ip is not None and self._outside(seen_ip):
                self._beacons[family] = Beacon(connection, seen, ip)
        except Exception as error:
            hardening.log.debug("no connection from the listening port to %s: %r", relay, error)
        finally:
            self._lighting = None
            lit.set()

    async def _light_stands(self) -> None:
        """Wait a moment for :meth:`light`, if it is at it: a circuit may be there before we know how we look."""
        if self._lighting is not None:
            with trio.move_on_after(PUNCH_MAX_ROUND_TRIP_S):
                await self._lighting.wait()

    def seen_at(self) -> list[Multiaddr]:
        """Where others may reach our listening port while we dial them from it."""
        seen = [beacon.seen for beacon in self._beacons.values() if not beacon.connection.is_closed]
        return usable([*seen, *self._own()], self._outside)

    def connected(self, peer: PeerId) -> None:
        """A direct connection to ``peer`` stands."""
        if (awaited := self._awaited.get(peer)) is not None:
            awaited.set()

    # --- upgrading ----------------------------------------------------------------------------------------------------

    async def upgrade(self, peer: PeerId) -> None:
        """``peer`` has come through a relay: try to reach it directly (B's side). Never raises."""
        relayed = self._relayed(peer, Direction.INBOUND)
        if relayed is None or not self._begin(peer):
            return
        try:
            if await self._reverse(peer) or await self._initiate(peer, relayed):
                self._spawn(self._retire, relayed)
        finally:
            self._busy.discard(peer)

    def _begin(self, peer: PeerId) -> bool:
        if peer in self._busy or len(self._busy) >= PUNCH_AT_ONCE or self._dialler.direct(peer) is not None:
            return False
        if not self._rates.take(peer, trio.current_time()):
            return False
        self._busy.add(peer)
        return True

    def _relayed(self, peer: PeerId, direction: Direction) -> Any | None:
        for connection in self._swarm.connections.get(ID.from_string(peer), ()):
            if not connection.is_closed and is_relayed(connection) and connection.direction == direction:
                return connection
        return None

    async def _reverse(self, peer: PeerId) -> bool:
        """Dial it where it says that it listens: who has a public address needs no punching."""
        claimed = [Multiaddr(addr) for addr in self._claims(peer)]
        targets = usable([addr for addr in claimed if not is_circuit(addr)], self._outside)

        async def attempt(addr: Multiaddr) -> None:
            with suppress(Exception):
                await hardening.dial(self._swarm, addr, ID.from_string(peer))
                nursery.cancel_scope.cancel()

        with trio.move_on_after(PUNCH_DIAL_S):
            async with trio.open_nursery() as nursery:
                for addr in targets:
                    nursery.start_soon(attempt, addr)
        return self._dialler.direct(peer) is not None

    async def _initiate(self, peer: PeerId, relayed: Any) -> bool:
        await self._light_stands()
        for _ in range(PUNCH_ATTEMPTS):
            if not (own := self.seen_at()) or relayed.is_closed:
                return False
            try:
                plan = await self._agree(peer, relayed, own)
            except (HostError, trio.TooSlowError) as error:
                hardening.log.debug("no hole is punched to %s: %s", peer, error)
                return False
            await trio.sleep(plan.after_s)
            if await self._dial_all(peer, plan, self._serve_it):
                return True
        return False

    async def _agree(self, peer: PeerId, relayed: Any, own: Sequence[Multiaddr]) -> Plan:
        stream = await self._open_on(relayed, peer, DCUTR)  # one for each attempt, as go and js expect it
        try:
            with trio.fail_after(PUNCH_EXCHANGE_S):
                await stream.wait_opened()  # or the first round trip would be measured too long
                initiator = Initiator(own, self._outside, trio.current_time())
                await stream.send(initiator.first)
                plan = initiator.answered(await stream.receive(PUNCH_MAX_MESSAGE), trio.current_time())
                await stream.send(SYNC)
                return plan
        finally:
            await stream.aclose()

    async def serve(self, stream: Libp2pStream) -> None:
        """DCUtR's handler (A's side): only whom we reached through a relay may ask us to dial."""
        peer = stream.peer_id
        if self._relayed(peer, Direction.OUTBOUND) is None or stream.remote_ip is not None or not self._begin(peer):
            raise StreamError("nobody asked for a hole")
        try:
            await self._light_stands()
            responder = Responder(self.seen_at(), self._outside)
            for _ in range(2 * PUNCH_ATTEMPTS):
                with trio.fail_after(PUNCH_EXCHANGE_S):
                    step = responder.received(await stream.receive(PUNCH_MAX_MESSAGE))
                    if isinstance(step, bytes):
                        await stream.send(step)
                        continue
                if await self._dial_all(peer, step, self._be_its_client):
                    return
        except trio.TooSlowError:
            raise StreamError("the peer fell silent") from None
        finally:
            self._busy.discard(peer)

    async def _dial_all(self, peer: PeerId, plan: Plan, connected: Callable[[PeerId, Any], Awaitable[None]]) -> bool:
        """Knock at all of its addresses until it is connected, by whichever side's dial."""

        async def knock(addr: Multiaddr) -> None:
            while True:
                try:
                    stream = await self._transport.dial_from_port(addr)
                except OSError:
                    await trio.sleep(PUNCH_RETRY_S)  # its router refuses until the peer's own dial opens it
                    continue
                # By a task of the host's: this one is cancelled as soon as the connection is in the books, and libp2p
                # closes it again when it is cut off in telling everybody of it.
                self._spawn(connected, peer, stream)
                return

        with trio.move_on_after(PUNCH_DIAL_S):
            async with trio.open_nursery() as nursery:
                for addr in plan.addrs[:PUNCH_MAX_ADDRS]:
                    nursery.start_soon(knock, addr)
                if self._dialler.direct(peer) is None:
                    await self._awaited.setdefault(peer, trio.Event()).wait()
                nursery.cancel_scope.cancel()
        self._awaited.pop(peer, None)
        return self._dialler.direct(peer) is not None

    async def _serve_it(self, _: PeerId, stream: Any) -> None:
        # Both sides have dialled, and one must be the listener: whoever began the exchange (go- and rust-libp2p).
        await self._accept(stream)

    async def _be_its_client(self, peer: PeerId, stream: Any) -> None:
        with suppress(Exception), trio.move_on_after(PUNCH_DIAL_S):
            await hardening.upgrade(self._swarm, stream.raw(True), ID.from_string(peer))

    async def _retire(self, relayed: Any) -> None:
        """Close the circuit once nobody uses it: others wait for its place."""
        while not relayed.is_closed:
            await trio.sleep(PUNCH_GRACE_S)
            if not streams_in_use(relayed):
                await hardening.close_connection(relayed)


__all__ = ["Beacon", "Puncher"]
