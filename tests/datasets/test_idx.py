import gzip
import struct

import numpy as np
import pytest

from image_classifier.errors import DataError
from tests.datasets.samples import prepared

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 10, 10), dtype=np.uint8)
LABELS = np.arange(20, dtype=np.uint8) % 2


def images(array=IMAGES):
    return struct.pack(">4I", 0x803, *array.shape) + array.tobytes()


def labels(array=LABELS):
    return struct.pack(">2I", 0x801, len(array)) + array.tobytes()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_grayscale_images_that_are_not_mirrored(tmp_path, suffix):
    folder = tmp_path / "glyphs"
    folder.mkdir()
    pack = gzip.compress if suffix else bytes
    for part, count in (("train", 20), ("t10k", 6)):
        offset = part == "t10k"
        (folder / f"{part}-images-idx3-ubyte{suffix}").write_bytes(pack(images(IMAGES[:count] ^ offset)))
        (folder / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(pack(labels(LABELS[:count])))
    dataset = prepared(folder, tmp_path)
    assert (dataset.classes, dataset.image_size, dataset.grayscale, dataset.mirror) == (("0", "1"), 10, True, False)
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (20, 6)
    rows = [int(name.split()[-1]) for name in dataset.train.names]
    assert (dataset.train.images == IMAGES[rows][..., np.newaxis]).all()
    assert (dataset.train.labels == LABELS[rows]).all()


def test_the_prefix_val_marks_the_validation_part(tmp_path):
    for number, (part, count) in enumerate((("train", 20), ("val", 6), ("t10k", 4))):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(images(IMAGES[:count] ^ number))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(labels(LABELS[:count]))
    dataset = prepared(tmp_path, tmp_path)
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (26, 4)
    names = {dataset.train.names[row] for row in dataset.validation_rows}
    assert names == {f"val-images-idx3-ubyte row {row}" for row in range(6)}


def test_a_label_of_minus_one_in_a_byte_is_no_class(tmp_path):
    for number, (part, values) in enumerate((("train", LABELS), ("t10k", np.full(4, 255, np.uint8)))):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(images(IMAGES[: len(values)] ^ number))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(labels(values))
    dataset = prepared(tmp_path, tmp_path)
    assert (dataset.classes, len(dataset.train.labels) + len(dataset.test.labels)) == (("0", "1"), 20)
    assert dataset.warnings[0].startswith("4 images without a class, with the label 255 (-1 in a byte): t10k-images")
    assert dataset.warnings[1].startswith("the test part has no usable images, so ")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"images": images()}, "labels-idx1-ubyte, the file with the labels, is missing"),
        ({"images": images()[:-1], "labels": labels()}, "2,015 bytes, which is not the size of 20 images of 10 x 10"),
        ({"images": b"\0\0", "labels": labels()}, "first bytes are wrong"),
        ({"images": images(), "labels": labels()[:-1]}, "one label for each of the 20 images"),
        ({"images": images(), "labels": labels(LABELS[:10])}, "one label for each of the 20 images"),
        ({"images": images(IMAGES[:0]), "labels": labels(LABELS[:0])}, "has no images"),
    ],
)
def test_damaged_files_are_refused(tmp_path, contents, message):
    folder = tmp_path / "glyphs"
    folder.mkdir()
    for kind, content in contents.items():
        (folder / f"train-{kind}-{'idx3' if kind == 'images' else 'idx1'}-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message):
        prepared(folder, tmp_path)


def test_a_damaged_gzip_file_is_refused(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images())[:200])
    with pytest.raises(DataError, match="is damaged"):
        prepared(tmp_path, tmp_path)
