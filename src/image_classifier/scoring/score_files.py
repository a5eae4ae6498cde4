"""The folder that scores are written to: a parquet file a part, and beside them what run they are of.

Readers of parquet folders pass over the files whose names begin with an underscore.

    part-000000.parquet  …   written whole or not at all, so that a part which is there is done
    _run.json                the model, the source and the settings that all parts are of
    _summary.json            what came of it; written when the last part is there
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
from image_classifier.files import why_unwritten, write_atomically

REMOTE = ("s3", "gs", "gcs")
_RUN, _SUMMARY = "_run.json", "_summary.json"
_PART = re.compile(r"part-(\d{6,})\.parquet")
_IN_WORDS = {
    "model": "the model",
    "model_digest": "the model's digest",
    "format": "the format of the results",
}
"""What differs between two runs, where it is no setting."""


@dataclass(frozen=True)
class ScoreFiles:
    """A folder, or the address of one; small and picklable. Its functions raise DataError where it cannot be used."""

    address: str

    @classmethod
    def at(cls, address: str) -> "ScoreFiles":
        """Raises DataError for what can be no such folder."""
        if not address:
            raise DataError(
                "it is not said where the scores go; give --to, a folder or an s3:// or gs:// address"
            )
        if urlsplit(address).scheme in REMOTE:
            return cls(address.rstrip("/"))
        if "://" in address:
            raise DataError(
                f"scores cannot be written to {address}; give a folder or an s3:// or gs:// address"
            )
        return cls(str(Path(address).expanduser().absolute()))

    def lies_in(self, folder: Path) -> bool:
        return not self._is_remote and folder.is_dir() and Path(self.address).is_relative_to(folder)

    def check(self, run: Mapping[str, object]) -> None:
        """Raises DataError where something else than parts of this run lies in the folder."""
        with self._usable():
            names = self._names()
            begun = json.loads(self._read(_RUN)) if _RUN in names else None
        if begun is None:
            if names:
                raise DataError(
                    f"{self.address} has other files in it, such as {min(names)}; set --to to a folder of its own"
                )
            return
        for name, value in run.items():
            # The same images may have come to lie elsewhere.
            if name != "source" and begun.get(name) != value:
                raise DataError(
                    f"{self.address} holds scores of another run: {_difference(name, begun, run)}; go on with what "
                    "it was begun with, or set --to to another folder"
                )

    def begin(self, run: Mapping[str, object]) -> set[int]:
        """Say what run the parts are of; gives the numbers of those that are there already."""
        with self._usable():
            if not self._is_remote:
                for draft in Path(self.address).glob(".part-*"):
                    # Of a process that was killed.
                    draft.unlink(missing_ok=True)
            self._write(_RUN, json.dumps(run, indent=1).encode())
            return {int(match[1]) for match in map(_PART.fullmatch, self._names()) if match}

    def write(self, number: int, content: bytes) -> None:
        """Write a part, whole or not at all."""
        with self._usable():
            self._write(_part(number), content)

    def finish(self, summary: Mapping[str, object]) -> None:
        with self._usable():
            self._write(_SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False).encode())

    def columns(self, names: Sequence[str], parts: int) -> Iterator[Any]:
        """Some columns of all parts, as record batches in order."""
        from pyarrow import dataset

        with self._usable():
            system, folder = file_system(self.address) if self._is_remote else (None, self.address)
            files = [f"{folder}/{_part(number)}" for number in range(parts)]
            yield from dataset.dataset(files, filesystem=system, format="parquet").to_batches(
                columns=list(names)
            )

    @property
    def _is_remote(self) -> bool:
        return urlsplit(self.address).scheme in REMOTE

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Turn what a file system or its library raises into a DataError."""
        try:
            yield
        except ImageClassifierError:
            raise
        except Exception as error:  # clients of object stores share no base for theirs
            if self._is_remote or not isinstance(error, OSError):
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise DataError(f"the scores cannot be kept in {self.address}: {reason}") from error
            raise DataError(why_unwritten(error, "the scores", self.address, "set --to")) from error

    def _names(self) -> set[str]:
        """Those that are not hidden."""
        if self._is_remote:
            system, folder = file_system(self.address)
            try:
                names = {str(path).rstrip("/").rpartition("/")[2] for path in system.ls(folder, detail=False)}
            except FileNotFoundError:
                return set()
        else:
            place = Path(self.address)
            names = {path.name for path in place.iterdir()} if place.exists() else set()
        return {name for name in names if not name.startswith(".")}

    def _read(self, name: str) -> bytes:
        if self._is_remote:
            system, folder = file_system(self.address)
            return bytes(system.cat_file(f"{folder}/{name}"))
        return (Path(self.address) / name).read_bytes()

    def _write(self, name: str, content: bytes) -> None:
        if self._is_remote:
            # An object appears when all of it has come.
            system, folder = file_system(self.address)
            system.pipe_file(f"{folder}/{name}", content)
        else:
            write_atomically(Path(self.address) / name, content)


def _part(number: int) -> str:
    return f"part-{number:06d}.parquet"


def _difference(name: str, begun: Mapping[str, object], run: Mapping[str, object]) -> str:
    if name == "source_signature":
        if begun.get("source") == run["source"]:
            return f"the files of {run['source']} have changed since"
        name = "source"
    return f"{_IN_WORDS.get(name, name)} was {begun.get(name)} and is {run[name]}"
