"""Everything a party, a relayer or a stranger may try against a channel, in the real TVM: who can take what from whom.

The senders' wallets are not here: a message arrives as the network would deliver it, and what the channel sends is
counted. Nothing but the network writes a message's sender, so a forged one can only be a stranger's own.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytoniq_core import HashMap, StateInit, begin_cell

from overlay.channels.limits import CLAIM_MARGIN_S, CLOSE_VALID_S
from overlay.settlement import Voucher
from overlay.settlement.cells import (
    OP_CLAIM,
    OP_CLOSE_TOGETHER,
    OP_FINISH_REFUND,
    OP_START_REFUND,
    OP_TOP_UP,
    StoredChannel,
    address_of,
    answered,
    channel_code,
    claim_body,
    parse_channel_data,
)
from overlay.settlement.limits import (
    ATTACHED_MIN_NANOTON,
    MAX_CHALLENGE_PERIOD_S,
    MAX_LIFETIME_S,
    MIN_DEPOSIT_NANOTON,
    RENT_RESERVE_NANOTON,
)
from overlay.settlement.model import ModelMessage
from overlay.settlement.model.replica import Replica, ReplicaAccount, internal_message
from overlay.settlement.model.scenarios import claim, close_together, finish_refund, start_refund, top_up
from overlay.settlement.model.steps import SEEDS, START_S, Stage, Step
from overlay.settlement.transactions import AccountTransaction, Message
from overlay.settlement.voucher import sign_cell_hash

TON = 10**9
DAY_S = 86_400
SKEW_S = 600


class Play:
    """One channel in the TVM, and what everybody has got out of it."""

    def __init__(self, replica: Replica, stage: Stage | None = None) -> None:
        replica.forget()
        self.tvm = replica
        self.at(stage or Stage())
        self.sent: list[Message] = []

    def at(self, stage: Stage) -> None:
        self.stage, self.terms = stage, stage.terms()
        self.address = self.terms.address()

    def send(self, step: Step, *, body: Any = None, init: Any = None) -> AccountTransaction:
        message = self.stage.message(step)
        init = init or (self.terms.state_init() if step.deploys else None)
        cell = internal_message(
            message.source, self.address, message.value_nanoton, body or message.body, init=init,
            bounce=message.bounce, bounced=message.bounced,
        )  # fmt: skip
        transaction = self.tvm.run(self.address, cell, START_S + step.at_s)
        assert transaction is not None
        self.sent += transaction.out_messages
        return transaction

    def refused(self, code: int | None, step: Step) -> None:
        """The step fails with ``code``, changes nothing, and its value goes back less fees."""
        account, state = self.account, self.state
        transaction = self.send(step)
        assert transaction.exit_code == code
        if account.exists:
            assert self.state == state
        elif (
            self.state is not None
        ):  # TON keeps the code of a refused deployment, which is no channel without a deposit
            assert (self.state.deposit_nanoton, self.state.paid_nanoton) == (0, 0)
        assert self.account.balance_nanoton <= account.balance_nanoton
        (back,) = transaction.out_messages
        assert back.bounced
        assert step.value_nanoton - back.value_nanoton < 2_000_000

    @property
    def account(self) -> ReplicaAccount:
        return self.tvm.account(self.address)

    @property
    def state(self) -> StoredChannel | None:
        data = self.account.data
        return None if data is None else parse_channel_data(data)

    def paid(self, who: str) -> int:
        """What messages that are no change have brought ``who``."""
        receiver = {"payer": self.stage.payer, "payee": self.stage.payee, "relayer": self.stage.relayer}[who]
        return sum(answered(each) or 0 for each in self.sent if each.destination == receiver and not each.bounced)


def test_a_stale_voucher_pays_nothing_a_second_time(replica: Replica) -> None:
    play = Play(replica)
    for step in (top_up(), claim(1, TON), claim(2, 3 * TON)):
        assert play.send(step).success
    for old in (TON, 2 * TON, 3 * TON):
        for sender in ("payee", "payer", "relayer"):
            play.refused(105, claim(3, old, sender=sender))
    play.refused(105, claim(4, 2 * TON, close=True))
    assert play.paid("payee") == 3 * TON


def test_a_voucher_is_worth_nothing_on_another_channel_of_the_same_pair(replica: Replica) -> None:
    play = Play(replica)
    assert play.send(top_up()).success
    play.refused(110, replace(claim(1, TON), channel="other"))
    play.refused(110, replace(close_together(1, TON), channel="other"))


def test_a_voucher_is_worth_nothing_on_another_chain(replica: Replica) -> None:
    """The network is in the terms, so in the address; the same terms take no money on a chain that is not theirs."""
    play = Play(replica)
    assert play.send(top_up()).success
    play.refused(110, replace(claim(1, TON), network_id=-3))
    play.refused(110, replace(close_together(1, TON), network_id=-3))
    elsewhere = Play(replica, Stage(network_id=-3))
    assert elsewhere.address != play.address
    elsewhere.refused(110, top_up())


def test_a_voucher_is_worth_nothing_on_another_deployment_of_the_code(replica: Replica) -> None:
    """Other code under the same terms has another address, and the voucher names the address."""
    play = Play(replica)
    terms = play.terms
    other = StateInit(code=begin_cell().store_ref(channel_code()).end_cell(), data=terms.data_cell())
    assert f"0:{other.serialize().hash.hex()}" != terms.address()
    fresh = Stage(nonce=2)
    play.at(fresh)
    assert play.send(top_up()).success
    old = Voucher(terms.address(), terms.network_id, 1, TON)
    body = claim_body(1, old.sign(SEEDS["payer"]), old.to_cell(), close=False)
    assert play.send(claim(1, TON), body=body).exit_code == 110


def test_a_voucher_above_the_deposit_pays_nothing_not_even_the_deposit(replica: Replica) -> None:
    play = Play(replica)
    assert play.send(top_up(amount=TON)).success
    play.refused(106, claim(1, TON + 1))
    play.refused(106, claim(1, TON + 1, close=True))
    play.refused(106, close_together(1, TON + 1))
    assert play.send(claim(2, TON)).success
    assert play.paid("payee") == TON


def test_a_channel_without_money_pays_nothing(replica: Replica) -> None:
    play = Play(replica)
    play.refused(106, replace(claim(0, 1), deploys=True))
    play.refused(112, top_up(amount=MIN_DEPOSIT_NANOTON - 1))
    assert play.account.balance_nanoton == 0
    nothing = begin_cell().store_uint(0x564F5543, 32).store_int(-239, 32).store_address(play.address)
    nothing = nothing.store_uint(1, 64).store_coins(0).end_cell()
    assert play.send(top_up()).success
    signature = sign_cell_hash(SEEDS["payer"], nothing.hash)  # no node of ours would sign a voucher for nothing
    assert play.send(claim(1, 1), body=claim_body(1, signature, nothing, close=False)).exit_code == 105


def test_nobody_can_pass_for_another(replica: Replica) -> None:
    play = Play(replica)
    assert play.send(top_up()).success
    for step, code in (
        (top_up(1, sender="payee"), 101),
        (top_up(1, sender="relayer"), 101),
        (start_refund(1, sender="payee"), 101),
        (start_refund(1, sender="relayer"), 101),
        (claim(1, TON, sender="payer", close=True), 102),
        (claim(1, TON, sender="relayer", close=True), 102),
        (claim(1, TON, signer="payee"), 104),
        (claim(1, TON, signer="nobody"), 104),
        (replace(close_together(1, TON), signer="payee"), 104),
        (replace(close_together(1, TON), cosigner="payer"), 104),
    ):
        play.refused(code, step)
    assert play.paid("payee") == play.paid("payer") == 0


def test_a_bounced_message_does_nothing_whatever_it_carries(replica: Replica) -> None:
    play = Play(replica)
    assert play.send(top_up()).success
    before = play.state
    assert not play.send(Step(1, "payee", "bounced", TON)).success
    assert play.state == before


def test_opening_twice_is_one_channel_with_both_deposits(replica: Replica) -> None:
    play = Play(replica)
    assert play.send(top_up(amount=TON)).success
    assert play.send(replace(top_up(5, amount=2 * TON), deploys=True)).success
    assert play.state is not None
    assert (play.state.deposit_nanoton, play.state.paid_nanoton) == (3 * TON, 0)
    assert play.account.balance_nanoton >= 3 * TON + RENT_RESERVE_NANOTON - 10


def test_opening_again_after_a_claim_forgets_nothing(replica: Replica) -> None:
    play = Play(replica)
    for step in (top_up(), claim(1, TON), replace(top_up(2), deploys=True)):
        assert play.send(step).success
    play.refused(105, claim(3, TON))


def test_the_same_terms_opened_after_the_end_revive_old_vouchers_and_a_fresh_nonce_does_not(replica: Replica) -> None:
    """Why a payer takes a fresh nonce for every channel: TON forgets an account that has ended."""
    play = Play(replica)
    for step in (top_up(), claim(1, TON, close=True), replace(top_up(2), deploys=True), claim(3, TON)):
        assert play.send(step).success
    assert play.paid("payee") == 2 * TON
    play.at(Stage(nonce=2))
    assert play.send(top_up()).success
    play.refused(110, replace(claim(1, TON), channel="other"))


def test_topping_up_neither_prolongs_nor_stops_a_refund(replica: Replica) -> None:
    play = Play(replica)
    assert play.send(top_up()).success
    assert play.send(top_up(10, amount=1)).success  # whatever the size, the terms stay
    assert play.send(start_refund(20)).success
    started = play.state
    for sender in ("payer", "payee", "relayer"):
        play.refused(103 if sender == "payer" else 101, top_up(30, amount=1, sender=sender))
    assert play.state == started
    assert play.send(finish_refund(DAY_S + 3600)).success


def test_money_sent_without_an_operation_comes_back(replica: Replica) -> None:
    play = Play(replica)
    assert play.send(top_up()).success
    play.refused(0xFFFF, Step(1, "relayer", "empty", TON))
    play.refused(0xFFFF, Step(1, "relayer", "unknown", TON))


SWEPT = {
    "claim": claim(60, 2 * TON),
    "relayed claim": claim(60, 2 * TON, sender="relayer"),
    "claim and close": claim(60, 2 * TON, close=True),
    "relayed close": close_together(60, 2 * TON, sender="relayer"),
    "start of a refund": start_refund(60),
    "top-up": top_up(60, amount=1),
}


@pytest.mark.parametrize("name", SWEPT)
def test_too_little_gas_money_changes_nothing_at_any_attached_value(replica: Replica, name: str) -> None:
    """Either all of it happens and the payee has every nanoTON, or nothing does and the channel holds what it held."""
    play = Play(replica)
    assert play.send(top_up()).success
    held, state = play.account.balance_nanoton, play.state
    replica.keep(play.address)
    draws = random.Random(name)
    values = sorted({*range(0, 12_000_001, 400_000), *(draws.randrange(12_000_000) for _ in range(30))})
    values += [ATTACHED_MIN_NANOTON - 1, ATTACHED_MIN_NANOTON]
    done = 0
    for value in values:
        replica.restore(play.address)
        play.sent = []
        transaction = play.send(replace(SWEPT[name], value_nanoton=value))
        if transaction.exit_code == 0:
            assert transaction.action_result_code == 0
            assert name == "top-up" or value >= ATTACHED_MIN_NANOTON
            assert play.paid("payee") == (2 * TON if "claim" in name or "close" in name else 0)
            assert sum(each.value_nanoton for each in play.sent) + play.account.balance_nanoton <= held + value
            done += 1
        else:
            assert play.state == state
            assert play.account.balance_nanoton >= held - 20  # a minute's rent; what cannot go back stays
            assert [each for each in play.sent if not each.bounced] == []
    assert 0 < done < len(values)


def test_a_claim_that_comes_before_the_refund_is_finished_is_paid_however_late(replica: Replica) -> None:
    play = Play(replica)
    end = DAY_S + 3600
    for step in (top_up(), start_refund(60), claim(end + 500, 2 * TON), finish_refund(end + 500)):
        assert play.send(step).success
    assert play.paid("payee") == 2 * TON


def test_a_claim_in_flight_while_the_refund_finishes_finds_nothing_and_costs_only_its_fees(replica: Replica) -> None:
    play = Play(replica)
    end = DAY_S + 3600
    assert play.send(top_up()).success
    assert play.send(start_refund(60)).success
    play.refused(107, finish_refund(end - 1))
    assert play.send(finish_refund(end)).success
    late = play.send(claim(end, 2 * TON))
    assert late.exit_code is None
    (back,) = late.out_messages
    assert back.bounced
    assert claim(0, 0).value_nanoton - back.value_nanoton < 1_000_000
    assert play.paid("payee") == 0


def test_a_refund_started_while_a_claim_is_in_flight_does_not_stop_it(replica: Replica) -> None:
    play = Play(replica)
    for step in (top_up(), start_refund(60), claim(60, TON), claim(61, 2 * TON, close=True)):
        assert play.send(step).success
    assert play.paid("payee") == 2 * TON
    assert 0 <= 8 * TON + RENT_RESERVE_NANOTON - play.paid("payer") < 100


def test_with_both_parties_offline_for_a_year_nothing_is_lost_but_the_rent(replica: Replica) -> None:
    play = Play(replica, Stage(expiry_s=MAX_LIFETIME_S, challenge_period_s=MAX_CHALLENGE_PERIOD_S))
    longest = MAX_LIFETIME_S + MAX_CHALLENGE_PERIOD_S
    assert play.send(top_up()).success
    assert play.send(start_refund(longest)).success
    assert play.send(claim(longest + 1, 10 * TON)).success
    assert play.send(finish_refund(longest + MAX_CHALLENGE_PERIOD_S)).success
    assert play.paid("payee") == 10 * TON
    assert 0 < play.paid("payer") < RENT_RESERVE_NANOTON  # 14 months of rent, and still some left


def test_after_three_years_of_neglect_rent_stops_plain_claims_and_the_payee_still_closes_whole(
    replica: Replica,
) -> None:
    play = Play(replica)
    late = 3 * 365 * DAY_S
    assert play.send(top_up()).success
    for number, sender in enumerate(("payee", "relayer")):
        step = claim(late + number, 10 * TON, sender=sender)
        stopped = play.send(step)
        assert (stopped.exit_code, stopped.success) == (0, False)
        (back,) = stopped.out_messages  # the action failed: the value is back, and nothing has changed
        assert back.bounced
        assert step.value_nanoton - back.value_nanoton < 4_000_000
        assert play.state is not None
        assert play.state.paid_nanoton == 0
    last = play.send(claim(late + 2, 10 * TON, close=True))
    assert last.success
    assert max(each.value_nanoton for each in last.out_messages) > 10 * TON


def test_with_the_payer_offline_the_payee_gets_its_money_alone_and_the_payer_finds_the_rest_at_home(
    replica: Replica,
) -> None:
    play = Play(replica)
    for step in (top_up(), claim(60, TON), claim(90, 4 * TON, close=True)):
        assert play.send(step).success
    assert play.paid("payee") == 4 * TON
    assert 0 <= 6 * TON + RENT_RESERVE_NANOTON - play.paid("payer") < 100
    assert not play.account.exists


def test_with_the_payee_offline_a_watchtower_claims_for_it(replica: Replica) -> None:
    play = Play(replica)
    end = DAY_S + 3600
    for step in (top_up(), start_refund(60), claim(end - 1, 3 * TON, sender="relayer"), finish_refund(end)):
        assert play.send(step).success
    assert play.paid("payee") == 3 * TON
    change = [each.value_nanoton for each in play.sent if each.destination == play.stage.relayer]
    assert len(change) == 1
    assert claim(0, 0).value_nanoton - change[0] < 4_000_000  # what the favour costs the watchtower


def test_with_the_payee_offline_and_no_watchtower_the_payer_takes_what_was_not_claimed(replica: Replica) -> None:
    """The one loss that the contract allows: a payee away from the refund's start until the challenge is over."""
    play = Play(replica)
    end = DAY_S + 3600
    for step in (top_up(), claim(30, TON), start_refund(60), finish_refund(end)):
        assert play.send(step).success
    assert play.paid("payee") == TON
    assert 9 * TON <= play.paid("payer") < 9 * TON + RENT_RESERVE_NANOTON


