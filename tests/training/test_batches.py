from dataclasses import replace

import numpy as np
import pytest
import torch

from image_classifier.training.batches import Batches, NormalizedImages, augment, channel_statistics
from image_classifier.training.distributed import Group
from image_classifier.training.plan import TrainingInputs
from tests.training.samples import plan, stripes


def batches(data, of_plan) -> Batches:
    inputs = TrainingInputs.check(data, of_plan)
    return Batches(inputs, NormalizedImages(inputs))


def test_normalized_images_have_mean_0_and_deviation_1_in_each_channel():
    inputs = TrainingInputs.check(stripes(8), plan())
    pixels = NormalizedImages(inputs).pixels(inputs.train)
    assert pixels.shape == (192, 3, 8, 8)
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(pixels.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


def test_channel_statistics_of_a_constant_image_can_be_divided_by():
    mean, deviation = channel_statistics(np.full((2, 8, 8, 3), 7, np.uint8), grayscale=False)
    assert mean.tolist() == [7, 7, 7]
    assert (deviation >= 1).all()


def test_a_batch_depends_on_the_seed_and_the_step_alone():
    data, of_plan = stripes(8), plan()
    images, labels = batches(data, of_plan).batch(17, half_size=False)
    other_order = batches(data, of_plan)
    other_order.batch(3, half_size=False)
    again, labels_again = other_order.batch(17, half_size=False)
    assert torch.equal(images, again)
    assert torch.equal(labels, labels_again)
    other_seed, _ = batches(data, replace(of_plan, seed=1)).batch(17, half_size=False)
    assert not torch.equal(images, other_seed)


def test_an_epoch_has_each_training_image_once():
    data = stripes(8, classes=2)
    data = replace(data, train=replace(data.train, labels=np.arange(240) // 2), classes=tuple("c" * 120))
    inputs = TrainingInputs.check(data, plan(recipe="batch_size=40"))
    epoch = Batches(inputs, NormalizedImages(inputs))
    labels = torch.cat([epoch.batch(step, half_size=False)[1] for step in range(len(inputs.train) // 40)])
    assert sorted(labels.tolist()) == sorted(data.train.labels[inputs.train])


def test_processes_share_a_batch():
    data = stripes(8)
    _, whole = batches(data, plan()).batch(0, half_size=False)
    shares = [
        batches(data, plan(group=Group(rank, size=2, local_size=2))).batch(0, half_size=False)[1] for rank in (0, 1)
    ]
    assert torch.equal(torch.stack(shares, 1).flatten(), whole)


def test_each_image_is_flipped_in_every_second_epoch():
    data = stripes(8)
    # Every image is brighter on the right, and nothing but the flip changes that.
    images = np.zeros((240, 8, 8, 3), np.uint8)
    images[:, :, 4:] = 200
    data = replace(data, train=replace(data.train, images=images, labels=np.arange(240) // 2))
    data = replace(data, classes=tuple("c" * 120))
    inputs = TrainingInputs.check(data, plan(recipe="batch_size=120 shift=0"))
    epochs = Batches(inputs, NormalizedImages(inputs))

    def flipped(step: int) -> dict[int, bool]:
        pixels, labels = epochs.batch(step, half_size=False, flip=True)
        is_flipped = pixels[..., :3].mean((1, 2, 3)) > pixels[..., 5:].mean((1, 2, 3))
        return dict(zip(labels.tolist(), is_flipped.tolist(), strict=True))

    first, second, third = (flipped(step) for step in range(3))
    assert 0 < sum(first.values()) < 120
    assert second == {label: not is_flipped for label, is_flipped in first.items()}
    assert third == first
    pixels, _ = epochs.batch(0, half_size=False, flip=False)
    assert not (pixels[..., :3].mean((1, 2, 3)) > pixels[..., 5:].mean((1, 2, 3))).any()


@pytest.mark.parametrize(("half_size", "side"), [(False, 16), (True, 8)])
def test_a_batch_can_have_half_the_image_size(half_size, side):
    images, labels = batches(stripes(16), plan()).batch(0, half_size=half_size)
    assert images.shape == (32, 3, side, side)
    assert labels.shape == (32,)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (7, 1, 8, 8), (64, 3, 32, 32), (2, 3, 224, 224)])
def test_augmentation_keeps_shape_and_range(shape, affine):
    images = torch.rand(shape)
    augmented = augment(images, flips=None, shift=1 / 16, affine=affine, generator=generator())
    assert augmented.shape == images.shape
    assert augmented.min() >= images.min() - 1e-5
    assert augmented.max() <= images.max() + 1e-5


def test_augmentation_depends_on_the_generator_alone():
    images = torch.rand(64, 3, 32, 32)
    first, again, other = (
        augment(images, flips=None, shift=1 / 16, affine=True, generator=generator(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_only_the_selected_images_are_flipped():
    row = torch.arange(32.0).expand(2, 1, 32, 32)
    augmented = augment(row, flips=torch.tensor([True, False]), shift=1 / 16, affine=False, generator=generator())
    slopes = augmented[:, 0, 16, 12:20].diff(dim=1).sign()
    assert (slopes[0] == -1).all()
    assert (slopes[1] == 1).all()


def test_images_shift_by_up_to_a_sixteenth_of_the_side():
    image = torch.zeros(1, 1, 32, 32)
    image[0, 0, 16, 16] = 1
    places = set()
    for seed in range(50):
        augmented = augment(image, flips=None, shift=1 / 16, affine=False, generator=generator(seed))
        places.add(tuple(augmented[0, 0].nonzero()[0].tolist()))
    assert {row for row, _ in places} == {14, 15, 16, 17, 18}
    assert {column for _, column in places} == {14, 15, 16, 17, 18}


def test_the_affine_transform_is_small():
    image = torch.zeros(32, 1, 32, 32)
    image[:, :, 8:24, 8:24] = 1
    augmented = augment(image, flips=None, shift=1 / 16, affine=True, generator=generator())
    area = augmented.sum(dim=(1, 2, 3)) / 256
    assert (area > 0.75).all()
    assert (area < 1.3).all()
