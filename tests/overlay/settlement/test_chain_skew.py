"""Three clocks tell a wrong wall clock from a chain that stands still."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from overlay.settlement.chain.limits import MAX_CLOCK_SKEW_S
from overlay.settlement.chain.skew import ChainClock, skew_text

T0 = 1_700_000_000


@given(st.lists(st.tuples(st.floats(0, 600), st.floats(-5000, 5000)), max_size=20))
def test_a_chain_that_goes_on_stays_plausible_however_the_wall_clock_jumps(steps: list[tuple[float, float]]) -> None:
    clock, elapsed = ChainClock(), 100.0
    assert clock.is_plausible(T0 + 3, elapsed, T0)
    clock.note(T0 + 3, elapsed, T0)
    for passed, offset in steps:
        elapsed += passed
        utime = T0 + int(elapsed - 100)
        wall = T0 + elapsed - 100 + offset
        assert clock.is_plausible(wall, elapsed, utime)
        clock.note(wall, elapsed, utime)


@given(st.floats(MAX_CLOCK_SKEW_S + 1, 10_000))
def test_a_chain_that_stands_still_is_implausible_after_a_minute(passed: float) -> None:
    clock = ChainClock()
    clock.note(T0 + 1, 0.0, T0)
    assert not clock.is_plausible(T0 + 1 + passed, passed, T0)
    assert clock.oldest_fresh(T0 + 1 + passed, passed) > T0


def test_before_anything_is_known_the_wall_clock_decides() -> None:
    clock = ChainClock()
    assert clock.is_plausible(T0 + 59, 0.0, T0)
    assert not clock.is_plausible(T0 + 61, 0.0, T0)
    assert not clock.is_plausible(T0 - 61, 0.0, T0)
    assert clock.skew_s == 0.0
    assert clock.warning() is None


def test_the_skew_is_that_of_the_freshest_block_and_is_warned_of_once_each_time() -> None:
    clock = ChainClock()
    for lag in (40, 31, 55, 33, 34, 35, 36):
        clock.note(T0 + lag, 0.0, T0)
        assert clock.warning() is None
    clock.note(T0 + 38, 0.0, T0)
    assert clock.skew_s == 31
    assert clock.warning() == "this machine's clock is 31 s ahead of TON's: set it, for example by NTP"
    assert clock.warning() is None
    for _ in range(8):
        clock.note(T0 + 2, 0.0, T0)
    assert clock.warning() is None
    for _ in range(8):
        clock.note(T0 - 90, 0.0, T0)
    assert clock.warning() is not None
    assert skew_text(-90) == "90 s behind"
