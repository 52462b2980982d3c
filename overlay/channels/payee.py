"""The provider's side of its channels: believe them only from the chain, close them together, claim in time.

Two parts: :class:`PayeeDesk` answers clients here, its :class:`~overlay.channels.guard.Guard` watches the chain and
claims. The ledger is written before an answer leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import trio

from overlay.chain import Chain
from overlay.channels.callers import AskRate, StreamSeats
from overlay.channels.guard import Guard
from overlay.channels.held import ChannelUse, Held
from overlay.channels.limits import (
    CLOSE_VALID_S,
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
from overlay.channels.outcome import Settlement
from overlay.channels.settling import ClaimPolicy
from overlay.events import EventLog, ton
from overlay.settlement import ChainUnavailable, ChannelTerms, CloseAgreement, SettlementError
from overlay.settlement.chain import ChannelState, TxResult
from overlay.settlement.ledger import ChannelRecord, ChannelStatus, GroupCommit, LedgerError, Role, Store
from overlay.settlement.limits import MAX_AMOUNT_NANOTON
from transport.host.interface import HostStream, StreamError
from transport.identity import PeerId
from transport.wire import WireError


@dataclass
class PayeeDesk:
    """See the module's docstring. ``clock`` gives Unix seconds; without a ``policy`` only deadlines and
    ``settle_at_nanoton`` decide when to claim."""

    chain: Chain
    ledger: GroupCommit
    use: ChannelUse
    log: EventLog
    clock: Callable[[], float]
    min_deposit_nanoton: int
    settle_at_nanoton: int
    policy: ClaimPolicy | None = None
    claims: Guard = field(init=False)
    _seats: StreamSeats = field(default_factory=partial(StreamSeats, MAX_STREAMS, MAX_STREAMS_PER_PEER))
    _lookups: AskRate = field(default_factory=partial(AskRate, MAX_CHAIN_LOOKUPS_PER_PEER, LOOKUP_WINDOW_S))

    def __post_init__(self) -> None:
        policy = self.policy or ClaimPolicy(self.settle_at_nanoton, MAX_AMOUNT_NANOTON, 0)
        self.claims = Guard(self.chain, self.ledger, self.use, self.log, lambda: self.clock(), policy)

    # ---- answering clients ----

    async def handle(self, stream: HostStream) -> None:
        """Serve one stream of the channel protocol. Never raises on what a peer does."""
        peer = stream.peer_id
        with self._seats.taken(peer) as seated:
            if not seated:
                await stream.reset()
                return
            try:
                for _ in range(MESSAGES_PER_STREAM):
                    with trio.fail_after(STREAM_IDLE_S):
                        request = decode_message(await stream.receive(MAX_MESSAGE_BYTES))
                        await stream.send(encode_message(await self._answer(peer, request)))
            except (StreamError, WireError, trio.TooSlowError):
                await stream.reset()

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
        if not self._lookups.may(peer, self.clock()):
            return Refused("too many announcements; wait a minute")
        channel = terms.address()
        known = await self.ledger.run(lambda store: store.channel(channel))
        if known is not None and known.peer != peer:
            return Refused("this channel belongs to another client")
        if known is not None and known.status is not ChannelStatus.OPEN:
            return Refused(f"this channel is {known.status}; open another")
        try:
            state = await self.chain.client.channel_state(terms)
        except ChainUnavailable:
            if known is None:
                raise
            # It is served already, and the guard looks after it: an outage is no reason to stop.
            return Known(known.deposit_nanoton, known.paid_nanoton)
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

    async def _adopt(self, peer: PeerId, terms: ChannelTerms, state: ChannelState) -> Known | Refused:
        record = ChannelRecord(
            channel=terms.address(), role=Role.PAYEE, peer=peer, network_id=terms.network_id, terms=terms.to_bytes(),
            deposit_nanoton=state.deposit_nanoton, status=ChannelStatus.OPEN, opened_at=int(self.clock()),
            paid_nanoton=state.paid_nanoton,
        )  # fmt: skip

        def adopt(store: Store) -> bool:
            if len(store.live_channels(Role.PAYEE, peer=peer)) >= MAX_CHANNELS_PER_PEER:
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
        held = await self.claims.held(agreement.channel)
        if held is None or held.record.peer != peer or held.record.role is not Role.PAYEE:
            return Refused("no such channel")
        if held.record.status not in (ChannelStatus.OPEN, ChannelStatus.CLOSING):
            return Refused(f"the channel is {held.record.status}")
        least = max(held.sums.promised_nanoton, held.sums.owed_nanoton)
        if agreement.network_id != held.terms.network_id:
            return Refused("the close agreement is for another network")
        if not agreement.verify(held.terms.payer_key, signature):
            return Refused("your signature under the close agreement does not verify")
        if agreement.amount_nanoton < least:
            return Refused(f"{least} nanoTON is due, not {agreement.amount_nanoton}: send the last voucher first")
        if agreement.amount_nanoton > held.record.deposit_nanoton:
            return Refused("the sum is more than the deposit")
        if not self._lookups.may(peer, self.clock()):
            return Refused("too many messages about channels; wait a minute")
        # The contract goes by the chain's time, and so do both of us: neither machine's clock has a say.
        now = await self.chain.client.chain_time_s()
        if not now < agreement.valid_until_s <= now + 2 * CLOSE_VALID_S:
            return Refused("the close agreement is not for the next minutes")
        if not await self.use.freeze(agreement.channel):
            return Refused("jobs are running on this channel; wait for them, or cancel them")
        await self.claims.close_signed(agreement.channel, agreement.valid_until_s)
        self.claims.poke()
        return CloseSigned(agreement.sign(self.chain.channel_seed))

    # ---- watching the chain ----

    async def guard(self) -> None:
        """Look at every channel now and then, for ever (:meth:`Guard.run`)."""
        await self.claims.run()

    async def look(self) -> bool:
        """One round of :meth:`guard` (:meth:`Guard.look`)."""
        return await self.claims.look()

    async def claim(self, channel: str | None, *, close: bool) -> list[tuple[Held, TxResult]]:
        """What the owner orders by hand (:meth:`Guard.claim`)."""
        return await self.claims.claim(channel, close=close)

    async def leave(self, channel: str) -> Settlement:
        """Get out of one channel alone (:meth:`Guard.leave`)."""
        return await self.claims.leave(channel)
