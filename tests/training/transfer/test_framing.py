from dataclasses import replace

import numpy as np
import pytest

from image_classifier.backbones import SHIPPED
from image_classifier.training.transfer.framing import choose_framing, framing_sample, is_framing_tried
from tests.training.samples import stripes

SIDE = 64
BACKBONE = SHIPPED["efficientnet-lite0"]


def with_originals(width, height, *, square=0, images=40):
    """A data set of images of this shape, of which the first are square."""
    dataset = stripes(16, images=images)
    originals = np.tile(np.array([width, height, 1], np.int32), (images, 1))
    originals[:square, :2] = height
    return replace(dataset, train=replace(dataset.train, originals=originals))


@pytest.mark.parametrize(
    ("dataset", "tried"),
    [
        (with_originals(400, 300), True),
        (with_originals(300, 400), True),
        (with_originals(1000, 100), True),
        (with_originals(330, 320), False),
        (with_originals(300, 300), False),
        (with_originals(400, 300, square=36), False),
        (with_originals(1000, 100, square=34), True),
        (stripes(16, images=4), False),  # unknown
    ],
)
def test_padding_is_tried_if_a_crop_cuts_much_off(dataset, tried):
    assert is_framing_tried(dataset) is tried


def test_the_sample_has_all_classes_and_follows_the_budget():
    dataset = with_originals(400, 300, images=1000)

    def sample(budget):
        return framing_sample(dataset, budget=budget, validation_fraction=0.2, seed=0)

    assert [len(sample(budget)) for budget in (0.0, 1.0, 20.0, 50.0, 200.0)] == [0, 0, 40, 100, 400]
    assert np.bincount(dataset.train.labels[sample(20.0)]).min() >= 9
    assert sample(50.0).tolist() == sample(200.0)[:100].tolist()


@pytest.fixture(scope="module")
def informative():
    dataset = stripes(SIDE, images=60, classes=2)
    return dataset.train.images, dataset.train.labels


def noise(images):
    return np.random.default_rng(0).integers(0, 256, (images, SIDE, SIDE, 3), dtype=np.uint8)


def test_padding_is_chosen_if_only_it_shows_the_class(informative):
    images, labels = informative
    chosen = choose_framing(BACKBONE, noise(60), images, labels, 2, budget=60, threads=1)
    assert chosen.framing == "pad"
    assert chosen.seconds > 0
    assert chosen.reason.startswith("framing pad: with padding, 100.0 % of 60 training photos are recognized, with the")


def test_the_crop_stays_if_it_is_better_or_padding_no_better(informative):
    images, labels = informative
    assert choose_framing(BACKBONE, images, noise(60), labels, 2, budget=60, threads=1).framing == "crop"
    assert choose_framing(BACKBONE, images, images, labels, 2, budget=60, threads=1).framing == "crop"


def test_a_trial_ends_when_its_part_of_the_budget_is_over(informative):
    images, labels = informative
    images, labels = np.tile(images, (3, 1, 1, 1)), np.tile(labels, 3)
    chosen = choose_framing(BACKBONE, images, images, labels, 2, budget=1e-9, threads=1)
    assert "of 96 training photos" in chosen.reason
