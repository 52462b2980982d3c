"""Faults: each does what its name says, ends when it should, breaks no invariant, and replays."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from overlay.settlement.ledger import (
    ChannelRecord,
    ChannelStatus,
    LedgerUnavailable,
    Role,
    VoucherRecord,
    open_ledger,
)
from simulations.results import RunResult
from simulations.scenarios.model import Fault
from simulations.world import run
from simulations.world.books import Books
from simulations.world.faults import FAULTS

OPTIONS: dict[str, dict[str, Any]] = {
    "crash": {"restart_s": 3.0},
    "churn": {"replaced_share": 0.5, "away_s": 5.0},
    "loss": {"probability": 0.1},
    "clock-skew": {"seconds": 25.0},
}
CHANNEL = ChannelRecord("0:aa", Role.PAYEE, "peer", -777, b"terms", 1000, ChannelStatus.OPEN, 0)


def outcomes(result: RunResult, from_s: float, to_s: float) -> list[str]:
    """Of jobs that were asked for then by clients that went on running."""
    return [job.outcome for job in result.jobs if from_s <= job.asked_at_s < to_s and not job.error.startswith("its c")]


QUICK = {"crash", "churn", "partition", "chain-outage"}
"""Those that each change is tried with; the rest are long runs."""


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow)
        for kind in sorted(FAULTS.keys() - {"crash-mid-stream", "shop-empty", "supply-shock"})
    ],
)
def test_a_town_gets_over_each_fault_and_no_invariant_breaks(town: Any, kind: str) -> None:
    fault = Fault(kind, 25.0, 15.0, "" if kind == "churn" else "sellers", 0.5, OPTIONS.get(kind, {}))
    # Who has to open a channel with somebody new waits for three blocks.
    result = run(town(fault, duration_s=95.0 if kind == "churn" else 66.0), 2)
    assert result.complete, result.violations
    assert result.happenings[0].at_s >= 25.0
    after = outcomes(result, 45.0, 58.0)
    assert after
    assert after.count("done") >= 0.7 * len(after)


@pytest.mark.slow
def test_what_goes_wrong_is_the_same_each_time(town: Any) -> None:
    faults = (
        Fault("churn", 15.0, 20.0, share=0.8, options={"replaced_share": 0.5, "away_s": 4.0}),
        Fault("partition", 20.0, 10.0, share=0.5),
        Fault("freeze", 22.0, 6.0, "sellers", 0.4),
    )
    first, second = (run(town(*faults, duration_s=38.0), 7) for _ in range(2))
    assert first.complete, first.violations
    assert (first.digest, first.events, first.happenings) == (second.digest, second.events, second.happenings)
    assert run(town(*faults, duration_s=38.0), 8).digest != first.digest


def test_a_share_of_a_group_is_hit_and_comes_back(town: Any) -> None:
    result = run(town(Fault("supply-shock", 20.0, 15.0, "sellers", 0.5), providers=4, clients=1, duration_s=50.0), 1)
    up = {sample.at_s: sample.providers_up for sample in result.samples}
    assert (up[15.0], up[30.0], up[50.0]) == (4, 2, 4)
    assert [(h.at_s, h.what) for h in result.happenings] == [
        (20.0, "2 providers are gone at once"), (35.0, "2 providers come back"),
    ]  # fmt: skip


def test_newcomers_take_the_place_of_those_that_do_not_return(town: Any) -> None:
    churn = Fault("churn", 10.0, 10.0, "sellers", 1.0, {"replaced_share": 1.0, "away_s": 2.0})
    result = run(town(churn, clients=1, duration_s=45.0), 1)
    assert len(result.providers) == 6
    assert result.samples[-1].providers_up == 3
    assert all(provider.up_s > 0 for provider in result.providers)


def test_a_provider_that_is_killed_in_the_middle_costs_its_clients_the_job_and_no_more(town: Any) -> None:
    mid = Fault("crash-mid-stream", 22.0, 20.0, options={"every_s": 8.0, "restart_s": 1.0})
    result = run(town(mid, providers=2, answer=600.0, duration_s=70.0), 3)
    assert result.complete, result.violations
    assert any(job.outcome == "failed" and job.first_token_at_s is not None for job in result.jobs)
    after = outcomes(result, 45.0, 55.0)
    assert after.count("done") == len(after) > 0


def test_while_the_chain_is_away_clients_go_on_with_the_channels_that_they_have(town: Any) -> None:
    outage = Fault("chain-outage", 50.0, 60.0)
    result = run(town(outage, providers=4, clients=3, jobs_per_hour=500.0, duration_s=120.0), 2)
    assert result.complete, result.violations
    during = outcomes(result, 50.0, 100.0)
    assert during.count("done") >= 20
    assert "failed" not in during


def test_a_client_that_starts_while_the_chain_is_away_works_with_the_channels_in_its_books(town: Any) -> None:
    outage, crash = Fault("chain-outage", 35.0, 60.0), Fault("crash", 45.0, 0.0, "buyers")
    result = run(town(outage, crash, duration_s=85.0), 2)
    assert result.complete, result.violations
    assert result.warnings["chain"] >= 3
    after = outcomes(result, 60.0, 75.0)
    assert len(after) >= 3
    assert after.count("done") == len(after)


@pytest.mark.trio
async def test_a_kill_loses_what_was_not_committed_and_nothing_else() -> None:
    dead = False
    books = Books(lambda: dead)
    first, second = (VoucherRecord("0:aa", number, 10 * number, bytes(64)) for number in (1, 2))
    with pytest.raises(LedgerUnavailable):
        async with open_ledger(books, inline=True) as ledger:
            await ledger.run(lambda store: store.add_channel(CHANNEL))
            await ledger.run(lambda store: store.put_voucher(first))
            ledger.post(lambda store: store.put_voucher(second))
            dead = True
            await ledger.flush()
    assert books.news == [first]
    dead = False
    async with open_ledger(books, inline=True) as ledger:
        assert await ledger.run(lambda store: store.voucher("0:aa")) == first
        assert books.summaries() == {"0:aa": (1000, 0, 1, 10, 0)}


@pytest.mark.trio
async def test_news_of_the_books_is_what_was_committed_without_what_was_undone() -> None:
    books = Books(lambda: False)
    vouchers = [VoucherRecord("0:aa", number, 10 * number, bytes(64)) for number in (1, 2)]

    def half(store: Any) -> None:
        store.put_voucher(vouchers[1])
        raise LedgerUnavailable("no")

    async with open_ledger(books, inline=True) as ledger:
        await ledger.run(lambda store: store.add_channel(CHANNEL))
        async with trio.open_nursery() as nursery:
            ledger.post(lambda store: store.put_voucher(vouchers[0]))
            ledger.post(half)
            nursery.start_soon(ledger.flush)
    assert books.news == [vouchers[0]]
