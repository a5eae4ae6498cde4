import numpy as np

from tests.datasets.samples import prepared


def test_the_embedded_digits_are_grayscale_images_with_a_derived_test_part(tmp_path):
    dataset = prepared("digits", tmp_path)
    assert dataset.classes == tuple("0123456789")
    assert (dataset.image_size, dataset.grayscale, dataset.mirror, dataset.warnings) == (8, True, False, ())
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (1412, 385)
    assert np.bincount(dataset.test.labels).min() >= 29
    assert (dataset.train.images.min(), dataset.train.images.max()) == (0, 255)
    assert prepared("digits", tmp_path, mirror="yes").mirror
