"""What a client remembers of providers, and that it only ever counts against them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.node.reputation import (
    FAILED_FOR_S,
    FORGET_S,
    MAX_FAILED_FOR_S,
    MAX_REMEMBERED,
    Reputation,
    Served,
)
from transport.identity import PeerId

ONE, TWO, THREE = PeerId("one"), PeerId("two"), PeerId("three")


def job(units=100, text_bytes=400, *, due_s=0.0, first_s=0.5, waited_s=4.5, model="m"):
    return Served(model, units, text_bytes, due_s, first_s, waited_s)


def test_the_speed_that_a_provider_showed_takes_the_place_of_a_higher_one_that_it_claims():
    memory = Reputation()
    assert memory.units_per_s(ONE, 100.0, 256, 0.0) == 100.0
    memory.served(ONE, job(units=100, first_s=0.5, waited_s=4.5), 0.0)
    assert memory.units_per_s(ONE, 100.0, 256, 0.0) == pytest.approx(25.0)
    assert memory.units_per_s(ONE, 20.0, 256, 0.0) == 20.0


def test_a_wait_that_was_not_announced_makes_a_provider_slower_and_one_that_was_does_not():
    memory = Reputation()
    memory.served(ONE, job(units=100, due_s=10.0, first_s=11.0, waited_s=12.0), 0.0)
    memory.served(TWO, job(units=100, due_s=0.0, first_s=12.0, waited_s=13.0), 0.0)
    assert memory.units_per_s(ONE, 100.0, 100, 0.0) == 100.0
    assert memory.units_per_s(TWO, 100.0, 100, 0.0) == pytest.approx(100 / 11)


def test_each_failure_in_a_row_leaves_a_provider_out_for_twice_as_long():
    memory = Reputation()
    now, out_s = 0.0, FAILED_FOR_S
    while out_s < MAX_FAILED_FOR_S:
        memory.failed(ONE, now)
        assert memory.is_out(ONE, now + out_s - 1)
        assert not memory.is_out(ONE, now + out_s)
        now, out_s = now + out_s, out_s * 2
    memory.failed(ONE, now)
    assert not memory.is_out(ONE, now + MAX_FAILED_FOR_S)


def test_good_jobs_make_up_for_a_failure():
    memory = Reputation()
    memory.failed(ONE, 0.0)
    for at in range(100, 150):
        memory.served(ONE, job(), float(at))
    memory.failed(ONE, 200.0)
    assert not memory.is_out(ONE, 200.0 + 1.1 * FAILED_FOR_S)


def test_who_charged_what_he_did_not_deliver_stays_out_for_good():
    memory = Reputation()
    memory.disputed(ONE, 0.0)
    for number in range(2 * MAX_REMEMBERED):
        memory.served(PeerId(f"other {number}"), job(), 10 * FORGET_S)
    assert memory.is_disputed(ONE)
    assert memory.is_out(ONE, 20 * FORGET_S)
    assert len(memory) == MAX_REMEMBERED


def test_who_counts_far_more_tokens_for_his_text_than_the_others_of_the_model_has_failed():
    memory = Reputation()
    for at in range(3):
        for honest in (TWO, THREE):
            assert not memory.served(honest, job(units=100, text_bytes=400), float(at))
    verdicts = [memory.served(ONE, job(units=200, text_bytes=400), float(at)) for at in range(3, 6)]
    assert verdicts == [False, False, True]
    assert memory.is_out(ONE, 6.0)
    assert not memory.is_out(TWO, 6.0)


def test_another_language_or_another_model_is_no_proof_of_cheating():
    memory = Reputation()
    for at in range(5):
        memory.served(TWO, job(units=100, text_bytes=400), float(at))
        memory.served(THREE, job(units=110, text_bytes=400), float(at))
        assert not memory.served(ONE, job(units=120, text_bytes=400), float(at))
        assert not memory.served(ONE, job(units=300, text_bytes=400, model="other"), float(at))


def test_a_provider_that_is_full_has_failed_nothing():
    memory = Reputation()
    memory.served(ONE, job(), 0.0)
    for at in range(5):
        memory.full(ONE, float(at))
    assert memory.is_trusted(ONE)
    assert memory.is_out(ONE, 20.0)
    assert not memory.is_out(ONE, 4.0 + FAILED_FOR_S)


def test_what_is_old_is_forgotten():
    memory = Reputation()
    memory.served(ONE, job(units=10, waited_s=10.0), 0.0)
    assert memory.units_per_s(ONE, 100.0, 256, FORGET_S + 1) == 100.0


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("failed"), st.sampled_from((ONE, TWO, THREE))),
            st.tuples(st.just("full"), st.sampled_from((ONE, TWO, THREE))),
            st.tuples(
                st.builds(
                    Served, st.just("m"), st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 100),
                    st.floats(0, 100), st.floats(0, 1000),
                ),
                st.sampled_from((ONE, TWO, THREE)),
            ),
        ),
        max_size=30,
    ),
    st.floats(0, 1e6),
    st.integers(0, 10**6),
)  # fmt: skip
def test_nothing_that_happens_makes_a_provider_look_better_than_it_says(what, claimed, size):
    memory = Reputation()
    for at, (happened, peer) in enumerate(what):
        if isinstance(happened, Served):
            memory.served(peer, happened, float(at))
        else:
            getattr(memory, happened)(peer, float(at))
    for peer in (ONE, TWO, THREE):
        shown = memory.units_per_s(peer, claimed, size, float(len(what)))
        assert shown <= claimed * (1 + 1e-9) or claimed == 0
