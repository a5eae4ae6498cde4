"""Public data sets that can be used by name: mirrors and checksums of their files."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from image_classifier.datasets.cifar import CLASSES
from image_classifier.datasets.image_source import ImageSource
from image_classifier.datasets.remote_files import fetch
from image_classifier.errors import DataError

_MIN_MIRROR_SECONDS = 0.1


@dataclass(frozen=True)
class PublicFile:
    """A file, its checksum as algorithm:hexadecimal, and the URLs of its mirrors in order of preference."""

    name: str
    checksum: str
    mirrors: tuple[str, ...]


@dataclass(frozen=True)
class PublicDataset:
    """A public data set. `classes` and `mirror` replace those that the format's reader found."""

    files: tuple[PublicFile, ...]
    classes: tuple[str, ...]
    mirror: bool


def _fashion_mnist_file(name: str, md5: str) -> PublicFile:
    mirrors = (
        f"https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/{name}",
        f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{name}",
    )
    return PublicFile(name, f"md5:{md5}", mirrors)


PUBLIC_DATASETS: Mapping[str, PublicDataset] = {
    "cifar10": PublicDataset(
        (
            PublicFile(
                "cifar-10-binary.tar.gz",
                "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                (
                    "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/cifar-10-binary.tar.gz",
                    "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/"
                    "cifar-10-binary.tar.gz",
                    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                ),
            ),
        ),
        CLASSES,
        mirror=True,
    ),
    "fashion-mnist": PublicDataset(
        (
            _fashion_mnist_file("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            _fashion_mnist_file("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
            _fashion_mnist_file("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
            _fashion_mnist_file("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
        (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        mirror=True,
    ),
}


def fetch_public_dataset(name: str, dataset: PublicDataset, folder: Path, timeout: float, max_data: int) -> Path:
    """Download the missing files of a public data set into `folder`/`name`, and return that folder.

    Raises DataError, with the error of each mirror, if none delivers the right bytes within `timeout` seconds.
    """
    home = folder / name
    deadline = monotonic() + timeout
    for file in dataset.files:
        target = home / file.name
        # Only verified files get this name.
        if not target.exists():
            _fetch_verified(name, file, target, folder, deadline, max_data)
    return home


def apply_metadata(source: ImageSource, dataset: PublicDataset) -> ImageSource:
    """Returns the source with the class names of the public data set."""
    return replace(source, classes=dataset.classes, mirror=dataset.mirror)


def _fetch_verified(name: str, file: PublicFile, target: Path, folder: Path, deadline: float, max_data: int) -> None:
    errors = []
    for number, url in enumerate(file.mirrors):
        # An equal share of the remaining time, so that a mirror that hangs leaves time for the others.
        share = (deadline - monotonic()) / (len(file.mirrors) - number)
        try:
            download = fetch(url, folder, max(share, _MIN_MIRROR_SECONDS), max_data)
        except DataError as error:
            errors.append(str(error))
            continue
        if _matches(download, file.checksum):
            target.parent.mkdir(parents=True, exist_ok=True)
            download.replace(target)
            return
        download.unlink()
        errors.append(f"the checksum of {url} is not {file.checksum}")
    raise DataError(
        f"{name} cannot be fetched: {'; '.join(errors)}. Use a folder, archive or parquet file with the data instead, "
        "or the embedded digits"
    )


def _matches(path: Path, checksum: str) -> bool:
    algorithm, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return digest.hexdigest() == expected
