"""Cache of prepared data sets on disk. Entries are found by a cheap signature of their source files."""

import errno
import fcntl
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from image_classifier.datasets.dataset import Dataset, DatasetPart
from image_classifier.files import write_atomically

IMAGES, LABELS, NAMES, HASHES = "images.npy", "labels.npy", "names.json", "hashes.npy"
ORIGINALS, METADATA = "originals.npy", "facts.json"
_LOCK, _DRAFT_PREFIX = "lock", ".draft-"
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class DatasetMetadata:
    """Metadata of a prepared data set, stored next to its arrays; the field names are the keys of the JSON file."""

    digest: str
    classes: tuple[str, ...]
    image_size: int
    grey: bool
    mirror: bool
    train: int
    """Number of images of the training part; they come first in the arrays."""
    validation: int
    """Number of images of the validation part, which are the last ones of the training part."""
    warnings: tuple[str, ...]


class Cache:
    """Entries are complete or absent; a damaged one counts as absent and is prepared again."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, signature: str, source: str) -> Dataset | None:
        """Returns the data set that this signature belongs to; None if it is absent or damaged."""
        try:
            key = json.loads(self._pointer(signature).read_text())["entry"]
            return _open(self._entry(key), source)
        except _READ_ERRORS:
            return None

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """Yield an empty folder next to the entries, and remove it at the end."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned_drafts()
        while True:
            draft = Path(tempfile.mkdtemp(dir=self.root, prefix=_DRAFT_PREFIX))
            try:
                with (draft / _LOCK).open("w") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    # Before it was locked, another process may have removed it as abandoned.
                    if (draft / _LOCK).exists():
                        yield draft
                        return
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    def publish(
        self, folder: Path, key: str, metadata: DatasetMetadata, signatures: Sequence[str], source: str
    ) -> Dataset:
        """Turn a folder with the arrays and names into the entry `key`, unless that exists undamaged.

        The entry is found by each of the signatures.
        """
        sizes = {name: (folder / name).stat().st_size for name in (IMAGES, LABELS, NAMES, HASHES, ORIGINALS)}
        write_atomically(folder / METADATA, json.dumps({"sizes": sizes, **asdict(metadata)}).encode())
        entry = self._entry(key)
        try:
            _open(entry, source)
        except _READ_ERRORS:
            self._replace(folder, entry)
        for signature in signatures:
            write_atomically(self._pointer(signature), json.dumps({"entry": key}).encode())
        return _open(entry, source)

    def _replace(self, folder: Path, entry: Path) -> None:
        entry.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.replace(entry)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # A damaged entry, or one that another process just published; ours is complete in both cases.
            entry.replace(folder.parent / "replaced")
            folder.replace(entry)

    def _entry(self, key: str) -> Path:
        return self.root / "data" / key

    def _pointer(self, signature: str) -> Path:
        return self.root / "index" / f"{signature}.json"

    def _remove_abandoned_drafts(self) -> None:
        """Remove the drafts of processes that were killed; nobody holds their lock."""
        for draft in self.root.glob(f"{_DRAFT_PREFIX}*"):
            try:
                with (draft / _LOCK).open() as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(draft, ignore_errors=True)
            except OSError:
                # Locked, already removed, or just being created.
                continue


def _open(entry: Path, source: str) -> Dataset:
    """Raises OSError, ValueError, KeyError or TypeError if the entry is absent or damaged."""
    stored = json.loads((entry / METADATA).read_text())
    for name, size in stored.pop("sizes").items():
        if (entry / name).stat().st_size != size:
            raise ValueError(name)
    metadata = DatasetMetadata(**stored)
    images = np.load(entry / IMAGES, mmap_mode="r")
    labels = np.load(entry / LABELS)
    names = json.loads((entry / NAMES).read_text())
    size = metadata.image_size
    if images.shape != (len(labels), size, size, 3) or len(names) != len(labels):
        raise ValueError(entry)
    labels.setflags(write=False)
    hashes, originals = np.load(entry / HASHES), np.load(entry / ORIGINALS)

    def part(rows: slice) -> DatasetPart:
        return DatasetPart(images[rows], labels[rows], names[rows], hashes[rows], originals[rows])

    train, validation = metadata.train, metadata.validation
    return Dataset(
        source=source,
        digest=metadata.digest,
        classes=tuple(metadata.classes),
        image_size=size,
        grayscale=metadata.grey,
        mirror=metadata.mirror,
        train=part(slice(train)),
        test=part(slice(train, None)),
        warnings=tuple(metadata.warnings),
        validation_rows=np.arange(train - validation, train) if validation else None,
    )
