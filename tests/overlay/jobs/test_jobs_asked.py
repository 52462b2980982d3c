"""A provider that asks for money is paid, whichever of its question and its events arrives first."""

from __future__ import annotations

import pytest

from compute.tasks import ChatRequest, Message, Sampling, TextDelta
from compute.usage import Prices, Unit, Usage
from overlay.jobs import PayerChannel
from overlay.settlement.ledger import GENESIS_HASH, Budget, ChainHead, ChannelRecord, ChannelStatus, Role
from transport.identity import Identity

CLIENT, PROVIDER = Identity(b"c" * 32), Identity(b"p" * 32)
WINDOW, PRICE = 1000, 60
TOKEN = [TextDelta("w", Usage.of(Unit.COMPLETION, 1))]


@pytest.fixture
def payer():
    record = ChannelRecord("0:" + "ab" * 32, Role.PAYER, PROVIDER.peer_id, -3, b"t", 10**6, ChannelStatus.OPEN, 0)
    return PayerChannel(
        record, ChainHead(0, GENESIS_HASH, 0), None, identity=CLIENT,
        sign_voucher=lambda seq, amount: bytes(64), verify_voucher=lambda seq, amount, signature: True,
    )  # fmt: skip


@pytest.fixture
def job(payer):
    request = ChatRequest("m", (Message("user", "hello"),), Sampling(max_tokens=100))
    prices = Prices({Unit.PROMPT: 0, Unit.COMPLETION: PRICE * 1_000_000})
    return payer.start(b"j" * 16, b"a" * 32, prices, WINDOW, request, 10**5, Budget("a", 10**9))


def promised(payer):
    effects = payer.payment()
    return 0 if effects is None or effects.voucher is None else effects.voucher.amount_nanoton


def test_a_little_is_not_paid_unasked(payer, job):
    assert not job.take(TOKEN)
    assert promised(payer) == 0


def test_a_provider_that_asks_after_its_events_is_paid(payer, job):
    job.take(TOKEN)
    payer.due()
    assert promised(payer) == PRICE


def test_a_provider_whose_question_overtakes_its_events_is_paid_when_they_arrive(payer, job):
    payer.due()
    assert promised(payer) == 0, "there is nothing to pay yet"
    assert job.take(TOKEN), "the next events are due at once"
    assert promised(payer) == PRICE
    assert not job.take(TOKEN), "and one question is answered once"
