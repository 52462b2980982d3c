"""A watchtower on a real devnet: the payee is away, and gets every nanoTON that it had handed over, and no more."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import pytest
import trio

from overlay.channels.limits import CLAIM_MARGIN_S
from overlay.events import EventLog
from overlay.settlement import ChannelTerms, Voucher, Wallet
from overlay.settlement.cells import OP_PAYOUT
from overlay.settlement.chain import WalletAccount, start_refund
from overlay.settlement.ledger import ChannelStatus
from overlay.watchtower import Handover, TowerPolicy, Watchtower, open_tower_books, parse_towers
from overlay.watchtower.limits import (
    CLAIM_COST_NANOTON,
    EXPIRY_MARGIN_S,
    LOOK_INTERVAL_S,
    PATIENCE_S,
    REFUSED_AGAIN_S,
    REQUESTS_PER_PEER,
)
from overlay.watchtower.messages import NotWatching, Watch, Watching, encode_message
from transport.host.interface import StreamError
from transport.identity import Identity

TON = 1_000_000_000
EVERYTHING = 0
LIFE_S = 7 * 86_400


@dataclass
class TowerHost:
    """The payee's way to its tower; ``reachable`` may be switched off."""

    peer_id: str
    tower: Watchtower
    nursery: trio.Nursery
    pair: Callable
    reachable: bool = True
    opened: int = 0

    async def open_stream(self, peer, protocol, *, addrs=()):
        if not self.reachable or peer != self.tower.identity.peer_id:
            raise StreamError(f"{peer} does not answer")
        self.opened += 1
        ours, theirs = self.pair(self.peer_id, peer)
        self.nursery.start_soon(self.tower.handle, theirs)
        return ours


@dataclass
class Guarded:
    """The pair, a tower that serves the provider, and the provider's hand-over to it."""

    two: object
    tower: Watchtower
    handover: Handover
    host: TowerHost
    told: list
    path: object

    def kinds(self):
        return [event.kind for event in self.told]

    async def wallet(self):
        return await self.two.payee.chain.account.balance_nanoton()

    async def watched(self, channel):
        return await self.tower.books.run(lambda store: store.get(channel))

    async def claims(self):
        return await self.tower.books.run(lambda store: store.claims())

    async def state(self, channel):
        record = await self.two.payer.ledger.run(lambda store: store.channel(channel))
        terms = ChannelTerms.from_bytes(record.terms)
        return await self.tower.chain.client.channel_state(terms, was_open=True)


@pytest.fixture
async def guarded(two, net, tmp_path, fresh_chain, stream_pair):
    async with AsyncExitStack() as stack:
        path = tmp_path / "watchtower.sqlite3"
        books = await stack.enter_async_context(open_tower_books(path))
        nursery = await stack.enter_async_context(trio.open_nursery())
        chain = await fresh_chain(two.payee.chain.client, 5 * TON)
        told = []
        log = EventLog(told.append, net.clock)
        policy = TowerPolicy([two.provider.peer_id], TON)
        tower = Watchtower(Identity(next(net.seeds)), chain, books, policy, log, net.clock)
        host = TowerHost(two.provider.peer_id, tower, nursery, stream_pair)
        towers = parse_towers([f"/ip4/127.0.0.1/tcp/1/p2p/{tower.identity.peer_id}"])
        handover = Handover(
            two.provider, "main", host, towers, two.payee.claims.live, log, net.clock, hand_over_nanoton=1000
        )
        yield Guarded(two, tower, handover, host, told, path)
        nursery.cancel_scope.cancel()


async def leave_and_wait(guarded, record):
    """The client starts a refund while the provider is away, and the tower sees it twice."""
    await start_refund(guarded.two.payer.chain.account, ChannelTerms.from_bytes(record.terms))
    await guarded.tower.look()
    await guarded.two.net.advance(PATIENCE_S + LOOK_INTERVAL_S)
    await guarded.tower.look()


# ---- what it is for ----


