"""What a user reads of a negotiation, above all why the cheapest did not get it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from compute.tasks import Task
from compute.usage import Prices, Unit, Usage
from overlay.events import EventLog
from overlay.market import Agreed, Asked, Quoted, Tier, Want
from overlay.node.deals import _too_dear
from overlay.node.trade_log import TradeLog

CHEAP, QUICK = "12D3KooWcheapcheap", "12D3KooWquickquick"


@pytest.fixture
def trade():
    told = []
    want = Want(Task.CHAT, "m", Usage({Unit.PROMPT: 10, Unit.COMPLETION: 200}), 10**9, Tier.PLAIN, 60_000)
    log = TradeLog(EventLog(told.append, lambda: 0.0), want, 50_000, {CHEAP: 50, QUICK: 200})
    return log, told


def prices(completion):
    return Prices({Unit.PROMPT: 0, Unit.COMPLETION: completion})


def quote(log, provider, completion, start_ms=0):
    asked = prices(completion)
    cost = asked.cost_nanoton(log.want.usage)
    log(Asked(provider, asked, cost))
    log(Quoted(provider, asked, start_ms, cost, False))


def award(log, provider, completion):
    body = SimpleNamespace(provider=provider, prices=prices(completion), model="m")
    log(Agreed(SimpleNamespace(body=body, id=b"\x01")))


def test_the_speed_that_a_provider_claims_is_shown_beside_its_price(trade):
    log, told = trade
    quote(log, CHEAP, 60_000_000)
    assert told[0].text.endswith("claims 50 tokens/s")
    assert told[0].data["units_per_s"] == 50


def test_an_award_to_the_cheapest_needs_no_reason(trade):
    log, told = trade
    quote(log, CHEAP, 60_000_000)
    quote(log, QUICK, 90_000_000)
    award(log, CHEAP, 60_000_000)
    assert told[-1].data["why"] == ""
    assert told[-1].text.endswith("for m")


def test_an_award_to_a_dearer_one_says_what_the_time_is_worth(trade):
    log, told = trade
    quote(log, CHEAP, 60_000_000)
    quote(log, QUICK, 90_000_000)
    award(log, QUICK, 90_000_000)
    # 200 tokens: 4 s at 50 a second, 1 s at 200; three seconds at 50000 nanoTON each for 6000 nanoTON more.
    assert "3.0 s sooner than …eapcheap" in told[-1].text
    assert "worth 150000 nanoTON" in told[-1].text
    assert "costs 6000 more" in told[-1].text


def test_an_award_to_a_dearer_and_slower_one_says_that_the_cheapest_backed_out(trade):
    log, told = trade
    quote(log, QUICK, 60_000_000)
    quote(log, CHEAP, 90_000_000)
    award(log, CHEAP, 90_000_000)
    assert "did not come to an agreement" in told[-1].text


def test_a_price_above_the_cap_names_the_flag_that_raises_it():
    best, caps = Prices({Unit.PROMPT: 5, Unit.COMPLETION: 70_000_000}), Prices({Unit.PROMPT: 10, Unit.COMPLETION: 20})
    error = _too_dear("m", best, caps)
    assert "--set market.max_completion=70000000)" in str(error)
    assert "max_prompt" not in str(error)
    assert error.best == best
