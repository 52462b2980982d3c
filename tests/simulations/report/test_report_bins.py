"""Bins: few points for many values, and nothing hidden."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.report.bins import band, line, over_time, rates, runs

values = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=200)


@given(st.integers(0, 5000), st.integers(1, 300))
def test_runs_cover_everything_once_and_are_few(length: int, most: int) -> None:
    parts = runs(length, most)
    assert [at for part in parts for at in range(part.start, part.stop)] == list(range(length))
    assert len(parts) <= most


@given(values, st.integers(1, 50))
def test_no_spike_is_lost(series: list[float], most: int) -> None:
    made = line(range(len(series)), np.array(series), most)
    assert len(made.at_s) <= most
    assert made.low.min() == min(series)
    assert made.high.max() == max(series)
    assert (made.low <= made.middle).all()
    assert (made.middle <= made.high).all()
    assert made.binned == (len(series) > most)


def test_few_values_stay_as_they_are() -> None:
    made = band([1.0, 2.0], np.array([1.0, 1.0]), np.array([2.0, 3.0]), np.array([4.0, 5.0]), 10)
    assert list(made) == [(1.0, 1.0, 2.0, 4.0), (2.0, 1.0, 3.0, 5.0)]


def test_what_was_not_measured_is_no_zero() -> None:
    made = line([0.0, 1.0, 2.0, 3.0], np.array([math.nan, math.nan, math.nan, 7.0]), 2)
    assert math.isnan(made.middle[0])
    assert made.middle[1] == 7.0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1e6)), max_size=300), st.integers(1, 40))
def test_every_value_falls_into_one_bin_of_time(pairs: list[tuple[float, float]], most: int) -> None:
    bins = over_time([at for at, _ in pairs], [value for _, value in pairs], 100.0, most)
    assert sum(part.number for part in bins) == len(pairs)
    assert len(bins) <= most
    for part in bins:
        inside = [value for at, value in pairs if part.from_s < at < part.to_s]
        if inside and part.number == len(inside):
            assert min(inside) <= part.p10 <= part.p50 <= part.p95 <= max(inside)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=100), st.integers(2, 20))
def test_rates_add_up_to_what_was_counted(steps: list[int], most: int) -> None:
    counter = np.cumsum(steps).tolist()
    made = rates([float(at) for at in range(1, len(steps) + 1)], counter, most)
    assert sum(rate.per_s * (rate.to_s - rate.from_s) for rate in made) == pytest.approx(counter[-1])
    assert made[0].from_s == 0.0
    assert made[-1].to_s == len(steps)
    assert len(made) <= most
