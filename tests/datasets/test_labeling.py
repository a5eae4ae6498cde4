import json
import os

import pytest

from image_classifier.datasets.formats import read_source
from image_classifier.datasets.labeling import LabelOptions
from image_classifier.errors import DataError
from tests.datasets.samples import encoded, prepared, write
from tests.datasets.test_archive import tarred, zipped

PICTURE = encoded(1)
COCO = json.dumps({"info": {}, "images": [{"file_name": "0.png"}], "annotations": [{"bbox": []}], "categories": []})


def pictures(folders, count=8, prefix=""):
    return {f"{folder}/{prefix}{i}.png": PICTURE for folder in folders.split() for i in range(count)}


def table(header="id,label", count=8, prefix="", classes="cat dog"):
    names = classes.split()
    return "\n".join([header, *(f"{prefix}{i},{names[i % len(names)]}" for i in range(count))]).encode()


def read(tmp_path, contents, *, pack=None, **options):
    """Classes, and the number of training, validation and test images; with the warnings."""
    path = pack(tmp_path / "pets.pack", contents) if pack else write(tmp_path / "pets", contents)
    (tmp_path / "scratch").mkdir(exist_ok=True)
    source = read_source(path, tmp_path / "scratch", 10**9, LabelOptions(**options))
    for shard in source.shards:
        assert set(shard.read()) == {PICTURE}
    validation, test = int(source.in_validation.sum()), int(source.in_test.sum())
    return source.classes, (len(source.labels) - validation - test, validation, test), list(source.warnings)


@pytest.mark.parametrize("pack", [None, zipped, tarred])
def test_a_table_labels_the_images_of_folders_and_archives(tmp_path, pack):
    found = read(tmp_path, pictures("top/images") | {"top/labels.csv": table()}, pack=pack)
    assert found == (("cat", "dog"), (8, 0, 0), ["the labels are those in column 'label' of top/labels.csv"])


@pytest.mark.parametrize("pack", [None, zipped])
def test_training_images_with_a_table_next_to_unlabeled_test_images(tmp_path, pack):
    contents = pictures("train_images", prefix="a") | pictures("test_images", prefix="b", count=3)
    contents |= {"train.csv": table(prefix="a"), "test.csv": table("id,x", prefix="b", count=3, classes="1 2 3")}
    contents |= {"sample_submission.csv": table(prefix="b", count=3)}
    classes, counts, warnings = read(tmp_path, contents, pack=pack)
    assert (classes, counts) == (("cat", "dog"), (8, 0, 0))
    assert warnings[1:] == [
        "the labels are those in column 'label' of train.csv",
        "skipped 3 images without a row in the table: test_images/b0.png, test_images/b1.png, test_images/b2.png",
    ]


def lines(numbers, label="{c}"):
    return "".join(f"img/{i}.png {label.format(c=i % 3)}\n" for i in numbers).encode()


@pytest.mark.parametrize("pack", [None, zipped])
def test_lists_of_paths_with_a_number_are_tables(tmp_path, pack):
    contents = pictures("img", 12) | {"train.txt": lines(range(9)), "val.txt": lines(range(9, 12))}
    classes, counts, _ = read(tmp_path, contents | {"readme.txt": b"12 pictures, taken in 2020"}, pack=pack)
    assert (classes, counts) == (("0", "1", "2"), (9, 3, 0))


def test_lists_of_paths_without_labels_leave_the_class_folders_as_they_are(tmp_path):
    contents = pictures("cat dog") | {"meta/train.txt": b"cat/0\ncat/1\ndog/2\n", "meta/classes.txt": b"cat\ndog\n"}
    classes, counts, warnings = read(tmp_path, contents)
    assert (classes, counts) == (("cat", "dog"), (16, 0, 0))
    assert warnings == ["skipped 2 non-image files: meta/classes.txt, meta/train.txt"]


