import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from image_classifier.evaluation import near_duplicates
from image_classifier.evaluation.near_duplicates import find_neighbors, same_photos, shows_the_same, standardize

SIDE = 96


def scenes(count, seed):
    """Random images with details, uint8 [N, S, S, 3]; no two show the same."""
    random = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        layers = [
            np.asarray(Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize((SIDE, SIDE)))
            for cells in (4, 12)
        ]
        images.append(np.mean(layers, axis=0).astype(np.uint8))
    return np.stack(images)


def changed(image, change):
    return np.asarray(change(Image.fromarray(image)).convert("RGB").resize((SIDE, SIDE)))


def recompressed(picture, quality=15):
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def mirrored(picture):
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


CHANGES = {
    "recompressed": recompressed,
    "brightened": lambda picture: ImageEnhance.Brightness(picture).enhance(1.2),
    "gray": lambda picture: picture.convert("L"),
    "small": lambda picture: picture.resize((40, 40)),
    "mirrored": mirrored,
    "cropped to 80 %": lambda picture: picture.crop((4, 8, 81, 85)),
    "mirrored, cropped and recompressed": lambda picture: recompressed(mirrored(picture).crop((5, 5, 91, 91)), 50),
}


@pytest.fixture(scope="module")
def images():
    return scenes(12, seed=0)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_copy_shows_the_same_photo(images, change):
    for image in images:
        copy = changed(image, change)
        assert shows_the_same(image, copy)
        assert shows_the_same(copy, image)


def test_different_photos_do_not_show_the_same(images):
    assert not any(shows_the_same(one, other) for one in images for other in scenes(12, seed=1))


def test_photos_of_a_fixed_camera_with_other_objects_are_different(images):
    side, random = 12, np.random.default_rng(0)
    objects = scenes(24, seed=1)[:, :side, :side]
    places = random.permutation([(row, column) for row in range(0, 61, 20) for column in range(0, 61, 20)])
    for number, background in enumerate(images):
        pair = np.stack([background, background])
        for image, thing, (row, column) in zip(pair, objects[2 * number :], places[number : number + 2], strict=False):
            image[row : row + side, column : column + side] = thing
        assert not shows_the_same(*pair)
        assert shows_the_same(pair[0], changed(pair[0], recompressed))


def test_a_moved_object_is_another_photo(images):
    for background in images:
        pair = np.stack([background, background])
        pair[0, 10:24, 10:24] = pair[1, 60:74, 30:44] = scenes(1, seed=1)[0, :14, :14]
        assert not shows_the_same(*pair)


def test_the_same_layout_with_other_details_is_another_photo():
    random = np.random.default_rng(0)
    layout = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((SIDE, SIDE))
    details = random.normal(0, 60, (2, 12, 12, 3)).repeat(8, axis=1).repeat(8, axis=2)
    one, other = np.clip(np.asarray(layout) + details, 0, 255).astype(np.uint8)
    assert not shows_the_same(one, other)


def test_blank_images_show_the_same_only_if_equal():
    gray = np.full((SIDE, SIDE, 3), 100, np.uint8)
    assert shows_the_same(gray, gray)
    assert not shows_the_same(gray, gray + 1)


@pytest.mark.parametrize("block", [1, 10**7])
def test_neighbors_are_those_of_all_pairs_in_blocks_of_any_size(monkeypatch, block):
    monkeypatch.setattr(near_duplicates, "_BLOCK_PRODUCTS", block)
    random = np.random.default_rng(0)
    queries, references = (random.normal(size=(count, 6)).astype(np.float32) for count in (7, 9))
    found = find_neighbors(queries, references)
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(references, axis=1)
    cosines = queries @ references.T / lengths
    assert found.rows.tolist() == cosines.argmax(axis=1).tolist()
    assert found.cosines == pytest.approx(cosines.max(axis=1), abs=1e-5)
    away = np.linalg.norm(queries[:, None] - references, axis=2)
    assert found.distances == pytest.approx(np.sort(away, axis=1)[:, :5].mean(axis=1), abs=1e-4)


def test_an_image_is_not_its_own_neighbor():
    vectors = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    assert (find_neighbors(vectors, vectors, same=True).rows != np.arange(6)).all()
    single = find_neighbors(vectors[:1], vectors[:1], same=True)
    assert (single.rows.tolist(), single.distances.tolist()) == ([-1], [0.0])


def test_a_feature_that_never_varies_is_not_blown_up():
    vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    vectors[:, 0] = 3
    scaled = standardize(np.concatenate([vectors, vectors[:1] + 0.01]), vectors)
    assert np.abs(scaled[:, 0]).max() <= 2
    assert scaled[:50, 1:].std(axis=0) == pytest.approx([1, 1, 1], abs=1e-4)


def test_only_the_nearest_candidates_are_compared(images, monkeypatch):
    monkeypatch.setattr(near_duplicates, "_MAX_CANDIDATES", 2)
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(12, 8)).astype(np.float32)
    queries = embeddings + np.linspace(0.5, 0, 12, dtype=np.float32)[:, None] * random.normal(size=(12, 8))
    neighbors = find_neighbors(queries.astype(np.float32), embeddings)
    rows = np.arange(12)
    assert same_photos(images, rows, images, rows, neighbors).tolist() == [10, 11]
