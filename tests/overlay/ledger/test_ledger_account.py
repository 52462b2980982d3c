"""The arithmetic of a channel under a random walk: nothing appears, nothing vanishes, the deposit is never exceeded."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from overlay.settlement.ledger import Budget, ChannelAccount, Hold, LedgerConflict, OverLimit

sums = st.integers(0, 400)


class AccountMachine(RuleBasedStateMachine):
    """The account beside a naive model: a list of (maximum, applied, open) and the promised sum."""

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.account = ChannelAccount(1000)
        self.agreement = Budget("the agreement", 700)
        self.model: dict[Hold, list[int]] = {}
        self.deposit = 1000
        self.promised = 0
        self.settled = 0

    def owed(self) -> int:
        return self.settled + sum(applied for _, applied in self.model.values())

    def reserved(self) -> int:
        return sum(most - applied for hold, (most, applied) in self.model.items() if not hold.closed)

    @rule(target=holds, maximum=sums)
    def reserve(self, maximum: int) -> Hold:
        spent = sum(applied for _, applied in self.model.values())
        fits = maximum <= self.deposit - self.owed() - self.reserved() and maximum <= 700 - spent - self.reserved()
        if fits:
            hold = self.account.reserve(maximum, self.agreement)
            self.model[hold] = [maximum, 0]
            return hold
        with pytest.raises(OverLimit):
            self.account.reserve(maximum, self.agreement)
        hold = Budget("nothing", 0).reserve(0)
        hold.close()
        return hold

    @rule(hold=holds, total=sums)
    def apply(self, hold: Hold, total: int) -> None:
        if hold not in self.model or hold.closed:
            with pytest.raises(LedgerConflict):
                hold.apply(total)
            return
        most, applied = self.model[hold]
        if applied <= total <= most:
            assert hold.apply(total) == total - applied
            self.model[hold][1] = total
        else:
            with pytest.raises((OverLimit, LedgerConflict)):
                hold.apply(total)

    @rule(hold=holds, less=st.integers(0, 50))
    def close(self, hold: Hold, less: int) -> None:
        if hold in self.model and not hold.closed:
            final = max(0, self.model[hold][1] - less)
            hold.close(final)
            self.model[hold][1] = final
        else:
            hold.close()

    @rule(amount=st.integers(0, 1500))
    def promise(self, amount: int) -> None:
        if self.promised <= amount <= self.deposit:
            self.account.promise(amount)
            self.promised = amount
        else:
            with pytest.raises((OverLimit, LedgerConflict)):
                self.account.promise(amount)

    @rule(more=st.integers(-10, 200))
    def top_up(self, more: int) -> None:
        if more >= 0:
            self.account.top_up(self.deposit + more)
            self.deposit += more
        else:
            with pytest.raises(LedgerConflict):
                self.account.top_up(self.deposit + more)

    @invariant()
    def books_agree(self) -> None:
        account = self.account
        assert account.owed_nanoton == self.owed()
        assert account.reserved_nanoton == self.reserved()
        assert account.promised_nanoton == self.promised
        assert account.owed_nanoton + account.reserved_nanoton + account.left_nanoton == account.deposit_nanoton
        assert account.unpaid_nanoton - account.prepaid_nanoton == account.owed_nanoton - account.promised_nanoton
        assert min(account.unpaid_nanoton, account.prepaid_nanoton) == 0
        assert self.agreement.spent_nanoton + self.agreement.reserved_nanoton <= 700


AccountMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAccount = AccountMachine.TestCase


def test_leaving_a_hold_gives_back_what_was_not_applied():
    account = ChannelAccount(100)
    with account.reserve(60) as hold:
        hold.apply(10)
        assert account.left_nanoton == 40
    assert (account.owed_nanoton, account.reserved_nanoton, account.left_nanoton) == (10, 0, 90)


def test_settling_is_refused_while_jobs_run():
    account = ChannelAccount(100)
    with account.reserve(10) as hold:
        hold.apply(5)
        with pytest.raises(LedgerConflict):
            account.settle(5)
    assert account.settle(3) == 2
    assert account.owed_nanoton == 3


def test_floats_and_negative_sums_are_no_money():
    for wrong in (1.0, -1, True, 1 << 63):
        with pytest.raises((LedgerConflict, OverLimit)):
            ChannelAccount(100).promise(wrong)  # type: ignore[arg-type]  # that is the point
