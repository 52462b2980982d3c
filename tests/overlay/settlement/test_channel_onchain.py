"""The channel contract in the real TVM, through the real client: who gets what, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from nacl.signing import SigningKey

from overlay.settlement import CloseAgreement, OperationFailed, Transfer, Voucher, Wallet, channel_public_key
from overlay.settlement import limits as bounds
from overlay.settlement.cells import OP_PAYOUT, OP_REFUND, answered, start_refund_body, top_up_body
from overlay.settlement.chain import (
    ChannelRefused,
    Claim,
    WalletAccount,
    claim,
    claim_many,
    cooperative_close,
    finish_refund,
    open_channel,
    start_refund,
    top_up,
)

TON = 10**9
DAY_S = 86_400


def voucher(parties: Any, seq: int, amount_nanoton: int, **changes: Any) -> Voucher:
    return replace(Voucher(parties.terms.address(), parties.terms.network_id, seq, amount_nanoton), **changes)


def signed(parties: Any, seq: int, amount_nanoton: int, **changes: Any) -> tuple[Voucher, bytes]:
    made = voucher(parties, seq, amount_nanoton, **changes)
    return made, made.sign(parties.payer_seed)


async def payouts(parties: Any, receiver: str, op: int = OP_PAYOUT) -> list[int]:
    """What the messages with this operation that the channel ever sent to ``receiver`` pay, change not counted."""
    history = await parties.net.history(parties.terms.address())
    sent = [
        message
        for transaction in history
        for message in transaction.out_messages
        if message.destination == receiver and (message.operation() or (0, 0))[0] == op
    ]
    amounts = [answered(message) for message in sent]
    assert all(message.value_nanoton >= amount for message, amount in zip(sent, amounts, strict=True))
    return amounts


def less_rent(actual: int, expected: int) -> bool:
    """Whether ``actual`` is ``expected`` less a minute's rent at most: a channel pays 0.33 nanoTON a second."""
    return 0 <= expected - actual <= 16


async def refuse(code: int, coroutine: Any) -> None:
    with pytest.raises(ChannelRefused) as caught:
        await coroutine
    assert caught.value.exit_code == code


async def test_opening_deploys_the_channel_with_its_deposit_and_rent_reserve(parties: Any) -> None:
    assert (await parties.client.channel_state(parties.terms)).status == "absent"
    result = await open_channel(parties.payer, parties.terms, 10 * TON)
    assert result.state.status == "open"
    assert result.state.deposit_nanoton == result.state.spendable_nanoton == 10 * TON
    assert less_rent(result.state.balance_nanoton, 10 * TON + bounds.RENT_RESERVE_NANOTON)


async def test_an_operations_fee_is_what_the_balance_lost_beyond_what_moved(parties: Any) -> None:
    before = await parties.payer.balance_nanoton()
    result = await open_channel(parties.payer, parties.terms, 10 * TON)
    after = await parties.payer.balance_nanoton()
    (receipt,) = await parties.client.transactions(parties.payer.address, after_lt=result.lt)
    # Taking the change in costs the wallet a little gas, which is the next transaction's fee.
    assert before - after == 10 * TON + bounds.RENT_RESERVE_NANOTON + result.fee_nanoton + receipt.fee_nanoton


async def test_topping_up_adds_to_the_deposit(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, TON)
    result = await top_up(parties.payer, parties.terms, 4 * TON)
    assert result.state.deposit_nanoton == 5 * TON
    assert less_rent(result.state.balance_nanoton, 5 * TON + bounds.RENT_RESERVE_NANOTON)


async def test_the_payee_gets_each_vouchers_increase_to_the_nanoton(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, 10 * TON)
    first = await claim(parties.payee, parties.terms, *signed(parties, 1, 1_234_567_891))
    assert first.state.paid_nanoton == 1_234_567_891
    await claim(parties.payee, parties.terms, *signed(parties, 5, 1_234_567_892))
    assert await payouts(parties, parties.payee.address) == [1_234_567_891, 1]
    state = await parties.client.channel_state(parties.terms)
    assert less_rent(state.balance_nanoton, 10 * TON + bounds.RENT_RESERVE_NANOTON - 1_234_567_892)