@pytest.mark.parametrize(
    ("contents", "counts"),
    [
        (pictures("train test") | {"train.csv": table(), "test.csv": table()}, (8, 0, 8)),
        (pictures("train test") | {"train/metadata.csv": table(), "test/metadata.csv": table()}, (8, 0, 8)),
        (pictures("images", 12) | {"train.csv": table(count=10), "val.csv": b"id,label\n10,cat\n11,dog"}, (10, 2, 0)),
        (pictures("train validation", 4) | {"metadata.jsonl": b"\n".join(
            json.dumps({"file_name": f"{part}/{i}.png", "label": "ab"[i % 2]}).encode()
            for part in ("train", "validation") for i in range(4)
        )}, (4, 4, 0)),
    ],
)  # fmt: skip
def test_names_of_tables_and_folders_mark_the_parts(tmp_path, contents, counts):
    assert read(tmp_path, contents)[1] == counts


def test_a_table_wins_over_folders_that_are_only_numbered(tmp_path):
    contents = pictures("images_part_1") | pictures("images_part_2", prefix="x")
    contents |= {"metadata.csv": table() + b"\n" + table("x0,cat", prefix="x")[7:]}
    assert read(tmp_path, contents)[:2] == (("cat", "dog"), (16, 0, 0))


def test_skipped_rows_and_images_are_counted(tmp_path):
    lines = b"\n99,cat\n3,cat\n8,"
    assert read(tmp_path, pictures("images", 10) | {"labels.csv": table() + lines})[2] == [
        "the labels are those in column 'label' of labels.csv",
        "skipped 1 row of the table without an image: 99",
        "skipped 1 image with contradicting labels in the table: images/3.png",
        "skipped 1 image whose row has no label: images/8.png",
        "skipped 1 image without a row in the table: images/9.png",
    ]


def test_parts_in_the_names_of_folders_can_be_ignored(tmp_path):
    contents = pictures("train test", 4)
    lines = ["path,label", *(f"{path},{'ab'[row % 2]}" for row, path in enumerate(contents))]
    contents["labels.csv"] = "\n".join(lines).encode()
    assert read(tmp_path, contents, labels="labels.csv")[1] == (4, 0, 4)
    assert read(tmp_path, contents, labels="labels.csv", layout="classes")[1] == (8, 0, 0)


def test_a_pipe_that_is_named_like_a_table_is_not_read(tmp_path):
    folder = write(tmp_path / "pets", CLASS_FOLDERS)
    os.mkfifo(folder / "labels.csv")
    assert read(tmp_path, {}) == (("cat", "dog"), (8, 0, 0), ["skipped 1 non-image file: labels.csv"])


CLASS_FOLDERS = {f"{('cat', 'dog')[i % 2]}/{i}.png": PICTURE for i in range(8)}


@pytest.mark.parametrize(
    "others",
    [
        {"labels.csv": table()},
        {"labels.csv": table(classes="0 1")},
        {"labels.csv": table("id,length", classes="1.5 2.5 3.5")},
        {"labels.csv": b"\x00\xff", "a.json": b"{", "b.jsonl": b"x", "c.parquet": b"PAR1"},
        {"annotations.json": COCO.encode()},
    ],
)
def test_class_folders_label_the_images_whatever_agreeing_tables_there_are(tmp_path, others):
    classes, counts, warnings = read(tmp_path, CLASS_FOLDERS | others)
    assert (classes, counts) == (("cat", "dog"), (8, 0, 0))
    assert len(warnings) == 1
    assert warnings[0].startswith(f"skipped {len(others)} non-image file")


def test_class_folders_and_a_table_that_disagree_are_refused_with_both(tmp_path):
    contents = CLASS_FOLDERS | {"labels.csv": table(classes="old old new new")}
    with pytest.raises(DataError) as caught:
        read(tmp_path, contents)
    assert str(caught.value).endswith(
        ": the folders and a table have different labels; choose --layout classes (2 classes: cat, dog) or "
        "--labels labels.csv (column 'label', 2 classes: new, old)"
    )
    assert read(tmp_path, contents, layout="classes")[0] == ("cat", "dog")
    assert read(tmp_path, contents, labels="labels.csv")[0] == ("new", "old")


