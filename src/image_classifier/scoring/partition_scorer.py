"""Score one partition. Worker processes run this module, so it imports only what they need."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from image_classifier.datasets import UNLABELED, Shard, StoredImage, decode_stored_image
from image_classifier.errors import DataError, ImageError
from image_classifier.package import Model, Package, Probabilities
from image_classifier.process import keep_large_blocks
from image_classifier.scoring.partition import MAX_IMAGES, Partition
from image_classifier.scoring.score_files import ScoreFiles

_BATCH = 256
_METADATA_KEY = b"image_classifier"


@dataclass(frozen=True)
class ScoringJob:
    """What all partitions have in common; small and picklable."""

    package: Path
    model: dict[str, str]  # the identity of the model, which is written to the score files
    source_classes: tuple[str, ...]  # the classes that the labels of the source index
    max_pixels: int
    top: int  # number of most probable classes to write for an image; 0 for the probabilities of all
    files: ScoreFiles


class PartitionScorer:
    """A loaded model that scores partitions; one per process."""

    def __init__(self, job: ScoringJob) -> None:
        """Raises PackageError if the package is damaged, or its model does not reproduce its golden predictions."""
        # Every batch needs the memory of the one before.
        keep_large_blocks()
        self._job = job
        self._model = Model.load(Package.read(job.package), threads=1)
        self._schema = _schema(job, self._model)

    def score(self, partition: Partition) -> int:
        """Score a partition and write its file; returns its number of images.

        Raises DataError if the file cannot be written.
        """
        buffer = pa.BufferOutputStream()
        strings = [*(item.name for item in self._schema if pa.types.is_string(item.type)), _TOP_LABEL]
        with pq.ParquetWriter(buffer, self._schema, compression="zstd", use_dictionary=strings) as writer:
            images = (image for shard in partition.shards for image in _read_all(shard))
            for start in range(0, partition.count, MAX_IMAGES):
                rows = slice(start, min(start + MAX_IMAGES, partition.count))
                probabilities, errors = self._score(islice(images, rows.stop - rows.start))
                writer.write_batch(self._record_batch(partition, rows, probabilities, errors))
        self._job.files.write(partition.number, buffer.getvalue().to_pybytes())
        return partition.count

    def _score(self, stored_images: Iterator[StoredImage]) -> tuple[Probabilities, list[str | None]]:
        """Probabilities, float32 [M, K], of the images that can be read, and the error or None of every image."""
        size, framing = self._model.package.image_size, self._model.package.framing
        probabilities = [np.empty((0, len(self._model.classes)), np.float32)]
        errors: list[str | None] = []
        images = np.empty((_BATCH, size, size, 3), np.uint8)
        while batch := list(islice(stored_images, _BATCH)):
            decoded = 0
            for stored_image in batch:
                try:
                    images[decoded] = decode_stored_image(stored_image, size, self._job.max_pixels, framing)[0]
                except ImageError as error:
                    errors.append(str(error))
                else:
                    errors.append(None)
                    decoded += 1
            if decoded:
                probabilities.append(self._model.probabilities(images[:decoded]))
        return np.concatenate(probabilities), errors

    def _record_batch(
        self, partition: Partition, rows: slice, probabilities: Probabilities, errors: list[str | None]
    ) -> pa.RecordBatch:
        count = rows.stop - rows.start
        classes = self._model.classes
        failed = np.array([error is not None for error in errors])
        # Index of each row among the scored ones; irrelevant for a failed row, whose values are null.
        index = np.cumsum(~failed) - 1
        predicted = probabilities.argmax(axis=1)
        labels = partition.labels[rows]
        columns = {
            "source": pa.array(partition.names[rows], pa.string()),
            "row": pa.array(np.arange(partition.first + rows.start, partition.first + rows.stop)),
            "given_label": _class_names(self._job.source_classes, labels, labels == UNLABELED),
            "label": _class_names(classes, _spread(predicted, index), failed),
            "probability": pa.array(_spread(probabilities.max(axis=1, initial=0), index), mask=failed),
            **self._probability_column(probabilities, failed),
            "error": pa.array(errors, pa.string()),
            "model_version": pa.repeat(self._job.model["version"], count),
            "model_digest": pa.repeat(self._job.model["digest"], count),
        }
        return pa.record_batch(columns, schema=self._schema)

    def _probability_column(self, probabilities: Probabilities, failed: NDArray[np.bool_]) -> dict[str, Any]:
        classes = self._model.classes
        if not self._job.top:
            values = pa.array(probabilities.ravel())
            return {"probabilities": _lists(values, probabilities.shape[1], failed)}
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : self._job.top]
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


def _schema(job: ScoringJob, model: Model) -> pa.Schema:
    """The columns, with the model's identity and the order of its classes as metadata."""
    about = {"model": job.model, "classes": model.classes, "image_size": model.package.image_size}
    probabilities = ("top", pa.list_(_PAIR)) if job.top else ("probabilities", pa.list_(pa.float32()))
    columns = [
        ("source", pa.string()),
        ("row", pa.int64()),
        ("given_label", pa.string()),
        ("label", pa.string()),
        ("probability", pa.float32()),
        probabilities,
        ("error", pa.string()),
        ("model_version", pa.string()),
        ("model_digest", pa.string()),
    ]
    return pa.schema(columns, metadata={_METADATA_KEY: json.dumps(about, sort_keys=True)})


def _read_all(shard: Shard) -> Iterator[StoredImage]:
    """Exactly `shard.count` images; those that a damaged shard does not yield are ImageErrors."""
    read = 0
    try:
        for stored_image in shard.read():
            read += 1
            yield stored_image
    except (DataError, OSError) as error:
        reason = str(error)
        while read < shard.count:
            read += 1
            yield ImageError(reason)


def _spread(values: NDArray[Any], index: NDArray[np.int64]) -> NDArray[Any]:
    """The value of each row, from the values of the scored rows."""
    return values[np.maximum(index, 0)] if len(values) else np.zeros(len(index), values.dtype)


def _class_names(classes: Sequence[str], indices: NDArray[np.int64], absent: NDArray[np.bool_]) -> pa.Array:
    return pa.array(classes, pa.string()).take(pa.array(indices, pa.int64(), mask=absent))


def _lists(values: pa.Array, length: int, absent: NDArray[np.bool_]) -> pa.Array:
    """A list of `length` consecutive values for each row that is not absent."""
    offsets = np.concatenate([[0], np.cumsum(~absent) * length]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(absent))
