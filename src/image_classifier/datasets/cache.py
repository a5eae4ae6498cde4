"""Prepared data sets on disk, found again by a cheap signature of their source."""

import errno
import fcntl
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from image_classifier.datasets.dataset import Dataset, DatasetPart
from image_classifier.files import write_atomically

IMAGES, LABELS, NAMES, FACTS = "images.npy", "labels.npy", "names.json", "facts.json"
ORIGINALS = "originals.npy"
_LOCK, _DRAFT = "lock", ".draft-"


@dataclass(frozen=True)
class Facts:
    """What is kept of a prepared data set beside its arrays."""

    digest: str
    classes: tuple[str, ...]
    image_size: int
    grey: bool
    mirror: bool
    train: int
    """How many images the training part has; they come first in the arrays."""
    warnings: tuple[str, ...]


class Cache:
    """Entries are whole or absent; a damaged one counts as absent and is made again."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, signature: str, source: str) -> Dataset | None:
        """The data set that was published with this signature, if it is there and undamaged."""
        try:
            key = json.loads(self._pointer(signature).read_text())["entry"]
            return _open(self._entry(key), source)
        except (OSError, ValueError, KeyError, TypeError):
            # Absent or damaged: both mean that the data is prepared again.
            return None

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """An empty folder beside the entries, removed at the end whatever happens."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()
        while True:
            draft = Path(tempfile.mkdtemp(dir=self.root, prefix=_DRAFT))
            try:
                with (draft / _LOCK).open("w") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    # Just before that another process may have taken it for abandoned.
                    if (draft / _LOCK).exists():
                        yield draft
                        return
            finally:
                shutil.rmtree(draft, ignore_errors=True)

    def publish(self, folder: Path, key: str, facts: Facts, signature: str, source: str) -> Dataset:
        """Make a folder with images, labels, names and originals the entry `key`; one that is there and whole stays."""
        sizes = {name: (folder / name).stat().st_size for name in (IMAGES, LABELS, NAMES, ORIGINALS)}
        write_atomically(folder / FACTS, json.dumps({"sizes": sizes, **asdict(facts)}).encode())
        entry = self._entry(key)
        try:
            _open(entry, source)
        except (OSError, ValueError, KeyError, TypeError):
            self._replace(folder, entry)
        write_atomically(self._pointer(signature), json.dumps({"entry": key}).encode())
        return _open(entry, source)

    def _replace(self, folder: Path, entry: Path) -> None:
        entry.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.replace(entry)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # A damaged entry, or one that another process has just published: either way ours is whole.
            entry.replace(folder.parent / "replaced")
            folder.replace(entry)

    def _entry(self, key: str) -> Path:
        return self.root / "data" / key

    def _pointer(self, signature: str) -> Path:
        return self.root / "index" / f"{signature}.json"

    def _remove_abandoned(self) -> None:
        """Remove the drafts of processes that were killed: nobody holds their lock."""
        for draft in self.root.glob(f"{_DRAFT}*"):
            try:
                with (draft / _LOCK).open() as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(draft, ignore_errors=True)
            except OSError:
                # Held, or gone already, or just being made.
                continue


def _open(entry: Path, source: str) -> Dataset:
    """Raises OSError, ValueError, KeyError or TypeError where the entry is absent or damaged."""
    stored = json.loads((entry / FACTS).read_text())
    for name, size in stored.pop("sizes").items():
        if (entry / name).stat().st_size != size:
            raise ValueError(name)
    facts = Facts(**stored)
    images = np.load(entry / IMAGES, mmap_mode="r")
    labels = np.load(entry / LABELS)
    names = json.loads((entry / NAMES).read_text())
    if images.shape != (len(labels), facts.image_size, facts.image_size, 3) or len(names) != len(labels):
        raise ValueError(entry)
    labels.setflags(write=False)
    # Entries of earlier versions of this program have no such file.
    originals = np.load(entry / ORIGINALS) if (entry / ORIGINALS).exists() else None

    def part(rows: slice) -> DatasetPart:
        return DatasetPart(
            images[rows], labels[rows], names[rows], None if originals is None else originals[rows]
        )

    return Dataset(
        source=source,
        digest=facts.digest,
        classes=tuple(facts.classes),
        image_size=facts.image_size,
        grey=facts.grey,
        mirror=facts.mirror,
        train=part(slice(facts.train)),
        test=part(slice(facts.train, None)),
        warnings=tuple(facts.warnings),
    )
