import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_classifier.datasets.parquet import read_parquet
from image_classifier.errors import DataError
from tests.datasets.samples import cached_files, encoded, files, prepared, write

NAMES = ["cat", "dog"]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(labels, seed=0, names=NAMES, column="image", label="label", kind=STRUCT, label_type=None, images=None):
    images = images or [encoded(seed + row) for row in range(len(labels))]
    if kind == STRUCT:
        images = [{"bytes": image, "path": None} for image in images]
    plain = pa.table({column: pa.array(images, kind), label: pa.array(labels, label_type)})
    features = {label: {"names": names, "_type": "ClassLabel"}}
    return plain.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})} if names else {})


def test_file_names_mark_the_parts(tmp_path):
    folder = tmp_path / "pets" / "data"
    folder.mkdir(parents=True)
    pq.write_table(table([0, 1] * 8), folder / "train-00000-of-00002.parquet", row_group_size=5)
    pq.write_table(table([1, 0] * 4, 100), folder / "train-00001-of-00002.parquet")
    pq.write_table(table([0, 1] * 2, 200), folder / "test-00000-of-00001.parquet")
    pq.write_table(table([0, 1], 300), folder / "validation-00000-of-00001.parquet")
    dataset = prepared(tmp_path / "pets", tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (26, 4)
    assert dataset.warnings == ()
    validation = [dataset.train.names[row] for row in dataset.validation_rows]
    assert sorted(validation) == [f"validation-00000-of-00001.parquet row {row}" for row in range(2)]
    assert set(dataset.test.names) == {f"test-00000-of-00001.parquet row {row}" for row in range(4)}


def test_other_names_of_parts_mark_them_too(tmp_path):
    folder = tmp_path / "pets"
    folder.mkdir()
    pq.write_table(table([0, 1] * 6), folder / "photos_train.parquet")
    pq.write_table(table([0, 1] * 3, 100), folder / "eval-00000-of-00001.parquet")
    dataset = prepared(folder, tmp_path)
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (12, 6)


@pytest.mark.parametrize("columns", [["image", "label"], ["image"]])
def test_a_file_of_unlabeled_images_adds_no_class(tmp_path, columns):
    folder = tmp_path / "pets"
    folder.mkdir()
    pq.write_table(table([0, 1] * 8, names=None), folder / "train-00000-of-00001.parquet")
    pq.write_table(table([-1] * 3, 100, names=None).select(columns), folder / "unsupervised-00000-of-00001.parquet")
    dataset = prepared(folder, tmp_path)
    assert dataset.classes == ("0", "1")
    assert len(dataset.train.labels) + len(dataset.test.labels) == 16
    assert dataset.warnings[0].startswith("skipped 3 images without a label: unsupervised-00000-of-00001.parquet row 0")


@pytest.mark.parametrize(
    ("options", "classes"),
    [
        ({"labels": [0, 1] * 6}, ("cat", "dog")),
        ({"labels": [0, 1] * 6, "names": None}, ("0", "1")),
        ({"labels": [3, 7] * 6, "names": None}, ("3", "7")),
        ({"labels": ["owl", "eel"] * 6, "names": None}, ("eel", "owl")),
        ({"labels": ["owl", "eel"] * 6, "names": None, "label_type": pa.dictionary(pa.int8(), pa.string())},
         ("eel", "owl")),
        ({"labels": [0, 1] * 6, "column": "img", "label": "labels"}, ("cat", "dog")),
        ({"labels": [0, 1] * 6, "kind": pa.binary()}, ("cat", "dog")),
        ({"labels": [0, 1] * 6, "kind": pa.large_binary()}, ("cat", "dog")),
        ({"labels": [0, 1] * 6, "kind": pa.binary_view()}, ("cat", "dog")),
        ({"labels": [0, 1] * 6, "column": "pixels", "label": "digit"}, ("cat", "dog")),
        ({"labels": ["owl", "eel"] * 6, "names": None, "label": "Category"}, ("eel", "owl")),
        ({"labels": [True, False] * 6, "names": None}, ("False", "True")),
        ({"labels": [0.0, 1.0] * 6}, ("cat", "dog")),
        ({"labels": [0.0, 7.0] * 6, "names": None, "label_type": pa.float16()}, ("0", "7")),
        ({"labels": [0, 7] * 6, "names": None, "label_type": pa.decimal128(5, 0)}, ("0", "7")),
        ({"labels": [0, 2**63] * 6, "names": None, "label_type": pa.uint64()}, ("0", str(2**63))),
        ({"labels": [-1, 1] * 6, "names": None}, ("-1", "1")),
        ({"labels": ["owl", "eel"] * 6, "names": None, "label_type": pa.large_string()}, ("eel", "owl")),
        ({"labels": ["owl", "eel"] * 6, "names": None, "label_type": pa.string_view()}, ("eel", "owl")),
        ({"labels": [b"owl", b"eel"] * 6, "names": None}, ("eel", "owl")),
        ({"labels": [b"owl", b"eel"] * 6, "names": None, "column": "jpg", "kind": pa.binary()}, ("eel", "owl")),
        ({"labels": [[0], [1]] * 6}, ("cat", "dog")),
        ({"labels": [["owl"], ["eel"]] * 6, "names": None, "label_type": pa.large_list(pa.string())}, ("eel", "owl")),
        ({"labels": [[0], [1]] * 6, "label_type": pa.list_(pa.int8(), 1)}, ("cat", "dog")),
        ({"labels": [0, 1] * 6, "names": None, "label_type": pa.dictionary(pa.int8(), pa.int64())}, ("0", "1")),
    ],
)  # fmt: skip
def test_columns_of_each_type_are_read(tmp_path, options, classes):
    pq.write_table(table(**options), tmp_path / "pets.parquet")
    dataset = prepared(tmp_path / "pets.parquet", tmp_path)
    assert dataset.classes == classes
    assert len(dataset.train.labels) + len(dataset.test.labels) == 12


def with_features(plain, features):
    return plain.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


CLASS_LABEL = {"names": NAMES, "_type": "ClassLabel"}


@pytest.mark.parametrize(
    "feature",
    [
        {"feature": CLASS_LABEL, "length": 1, "_type": "Sequence"},
        {"feature": CLASS_LABEL, "_type": "List"},
        [CLASS_LABEL],
    ],
)
def test_class_names_of_a_list_of_one_label_are_used(tmp_path, feature):
    pq.write_table(with_features(table([[0], [1]] * 6), {"label": feature}), tmp_path / "pets.parquet")
    assert prepared(tmp_path / "pets.parquet", tmp_path).classes == ("cat", "dog")


def test_files_of_several_types_of_the_same_labels_are_one_data_set(tmp_path):
    (tmp_path / "pets").mkdir()
    for place, kind in enumerate((pa.int8(), pa.int64(), pa.float64())):
        pq.write_table(
            table([0, 1] * 6, 100 * place, label_type=kind), tmp_path / f"pets/train-0000{place}-of-00003.parquet"
        )
    dataset = prepared(tmp_path / "pets", tmp_path)
    assert (dataset.classes, dataset.warnings) == (("cat", "dog"), ())


def test_columns_without_nesting_and_rows_without_an_image_are_read(tmp_path):
    images = [{"bytes": encoded(row), "path": f"{row}.png"} for row in range(12)] + [None]
    nested = pa.table({"image": pa.array(images, STRUCT), "label": pa.array(["a", "b"] * 6 + ["a"])})
    pq.write_table(nested, tmp_path / "nested.parquet")
    pq.write_table(nested.slice(0, 12).flatten(), tmp_path / "flat.parquet")
    dataset, flat = (prepared(tmp_path / f"{name}.parquet", tmp_path) for name in ("nested", "flat"))
    assert dataset.digest == flat.digest
    assert dataset.warnings == ("skipped 1 image that cannot be read: nested.parquet row 12 (the row has no bytes)",)


def test_each_row_group_may_have_its_own_dictionary_of_labels(tmp_path):
    kind = pa.dictionary(pa.int32(), pa.string())
    with pq.ParquetWriter(tmp_path / "pets.parquet", table(["a"], names=None, label_type=kind).schema) as writer:
        for place, names in enumerate(("ab", "cb", "ca")):
            writer.write_table(table(list(names) * 4, 100 * place, names=None, label_type=kind))
    dataset = prepared(tmp_path / "pets.parquet", tmp_path)
    assert dataset.classes == ("a", "b", "c")
    assert sorted([*dataset.train.labels, *dataset.test.labels]) == [0] * 8 + [1] * 8 + [2] * 8


def test_missing_files_of_a_data_set_are_counted(tmp_path):
    (tmp_path / "pets").mkdir()
    for place in (0, 2):
        pq.write_table(table([0, 1] * 6, 100 * place), tmp_path / f"pets/train-0000{place}-of-00005.parquet")
    assert prepared(tmp_path / "pets", tmp_path).warnings == ("only 2 of 5 files train-*-of-00005.parquet are there",)


@pytest.mark.parametrize("names", [NAMES, None])
def test_a_test_part_without_labels_is_replaced(tmp_path, names):
    (tmp_path / "pets").mkdir()
    pq.write_table(table([0, 1] * 6, names=names), tmp_path / "pets/train.parquet")
    pq.write_table(table([-1] * 4, 100, names=names), tmp_path / "pets/test.parquet")
    dataset = prepared(tmp_path / "pets", tmp_path)
    assert len(dataset.classes) == 2
    assert len(dataset.test.labels) > 0
    assert dataset.warnings[0].startswith("skipped 4 images with a label ")
    assert dataset.warnings[1].startswith("the test part has no usable images, so ")


@pytest.mark.parametrize(
    ("make", "classes", "warning"),
    [
        (lambda path: pq.write_table(pa.table({"x": [0.5]}), path), ("a", "b"), "skipped 1 non-image file: x.parquet"),
        (lambda path: path.write_bytes(b"damaged"), ("a", "b"), "skipped 1 non-image file: x.parquet"),
        (lambda path: pq.write_table(table([0, 1] * 9), path), ("a", "b"), "skipped 1 non-image file: x.parquet"),
        (lambda path: pq.write_table(table([0, 1] * 11), path), ("cat", "dog"),
         "skipped 20 image files next to the parquet files: a/000.png, a/001.png"),
    ],
    ids=["no image column", "damaged", "fewer images", "more images"],
)  # fmt: skip
def test_of_parquet_and_image_files_in_a_folder_those_with_more_images_are_the_data(tmp_path, make, classes, warning):
    folder = write(tmp_path / "pets", files("a b"))
    make(folder / "x.parquet")
    dataset = prepared(folder, tmp_path)
    assert dataset.classes == classes
    assert dataset.warnings[0].startswith(warning)


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"labels": [0, 1] * 5 + [None]}, "skipped 1 image without a label: pets.parquet row 10"),
        ({"labels": [0, 1] * 5 + [-1, 2]}, "skipped 2 images with a label outside of 0 to 1: pets"),
        ({"labels": [0, 1] * 5 + [-1, -2], "names": None}, "skipped 2 images with a label below 0: pets"),
        ({"labels": ["a", "b"] * 5 + ["", " "], "names": None}, "skipped 2 images without a label: pets"),
        ({"labels": [0.0, 1.0] * 5 + [float("nan")]}, "skipped 1 image without a label: pets.parquet row 10"),
        ({"labels": [[0], [1]] * 5 + [[], None]}, "skipped 2 images without a label: pets"),
        ({"labels": [0, 1] * 5, "names": ["cat", "dog", "eel"]}, "skipped 1 class without images: eel"),
        ({"labels": [0, 1] * 5, "images": [None, *(encoded(n) for n in range(9))]},
         "skipped 1 image that cannot be read: pets.parquet row 0 (the row has no bytes)"),
    ],
)  # fmt: skip
def test_a_warning_counts_the_rows_that_cannot_be_used(tmp_path, options, warning):
    pq.write_table(table(**options), tmp_path / "pets.parquet")
    warnings = prepared(tmp_path / "pets.parquet", tmp_path).warnings
    assert any(text.startswith(warning) for text in warnings), warnings


