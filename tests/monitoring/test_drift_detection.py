import re
from dataclasses import replace

import numpy as np
import pytest

from image_classifier.monitoring.drift_detection import DriftVerdict, detect_drift, energy_test, permutation_p_value
from image_classifier.monitoring.drift_reference import DriftReference, EmbeddingReference
from image_classifier.package.package import Package
from image_classifier.package.reference_statistics import compute_reference
from tests.conftest import SIZE, write_color_package

FALSE_ALARMS = 0.01


def images_of(count, seed=0):
    random = np.random.default_rng(seed)
    colors = random.integers(60, 200, (count, 1, 1, 3))
    return np.clip(colors + random.normal(0, 20, (count, SIZE, SIZE, 3)), 0, 255).astype(np.uint8)


def predictions_of(count, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(4), count).astype(np.float32)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    originals = np.tile(np.array([[SIZE, SIZE, 1]], np.int32), (1000, 1))
    stored = compute_reference(images_of(1000), originals, predictions_of(600))
    write_color_package(folder, reference=stored)
    return DriftReference.of(Package.read(folder))


def counts_of(reference, images, predictions, size=SIZE):
    bins = []
    for image, probabilities in zip(images, predictions, strict=True):
        bins += reference.image_bins(image) + reference.prediction_bins(probabilities)
        bins += reference.size_bins(size, size)
    return np.bincount(bins, minlength=reference.bin_count)


def detect(reference, images, predictions, **options):
    return detect_drift(reference, counts_of(reference, images, predictions, **options), FALSE_ALARMS)


def drifted(result):
    return {feature.name for feature in result.features if feature.drifted}


def test_images_of_the_same_distribution_are_not_drift(reference):
    result = detect(reference, images_of(300, seed=1), predictions_of(300, seed=1))
    assert result.verdict is DriftVerdict.NO_DRIFT
    assert len(result.features) == 8
    assert "no feature differs significantly from the reference (smallest p-value: " in result.reason


def test_darker_images_are_drift_of_the_brightness(reference):
    darker = (images_of(300, seed=1) * 0.8).astype(np.uint8)
    result = detect(reference, darker, predictions_of(300, seed=1))
    assert result.verdict is DriftVerdict.DRIFT
    assert "brightness" in drifted(result)
    assert "brightness is lower" in result.reason


def test_a_more_frequent_class_is_drift_with_both_shares_in_the_reason(reference):
    predictions = predictions_of(300, seed=1)
    predictions[:150] = [0.1, 0.1, 0.7, 0.1]
    result = detect(reference, images_of(300, seed=1), predictions)
    assert "class" in drifted(result)
    assert re.search(r"blue is predicted for 6\d % of the images instead of 2\d %", result.reason)


def test_images_of_another_size_are_drift_of_the_size_only(reference):
    result = detect(reference, images_of(300, seed=1), predictions_of(300, seed=1), size=480)
    assert drifted(result) == {"size"}
    assert result.reason == "size is higher"


def test_a_significant_but_tiny_difference_is_not_drift(reference):
    counts = np.zeros(reference.bin_count, np.int64)
    for feature in reference.features:
        counts[feature.bins] = feature.counts * 1000
    [brightness] = [feature for feature in reference.features if feature.name == "brightness"]
    moved = counts[brightness.first] // 10
    counts[brightness.first] -= moved
    counts[brightness.first + 1] += moved
    large = DriftReference(
        tuple(
            type(feature)(feature.name, feature.edges, feature.first, feature.counts * 1000)
            for feature in reference.features
        ),
        reference.classes,
    )
    result = detect_drift(large, counts, FALSE_ALARMS)
    tested = next(feature for feature in result.features if feature.name == "brightness")
    assert tested.p_value < 0.001
    assert result.verdict is DriftVerdict.NO_DRIFT


@pytest.mark.parametrize("ordered", [True, False])
def test_small_p_values_are_no_more_frequent_than_their_level(ordered):
    random = np.random.default_rng(0)
    p_values = []
    for _ in range(1000):
        before, after = random.multinomial(150, [0.1] * 10), random.multinomial(60, [0.1] * 10)
        p_values.append(permutation_p_value(before, after, ordered=ordered, random=random))
    for level in (0.01, 0.05, 0.2):
        # Three standard deviations of a fraction of 1,000.
        assert np.mean(np.array(p_values) <= level) <= level + 3 * np.sqrt(level * (1 - level) / 1000)
    assert np.mean(np.array(p_values) <= 0.2) > 0.15


