"""The provider's rules: what it refuses and why, when it signs a close, when it claims."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from overlay.channels.limits import (
    CLAIM_MARGIN_S,
    CLOSE_VALID_S,
    LOOKUP_WINDOW_S,
    MAX_CHAIN_LOOKUPS_PER_PEER,
    MAX_CHANNELS_PER_PEER,
    MIN_CHALLENGE_PERIOD_S,
    MIN_REMAINING_S,
)
from overlay.channels.messages import (
    CloseSigned,
    Known,
    ProposeClose,
    Refused,
    decode_message,
    encode_message,
)
from overlay.errors import ConfigError
from overlay.settlement import ChainUnavailable, ChannelTerms, CloseAgreement
from overlay.settlement.chain import cooperative_close, open_channel, start_refund
from overlay.settlement.ledger import ChannelRecord, ChannelStatus, Role
from transport.wire import WireError

TON = 1_000_000_000


def terms_of(two, **changes):
    chain = two.payer.chain
    terms = ChannelTerms(
        payer=chain.account.address, payee=two.whom.address, payer_key=chain.channel_key, payee_key=two.whom.key,
        network_id=chain.client.network_id, nonce=int.from_bytes(next(two.net.seeds)) % 2**62,
        expiry_s=int(two.clock()) + 7 * 86_400, challenge_period_s=3600,
    )  # fmt: skip
    return replace(terms, **changes)


async def opened(two, deposit=TON // 2, **changes):
    terms = terms_of(two, **changes)
    await open_channel(two.payer.chain.account, terms, deposit)
    return terms


async def admit(two, terms, peer=None):
    return await two.payee.admit(peer or two.client.peer_id, terms)


# ---- admitting ----


async def test_a_channel_is_served_once_it_is_seen_on_chain(two):
    terms = await opened(two)
    assert await admit(two, terms) == Known(TON // 2, 0)
    record = await two.payee.ledger.run(lambda store: store.channel(terms.address()))
    assert (record.role, record.peer, record.status) == (Role.PAYEE, two.client.peer_id, ChannelStatus.OPEN)
    assert record.deposit_nanoton == TON // 2
    assert await admit(two, terms) == Known(TON // 2, 0), "saying it again changes nothing"


async def test_a_channel_that_is_served_is_served_on_while_no_liteserver_answers(two, monkeypatch):
    async def silence(*_arguments, **_options):
        raise ChainUnavailable("no liteserver answers")

    terms = await opened(two)
    known = await admit(two, terms)
    monkeypatch.setattr(two.payee.chain.client, "channel_state", silence)
    assert await admit(two, terms) == known == Known(TON // 2, 0)
    with pytest.raises(ChainUnavailable):
        await admit(two, terms_of(two))


async def test_terms_that_do_not_suit_are_refused_before_the_chain_is_asked(two, net):
    now = int(two.clock())
    for changes, word in (
        ({"network_id": -239 if two.payer.chain.client.network_id != -239 else -3}, "network"),
        ({"payee": two.payer.chain.account.address}, "does not pay this provider"),
        ({"payee_key": next(net.seeds)}, "does not pay this provider"),
        ({"expiry_s": now + MIN_REMAINING_S - 5}, "expires too soon"),
        ({"challenge_period_s": MIN_CHALLENGE_PERIOD_S - 1}, "challenge period"),
    ):
        answer = await admit(two, terms_of(two, **changes))
        assert isinstance(answer, Refused)
        assert word in answer.reason
    assert not two.payee._lookups, "none of it cost a look at the chain"


async def test_a_channel_that_is_not_on_chain_is_refused(two):
    answer = await admit(two, terms_of(two))
    assert answer == Refused("the channel is absent on chain")


async def test_a_deposit_below_the_least_is_refused(two):
    two.payee.min_deposit_nanoton = TON
    answer = await admit(two, await opened(two))
    assert isinstance(answer, Refused)
    assert "at least 1000000000 is wanted" in answer.reason


async def test_nobody_takes_over_another_clients_channel(two):
    terms = await opened(two)
    assert isinstance(await admit(two, terms), Known)
    assert await admit(two, terms, two.provider.peer_id) == Refused("this channel belongs to another client")


async def test_announcements_are_rationed_for_each_peer(two):
    for _ in range(MAX_CHAIN_LOOKUPS_PER_PEER):
        assert "absent" in (await admit(two, terms_of(two))).reason
    assert "wait a minute" in (await admit(two, terms_of(two))).reason
    assert "absent" in (await admit(two, terms_of(two), two.provider.peer_id)).reason, "others are not kept out"
    await two.net.advance(LOOKUP_WINDOW_S + 1)
    assert "absent" in (await admit(two, terms_of(two))).reason


async def test_one_client_has_a_bounded_number_of_channels(two):
    terms = await opened(two)
    for number in range(MAX_CHANNELS_PER_PEER):
        other = terms_of(two, nonce=number)
        record = ChannelRecord(
            other.address(), Role.PAYEE, two.client.peer_id, other.network_id, other.to_bytes(), TON,
            ChannelStatus.OPEN, 0,
        )  # fmt: skip
        await two.payee.ledger.run(lambda store, record=record: store.add_channel(record))
    answer = await admit(two, terms)
    assert isinstance(answer, Refused)
    assert "settle one first" in answer.reason


async def test_a_top_up_is_believed_from_the_chain_and_passed_on(two):
    record = await two.open()
    bigger = await two.open(spendable=TON)
    assert bigger.channel == record.channel
    assert bigger.deposit_nanoton >= TON
    assert two.jobs.deposits == {record.channel: bigger.deposit_nanoton}


# ---- closing together ----


async def propose(two, of, amount, **changes):
    agreement = CloseAgreement(
        changes.get("channel", of), changes.get("network_id", two.payer.chain.client.network_id), amount,
        int(two.clock()) + changes.get("valid_s", CLOSE_VALID_S),
    )  # fmt: skip
    signature = agreement.sign(changes.get("seed", two.payer.chain.channel_seed))
    peer = changes.get("peer", two.client.peer_id)
    return agreement, signature, await two.payee.agree_to_close(peer, agreement, signature)


@pytest.mark.parametrize(
    ("amount", "changes", "word"),
    [
        (99, {}, "100 nanoTON is due, not 99"),
        (TON, {}, "more than the deposit"),
        (100, {"network_id": 7}, "another network"),
        (100, {"valid_s": -1}, "not for the next minutes"),
        (100, {"valid_s": 3 * CLOSE_VALID_S}, "not for the next minutes"),
        (100, {"seed": bytes(32)}, "does not verify"),
        (100, {"peer": "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"}, "no such channel"),
        (100, {"channel": "0:" + "ab" * 32}, "no such channel"),
    ],
)
async def test_a_close_that_is_not_right_is_refused_and_the_channel_goes_on(two, amount, changes, word):
    record = await two.open()
    await two.promise(record.channel, 100)
    _, _, answer = await propose(two, record.channel, amount, **changes)
    assert isinstance(answer, Refused)
    assert word in answer.reason
    assert await two.status(two.payee, record.channel) == "open"
    assert not two.jobs.frozen


async def test_a_channel_with_running_jobs_is_not_closed(two):
    record = await two.open()
    two.jobs.running = True
    _, _, answer = await propose(two, record.channel, 0)
    assert isinstance(answer, Refused)
    assert "jobs are running" in answer.reason
    assert await two.status(two.payee, record.channel) == "open"


async def test_a_right_close_is_signed_once_nothing_more_is_served(two):
    record = await two.open()
    await two.promise(record.channel, 100)
    agreement, _, answer = await propose(two, record.channel, 100)
    assert isinstance(answer, CloseSigned)
    assert agreement.verify(two.whom.key, answer.payee_signature)
    assert two.jobs.frozen == {record.channel}
    assert await two.status(two.payee, record.channel) == "closing"
    terms = ChannelTerms.from_bytes(record.terms)
    assert "closing" in (await admit(two, terms)).reason, "no job starts on it any more"
    # A client that lost our answer asks again, and may offer more, never less.
    assert isinstance((await propose(two, record.channel, 150))[2], CloseSigned)
    assert isinstance((await propose(two, record.channel, 99))[2], Refused)


async def test_a_close_that_was_never_used_runs_out_and_the_channel_is_served_again(two):
    record = await two.open()
    await propose(two, record.channel, 0)
    assert await two.payee.look() is True, "its end is expected soon"
    await two.net.advance(2 * CLOSE_VALID_S + 2)
    await two.payee.look()
    assert await two.status(two.payee, record.channel) == "open"


# ---- claiming ----


async def wallet(two):
    return await two.payee.chain.account.balance_nanoton()


async def test_a_little_is_not_worth_the_fee_and_enough_is_claimed(two):
    record = await two.open()
    await two.promise(record.channel, two.payee.settle_at_nanoton - 1)
    await two.payee.look()
    assert "settled" not in two.kinds()
    await two.promise(record.channel, two.payee.settle_at_nanoton, seq=2)
    before = await wallet(two)
    await two.payee.look()
    (event,) = [event for event in two.told if event.kind == "settled"]
    assert event.data["paid_nanoton"] == two.payee.settle_at_nanoton
    assert await wallet(two) > before
    assert await two.status(two.payee, record.channel) == "open", "a claim does not end it"
    await two.payee.look()
    assert two.kinds().count("settled") == 1, "what is claimed is not claimed again"


async def test_whatever_is_there_is_claimed_before_the_channel_expires(two):
    record = await two.open()
    await two.promise(record.channel, 1000)
    await two.net.advance(7 * 86_400 - CLAIM_MARGIN_S + 10)
    await two.payee.look()
    (event,) = [event for event in two.told if event.kind == "settled"]
    assert event.data["paid_nanoton"] == 1000


async def test_a_client_that_leaves_alone_does_not_take_what_it_promised(two):
    record = await two.open()
    await two.promise(record.channel, 1000)
    await start_refund(two.payer.chain.account, ChannelTerms.from_bytes(record.terms))
    await two.payee.look()
    (event,) = [event for event in two.told if event.kind == "settled"]
    assert (event.data["paid_nanoton"], event.data["closed"]) == (1000, True)
    assert await two.status(two.payee, record.channel) == "closed"


async def test_a_channel_closed_together_is_noted_with_what_it_paid(two):
    record = await two.open()
    await two.promise(record.channel, 100)
    agreement, signature, answer = await propose(two, record.channel, 123)
    terms = ChannelTerms.from_bytes(record.terms)
    await cooperative_close(two.payer.chain.account, terms, agreement, signature, answer.payee_signature)
    await two.payee.look()
    found = await two.payee.ledger.run(lambda store: store.channel(record.channel))
    assert (found.status, found.paid_nanoton) == (ChannelStatus.CLOSED, 123)


async def test_a_channel_that_was_never_used_and_is_gone_is_no_cause_for_alarm(two):
    record = await two.open()
    await two.payer.close_together(record.channel)
    await two.payee.look()
    event = two.told[-1]
    assert (event.kind, event.level) == ("settled", "info")
    assert "nothing was owed" in event.text


async def test_the_owner_claims_by_hand_and_ends_a_channel_by_hand(two):
    record = await two.open()
    assert await two.payee.claim(None, close=False) == [], "nothing to claim yet"
    await two.promise(record.channel, 10)
    assert len(await two.payee.claim(None, close=False)) == 1
    with pytest.raises(ConfigError, match="no channel"):
        await two.payee.claim("0:" + "cd" * 32, close=True)
    assert len(await two.payee.claim(record.channel, close=True)) == 1
    assert await two.status(two.payee, record.channel) == "closed"


# ---- the stream ----


async def test_rubbish_on_a_stream_ends_that_stream_and_nothing_else(two):
    for data in (b"", b"\x00", b"\x83\x61a\x01\x02", encode_message(Known(1, 1)), encode_message(Refused("no"))):
        stream = await two.host.open_stream(two.provider.peer_id, "channel")
        await stream.send(data)
        with pytest.raises(Exception, match="closed"), trio.fail_after(5):
            await stream.receive(4096)
    assert isinstance(await admit(two, await opened(two)), Known)
    assert not len(two.payee._seats), "none is left open"


def test_every_message_survives_its_encoding_and_nothing_else_is_one():
    agreement = CloseAgreement("0:" + "11" * 32, -3, 5, 1_900_000_000)
    for message in (ProposeClose(agreement, bytes(64)), Known(5, 4), CloseSigned(bytes(64)), Refused("because")):
        assert decode_message(encode_message(message)) == message
    for value in (b"\x80", b"\x82\x65known\x01", b"\x82\x66signed\x41\x00", b"\x82\x68announce\x80"):
        with pytest.raises(WireError):
            decode_message(value)
