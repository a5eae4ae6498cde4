"""The folder of the scores: a parquet file for each partition, and JSON files about the run.

Readers of parquet folders ignore files whose names begin with an underscore.

    part-000000.parquet  …   written atomically: a partition whose file exists is done
    _run.json                the model, the source and the settings, which are the same for all partitions
    _summary.json            the summary, written after the last partition
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from image_classifier.datasets import file_system
from image_classifier.errors import DataError, ImageClassifierError
from image_classifier.files import expand_home, why_unwritten, write_atomically
from image_classifier.text import one_line

_REMOTE_SCHEMES = ("s3", "gs", "gcs")
_RUN, _SUMMARY = "_run.json", "_summary.json"
_PART = re.compile(r"part-(\d{6,})\.parquet")
_DESCRIPTIONS = {"model": "the model", "model_digest": "the model's digest", "format": "the format of the scores"}
"""How messages name the entries of _run.json that are not settings."""


@dataclass(frozen=True)
class ScoreFiles:
    """The folder, local or remote; small and picklable. Its methods raise DataError if they cannot access it."""

    address: str

    @classmethod
    def at(cls, address: str) -> "ScoreFiles":
        """Raises DataError for an address that cannot be used."""
        if not address:
            raise DataError("missing --to: a folder, or an s3:// or gs:// address")
        if urlsplit(address).scheme in _REMOTE_SCHEMES:
            return cls(address.rstrip("/"))
        if "://" in address:
            raise DataError(f"cannot write scores to {address}; set --to to a folder, or an s3:// or gs:// address")
        return cls(str(expand_home(address).absolute()))

    def is_inside(self, folder: Path) -> bool:
        return not self._is_remote and folder.is_dir() and Path(self.address).is_relative_to(folder)

    def check(self, run: Mapping[str, object]) -> None:
        """Raises DataError if the folder contains anything but scores of this run."""
        with self._data_errors():
            names = self._names()
            stored = json.loads(self._read(_RUN)) if _RUN in names else None
        if stored is None:
            if names:
                raise DataError(
                    f"{self.address} contains other files, such as {min(names)}; set --to to an empty folder"
                )
            return
        for name, value in run.items():
            # The source may have moved, if its signature is the same.
            if name != "source" and stored.get(name) != value:
                raise DataError(
                    f"{self.address} contains the scores of another run: {_difference(name, stored, run)}; resume with "
                    "the same model, source and settings, or set --to to another folder"
                )

    def start(self, run: Mapping[str, object]) -> set[int]:
        """Write the description of the run; returns the numbers of the partitions that are done."""
        with self._data_errors():
            if not self._is_remote:
                # Drafts of processes that were killed.
                for draft in Path(self.address).glob(".part-*"):
                    draft.unlink(missing_ok=True)
            self._write(_RUN, json.dumps(run, indent=1).encode())
            return {int(match[1]) for match in map(_PART.fullmatch, self._names()) if match}

    def write(self, number: int, content: bytes) -> None:
        """Write the file of a partition atomically."""
        with self._data_errors():
            self._write(_file_name(number), content)

    def finish(self, summary: Mapping[str, object]) -> None:
        with self._data_errors():
            self._write(_SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False).encode())

    def read_columns(self, names: Sequence[str], partitions: int) -> Iterator[Any]:
        """Columns of all partitions, as record batches in order."""
        from pyarrow import dataset

        with self._data_errors():
            system, folder = file_system(self.address) if self._is_remote else (None, self.address)
            files = [f"{folder}/{_file_name(number)}" for number in range(partitions)]
            yield from dataset.dataset(files, filesystem=system, format="parquet").to_batches(columns=list(names))

    @property
    def _is_remote(self) -> bool:
        return urlsplit(self.address).scheme in _REMOTE_SCHEMES

    @contextmanager
    def _data_errors(self) -> Iterator[None]:
        """Convert the exceptions of file systems and their libraries to DataError."""
        try:
            yield
        except ImageClassifierError:
            raise
        except Exception as error:  # the clients of object stores have no common base class of exceptions
            if self._is_remote or not isinstance(error, OSError):
                reason = one_line(error)
                raise DataError(f"cannot access the scores in {self.address}: {reason}") from error
            raise DataError(why_unwritten(error, "the scores", self.address, "set --to")) from error

    def _names(self) -> set[str]:
        """Names of the files and folders that are not hidden."""
        if self._is_remote:
            system, folder = file_system(self.address)
            try:
                names = {str(path).rstrip("/").rpartition("/")[2] for path in system.ls(folder, detail=False)}
            except FileNotFoundError:
                return set()
        else:
            local = Path(self.address)
            names = {path.name for path in local.iterdir()} if local.exists() else set()
        return {name for name in names if not name.startswith(".")}

    def _read(self, name: str) -> bytes:
        if self._is_remote:
            system, folder = file_system(self.address)
            return bytes(system.cat_file(f"{folder}/{name}"))
        return (Path(self.address) / name).read_bytes()

    def _write(self, name: str, content: bytes) -> None:
        if self._is_remote:
            # An object store shows an object only when it is complete.
            system, folder = file_system(self.address)
            system.pipe_file(f"{folder}/{name}", content)
        else:
            write_atomically(Path(self.address) / name, content)


def _file_name(number: int) -> str:
    return f"part-{number:06d}.parquet"


def _difference(name: str, stored: Mapping[str, object], run: Mapping[str, object]) -> str:
    if name == "source_signature":
        if stored.get("source") == run["source"]:
            return f"the files of {run['source']} have changed since then"
        name = "source"
    return f"{_DESCRIPTIONS.get(name, name)} was {stored.get(name)} and is now {run[name]}"
