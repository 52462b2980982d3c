"""What is due in a tunnel, and when: the pure rules, as a pure machine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transport.tunnel.limits import (
    DEAD_SECONDS,
    MEASURE_SECONDS,
    PING_SECONDS,
    REKEY_SECONDS,
    SECOND_PING_SECONDS,
    STALL_SECONDS,
)
from transport.tunnel.upkeep import Action, Rates, Upkeep


def test_a_quiet_peer_is_pinged_once_and_then_dead() -> None:
    upkeep = Upkeep(0.0, initiator=True)
    assert upkeep.due_at(3.0, None) == 3.0 + PING_SECONDS
    assert upkeep.act(3.0 + PING_SECONDS, 3.0, None) == {Action.PING}
    assert upkeep.due_at(3.0, None) == 3.0 + DEAD_SECONDS
    assert upkeep.act(3.0 + DEAD_SECONDS, 3.0, None) == {Action.DEAD}


def test_a_responder_leaves_the_first_ping_to_the_initiator() -> None:
    upkeep = Upkeep(0.0, initiator=False)
    assert upkeep.due_at(1.0, None) == 1.0 + SECOND_PING_SECONDS
    assert upkeep.act(1.0 + PING_SECONDS, 1.0, None) == set()
    assert upkeep.act(1.0 + SECOND_PING_SECONDS, 1.0, None) == {Action.PING}


def test_a_busy_tunnel_is_pinged_only_to_measure_it() -> None:
    upkeep = Upkeep(0.0, initiator=True)
    pings = [now for now in range(1, 600) if Action.PING in upkeep.act(float(now), float(now) - 0.5, None)]
    assert pings == [MEASURE_SECONDS * count for count in range(1, 5)]


@given(
    st.booleans(),
    st.lists(st.tuples(st.floats(0, 40), st.booleans(), st.booleans()), min_size=1, max_size=40),
)
def test_whatever_happens_it_sleeps_no_longer_than_it_may_and_never_spins(
    initiator: bool, happens: list[tuple[float, bool, bool]]
) -> None:
    upkeep = Upkeep(0.0, initiator=initiator)
    now = heard_at = 0.0
    stuck_at: float | None = None
    rekeyed_at = 0.0
    for early_s, heard, stuck in happens:
        due_at = upkeep.due_at(heard_at, stuck_at)
        assert due_at <= heard_at + DEAD_SECONDS
        assert stuck_at is None or due_at <= stuck_at + STALL_SECONDS
        assert due_at <= rekeyed_at + REKEY_SECONDS
        if due_at > now + early_s:
            between = now + early_s
            heard_at = between if heard else heard_at
            stuck_at = (between if stuck_at is None else stuck_at) if stuck else None
        now = due_at
        actions = upkeep.act(now, heard_at, stuck_at)
        if Action.REKEY in actions:
            rekeyed_at = now
        if actions & {Action.DEAD, Action.STALLED}:
            assert now >= heard_at + DEAD_SECONDS or (stuck_at is not None and now >= stuck_at + STALL_SECONDS)
            return
        assert upkeep.due_at(heard_at, stuck_at) > now


def test_rates_are_of_the_time_since_the_last_look() -> None:
    rates = Rates(10.0)
    assert rates.look(12.0, 1000, 0) == (0.0, 0.0)
    assert rates.look(20.0, 1000, 500) == (100.0, 50.0)
    assert rates.look(21.0, 9000, 500) == (100.0, 50.0)
    assert rates.look(30.0, 1000, 500) == (0.0, 0.0)
