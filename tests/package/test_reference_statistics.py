import json

import numpy as np
import pytest

from image_classifier.package.reference_statistics import (
    CLASS_FEATURE,
    CONFIDENCE_FEATURE,
    EMBEDDING_FEATURE,
    IMAGE_STATISTICS,
    MAX_EMBEDDINGS,
    SIZE_FEATURE,
    bin_index,
    compute_embedding_reference,
    compute_reference,
    decode_array,
    encode_array,
    image_statistics,
    project,
)


def random_images(count, seed=0, side=16):
    """Images of one random color each, with noise."""
    random = np.random.default_rng(seed)
    plain = random.integers(60, 200, (count, 1, 1, 3))
    return np.clip(plain + random.normal(0, 20, (count, side, side, 3)), 0, 255).astype(np.uint8)


def random_probabilities(count, classes=4, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(classes), count).astype(np.float32)


def statistics(image):
    return dict(zip(IMAGE_STATISTICS, image_statistics(image), strict=True))


def test_the_statistics_follow_their_definitions():
    image = random_images(1)[0]
    scaled = image.astype(np.float64) / 255
    vertical, horizontal = np.abs(np.diff(scaled, axis=0)).mean(), np.abs(np.diff(scaled, axis=1)).mean()
    expected = {
        "brightness": scaled.mean(),
        "contrast": scaled.std(),
        "sharpness": (vertical + horizontal) / 2,
        "direction": horizontal / (vertical + horizontal),
        "warmth": scaled[..., 0].mean() - scaled[..., 2].mean(),
    }
    assert statistics(image) == pytest.approx(expected, rel=1e-4)


def test_an_image_of_one_color_has_finite_statistics():
    plain = np.full((8, 8, 3), 51, np.uint8)
    assert statistics(plain) == pytest.approx(
        {"brightness": 0.2, "contrast": 0, "sharpness": 0, "direction": 0.5, "warmth": 0}, abs=1e-6
    )


def test_only_the_center_of_a_large_image_counts():
    image = np.zeros((224, 224, 3), np.uint8)
    image[80:144, 80:144] = random_images(1, side=64)[0]
    assert statistics(image) == statistics(random_images(1, side=64)[0])


def test_rotating_an_image_by_90_degrees_changes_its_direction_only():
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 200
    upright, rotated = statistics(stripes), statistics(np.ascontiguousarray(np.rot90(stripes)))
    assert (upright.pop("direction"), rotated.pop("direction")) == (1, 0)
    assert upright == pytest.approx(rotated)


def test_each_image_and_prediction_is_in_one_bin_with_about_a_tenth_of_them():
    reference = compute_reference(random_images(400), None, random_probabilities(100))
    assert reference["images"] == 400
    assert set(reference["features"]) == {*IMAGE_STATISTICS, CONFIDENCE_FEATURE, CLASS_FEATURE}
    for name in IMAGE_STATISTICS:
        feature = reference["features"][name]
        assert sum(feature["counts"]) == 400
        assert len(feature["counts"]) == len(feature["edges"]) + 1
        assert max(feature["counts"]) <= 50
    assert sum(reference["features"][CONFIDENCE_FEATURE]["counts"]) == 100
    assert sum(reference["features"][CLASS_FEATURE]["counts"]) == 100


def test_a_value_that_all_images_share_has_its_own_bin():
    originals = np.tile(np.array([[640, 480, 1]], np.int32), (50, 1))
    reference = compute_reference(random_images(50), originals, random_probabilities(50))
    feature = reference["features"][SIZE_FEATURE]
    assert feature["counts"] == [0, 50, 0]
    assert [bin_index(feature["edges"], side) for side in (479, 480, 481)] == [0, 1, 2]


def test_a_grayscale_image_and_one_with_the_least_color_are_in_different_bins():
    grayscale = np.repeat(random_images(60)[..., :1], 3, axis=3)
    reference = compute_reference(grayscale, None, random_probabilities(60))
    edges = reference["features"]["warmth"]["edges"]
    colored = grayscale[0].copy()
    colored[0, 0, 0] ^= 1
    assert bin_index(edges, statistics(grayscale[1])["warmth"]) == 1
    assert bin_index(edges, statistics(colored)["warmth"]) != 1


def random_embeddings(count, dimensions=40, seed=0):
    scales = np.geomspace(10, 0.1, dimensions)
    return (5 + scales * np.random.default_rng(seed).normal(size=(count, dimensions))).astype(np.float32)


def test_embeddings_are_projected_to_a_few_numbers_of_unit_variance():
    fitted, sample = random_embeddings(300), random_embeddings(200, seed=1)
    stored = compute_embedding_reference(fitted, sample)[EMBEDDING_FEATURE]
    assert stored["dimensions"] == 32
    matrix, offset = (decode_array(stored[name], "f4", 32) for name in ("matrix", "offset"))
    projected = project(fitted, matrix, offset[0])
    np.testing.assert_allclose(projected.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(projected.T), np.eye(32), atol=1e-3)
    stored_sample = decode_array(stored["sample"], "f2", 32)
    np.testing.assert_allclose(stored_sample, project(sample, matrix, offset[0]), rtol=1e-3, atol=1e-3)


def test_the_embeddings_of_a_large_backbone_take_less_than_a_mebibyte():
    random = np.random.default_rng(0)
    fitted = random.normal(size=(40, 8_192)).astype(np.float32)
    sample = random.normal(size=(MAX_EMBEDDINGS, 8_192)).astype(np.float32)
    assert len(json.dumps(compute_embedding_reference(fitted, sample))) < 2**20


@pytest.mark.parametrize(
    ("fitted", "sample"),
    [(random_embeddings(19), random_embeddings(100)), (random_embeddings(100), random_embeddings(19))],
)
def test_few_images_give_no_reference_for_embeddings(fitted, sample):
    assert compute_embedding_reference(fitted, sample) == {}


def test_equal_images_give_no_reference_for_embeddings():
    equal = np.full((100, 8), 0.3, np.float32)
    assert compute_embedding_reference(equal, random_embeddings(100, 8)) == {}


def test_dimensions_in_which_all_embeddings_are_equal_are_dropped():
    embeddings = random_embeddings(100, 6)
    embeddings[:, 3:] = 1
    assert compute_embedding_reference(embeddings, embeddings)[EMBEDDING_FEATURE]["dimensions"] == 3


def test_an_extreme_embedding_is_stored_as_a_finite_number():
    extreme = np.array([[1e9, -1e9, np.inf, np.nan]], np.float32)
    with np.errstate(invalid="ignore"):
        projected = project(extreme, np.eye(4, dtype=np.float32)[:, :2], np.zeros(2, np.float32))
    assert np.isfinite(decode_array(encode_array(projected.astype(np.float16)), "f2", 2)).all()
