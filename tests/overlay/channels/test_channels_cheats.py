"""Cheats and accidents between two parties, in the real TVM: who is away, whose clock is wrong, who is quicker."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import trio

from overlay.channels.limits import (
    CLAIM_ATTACHED_NANOTON,
    CLAIM_MARGIN_S,
    CLAIM_RESERVE_NANOTON,
    CLOSE_MARGIN_S,
    MAX_CLOCK_SKEW_S,
    REFUSED_PAUSE_S,
)
from overlay.errors import ConfigError
from overlay.settlement import ChannelTerms, OperationFailed, ProofRejected, Transfer, Voucher, Wallet
from overlay.settlement.chain import ChannelRefused, TonClient, WalletAccount, claim, start_refund
from overlay.settlement.ledger import ChannelRecord, ChannelStatus, Role

TON = 1_000_000_000
LIFE_S = 7 * 86_400


async def book(desk, channel):
    return await desk.ledger.run(lambda store: store.channel(channel))


def terms_of(record):
    return ChannelTerms.from_bytes(record.terms)


async def on_chain(two, record):
    return await two.payee.chain.client.channel_state(terms_of(record), was_open=True)


# ---- whoever is quicker ----


async def test_a_claim_in_flight_while_a_refund_starts_pays_the_provider_whichever_comes_first(two):
    """Both messages leave at once, several times over; the contract takes claims while it is closing."""
    for amount in (1_000_000, 2_000_000):
        two.payer = two.new_payer()
        record = await two.payer._open(two.whom, TON // 2)
        await two.promise(record.channel, amount)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start_refund, two.payer.chain.account, terms_of(record))
            nursery.start_soon(partial(two.payee.claim, record.channel, close=False))
        state = await on_chain(two, record)
        assert (state.status, state.paid_nanoton) == ("closing", amount)


async def test_a_provider_that_closes_while_the_client_starts_a_refund_gets_its_due_and_the_client_the_rest(two):
    record = await two.open()
    await two.promise(record.channel, 5_000_000)
    left = {}

    async def leave(name, desk):
        left[name] = await desk.leave(record.channel)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave, "client", two.payer)
        nursery.start_soon(leave, "provider", two.payee)
    assert left["provider"].action == "closed"
    assert left["client"].action in ("refund started", "was closed")
    again = await two.payer.leave(record.channel)
    assert (again.action, again.paid_nanoton, again.refund_nanoton) == ("was closed", 5_000_000, TON // 2 - 5_000_000)


async def test_leaving_twice_at_once_is_leaving_once(two):
    record = await two.open()
    seen = []

    async def leave():
        seen.append(await two.payer.leave(record.channel))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(leave)
    assert sorted(each.action for each in seen) == ["refund started", "waiting", "waiting"]
    assert len({each.next_at_s for each in seen}) == 1


async def test_a_second_process_that_was_quicker_makes_no_error(two, monkeypatch):
    """Two clients of one ledger that know nothing of each other: the second refund is refused by the contract."""
    record = await two.open()
    other = two.new_payer()
    asked = trio.Event()
    state_of = other.leaving._state

    async def slow(of):
        state = await state_of(of)
        if not asked.is_set():
            asked.set()
            await two.payer.leave(record.channel)
        return state

    monkeypatch.setattr(other.leaving, "_state", slow)
    assert (await other.leave(record.channel)).action == "waiting"


async def test_a_provider_leaves_alone_and_saying_it_again_says_how_it_ended(two):
    record = await two.open()
    left = await two.payee.leave(record.channel)
    assert (left.action, left.done) == ("nothing to claim", True)
    await two.promise(record.channel, 9_000_000)
    left = await two.payee.leave(record.channel)
    assert (left.action, left.paid_nanoton, left.gained_nanoton) == ("closed", 9_000_000, 9_000_000)
    again = await two.payee.leave(record.channel)
    assert (again.action, again.paid_nanoton, again.fee_nanoton) == ("was closed", 9_000_000, 0)
    with pytest.raises(ConfigError, match="no channel"):
        await two.payee.leave("0:" + "ab" * 32)
    with pytest.raises(ConfigError, match="no channel"):
        await two.payer.leave("0:" + "ab" * 32)


# ---- crashes ----


async def test_a_provider_that_dies_between_claim_and_ledger_finds_it_on_chain_and_closes(two, monkeypatch):
    record = await two.open()
    await two.promise(record.channel, 9_000_000)

    async def dies(*_arguments, **_named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(two.payee.claims, "_note_paid", dies)
        with pytest.raises(KeyboardInterrupt):
            await two.payee.leave(record.channel)
    assert (await book(two.payee, record.channel)).status is ChannelStatus.OPEN
    again = await two.payee.leave(record.channel)
    assert (again.action, again.paid_nanoton) == ("was closed", 9_000_000)


async def test_a_client_that_dies_between_refund_and_ledger_knows_later_what_came_back(two, monkeypatch):
    record = await two.open()
    await two.promise(record.channel, 90_000_000)
    await two.payer.leave(record.channel)
    await two.net.advance(LIFE_S + 3601)

    async def dies(*_arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(two.payer.leaving, "ended", dies)
        with pytest.raises(KeyboardInterrupt):
            await two.payer.leave(record.channel)
    assert (await book(two.payer, record.channel)).status is ChannelStatus.CLOSING
    again = await two.new_payer().leave(record.channel)
    assert (again.action, again.paid_nanoton, again.refund_nanoton) == ("was closed", 0, TON // 2)


# ---- clocks ----


@pytest.mark.parametrize("skew_s", [-MAX_CLOCK_SKEW_S, MAX_CLOCK_SKEW_S], ids=["slow", "fast"])
async def test_a_provider_whose_clock_is_ten_minutes_wrong_claims_before_every_deadline(two, skew_s):
    two.payee.clock = lambda: two.clock() + skew_s
    expiring = await two.open()
    await two.promise(expiring.channel, 1000)
    await two.net.advance(LIFE_S - CLAIM_MARGIN_S + 10)
    await two.payee.look()
    assert (await book(two.payee, expiring.channel)).paid_nanoton == 1000
    two.payer = two.new_payer()
    leaving = await two.payer._open(two.whom, TON // 2)
    await two.promise(leaving.channel, 2000)
    two.jobs.running = True
    await two.payer.leave(leaving.channel)
    await two.payee.look()
    assert (await book(two.payee, leaving.channel)).status is ChannelStatus.CLOSING, "running jobs may earn more"
    await two.net.advance(LIFE_S + 3600 - CLOSE_MARGIN_S + 10)
    await two.payee.look()
    assert (await book(two.payee, leaving.channel)).paid_nanoton == 2000, "but never into the last minutes"


@pytest.mark.parametrize("skew_s", [-MAX_CLOCK_SKEW_S, MAX_CLOCK_SKEW_S], ids=["slow", "fast"])
async def test_a_node_whose_clock_goes_wrong_while_it_runs_claims_before_the_deadline_all_the_same(two, net, skew_s):
    skew = [0]

    def clock():
        return net.clock() + skew[0]

    async with TonClient.connect(net.devnet.global_config(), clock=clock) as client:
        chain = two.payee.chain
        two.payee.claims.chain = replace(chain, client=client, account=WalletAccount(client, chain.account.wallet))
        two.payee.clock = clock
        record = await two.open()
        await two.promise(record.channel, 1000)
        skew[0] = skew_s
        await two.net.advance(LIFE_S - CLAIM_MARGIN_S + 10)
        await two.payee.look()
        assert (await book(two.payee, record.channel)).paid_nanoton == 1000


@pytest.mark.parametrize("who", ["payer", "payee"])
@pytest.mark.parametrize("skew_s", [-MAX_CLOCK_SKEW_S, MAX_CLOCK_SKEW_S], ids=["slow", "fast"])
async def test_two_whose_clocks_are_ten_minutes_apart_close_together_all_the_same(two, who, skew_s):
    desk = getattr(two, who)
    desk.clock = lambda: two.clock() + skew_s
    record = await two.open()
    await two.promise(record.channel, 1000)
    ended = await two.payer.close_together(record.channel)
    assert (ended.action, ended.paid_nanoton) == ("closed", 1000)


async def test_a_signed_close_may_run_out_only_by_the_chains_time(two):
    record = await two.open()
    two.payee.clock = lambda: two.clock() + 10 * 86_400
    await two.payee.claims.close_signed(record.channel, int(two.clock()) + 300)
    await two.payee.look()
    assert await two.status(two.payee, record.channel) == "closing", "it can still be used: nothing is served"
    await two.net.advance(301)
    await two.payee.look()
    assert await two.status(two.payee, record.channel) == "open"


# ---- many channels, little money ----


async def opened(two, count, amount):
    records = []
    for _ in range(count):
        two.payer = two.new_payer()
        record = await two.payer._open(two.whom, TON // 10)
        await two.promise(record.channel, amount)
        records.append(record)
    return records


async def test_an_old_channel_is_guarded_however_many_came_after_it(two):
    (record,) = await opened(two, 1, TON // 10)
    terms = terms_of(record)

    def crowd(store):
        for number in range(1001):
            other = replace(terms, nonce=number)
            store.add_channel(
                ChannelRecord(
                    f"0:{number:064x}", Role.PAYEE, two.client.peer_id, other.network_id, other.to_bytes(), TON,
                    ChannelStatus.CLOSED, 0, closed_at=1,
                )
            )  # fmt: skip

    await two.payee.ledger.run(crowd)
    await two.payee.look()
    assert (await book(two.payee, record.channel)).paid_nanoton == TON // 10


async def test_many_claims_go_out_in_one_message(two):
    records = await opened(two, 5, TON // 100)
    done = await two.payee.claim(None, close=False)
    assert len({result.hash for _, result in done}) == 1
    assert {held.record.channel for held, _ in done} == {record.channel for record in records}
    assert [(await on_chain(two, record)).paid_nanoton for record in records] == [TON // 100] * len(records)
    together = sum(result.fee_nanoton for _, result in done)
    alone = 0
    for record in records[:1]:
        await two.promise(record.channel, TON // 50, seq=2)
        ((_, result),) = await two.payee.claim(record.channel, close=False)
        alone = result.fee_nanoton
    assert together < 5 * alone


async def test_a_wallet_that_cannot_attach_enough_for_all_claims_them_one_after_the_other(two):
    records = await opened(two, 3, TON // 100)
    # The provider's money is what it has not claimed yet: its wallet holds enough for one or two claims only.
    chain = two.payee.chain
    rest = await chain.account.balance_nanoton() - CLAIM_RESERVE_NANOTON - 3 * CLAIM_ATTACHED_NANOTON // 2
    await chain.account.transfer([Transfer(two.payer.chain.account.address, rest, bounce=False)])
    done = await two.payee.claim(None, close=False)
    assert len(done) == 3
    assert len({result.hash for _, result in done}) >= 2
    assert [(await on_chain(two, record)).paid_nanoton for record in records] == [TON // 100] * len(records)


async def test_one_claim_that_is_refused_does_not_keep_the_others_from_being_noted(two):
    records = await opened(two, 3, TON // 100)
    held = await two.payee.claims.held(records[0].channel)
    # Somebody relays the first one just before: the batch contains a claim that brings nothing new.
    voucher = Voucher(held.record.channel, held.terms.network_id, held.voucher.seq, held.voucher.amount_nanoton)
    await claim(two.payer.chain.account, held.terms, voucher, held.voucher.signature)
    with pytest.raises(ChannelRefused):
        await two.payee.claim(None, close=False)
    await two.payee.look()
    for record in records:
        assert (await book(two.payee, record.channel)).paid_nanoton == TON // 100
    await two.net.advance(REFUSED_PAUSE_S + 1)
    await two.payee.look()
    assert two.kinds().count("settled") == 3, "each is told once"


async def test_a_channel_whose_state_cannot_be_proved_does_not_keep_the_others_from_being_claimed(two, monkeypatch):
    bad, good = await opened(two, 2, TON // 10)
    state_of = two.payee.chain.client.channel_state

    async def lying(terms, **named):
        if terms.address() == bad.channel:
            raise ProofRejected("a liteserver lies")
        return await state_of(terms, **named)

    monkeypatch.setattr(two.payee.chain.client, "channel_state", lying)
    await two.payee.look()
    assert (await book(two.payee, good.channel)).paid_nanoton == TON // 10
    assert (await book(two.payee, bad.channel)).paid_nanoton == 0


async def test_an_empty_wallet_is_told_of_and_claims_once_it_is_filled(two, net):
    (record,) = await opened(two, 1, TON // 10)
    chain = two.payee.chain
    empty = WalletAccount(chain.client, Wallet(next(net.seeds), chain.client.network_id))
    two.payee.claims.chain = type(chain)("devnet", {}, chain.client, empty, chain.channel_seed)
    with pytest.raises(OperationFailed, match="send it"):
        await two.payee.look()
    two.payee.claims.chain = chain
    await two.payee.look()
    assert (await book(two.payee, record.channel)).paid_nanoton == TON // 10
