import pytest

from image_classifier.errors import DataError
from tests.datasets.samples import cached_files, encoded, files, prepared, write


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (files("cat"), r"images of only one class \(cat\)"),
        (files("cat") | {"dog/1.txt": b""}, "only one class"),
        ({"cat/1.png": encoded(1), "dog/1.png": encoded(2)}, "no class with two different training images"),
        ({f"{name}/{n}.png": b"x" for name in ("a", "b") for n in range(4)}, "8 of 8 images cannot be read"),
        (files() | {"eel/only.png": encoded(7)}, "1 class with a single image, but .* one each: eel"),
        (files(prefix="test/"), "has test images, but no training images"),
        (files(prefix="val/"), "has validation images, but no training images"),
        (files(prefix="val/") | files(prefix="test/"), "has test and validation images, but no training images"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_trained_on_is_refused(tmp_path, contents, message):
    folder = write(tmp_path / "pets", contents)
    with pytest.raises(DataError, match=message) as caught:
        prepared(folder, tmp_path)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert cached_files(tmp_path) == []


@pytest.mark.parametrize(
    ("contents", "warning"),
    [
        (files() | {f"cat/bad{n}.jpg": b"text" for n in range(7)},
         "skipped 7 images that cannot be read: cat/bad0"),
        (files() | {"dog/cut.png": encoded(5)[:60]},
         "skipped 1 image that cannot be read: dog/cut.png (the image"),
        (files() | {"cat/large.png": encoded(8, side=30)},
         "resized 21 images of different sizes, 12 to 30 pixels wide and 12 to 30 high, to 12 x 12"),
        (files() | {"cat/large.png": encoded(8, side=30), "cat/long.png": encoded(9, side=12, width=40)},
         "resized 22 images of different sizes, 12 to 40 pixels wide and 12 to 30 high, to 12 x 12 (set image_size to "
         "change that); 1 image not square, so only the center is used: 30 % of the median one"),
        (files(width=120), "resized 20 images from 120 x 12 to 12 x 12; 20 images not square, so only the center is "
         "used: 10 % of the median one"),
        (files() | {f"cat/{n}.png": encoded(90 + n, width=40) for n in range(2)},
         "resized 22 images of different sizes, 12 to 40 pixels wide and 12 high"),
        (files(side=100), "resized 20 images from 100 x 100 to 64 x 64"),
        (files("cat", 400, "train/") | files("dog", 10, "train/", 1000) | files("eel", 3, "train/", 2000)
         | files("cat dog eel", 2, "test/", 5000),
         "2 classes with less than 5 % of the training images of the largest class, cat (400), so they may rarely be "
         "recognized; add images of them: eel (3), dog (10)"),
        (files() | {f"cat/copy-{n}.png": encoded(0) for n in range(9)} | {"dog/copy.png": encoded(1000)},
         "10 training images of 24 identical to others of the same class: cat/copy-0.png, cat/copy-1.png"),
        (files() | {"cat/copy.png": encoded(0), "dog/same.png": encoded(0)},
         "3 images identical to images of another class: cat/000.png, cat/copy.png, dog/same.png"),
        (files(prefix="train/") | files(prefix="test/", count=2),
         "4 test images identical to training images, which inflates the accuracy: test/cat/000.png"),
        (files(prefix="train/") | files("cat", 2, "test/", 50),
         "1 class without test images (the test part has none): dog"),
        (files() | {f"eel/{n}.png": encoded(70) for n in range(3)},
         "1 class without test images (the training images of each are identical): eel"),
        (files(prefix="train/") | files("cat", 2, "test/", 50) | {"test/dog/1.png": b"x"},
         "1 class without test images (those in the test part cannot be read): dog"),
        (files(prefix="train/") | files("cat dog eel", 2, "val/", 50) | {"train/eel/1.png": encoded(70)},
         "1 class without test images (each has a single training image): eel"),
        (files("owl") | {f"{name}.png": encoded(number) for number, name in ((50, "cat/0"), (51, "cat/1"),
          (50, "dog/0"), (50, "dog/1"), (51, "eel/0"), (51, "eel/1"))},
         "1 class without test images (each of their images is also in another class): cat"),
        (files(prefix="train/") | files("cat dog eel", 2, "test/", 50),
         "skipped 1 class without training images, with 2 test images: eel"),
    ],
)  # fmt: skip
def test_a_warning_counts_and_names_the_problems(tmp_path, contents, warning):
    warnings = prepared(write(tmp_path / "pets", contents), tmp_path).warnings
    assert any(text.startswith(warning) for text in warnings), warnings


def test_a_class_without_images_is_skipped_with_a_warning(tmp_path):
    folder = write(tmp_path / "pets", files())
    (folder / "eel").mkdir()
    assert prepared(folder, tmp_path).warnings == ("skipped 1 class without images: eel",)


def test_images_of_a_class_that_are_all_different_get_no_warning(tmp_path):
    assert prepared(write(tmp_path / "pets", files("cat", 40) | files("dog", 4, seed=100)), tmp_path).warnings == ()
