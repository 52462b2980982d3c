"""The provider's guard: looks at every channel on chain, claims before anything can be lost, and notes what ended.

What it does is decided by proved chain state and by the ledger, never by what it remembers: after a crash at any moment
the next look finds what was done and does the rest. Deadlines are held against the later of this machine's clock and
the chain's (limits.py says how much of a skew that leaves harmless).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from overlay.chain import Chain
from overlay.channels.answers import cumulative
from overlay.channels.batch import affordable
from overlay.channels.held import ChannelUse, Held, hold
from overlay.channels.limits import (
    CLAIM_COST_BASE_NANOTON,
    CLAIM_COST_EACH_NANOTON,
    CLAIM_MARGIN_S,
    CLOSE_MARGIN_S,
    CLOSING_INTERVAL_S,
    EXPIRY_MARGIN_S,
    GUARD_INTERVAL_S,
    LOOKS_AT_ONCE,
    REFUSED_PAUSE_S,
)
from overlay.channels.outcome import Settlement
from overlay.channels.settling import ClaimCost, ClaimPolicy, Exposures, Waiting, choose
from overlay.errors import ChainError, ConfigError
from overlay.events import EventLog, ton
from overlay.settlement import OperationFailed, ProofRejected, SettlementError, Voucher
from overlay.settlement.cells import OP_PAYOUT
from overlay.settlement.chain import ChannelRefused, ChannelState, Claim, TxResult, claim_many
from overlay.settlement.ledger import (
    ChannelEvent,
    ChannelStatus,
    GroupCommit,
    LedgerError,
    Role,
    Store,
)

CLOSE_SIGNED = "close_signed"
"""The ledger's event of a close agreement that we signed; its detail is the latest time until which one is valid."""


@dataclass(frozen=True)
class Seen:
    """A channel as ledger and chain have it, and what is due: ``ends`` says whether its claim also closes it."""

    held: Held
    state: ChannelState
    ends: bool


