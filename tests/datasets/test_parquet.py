import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_classifier.errors import DataError
from tests.datasets.samples import cached_files, encoded, prepared

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
    ],
)  # fmt: skip
def test_columns_of_each_type_are_read(tmp_path, options, classes):
    pq.write_table(table(**options), tmp_path / "pets.parquet")
    dataset = prepared(tmp_path / "pets.parquet", tmp_path)
    assert dataset.classes == classes
    assert len(dataset.train.labels) + len(dataset.test.labels) == 12


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"labels": [0, 1] * 5 + [None]}, "skipped 1 image without a label: pets.parquet row 10"),
        ({"labels": [0, 1] * 5 + [-1, 2]}, "skipped 2 images with a label outside of 0 to 1: pets"),
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
        (lambda path: pq.write_table(table([0, 1], column="x"), path), "no column 'image' or 'img'"),
        (lambda path: pq.write_table(table([0, 1], label="y"), path), "no column 'label' or 'labels'"),
        (lambda path: pq.write_table(table([[0], [1]], names=None), path), "must hold one class per row"),
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