def test_with_the_payee_offline_the_payer_gets_its_deposit_alone_but_not_before_its_time(replica: Replica) -> None:
    play = Play(replica)
    assert play.send(top_up()).success
    play.refused(103, finish_refund(2 * DAY_S))
    assert play.send(start_refund(2 * DAY_S)).success  # after the expiry the whole challenge period still runs
    play.refused(107, finish_refund(2 * DAY_S + 3599))
    assert play.send(finish_refund(2 * DAY_S + 3600, sender="relayer")).success
    assert 0 <= 10 * TON + RENT_RESERVE_NANOTON - play.paid("payer") < 100_000


@pytest.mark.parametrize("skew_s", [-SKEW_S, 0, SKEW_S], ids=["ten minutes slow", "right", "ten minutes fast"])
def test_a_payee_whose_clock_is_wrong_by_ten_minutes_still_claims_in_time(replica: Replica, skew_s: int) -> None:
    """Contracts go by the validators' clock; a payee claims half an hour ahead by its own."""
    play = Play(replica, Stage(challenge_period_s=0))  # not even a challenge to help it
    expiry = play.stage.expiry_s
    assert play.send(top_up()).success
    assert play.send(start_refund(60)).success
    on_chain = expiry - CLAIM_MARGIN_S - skew_s  # where the validators' clock stands when the payee's shows the margin
    play.refused(107, finish_refund(min(on_chain, expiry - 1)))
    assert play.send(claim(on_chain, 2 * TON)).success
    assert play.send(finish_refund(expiry)).success
    assert play.paid("payee") == 2 * TON


