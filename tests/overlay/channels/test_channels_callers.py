"""Streams and questions of strangers: counted, bounded, forgotten."""

from contextlib import ExitStack

from overlay.channels.callers import AskRate, StreamSeats


def test_a_peer_has_few_seats_all_have_more_and_each_is_given_back():
    seats = StreamSeats(total=3, per_peer=2)
    with ExitStack() as stack:
        assert [stack.enter_context(seats.taken(peer)) for peer in ("a", "a", "a", "b", "c")] == [
            True, True, False, True, False,
        ]  # fmt: skip
        assert len(seats) == 3
    assert len(seats) == 0
    with seats.taken("a") as seated:
        assert seated


def test_questions_are_counted_over_a_sliding_window_and_peers_forgotten_after_it():
    rate = AskRate(limit=2, window_s=10.0)
    assert [rate.may("a", now) for now in (0.0, 1.0, 2.0, 9.9, 10.0, 10.5, 11.0)] == [
        True, True, False, False, True, False, True,
    ]  # fmt: skip
    assert rate.may("b", 30.0)
    assert len(rate) == 1
