"""One accounting object for a channel: reserve, then apply or release.

It holds four sums, all in nanoTON, and one rule. *deposit* is what the channel holds on chain. *owed* is what was
metered: the work delivered so far. *reserved* is what running jobs may still cost. *promised* is the highest voucher.
The rule: ``owed + reserved <= deposit``, always, so that no job starts that the channel could not pay for.

Both parties keep one, from their own measurements. Where they differ, the difference is the *exposure*: on the payee's
side ``owed - promised`` is work that nobody has promised to pay yet; on the payer's, ``promised - owed`` is money
promised for work that never came.
"""

from __future__ import annotations

from types import TracebackType

from overlay.settlement.ledger.errors import LedgerConflict, OverLimit
from overlay.settlement.ledger.limits import MAX_NANOTON


def _check_sum(name: str, value: int) -> None:
    if type(value) is not int or not 0 <= value <= MAX_NANOTON:
        raise LedgerConflict(f"{name}: a sum is an integer of nanoTON from 0 to {MAX_NANOTON}, not {value!r}")


class Budget:
    """A sum that may be spent, such as the maximum of an agreement: ``spent + reserved <= limit``, in nanoTON."""

    def __init__(self, what: str, limit_nanoton: int, *, spent_nanoton: int = 0) -> None:
        _check_sum("limit", limit_nanoton)
        _check_sum("spent", spent_nanoton)
        self.what = what
        self._limit = limit_nanoton
        self._spent = spent_nanoton
        self._reserved = 0

    @property
    def limit_nanoton(self) -> int:
        """The most that may be spent in all."""
        return self._limit

    @property
    def spent_nanoton(self) -> int:
        """What was applied so far, running jobs included."""
        return self._spent

    @property
    def reserved_nanoton(self) -> int:
        """What open holds may still apply."""
        return self._reserved

    @property
    def left_nanoton(self) -> int:
        """What a new hold may reserve; 0 when more was spent than the limit (a deposit never shrinks, so only a limit
        that was restored from elsewhere can make that so)."""
        return max(0, self._limit - self._spent - self._reserved)

    def reserve(self, maximum_nanoton: int, *also: Budget) -> Hold:
        """Set ``maximum_nanoton`` aside here, and in each budget of ``also``, or in none of them.

        Raises :class:`OverLimit` naming the first budget that lacks it.
        """
        _check_sum("maximum", maximum_nanoton)
        budgets = (self, *also)
        for budget in budgets:
            if maximum_nanoton > budget.left_nanoton:
                raise OverLimit(budget.what, maximum_nanoton, budget.left_nanoton)
        for budget in budgets:
            budget._reserved += maximum_nanoton
        return Hold(budgets, maximum_nanoton)

    def _move(self, from_reserved: int, to_spent: int) -> None:
        self._reserved -= from_reserved
        self._spent += to_spent
        assert self._reserved >= 0
        assert self._spent >= 0

    def _closed(self, spent: int) -> None:
        """A hold that had spent this much is closed: in a budget, spent stays spent."""