@dataclass
class Guard:
    """See the module's docstring. ``clock`` gives Unix seconds."""

    chain: Chain
    ledger: GroupCommit
    use: ChannelUse
    log: EventLog
    clock: Callable[[], float]
    policy: ClaimPolicy
    cost: ClaimCost = field(default_factory=lambda: ClaimCost(CLAIM_COST_BASE_NANOTON, CLAIM_COST_EACH_NANOTON))
    _claiming: trio.Lock = field(default_factory=trio.Lock)
    _poke: trio.Event = field(default_factory=trio.Event)
    _exposures: Exposures = field(default_factory=Exposures.empty)
    _not_before: dict[str, float] = field(default_factory=dict)

    def poke(self) -> None:
        """Have the next look soon: something is about to end."""
        self._poke.set()

    async def run(self) -> None:
        """Look at every channel now and then, for ever: claim what is due, note what ended."""
        while True:
            self._poke = trio.Event()
            ending = False
            try:
                ending = await self.look()
            except (SettlementError, LedgerError) as error:
                self.log.warning("chain", f"cannot look after the channels: {error}; trying again")
            with trio.move_on_after(CLOSING_INTERVAL_S if ending else GUARD_INTERVAL_S):
                await self._poke.wait()

    async def look(self) -> bool:
        """One round of :meth:`run`; whether a channel is about to be closed, so that the next round should be soon.

        Raises :class:`~overlay.settlement.SettlementError` when the chain is away."""
        seen = await self._look_at_all(await self.live())
        due = self._choose(seen)
        if due:
            await self._claim([(each.held, each.ends) for each in due])
        return any(each.state.status == "closing" or each.held.record.status is ChannelStatus.CLOSING for each in seen)

    async def _look_at_all(self, live: Sequence[Held]) -> list[Seen]:
        """Every live channel's state; ended ones are noted and left out. One that cannot be read does not keep the
        others from being claimed."""
        seen: dict[str, Seen] = {}
        problems: list[SettlementError] = []
        limiter = trio.CapacityLimiter(LOOKS_AT_ONCE)

        async def look_at(held: Held) -> None:
            async with limiter:
                try:
                    found = await self._look_at(held)
                except ProofRejected as error:
                    problems.append(error)
                    self.log.warning(
                        "chain", f"channel …{held.record.channel[-8:]}: {error}", channel=held.record.channel
                    )
                except SettlementError as error:
                    problems.append(error)
                else:
                    if found is not None:
                        seen[held.record.channel] = found

        async with trio.open_nursery() as nursery:
            for held in live:
                nursery.start_soon(look_at, held)
        if problems and len(problems) == len(live):
            raise problems[0]
        return [seen[held.record.channel] for held in live if held.record.channel in seen]

    async def _look_at(self, held: Held) -> Seen | None:
        state = await self.chain.client.channel_state(held.terms, was_open=True)
        if state.status == "closed":
            await self._note_closed(held)
            return None
        if state.paid_nanoton > held.record.paid_nanoton:
            held = await self._note_relayed(held, state)
        return Seen(held, state, await self._ends(held, state))

    def now_s(self, state: ChannelState) -> int:
        """The time to hold deadlines against: the later of our clock and the chain's."""
        return max(int(self.clock()), state.utime_s)

    async def _ends(self, held: Held, state: ChannelState) -> bool:
        """Whether the channel must be claimed and closed now; sees to it that one that ends serves nothing more."""
        channel = held.record.channel
        leaving = state.status == "closing"
        if leaving and held.record.status is ChannelStatus.OPEN:
            await self.set_status(channel, ChannelStatus.CLOSING)
            self.log.warning(
                "refund_started", f"…{held.record.peer[-8:]} wants its deposit back: claiming what is due",
                channel=channel, peer=held.record.peer, closes_at=state.close_at_s,
            )  # fmt: skip
        elif held.record.status is ChannelStatus.CLOSING and state.status == "open":
            await self._reopen_if_forgotten(held, state)
        now = self.now_s(state)
        if held.terms.expiry_s - now < CLAIM_MARGIN_S:
            return True
        # Jobs that still run may yet earn a higher voucher: closing waits for them, but never beyond the margin.
        return leaving and (await self.use.freeze(channel) or state.close_at_s - now < CLOSE_MARGIN_S)

    async def _reopen_if_forgotten(self, held: Held, state: ChannelState) -> None:
        """Serve a channel again whose close agreements have all run out unused: in a proved state after their last
        second it is still open, so none of them can close it any more."""
        if state.utime_s > await self.close_signed_until(held.record.channel):
            await self.set_status(held.record.channel, ChannelStatus.OPEN)

    async def close_signed_until(self, channel: str) -> int:
        """Until when the close agreements that we signed are valid; 0 when there is none."""
        events = await self.ledger.run(lambda store: store.events(channel, limit=1000))
        return max((int(event.detail) for event in events if event.kind == CLOSE_SIGNED), default=0)

    # ---- claiming ----

    def _choose(self, seen: Sequence[Seen]) -> list[Seen]:
        """What the policy wants claimed now, the most urgent first."""
        if not seen:
            return []
        now = max(self.now_s(each.state) for each in seen)
        waiting = []
        for each in seen:
            channel = each.held.record.channel
            unclaimed = each.held.sums.promised_nanoton - each.state.paid_nanoton
            exposure = self._exposures.grow(channel, unclaimed, now)
            if unclaimed <= 0 or self.clock() < self._not_before.get(channel, 0.0):
                continue
            expiry = each.held.terms.expiry_s
            deadline = now if each.ends else expiry - CLAIM_MARGIN_S
            waiting.append(Waiting(channel, unclaimed, deadline, min(deadline, expiry - EXPIRY_MARGIN_S), exposure))
        by_channel = {each.held.record.channel: each for each in seen}
        return [by_channel[chosen.channel] for chosen in choose(now, waiting, self.cost, self.policy)]

    async def claim(self, channel: str | None, *, close: bool) -> list[tuple[Held, TxResult]]:
        """Claim what is unclaimed now, of one channel or all; with ``close`` end them.

        Raises :class:`~overlay.errors.ConfigError` for a channel that we do not know."""
        if channel is not None:
            await self._one(channel)
        due = [
            (held, close)
            for held in await self.live()
            if channel in (None, held.record.channel) and held.voucher is not None
            and (close or held.sums.unclaimed_nanoton > 0)
        ]  # fmt: skip
        return await self._claim(due)

    async def _claim(self, due: Sequence[tuple[Held, bool]]) -> list[tuple[Held, TxResult]]:
        """Claim in as few messages of the wallet as its limit of 255 and its balance allow, the first of ``due``
        first."""
        done: list[tuple[Held, TxResult]] = []
        async with self._claiming:
            rest = await self._still_due(due)
            while rest:
                count = min(len(rest), await affordable(self.chain.account))
                batch, rest = rest[:count], rest[count:]
                done += await self._claim_batch(batch)
        return done

    async def leave(self, channel: str) -> Settlement:
        """Get out of one channel alone: claim its last voucher and close it. Saying it again tells how it ended.

        Raises :class:`~overlay.errors.ConfigError` for a channel that we do not know, and
        :class:`~overlay.settlement.SettlementError` when the chain does not do it."""
        held = await self._one(channel)
        if held.record.status is ChannelStatus.CLOSED:
            return _was_closed(held)
        if held.record.network_id != self.chain.client.network_id:
            raise ChainError(f"channel {channel} is of TON network {held.record.network_id}, not of this one")
        await self.use.freeze(channel)
        seen = await self._look_at(held)
        held = await self._one(channel)
        if seen is None:
            return _was_closed(held)
        if held.voucher is None:
            text = "no voucher was ever received on it: all that it holds is the client's"
            return Settlement(channel, held.record.peer, "nothing to claim", 0, 0, 0, "", text)
        try:
            done = await self._claim([(held, True)])
        except OperationFailed:
            # Somebody else's message may have ended it first.
            if await self._look_at(held) is None:
                return _was_closed(await self._one(channel))
            raise
        if not done:
            return _was_closed(await self._one(channel))
        (_, result), amount = done[0], held.voucher.amount_nanoton
        text = f"{ton(amount - held.record.paid_nanoton)}, transaction {result.hash}"
        return Settlement(
            channel, held.record.peer, "closed", amount, held.record.deposit_nanoton - amount, result.fee_nanoton,
            result.hash, text, gained_nanoton=amount - held.record.paid_nanoton,
        )  # fmt: skip

    async def _one(self, channel: str) -> Held:
        held = await self.held(channel)
        if held is None or held.record.role is not Role.PAYEE:
            raise ConfigError(f"there is no channel {channel}; `cocoon channel list --as node` shows them")
        return held

    async def _still_due(self, due: Sequence[tuple[Held, bool]]) -> list[tuple[Held, bool]]:
        """Leave out what was claimed or closed while we waited for our turn."""
        found = []
        for held, close in due:
            now = await self.held(held.record.channel)
            if now is None or now.voucher is None or now.record.status is ChannelStatus.CLOSED:
                continue
            if close or now.sums.unclaimed_nanoton > 0:
                found.append((now, close))
        return found

    async def _claim_batch(self, batch: Sequence[tuple[Held, bool]]) -> list[tuple[Held, TxResult]]:
        claims = []
        for held, close in batch:
            assert held.voucher is not None
            voucher = Voucher(held.record.channel, held.terms.network_id, held.voucher.seq, held.voucher.amount_nanoton)
            claims.append(Claim(held.terms, voucher, held.voucher.signature, close))
        try:
            results = await claim_many(self.chain.account, claims)
        except ChannelRefused:
            # The others of the batch have taken effect; the next look reads from the chain which.
            for held, _ in batch:
                self._not_before[held.record.channel] = self.clock() + REFUSED_PAUSE_S
            raise
        self._learn_cost(results)
        done = []
        for (held, close), result in zip(batch, results, strict=True):
            assert held.voucher is not None
            await self._note_paid(held, held.voucher.amount_nanoton, result.hash, closed=close)
            done.append((held, result))
        return done

    def _learn_cost(self, results: Sequence[TxResult]) -> None:
        """What the next claims are reckoned to cost: what these did."""
        base = self.cost.base_nanoton
        each = (sum(result.fee_nanoton for result in results) - base) // len(results)
        self.cost = ClaimCost(base, max(1, each))

    # ---- what came of it ----

    async def _note_paid(self, held: Held, total_nanoton: int, transaction: str, *, closed: bool) -> None:
        channel = held.record.channel

        def note(store: Store) -> None:
            store.set_paid(channel, total_nanoton)
            if closed:
                store.set_status(channel, ChannelStatus.CLOSED, at=int(self.clock()))

        await self.ledger.run(note)
        self._exposures.claimed(channel)
        self._not_before.pop(channel, None)
        gained = total_nanoton - held.record.paid_nanoton
        if not transaction and not held.sums.promised_nanoton:
            self.log.info(
                "settled", f"closed …{channel[-8:]}: nothing was owed",
                channel=channel, peer=held.record.peer, gained_nanoton=0, paid_nanoton=0, transaction="", closed=True,
            )  # fmt: skip
            return
        if not transaction and total_nanoton < held.sums.promised_nanoton:
            self.log.warning(
                "channel_gone", f"channel …{channel[-8:]} is not on this chain any more, and paid nothing at its end",
                channel=channel, peer=held.record.peer, paid_nanoton=total_nanoton,
            )  # fmt: skip
            return
        verb = "closed" if closed else "claimed"
        where = f", transaction {transaction}" if transaction else ""
        self.log.info(
            "settled", f"{verb} …{channel[-8:]}: {ton(gained)} paid on chain{where}",
            channel=channel, peer=held.record.peer, gained_nanoton=gained, paid_nanoton=total_nanoton,
            transaction=transaction, closed=closed,
        )  # fmt: skip

    async def _note_relayed(self, held: Held, state: ChannelState) -> Held:
        """The chain shows more paid than the ledger: a watchtower claimed for us, or we did before a crash."""
        await self._note_paid(held, state.paid_nanoton, "", closed=False)
        return await self.held(held.record.channel) or held

    async def _note_closed(self, held: Held) -> None:
        """The channel's account is gone: find in our wallet what it paid us at the end."""
        paid, transaction = held.record.paid_nanoton, ""
        for entry in await self.chain.client.transactions(self.chain.account.address):
            message = entry.in_message
            if message is None or message.source != held.record.channel or message.bounced:
                continue
            operation = message.operation()
            if operation is not None and operation[0] == OP_PAYOUT:
                paid, transaction = max(paid, cumulative(message.body)), entry.hash.hex()
                break
        await self._note_paid(held, paid, transaction, closed=True)

    # ---- the ledger ----

    async def set_status(self, channel: str, status: ChannelStatus) -> None:
        """Move a channel in the ledger, and leave a note of it."""
        await self.ledger.run(partial(_set_status, channel=channel, status=status, now=int(self.clock())))

    async def close_signed(self, channel: str, valid_until_s: int) -> None:
        """We are about to sign that a channel ends: from now on nothing more is served on it."""
        now = int(self.clock())

        def write(store: Store) -> None:
            _set_status(store, channel, ChannelStatus.CLOSING, now)
            earlier = [int(e.detail) for e in store.events(channel, limit=1000) if e.kind == CLOSE_SIGNED]
            until = max([valid_until_s, *earlier])
            store.add_event(ChannelEvent(channel, now, CLOSE_SIGNED, 0, str(until)))

        await self.ledger.run(write)

    async def held(self, channel: str) -> Held | None:
        """One channel as the ledger has it."""

        def read(store: Store) -> Held | None:
            record = store.channel(channel)
            return None if record is None else hold(store, record)

        return await self.ledger.run(read)

    async def live(self) -> list[Held]:
        """The channels that pay us and are not closed, on this network."""
        network = self.chain.client.network_id

        def read(store: Store) -> list[Held]:
            mine = store.live_channels(Role.PAYEE)
            return [hold(store, record) for record in mine if record.network_id == network]

        return await self.ledger.run(read)


def _was_closed(held: Held) -> Settlement:
    record = held.record
    text = f"it had ended before, and paid {ton(record.paid_nanoton)} in all"
    refund = record.deposit_nanoton - record.paid_nanoton
    return Settlement(record.channel, record.peer, "was closed", record.paid_nanoton, refund, 0, "", text)


def _set_status(store: Store, channel: str, status: ChannelStatus, now: int) -> None:
    store.set_status(channel, status, at=now)
    store.add_event(ChannelEvent(channel, now, str(status), 0, ""))
