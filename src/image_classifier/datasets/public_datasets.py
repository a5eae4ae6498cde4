"""Public data sets by name: where their files lie, and the checksums they must have."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from image_classifier.datasets.cifar import CLASSES
from image_classifier.datasets.fetch import fetch
from image_classifier.datasets.image_source import ImageSource
from image_classifier.errors import DataError

_CHUNK = 2**20


@dataclass(frozen=True)
class KnownFile:
    """A file, its checksum as algorithm:hexadecimal, and the addresses it can be had from, best first."""

    name: str
    checksum: str
    mirrors: tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """A data set; `classes` and `mirror` replace what the format tells."""

    files: tuple[KnownFile, ...]
    classes: tuple[str, ...]
    mirror: bool


def _fashion(name: str, md5: str) -> KnownFile:
    return KnownFile(
        name,
        f"md5:{md5}",
        (
            f"https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/{name}",
            f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{name}",
        ),
    )


KNOWN: Mapping[str, Known] = {
    "cifar10": Known(
        (
            KnownFile(
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
    "fashion-mnist": Known(
        (
            _fashion("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            _fashion("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
            _fashion("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
            _fashion("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
        (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        mirror=True,
    ),
}


def fetch_known(name: str, known: Known, folder: Path, timeout: float, max_data: int) -> Path:
    """Fetch what is not there yet, from one mirror after the other; returns the folder with the files.

    Raises DataError, which names the addresses and what each answered, where no mirror gives the right bytes
    within `timeout` seconds.
    """
    home = folder / name
    deadline = monotonic() + timeout
    for file in known.files:
        target = home / file.name
        # Only checked files get this name.
        if not target.exists():
            _fetch_file(name, file, target, folder, deadline, max_data)
    return home


def describe(source: ImageSource, known: Known) -> ImageSource:
    """The source with the names that its classes are known by."""
    return replace(source, classes=known.classes, mirror=known.mirror)


def _fetch_file(
    name: str, file: KnownFile, target: Path, folder: Path, deadline: float, max_data: int
) -> None:
    failures = []
    for number, address in enumerate(file.mirrors):
        # Each mirror gets its share of the time that is left, so that one which hangs leaves some to others.
        share = (deadline - monotonic()) / (len(file.mirrors) - number)
        try:
            fetched = fetch(address, folder, max(share, 0.1), max_data)
        except DataError as error:
            failures.append(str(error))
            continue
        if _matches(fetched, file.checksum):
            target.parent.mkdir(parents=True, exist_ok=True)
            fetched.replace(target)
            return
        fetched.unlink()
        failures.append(f"{address} gives other bytes than {file.checksum}")
    raise DataError(
        f"{name} cannot be fetched: {'; '.join(failures)}. Give the data as a folder, archive or parquet "
        "file instead, or use the embedded digits"
    )


def _matches(path: Path, checksum: str) -> bool:
    algorithm, _, expected = checksum.partition(":")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == expected