@pytest.mark.parametrize("skew_s", [-SKEW_S, SKEW_S], ids=["ten minutes slow", "ten minutes fast"])
def test_clocks_wrong_by_ten_minutes_make_a_common_close_fail_without_loss(replica: Replica, skew_s: int) -> None:
    """Signed for five minutes by a slow clock, it is out of date on chain; vouchers and refunds stay what they were."""
    play = Play(replica)
    assert play.send(top_up()).success
    signed_at = 1000
    agreed = replace(close_together(signed_at, 2 * TON), valid_for_s=signed_at + CLOSE_VALID_S + skew_s)
    if skew_s < 0:
        play.refused(109, agreed)
        assert play.send(claim(signed_at + 1, 2 * TON, close=True)).success
    else:
        assert play.send(agreed).success
    assert play.paid("payee") == 2 * TON


def test_a_refund_never_ends_before_the_validators_clock_says_so(replica: Replica) -> None:
    play = Play(replica)
    end = DAY_S + 3600
    assert play.send(top_up()).success
    assert play.send(start_refund(60)).success
    for early in (2 * SKEW_S, SKEW_S, 1):  # a payer whose clock is fast tries too soon
        play.refused(107, finish_refund(end - early))
    assert play.send(claim(end - 1, TON)).success


def with_extra_currencies(message: ModelMessage, kinds: int) -> Any:
    """The message with ``kinds`` extra currencies beside its value (block.tlb ``ExtraCurrencyCollection``)."""
    amounts = dict.fromkeys(range(100, 100 + kinds), 5)
    extra = HashMap(32, map_=amounts, value_serializer=lambda value, to: to.store_uint(1, 5).store_uint(value, 8))
    cell = begin_cell().store_uint(0b01, 2).store_bit(int(message.bounce)).store_bit(0)  # int_msg_info$0, no IHR
    cell = cell.store_address(address_of(message.source)).store_address(address_of(message.destination))
    cell = cell.store_coins(message.value_nanoton).store_bit(1).store_ref(extra.serialize())
    cell = cell.store_coins(0).store_coins(0).store_uint(0, 64).store_uint(0, 32)
    return cell.store_bit(0).store_bit(1).store_ref(message.body).end_cell()


