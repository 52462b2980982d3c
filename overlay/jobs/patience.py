"""How long a provider lets the jobs of a channel wait for credit. Pure: times are seconds of any clock."""

from __future__ import annotations

from overlay.jobs.limits import PAYMENT_S


class Patience:
    """:data:`~overlay.jobs.limits.PAYMENT_S` of waiting for each credit window that is paid, or until all is. Payments
    that are smaller than that do not renew it: else a client could hold a slot for ever at the price of one token each
    ten seconds, or of none."""

    def __init__(self) -> None:
        self._left_s = PAYMENT_S
        self._waiting = 0
        self._since_s = 0.0
        self._renewed_at_nanoton = 0

    def begin(self, now_s: float) -> float:
        """A job waits from now on; returns until when it may."""
        if not self._waiting:
            self._since_s = now_s
        self._waiting += 1
        return self._since_s + self._left_s

    def end(self, now_s: float) -> None:
        """It waits no more. Jobs that wait at the same time wait once."""
        self._waiting -= 1
        if not self._waiting:
            self._left_s = max(0.0, self._left_s - (now_s - self._since_s))

    def paid(self, promised_nanoton: int, unpaid_nanoton: int, window_nanoton: int, now_s: float) -> None:
        """The highest voucher is for ``promised_nanoton`` now, and leaves ``unpaid_nanoton``."""
        if not unpaid_nanoton or promised_nanoton - self._renewed_at_nanoton >= window_nanoton:
            self._left_s, self._since_s, self._renewed_at_nanoton = PAYMENT_S, now_s, promised_nanoton
