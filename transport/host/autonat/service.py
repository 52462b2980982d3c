"""Answering AutoNAT: dialling back whoever asks, at no address but the one that he asks from, and not often."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio
from multiaddr import Multiaddr

from transport.host.addresses import plain_ip
from transport.host.autonat.messages import (
    BAD_REQUEST,
    DIAL_ERROR,
    DIAL_REFUSED,
    OK,
    answer,
    read_question,
)
from transport.host.interface import StreamError
from transport.host.limits import (
    AUTONAT_DIAL_S,
    AUTONAT_DIALS_AT_ONCE,
    AUTONAT_DIALS_S,
    AUTONAT_IN_ALL,
    AUTONAT_MAX_ADDRS,
    AUTONAT_MAX_MESSAGE,
    AUTONAT_PER_ADDRESS,
    AUTONAT_WINDOW_S,
    RELAY_CONNECT_S,
)
from transport.host.origins import origin_of
from transport.host.streams import Libp2pStream
from transport.identity import PeerId


class DialBackRates:
    """How many questions are answered, of one address and in all, in a sliding window. Pure."""

    def __init__(
        self, per_address: int = AUTONAT_PER_ADDRESS, in_all: int = AUTONAT_IN_ALL, window_s: float = AUTONAT_WINDOW_S
    ) -> None:
        self._per_address, self._in_all, self._window_s = per_address, in_all, window_s
        self._answered: deque[tuple[float, str]] = deque()

    def take(self, address: str, now: float) -> bool:
        """Whether one more question from ``address`` may be answered; if so, it counts."""
        while self._answered and now - self._answered[0][0] >= self._window_s:
            self._answered.popleft()
        same = sum(1 for _, other in self._answered if other == address)
        if len(self._answered) >= self._in_all or same >= self._per_address:
            return False
        self._answered.append((now, address))
        return True


def dialled_back(addrs: Sequence[Multiaddr], observed: str) -> list[Multiaddr]:
    """Those of ``addrs`` that may be dialled: at the IP address that the asker is seen at, and no other, so that nobody
    has us dial a third party (autonat-v1, "AutoNAT Protocol")."""
    fitting = [addr for addr in addrs if plain_ip(addr) == observed and not str(addr).endswith("/tcp/0")]
    return list(dict.fromkeys(fitting))[:AUTONAT_MAX_ADDRS]


class DialBackService:
    """The AutoNAT protocol's handler. ``outside`` says whether an IP address is one of the network whose reachability
    is in question; ``dial(addr, peer)`` makes a new connection, authenticates the peer and closes it, or raises."""

    def __init__(self, outside: Callable[[str], bool], dial: Callable[[Multiaddr, PeerId], Awaitable[None]]) -> None:
        self._outside = outside
        self._dial = dial
        self._rates = DialBackRates()
        self._busy = 0

    async def serve(self, stream: Libp2pStream) -> None:
        """One question on one stream."""
        with trio.fail_after(RELAY_CONNECT_S):
            data = await stream.receive(AUTONAT_MAX_MESSAGE)
        try:
            peer, addrs = read_question(data)
        except StreamError as error:
            await stream.send(answer(BAD_REQUEST, str(error)))
            return
        await stream.send(await self._answer(stream, peer, addrs))

    async def _answer(self, stream: Libp2pStream, peer: PeerId | None, addrs: Sequence[Multiaddr]) -> bytes:
        if peer != stream.peer_id:
            return answer(BAD_REQUEST, "a peer may ask about itself only")
        observed = stream.remote_ip
        if observed is None:
            return answer(DIAL_REFUSED, "through a relay nobody knows where you are")
        if not self._outside(observed):
            return answer(DIAL_REFUSED, "you are in my own network")
        if not (targets := dialled_back(addrs, observed)):
            return answer(DIAL_REFUSED, "none of these addresses is at the IP address that you ask from")
        if self._busy >= AUTONAT_DIALS_AT_ONCE or not self._rates.take(
            origin_of(observed).address, trio.current_time()
        ):
            return answer(DIAL_REFUSED, "asked too often; try again in a minute")
        self._busy += 1
        try:
            found = await self._reach(targets, stream.peer_id)
        finally:
            self._busy -= 1
        return answer(DIAL_ERROR, "no answer there") if found is None else answer(OK, addr=found)

    async def _reach(self, targets: Sequence[Multiaddr], peer: PeerId) -> Multiaddr | None:
        """The first of ``targets`` behind which ``peer`` answers."""
        found: list[Multiaddr] = []

        async def attempt(addr: Multiaddr, scope: trio.CancelScope) -> None:
            try:
                with trio.fail_after(AUTONAT_DIAL_S):
                    await self._dial(addr, peer)
            except Exception:
                return  # whatever the reason, it is not to be reached there
            found.append(addr)
            scope.cancel()

        with trio.move_on_after(AUTONAT_DIALS_S):
            async with trio.open_nursery() as nursery:
                for addr in targets:
                    nursery.start_soon(partial(attempt, addr, nursery.cancel_scope))
        return found[0] if found else None
