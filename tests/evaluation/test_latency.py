"""Latencies, measured with a fake clock that only the models advance."""

import numpy as np
import pytest

from image_classifier.evaluation.latency import describe_machine, latency_ratio, measure_latency
from image_classifier.package import timing

IMAGES = np.zeros((4, 8, 8, 3), np.uint8)


class Clock:
    def __init__(self):
        self.seconds = 0.0

    def perf_counter(self):
        return self.seconds


class TimedModel:
    """Takes `seconds(call)` of the clock's time for its call number `call`."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def probabilities(self, images):
        assert images.shape == (1, 8, 8, 3)
        self.clock.seconds += self.seconds(self.calls)
        self.calls += 1


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_percentiles_ignore_the_warm_up_and_have_an_interval(clock):
    model = TimedModel(clock, lambda call: 1.0 if call < 10 else (call - 9) / 1e5)
    measured = measure_latency(model, IMAGES)
    assert model.calls == 10 + 20  # the slow warm-up uses up the time limit
    assert measured.p50 == pytest.approx(10.5e-5)
    assert measured.p95 == pytest.approx(19.05e-5)
    low, high = measured.p95_interval
    assert low <= measured.p95 <= high


def test_a_fast_model_is_called_200_times(clock):
    model = TimedModel(clock, lambda _: 0.001)
    measured = measure_latency(model, IMAGES)
    assert model.calls == 10 + 200
    assert measured.p50 == pytest.approx(0.001)


def test_the_ratio_of_a_model_to_itself_is_one_whatever_the_load(clock):
    def under_changing_load(call):
        return 0.001 * (1 + call % 7)

    ratio = latency_ratio(
        (TimedModel(clock, under_changing_load), IMAGES), (TimedModel(clock, under_changing_load), IMAGES), 0.01
    )
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((1.0, 1.0, 1.0))


def test_the_ratio_of_a_slower_model_has_an_interval(clock):
    def slower(call):
        return 0.006 if call % 3 else 0.003

    ratio = latency_ratio((TimedModel(clock, slower), IMAGES), (TimedModel(clock, lambda _: 0.001), IMAGES), 0.01)
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((6.0, 6.0, 6.0))


def test_the_machine_is_described_by_processor_and_cpus():
    processor, cpus = describe_machine().rsplit(", ", 1)
    assert processor
    assert cpus.endswith(" CPUs")