async def test_a_provider_that_is_away_gets_every_nanoton_from_its_tower(guarded):
    two = guarded.two
    record = await two.open()
    await two.promise(record.channel, 123_456_789)
    await guarded.handover.hand_over(EVERYTHING)
    before = await guarded.wallet()
    await leave_and_wait(guarded, record)
    assert (await guarded.state(record.channel)).paid_nanoton == 123_456_789
    # The payout is whole; a wallet pays for its own transaction when it receives it, a few thousandths of a TON cent.
    payout = await payout_of(guarded, record.channel)
    assert payout == 123_456_789
    assert -1 <= before + payout - await guarded.wallet() < 200_000, "one nanoTON came with the news of the refund"
    # The client gets the rest, and not a nanoTON of what was promised.
    await two.net.advance(LIFE_S + 3601)
    left = await two.payer.leave(record.channel)
    assert (left.action, left.paid_nanoton, left.refund_nanoton) == ("refunded", 123_456_789, TON // 2 - 123_456_789)
    # And the provider, back at last, finds its books in order.
    await two.payee.look()
    found = await two.payee.ledger.run(lambda store: store.channel(record.channel))
    assert (found.status, found.paid_nanoton) == (ChannelStatus.CLOSED, 123_456_789)


async def payout_of(guarded, channel):
    account = guarded.two.payee.chain.account
    entries = await account.client.transactions(account.address)
    messages = [e.in_message for e in entries if e.in_message and e.in_message.source == channel]
    return sum(message.value_nanoton for message in messages if message.operation()[0] == OP_PAYOUT)


async def test_without_a_tower_a_provider_that_stays_away_loses_what_it_had_not_claimed_and_no_more(guarded):
    two = guarded.two
    record = await two.open()
    await two.promise(record.channel, 50_000_000)
    await two.payee.claim(None, close=False)
    await two.promise(record.channel, 53_000_000, seq=2)
    assert (await two.payer.leave(record.channel)).action == "refund started"
    await two.net.advance(LIFE_S + 3601)
    left = await two.payer.leave(record.channel)
    assert (left.paid_nanoton, left.refund_nanoton) == (50_000_000, TON // 2 - 50_000_000), "3 of 53 million were lost"
    await two.payee.look()
    found = await two.payee.ledger.run(lambda store: store.channel(record.channel))
    assert (found.status, found.paid_nanoton) == (ChannelStatus.CLOSED, 50_000_000)


async def test_with_both_away_the_tower_claims_before_the_channel_expires_and_later_nothing_is_lost(guarded):
    two = guarded.two
    record = await two.open()
    await two.promise(record.channel, 777_777)
    await guarded.handover.hand_over(EVERYTHING)
    await two.net.advance(LIFE_S - CLAIM_MARGIN_S)
    await guarded.tower.look()
    assert await guarded.claims() == [], "a payee that is there claims 30 minutes ahead by itself"
    await two.net.advance(CLAIM_MARGIN_S - EXPIRY_MARGIN_S + 10)
    await guarded.tower.look()
    (claim,) = await guarded.claims()
    assert (claim.channel, claim.amount_nanoton) == (record.channel, 777_777)
    # Both come back a year later, in any order.
    await two.net.advance(366 * 86_400)
    await two.payee.look()
    assert (await two.payer.leave(record.channel)).action == "refund started"
    await two.net.advance(3601)
    left = await two.payer.leave(record.channel)
    assert (left.paid_nanoton, left.refund_nanoton) == (777_777, TON // 2 - 777_777)


async def test_a_provider_that_is_there_is_quicker_and_costs_its_tower_nothing(guarded):
    two = guarded.two
    record = await two.open()
    await two.promise(record.channel, 1_000_000)
    await guarded.handover.hand_over(EVERYTHING)
    await start_refund(two.payer.chain.account, ChannelTerms.from_bytes(record.terms))
    await guarded.tower.look()
    await two.payee.look()
    await two.net.advance(PATIENCE_S + LOOK_INTERVAL_S)
    await guarded.tower.look()
    assert await guarded.claims() == []
    assert (await guarded.watched(record.channel)).ended_at is not None


async def test_a_tower_that_was_restarted_between_promise_and_refund_claims_all_the_same(guarded, net):
    two, old = guarded.two, guarded.tower
    record = await two.open()
    await two.promise(record.channel, 4_000_000)
    await guarded.handover.hand_over(EVERYTHING)
    await start_refund(two.payer.chain.account, ChannelTerms.from_bytes(record.terms))
    await old.look()
    async with open_tower_books(guarded.path) as books:
        again = Watchtower(old.identity, old.chain, books, old.policy, old.log, net.clock)
        await two.net.advance(PATIENCE_S + 5)
        await again.look()
    assert (await guarded.state(record.channel)).paid_nanoton == 4_000_000


async def test_the_tower_pays_the_gas_and_has_the_change_back(guarded):
    two = guarded.two
    record = await two.open()
    await two.promise(record.channel, 4_000_000)
    await guarded.handover.hand_over(EVERYTHING)
    before = await guarded.tower.chain.account.balance_nanoton()
    await leave_and_wait(guarded, record)
    (claim,) = await guarded.claims()
    spent = before - await guarded.tower.chain.account.balance_nanoton()
    assert 0 < claim.fee_nanoton < CLAIM_COST_NANOTON
    assert abs(spent - claim.fee_nanoton) < 1_000_000, "what it wrote down is what it cost"
    use = await guarded.tower.books.run(lambda store: store.use_of(two.provider.peer_id, since=0))
    assert (use.channels, use.spent_nanoton) == (1, claim.fee_nanoton)


# ---- when it is handed over ----


async def test_vouchers_are_handed_over_each_time_more_than_the_set_sum_is_at_stake(guarded):
    two = guarded.two
    record = await two.open()
    await two.promise(record.channel, 1000)
    await guarded.handover.hand_over(1000)
    assert guarded.host.opened == 0
    await two.promise(record.channel, 1001, seq=2)
    await guarded.handover.hand_over(1000)
    assert (await guarded.watched(record.channel)).amount_nanoton == 1001
    await two.promise(record.channel, 2001, seq=3)
    await guarded.handover.hand_over(1000)
    assert guarded.host.opened == 1
    held = await two.payee.claims.held(record.channel)
    assert guarded.handover.uncovered_nanoton(held) == 1000, "the most that can be lost"
    await guarded.handover.hand_over(EVERYTHING)
    assert (await guarded.watched(record.channel)).amount_nanoton == 2001


async def test_a_tower_that_boasts_of_more_than_it_was_given_is_handed_the_next_voucher_all_the_same(
    guarded, monkeypatch
):
    two = guarded.two
    record = await two.open()
    await two.promise(record.channel, 5000)
    watch = guarded.tower.watch

    async def boasting(peer, wanted):
        return replace(await watch(peer, wanted), amount_nanoton=2**62)

    with monkeypatch.context() as patched:
        patched.setattr(guarded.tower, "watch", boasting)
        await guarded.handover.hand_over(EVERYTHING)
    await two.promise(record.channel, 9000, seq=2)
    await guarded.handover.hand_over(EVERYTHING)
    assert (await guarded.watched(record.channel)).amount_nanoton == 9000


async def test_a_tower_that_comes_back_gets_everything(guarded):
    two = guarded.two
    record = await two.open()
    await two.promise(record.channel, 5000)
    guarded.host.reachable = False
    for _ in range(3):
        await guarded.handover.hand_over(EVERYTHING)
    assert guarded.kinds().count("tower_unreachable") == 1
    guarded.host.reachable = True
    await guarded.handover.hand_over(EVERYTHING)
    assert guarded.host.opened == 0, "not before its pause is over"
    await two.net.advance(301)
    await guarded.handover.hand_over(EVERYTHING)
    assert (await guarded.watched(record.channel)).amount_nanoton == 5000
    assert "handed_over" in guarded.kinds()


async def test_what_a_tower_refuses_is_offered_again_when_its_owner_may_have_acted(guarded):
    two = guarded.two
    record = await two.open()
    await two.promise(record.channel, 5000)
    policy, guarded.tower.policy = guarded.tower.policy, TowerPolicy([], TON)
    await guarded.handover.hand_over(EVERYTHING)
    assert "does not serve" in guarded.told[-1].data["reason"]
    guarded.tower.policy = policy
    await guarded.handover.hand_over(EVERYTHING)
    assert await guarded.watched(record.channel) is None
    await two.net.advance(REFUSED_AGAIN_S + 1)
    await guarded.handover.hand_over(EVERYTHING)
    assert (await guarded.watched(record.channel)).amount_nanoton == 5000


# ---- what it refuses ----


async def request(guarded, record, amount, seq=1, seed=None):
    two = guarded.two
    terms = ChannelTerms.from_bytes(record.terms)
    voucher = Voucher(record.channel, terms.network_id, seq, amount)
    return Watch(terms, voucher, voucher.sign(seed or two.payer.chain.channel_seed))


async def ask(guarded, wanted, peer=None):
    return await guarded.tower.watch(peer or guarded.two.provider.peer_id, wanted)


async def test_strangers_spent_allowances_and_empty_wallets_are_refused_with_the_reason(guarded, net):
    two, tower = guarded.two, guarded.tower
    record = await two.open()
    wanted = await request(guarded, record, 1000)
    answer = await ask(guarded, wanted, two.client.peer_id)
    assert isinstance(answer, NotWatching)
    assert "watchtower.serve" in answer.reason
    tower.policy = TowerPolicy(["*"], CLAIM_COST_NANOTON - 1)
    assert "allowance" in (await ask(guarded, wanted)).reason
    tower.policy = TowerPolicy(["*"], CLAIM_COST_NANOTON)
    funded = tower.chain
    empty = WalletAccount(funded.client, Wallet(next(net.seeds), funded.client.network_id))
    tower.chain = replace(funded, account=empty)
    assert "wallet is empty" in (await ask(guarded, wanted)).reason
    tower.chain = funded
    assert isinstance(await ask(guarded, wanted), Watching)
    other = await two.payer._open(two.whom, TON // 2)
    assert "allowance" in (await ask(guarded, await request(guarded, other, 1))).reason, "one claim is all it covers"


async def test_what_could_not_be_claimed_is_not_promised(guarded):
    two = guarded.two
    record = await two.open()
    terms = ChannelTerms.from_bytes(record.terms)
    nowhere = replace(terms, nonce=1)
    voucher = Voucher(nowhere.address(), terms.network_id, 1, 5)
    signature = voucher.sign(two.payer.chain.channel_seed)
    assert "absent on chain" in (await ask(guarded, Watch(nowhere, voucher, signature))).reason
    assert "above the deposit" in (await ask(guarded, await request(guarded, record, TON))).reason
    short = replace(terms, challenge_period_s=599)
    voucher = Voucher(short.address(), terms.network_id, 1, 5)
    answer = await ask(guarded, Watch(short, voucher, voucher.sign(two.payer.chain.channel_seed)))
    assert "too short" in answer.reason
    assert await guarded.tower.books.run(lambda store: store.count()) == 0


async def test_a_lower_voucher_changes_nothing_and_a_higher_one_needs_a_deposit_that_covers_it(guarded):
    two = guarded.two
    record = await two.open()
    assert (await ask(guarded, await request(guarded, record, 5000, 2))).amount_nanoton == 5000
    for amount, seq in ((4000, 1), (4000, 3), (6000, 2)):
        answer = await ask(guarded, await request(guarded, record, amount, seq))
        assert (answer.seq, answer.amount_nanoton) == (2, 5000)
    assert "above the deposit" in (await ask(guarded, await request(guarded, record, TON, 4))).reason
    assert (await guarded.watched(record.channel)).amount_nanoton == 5000
    bigger = await two.open(spendable=TON)
    answer = await ask(guarded, await request(guarded, bigger, TON, 4))
    assert answer.amount_nanoton == TON, "after a top-up it is"


async def test_a_channel_watched_for_one_is_not_taken_over_by_another(guarded):
    two = guarded.two
    record = await two.open()
    guarded.tower.policy = TowerPolicy(["*"], TON)
    await ask(guarded, await request(guarded, record, 5000))
    answer = await ask(guarded, await request(guarded, record, 6000, 2), two.client.peer_id)
    assert answer == NotWatching(record.channel, "this channel is watched for another")


async def test_a_stream_with_rubbish_or_somebody_elses_signature_ends_and_stores_nothing(guarded):
    two = guarded.two
    record = await two.open()
    good, tower = await request(guarded, record, 5000), guarded.tower.identity.peer_id
    forged = await request(guarded, record, 5000, seed=bytes(32))
    answer = Watching(record.channel, -667, 1, 5, 1)
    for data in (
        b"", b"\x00", encode_message(two.client, tower, good), encode_message(two.provider, two.client.peer_id, good),
        encode_message(two.provider, tower, forged), encode_message(two.provider, tower, answer),
    ):  # fmt: skip
        stream = await guarded.host.open_stream(tower, "watchtower")
        await stream.send(data)
        with pytest.raises(StreamError), trio.fail_after(5):
            await stream.receive(4096)
    assert await guarded.tower.books.run(lambda store: store.count()) == 0
    assert not len(guarded.tower._seats)


async def test_requests_are_rationed_for_each_peer(guarded):
    tower, peer = guarded.tower, guarded.two.provider.peer_id

    def may_ask(whom):
        return tower._requests.may(whom, tower.clock())

    assert all(may_ask(peer) for _ in range(REQUESTS_PER_PEER))
    assert not may_ask(peer)
    assert may_ask(guarded.two.client.peer_id)
    await guarded.two.net.advance(61)
    assert may_ask(peer)
