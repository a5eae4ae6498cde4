"""Windows of images against a reference."""

import numpy as np
import pytest

from image_classifier.errors import PackageError
from image_classifier.monitoring.drift_detection import (
    DriftReference,
    DriftVerdict,
    chance_of_difference,
    judge_drift,
)
from image_classifier.package.package import Package
from image_classifier.package.reference_statistics import reference_statistics
from tests.conftest import SIZE, write_colour_package
from tests.package.test_reference_statistics import answers_of, images_of

FALSE_ALARMS = 0.01


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    originals = np.tile(np.array([[SIZE, SIZE, 1]], np.int32), (1000, 1))
    stored = reference_statistics(images_of(1000), originals, answers_of(600))
    write_colour_package(folder, reference=stored)
    return DriftReference.of(Package.read(folder))


def counts_of(reference, images, answers, size=SIZE):
    places = []
    for image, answer in zip(images, answers, strict=True):
        places += reference.places_of_image(image) + reference.places_of_answer(answer)
        places += reference.places_of_size(size, size)
    return np.bincount(places, minlength=reference.bins)


def judged(reference, images, answers, **options):
    return judge_drift(reference, counts_of(reference, images, answers, **options), FALSE_ALARMS)


def drifted(judgement):
    return {finding.name for finding in judgement.findings if finding.drifted}


def test_images_of_the_same_kind_are_no_drift(reference):
    judgement = judged(reference, images_of(300, seed=1), answers_of(300, seed=1))
    assert judgement.verdict is DriftVerdict.NO_DRIFT
    assert len(judgement.findings) == 8
    assert "nearest to it" in judgement.reason


def test_darker_images_are_drift_of_brightness_in_these_words(reference):
    darker = (images_of(300, seed=1) * 0.8).astype(np.uint8)
    judgement = judged(reference, darker, answers_of(300, seed=1))
    assert judgement.verdict is DriftVerdict.DRIFT
    assert "brightness" in drifted(judgement)
    assert "brightness is lower" in judgement.reason


def test_a_class_that_comes_more_often_is_named_with_its_shares(reference):
    answers = answers_of(300, seed=1)
    answers[:150] = [0.1, 0.1, 0.7, 0.1]
    judgement = judged(reference, images_of(300, seed=1), answers)
    assert "class" in drifted(judgement)
    assert "blue is 6" in judgement.reason
    assert "of the answers instead of 2" in judgement.reason


def test_images_of_another_size_are_drift_of_the_size_alone(reference):
    judgement = judged(reference, images_of(300, seed=1), answers_of(300, seed=1), size=480)
    assert drifted(judgement) == {"size"}
    assert judgement.reason == "size is higher"


def test_a_sure_difference_that_is_tiny_is_no_drift(reference):
    counts = np.zeros(reference.bins, np.int64)
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
    judgement = judge_drift(large, counts, FALSE_ALARMS)
    finding = next(finding for finding in judgement.findings if finding.name == "brightness")
    assert finding.p_value < 0.001
    assert judgement.verdict is DriftVerdict.NO_DRIFT


@pytest.mark.parametrize("ordered", [True, False])
def test_the_chance_of_a_difference_keeps_its_promise(ordered):
    random = np.random.default_rng(0)
    chances = []
    for _ in range(1000):
        before, after = random.multinomial(150, [0.1] * 10), random.multinomial(60, [0.1] * 10)
        chances.append(chance_of_difference(before, after, ordered=ordered, random=random))
    for level in (0.01, 0.05, 0.2):
        # Three standard deviations of a share of 1,000.
        assert np.mean(np.array(chances) <= level) <= level + 3 * np.sqrt(level * (1 - level) / 1000)
    assert np.mean(np.array(chances) <= 0.2) > 0.15


def test_the_smallest_chance_is_that_of_the_draws(reference):
    before, after = np.array([500, 0]), np.array([0, 500])
    chance = chance_of_difference(before, after, ordered=True, random=np.random.default_rng(0))
    assert chance == 1 / 5_000


def test_a_window_is_always_judged_alike(reference):
    images, answers = images_of(100, seed=3), answers_of(100, seed=3)
    assert judged(reference, images, answers) == judged(reference, images, answers)


def test_counts_by_feature_are_joined_again(reference):
    counts = counts_of(reference, images_of(20), answers_of(20))
    by_feature = reference.by_feature(counts)
    assert (reference.joined(by_feature) == counts).all()
    with pytest.raises(ValueError, match="they are of the features brightness"):
        reference.joined({"brightness": [1]})
    with pytest.raises(ValueError, match="class has 2 bins, not 4"):
        reference.joined({**by_feature, "class": [1, 2]})


def test_a_package_of_an_earlier_version_has_no_reference(package_folder):
    assert DriftReference.of(Package.read(package_folder)) is None


@pytest.mark.parametrize(
    "stored",
    [
        {"features": {"brightness": {"edges": [0.5], "counts": [1, 2, 3]}}},
        {"features": {"brightness": {"counts": [1]}}},
        {"features": {"class": {"counts": [1, 2]}}},
        {"features": {"class": {"counts": [1, 2, 3, -1]}}},
        {"features": []},
    ],
)
def test_a_reference_that_cannot_be_used_is_refused(tmp_path, stored):
    write_colour_package(tmp_path, reference=stored)
    with pytest.raises(PackageError, match="cannot be used"):
        DriftReference.of(Package.read(tmp_path))
