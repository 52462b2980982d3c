"""What `cocoon channel prove-exit` says beforehand is what happens, to the nanoTON but for seconds of rent."""

from __future__ import annotations

import pytest

from overlay.channels.rehearsal import Rehearsal, open_stage, read_situation
from overlay.settlement import ChannelTerms, DevnetError, Voucher

TON = 1_000_000_000
RENT_OF_THE_TEST = 200
"""Rent of channel and wallet for the seconds between saying and doing, and their rounding."""


async def rehearse(two, desk, channel):
    """What leaving would bring to the side of ``desk``, as the chain stands now."""
    record = await desk.ledger.run(lambda store: store.channel(channel))
    best = await desk.ledger.run(lambda store: store.voucher(channel))
    terms = ChannelTerms.from_bytes(record.terms)
    situation = await read_situation(desk.chain.client, terms)
    voucher = None if best is None else Voucher(channel, terms.network_id, best.seq, best.amount_nanoton)
    signature = b"" if best is None else best.signature
    async with open_stage(situation) as stage:
        rehearsal = Rehearsal(stage, situation, desk.chain.account.wallet)
        now = situation.state.utime_s
        if desk is two.payee:
            return await rehearsal.as_payee(voucher, signature, now)
        return await rehearsal.as_payer(voucher, signature, now)


async def balance(desk):
    return await desk.chain.account.balance_nanoton()


async def test_a_provider_is_told_what_it_gets_and_gets_just_that(two):
    record = await two.open()
    await two.promise(record.channel, 222_333_444)
    before = (await balance(two.payee), await balance(two.payer))
    (outcome,) = await rehearse(two, two.payee, record.channel)
    assert (await balance(two.payee), await balance(two.payer)) == before, "saying it changes nothing on chain"
    assert outcome.success
    assert outcome.receives_nanoton == 222_333_444
    assert outcome.change_nanoton == 222_333_444 - outcome.costs_nanoton
    left = await two.payee.leave(record.channel)
    assert left.gained_nanoton == outcome.receives_nanoton
    assert abs(await balance(two.payee) - before[0] - outcome.change_nanoton) < RENT_OF_THE_TEST


async def test_a_client_is_told_both_courses_and_gets_the_one_that_comes_true(two):
    record = await two.open()
    await two.promise(record.channel, 70_000_000)
    claimed, unclaimed = await rehearse(two, two.payer, record.channel)
    assert claimed.success
    assert unclaimed.success
    assert [step.action for step in unclaimed.steps] == ["start refund", "finish refund"]
    assert unclaimed.at_s - claimed.at_s >= 7 * 86_400 - 60 + 3600
    assert unclaimed.receives_nanoton - claimed.receives_nanoton == pytest.approx(70_000_000, abs=1_000_000)
    before = await balance(two.payer)
    started = await two.payer.leave(record.channel)
    assert started.next_at_s == pytest.approx(unclaimed.at_s, abs=60)
    await two.payee.look()
    assert abs(await balance(two.payer) - before - claimed.change_nanoton) < RENT_OF_THE_TEST


@pytest.mark.slow
async def test_a_refund_that_has_started_is_only_finished_and_brings_what_was_said(two):
    record = await two.open()
    before = await balance(two.payer)
    started = await two.payer.leave(record.channel)
    spent = before - await balance(two.payer)
    (outcome,) = await rehearse(two, two.payer, record.channel)
    assert [step.action for step in outcome.steps] == ["finish refund"]
    assert outcome.at_s == started.next_at_s
    await two.net.advance(7 * 86_400 + 3601)
    await two.payer.leave(record.channel)
    assert abs(await balance(two.payer) - before + spent - outcome.change_nanoton) < RENT_OF_THE_TEST


async def test_without_node_it_says_what_is_missing(two, monkeypatch, tmp_path):
    record = await two.open()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("overlay.settlement.devnet.tvm.find_spec", lambda _name: None)
    with pytest.raises(DevnetError, match="needs Node"):
        await rehearse(two, two.payer, record.channel)
