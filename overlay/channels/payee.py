"""The provider's side of its channels: believe them only from the chain, close them together, claim in time.

Three parts: :class:`PayeeDesk` answers clients, :meth:`PayeeDesk.guard` watches the chain and claims before
anything can be lost, and :meth:`PayeeDesk.claim` is what the owner orders by hand.
The ledger is written before an answer leaves.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from overlay.chain import Chain
from overlay.channels.limits import (
    CLAIM_MARGIN_S,
    CLOSE_VALID_S,
    CLOSING_INTERVAL_S,
    GUARD_INTERVAL_S,
    LAST_MINUTE_S,
    LOOKUP_WINDOW_S,
    MAX_CHAIN_LOOKUPS_PER_PEER,
    MAX_CHANNELS_PER_PEER,
    MAX_MESSAGE_BYTES,
    MAX_STREAMS,
    MAX_STREAMS_PER_PEER,
    MESSAGES_PER_STREAM,
    MIN_CHALLENGE_PERIOD_S,
    MIN_REMAINING_S,
    STREAM_IDLE_S,
)
from overlay.channels.messages import (
    Announce,
    ChannelMessage,
    CloseSigned,
    Known,
    ProposeClose,
    Refused,
    decode_message,
    encode_message,
)
from overlay.events import EventLog, ton
from overlay.settlement import ChannelTerms, CloseAgreement, SettlementError, Voucher
from overlay.settlement.cells import OP_PAYOUT
from overlay.settlement.chain import ChannelState, Claim, TxResult, claim_many
from overlay.settlement.ledger import (
    ChannelEvent,
    ChannelRecord,
    ChannelStatus,
    GroupCommit,
    LedgerError,
    MoneyAtRisk,
    Role,
    Store,
    VoucherRecord,
)
from transport.host.interface import HostStream, StreamError
from transport.identity import PeerId
from transport.wire import WireError

LIVE = (ChannelStatus.OPEN, ChannelStatus.DISPUTED, ChannelStatus.CLOSING)


class ChannelUse(Protocol):
    """What the desk must be able to tell whoever serves jobs on channels."""

    async def deposit_grew(self, channel: str, deposit_nanoton: int) -> None:
        """A channel was topped up to this deposit in all."""

    async def freeze(self, channel: str) -> bool:
        """Serve no more jobs on a channel; False, and nothing changed, while some are running."""


@dataclass(frozen=True)
class Held:
    """A channel as the ledger has it: terms, highest voucher and sums."""

    record: ChannelRecord
    terms: ChannelTerms
    voucher: VoucherRecord | None
    sums: MoneyAtRisk


@dataclass
class PayeeDesk:
    """See the module's docstring. ``clock`` gives Unix seconds."""

    chain: Chain
    ledger: GroupCommit
    use: ChannelUse
    log: EventLog
    clock: Callable[[], float]
    min_deposit_nanoton: int
    settle_at_nanoton: int
    _streams: Counter[PeerId] = field(default_factory=Counter)
    _lookups: dict[PeerId, deque[float]] = field(default_factory=dict)
    _claiming: trio.Lock = field(default_factory=trio.Lock)
    _poke: trio.Event = field(default_factory=trio.Event)

    # ---- answering clients ----

    async def handle(self, stream: HostStream) -> None:
        """Serve one stream of the channel protocol. Never raises on what a peer does."""
        peer = stream.peer_id
        if self._streams.total() >= MAX_STREAMS or self._streams[peer] >= MAX_STREAMS_PER_PEER:
            await stream.reset()
            return
        self._streams[peer] += 1
        try:
            for _ in range(MESSAGES_PER_STREAM):
                with trio.fail_after(STREAM_IDLE_S):
                    request = decode_message(await stream.receive(MAX_MESSAGE_BYTES))
                    await stream.send(encode_message(await self._answer(peer, request)))
        except (StreamError, WireError, trio.TooSlowError):
            await stream.reset()
        finally:
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]

    async def _answer(self, peer: PeerId, request: ChannelMessage) -> ChannelMessage:
        try:
            match request:
                case Announce(terms):
                    return await self.admit(peer, terms)
                case ProposeClose(agreement, signature):
                    return await self.agree_to_close(peer, agreement, signature)
                case _:
                    raise WireError("not something that a client says")
        except SettlementError as error:
            return Refused(f"the provider cannot read the chain now: {error}")
        except LedgerError as error:
            return Refused(f"the provider's ledger refused: {error}")

    async def admit(self, peer: PeerId, terms: ChannelTerms) -> Known | Refused:
        """Look at a channel on chain and serve jobs on it from now on, if it is one that pays us."""
        reason = self._unacceptable(terms)
        if reason is not None:
            return Refused(reason)
        if not self._may_look(peer):
            return Refused("too many announcements; wait a minute")
        channel = terms.address()
        known = await self.ledger.run(lambda store: store.channel(channel))
        if known is not None and known.peer != peer:
            return Refused("this channel belongs to another client")
        if known is not None and known.status is not ChannelStatus.OPEN:
            return Refused(f"this channel is {known.status}; open another")
        state = await self.chain.client.channel_state(terms)
        if state.status != "open":
            return Refused(f"the channel is {state.status} on chain")
        if state.deposit_nanoton < self.min_deposit_nanoton:
            return Refused(
                f"the deposit is {state.deposit_nanoton} nanoTON; at least {self.min_deposit_nanoton} is wanted"
            )
        if known is None:
            return await self._adopt(peer, terms, state)
        if state.deposit_nanoton > known.deposit_nanoton:
            await self.ledger.run(lambda store: store.set_deposit(channel, state.deposit_nanoton))
            await self.use.deposit_grew(channel, state.deposit_nanoton)
        return Known(state.deposit_nanoton, state.paid_nanoton)

    def _unacceptable(self, terms: ChannelTerms) -> str | None:
        account = self.chain.account
        if terms.network_id != self.chain.client.network_id:
            ours = self.chain.client.network_id
            return f"the channel is of TON network {terms.network_id}; this provider is paid on {ours}"
        if terms.payee != account.address or terms.payee_key != self.chain.channel_key:
            return "the channel does not pay this provider"
        if terms.expiry_s < self.clock() + MIN_REMAINING_S:
            return "the channel expires too soon"
        if terms.challenge_period_s < MIN_CHALLENGE_PERIOD_S:
            return f"the challenge period must be {MIN_CHALLENGE_PERIOD_S} s or longer"
        return None

    def _may_look(self, peer: PeerId) -> bool:
        now = self.clock()
        times = self._lookups.setdefault(peer, deque(maxlen=MAX_CHAIN_LOOKUPS_PER_PEER))
        if len(times) == MAX_CHAIN_LOOKUPS_PER_PEER and now - times[0] < LOOKUP_WINDOW_S:
            return False
        times.append(now)
        for other in [p for p, t in self._lookups.items() if now - t[-1] > LOOKUP_WINDOW_S]:
            del self._lookups[other]
        return True

    async def _adopt(self, peer: PeerId, terms: ChannelTerms, state: ChannelState) -> Known | Refused:
        record = ChannelRecord(
            channel=terms.address(), role=Role.PAYEE, peer=peer, network_id=terms.network_id, terms=terms.to_bytes(),
            deposit_nanoton=state.deposit_nanoton, status=ChannelStatus.OPEN, opened_at=int(self.clock()),
            paid_nanoton=state.paid_nanoton,
        )  # fmt: skip

        def adopt(store: Store) -> bool:
            mine = store.channels(role=Role.PAYEE, peer=peer)
            if sum(other.status in LIVE for other in mine) >= MAX_CHANNELS_PER_PEER:
                return False
            store.add_channel(record)
            return True

        if not await self.ledger.run(adopt):
            return Refused(f"you have {MAX_CHANNELS_PER_PEER} channels with this provider; settle one first")
        self.log.info(
            "channel", f"a channel from …{peer[-8:]} with {ton(state.deposit_nanoton)}",
            channel=record.channel, peer=peer, deposit_nanoton=state.deposit_nanoton,
        )  # fmt: skip
        return Known(state.deposit_nanoton, state.paid_nanoton)

    async def agree_to_close(self, peer: PeerId, agreement: CloseAgreement, signature: bytes) -> CloseSigned | Refused:
        """Sign that a channel ends at the client's sum, if that is no less than what we are owed and promised."""
        held = await self._held(agreement.channel)
        if held is None or held.record.peer != peer or held.record.role is not Role.PAYEE:
            return Refused("no such channel")
        if held.record.status not in (ChannelStatus.OPEN, ChannelStatus.CLOSING):
            return Refused(f"the channel is {held.record.status}")
        least = max(held.sums.promised_nanoton, held.sums.owed_nanoton)
        now = self.clock()
        if (
            agreement.network_id != held.terms.network_id
            or not now < agreement.valid_until_s <= now + 2 * CLOSE_VALID_S
        ):
            return Refused("the close agreement is for another network, or not for the next minutes")
        if not agreement.verify(held.terms.payer_key, signature):
            return Refused("your signature under the close agreement does not verify")
        if agreement.amount_nanoton < least:
            return Refused(f"{least} nanoTON is due, not {agreement.amount_nanoton}: send the last voucher first")
        if agreement.amount_nanoton > held.record.deposit_nanoton:
            return Refused("the sum is more than the deposit")
        if not await self.use.freeze(agreement.channel):
            return Refused("jobs are running on this channel; wait for them, or cancel them")
        await self._set_status(agreement.channel, ChannelStatus.CLOSING)
        self._poke.set()
        return CloseSigned(agreement.sign(self.chain.channel_seed))

    # ---- watching the chain ----

    async def guard(self) -> None:
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
        """One round of :meth:`guard`; whether a channel is about to be closed, so that the next round should be soon.

        Raises :class:`~overlay.settlement.SettlementError` when the chain is away."""
        due: list[tuple[Held, bool]] = []
        ending = False
        for held in await self._live():
            state = await self.chain.client.channel_state(held.terms, was_open=True)
            if state.status == "closed":
                await self._note_closed(held)
                continue
            ends = await self._ends(held, state)
            ending = ending or state.status == "closing" or held.record.status is ChannelStatus.CLOSING
            unclaimed = held.sums.promised_nanoton - state.paid_nanoton
            if unclaimed > 0 and (ends or unclaimed >= self.settle_at_nanoton):
                due.append((held, ends))
        if due:
            await self._claim(due)
        return ending

    async def _ends(self, held: Held, state: ChannelState) -> bool:
        """Whether the channel must be claimed and closed now; sees to it that one that ends serves nothing more."""
        channel = held.record.channel
        leaving = state.status == "closing"
        if leaving and held.record.status is ChannelStatus.OPEN:
            await self._set_status(channel, ChannelStatus.CLOSING)
            self.log.warning(
                "refund_started", f"…{held.record.peer[-8:]} wants its deposit back: claiming what is due",
                channel=channel, peer=held.record.peer, closes_at=state.close_at_s,
            )  # fmt: skip
        elif held.record.status is ChannelStatus.CLOSING and state.status == "open":
            await self._reopen_if_forgotten(held)
        if held.terms.expiry_s - self.clock() < CLAIM_MARGIN_S:
            return True
        # Jobs that still run may yet earn a higher voucher: closing waits for them, but never into the last minute.
        return leaving and (await self.use.freeze(channel) or state.close_at_s - self.clock() < LAST_MINUTE_S)

    async def claim(self, channel: str | None, *, close: bool) -> list[tuple[Held, TxResult]]:
        """Claim what is unclaimed now, of one channel or all; with ``close`` end them."""
        due = [
            (held, close)
            for held in await self._live()
            if channel in (None, held.record.channel) and held.voucher is not None
            and (close or held.sums.unclaimed_nanoton > 0)
        ]  # fmt: skip
        return await self._claim(due)

    async def _claim(self, due: Sequence[tuple[Held, bool]]) -> list[tuple[Held, TxResult]]:
        async with self._claiming:
            claims = []
            for held, close in due:
                assert held.voucher is not None
                voucher = Voucher(
                    held.record.channel, held.terms.network_id, held.voucher.seq, held.voucher.amount_nanoton
                )
                claims.append(Claim(held.terms, voucher, held.voucher.signature, close))
            if not claims:
                return []
            results = await claim_many(self.chain.account, claims)
        done = []
        for (held, close), result in zip(due, results, strict=True):
            assert held.voucher is not None
            await self._note_paid(held, held.voucher.amount_nanoton, result.hash, closed=close)
            done.append((held, result))
        return done

    async def _note_paid(self, held: Held, total_nanoton: int, transaction: str, *, closed: bool) -> None:
        channel = held.record.channel

        def note(store: Store) -> None:
            store.set_paid(channel, total_nanoton)
            if closed:
                store.set_status(channel, ChannelStatus.CLOSED, at=int(self.clock()))

        await self.ledger.run(note)
        gained = total_nanoton - held.record.paid_nanoton
        if not transaction and not held.sums.promised_nanoton:
            self.log.info(
                "settled", f"closed …{channel[-8:]}: nothing was owed",
                channel=channel, peer=held.record.peer, gained_nanoton=0, paid_nanoton=0, transaction="", closed=True,
            )  # fmt: skip
            return
        if not transaction:
            self.log.warning(
                "channel_gone", f"channel …{channel[-8:]} is not on this chain any more, and paid nothing at its end",
                channel=channel, peer=held.record.peer, paid_nanoton=total_nanoton,
            )  # fmt: skip
            return
        verb = "closed" if closed else "claimed"
        self.log.info(
            "settled", f"{verb} …{channel[-8:]}: {ton(gained)} paid on chain, transaction {transaction}",
            channel=channel, peer=held.record.peer, gained_nanoton=gained, paid_nanoton=total_nanoton,
            transaction=transaction, closed=closed,
        )  # fmt: skip

    async def _note_closed(self, held: Held) -> None:
        """The channel's account is gone: find in our wallet what it paid us at the end."""
        paid, transaction = held.record.paid_nanoton, ""
        for entry in await self.chain.client.transactions(self.chain.account.address):
            message = entry.in_message
            if message is None or message.source != held.record.channel or message.bounced:
                continue
            operation = message.operation()
            if operation is not None and operation[0] == OP_PAYOUT:
                paid, transaction = max(paid, _payout_total(message.body)), entry.hash.hex()
                break
        await self._note_paid(held, paid, transaction, closed=True)

    async def _reopen_if_forgotten(self, held: Held) -> None:
        """Serve a channel again whose close agreement has run out unused."""
        events = await self.ledger.run(lambda store: store.events(held.record.channel, limit=1))
        since = events[0].at if events else held.record.opened_at
        if self.clock() - since > 2 * CLOSE_VALID_S:
            await self._set_status(held.record.channel, ChannelStatus.OPEN)

    # ---- the ledger ----

    async def _set_status(self, channel: str, status: ChannelStatus) -> None:
        now = int(self.clock())

        def write(store: Store) -> None:
            store.set_status(channel, status, at=now)
            store.add_event(ChannelEvent(channel, now, str(status), 0, ""))

        await self.ledger.run(write)

    async def _held(self, channel: str) -> Held | None:
        def read(store: Store) -> Held | None:
            record = store.channel(channel)
            return None if record is None else _hold(store, record)

        return await self.ledger.run(read)

    async def _live(self) -> list[Held]:
        network = self.chain.client.network_id

        def read(store: Store) -> list[Held]:
            mine = store.channels(role=Role.PAYEE)
            return [_hold(store, r) for r in mine if r.status in LIVE and r.network_id == network]

        return await self.ledger.run(read)


def _hold(store: Store, record: ChannelRecord) -> Held:
    terms = ChannelTerms.from_bytes(record.terms)
    return Held(record, terms, store.voucher(record.channel), store.at_risk(record.channel))


def _payout_total(body: object) -> int:
    """``Payout``'s cumulative sum: op:uint32 queryId:uint64 cumulative:coins amount:coins (contract/channel.tolk)."""
    cursor = body.begin_parse()  # type: ignore[attr-defined]  # a pytoniq cell, which has no types
    cursor.skip_bits(32 + 64)
    return int(cursor.load_coins() or 0)
