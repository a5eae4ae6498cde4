from dataclasses import replace

import numpy as np
import pytest

from image_classifier.backbones import SHIPPED
from image_classifier.datasets import Dataset
from image_classifier.training.transfer.choice import (
    BackboneChoice,
    ModelLimits,
    choose_backbone,
    has_backbone,
    is_network_from_scratch_tried,
)
from tests.training.samples import stripes

NO_LIMITS = ModelLimits(max_latency=10.0, max_model_size=0)
PHOTOS, SMALL = stripes(96, images=40), stripes(32, images=40)


def choose(backbone="auto", dataset=PHOTOS, *, image_size=96, budget=1e6, limits=NO_LIMITS) -> BackboneChoice:
    named = SHIPPED.get(backbone)
    return choose_backbone(backbone, named, image_size, dataset, budget=budget, processes=1, threads=1, limits=limits)


def test_small_images_and_none_are_trained_from_scratch():
    assert choose(dataset=SMALL) == (None, 32)
    assert choose("none") == (None, 96)
    assert not has_backbone("auto", SMALL)
    assert not has_backbone("none", PHOTOS)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_named_backbone_is_used_at_its_size_or_the_one_that_was_given(name):
    assert choose(name, image_size=0) == (SHIPPED[name], SHIPPED[name].image_size)
    assert choose(name, SMALL, image_size=32) == (SHIPPED[name], 32)
    assert has_backbone(name, SMALL)


def test_the_budget_decides_between_speed_and_accuracy():
    assert choose() == (SHIPPED["efficientnet-lite2"], 96)
    assert choose(budget=1e-3) == (SHIPPED["efficientnet-lite0"], 96)


def test_a_model_that_is_too_slow_or_too_large_is_not_chosen():
    assert choose(limits=ModelLimits(1e-9, 0)) == (None, 96)
    assert choose(limits=ModelLimits(10.0, 15_000_000)) == (SHIPPED["efficientnet-lite0"], 96)
    assert choose(image_size=0, limits=ModelLimits(10.0, 1_000)) == (None, 64)


def photos_like(levels: int) -> Dataset:
    """Images of blocks in this number of random colors."""
    random = np.random.default_rng(0)
    colors = random.integers(0, 256, (levels, 3))
    blocks = colors[random.integers(0, levels, (40, 8, 8))]
    images = blocks.repeat(12, axis=1).repeat(12, axis=2).astype(np.uint8)
    return replace(PHOTOS, train=replace(PHOTOS.train, images=images))


@pytest.mark.parametrize(
    ("dataset", "backbone", "budget", "tried"),
    [
        (photos_like(60), "auto", 60.0, False),
        (photos_like(12), "auto", 60.0, True),
        (photos_like(12), "auto", 5.0, False),
        (photos_like(12), "efficientnet-lite0", 60.0, False),
        (PHOTOS, "auto", 60.0, True),
    ],
)
def test_a_network_from_scratch_is_tried_for_images_of_few_colors(dataset, backbone, budget, tried):
    choice = BackboneChoice(SHIPPED["efficientnet-lite0"], 96)
    assert is_network_from_scratch_tried(backbone, choice, dataset, budget) is tried
    assert not is_network_from_scratch_tried(backbone, BackboneChoice(None, 64), dataset, budget)
