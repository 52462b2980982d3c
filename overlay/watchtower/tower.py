"""The watchtower: takes vouchers from the payees it serves, looks at their channels, and claims for who is not there.

Everything that it promises is on its disk before the promise leaves, and everything that it does is decided by its disk
and by proved chain state: it may be stopped and started again at any time. A claim pays the payee and nobody else,
whoever sends it, so a tower can fail to act and can do nothing worse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from overlay.chain import Chain
from overlay.channels.batch import affordable
from overlay.channels.callers import AskRate, StreamSeats
from overlay.channels.limits import CLAIM_ATTACHED_NANOTON, CLAIM_RESERVE_NANOTON
from overlay.errors import CocoonError
from overlay.events import EventLog, ton
from overlay.settlement import ProofRejected, SettlementError
from overlay.settlement.chain import ChannelRefused, ChannelState, Claim, claim_many
from overlay.watchtower.limits import (
    ALLOWANCE_WINDOW_S,
    KEEP_ENDED_S,
    LOOK_INTERVAL_S,
    LOOKS_AT_ONCE,
    MAX_MESSAGE_BYTES,
    MAX_STREAMS,
    MAX_STREAMS_PER_PEER,
    MESSAGES_PER_STREAM,
    REFUSED_PAUSE_S,
    REQUEST_WINDOW_S,
    REQUESTS_PER_PEER,
    STREAM_IDLE_S,
    TICK_S,
)
from overlay.watchtower.messages import NotWatching, TowerMessage, Watch, Watching, decode_message, encode_message
from overlay.watchtower.rules import TowerPolicy, must_claim, why_not
from overlay.watchtower.store import ClaimMade, TowerBooks, TowerStore, Watched
from transport.host.interface import HostStream, StreamError
from transport.identity import Identity, PeerId
from transport.wire import WireError


@dataclass
class Watchtower:
    """See the module's docstring. ``clock`` gives Unix seconds."""

    identity: Identity
    chain: Chain
    books: TowerBooks
    policy: TowerPolicy
    log: EventLog
    clock: Callable[[], float]
    _seats: StreamSeats = field(default_factory=partial(StreamSeats, MAX_STREAMS, MAX_STREAMS_PER_PEER))
    _requests: AskRate = field(default_factory=partial(AskRate, REQUESTS_PER_PEER, REQUEST_WINDOW_S))
    _next_look: dict[str, float] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)

    # ---- taking vouchers ----

    async def handle(self, stream: HostStream) -> None:
        """Serve one stream of the watchtower protocol. Never raises on what a peer does."""
        peer = stream.peer_id
        with self._seats.taken(peer) as seated:
            if not seated:
                await stream.reset()
                return
            try:
                for _ in range(MESSAGES_PER_STREAM):
                    with trio.fail_after(STREAM_IDLE_S):
                        data = await stream.receive(MAX_MESSAGE_BYTES)
                        if not self._requests.may(peer, self.clock()):
                            raise WireError("too many requests")
                        request = decode_message(data, sender=peer, to=self.identity.peer_id)
                        if not isinstance(request, Watch):
                            raise WireError("not something that a payee says")
                        answer = await self.watch(peer, request)
                        await stream.send(encode_message(self.identity, peer, answer))
            except (StreamError, WireError, trio.TooSlowError):
                await stream.reset()

    async def watch(self, peer: PeerId, request: Watch) -> TowerMessage:
        """Take a voucher, whose signature was verified, into custody, if ``peer`` is served and the channel is one that
        can be claimed. What is answered is on the disk."""
        channel = request.voucher.channel
        try:
            reason = await self._unacceptable(peer, request)
            if reason is not None:
                return NotWatching(channel, reason)
            known = await self.books.run(lambda store: store.get(channel))
            if known is None or request.voucher.amount_nanoton > known.deposit_nanoton:
                reason = await self._adopt(peer, request, new=known is None)
            else:
                await self._store(peer, request, known.deposit_nanoton)
        except SettlementError as error:
            return NotWatching(channel, f"the watchtower cannot read the chain now: {error}")
        except CocoonError as error:
            return NotWatching(channel, str(error))
        if reason is not None:
            return NotWatching(channel, reason)
        stored = await self.books.run(lambda store: store.get(channel))
        assert stored is not None
        until = stored.terms.expiry_s + stored.terms.challenge_period_s
        return Watching(channel, stored.terms.network_id, stored.seq, stored.amount_nanoton, until)

    async def _unacceptable(self, peer: PeerId, request: Watch) -> str | None:
        since = int(self.clock()) - ALLOWANCE_WINDOW_S

        def read(store: TowerStore) -> str | None:
            known = store.get(request.voucher.channel)
            if known is not None:
                if known.peer != peer:
                    return "this channel is watched for another"
                return "this channel has ended" if known.ended_at is not None else None
            use = store.use_of(peer, since=since)
            return why_not(self.policy, peer, request.terms, self.chain.client.network_id, use, store.count())

        if not self.policy.serves(peer):
            return f"this watchtower does not serve {peer}; its owner can, with watchtower.serve"
        return await self.books.run(read)

    async def _adopt(self, peer: PeerId, request: Watch, *, new: bool) -> str | None:
        """Look at the channel on chain before promising anything about it."""
        state = await self.chain.client.channel_state(request.terms)
        if state.status not in ("open", "closing"):
            return f"the channel is {state.status} on chain"
        if request.voucher.amount_nanoton > state.deposit_nanoton:
            return f"the voucher is above the deposit of {state.deposit_nanoton} nanoTON"
        if new:
            held = await self.chain.account.balance_nanoton()
            if held < CLAIM_ATTACHED_NANOTON + CLAIM_RESERVE_NANOTON:
                return "the watchtower's own wallet is empty; tell its owner"
        await self._store(peer, request, state.deposit_nanoton)
        if new:
            self.log.info(
                "watching", f"watching …{request.voucher.channel[-8:]} for …{peer[-8:]}",
                channel=request.voucher.channel, peer=peer, amount_nanoton=request.voucher.amount_nanoton,
            )  # fmt: skip
        return None

    async def _store(self, peer: PeerId, request: Watch, deposit_nanoton: int) -> None:
        voucher = request.voucher
        watched = Watched(
            voucher.channel, peer, request.terms, voucher.seq, voucher.amount_nanoton, request.signature,
            int(self.clock()), deposit_nanoton,
        )  # fmt: skip
        await self.books.run(lambda store: store.put(watched))

    # ---- watching the chain ----

    async def guard(self) -> None:
        """Look at every channel in its time, for ever: claim what has to be claimed, note what ended."""
        while True:
            try:
                await self.look()
            except (SettlementError, CocoonError) as error:
                self.log.warning("chain", f"cannot look after the channels: {error}; trying again")
            await trio.sleep(TICK_S)

    async def look(self, *, at_all: bool = False) -> None:
        """One round of :meth:`guard`: the channels whose time has come, or ``at_all``.

        Raises :class:`~overlay.settlement.SettlementError` when the chain is away."""
        now = self.clock()
        live = await self.books.run(lambda store: store.live(self.chain.client.network_id))
        wanted = [w for w in live if at_all or self._next_look.get(w.channel, 0.0) <= now]
        due: list[Watched] = []
        problems: list[SettlementError] = []
        limiter = trio.CapacityLimiter(LOOKS_AT_ONCE)

        async def look_at(watched: Watched) -> None:
            async with limiter:
                try:
                    if await self._look_at(watched):
                        due.append(watched)
                    self._next_look[watched.channel] = now + LOOK_INTERVAL_S
                except ProofRejected as error:
                    problems.append(error)
                    self.log.warning("chain", f"channel …{watched.channel[-8:]}: {error}", channel=watched.channel)
                except SettlementError as error:
                    problems.append(error)

        async with trio.open_nursery() as nursery:
            for watched in wanted:
                nursery.start_soon(look_at, watched)
        if due:
            await self._claim(sorted(due, key=lambda w: (w.terms.expiry_s, w.channel)))
        if problems and len(problems) == len(wanted):
            raise problems[0]
        await self.books.run(lambda store: store.forget(ended_before=int(now) - KEEP_ENDED_S))

    async def _look_at(self, watched: Watched) -> bool:
        """Note a channel's state; whether it is to be claimed now."""
        channel = watched.channel
        state = await self.chain.client.channel_state(watched.terms, was_open=True)
        if state.status == "closed":
            await self.books.run(lambda store: store.end(channel, int(self.clock())))
            self._next_look.pop(channel, None)
            self.log.info("ended", f"…{channel[-8:]} has ended", channel=channel, peer=watched.peer)
            return False
        now = max(int(self.clock()), state.utime_s)
        closing_since = now if state.status == "closing" else None
        if closing_since is not None and watched.closing_since is None:
            self._tell_closing(watched, state)
        if closing_since is not None or state.paid_nanoton > watched.paid_nanoton:
            note = partial(
                TowerStore.note, channel=channel, paid_nanoton=state.paid_nanoton, closing_since=closing_since
            )
            await self.books.run(note)
        seen = watched.closing_since if watched.closing_since is not None else closing_since
        if self.clock() < self._not_before.get(channel, 0.0):
            return False
        return must_claim(watched.terms, watched.amount_nanoton, state, seen, self.policy.patience_s, now)

    def _tell_closing(self, watched: Watched, state: ChannelState) -> None:
        self.log.warning(
            "refund_started",
            f"a refund was started on …{watched.channel[-8:]}: claiming for …{watched.peer[-8:]} unless it does so",
            channel=watched.channel, peer=watched.peer, closes_at=state.close_at_s,
        )  # fmt: skip

    async def _claim(self, due: Sequence[Watched]) -> None:
        rest = list(due)
        while rest:
            count = min(len(rest), await affordable(self.chain.account))
            batch, rest = rest[:count], rest[count:]
            # Never with `close`: that is the payee's own right.
            claims = [Claim(watched.terms, watched.voucher, watched.signature) for watched in batch]
            try:
                results = await claim_many(self.chain.account, claims)
            except ChannelRefused:
                # The payee was quicker, or one of many is refused; the next look reads from the chain which.
                for watched in batch:
                    self._not_before[watched.channel] = self.clock() + REFUSED_PAUSE_S
                raise
            for watched, result in zip(batch, results, strict=True):
                made = ClaimMade(
                    watched.channel, watched.peer, int(self.clock()), watched.amount_nanoton, result.fee_nanoton,
                    result.hash,
                )  # fmt: skip
                await self.books.run(partial(TowerStore.add_claim, claim=made))
                self.log.info(
                    "claimed", f"claimed {ton(watched.amount_nanoton)} in all on …{watched.channel[-8:]} for "
                    f"…{watched.peer[-8:]}, at {ton(result.fee_nanoton)}, transaction {result.hash}",
                    channel=watched.channel, peer=watched.peer, paid_nanoton=watched.amount_nanoton,
                    fee_nanoton=result.fee_nanoton, transaction=result.hash,
                )  # fmt: skip

    # ---- for people ----

    async def state(self) -> dict[str, Any]:
        """What is watched and was claimed, as plain JSON values."""
        return await self.books.run(tower_state)


def tower_state(store: TowerStore) -> dict[str, Any]:
    """What a tower's file holds, as plain JSON values."""
    return {
        "watching": [
            {
                "channel": w.channel, "peer": w.peer, "amount_nanoton": w.amount_nanoton,
                "paid_nanoton": w.paid_nanoton, "handed_at": w.handed_at, "expires_at": w.terms.expiry_s,
                "closing_since": w.closing_since,
            }
            for w in store.live()
        ],
        "claims": [
            {
                "channel": c.channel, "peer": c.peer, "at": c.at, "amount_nanoton": c.amount_nanoton,
                "fee_nanoton": c.fee_nanoton, "transaction": c.transaction,
            }
            for c in store.claims()
        ],
    }  # fmt: skip
