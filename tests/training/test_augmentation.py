import pytest
import torch

from image_classifier.training.augmentation import augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("distort", [False, True])
@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (7, 1, 8, 8), (64, 3, 32, 32), (3, 3, 224, 224)])
def test_shape_and_range_stay(shape, distort):
    images = torch.rand(shape)
    changed = augment(images, flips=None, shift=1 / 16, distort=distort, generator=generator())
    assert changed.shape == images.shape
    assert changed.min() >= images.min() - 1e-5
    assert changed.max() <= images.max() + 1e-5


def test_the_same_generator_gives_the_same_images_and_another_gives_others():
    images = torch.rand(64, 3, 32, 32)
    first, again, other = (
        augment(images, flips=None, shift=1 / 16, distort=True, generator=generator(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_only_the_named_images_are_mirrored():
    row = torch.arange(32.0).expand(2, 1, 32, 32)
    changed = augment(
        row, flips=torch.tensor([True, False]), shift=1 / 16, distort=False, generator=generator()
    )
    slopes = changed[:, 0, 16, 12:20].diff(dim=1).sign()
    assert (slopes[0] == -1).all()
    assert (slopes[1] == 1).all()


def test_a_shift_moves_by_at_most_a_sixteenth_of_the_side():
    image = torch.zeros(1, 1, 32, 32)
    image[0, 0, 16, 16] = 1
    places = set()
    for seed in range(50):
        changed = augment(image, flips=None, shift=1 / 16, distort=False, generator=generator(seed))
        places.add(tuple(changed[0, 0].nonzero()[0].tolist()))
    assert {row for row, _ in places} == {14, 15, 16, 17, 18}
    assert {column for _, column in places} == {14, 15, 16, 17, 18}


def test_a_distortion_is_small():
    image = torch.zeros(32, 1, 32, 32)
    image[:, :, 8:24, 8:24] = 1
    changed = augment(image, flips=None, shift=1 / 16, distort=True, generator=generator())
    area = changed.sum(dim=(1, 2, 3)) / 256
    assert (area > 0.75).all()
    assert (area < 1.3).all()