def truncated(path, length):
    pq.write_table(table([0, 1] * 6), path)
    path.write_bytes(path.read_bytes()[:length])


def two_labels():
    plain = table([0, 1], label="fine_label").append_column("coarse_label", [[0, 1]])
    return with_features(plain, {"fine_label": CLASS_LABEL, "coarse_label": CLASS_LABEL})


def overwritten(path):
    pq.write_table(table([0, 1] * 6), path, compression="none")
    content = bytearray(path.read_bytes())
    content[4:1500] = b"\xff" * 1496
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: truncated(path, 3000), "damaged or not a parquet file"),
        (lambda path: truncated(path, 4), "damaged or not a parquet file"),
        (overwritten, "damaged or not a parquet file"),
        (lambda path: pq.write_table(pa.table({"url": ["x"], "label": [0]}), path),
         "no column of encoded images, only url, label; name the column of encoded images 'image'"),
        (lambda path: pq.write_table(table([0, 1], column="left").append_column("right", [[b"a", b"b"]]), path),
         r"several columns of images \(left, right\); name the column"),
        (lambda path: pq.write_table(table([0, 1], label="weight", names=None), path),
         "no column 'label', only image, weight; set label_column"),
        (lambda path: pq.write_table(two_labels(), path),
         "several columns may hold the labels: fine_label, coarse_label; set label_column"),
        (lambda path: pq.write_table(table([[0], [0, 1]], names=None), path),
         "the column 'label' has several labels in 1 row, but must hold one class per row"),
        (lambda path: pq.write_table(table([0.5, 1.0], names=None), path), "holds numbers such as 0.5, but must"),
        (lambda path: pq.write_table(table([b"\xff", b"a"], names=None), path), "holds bytes that are not text, but"),
        (lambda path: pq.write_table(table([{"x": 1}, {"x": 2}], names=None), path), "has the type struct<x: int64>"),
        (lambda path: pq.write_table(pa.table({"image": [1], "label": [0]}), path), "must hold encoded images"),
        (lambda path: pq.write_table(table([None] * 4, label_type=pa.int64()), path), "no image has a usable label"),
        (lambda path: pq.write_table(table([], label_type=pa.int64()), path), "has no images"),
    ],
)  # fmt: skip
def test_damaged_and_other_files_are_refused(tmp_path, make, message):
    path = tmp_path / "pets.parquet"
    make(path)
    with pytest.raises(DataError, match=message) as caught:
        prepared(path, tmp_path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert cached_files(tmp_path) == []


def test_the_column_of_labels_can_be_chosen(tmp_path):
    plain = table([0, 1] * 6).append_column("season", [["dry", "wet"] * 6])
    pq.write_table(plain, tmp_path / "pets.parquet")
    source = read_parquet([tmp_path / "pets.parquet"], label_column="season")
    assert source.classes == ("dry", "wet")
    with pytest.raises(DataError, match="has no column 'month', only image, label, season; set label_column"):
        read_parquet([tmp_path / "pets.parquet"], label_column="month")
