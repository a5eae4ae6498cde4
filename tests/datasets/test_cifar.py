import io
import tarfile

import numpy as np
import pytest

from image_classifier.errors import DataError
from tests.datasets.samples import prepared, write


def records(count):
    rows = np.random.default_rng(0).integers(0, 256, (count, 3073), dtype=np.uint8)
    rows[:, 0] = np.arange(count) % 10
    return rows


def test_the_binary_archive_is_read(tmp_path):
    rows = records(60)
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, part in (("data_batch_1.bin", rows[:40]), ("test_batch.bin", rows[40:])):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = part.nbytes
            archive.addfile(info, io.BytesIO(part.tobytes()))
    dataset = prepared(tmp_path / "cifar-10-binary.tar.gz", tmp_path)
    assert dataset.classes[:2] == ("airplane", "automobile")
    assert (dataset.train.images.shape, dataset.test.images.shape) == ((40, 32, 32, 3), (20, 32, 32, 3))
    first = int(dataset.train.names[0].split()[-1])
    assert np.array_equal(dataset.train.images[0], rows[first, 1:].reshape(3, 32, 32).transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (records(20).tobytes()[:-1], "61,459 bytes are not a multiple of 3,073"),
        (records(20).tobytes()[:-3073] + b"\x0a" * 3073, "it has the label 10"),
    ],
    ids=["truncated", "invalid label"],
)
def test_a_damaged_file_is_refused(tmp_path, content, message):
    folder = write(tmp_path / "cifar", {"data_batch_1.bin": content})
    with pytest.raises(DataError, match=message):
        prepared(folder, tmp_path)
