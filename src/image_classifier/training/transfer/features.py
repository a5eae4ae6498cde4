"""Features of a data set's images, computed by ONNX Runtime and kept in a file, so that they can be resumed."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap

from image_classifier.backbones import FEATURES, FeatureGraph
from image_classifier.datasets import Dataset
from image_classifier.files import write_atomically
from image_classifier.package import INPUT, Graph, Images
from image_classifier.training.plan import Indices

Features = npt.NDArray[np.float32]
"""float32 [N, D]"""
OnProgress = Callable[[int], None]

_BATCH_IMAGES = 32
_TIMED_BATCHES = 4
_SAVE_SECONDS = 2.0


class FeatureExtractor:
    """A backbone, loaded into ONNX Runtime."""

    def __init__(self, graph: FeatureGraph, threads: int) -> None:
        self.dimensions = graph.dimensions
        self._graph = Graph(graph.model.SerializeToString(), threads, keep_memory=True)

    def __call__(self, images: Images, *, mirrored: bool = False) -> Features:
        """Features, float32 [N, D], of images, uint8 [N, S, S, 3], or of their mirror images."""
        given = np.ascontiguousarray(images[:, :, ::-1] if mirrored else images)
        features: Features = self._graph.session.run([FEATURES], {INPUT: given})[0]
        return features

    def seconds_per_image(self, image_size: int) -> float:
        """Time of one image within a batch: the shortest of several, as other programs may be running."""
        images = np.zeros((_BATCH_IMAGES, image_size, image_size, 3), np.uint8)
        times = []
        for _ in range(_TIMED_BATCHES):
            started = time.perf_counter()
            self(images)
            times.append(time.perf_counter() - started)
        return min(times) / len(images)


class FeatureFile:
    """Features of some images of the training part, in the order of `rows`; of the first `done` of them so far.

    With a folder they are in a file there, which an interrupted training continues if its `key` is the same.
    """

    def __init__(self, folder: Path | None, key: str, name: str, rows: Indices, dimensions: int) -> None:
        self.rows, self.done = rows, 0
        self._state = folder / f"{name}.json" if folder else None
        self._key = key
        shape = (len(rows), dimensions)
        if folder is None or self._state is None:
            self._values = np.empty(shape, np.float32)
            return
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.npy"
        try:
            stored = json.loads(self._state.read_text())
            values = np.load(file, mmap_mode="r+")
            if stored["key"] == key and values.shape == shape:
                self._values, self.done = values, int(stored["done"])
                return
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self._state.unlink(missing_ok=True)
        self._values = open_memmap(file, mode="w+", dtype=np.float32, shape=shape)

    @property
    def values(self) -> Features:
        """float32 [done, D]"""
        return self._values[: self.done]

    def extract(
        self,
        extractor: FeatureExtractor,
        dataset: Dataset,
        *,
        mirrored: bool,
        is_over: Callable[[], bool],
        on_progress: OnProgress,
    ) -> None:
        """Compute the features that are missing, until `is_over`; at least those of one batch."""
        saved = time.monotonic()
        while self.done < len(self.rows):
            chunk = self.rows[self.done : self.done + _BATCH_IMAGES]
            self._values[self.done : self.done + len(chunk)] = extractor(dataset.train.images[chunk], mirrored=mirrored)
            self.done += len(chunk)
            on_progress(len(chunk))
            if time.monotonic() - saved > _SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
            if is_over():
                break
        self.save()

    def save(self) -> None:
        """Write down how many features there are; the file has them already."""
        if self._state is not None:
            assert isinstance(self._values, np.memmap)
            self._values.flush()
            write_atomically(self._state, json.dumps({"key": self._key, "done": self.done}).encode())