async def test_anyone_may_relay_a_claim_and_only_the_payee_gains(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, 10 * TON)
    result = await claim(parties.payer, parties.terms, *signed(parties, 1, 3 * TON))
    assert await payouts(parties, parties.payee.address) == [3 * TON]
    assert less_rent(result.state.balance_nanoton, 7 * TON + bounds.RENT_RESERVE_NANOTON)


async def test_a_replayed_voucher_is_refused(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, 10 * TON)
    used = signed(parties, 2, TON)
    await claim(parties.payee, parties.terms, *used)
    await refuse(105, claim(parties.payee, parties.terms, *used))
    await refuse(105, claim(parties.payee, parties.terms, *signed(parties, 1, TON // 2)))
    await refuse(105, claim(parties.payee, parties.terms, *signed(parties, 3, TON)))
    assert await payouts(parties, parties.payee.address) == [TON]


async def test_a_voucher_over_the_deposit_is_refused(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, TON)
    await refuse(106, claim(parties.payee, parties.terms, *signed(parties, 1, TON + 1)))
    assert (await claim(parties.payee, parties.terms, *signed(parties, 1, TON))).state.spendable_nanoton == 0


async def test_a_foreign_signature_is_refused(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, TON)
    made = voucher(parties, 1, TON)
    await refuse(104, claim(parties.payee, parties.terms, made, made.sign(parties.payee_seed)))


async def test_a_voucher_of_another_channel_or_network_is_refused(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, TON)
    await refuse(110, claim(parties.payee, parties.terms, *signed(parties, 1, TON, channel="0:" + "77" * 32)))
    await refuse(110, claim(parties.payee, parties.terms, *signed(parties, 1, TON, network_id=-239)))


async def test_a_close_agreement_is_no_voucher(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, TON)
    agreement = CloseAgreement(parties.terms.address(), parties.terms.network_id, TON, 2**32 - 1)
    with pytest.raises(ChannelRefused):  # its cell does not even parse as a voucher
        await claim(parties.payee, parties.terms, agreement, agreement.sign(parties.payer_seed))  # type: ignore[arg-type]  # wrong on purpose


async def test_only_the_payee_closes_with_a_voucher(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, 10 * TON)
    await refuse(102, claim(parties.payer, parties.terms, *signed(parties, 1, TON), close=True))
    result = await claim(parties.payee, parties.terms, *signed(parties, 1, TON), close=True)
    assert result.state.status == "closed"
    assert await payouts(parties, parties.payee.address) == [TON]
    (refund,) = await payouts(parties, parties.payer.address, OP_REFUND)
    assert less_rent(refund, 9 * TON + bounds.RENT_RESERVE_NANOTON)


async def test_a_relayed_voucher_still_serves_the_payee_to_close(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, 10 * TON)
    last = signed(parties, 4, TON)
    await claim(parties.payer, parties.terms, *last)
    assert (await claim(parties.payee, parties.terms, *last, close=True)).state.status == "closed"
    assert await payouts(parties, parties.payee.address) == [TON, 0]  # the second brings only the change


async def test_a_cooperative_close_pays_both_at_once(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, 10 * TON)
    await claim(parties.payee, parties.terms, *signed(parties, 1, TON))
    valid_until = await parties.client.chain_time_s() + 60
    agreement = CloseAgreement(parties.terms.address(), parties.terms.network_id, 4 * TON, valid_until)
    signatures = agreement.sign(parties.payer_seed), agreement.sign(parties.payee_seed)
    await refuse(104, cooperative_close(parties.payer, parties.terms, agreement, signatures[0], signatures[0]))
    result = await cooperative_close(parties.payer, parties.terms, agreement, *signatures)
    assert result.state.status == "closed"
    assert await payouts(parties, parties.payee.address) == [TON, 3 * TON]
    (refund,) = await payouts(parties, parties.payer.address, OP_REFUND)
    assert less_rent(refund, 6 * TON + bounds.RENT_RESERVE_NANOTON)


async def test_a_close_agreement_out_of_date_or_out_of_range_is_refused(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, 10 * TON)
    await claim(parties.payee, parties.terms, *signed(parties, 1, 2 * TON))
    now = await parties.client.chain_time_s()
    for code, amount, valid_until in (
        (109, 3 * TON, now - 1),
        (105, 2 * TON - 1, now + 60),
        (106, 10 * TON + 1, now + 60),
    ):
        made = CloseAgreement(parties.terms.address(), parties.terms.network_id, amount, valid_until)
        both = made.sign(parties.payer_seed), made.sign(parties.payee_seed)
        await refuse(code, cooperative_close(parties.payee, parties.terms, made, *both))


async def test_the_payer_is_refunded_after_expiry_and_challenge(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, 10 * TON)
    started = await start_refund(parties.payer, parties.terms)
    assert started.state.status == "closing"
    assert started.state.close_at_s == parties.terms.expiry_s + parties.terms.challenge_period_s
    await refuse(107, finish_refund(parties.payer, parties.terms))
    # The payee answers the challenge: nothing that it earned is lost.
    await claim(parties.payee, parties.terms, *signed(parties, 1, 2 * TON))
    await parties.net.advance(3600 + 600 + 1)
    result = await finish_refund(parties.payer, parties.terms)
    assert result.state.status == "closed"
    (refund,) = await payouts(parties, parties.payer.address, OP_REFUND)
    rent = 8 * TON + bounds.RENT_RESERVE_NANOTON - refund
    assert 0 < rent < 10_000  # two hours of storage
    assert await payouts(parties, parties.payee.address) == [2 * TON]


async def test_a_refund_asked_after_the_expiry_still_leaves_the_whole_challenge_period(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, TON)
    await parties.net.advance(2 * 3600)
    started = await start_refund(parties.payer, parties.terms)
    assert started.state.close_at_s >= started.utime_s + parties.terms.challenge_period_s


async def test_a_closing_channel_takes_no_money_and_no_second_refund(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, TON)
    await start_refund(parties.payer, parties.terms)
    await refuse(103, top_up(parties.payer, parties.terms, TON))
    await refuse(103, start_refund(parties.payer, parties.terms))


async def test_an_open_channel_cannot_be_refunded_at_once(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, TON)
    await refuse(103, finish_refund(parties.payer, parties.terms))


async def test_a_stranger_can_neither_top_up_nor_refund(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, TON)
    await refuse(101, top_up(parties.payee, parties.terms, TON))
    await refuse(101, start_refund(parties.payee, parties.terms))


async def test_an_expired_channel_takes_no_top_up(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, TON)
    await parties.net.advance(3601)
    await refuse(109, top_up(parties.payer, parties.terms, TON))


@pytest.mark.parametrize(
    "change",
    [
        {"network_id": -239},
        {"challenge_period_s": 30 * DAY_S, "expiry_s": 1},
        {"expiry_s": 4_000_000_000},
    ],
    ids=["another network", "expired", "too long a life"],
)
async def test_a_channel_with_bad_terms_takes_no_money(parties: Any, change: dict[str, int]) -> None:
    terms = replace(parties.terms, **change)
    with pytest.raises(ChannelRefused):
        await open_channel(parties.payer, terms, TON)
    state = await parties.client.channel_state(terms)
    assert (state.status, state.balance_nanoton) == ("absent", 0)


async def test_a_deposit_below_the_least_is_refused(parties: Any) -> None:
    with pytest.raises(ChannelRefused):
        await open_channel(parties.payer, parties.terms, bounds.MIN_DEPOSIT_NANOTON - 1)
    opened = await open_channel(parties.payer, parties.terms, bounds.MIN_DEPOSIT_NANOTON)
    assert opened.state.status == "open"


async def test_a_fresh_wallet_with_a_fifth_of_a_ton_can_begin_to_buy(net: Any, client: Any, make: Any) -> None:
    """All in: the least deposit, the rent reserve, the attached value, the wallet's deployment and its fees."""
    parties = await make(net, client)
    buyer = WalletAccount(client, Wallet(net.fresh_seed(), client.network_id))
    await net.call(net.devnet.fund, buyer.address, TON // 5)
    terms = replace(parties.terms, payer=buyer.address)
    opened = await open_channel(buyer, terms, bounds.MIN_DEPOSIT_NANOTON)
    assert opened.state.spendable_nanoton == bounds.MIN_DEPOSIT_NANOTON
    bought = Voucher(terms.address(), terms.network_id, 1, bounds.MIN_DEPOSIT_NANOTON)
    await claim(parties.payee, terms, bought, bought.sign(parties.payer_seed), close=True)
    assert await buyer.balance_nanoton() > 0


async def test_a_top_up_without_an_answer_leaves_its_change_in_the_channel(parties: Any) -> None:
    value = TON + bounds.RENT_RESERVE_NANOTON + bounds.ATTACHED_NANOTON
    terms = parties.terms
    await parties.payer.transfer([Transfer(terms.address(), value, top_up_body(0, TON), terms.state_init())])
    while (state := await parties.client.channel_state(terms)).status == "absent":
        await parties.client.next_block()
    assert state.deposit_nanoton == TON
    (transaction,) = await parties.net.history(terms.address())
    assert transaction.out_messages == ()
    assert less_rent(state.balance_nanoton, value - transaction.fee_nanoton)
    result = await claim(parties.payee, terms, *signed(parties, 1, TON // 2), close=True)
    assert result.state.status == "closed"
    (refund,) = await payouts(parties, parties.payer.address, OP_REFUND)
    assert less_rent(refund, value - transaction.fee_nanoton - TON // 2)


async def test_too_little_attached_value_is_refused(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, TON)
    address = parties.terms.address()
    short = Transfer(address, bounds.ATTACHED_MIN_NANOTON - 1, start_refund_body(1))
    # One nanoTON less than the deposit and the least attached value, and nothing left over in the channel to make up.
    bare = Transfer(address, TON + bounds.ATTACHED_MIN_NANOTON - 1_000_000, top_up_body(2, TON))
    await parties.payer.transfer([short, bare])
    codes = [transaction.exit_code for transaction in (await parties.net.history(address))[-2:]]
    assert codes == [108, 108]
    assert (await parties.client.channel_state(parties.terms)).status == "open"


async def test_a_plain_transfer_bounces(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, TON)
    before = (await parties.client.channel_state(parties.terms)).balance_nanoton
    await parties.payee.transfer([Transfer(parties.terms.address(), TON // 10)])
    assert less_rent((await parties.client.channel_state(parties.terms)).balance_nanoton, before)


async def test_an_external_message_costs_the_channel_nothing(parties: Any) -> None:
    await open_channel(parties.payer, parties.terms, TON)
    before = await parties.client.account_state(parties.terms.address())
    from pytoniq_core import ExternalMsgInfo, MessageAny

    from overlay.settlement.cells import address_of

    info = ExternalMsgInfo(None, address_of(parties.terms.address()), 0)
    message = MessageAny(info=info, init=None, body=start_refund_body(1)).serialize()
    with pytest.raises(OperationFailed, match="exitcode=11"):
        await parties.client.send_external(message.to_boc())
    after = await parties.client.account_state(parties.terms.address())
    assert after.balance_nanoton == before.balance_nanoton
    assert after.last_lt == before.last_lt


async def test_a_bounced_message_does_nothing(parties: Any) -> None:
    # A wallet cannot forge the bounced flag; a message to an account that refuses it comes back bounced to the wallet.
    await open_channel(parties.payer, parties.terms, TON)
    await refuse(104, claim(parties.payee, parties.terms, voucher(parties, 1, TON), bytes(64)))
    assert (await parties.client.channel_state(parties.terms)).paid_nanoton == 0


async def test_rent_never_eats_into_the_payees_money(net: Any, client: Any, make: Any) -> None:
    parties = await make(net, client, lifetime_s=bounds.MAX_LIFETIME_S - 60, challenge_s=bounds.MAX_CHALLENGE_PERIOD_S)
    await open_channel(parties.payer, parties.terms, 10 * TON)
    await start_refund(parties.payer, parties.terms)
    await net.advance(bounds.MAX_LIFETIME_S + bounds.MAX_CHALLENGE_PERIOD_S)
    # The whole deposit, thirteen months later, while the refund is already due.
    await claim(parties.payee, parties.terms, *signed(parties, 1, 10 * TON))
    assert await payouts(parties, parties.payee.address) == [10 * TON]
    left = await client.channel_state(parties.terms)
    assert 0 < left.balance_nanoton < bounds.RENT_RESERVE_NANOTON
    await finish_refund(parties.payer, parties.terms)
    assert await payouts(parties, parties.payer.address, OP_REFUND) != []


async def test_many_claims_fit_one_wallet_message(net: Any, client: Any, make: Any) -> None:
    parties = await make(net, client)
    claims = []
    for nonce in range(8):
        terms = replace(parties.terms, nonce=100 + nonce)
        await open_channel(parties.payer, terms, TON)
        made = Voucher(terms.address(), terms.network_id, 1, TON // 2 + nonce)
        claims.append(Claim(terms, made, made.sign(parties.payer_seed)))
    results = await claim_many(parties.payee, claims)
    assert [result.state.paid_nanoton for result in results] == [TON // 2 + nonce for nonce in range(8)]
    assert len({result.hash for result in results}) == 1


@pytest.mark.slow
async def test_a_full_batch_of_255_claims_fits_one_wallet_message(net: Any, client: Any, make: Any) -> None:
    parties = await make(net, client)
    await net.call(net.devnet.fund, parties.payer.address, 1000 * TON)
    await net.call(net.devnet.fund, parties.payee.address, 50 * TON)
    all_terms = [replace(parties.terms, nonce=1000 + number) for number in range(255)]
    value = TON + bounds.RENT_RESERVE_NANOTON + bounds.ATTACHED_NANOTON
    for start in range(0, 255, 85):
        opened = [
            Transfer(terms.address(), value, top_up_body(number + 1, TON), terms.state_init())
            for number, terms in enumerate(all_terms[start : start + 85])
        ]
        await parties.payer.transfer(opened)
    vouchers = [Voucher(terms.address(), terms.network_id, 1, TON) for terms in all_terms]
    claims = [
        Claim(terms, each, each.sign(parties.payer_seed)) for terms, each in zip(all_terms, vouchers, strict=True)
    ]
    results = await claim_many(parties.payee, claims)
    assert all(result.state.paid_nanoton == TON for result in results)
    assert (await net.totals()).conserved


async def test_every_nanoton_is_accounted_for_from_both_sides(parties: Any) -> None:
    """Open, top up, claim, relay, refusal, cooperative close, refund: the ledger's sum and each wallet's own books."""
    before = await parties.net.totals()
    starts = {
        account.address: await parties.client.account_state(account.address)
        for account in (parties.payer, parties.payee)
    }
    await open_channel(parties.payer, parties.terms, 10 * TON)
    await top_up(parties.payer, parties.terms, TON)
    await claim(parties.payee, parties.terms, *signed(parties, 1, TON))
    await claim(parties.payer, parties.terms, *signed(parties, 2, 2 * TON))
    await refuse(105, claim(parties.payee, parties.terms, *signed(parties, 2, 2 * TON)))
    agreement = CloseAgreement(parties.terms.address(), parties.terms.network_id, 3 * TON, 2**32 - 1)
    signatures = agreement.sign(parties.payer_seed), agreement.sign(parties.payee_seed)
    await cooperative_close(parties.payee, parties.terms, agreement, *signatures)
    other = replace(parties.terms, nonce=2)
    await open_channel(parties.payer, other, 5 * TON)
    await start_refund(parties.payer, other)
    await parties.net.advance(3600 + 600 + 1)
    await finish_refund(parties.payer, other)
    after = await parties.net.totals()

    assert before.conserved
    assert after.conserved
    assert after.minted_nanoton == before.minted_nanoton
    assert after.in_flight_nanoton == 0
    assert after.fees_nanoton - before.fees_nanoton == before.balances_nanoton - after.balances_nanoton > 0
    for address, start in starts.items():
        end = await parties.client.account_state(address)
        books = await parties.client.transactions(address, after_lt=start.last_lt)
        assert end.balance_nanoton - start.balance_nanoton == sum(entry.balance_change_nanoton for entry in books)
    # Both channels are gone, so what the two wallets and the network hold is all there is between them.
    assert (await parties.client.channel_state(parties.terms)).status == "absent"
    assert await payouts(parties, parties.payee.address) == [TON, TON, TON]


async def test_the_channel_key_is_not_the_wallet_key(parties: Any) -> None:
    assert channel_public_key(parties.payer_seed) != parties.payer.wallet.public_key
    assert SigningKey(parties.payer_seed).verify_key.encode() == parties.terms.payer_key
