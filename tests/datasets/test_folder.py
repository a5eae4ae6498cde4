import os

import pytest

from image_classifier.datasets.folder import arrange
from image_classifier.errors import DataError
from tests.datasets.samples import encoded, files, left_in_cache, prepared, write


def test_one_sub_folder_a_class(tmp_path):
    dataset = prepared(write(tmp_path / "pets", files()), tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert (dataset.image_size, dataset.grey, dataset.mirror, dataset.warnings) == (12, False, True, ())
    assert (dataset.train.images.shape, dataset.test.images.shape) == ((16, 12, 12, 3), (4, 12, 12, 3))
    assert list(dataset.test.labels) == [0, 0, 1, 1]
    for part in (dataset.train, dataset.test):
        assert [dataset.classes[label] for label in part.labels] == [
            name.split("/")[0] for name in part.names
        ]


@pytest.mark.parametrize("test", ["test", "Testing"])
@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_parts_are_told_by_their_folders(tmp_path, test, validation):
    contents = files(prefix="train/") | files(prefix=f"{test}/", count=3, start=100)
    contents |= files(prefix=f"{validation}/", count=2, start=200)
    dataset = prepared(write(tmp_path / "pets", contents), tmp_path)
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (24, 6)
    assert dataset.warnings == ("4 images of the validation part joined to the training part",)


@pytest.mark.parametrize(
    ("paths", "classes", "test"),
    [
        (["a/1.png", "b/1.png"], ("a", "b"), 0),
        (["top/a/1.png", "top/b/1.JPG"], ("a", "b"), 0),
        (["top/train/a/1.png", "top/test/b/1.png"], ("a", "b"), 1),
        (["train/1.png", "bus/1.png"], ("bus", "train"), 0),
        (["a/deep/1.png", "b/1.png", "b/deeper/2.png"], ("a", "b"), 0),
        (["train/a/1.png", "train/b/1.png"], ("a", "b"), 0),
        (["a/1.png", "b/1.png", "c/"], ("a", "b", "c"), 0),
        (["train/a/1.png", "test/b/1.png", "more/c/1.png"], ("a", "b"), 1),
    ],
)
def test_classes_and_parts_are_told_from_the_layout(paths, classes, test):
    arranged = arrange(paths, "here")
    assert (arranged.classes, arranged.in_test.sum()) == (classes, test)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({}, "has no images: it is empty"),
        ({"a.txt": b"x", "b/c.txt": b"y"}, r"only 2 other files \(a.txt, b/c.txt\); needed is"),
        ({"1.png": encoded(1), "2.png": encoded(2)}, "lie in no sub-folder"),
        ({"train/1.png": encoded(1), "test/2.png": encoded(2)}, "labels are missing, test, train hold"),
        (files("cat"), r"images of one class only \(cat\)"),
        (files("cat") | {"dog/1.txt": b""}, "one class only"),
        ({"cat/1.png": encoded(1), "dog/1.png": encoded(2)}, "each class has one image"),
        ({f"{name}/{n}.png": b"x" for name in ("a", "b") for n in range(4)}, "8 of 8 images cannot be read"),
        (files() | {"eel/only.png": encoded(7)}, "1 class of one image, which cannot be both .*: eel"),
        (files(prefix="test/"), "has a test part but no images to train on"),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_from_is_one_line(tmp_path, contents, message):
    folder = tmp_path / "pets"
    folder.mkdir()
    with pytest.raises(DataError, match=message) as caught:
        prepared(write(folder, contents), tmp_path)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert left_in_cache(tmp_path) == []


TWICE = {"cat/copy.png": encoded(0), "dog/same.png": encoded(0)}


@pytest.mark.parametrize(
    ("extra", "warning"),
    [
        ({f"cat/bad{n}.jpg": b"text" for n in range(7)}, "7 images left out, cannot be read: cat/bad0"),
        ({"dog/cut.png": encoded(5)[:60]}, "1 image left out, cannot be read: dog/cut.png (the image"),
        ({"eel/": b""}, "1 class left out, having no images: eel"),
        ({"README.md": b"", "cat/Thumbs.db": b"", "cat/.hidden.png": b"", "notes.txt": b""},
         "4 files ignored, being no images: README.md, cat/.hidden.png, cat/Thumbs.db, notes.txt"),
        ({"loose.png": encoded(9)}, "1 image left out, lying in no class folder: loose.png"),
        ({"cat/large.png": encoded(8, side=30)}, "21 images of mixed sizes, 12 to 30 wide and 12 to 30 high"),
        (TWICE, "3 images identical to images of another class: cat/000.png, cat/copy.png, dog/same.png"),
    ],
)  # fmt: skip
def test_what_is_amiss_is_counted_and_named(tmp_path, extra, warning):
    folder = write(tmp_path / "pets", files())
    for name, content in extra.items():
        if name.endswith("/"):
            (folder / name).mkdir()
        else:
            write(folder, {name: content})
    warnings = prepared(folder, tmp_path).warnings
    assert any(text.startswith(warning) for text in warnings), warnings


@pytest.mark.parametrize(
    ("contents", "warning"),
    [
        (files(prefix="train/") | files(prefix="test/", count=2),
         "4 test images identical to training images, so it flatters: test/cat/000.png"),
        (files(prefix="train/") | files("cat", 2, "test/", 50), "1 class never tested, the test part"),
        (files(prefix="train/") | files("cat dog eel", 2, "test/", 50), "1 class left out with 2 images"),
    ],
)  # fmt: skip
def test_what_is_amiss_between_the_parts_is_counted(tmp_path, contents, warning):
    warnings = prepared(write(tmp_path / "pets", contents), tmp_path).warnings
    assert any(text.startswith(warning) for text in warnings), warnings


def test_files_that_cannot_be_opened_are_counted(tmp_path):
    folder = write(tmp_path / "pets", files())
    (folder / "cat/lost.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(folder / "cat/pipe.png")
    assert prepared(folder, tmp_path).warnings == (
        "2 images left out, cannot be read: cat/lost.png (the file cannot be read: "
        "No such file or directory), cat/pipe.png (it is no regular file)",
    )


def test_linked_classes_are_followed_and_circles_are_not(tmp_path):
    store = write(tmp_path / "store", files())
    folder = tmp_path / "pets"
    folder.mkdir()
    for name in ("cat", "dog"):
        (folder / name).symlink_to(store / name)
    (store / "cat" / "circle").symlink_to(store / "cat")
    assert len(prepared(folder, tmp_path).train.labels) == 16


def test_names_that_are_no_text_are_kept(tmp_path):
    folder = write(tmp_path / "pets", files())
    (folder / "cat/000.png").rename(os.fsdecode(os.fsencode(folder) + b"/cat/\xff.png"))
    dataset = prepared(folder, tmp_path)
    assert any(os.fsencode(name) == b"cat/\xff.png" for name in [*dataset.train.names, *dataset.test.names])


@pytest.mark.parametrize(
    ("sides", "size"), [((12, 12), 12), ((4, 4), 8), ((100, 100), 64), ((20, 30), 25), ((64, 64), 64)]
)
def test_the_size_is_what_the_images_have_within_bounds(tmp_path, sides, size):
    contents = files("cat", side=sides[0]) | files("dog", start=50, side=sides[1])
    assert prepared(write(tmp_path / "pets", contents), tmp_path).image_size == size


def test_the_size_can_be_set(tmp_path):
    folder = write(tmp_path / "pets", files())
    assert prepared(folder, tmp_path, image_size=16).train.images.shape == (16, 16, 16, 3)
    with pytest.raises(DataError, match="image_size is 5, but must be at least 8"):
        prepared(folder, tmp_path, image_size=5)
