"""Admission: slots first, then a bounded queue in order of arrival."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from compute.admission import Admission, SchedulerBusy


class AdmissionModel(RuleBasedStateMachine):
    """Against a plain model: two lists."""

    def __init__(self) -> None:
        super().__init__()
        self.admission: Admission[int] = Admission(slots=3, max_queue=4)
        self.running: list[int] = []
        self.waiting: list[int] = []
        self.next_id = 0
        self.now_s = 0.0

    @rule(dt=st.floats(0, 10))
    def arrive(self, dt: float) -> None:
        self.now_s += dt
        self.next_id += 1
        if len(self.running) < 3:
            assert self.admission.arrive(self.next_id, self.now_s)
            self.running.append(self.next_id)
        elif len(self.waiting) < 4:
            assert not self.admission.arrive(self.next_id, self.now_s)
            self.waiting.append(self.next_id)
        else:
            with pytest.raises(SchedulerBusy) as caught:
                self.admission.arrive(self.next_id, self.now_s)
            assert caught.value.retry_after_s >= 0

    @precondition(lambda self: self.running or self.waiting)
    @rule(data=st.data(), dt=st.floats(0, 10), served=st.booleans())
    def leave(self, data: st.DataObject, dt: float, served: bool) -> None:
        self.now_s += dt
        job = data.draw(st.sampled_from(self.running + self.waiting))
        started = self.admission.leave(job, self.now_s, served=served)
        if job in self.waiting:
            self.waiting.remove(job)
            assert started == []
        else:
            self.running.remove(job)
            expected = [self.waiting.pop(0)] if self.waiting else []
            self.running += expected
            assert started == expected

    @invariant()
    def counts_agree_and_nobody_waits_beside_a_free_slot(self) -> None:
        assert (self.admission.busy, self.admission.queued) == (len(self.running), len(self.waiting))
        assert not (self.waiting and len(self.running) < 3)


TestAdmission = AdmissionModel.TestCase


def served(admission: Admission[str], seconds: float, work: float = 1.0) -> None:
    admission.arrive("before", 0.0, work)
    admission.leave("before", seconds, served=True)


def test_the_expected_wait_is_until_the_first_slot_is_free() -> None:
    admission: Admission[str] = Admission(slots=2)
    for seconds in (4.0, 6.0):
        served(admission, seconds)
    admission.arrive("c", 10.0)
    assert admission.wait_s(10.0) == 0.0
    admission.arrive("d", 12.0)
    assert admission.wait_s(12.0) == pytest.approx(3.0)
    assert admission.wait_s(14.0) == pytest.approx(1.0)
    admission.arrive("e", 14.0)
    assert admission.wait_s(14.0) == pytest.approx(3.0)


def test_a_long_job_is_expected_to_take_longer() -> None:
    admission: Admission[str] = Admission(slots=1)
    served(admission, 10.0, work=1000)
    admission.arrive("long", 20.0, work=5000)
    assert admission.wait_s(20.0) == pytest.approx(50.0)
    admission.arrive("short", 20.0, work=100)
    assert admission.wait_s(30.0) == pytest.approx(41.0)


def test_before_any_job_was_served_the_known_speed_tells_the_wait() -> None:
    admission: Admission[str] = Admission(slots=1, pace_s=0.01)
    admission.arrive("a", 0.0, work=1000)
    assert admission.wait_s(4.0) == pytest.approx(6.0)


def test_a_promised_place_counts_as_taken_until_its_job_arrives() -> None:
    admission: Admission[str] = Admission(slots=2)
    served(admission, 10.0)
    admission.arrive("a", 20.0)
    admission.promise(20.0)
    assert (admission.busy, admission.taken(20.0)) == (1, 2)
    assert admission.wait_s(20.0) == pytest.approx(10.0)
    assert admission.arrive("b", 20.1), "nothing is kept free: it runs at once"
    admission.promise(20.2)
    assert admission.wait_s(20.2) == pytest.approx(9.9), "the promised one goes before"


def test_a_promise_that_nobody_takes_up_is_soon_forgotten() -> None:
    admission: Admission[str] = Admission(slots=1)
    admission.promise(0.0)
    assert admission.taken(1.9) == 1
    assert admission.taken(2.0) == 0


def test_an_overdue_job_is_not_taken_for_done() -> None:
    admission: Admission[str] = Admission(slots=1)
    served(admission, 10.0)
    admission.arrive("a", 20.0)
    assert admission.wait_s(100.0) == pytest.approx(1.0)


def test_only_the_last_jobs_count_for_the_pace() -> None:
    admission: Admission[str] = Admission(slots=1)
    served(admission, 1000.0)
    for _ in range(32):
        served(admission, 2.0)
    assert admission.service_s() == pytest.approx(2.0)
    admission.arrive("a", 0.0)
    assert admission.wait_s(0.0) == pytest.approx(2.0)


def test_a_cancelled_job_does_not_count_as_service_time() -> None:
    admission: Admission[str] = Admission(slots=1)
    admission.arrive("a", 0.0)
    admission.leave("a", 100.0, served=False)
    assert admission.service_s() == 0.0
