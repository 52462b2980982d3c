"""Invariants: a deliberately broken rule is caught, named, and caught again at the same event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from overlay.jobs.channel_client import ChannelClient
from overlay.jobs.channel_server import ChannelServer
from overlay.jobs.payee import PayeeChannel
from overlay.jobs.payer import PayerChannel
from overlay.market import Agreement
from overlay.settlement.model import ModelChain
from simulations.scenarios.model import Fault
from simulations.world import run
from simulations.world.machine import VirtualMachine
from simulations.world.tables import job_limits
from transport.wire import encode

WINDOW = {"ton.credit_window_nanoton": 20_000}
"""Less than one answer costs."""

Break = Callable[[pytest.MonkeyPatch], None]


def a_chain_that_mints(patch: pytest.MonkeyPatch) -> None:
    deliver = ModelChain.deliver

    def generous(self: ModelChain, now: int, limit: int | None = None) -> Any:
        next(iter(self.wallets.values())).balance_nanoton += 1
        return deliver(self, now, limit)

    patch.setattr(ModelChain, "deliver", generous)


def credit_without_end(patch: pytest.MonkeyPatch) -> None:
    """A client that never pays meets a provider that does not look."""
    patch.setattr(PayerChannel, "payment", lambda self: None)
    patch.setattr(PayeeChannel, "_within_credit", lambda self, job, cost: cost <= job.hold.maximum_nanoton)


def a_client_that_pays_ahead(patch: pytest.MonkeyPatch) -> None:
    payment = PayerChannel.payment

    def ahead(self: PayerChannel) -> Any:
        self.account._spent += 3_000_000
        try:
            return payment(self)
        finally:
            self.account._spent -= 3_000_000

    patch.setattr(PayerChannel, "payment", ahead)


def agreements_that_one_party_signed(patch: pytest.MonkeyPatch) -> None:
    def forged(self: Agreement) -> bytes:
        return encode([self.body.encode(), self.client_signature, bytes(64)])

    patch.setattr(Agreement, "encode", forged)


def two_receipts_for_one_job(patch: pytest.MonkeyPatch) -> None:
    finish = ChannelServer.finish

    def twice(self: ChannelServer, job: Any) -> Any:
        signed = finish(self, job)
        if signed is not None:
            receipt = signed.receipt
            again = self.payee._issue(job.job_id, job.agreement_id, receipt.usage, 0).to_record()
            self._ledger.post(lambda store: store.append_receipt(again))
        return signed

    patch.setattr(ChannelServer, "finish", twice)


def a_client_that_sends_before_it_writes(patch: pytest.MonkeyPatch) -> None:
    async def forgetful(self: ChannelClient, effects: object) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(ChannelClient, "_write", forgetful)


def a_provider_that_remembers_vouchers_in_memory_only(patch: pytest.MonkeyPatch) -> None:
    async def forgetful(self: ChannelServer, effects: object) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(ChannelServer, "_write", forgetful)


def a_disk_that_a_kill_wipes(patch: pytest.MonkeyPatch) -> None:
    boot = VirtualMachine.boot

    def wiped(self: VirtualMachine) -> None:
        boot(self)
        self.books = None

    patch.setattr(VirtualMachine, "boot", wiped)


def a_table_beyond_its_bound(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(job_limits, "MAX_KNOWN_AGREEMENTS", 0)


BROKEN: list[tuple[Break, str, str]] = [
    (a_chain_that_mints, "money conserved", "minted"),
    (credit_without_end, "nobody beyond his credit window", "owes provider"),
    (a_client_that_pays_ahead, "nothing promised that did not come", "for work that did not come"),
    (agreements_that_one_party_signed, "no agreement without both signatures", "does not verify"),
    (two_receipts_for_one_job, "no job paid twice", "second receipt"),
    (a_client_that_sends_before_it_writes, "both books of a channel agree", "holds a voucher"),
    (a_provider_that_remembers_vouchers_in_memory_only, "no lost money after a crash", "not in its books"),
    (a_disk_that_a_kill_wipes, "no lost money after a crash", "and has None"),
    (a_table_beyond_its_bound, "bounded tables", "agreements in memory"),
]


@pytest.mark.parametrize(
    ("broken", "invariant", "said"),
    [pytest.param(*row, marks=() if number % 3 == 0 else pytest.mark.slow) for number, row in enumerate(BROKEN)],
    ids=lambda of: getattr(of, "__name__", ""),
)
def test_a_broken_rule_stops_the_run_at_the_same_event_each_time(
    monkeypatch: pytest.MonkeyPatch, town: Any, broken: Break, invariant: str, said: str
) -> None:
    crash = Fault("crash", 35.0, group="sellers", options={"restart_s": 1.0})
    scenario = town(*([crash] if broken is a_disk_that_a_kill_wipes else ()), providers=2, clients=2, **WINDOW)
    broken(monkeypatch)
    first = run(scenario, 3)
    (violation,) = first.violations
    assert violation.invariant == invariant
    assert said in violation.what
    assert violation.event == first.events
    assert not first.complete
    assert not first.held
    assert invariant in first.stopped_because
    again = run(scenario, 3, until_event=violation.event)
    assert (again.events, again.digest) == (first.events, first.digest)


def test_nothing_is_broken_where_no_rule_is_however_narrow_the_window(town: Any) -> None:
    result = run(town(providers=2, clients=3, **WINDOW), 3)
    assert result.complete, result.violations
    assert sum(job.outcome == "done" for job in result.jobs) >= 8
    assert max(sample.unpaid_nanoton for sample in result.samples) > 0
