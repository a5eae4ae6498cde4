"""Admission control: slots, the queue, and the memory budget."""

import threading

import pytest

from image_classifier.serving.http.admission import Admission, MemoryBudget
from image_classifier.serving.http.error_responses import RequestError


class Holder:
    """A request in a thread that holds its slot until `end`."""

    def __init__(self, admission):
        self.started, self.ended = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._hold, args=(admission,))
        self.thread.start()

    def _hold(self, admission):
        with admission.slot():
            self.started.set()
            self.ended.wait(20)

    def end(self):
        self.ended.set()
        self.thread.join()


def make_admission(slots, queue, timeout):
    """An admission, and the list of the numbers of requests in flight that it reports."""
    reported = [0]
    return Admission(slots=slots, queue=queue, timeout=timeout, on_change=reported.append), reported


def wait_until(reported, count):
    while reported[-1] < count:
        pass


def test_a_request_is_rejected_at_once_if_slots_and_queue_are_full():
    admission, reported = make_admission(slots=1, queue=1, timeout=20)
    running = Holder(admission)
    assert running.started.wait(5)
    queued = Holder(admission)
    wait_until(reported, 2)
    with pytest.raises(RequestError, match="2 requests are running or queued") as error, admission.slot():
        pass
    assert error.value.status == 503
    assert not queued.started.is_set()
    running.end()
    assert queued.started.wait(5)
    queued.end()
    assert reported[-1] == admission.in_flight == 0


def test_a_request_that_waited_for_the_timeout_is_rejected_and_leaves_the_queue():
    admission, reported = make_admission(slots=1, queue=1, timeout=0.05)
    running = Holder(admission)
    assert running.started.wait(5)
    with pytest.raises(RequestError, match=r"waited 0\.05 s"), admission.slot():
        pass
    assert reported[-1] == 1
    running.end()


def test_slots_are_granted_first_come_first_served():
    for _ in range(20):
        admission, reported = make_admission(slots=1, queue=2, timeout=20)
        running = Holder(admission)
        assert running.started.wait(5)
        queued = Holder(admission)
        wait_until(reported, 2)
        running.end()
        newcomer = Holder(admission)
        assert queued.started.wait(5)
        assert not newcomer.started.is_set()
        queued.end()
        assert newcomer.started.wait(5)
        newcomer.end()


def test_a_request_that_fails_releases_its_slot():
    admission, reported = make_admission(slots=1, queue=0, timeout=1)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), admission.slot():
            raise ValueError("broken")
    assert reported[-1] == 0


def test_the_memory_budget_limits_all_bodies_together():
    budget = MemoryBudget(10)
    budget.acquire(6)
    with pytest.raises(RequestError, match="large requests") as error:
        budget.acquire(5)
    assert error.value.status == 503
    budget.release(6)
    budget.acquire(10)
    assert budget.used == 10