class Hold:
    """Money set aside for one job, in one or several budgets.

    ``apply`` is given the job's cost so far and may be called as often as work arrives; leaving the context (or
    ``close``) gives back what was not applied. ``close`` may also correct the cost downwards, never upwards.
    """

    def __init__(self, budgets: tuple[Budget, ...], maximum_nanoton: int) -> None:
        self._budgets = budgets
        self.maximum_nanoton = maximum_nanoton
        self.applied_nanoton = 0
        self.closed = False

    def fits(self, total_nanoton: int) -> bool:
        """Whether ``apply(total_nanoton)`` would be accepted."""
        return not self.closed and self.applied_nanoton <= total_nanoton <= self.maximum_nanoton

    def apply(self, total_nanoton: int) -> int:
        """Charge the job ``total_nanoton`` in all so far; returns by how much that is more than before.

        Raises :class:`OverLimit` beyond the reservation and :class:`LedgerConflict` when the total sinks or the hold
        is closed; the books are then unchanged.
        """
        if self.closed:
            raise LedgerConflict("the reservation is closed")
        added = total_nanoton - self.applied_nanoton
        if added < 0:
            raise LedgerConflict(f"a job's cost never sinks: {total_nanoton} after {self.applied_nanoton}")
        if total_nanoton > self.maximum_nanoton:
            raise OverLimit("the job's reservation", total_nanoton, self.maximum_nanoton)
        for budget in self._budgets:
            budget._move(added, added)
        self.applied_nanoton = total_nanoton
        return added

    def give_back(self) -> None:
        """Nothing will be added any more: give back what was not applied. The sum may still be corrected by closing."""
        if not self.closed:
            for budget in self._budgets:
                budget._move(self.maximum_nanoton - self.applied_nanoton, 0)
            self.maximum_nanoton = self.applied_nanoton

    def close(self, total_nanoton: int | None = None) -> None:
        """End the hold and give back the rest. With ``total_nanoton``, at most what was applied, the job's cost is
        corrected to it first. Closing again changes nothing."""
        if self.closed:
            return
        final = self.applied_nanoton if total_nanoton is None else total_nanoton
        if not 0 <= final <= self.applied_nanoton:
            raise LedgerConflict(f"a job is closed at no more than its cost so far: {final} > {self.applied_nanoton}")
        for budget in self._budgets:
            budget._move(self.maximum_nanoton - self.applied_nanoton, final - self.applied_nanoton)
            budget._closed(final)
        self.applied_nanoton = final
        self.closed = True

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class ChannelAccount(Budget):
    """The sums of one channel, as one of its parties sees them (see the module's docstring)."""

    def __init__(self, deposit_nanoton: int, *, owed_nanoton: int = 0, promised_nanoton: int = 0) -> None:
        super().__init__("the channel's deposit", deposit_nanoton, spent_nanoton=owed_nanoton)
        _check_sum("promised", promised_nanoton)
        if max(owed_nanoton, promised_nanoton) > deposit_nanoton:
            raise LedgerConflict(
                f"a channel of {deposit_nanoton} nanoTON cannot owe {owed_nanoton} or have promised {promised_nanoton}"
            )
        self._promised = promised_nanoton

    @property
    def deposit_nanoton(self) -> int:
        """What the channel holds on chain."""
        return self._limit

    @property
    def owed_nanoton(self) -> int:
        """What was metered so far, running jobs included."""
        return self._spent

    @property
    def promised_nanoton(self) -> int:
        """The amount of the highest voucher."""
        return self._promised

    @property
    def unpaid_nanoton(self) -> int:
        """Work delivered that no voucher covers: what the payee risks."""
        return max(0, self._spent - self._promised)

    @property
    def prepaid_nanoton(self) -> int:
        """Money promised for work that did not come: what the payer risks."""
        return max(0, self._promised - self._spent)

    def promise(self, amount_nanoton: int) -> None:
        """Note that a voucher of ``amount_nanoton`` exists. Raises :class:`LedgerConflict` when that is less than an
        earlier one and :class:`OverLimit` beyond the deposit."""
        _check_sum("voucher", amount_nanoton)
        if amount_nanoton < self._promised:
            raise LedgerConflict(f"a voucher never sinks: {amount_nanoton} after {self._promised}")
        if amount_nanoton > self._limit:
            raise OverLimit(self.what, amount_nanoton, self._limit)
        self._promised = amount_nanoton

    def top_up(self, deposit_nanoton: int) -> None:
        """Note the channel's new, larger deposit. Raises :class:`LedgerConflict` when it is smaller."""
        _check_sum("deposit", deposit_nanoton)
        if deposit_nanoton < self._limit:
            raise LedgerConflict(f"a deposit never shrinks: {deposit_nanoton} after {self._limit}")
        self._limit = deposit_nanoton

    def settle(self, owed_nanoton: int) -> int:
        """Set what is owed to a sum that both parties can prove; only while no job is open. Returns what was written
        off (negative: what was added)."""
        _check_sum("owed", owed_nanoton)
        if self._reserved:
            raise LedgerConflict("jobs are running on this channel")
        if owed_nanoton > self._limit:
            raise OverLimit(self.what, owed_nanoton, self._limit)
        written_off = self._spent - owed_nanoton
        self._spent = owed_nanoton
        return written_off
