import os

import pytest

from image_classifier.errors import DataError
from tests.datasets.samples import cached_files, encoded, files, prepared, write


def test_each_subfolder_is_a_class(tmp_path):
    dataset = prepared(write(tmp_path / "pets", files()), tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert (dataset.image_size, dataset.grayscale, dataset.mirror, dataset.warnings) == (12, False, True, ())
    assert dataset.train.images.shape[1:] == dataset.test.images.shape[1:] == (12, 12, 3)
    assert sorted([*dataset.train.labels, *dataset.test.labels]) == [0] * 10 + [1] * 10
    for part in (dataset.train, dataset.test):
        assert [dataset.classes[label] for label in part.labels] == [name.split("/")[0] for name in part.names]


@pytest.mark.parametrize("test", ["test", "Testing"])
@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_folders_above_the_classes_mark_the_parts(tmp_path, test, validation):
    contents = files(prefix="train/") | files(prefix=f"{test}/", count=3, seed=100)
    contents |= files(prefix=f"{validation}/", count=2, seed=200)
    dataset = prepared(write(tmp_path / "pets", contents), tmp_path)
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (24, 6)
    assert {dataset.train.names[row].split("/")[0] for row in dataset.validation_rows} == {validation}
    assert (len(dataset.validation_rows), dataset.warnings) == (4, ())


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({}, "has no images: it is empty"),
        ({"a.txt": b"x", "b/c.txt": b"y"}, r"only 2 other files \(a.txt, b/c.txt\); expected one subfolder"),
        ({"1.png": encoded(1), "2.png": encoded(2)}, "have no labels, as they are not in class folders"),
        (
            {"train/1.png": encoded(1), "test/2.png": encoded(2)},
            "no labels, as there are no class folders in test, train",
        ),
    ],
)
def test_a_folder_without_images_or_labels_is_refused(tmp_path, contents, message):
    folder = tmp_path / "pets"
    folder.mkdir()
    with pytest.raises(DataError, match=message) as caught:
        prepared(write(folder, contents), tmp_path)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert cached_files(tmp_path) == []


@pytest.mark.parametrize(
    ("extra", "warning"),
    [
        ({"README.md": b"", "cat/Thumbs.db": b"", "cat/.hidden.png": b"", "notes.txt": b""},
         "skipped 4 non-image files: README.md, cat/.hidden.png, cat/Thumbs.db, notes.txt"),
        ({"loose.png": encoded(9)}, "skipped 1 image outside of the class folders: loose.png"),
        ({"unlabeled/1.png": encoded(9)}, "skipped 1 image in the folder of unlabeled images: unlabeled/1.png"),
    ],
)  # fmt: skip
def test_a_warning_counts_the_skipped_files(tmp_path, extra, warning):
    folder = write(tmp_path / "pets", files() | extra)
    assert prepared(folder, tmp_path).warnings == (warning,)


@pytest.mark.parametrize("name", ["unlabeled", "Unlabelled", "unsup", "unsupervised"])
@pytest.mark.parametrize("place", ["{}/1.png", "{}/batch/1.png", "train/{}/1.png", "test/{}/1.png"])
def test_unlabeled_images_are_skipped_and_are_not_a_class(tmp_path, name, place):
    path = place.format(name)
    contents = files(prefix="train/") | files(prefix="test/", seed=100, count=2) | {path: encoded(9)}
    dataset = prepared(write(tmp_path / "pets", contents), tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert dataset.warnings == (f"skipped 1 image in the folder of unlabeled images: {path}",)


def test_a_training_part_next_to_unlabeled_images_keeps_its_classes(tmp_path):
    contents = files(prefix="train/") | {f"unlabeled/{number}.png": encoded(900 + number) for number in range(5)}
    dataset = prepared(write(tmp_path / "pets", contents), tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.train.labels) + len(dataset.test.labels) == 20
    assert dataset.warnings[0].startswith("skipped 5 images in the folder of unlabeled images: unlabeled/0.png")


def test_class_folders_next_to_the_other_parts_are_the_training_part(tmp_path):
    contents = files() | files(prefix="val/", count=2, seed=100) | files(prefix="test/", count=3, seed=200)
    dataset = prepared(write(tmp_path / "pets", contents | {"unlabeled/1.png": encoded(9)}), tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert {name[:4] for name in dataset.test.names} == {"test"}
    assert {dataset.train.names[row][:4] for row in dataset.validation_rows} == {"val/"}
    assert (len(dataset.train.labels), len(dataset.validation_rows), len(dataset.test.labels)) == (24, 4, 6)


def test_files_that_cannot_be_opened_are_skipped(tmp_path):
    folder = write(tmp_path / "pets", files())
    (folder / "cat/lost.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(folder / "cat/pipe.png")
    assert prepared(folder, tmp_path).warnings == (
        "skipped 2 images that cannot be read: cat/lost.png (the file cannot be read: "
        "No such file or directory), cat/pipe.png (it is not a regular file)",
    )


def test_linked_folders_are_followed_unless_they_are_cyclic(tmp_path):
    store = write(tmp_path / "store", files())
    folder = tmp_path / "pets"
    folder.mkdir()
    for name in ("cat", "dog"):
        (folder / name).symlink_to(store / name)
    (store / "cat" / "cycle").symlink_to(store / "cat")
    dataset = prepared(folder, tmp_path)
    assert len(dataset.train.labels) + len(dataset.test.labels) == 20


def test_file_names_that_are_not_utf8_are_accepted(tmp_path):
    folder = write(tmp_path / "pets", files())
    (folder / "cat/000.png").rename(os.fsdecode(os.fsencode(folder) + b"/cat/\xff.png"))
    dataset = prepared(folder, tmp_path)
    assert "cat/ÿ.png" in [*dataset.train.names, *dataset.test.names]


def test_two_folders_with_links_to_each_other_are_read_once(tmp_path):
    folder = write(tmp_path / "pets", files())
    (folder / "cat/more").symlink_to("../dog")
    (folder / "dog/more").symlink_to("../cat")
    dataset = prepared(folder, tmp_path)
    names = [*dataset.train.names, *dataset.test.names]
    assert sorted({name.rsplit("/", 1)[0] for name in names}) == ["cat", "cat/more", "dog", "dog/more"]
    assert len(names) == 40
