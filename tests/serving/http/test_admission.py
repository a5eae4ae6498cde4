"""Who gets a turn, who waits, who is turned away."""

import threading

import pytest

from image_classifier.serving.http.admission import Admission, MemoryMeter
from image_classifier.serving.http.error_responses import RequestError


class Holder:
    """A request that keeps its turn until it is told to end."""

    def __init__(self, admission):
        self.begun, self.over = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._hold, args=(admission,))
        self.thread.start()

    def _hold(self, admission):
        with admission.turn():
            self.begun.set()
            self.over.wait(20)

    def end(self):
        self.over.set()
        self.thread.join()


class Counted:
    """An admission, and how many it last said were inside."""

    def __init__(self, places, queue, patience):
        self.inside = 0
        self.admission = Admission(places=places, queue=queue, patience=patience, report=self.count)
        self.turn = self.admission.turn

    def count(self, inside):
        self.inside = inside


def test_one_more_than_places_and_queue_is_refused_at_once():
    admission = Counted(places=1, queue=1, patience=20)
    working = Holder(admission)
    assert working.begun.wait(5)
    waiting = Holder(admission)
    while admission.inside < 2:
        pass
    with pytest.raises(RequestError, match="2 requests are before this one") as refused, admission.turn():
        pass
    assert refused.value.status == 503
    assert not waiting.begun.is_set()
    working.end()
    assert waiting.begun.wait(5)
    waiting.end()
    assert admission.inside == 0


def test_who_waits_too_long_is_told_and_leaves_the_queue():
    admission = Counted(places=1, queue=1, patience=0.05)
    working = Holder(admission)
    assert working.begun.wait(5)
    with pytest.raises(RequestError, match=r"within 0\.05 s"), admission.turn():
        pass
    assert admission.inside == 1
    working.end()


def test_a_free_place_goes_to_who_has_waited_and_not_to_who_comes_now():
    for _ in range(20):
        admission = Counted(places=1, queue=2, patience=0.2)
        working = Holder(admission)
        assert working.begun.wait(5)
        waiting = Holder(admission)
        while admission.inside < 2:
            pass
        working.end()
        newcomer = Holder(admission)
        assert waiting.begun.wait(5)
        assert not newcomer.begun.is_set()
        waiting.end()
        assert newcomer.begun.wait(5)
        newcomer.end()


def test_a_turn_that_fails_is_given_back():
    admission = Counted(places=1, queue=0, patience=1)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), admission.turn():
            raise ValueError("broken")
    assert admission.inside == 0


def test_bodies_together_may_hold_so_much():
    meter = MemoryMeter(10)
    meter.take(6)
    with pytest.raises(RequestError, match="large requests") as refused:
        meter.take(5)
    assert refused.value.status == 503
    meter.give_back(6)
    meter.take(10)
    assert meter.held == 10
