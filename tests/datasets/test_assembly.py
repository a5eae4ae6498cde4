import hashlib

import numpy as np
import pytest

from image_classifier.datasets.split import split_validation
from tests.datasets.samples import encoded, files, prepared, write


def test_digest_and_order_depend_on_content_and_not_on_location_or_names(tmp_path, pets):
    moved = write(
        tmp_path / "elsewhere", {name.replace("/0", "/z9"): content for name, content in reversed(files().items())}
    )
    first, second = prepared(pets, tmp_path), prepared(moved, tmp_path / "other")
    assert first.digest == second.digest
    assert np.array_equal(first.train.images, second.train.images)
    assert np.array_equal(first.test.labels, second.test.labels)


@pytest.mark.parametrize(
    "change",
    [
        lambda contents: contents | {"cat/000.png": encoded(99)},
        lambda contents: contents | {"cat/new.png": encoded(99)},
        lambda contents: {name.replace("cat", "cow"): content for name, content in contents.items()},
        lambda contents: {name: contents[name] for name in list(contents)[1:]},
    ],
    ids=["changed image", "new image", "renamed class", "removed image"],
)
def test_the_digest_changes_with_the_content(tmp_path, pets, change):
    changed = write(tmp_path / "changed", change(files()))
    assert prepared(pets, tmp_path).digest != prepared(changed, tmp_path).digest


def test_a_folder_that_grows_and_shrinks_again_has_its_old_digest(tmp_path, pets):
    before = prepared(pets, tmp_path)
    new = {f"cat/new{number}.png": encoded(100 + number) for number in range(8)}
    write(pets, new)
    grown = prepared(pets, tmp_path)
    assert grown.digest != before.digest
    assert len(grown.train.labels) + len(grown.test.labels) == 28
    for name in new:
        (pets / name).unlink()
    assert prepared(pets, tmp_path).digest == before.digest


def test_no_image_moves_to_another_part_when_a_folder_grows(tmp_path):
    folder = write(tmp_path / "many", files(count=60))
    before = prepared(folder, tmp_path)
    new = files(count=60, seed=5000)
    write(folder, {name.replace("/", "/new"): content for name, content in new.items()})
    grown = prepared(folder, tmp_path)
    assert set(before.train.names) < set(grown.train.names)
    assert set(before.test.names) < set(grown.test.names)


def test_a_higher_test_fraction_only_adds_to_the_test_part(tmp_path):
    folder = write(tmp_path / "many", files(count=60))
    low, high = (prepared(folder, tmp_path, test_fraction=fraction) for fraction in (0.2, 0.4))
    assert set(low.test.names) < set(high.test.names)


def test_hashes_and_parts_do_not_depend_on_the_image_size(tmp_path, pets):
    small, large = (prepared(pets, tmp_path, image_size=size) for size in (8, 24))
    for one, other in ((small.train, large.train), (small.test, large.test)):
        expected = [
            int.from_bytes(hashlib.sha256((pets / name).read_bytes()).digest()[:8], "big") for name in one.names
        ]
        assert (one.hashes.dtype, one.hashes.tolist()) == (np.uint64, expected)
        assert (other.hashes.tolist(), other.names) == (expected, one.names)


PARTS = (
    files(count=10, prefix="train/")
    | files(count=3, prefix="val/", seed=100)
    | files(count=4, prefix="test/", seed=200)
)


def part_names(dataset):
    """First step of the path of each training, validation and test image."""
    rows = [] if dataset.validation_rows is None else dataset.validation_rows
    tops = np.array([name.split("/")[0] for name in dataset.train.names])
    return set(np.delete(tops, rows)), set(tops[rows]), {name.split("/")[0] for name in dataset.test.names}


def without(part):
    return {name: content for name, content in PARTS.items() if not name.startswith(part)}


@pytest.mark.parametrize(
    ("contents", "test_part", "expected"),
    [
        (PARTS, "auto", ({"train"}, {"val"}, {"test"})),
        (PARTS, "validation", ({"train"}, set(), {"val"})),
        (without("test"), "auto", ({"train"}, {"val"}, {"train"})),
        (without("test"), "validation", ({"train"}, set(), {"val"})),
        (without("val"), "auto", ({"train"}, set(), {"test"})),
    ],
    ids=["all", "all, validation as test", "no test", "no test, validation as test", "no validation"],
)
def test_each_part_is_used_as_it_is_named(tmp_path, contents, test_part, expected):
    dataset = prepared(write(tmp_path / "pets", contents), tmp_path, test_part=test_part)
    assert part_names(dataset) == expected
    assert split_validation(dataset, 0.1, 0)[1].size > 0


def test_the_validation_part_is_kept_when_the_data_set_comes_from_the_cache(tmp_path):
    folder = write(tmp_path / "pets", PARTS)
    first, cached = prepared(folder, tmp_path), prepared(folder, tmp_path)
    assert list(first.validation_rows) == list(cached.validation_rows) == list(range(20, 26))
    assert list(first.train.labels[20:]) == [0, 0, 0, 1, 1, 1]
    moved = {name.replace("val/", "train/1"): content for name, content in PARTS.items()}
    assert prepared(write(tmp_path / "other", moved), tmp_path).digest != first.digest


@pytest.mark.parametrize(
    ("contents", "warning"),
    [
        ({f"test/{name}/1.png": b"x" for name in ("cat", "dog")},
         "the test part has no usable images, so 6 images of the training part replace it"),
        (files("eel owl", 4, "test/", 300), "skipped 2 classes without training images, with 8 test images: eel, owl"),
        (files("cat eel", 4, "test/", 300), "skipped 1 class without training images, with 4 test images: eel"),
        (files("cat eel", 4, "val/", 300), "skipped 1 class without training images, with 4 validation images: eel"),
    ],
    ids=["unreadable test images", "only untrained classes", "an untrained class", "an untrained validation class"],
)  # fmt: skip
@pytest.mark.parametrize("test_part", ["auto", "validation"])
def test_nothing_of_the_test_and_validation_parts_is_trained_on(tmp_path, contents, warning, test_part):
    contents |= files(prefix="train/") | files(count=3, prefix="val/", seed=500)
    dataset = prepared(write(tmp_path / "pets", contents), tmp_path, test_part=test_part)
    trained, validated, _ = part_names(dataset)
    assert dataset.classes == ("cat", "dog")
    assert trained == {"train"}
    assert validated == ({"val"} if test_part == "auto" else set())
    assert test_part == "validation" or any(text.startswith(warning) for text in dataset.warnings), dataset.warnings


def test_a_validation_part_of_unknown_classes_is_replaced(tmp_path):
    folder = write(tmp_path / "pets", files(prefix="train/") | files("eel", 4, "val/", 300))
    dataset = prepared(folder, tmp_path)
    assert dataset.validation_rows is None
    assert dataset.warnings == (
        "skipped 1 class without training images, with 4 validation images: eel",
        "the validation part has no usable images, so a random selection of the training part replaces it",
    )
