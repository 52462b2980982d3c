"""Numbers for people."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.report.formats import clock, count, money, number, plural, seconds, share, size


@pytest.mark.parametrize(
    ("nanoton", "text"),
    [
        (0, "0 TON"), (1, "0.000000001 TON"), (12_345_678_901, "12.35 TON"), (-28_960_000, "−0.02896 TON"),
        (99_999_999_999, "100 TON"), (10**18 + 1, "1000000000 TON"), (None, "–"), (math.nan, "–"),
    ],
)  # fmt: skip
def test_money_is_rounded_to_four_digits(nanoton: float | None, text: str) -> None:
    assert money(nanoton) == text


@given(st.integers(-(10**24), 10**24))
def test_money_is_never_wrong_by_more_than_its_last_digit_and_never_through_a_float(nanoton: int) -> None:
    whole, _, fraction = money(nanoton).removesuffix(" TON").replace("−", "-").partition(".")
    shown = int(whole + fraction.ljust(9, "0"))
    assert abs(shown - nanoton) * 1000 <= abs(nanoton)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (20_000, "20,000"),
        (0.01234, "0.0123"),
        (-1.5, "−1.5"),
        (999.96, "1,000"),
        (None, "–"),
        (math.inf, "–"),
    ],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@given(st.one_of(st.none(), st.floats()))
def test_no_float_breaks_a_format(value: float | None) -> None:
    for form in (money, number, seconds, share, size):
        assert form(value)
    if value is not None and abs(value) < 1e15:
        assert clock(value)


def test_other_formats() -> None:
    assert [clock(at) for at in (0, 65, 3723.25, -5)] == ["0:00", "1:05", "1:02:03.2", "−0:05"]
    assert [size(n) for n in (512, 1536, 5 << 30)] == ["512 B", "1.5 KiB", "5 GiB"]
    assert [plural(1, "job"), plural(2000, "job"), count(-3)] == ["1 job", "2,000 jobs", "−3"]
    assert share(0.12345) == "12.3 %"