def test_the_smallest_p_value_is_that_of_5_000_permutations():
    before, after = np.array([500, 0]), np.array([0, 500])
    p_value = permutation_p_value(before, after, ordered=True, random=np.random.default_rng(0))
    assert p_value == 1 / 5_000


def test_the_result_is_deterministic(reference):
    images, predictions = images_of(100, seed=3), predictions_of(100, seed=3)
    assert detect(reference, images, predictions) == detect(reference, images, predictions)


def embeddings_of(count, seed=0, dimensions=16):
    return np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)


def with_embeddings(reference, sample):
    dimensions = sample.shape[1]
    projection = np.eye(dimensions, dtype=np.float32), np.zeros(dimensions, np.float32)
    return replace(reference, embedding=EmbeddingReference(*projection, sample))


def detect_with_embeddings(reference, sample, window, false_alarms=FALSE_ALARMS):
    counts = counts_of(reference, images_of(100, seed=1), predictions_of(100, seed=1))
    return detect_drift(with_embeddings(reference, sample), counts, false_alarms, window)


def test_images_whose_embeddings_differ_are_drift(reference):
    shifted = embeddings_of(100, seed=1) + np.float32(0.5)
    result = detect_with_embeddings(reference, embeddings_of(300), shifted)
    assert drifted(result) == {"embedding"}
    assert result.reason == "the images look different (embeddings of 100, compared with 300)"


def test_embeddings_that_vary_less_are_drift(reference):
    """All images the same, for example, at the reference's mean."""
    assert drifted(detect_with_embeddings(reference, embeddings_of(300), embeddings_of(100, 1) / 2)) == {"embedding"}


def test_embeddings_of_the_same_distribution_are_not_drift(reference):
    result = detect_with_embeddings(reference, embeddings_of(300), embeddings_of(100, seed=1))
    assert result.verdict is DriftVerdict.NO_DRIFT
    embedding = result.features[-1]
    assert (embedding.name, embedding.images, len(result.features)) == ("embedding", 100, 9)
    assert embedding.description.startswith("no significant difference in how the images look")


def test_the_embeddings_share_the_false_alarm_rate_with_the_other_features(reference):
    """Nine tests at 0.09 have a level of 0.01 each."""
    sample, window = embeddings_of(60), embeddings_of(60, seed=1) + np.float32(0.22)
    p_value, _ = energy_test(sample, window, np.random.default_rng(0))
    assert 0.001 < p_value < 0.01
    assert "embedding" in drifted(detect_with_embeddings(reference, sample, window, false_alarms=0.12))
    assert "embedding" not in drifted(detect_with_embeddings(reference, sample, window, false_alarms=0.008))


@pytest.mark.parametrize(("reference_images", "window_images"), [(300, 19), (19, 300)])
def test_few_embeddings_are_not_compared(reference, reference_images, window_images):
    shifted = embeddings_of(window_images, seed=1) + np.float32(3)
    result = detect_with_embeddings(reference, embeddings_of(reference_images), shifted)
    counts = counts_of(reference, images_of(100, seed=1), predictions_of(100, seed=1))
    assert result == detect_drift(reference, counts, FALSE_ALARMS)


def test_a_reference_without_embeddings_ignores_those_of_the_window(reference):
    counts = counts_of(reference, images_of(100, seed=1), predictions_of(100, seed=1))
    window = embeddings_of(100) + np.float32(3)
    assert detect_drift(reference, counts, FALSE_ALARMS, window) == detect_drift(reference, counts, FALSE_ALARMS)


def test_small_p_values_of_the_energy_test_are_no_more_frequent_than_their_level():
    random = np.random.default_rng(0)
    pairs = [[random.standard_t(3, size=(size, 8)).astype(np.float32) for size in (60, 30)] for _ in range(200)]
    p_values = np.array([energy_test(before, after, random)[0] for before, after in pairs])
    for level in (0.01, 0.05, 0.2):
        # Three standard deviations of a fraction of 200.
        assert (p_values <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / 200)
    assert (p_values <= 0.2).mean() > 0.11


def test_the_energy_distance_is_0_for_equal_distributions_and_1_for_two_points():
    random = np.random.default_rng(0)
    assert energy_test(embeddings_of(400), embeddings_of(400, 1), random)[1] < 0.05
    points = np.zeros((30, 3), np.float32), np.ones((40, 3), np.float32)
    assert energy_test(*points, random) == (1 / 5_000, pytest.approx(1))
    assert energy_test(points[0], points[0], random) == (1, 0)
