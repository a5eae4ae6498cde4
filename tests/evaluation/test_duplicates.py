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
    """Images of random smooth scenes, uint8 [N, S, S, 3]: no two are of the same thing."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((SIDE, SIDE))) for image in coarse])


def dataset_of(train, test):
    parts = [
        DatasetPart(images, np.zeros(len(images), np.int64), [f"{name}{row}" for row in range(len(images))])
        for name, images in (("train", train), ("test", test))
    ]
    return Dataset("scenes", "d" * 64, ("a", "b"), train.shape[1], False, True, *parts, ())


def brightened(image):
    return np.clip(image * 0.8 + 30, 0, 255).astype(np.uint8)


def encoded_again(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=70)
    return np.asarray(Image.open(buffer))


def cut(image):
    return np.asarray(Image.fromarray(image[1:-1, 1:-1]).resize((SIDE, SIDE)))


@pytest.fixture(scope="module")
def train():
    return scenes(300, seed=0)


def test_images_of_other_things_are_no_duplicates(train):
    found = find_duplicates(dataset_of(train, scenes(100, seed=1)))
    assert found.rows == ()
    assert (found.test_images, found.train_images, found.share) == (100, 300, 0.0)


def test_exact_duplicates_are_told_with_what_they_are_of(train):
    test = scenes(50, seed=1)
    test[[7, 20]] = train[[30, 2]]
    found = find_duplicates(dataset_of(train, test))
    assert found.exact == (7, 20)
    assert found.near == ()
    assert found.originals == (30, 2)
    assert found.share == 2 / 50


@pytest.mark.parametrize("change", [brightened, encoded_again, cut])
def test_near_duplicates_are_found(train, change):
    test = scenes(20, seed=1)
    test[3] = change(train[40])
    found = find_duplicates(dataset_of(train, test))
    assert (found.exact, found.near, found.originals) == ((), (3,), (40,))


def test_frames_of_a_film_are_found_though_they_have_many_neighbours():
    film = np.repeat(scenes(20, seed=0), 30, axis=0)
    noise = np.random.default_rng(0).integers(-2, 3, film.shape)
    frames = np.clip(film.astype(int) + noise, 0, 255).astype(np.uint8)
    found = find_duplicates(dataset_of(frames[::2], frames[1::2]))
    assert len(found.near) == 300


def test_plain_images_are_duplicates_only_where_they_are_equal():
    grey = np.full((5, SIDE, SIDE, 3), 100, np.uint8)
    assert find_duplicates(dataset_of(grey, grey + 1)).rows == ()
    assert find_duplicates(dataset_of(grey, grey)).exact == (0, 1, 2, 3, 4)


def test_very_many_training_images_are_sampled_and_their_number_is_told(train, monkeypatch):
    monkeypatch.setattr(duplicates, "_MOST_PIXELS", 100 * SIDE**2)
    found = find_duplicates(dataset_of(train, train))
    assert found.train_images == 100
    assert len(found.exact) == 100
    assert all(row == original for row, original in zip(found.exact, found.originals, strict=True))


def test_one_training_image_is_enough_to_look():
    images = scenes(1, seed=0)
    dataset = dataset_of(images, scenes(2, seed=1))
    assert find_duplicates(dataset).rows == ()
    assert find_duplicates(replace(dataset, test=dataset.train)).exact == (0,)
