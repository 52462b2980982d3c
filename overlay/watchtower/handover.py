"""The payee's side: hands its highest vouchers to its watchtowers, whenever more than a set sum would be lost with it.

In memory is only what the towers have acknowledged; after a restart everything is handed over again, which changes
nothing at a tower that has it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from overlay.channels import Held
from overlay.errors import ConfigError
from overlay.events import EventLog, ton
from overlay.settlement import Voucher
from overlay.settlement.ledger import LedgerError
from overlay.watchtower.limits import (
    HAND_OVER_BACKOFF_S,
    HAND_OVER_INTERVAL_S,
    MAX_ADDRESSES,
    MAX_MESSAGE_BYTES,
    MESSAGES_PER_STREAM,
    REFUSED_AGAIN_S,
    REPLY_S,
)
from overlay.watchtower.messages import (
    NotWatching,
    Watch,
    Watching,
    decode_message,
    encode_message,
    watchtower_protocol,
)
from transport.host.interface import Host, HostError, HostStream
from transport.identity import Identity, PeerId, public_key_of
from transport.wire import WireError


@dataclass
class Tower:
    """One watchtower, and what it has promised by channel."""

    peer: PeerId
    addr: str
    promised: dict[str, int] = field(default_factory=dict)
    not_before: dict[str, float] = field(default_factory=dict)
    failures: int = 0
    retry_at: float = 0.0


def parse_towers(addrs: Sequence[str]) -> list[Tower]:
    """The towers of a configuration: multiaddrs that end in ``/p2p/<peer id>``.

    Raises :class:`~overlay.errors.ConfigError`."""
    if len(addrs) > MAX_ADDRESSES:
        raise ConfigError(f"watchtower.towers: {MAX_ADDRESSES} towers at most")
    found = []
    for addr in addrs:
        peer = addr.rpartition("/p2p/")[2]
        try:
            public_key_of(peer)
        except ValueError:
            raise ConfigError(
                f"watchtower.towers: {addr!r} is no watchtower's address; `cocoon watchtower run` prints its own, "
                "which ends in /p2p/<peer id>"
            ) from None
        found.append(Tower(PeerId(peer), addr))
    return found


@dataclass
class Handover:
    """See the module's docstring. ``live`` gives the channels that pay us; ``clock`` gives Unix seconds."""

    identity: Identity
    subnet: str
    host: Host
    towers: Sequence[Tower]
    live: Callable[[], Awaitable[Sequence[Held]]]
    log: EventLog
    clock: Callable[[], float]
    hand_over_nanoton: int
    _lock: trio.Lock = field(default_factory=trio.Lock)

    async def run(self) -> None:
        """Hand over what is above :attr:`hand_over_nanoton`, for ever."""
        while True:
            try:
                await self.hand_over(self.hand_over_nanoton)
            except LedgerError as error:
                self.log.warning("ledger", f"cannot read what to hand over: {error}; trying again")
            await trio.sleep(HAND_OVER_INTERVAL_S)

    async def hand_over(self, above_nanoton: int) -> None:
        """Give every tower the vouchers by which more than ``above_nanoton`` would be lost without it. A tower that
        fails is tried again later, and keeps nobody waiting for the others."""
        if not self.towers:
            return
        async with self._lock:
            held = await self.live()
            async with trio.open_nursery() as nursery:
                for tower in self.towers:
                    nursery.start_soon(self._give, tower, held, above_nanoton)

    def uncovered_nanoton(self, held: Held) -> int:
        """What of a channel would be lost, were we gone now: promised, not claimed, and not at every tower."""
        least = min((tower.promised.get(held.record.channel, 0) for tower in self.towers), default=0)
        return max(0, held.sums.promised_nanoton - max(least, held.sums.paid_nanoton))

    def state(self) -> list[dict[str, Any]]:
        """What the towers have, as plain JSON values."""
        return [
            {
                "peer_id": tower.peer, "addr": tower.addr, "reachable": not tower.failures,
                "channels": len(tower.promised), "watched_nanoton": sum(tower.promised.values()),
            }
            for tower in self.towers
        ]  # fmt: skip

    async def _give(self, tower: Tower, held: Sequence[Held], above_nanoton: int) -> None:
        now = self.clock()
        wanted = []
        for each in held:
            channel = each.record.channel
            covered = max(tower.promised.get(channel, 0), each.sums.paid_nanoton)
            if each.sums.promised_nanoton - covered > above_nanoton and now >= tower.not_before.get(channel, 0.0):
                wanted.append(each)
        known = {each.record.channel for each in held}
        for channel in [channel for channel in tower.promised if channel not in known]:
            del tower.promised[channel]
        if not wanted or now < tower.retry_at:
            return
        try:
            await self._send_all(tower, wanted[:MESSAGES_PER_STREAM])
        except (HostError, WireError, trio.TooSlowError) as error:
            if not tower.failures:
                self.log.warning(
                    "tower_unreachable",
                    f"the watchtower …{tower.peer[-8:]} does not take vouchers: {error}; trying again",
                    tower=tower.peer,
                )  # fmt: skip
            tower.retry_at = now + HAND_OVER_BACKOFF_S[min(tower.failures, len(HAND_OVER_BACKOFF_S) - 1)]
            tower.failures += 1
        else:
            tower.failures = 0

    async def _send_all(self, tower: Tower, wanted: Sequence[Held]) -> None:
        with trio.fail_after(REPLY_S):
            stream = await self.host.open_stream(tower.peer, watchtower_protocol(self.subnet), addrs=[tower.addr])
        try:
            for held in wanted:
                with trio.fail_after(REPLY_S):
                    await self._send(tower, stream, held)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(1.0):
                await stream.aclose()

    async def _send(self, tower: Tower, stream: HostStream, held: Held) -> None:
        channel, best = held.record.channel, held.voucher
        assert best is not None
        voucher = Voucher(channel, held.terms.network_id, best.seq, best.amount_nanoton)
        message = Watch(held.terms, voucher, best.signature)
        await stream.send(encode_message(self.identity, tower.peer, message))
        answer = decode_message(await stream.receive(MAX_MESSAGE_BYTES), sender=tower.peer, to=self.identity.peer_id)
        if isinstance(answer, Watching) and answer.channel == channel and answer.amount_nanoton >= best.amount_nanoton:
            # Never more than we gave: what a tower boasts of beyond that must not keep us from handing it over.
            tower.promised[channel] = best.amount_nanoton
            self.log.info(
                "handed_over", f"…{tower.peer[-8:]} watches over {ton(best.amount_nanoton)} on …{channel[-8:]}",
                tower=tower.peer, channel=channel, amount_nanoton=best.amount_nanoton,
            )  # fmt: skip
            return
        reason = answer.reason if isinstance(answer, NotWatching) else "it answered something else"
        tower.not_before[channel] = self.clock() + REFUSED_AGAIN_S
        self.log.warning(
            "tower_refused", f"the watchtower …{tower.peer[-8:]} does not watch …{channel[-8:]}: {reason}",
            tower=tower.peer, channel=channel, reason=reason,
        )  # fmt: skip
