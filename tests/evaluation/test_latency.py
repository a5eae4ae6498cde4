import pytest

from image_classifier.evaluation.latency import latency_ratio, machine, measure_latency
from image_classifier.package.package import Model, Package
from tests.conftest import colour_images


@pytest.fixture(scope="module")
def model(package_folder):
    return Model.load(Package.read(package_folder), threads=1)


class Slower:
    """The same model, asked several times for each answer."""

    def __init__(self, model, times):
        self.model, self.times = model, times

    def probabilities(self, images):
        for _ in range(self.times):
            answer = self.model.probabilities(images)
        return answer


def test_percentiles_come_in_order_and_with_an_interval(model):
    latency = measure_latency(model, colour_images())
    assert 0 < latency.p50 <= latency.p95
    assert latency.p95_low <= latency.p95 <= latency.p95_high


def test_a_model_takes_about_as_long_as_itself(model):
    ratio = latency_ratio((model, colour_images()), (model, colour_images()), 0.01)
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.low <= 1.1
    assert ratio.high >= 0.9


def test_a_slower_model_is_seen_to_be_slower(model):
    ratio = latency_ratio((Slower(model, 6), colour_images()), (model, colour_images()), 0.01)
    assert ratio.low > 2


def test_the_machine_is_named_by_processor_and_cpus():
    assert machine().endswith("CPUs")
    assert machine() == machine()
