import os
import unicodedata

import pyarrow.parquet as pq
import pytest

from image_classifier.errors import DataError
from tests.datasets.samples import cached_files, encoded, files, prepared, write
from tests.datasets.test_archive import tarred
from tests.datasets.test_parquet import table

LATIN1 = os.fsdecode("été".encode("latin-1"))


def composed(form, contents):
    return {unicodedata.normalize(form, name): content for name, content in contents.items()}


def test_a_class_in_two_unicode_forms_is_one_class(tmp_path):
    train, test = files("café dog", prefix="train/"), files("café dog", 5, "test/", 900)
    folder = write(tmp_path / "pets", composed("NFC", train) | composed("NFD", test))
    dataset = prepared(folder, tmp_path)
    assert dataset.classes == ("café", "dog")
    assert dataset.classes[0] == unicodedata.normalize("NFC", "café")
    assert list(dataset.test.labels) == [0] * 5 + [1] * 5
    assert dataset.warnings == ("merged 1 class with names written in different ways: café",)


def test_a_folder_from_macos_has_the_classes_and_digest_of_any_other(tmp_path):
    digests = {
        prepared(write(tmp_path / form, composed(form, files("éa ez z"))), tmp_path / f"home {form}").digest
        for form in ("NFC", "NFD")
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (" cat ", "cat"),
        (LATIN1, "été"),
        (f"été {LATIN1}", "été été"),
        ("a\nb", "a\\nb"),
        ("\udc81", "\\x81"),
        ("😀", "😀"),
    ],
)
def test_any_name_of_a_folder_becomes_one_that_can_be_printed(tmp_path, folder, name):
    dataset = prepared(write(tmp_path / "pets", files("owl") | class_of(folder)), tmp_path)
    assert sorted(dataset.classes) == sorted(("owl", name))
    for text in (*dataset.classes, *dataset.train.names, *dataset.warnings):
        assert text.encode()
        assert "\n" not in text


def class_of(name, count=5):
    return {f"{name}/{number}.png": encoded(500 + number) for number in range(count)}


def test_names_that_are_not_utf8_are_reported_once_in_readable_form(tmp_path):
    contents = files() | {f"cat/{LATIN1}.png": encoded(70), f"cat/{LATIN1}.txt": b"", f"dog/{LATIN1}.png": b"x"}
    warnings = prepared(write(tmp_path / "pets", contents), tmp_path).warnings
    assert warnings == (
        "skipped 1 non-image file: cat/été.txt",
        "2 images with a name that is not UTF-8, shown as in Windows-1252: cat/été.png, dog/été.png",
        "skipped 1 image that cannot be read: dog/été.png (not an image in an accepted format: JPEG, PNG, WEBP, BMP, "
        "GIF, TIFF)",
    )


def test_a_tar_archive_with_names_that_are_not_utf8_is_read(tmp_path):
    dataset = prepared(tarred(tmp_path / "pets.tar", files("owl") | class_of(LATIN1)), tmp_path)
    assert dataset.classes == ("owl", "été")


def test_a_data_folder_whose_name_is_not_utf8_is_named_in_readable_form(tmp_path):
    folder = write(tmp_path / LATIN1, files())
    assert prepared(folder, tmp_path).source == str(tmp_path / "été")
    with pytest.raises(DataError) as caught:
        prepared(folder / "cat", tmp_path)
    assert str(tmp_path / "été/cat") in str(caught.value)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (files("Cat cat dog"), r"Cat \(10 training images\) and cat \(10 training images\) differ only in upper"),
        (files(prefix="train/") | files("Cat dog", 4, "test/", 900),
         r"Cat \(4 test images\) and cat \(10 training images\) differ only in upper and lower case; give them"),
        (files("a b", prefix="train/") | files("A b", 4, "test/", 900), r"A \(4 test images\) and a \(10 training"),
        (files("straße STRASSE Maße Masse CAFÉ café"), "CAFÉ .* and café"),
        (files() | class_of(" "), "the name of a class with 5 training images is blank; give the class a name"),
    ],
)  # fmt: skip
def test_class_names_that_cannot_be_told_apart_are_refused(tmp_path, contents, message):
    with pytest.raises(DataError, match=message) as caught:
        prepared(write(tmp_path / "pets", contents), tmp_path)
    assert "\n" not in str(caught.value)
    assert cached_files(tmp_path) == []


def test_upper_and_lower_case_letters_are_different_classes(tmp_path):
    assert prepared(write(tmp_path / "letters", files("A a b B")), tmp_path).classes == ("A", "B", "a", "b")


def test_a_blank_or_repeated_class_without_images_does_no_harm(tmp_path):
    (tmp_path / "pets").mkdir()
    pq.write_table(table([0, 1] * 8, names=["cat", "dog", "", "Cat"]), tmp_path / "pets/train.parquet")
    assert prepared(tmp_path / "pets", tmp_path).classes == ("cat", "dog")


def test_class_names_of_a_table_that_no_text_can_hold_are_escaped(tmp_path):
    pq.write_table(table([0, 1] * 8, names=["cat\ud83d", "dog"]), tmp_path / "pets.parquet")
    assert prepared(tmp_path / "pets.parquet", tmp_path).classes == ("cat\\ud83d", "dog")


def test_two_numbers_with_the_same_class_name_are_one_class(tmp_path):
    pq.write_table(table([0, 1, 2] * 6, names=["cat", "dog", "cat "]), tmp_path / "pets.parquet")
    dataset = prepared(tmp_path / "pets.parquet", tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert sorted([*dataset.train.labels, *dataset.test.labels]) == [0] * 12 + [1] * 6