def test_tables_that_disagree_are_refused_with_the_option_that_decides(tmp_path):
    contents = pictures("images") | {"a.csv": table(), "b.csv": table(classes="dog cat")}
    with pytest.raises(
        DataError, match=r"a.csv \(column 'label'\) and b.csv .* for 8 images; choose one with --labels"
    ):
        read(tmp_path, contents)
    assert read(tmp_path, contents, labels="b.csv")[:2] == (("cat", "dog"), (8, 0, 0))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("c.csv", "labels is c.csv, but .* has no such file; its tables are x/a.csv, y/a.csv, z.csv"),
        ("a.csv", "labels is a.csv, but .* has several files of that name: x/a.csv, y/a.csv"),
        ("z.csv", "no column of z.csv has the file names of the images"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, labels, message):
    contents = pictures("images") | {"x/a.csv": table(), "y/a.csv": table(), "z.csv": b"a,b\nc,d"}
    with pytest.raises(DataError, match=message):
        read(tmp_path, contents, labels=labels)


XML, TXT = {f"Annotations/{i}.xml": b"<a/>" for i in range(8)}, {f"labels/{i}.txt": b"0 .5 .5 .1 .1" for i in range(8)}


@pytest.mark.parametrize("pack", [None, zipped])
@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (pictures("train2017 val2017") | {"annotations/instances.json": COCO.encode()}, "instances.json holds COCO"),
        (
            pictures("images") | {"annotations.json": COCO.encode()},
            "annotations.json holds COCO annotations, for object",
        ),
        (
            pictures("images") | TXT | {"data.yaml": b""},
            "labels/0.txt and 7 more are YOLO labels, for object detection",
        ),
        (pictures("JPEGImages") | XML, "Annotations/0.xml and 7 more are Pascal VOC annotations"),
        (pictures("JPEGImages SegmentationClass") | XML, "Annotations/0.xml and 7 more are Pascal VOC annotations"),
        (pictures("images masks"), "images and masks, for segmentation"),
        (pictures("images") | {"labels.xlsx": b"PK"}, "labels.xlsx is a spreadsheet: save it as CSV"),
        (
            pictures("images", 30) | {"l.csv": table(count=30, classes=" ".join(f"{i}.5" for i in range(30)))},
            "quantity",
        ),
    ],
)
def test_other_annotations_are_named_as_what_they_are(tmp_path, contents, message, pack):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, contents, pack=pack)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", [{"labels": "labels.csv"}, {"label_column": "label"}])
def test_data_that_is_stored_with_its_labels_takes_no_table(tmp_path, option):
    with pytest.raises(DataError, match="but the images of digits are stored with their labels"):
        prepared("digits", tmp_path, **option)


def test_a_change_of_a_table_outside_of_the_data_prepares_it_again(tmp_path):
    folder = write(tmp_path / "pets", {f"images/{i}.png": encoded(i) for i in range(12)})
    labels = tmp_path / "elsewhere.csv"
    labels.write_bytes(table(count=12))
    assert prepared(folder, tmp_path, labels=str(labels)).classes == ("cat", "dog")
    labels.write_bytes(table(count=12, classes="owl eel"))
    assert prepared(folder, tmp_path, labels=str(labels)).classes == ("eel", "owl")


def test_other_options_prepare_the_data_again(tmp_path):
    contents = {f"images/{i}.png": encoded(i) for i in range(12)}
    lines = [f"{i},{'ab'[i % 2]},{'xyz'[i % 3]}" for i in range(12)]
    folder = write(tmp_path / "pets", contents | {"labels.csv": "\n".join(["id,category,species", *lines]).encode()})
    assert prepared(folder, tmp_path, label_column="category").classes == ("a", "b")
    assert prepared(folder, tmp_path, label_column="species").classes == ("x", "y", "z")
