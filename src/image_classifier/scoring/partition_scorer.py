"""Score one part: all that a worker process runs, and it imports no more than that needs."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from image_classifier.datasets import NO_CLASS, Item, Shard, decode_item
from image_classifier.errors import DataError, ImageError
from image_classifier.package import Model, Package, Probabilities
from image_classifier.process import keep_large_blocks
from image_classifier.scoring.partition import MOST_IMAGES, Partition
from image_classifier.scoring.score_files import ScoreFiles

_BATCH = 256
METADATA = b"image_classifier"


@dataclass(frozen=True)
class Work:
    """What every process is told; small and picklable."""

    package: Path
    model: dict[str, str]
    """What is written of the model: its name, version and digest, and what it was made from."""
    given_classes: tuple[str, ...]
    """The classes that the labels of the source are indices into."""
    max_pixels: int
    top: int
    """Likeliest classes that are kept of an image; 0: the probabilities of all."""
    results: ScoreFiles


@dataclass
class _Rows:
    """Rows of a table that is in the making."""

    probabilities: list[Probabilities] = field(default_factory=list)
    """float32 [n, K] each, of the images that could be read."""
    errors: list[str | None] = field(default_factory=list)
    """One a row."""


class PartitionScorer:
    """A loaded model and what it writes; one a process."""

    def __init__(self, work: Work, threads: int = 1) -> None:
        """Raises PackageError where the package is damaged or its model answers otherwise than recorded."""
        # Each batch needs the memory of the one before.
        keep_large_blocks()
        self._work = work
        self._model = Model.load(Package.read(work.package), threads)
        self._schema = _schema(work, self._model)

    def score(self, part: Partition) -> int:
        """Write the scores of a part; gives the number of its images. Raises OSError where they cannot be written."""
        buffer = pa.BufferOutputStream()
        texts = [*(item.name for item in self._schema if pa.types.is_string(item.type)), _TOP_LABEL]
        with pq.ParquetWriter(buffer, self._schema, compression="zstd", use_dictionary=texts) as writer:
            items = (item for shard in part.shards for item in _every_item(shard))
            for start in range(0, part.count, MOST_IMAGES):
                rows = slice(start, min(start + MOST_IMAGES, part.count))
                scored = self._score(islice(items, rows.stop - rows.start))
                writer.write_batch(self._batch(part, rows, scored))
        self._work.results.write(part.number, buffer.getvalue().to_pybytes())
        return part.count

    def _score(self, items: Iterator[Item]) -> _Rows:
        size = self._model.package.image_size
        rows = _Rows()
        images = np.empty((_BATCH, size, size, 3), np.uint8)
        while batch := list(islice(items, _BATCH)):
            good = 0
            for item in batch:
                try:
                    images[good] = decode_item(item, size, self._work.max_pixels)[0]
                except ImageError as error:
                    rows.errors.append(str(error))
                else:
                    rows.errors.append(None)
                    good += 1
            if good:
                rows.probabilities.append(self._model.probabilities(images[:good]))
        return rows

    def _batch(self, part: Partition, rows: slice, scored: _Rows) -> pa.RecordBatch:
        count = rows.stop - rows.start
        classes = self._model.classes
        failed = np.array([error is not None for error in scored.errors])
        probabilities = np.concatenate([np.empty((0, len(classes)), np.float32), *scored.probabilities])
        # Each row's place among those that were scored; of a failed one anything, for it is null.
        place = np.cumsum(~failed) - 1
        best = probabilities.argmax(axis=1)
        columns = {
            "source": pa.array([_text(name) for name in part.names[rows]], pa.string()),
            "row": pa.array(np.arange(part.first + rows.start, part.first + rows.stop)),
            "given_label": _names(self._work.given_classes, part.given[rows], part.given[rows] == NO_CLASS),
            "label": _names(classes, _spread(best, place), failed),
            "probability": pa.array(_spread(probabilities.max(axis=1, initial=0), place), mask=failed),
            **self._answers(probabilities, failed),
            "error": pa.array(scored.errors, pa.string()),
            "model_version": pa.repeat(self._work.model["version"], count),
            "model_digest": pa.repeat(self._work.model["digest"], count),
        }
        return pa.record_batch(columns, schema=self._schema)

    def _answers(self, probabilities: Probabilities, failed: NDArray[np.bool_]) -> dict[str, Any]:
        """The column of all probabilities, or that of the likeliest classes."""
        classes = self._model.classes
        if not self._work.top:
            values = pa.array(probabilities.ravel())
            return {"probabilities": _lists(values, probabilities.shape[1], failed)}
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : self._work.top]
        pairs = pa.StructArray.from_arrays(
            [
                pa.array(classes, pa.string()).take(pa.array(order.ravel())),
                pa.array(np.take_along_axis(probabilities, order, axis=1).ravel()),
            ],
            fields=list(_PAIR),
        )
        return {"top": _lists(pairs, order.shape[1], failed)}


_TOP_LABEL = "top.list.element.label"
_PAIR = pa.struct([("label", pa.string()), ("probability", pa.float32())])


def _schema(work: Work, model: Model) -> pa.Schema:
    """Columns, and as metadata what the model is and the classes that its probabilities are of."""
    about = {"model": work.model, "classes": model.classes, "image_size": model.package.image_size}
    answers = ("top", pa.list_(_PAIR)) if work.top else ("probabilities", pa.list_(pa.float32()))
    columns = [
        ("source", pa.string()),
        ("row", pa.int64()),
        ("given_label", pa.string()),
        ("label", pa.string()),
        ("probability", pa.float32()),
        answers,
        ("error", pa.string()),
        ("model_version", pa.string()),
        ("model_digest", pa.string()),
    ]
    return pa.schema(columns, metadata={METADATA: json.dumps(about, sort_keys=True)})


def _every_item(shard: Shard) -> Iterator[Item]:
    """As many items as the shard counts: what it cannot give is an ImageError each."""
    given = 0
    try:
        for item in shard.read():
            given += 1
            yield item
    except (DataError, OSError) as error:
        reason = str(error)
        while given < shard.count:
            given += 1
            yield ImageError(reason)


def _text(name: str) -> str:
    """A file's name may hold bytes that are no text."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def _spread(values: NDArray[Any], place: NDArray[np.int64]) -> NDArray[Any]:
    """One value a row."""
    return values[np.maximum(place, 0)] if len(values) else np.zeros(len(place), values.dtype)


def _names(classes: Sequence[str], indices: NDArray[np.int64], absent: NDArray[np.bool_]) -> pa.Array:
    return pa.array(classes, pa.string()).take(pa.array(indices, pa.int64(), mask=absent))


def _lists(values: pa.Array, length: int, absent: NDArray[np.bool_]) -> pa.Array:
    """A list of `length` values for each row that is not absent, in turn."""
    offsets = np.concatenate([[0], np.cumsum(~absent) * length]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(absent))