def test_extra_currencies_that_somebody_leaves_in_a_channel_stop_nothing(replica: Replica) -> None:
    """Three kinds, more than one message may carry, sent with no value so that they cannot be sent back."""
    play = Play(replica)
    assert play.send(top_up()).success
    litter = play.stage.message(Step(1, "relayer", "empty", 0, bounce=False))
    assert replica.run(play.address, with_extra_currencies(litter, 3), START_S + 1) is not None
    for step in (claim(2, TON), claim(3, 2 * TON, sender="relayer"), start_refund(4), claim(5, 3 * TON, close=True)):
        transaction = play.send(step)
        assert transaction.success
        assert transaction.action_result_code == 0
    assert play.paid("payee") == 3 * TON
    assert 0 <= 7 * TON + RENT_RESERVE_NANOTON - play.paid("payer") < 10
    assert play.state is None
    assert play.account.balance_nanoton == 0


OPERATIONS = [OP_TOP_UP, OP_CLAIM, OP_CLOSE_TOGETHER, OP_START_REFUND, OP_FINISH_REFUND, 0, 0xFFFFFFFF]


@given(
    op=st.sampled_from(OPERATIONS),
    rest=st.binary(max_size=100),
    refs=st.lists(st.binary(max_size=70), max_size=3),
    sender=st.sampled_from(["payee", "relayer"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_that_others_make_up_moves_money_or_state(
    replica: Replica, op: int, rest: bytes, refs: list[bytes], sender: str
) -> None:
    play = Play(replica)
    assert play.send(top_up()).success
    state, held = play.state, play.account.balance_nanoton
    body = begin_cell().store_uint(op, 32).store_bytes(rest)
    for each in refs:
        body = body.store_ref(begin_cell().store_bytes(each).end_cell())
    play.sent.clear()
    transaction = play.send(Step(1, sender, "empty", TON), body=body.end_cell())
    assert not transaction.success
    assert play.state == state
    assert held - play.account.balance_nanoton < 10
    assert [each.bounced for each in play.sent] == [True]
