import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from image_classifier.datasets.dataset import Dataset, DatasetPart
from image_classifier.evaluation import duplicates
from image_classifier.evaluation.duplicates import find_duplicates

SIDE = 32


def scenes(count, seed):
    """Random smooth images, uint8 [N, S, S, 3]; no two show the same."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((SIDE, SIDE))) for image in coarse])


def dataset_of(train, test):
    parts = [
        DatasetPart(
            images,
            np.zeros(len(images), np.int64),
            [f"{name}{row}" for row in range(len(images))],
            np.arange(len(images), dtype=np.uint64),
        )
        for name, images in (("train", train), ("test", test))
    ]
    return Dataset("scenes", "d" * 64, ("a", "b"), train.shape[1], False, True, *parts, ())


def brightened(image):
    return np.clip(image * 0.8 + 30, 0, 255).astype(np.uint8)


def recompressed(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=70)
    return np.asarray(Image.open(buffer))


def cropped(image):
    return np.asarray(Image.fromarray(image[1:-1, 1:-1]).resize((SIDE, SIDE)))


@pytest.fixture(scope="module")
def train():
    return scenes(300, seed=0)


def test_different_images_are_not_duplicates(train):
    found = find_duplicates(dataset_of(train, scenes(100, seed=1)))
    assert found.rows == ()
    assert (found.test_images, found.train_images, found.share) == (100, 300, 0.0)


def test_exact_duplicates_are_found_with_their_originals(train):
    test = scenes(50, seed=1)
    test[[7, 20]] = train[[30, 2]]
    found = find_duplicates(dataset_of(train, test))
    assert found.exact == (7, 20)
    assert found.near == ()
    assert found.originals == (30, 2)
    assert found.share == 2 / 50


@pytest.mark.parametrize("change", [brightened, recompressed, cropped])
def test_near_duplicates_are_found(train, change):
    test = scenes(20, seed=1)
    test[3] = change(train[40])
    found = find_duplicates(dataset_of(train, test))
    assert (found.exact, found.near, found.originals) == ((), (3,), (40,))


def test_video_frames_are_found_despite_many_neighbors():
    video = np.repeat(scenes(20, seed=0), 30, axis=0)
    noise = np.random.default_rng(0).integers(-2, 3, video.shape)
    frames = np.clip(video.astype(int) + noise, 0, 255).astype(np.uint8)
    found = find_duplicates(dataset_of(frames[::2], frames[1::2]))
    assert len(found.near) == 300


def test_single_color_images_are_duplicates_only_if_equal():
    gray = np.full((5, SIDE, SIDE, 3), 100, np.uint8)
    assert find_duplicates(dataset_of(gray, gray + 1)).rows == ()
    assert find_duplicates(dataset_of(gray, gray)).exact == (0, 1, 2, 3, 4)


def test_a_large_training_part_is_sampled(train, monkeypatch):
    monkeypatch.setattr(duplicates, "_MAX_TRAIN_PIXELS", 100 * SIDE**2)
    found = find_duplicates(dataset_of(train, train))
    assert found.train_images == 100
    assert len(found.exact) == 100
    assert all(row == original for row, original in zip(found.exact, found.originals, strict=True))


def test_a_single_training_image_is_enough():
    images = scenes(1, seed=0)
    dataset = dataset_of(images, scenes(2, seed=1))
    assert find_duplicates(dataset).rows == ()
    assert find_duplicates(replace(dataset, test=dataset.train)).exact == (0,)
