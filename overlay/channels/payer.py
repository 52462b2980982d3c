"""The client's side of its channels: have one with a provider, keep it filled, end it.

A channel is in the ledger before any money moves, so that a crash between the two leaves something to look up: at
start, every channel that the ledger calls live is compared with the chain. An opening that was cut off is finished by
whoever needs a channel to that provider next: nobody has two because of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from overlay.chain import Chain
from overlay.channels.leaving import Leaving, on_chain
from overlay.channels.limits import (
    CLOSE_VALID_S,
    EXPIRY_MARGIN_S,
    GUARD_INTERVAL_S,
    MAX_ANNOUNCED,
    MAX_CLOCK_SKEW_S,
    MAX_DEPOSIT_NANOTON,
    MAX_MESSAGE_BYTES,
    OPENING_GRACE_S,
    REPLY_S,
)
from overlay.channels.messages import (
    Announce,
    ChannelMessage,
    CloseSigned,
    Known,
    ProposeClose,
    Refused,
    channel_protocol,
    decode_message,
    encode_message,
)
from overlay.channels.outcome import Settlement
from overlay.errors import ChainError, CocoonError, ProviderGone, Unfunded
from overlay.events import EventLog, ton
from overlay.locks import KeyedLocks
from overlay.settlement import ChannelTerms, CloseAgreement, InsufficientFunds, SettlementError
from overlay.settlement.chain import ChannelRefused, cooperative_close, finish_opening, open_channel, top_up
from overlay.settlement.ledger import ChannelRecord, ChannelStatus, GroupCommit, LedgerError, Role, Store
from overlay.settlement.limits import MAX_NONCE
from transport.host.interface import Host, HostError
from transport.identity import PeerId
from transport.wire import WireError


@dataclass(frozen=True)
class Payee:
    """Whom a channel pays, as an agreement names it, and where to reach it."""

    peer: PeerId
    address: str
    key: bytes
    host_addrs: Sequence[str] = ()


@dataclass
class PayerDesk:
    """See the module's docstring. ``clock`` gives Unix seconds, ``nonce`` a random integer below its argument."""

    chain: Chain
    ledger: GroupCommit
    host: Host | None
    subnet: str
    log: EventLog
    clock: Callable[[], float]
    nonce: Callable[[int], int]
    deposit_nanoton: int
    lifetime_s: int
    challenge_period_s: int
    leaving: Leaving = field(init=False)
    _ensuring: KeyedLocks[PeerId] = field(default_factory=KeyedLocks)
    _announced: dict[str, None] = field(default_factory=dict)
    """Channels that their provider has said it knows, in this process; the one of longest ago first."""

    def __post_init__(self) -> None:
        self.leaving = Leaving(self.chain, self.ledger, self.log, lambda: self.clock())

    # ---- having one ----

    async def recover(self) -> bool:
        """Compare the ledger's live channels with the chain, at start. False when one of them may yet appear there: the
        message that opens it was on its way when the node ended."""
        now = int(self.clock())
        whole = True
        for record, terms in await self.live():
            if record.status is ChannelStatus.OPENING:
                whole = await self._look_for(record, terms, now) and whole
                continue
            state = await self.chain.client.channel_state(terms, was_open=True)
            channel = record.channel
            if state.status in ("closed", "absent"):
                await self.leaving.found_closed(record)
                self.log.warning("channel", f"channel …{channel[-8:]} is not on this chain any more", channel=channel)
                continue
            if state.deposit_nanoton != record.deposit_nanoton:
                await self.ledger.run(partial(_deposit, channel=channel, nanoton=state.deposit_nanoton))
            if state.status == "closing" and record.status is ChannelStatus.OPEN:
                await self.leaving.status(channel, ChannelStatus.CLOSING)
            elif state.status == "open" and record.status is ChannelStatus.CLOSING:
                await self.leaving.status(channel, ChannelStatus.OPEN)
        return whole

    async def _look_for(self, record: ChannelRecord, terms: ChannelTerms, now: int) -> bool:
        """Whether it is known what became of a channel that was being opened. Whoever needs it finishes the opening;
        one that nobody needs is given up when it can appear no more."""
        peer = PeerId(record.peer)
        if self._ensuring.held(peer):
            return False
        async with self._ensuring.hold(peer):
            state = await self.chain.client.channel_state(terms)
            if state.status not in ("closed", "absent"):
                await self._note_opened(record.channel, state.deposit_nanoton)
                return True
            if now - record.opened_at < OPENING_GRACE_S:
                return False
            await self.leaving.found_closed(record)
            self.log.warning("channel", f"channel …{record.channel[-8:]} was never opened", channel=record.channel)
            return True

    async def keep_recovering(self) -> None:
        """:meth:`recover` until nothing is left to look up, for a node that started while the chain was away or while
        money was on its way into a channel."""
        while True:
            await trio.sleep(GUARD_INTERVAL_S)
            if await self.recovered():
                return

    async def recovered(self) -> bool:
        """:meth:`recover`; False, and a word to the user, also when it could not be done now. Channels are used as the
        ledger has them meanwhile: what it promises of them was true, and a provider that knows better says so."""
        try:
            return await self.recover()
        except (SettlementError, LedgerError) as error:
            self.log.warning("chain", f"cannot compare the channels with the chain: {error}; trying again")
            return False

    async def ensure(
        self, payee: Payee, *, spendable_nanoton: int, min_deposit_nanoton: int, deposit_nanoton: int | None = None
    ) -> ChannelRecord:
        """An open channel to ``payee`` that can still pay ``spendable_nanoton``, opened or topped up as needed, and
        known to the provider. ``deposit_nanoton`` replaces the configured deposit of a channel that is opened.

        Raises :class:`~overlay.errors.Unfunded`, :class:`~overlay.errors.ChainError` and
        :class:`~overlay.errors.ProviderGone`.
        """
        async with self._ensuring.hold(payee.peer):
            return await on_chain(
                self.chain, lambda: self._ensure(payee, spendable_nanoton, min_deposit_nanoton, deposit_nanoton)
            )

    async def _ensure(self, payee: Payee, spendable: int, min_deposit: int, deposit: int | None) -> ChannelRecord:
        for record, terms in await self.live(peer=payee.peer):
            if record.status is ChannelStatus.DISPUTED:
                raise ProviderGone(
                    f"this node is in dispute with …{payee.peer[-8:]}, which charged what it did not deliver; "
                    f"`cocoon channel exit {record.channel}` gets the rest of the deposit back"
                )
            lasts = terms.expiry_s - self.clock() > EXPIRY_MARGIN_S
            if not lasts or terms.payee != payee.address or terms.payee_key != payee.key:
                continue
            if record.status is ChannelStatus.OPENING:
                opened = await self._finish_opening(record, terms)
                if opened is None:
                    continue
                record = opened
            if record.status is not ChannelStatus.OPEN:
                continue
            left = record.deposit_nanoton - (await self._used(record.channel))
            if left < spendable:
                record = await self._top_up(payee, record, terms, max(spendable - left, self.deposit_nanoton))
            if record.channel not in self._announced:
                await self._announce(payee, terms)
            return record
        if deposit is None:
            deposit = max(self.deposit_nanoton, spendable, min_deposit)
        elif deposit < max(spendable, min_deposit):
            raise Unfunded(f"this provider wants a deposit of {ton(max(spendable, min_deposit))} or more")
        return await self._open(payee, deposit)

    async def _used(self, channel: str) -> int:
        sums = await self.ledger.run(lambda store: store.at_risk(channel))
        return max(sums.owed_nanoton, sums.promised_nanoton) + sums.reserved_nanoton

    async def _open(self, payee: Payee, deposit: int) -> ChannelRecord:
        if deposit > MAX_DEPOSIT_NANOTON:
            raise Unfunded(f"a channel of {ton(deposit)} is asked for; {ton(MAX_DEPOSIT_NANOTON)} is the most")
        now = int(self.clock())
        terms = ChannelTerms(
            payer=self.chain.account.address, payee=payee.address, payer_key=self.chain.channel_key,
            payee_key=payee.key, network_id=self.chain.client.network_id, nonce=self.nonce(MAX_NONCE),
            expiry_s=now + self.lifetime_s, challenge_period_s=self.challenge_period_s,
        )  # fmt: skip
        record = ChannelRecord(
            channel=terms.address(), role=Role.PAYER, peer=payee.peer, network_id=terms.network_id,
            terms=terms.to_bytes(), deposit_nanoton=deposit, status=ChannelStatus.OPENING, opened_at=now,
        )  # fmt: skip
        await self.ledger.run(lambda store: store.add_channel(record))
        try:
            result = await open_channel(self.chain.account, terms, deposit)
        except InsufficientFunds:
            # Nothing was sent; anything else may have been, and who needs the channel next finds out.
            await self.leaving.status(record.channel, ChannelStatus.CLOSED)
            raise
        opened = await self._note_opened(record.channel, deposit)
        self.log.info(
            "channel_opened", f"opened a channel to …{payee.peer[-8:]} with {ton(deposit)}, transaction {result.hash}",
            channel=record.channel, peer=payee.peer, deposit_nanoton=deposit, transaction=result.hash,
        )  # fmt: skip
        await self._announce(payee, terms)
        return opened

    async def _finish_opening(self, record: ChannelRecord, terms: ChannelTerms) -> ChannelRecord | None:
        """The channel whose opening was cut off, finished; ``None`` when it has come to nothing."""
        since_s = record.opened_at - MAX_CLOCK_SKEW_S
        try:
            state = await finish_opening(self.chain.account, terms, record.deposit_nanoton, since_s=since_s)
        except (InsufficientFunds, ChannelRefused) as error:
            await self.leaving.status(record.channel, ChannelStatus.CLOSED)
            if isinstance(error, InsufficientFunds):
                raise
            return None
        if state.status != "open":
            await self.leaving.status(record.channel, ChannelStatus.CLOSING)
            return None
        deposit = state.deposit_nanoton
        self.log.info(
            "channel_opened", f"finished opening a channel to …{record.peer[-8:]} with {ton(deposit)}",
            channel=record.channel, peer=record.peer, deposit_nanoton=deposit,
        )  # fmt: skip
        return await self._note_opened(record.channel, deposit)

    async def _note_opened(self, channel: str, deposit_nanoton: int) -> ChannelRecord:
        await self.ledger.run(lambda store: _opened(store, channel, deposit_nanoton, int(self.clock())))
        opened = await self.ledger.run(lambda store: store.channel(channel))
        assert opened is not None
        return opened

    async def _top_up(self, payee: Payee, record: ChannelRecord, terms: ChannelTerms, amount: int) -> ChannelRecord:
        if record.deposit_nanoton + amount > MAX_DEPOSIT_NANOTON:
            raise Unfunded(f"the channel would hold more than {ton(MAX_DEPOSIT_NANOTON)}; settle it first")
        result = await top_up(self.chain.account, terms, amount)
        deposit = result.state.deposit_nanoton
        await self.ledger.run(lambda store: store.set_deposit(record.channel, deposit))
        self.log.info(
            "channel_topped_up", f"topped up the channel to …{payee.peer[-8:]}: it holds {ton(deposit)} now",
            channel=record.channel, peer=payee.peer, deposit_nanoton=deposit, transaction=result.hash,
        )  # fmt: skip
        await self._announce(payee, terms)
        topped_up = await self.ledger.run(lambda store: store.channel(record.channel))
        assert topped_up is not None
        return topped_up

    async def _announce(self, payee: Payee, terms: ChannelTerms) -> None:
        answer = await self._ask(payee.peer, Announce(terms), payee.host_addrs)
        if not isinstance(answer, Known):
            reason = answer.reason if isinstance(answer, Refused) else "it answered something else"
            raise ProviderGone(f"the provider does not take the channel: {reason}")
        self._announced[terms.address()] = None
        if len(self._announced) > MAX_ANNOUNCED:
            del self._announced[next(iter(self._announced))]

    async def _ask(self, peer: PeerId, message: ChannelMessage, addrs: Sequence[str]) -> ChannelMessage:
        if self.host is None:
            raise ProviderGone("this command runs without a network; start `cocoon gateway run` for it")
        try:
            with trio.fail_after(REPLY_S):
                stream = await self.host.open_stream(peer, channel_protocol(self.subnet), addrs=addrs)
                try:
                    await stream.send(encode_message(message))
                    return decode_message(await stream.receive(MAX_MESSAGE_BYTES))
                finally:
                    await stream.aclose()
        except (HostError, WireError, trio.TooSlowError) as error:
            raise ProviderGone(f"the provider …{peer[-8:]} does not answer about its channel: {error}") from error

    # ---- ending it ----

    async def close_together(self, channel: str, addrs: Sequence[str] = ()) -> Settlement:
        """End a channel with its provider, who gets what the vouchers and receipts say; the rest comes back.

        Every job on it must have ended, and its payment been sent. Raises :class:`~overlay.errors.ProviderGone` when
        the provider does not agree: `cocoon channel exit` then gets the money out alone, later.
        """
        async with self.leaving.lock(channel):
            return await self._close_together(channel, addrs)

    async def _close_together(self, channel: str, addrs: Sequence[str]) -> Settlement:
        record, terms = await self._one(channel)
        # A provider that has signed serves the channel no more: ask it only when the close can be sent right after.
        state = await on_chain(self.chain, lambda: self.chain.client.channel_state(terms, was_open=True))
        if state.status in ("closed", "absent"):
            return await self.leaving.found_closed(record)
        sums = await self.ledger.run(lambda store: store.at_risk(channel))
        amount = max(sums.promised_nanoton, sums.owed_nanoton)
        # By the chain's time, as the contract and the provider see it, whatever our clock says.
        agreement = CloseAgreement(channel, terms.network_id, amount, state.utime_s + CLOSE_VALID_S)
        signature = agreement.sign(self.chain.channel_seed)
        await self.leaving.status(channel, ChannelStatus.CLOSING)
        try:
            answer = await self._ask(PeerId(record.peer), ProposeClose(agreement, signature), addrs)
        except CocoonError:
            await self.leaving.status(channel, record.status)
            raise
        if not isinstance(answer, CloseSigned) or not agreement.verify(terms.payee_key, answer.payee_signature):
            await self.leaving.status(channel, record.status)
            reason = answer.reason if isinstance(answer, Refused) else "its signature does not verify"
            raise ProviderGone(f"the provider does not close the channel: {reason}")
        result = await on_chain(
            self.chain,
            lambda: cooperative_close(self.chain.account, terms, agreement, signature, answer.payee_signature),
        )
        await self.leaving.ended(channel, amount)
        self._announced.pop(channel, None)
        return self.leaving.tell(record, "closed", amount, record.deposit_nanoton - amount, result)

    async def leave(self, channel: str) -> Settlement:
        """Get out alone: the next step of it (:meth:`Leaving.leave`)."""
        left = await self.leaving.leave(channel)
        self._announced.pop(channel, None)
        return left

    # ---- the ledger ----

    async def live(self, *, peer: PeerId | None = None) -> list[tuple[ChannelRecord, ChannelTerms]]:
        """Channels that are not closed, on this network, newest first."""
        network = self.chain.client.network_id

        def read(store: Store) -> list[tuple[ChannelRecord, ChannelTerms]]:
            mine = store.live_channels(Role.PAYER, peer=peer)
            return [(record, ChannelTerms.from_bytes(record.terms)) for record in mine if record.network_id == network]

        return await self.ledger.run(read)

    async def _one(self, channel: str) -> tuple[ChannelRecord, ChannelTerms]:
        for record, terms in await self.live():
            if record.channel == channel:
                return record, terms
        raise ChainError(f"there is no live channel {channel}; `cocoon channel list` shows them")


def _deposit(store: Store, channel: str, nanoton: int) -> None:
    store.set_deposit(channel, nanoton)


def _opened(store: Store, channel: str, deposit_nanoton: int, at: int) -> None:
    store.set_deposit(channel, deposit_nanoton)
    store.set_status(channel, ChannelStatus.OPEN, at=at)
