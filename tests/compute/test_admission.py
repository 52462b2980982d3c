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


def test_the_expected_wait_follows_the_measured_service_time() -> None:
    admission: Admission[str] = Admission(slots=2)
    for job, end_s in (("a", 4.0), ("b", 6.0)):
        admission.arrive(job, 0.0)
        admission.leave(job, end_s, served=True)
    admission.arrive("c", 10.0)
    assert admission.wait_s(10.0) == 0.0
    admission.arrive("d", 10.0)
    assert admission.wait_s(10.0) == pytest.approx(2.5)
    admission.arrive("e", 10.0)
    assert admission.wait_s(10.0) == pytest.approx(5.0)


def test_a_cancelled_job_does_not_count_as_service_time() -> None:
    admission: Admission[str] = Admission(slots=1)
    admission.arrive("a", 0.0)
    admission.leave("a", 100.0, served=False)
    assert admission.service_s(100.0) == 0.0


def test_before_the_first_job_has_ended_the_wait_follows_how_long_those_that_run_have_taken() -> None:
    admission: Admission[str] = Admission(slots=2)
    for job, at_s in (("a", 0.0), ("b", 10.0)):
        admission.arrive(job, at_s)
    assert admission.wait_s(10.0) == pytest.approx(2.5)
    assert admission.wait_s(50.0) == pytest.approx(22.5)


def test_jobs_that_hang_lengthen_the_expected_wait() -> None:
    admission: Admission[str] = Admission(slots=1)
    admission.arrive("a", 0.0)
    admission.leave("a", 1.0, served=True)
    admission.arrive("b", 1.0)
    assert admission.wait_s(1.5) == pytest.approx(1.0)
    assert admission.wait_s(61.0) == pytest.approx(60.0)
    admission.leave("b", 61.0, served=False)
    assert admission.service_s(61.0) == pytest.approx(1.0)
