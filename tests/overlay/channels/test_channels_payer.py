"""The client's rules: one channel, kept filled, found again after a crash, ended with or without the other side."""

from __future__ import annotations

import pytest

from overlay.channels.limits import EXPIRY_MARGIN_S, MAX_DEPOSIT_NANOTON, OPENING_GRACE_S
from overlay.errors import ChainError, ProviderGone, Unfunded
from overlay.settlement import ChainUnavailable, ChannelTerms, Wallet
from overlay.settlement.chain import WalletAccount, open_channel
from overlay.settlement.ledger import ChannelStatus
from overlay.settlement.limits import MIN_DEPOSIT_NANOTON

TON = 1_000_000_000


async def records(two):
    return await two.payer.ledger.run(lambda store: store.channels())


async def balance(two):
    return await two.payer.chain.account.balance_nanoton()


async def test_a_channel_is_opened_announced_and_used_again(two):
    first = await two.open()
    assert first.status is ChannelStatus.OPEN
    assert first.deposit_nanoton == TON // 2
    again = await two.open(spendable=TON // 2)
    assert again.channel == first.channel
    assert two.host.opened == 1, "announced once"
    assert await two.status(two.payee, first.channel) == "open"


async def test_what_a_provider_wants_at_least_is_put_in(two):
    record = await two.payer.ensure(two.whom, spendable_nanoton=1, min_deposit_nanoton=TON)
    assert record.deposit_nanoton == TON


async def test_a_channel_that_runs_low_is_topped_up_by_what_was_promised_and_more(two):
    record = await two.open()
    await two.promise(record.channel, TON // 2 - 10)
    filled = await two.open(spendable=100)
    assert filled.channel == record.channel
    assert filled.deposit_nanoton == TON
    assert len(await records(two)) == 1


async def test_a_channel_that_is_about_to_expire_is_not_used_for_new_jobs(two):
    record = await two.open()
    await two.net.advance(7 * 86_400 - EXPIRY_MARGIN_S + 10)
    assert (await two.open()).channel != record.channel


async def test_a_provider_with_a_new_wallet_gets_a_new_channel(two, net):
    record = await two.open()
    two.payee.chain = type(two.payee.chain)(
        "devnet", {}, two.payee.chain.client, two.payee.chain.account, next(net.seeds)
    )
    assert (await two.open()).channel != record.channel


async def test_more_than_the_most_is_never_put_into_one_channel(two):
    with pytest.raises(Unfunded, match="is the most"):
        await two.open(spendable=MAX_DEPOSIT_NANOTON + 1)
    assert await records(two) == []


async def test_an_empty_wallet_opens_nothing_and_is_told_where_to_send_money(two, net):
    chain_client = two.payer.chain.client
    empty = WalletAccount(chain_client, Wallet(next(net.seeds), chain_client.network_id))
    two.payer.chain = type(two.payer.chain)("testnet", {}, empty.client, empty, next(net.seeds))
    with pytest.raises(Unfunded) as caught:
        await two.open()
    assert empty.wallet.friendly_address() in str(caught.value)
    (record,) = await records(two)
    assert record.status is ChannelStatus.CLOSED, "it is known that nothing was sent"


async def test_a_provider_that_does_not_take_the_channel_is_left_and_the_channel_kept(two):
    two.payee.min_deposit_nanoton = TON
    with pytest.raises(ProviderGone, match="does not take the channel: the deposit is"):
        await two.open()
    (record,) = await records(two)
    assert record.status is ChannelStatus.OPEN, "the money is in it: it can be settled or left"
    two.payee.min_deposit_nanoton = 1
    assert (await two.open()).channel == record.channel


# ---- after a crash ----


async def test_a_crash_before_the_money_moved_leaves_nothing_behind(two, monkeypatch):
    async def crash(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("overlay.channels.payer.open_channel", crash)
    with pytest.raises(KeyboardInterrupt):
        await two.open()
    (record,) = await records(two)
    assert record.status is ChannelStatus.OPENING
    again = two.new_payer()
    assert not await again.recovered(), "there is more to come"
    assert await two.status(two.payer, record.channel) == "opening", "the wallet's message may still be on its way"
    again.clock = lambda: two.payer.clock() + OPENING_GRACE_S
    assert await again.recovered()
    assert await two.status(two.payer, record.channel) == "closed"


class Killed(BaseException):
    """The process ends here."""


def _before(*_arguments, **_options):
    raise Killed


def _after(function):
    async def call(*arguments, **options):
        await function(*arguments, **options)
        raise Killed

    return call


@pytest.mark.parametrize("point", ["nothing signed", "signed", "sent", "left the wallet", "open"])
async def test_an_opening_that_a_crash_cut_off_is_finished_by_whoever_needs_the_channel_next(two, monkeypatch, point):
    had, client = await balance(two), two.payer.chain.client
    with monkeypatch.context() as patched:
        if point == "nothing signed":
            patched.setattr("overlay.channels.payer.open_channel", _before)
        elif point == "signed":
            patched.setattr(client, "send_external", _before)
        elif point == "sent":
            patched.setattr(client, "send_external", _after(client.send_external))
        elif point == "left the wallet":
            patched.setattr("overlay.settlement.chain.operations._outcomes", _before)
        else:
            patched.setattr("overlay.channels.payer.open_channel", _after(open_channel))
        with pytest.raises(Killed):
            await two.open()
    (cut_off,) = await records(two)
    assert cut_off.status is ChannelStatus.OPENING
    two.payer = two.new_payer()
    record = await two.open()
    assert record.channel == cut_off.channel
    assert record.status is ChannelStatus.OPEN
    assert len(await records(two)) == 1
    state = await client.channel_state(ChannelTerms.from_bytes(record.terms))
    assert (state.status, state.deposit_nanoton) == ("open", TON // 2)
    assert had - await balance(two) < TON, "one deposit left the wallet"
    assert await two.status(two.payee, record.channel) == "open"


async def test_an_opening_that_the_contract_refused_has_come_to_nothing_and_another_is_made(two, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("overlay.settlement.chain.operations._outcomes", _before)
        with pytest.raises(Killed):
            await two.payer._open(two.whom, MIN_DEPOSIT_NANOTON - 1)
    (refused,) = await records(two)
    two.payer = two.new_payer()
    record = await two.open()
    assert record.channel != refused.channel
    assert await two.status(two.payer, refused.channel) == "closed"
    assert await two.status(two.payer, record.channel) == "open"


async def test_a_crash_after_the_money_moved_finds_the_channel_again(two, monkeypatch):
    async def crash(*arguments):
        await open_channel(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("overlay.channels.payer.open_channel", crash)
        with pytest.raises(KeyboardInterrupt):
            await two.open()
    two.payer = two.new_payer()
    await two.payer.recover()
    record = await two.open()
    assert len(await records(two)) == 1, "no second one is opened"
    assert record.deposit_nanoton == TON // 2
    assert await two.status(two.payee, record.channel) == "open"


async def test_a_node_that_starts_while_the_chain_is_away_says_so_and_looks_again(two, monkeypatch):
    async def silence(*_arguments, **_options):
        raise ChainUnavailable("no liteserver answers")

    record = await two.open()
    again = two.new_payer()
    with monkeypatch.context() as patched:
        patched.setattr(again.chain.client, "channel_state", silence)
        assert not await again.recovered()
    assert "trying again" in two.told[-1].text
    assert await two.status(two.payer, record.channel) == "open"
    assert await again.recovered()


async def test_a_crash_after_a_top_up_finds_the_deposit_on_chain(two, monkeypatch):
    record = await two.open()
    from overlay.channels import payer as module

    topped_up = module.top_up

    async def crash(*arguments):
        await topped_up(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "top_up", crash)
        with pytest.raises(KeyboardInterrupt):
            await two.open(spendable=TON)
    two.payer = two.new_payer()
    await two.payer.recover()
    found = await two.payer.ledger.run(lambda store: store.channel(record.channel))
    assert found.deposit_nanoton >= TON
    spent = await balance(two)
    assert (await two.open(spendable=TON)).channel == record.channel
    assert await balance(two) == spent, "it is not topped up twice"


async def test_a_channel_that_the_provider_closed_while_we_were_away_is_noted(two):
    record = await two.open()
    await two.promise(record.channel, 50)
    await two.payee.claim(None, close=True)
    await two.new_payer().recover()
    assert await two.status(two.payer, record.channel) == "closed"
    assert "not on this chain" in two.told[-1].text


# ---- ending ----


async def test_closing_together_pays_what_was_promised_and_returns_the_rest(two):
    record = await two.open()
    await two.promise(record.channel, 12_345)
    before = await two.payee.chain.account.balance_nanoton()
    ended = await two.payer.close_together(record.channel)
    assert (ended.paid_nanoton, ended.refund_nanoton) == (12_345, TON // 2 - 12_345)
    assert 12_345 - 5 <= await two.payee.chain.account.balance_nanoton() - before <= 12_345
    await two.payee.look()
    for desk in (two.payer, two.payee):
        assert await two.status(desk, record.channel) == "closed"
    with pytest.raises(ChainError, match="no live channel"):
        await two.payer.close_together(record.channel)


async def test_a_provider_that_does_not_agree_or_answer_leaves_the_channel_open(two):
    record = await two.open()
    two.jobs.running = True
    with pytest.raises(ProviderGone, match="jobs are running"):
        await two.payer.close_together(record.channel)
    assert await two.status(two.payer, record.channel) == "open"
    two.host.reachable = False
    with pytest.raises(ProviderGone, match="does not answer"):
        await two.payer.close_together(record.channel)
    assert await two.status(two.payer, record.channel) == "open"


async def test_a_close_that_did_not_reach_the_chain_is_done_by_asking_again(two, monkeypatch):
    record = await two.open()

    async def lost(*_arguments):
        raise ChainError("TON: no liteserver answers")

    with monkeypatch.context() as patched:
        patched.setattr("overlay.channels.payer.cooperative_close", lost)
        with pytest.raises(ChainError):
            await two.payer.close_together(record.channel)
    assert await two.status(two.payer, record.channel) == "closing", "the provider has signed: no job may start"
    assert (await two.payer.close_together(record.channel)).action == "closed"


async def test_leaving_alone_waits_for_the_challenge_and_gets_the_money_back(two):
    record = await two.open()
    started = await two.payer.leave(record.channel)
    assert (started.action, started.done) == ("refund started", False)
    assert "from 20" in two.told[-1].text, "it says when the money can be had"
    again = await two.payer.leave(record.channel)
    assert (again.action, again.done, again.next_at_s) == ("waiting", False, started.next_at_s)
    assert "by the same command" in again.text
    await two.net.advance(7 * 86_400 + 3601)
    before = await balance(two)
    ended = await two.payer.leave(record.channel)
    assert (ended.action, ended.refund_nanoton, ended.done) == ("refunded", TON // 2, True)
    assert await balance(two) - before > TON // 2 - TON // 10
    assert await two.status(two.payer, record.channel) == "closed"
    again = await two.payer.leave(record.channel)
    assert (again.action, again.paid_nanoton, again.refund_nanoton) == ("was closed", 0, TON // 2)


async def test_leaving_a_channel_that_is_closed_already_says_so(two):
    record = await two.open()
    await two.promise(record.channel, 50)
    await two.payee.claim(None, close=True)
    left = await two.payer.leave(record.channel)
    assert left.action == "was closed"
    assert (left.paid_nanoton, left.refund_nanoton) == (50, record.deposit_nanoton - 50)
    assert await two.status(two.payer, record.channel) == "closed"
