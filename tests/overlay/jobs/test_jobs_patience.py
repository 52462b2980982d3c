"""How long a channel's jobs may wait for credit: so long for each window that is paid, and not for less."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from overlay.jobs.limits import PAYMENT_S
from overlay.jobs.patience import Patience

WINDOW = 1000


def test_waits_add_up_until_a_window_is_paid() -> None:
    patience = Patience()
    assert patience.begin(100.0) == 100.0 + PAYMENT_S
    patience.end(104.0)
    assert patience.begin(200.0) == 200.0 + PAYMENT_S - 4
    patience.paid(WINDOW // 2, 10, WINDOW, 201.0)
    patience.end(201.0)
    assert patience.begin(300.0) == 300.0 + PAYMENT_S - 5
    patience.paid(WINDOW, 10, WINDOW, 302.0)
    patience.end(302.0)
    assert patience.begin(400.0) == 400.0 + PAYMENT_S


def test_who_owes_nothing_is_waited_for_anew_however_little_that_was() -> None:
    patience = Patience()
    patience.begin(0.0)
    patience.end(9.0)
    patience.paid(1, 0, WINDOW, 9.0)
    assert patience.begin(20.0) == 20.0 + PAYMENT_S


def test_jobs_that_wait_together_wait_once() -> None:
    patience = Patience()
    assert patience.begin(0.0) == patience.begin(3.0) == PAYMENT_S
    patience.end(4.0)
    patience.end(5.0)
    assert patience.begin(10.0) == 10.0 + PAYMENT_S - 5


@given(st.lists(st.tuples(st.floats(0.0, PAYMENT_S), st.integers(0, WINDOW - 1)), max_size=30))
def test_whoever_pays_less_than_a_window_is_waited_for_no_longer_in_all(steps: list[tuple[float, int]]) -> None:
    patience, now_s, waited_s, promised = Patience(), 0.0, 0.0, 0
    for seconds, payment in steps:
        until_s = patience.begin(now_s)
        waited = min(seconds, until_s - now_s)
        now_s, waited_s = now_s + waited, waited_s + waited
        patience.end(now_s)
        promised += payment
        if promised >= WINDOW:
            break
        patience.paid(promised, 1, WINDOW, now_s)
    assert waited_s <= PAYMENT_S + 1e-9
