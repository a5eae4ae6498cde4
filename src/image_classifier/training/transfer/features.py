"""Features of a data set's images, kept in a file, so that an interrupted extraction resumes."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from numpy.lib.format import open_memmap
from onnx import TensorProto

from image_classifier.backbones import FEATURES, FeatureGraph, FeatureMap
from image_classifier.datasets import Dataset
from image_classifier.files import release_pages, write_atomically
from image_classifier.package import INPUT, Graph, Images, batch_images
from image_classifier.training.plan import Indices

Features = npt.NDArray[np.float32]
"""float32 [N, D]"""
Activations = npt.NDArray[Any]
"""float32 or float16 [N, C, H, W]"""
Shape = tuple[int, ...]
OnProgress = Callable[[int], None]

_MAX_BATCH_IMAGES = 32
_TIMED_IMAGES, _MIN_TIMED_BATCHES = 32, 4
_SAVE_SECONDS = 2.0
_MAX_ACTIVATION_BYTES = 2**31
"""Size of a file with activations: 48,000 images of EfficientNet-Lite0 at 224 px. Fine-tuning sees fewer in an hour."""


class Extracted(NamedTuple):
    """What a backbone computes of images."""

    features: Features
    activations: Activations | None
    """The feature map from which fine-tuning continues, if one was requested."""


class Extractor(ABC):
    """A backbone that is ready to compute features."""

    def __init__(self, graph: FeatureGraph, activations: FeatureMap | None = None) -> None:
        """`activations` is a map of the graph that is returned beside the features."""
        self.dimensions, self.activations = graph.dimensions, activations

    @abstractmethod
    def __call__(self, images: Images, *, mirrored: bool = False) -> Extracted:
        """The features, float32 [N, D], of images, uint8 [N, S, S, 3], or of their mirror images."""

    def batch_images(self, image_size: int) -> int:
        """Number of images that are best computed at once."""
        return min(_MAX_BATCH_IMAGES, batch_images(image_size))

    def seconds_per_image(self, image_size: int) -> float:
        """Time of one image within a batch: the shortest of several, as other programs may be running."""
        images = np.zeros((self.batch_images(image_size), image_size, image_size, 3), np.uint8)
        times = []
        for _ in range(max(_MIN_TIMED_BATCHES, _TIMED_IMAGES // len(images))):
            started = time.perf_counter()
            self(images)
            times.append(time.perf_counter() - started)
        return min(times) / len(images)


class FeatureExtractor(Extractor):
    """A backbone, loaded into ONNX Runtime, which computes on the CPU."""

    def __init__(self, graph: FeatureGraph, threads: int, activations: FeatureMap | None = None) -> None:
        super().__init__(graph, activations)
        model, self._outputs = graph.model, [FEATURES]
        if activations is not None:
            model = onnx.ModelProto()
            model.CopyFrom(graph.model)
            shape: list[str | int | None] = ["N", activations.channels, activations.height, activations.width]
            model.graph.output.append(onnx.helper.make_tensor_value_info(activations.name, TensorProto.FLOAT, shape))
            self._outputs.append(activations.name)
        self._graph = Graph(model.SerializeToString(), threads, keep_memory=True)

    def __call__(self, images: Images, *, mirrored: bool = False) -> Extracted:
        given = np.ascontiguousarray(images[:, :, ::-1] if mirrored else images)
        features, *activations = self._graph.session.run(self._outputs, {INPUT: given})
        return Extracted(features, activations[0] if activations else None)


class FeatureFile:
    """Features of some images of the training part, in the order of `rows`; of the first `done` of them so far.

    With a folder they are in files there, which an interrupted training continues if its `key` is the same.
    """

    def __init__(self, folder: Path | None, key: str, name: str, rows: Indices, extractor: Extractor) -> None:
        """The activations of the first images are kept, too, if the extractor returns them: 2 GiB at most."""
        self.rows, self.done = rows, 0
        self._extractor, self._key = extractor, key
        self._state = folder / f"{name}.json" if folder else None
        shapes: dict[str, tuple[Shape, np.dtype[Any]]] = {
            name: ((len(rows), extractor.dimensions), np.dtype(np.float32))
        }
        if extractor.activations is not None:
            each = extractor.activations
            values = each.channels * each.height * each.width
            kept = min(len(rows), _MAX_ACTIVATION_BYTES // (2 * values))
            shapes[f"{name}.activations"] = (kept, each.channels, each.height, each.width), np.dtype(np.float16)
        self._arrays: list[npt.NDArray[Any]] = []
        if folder is None or self._state is None:
            self._arrays = [np.empty(shape, dtype) for shape, dtype in shapes.values()]
            return
        folder.mkdir(parents=True, exist_ok=True)
        files = {folder / f"{stem}.npy": described for stem, described in shapes.items()}
        try:
            stored = json.loads(self._state.read_text())
            arrays = [np.load(file, mmap_mode="r+") for file in files]
            described = [(array.shape, array.dtype) for array in arrays]
            if stored["key"] == key and described == list(files.values()):
                self._arrays, self.done = arrays, int(stored["done"])
                return
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self._state.unlink(missing_ok=True)
        self._arrays = [
            open_memmap(file, mode="w+", dtype=dtype, shape=shape) for file, (shape, dtype) in files.items()
        ]

    @property
    def values(self) -> Features:
        """The features, float32 [done, D]."""
        return self._arrays[0][: self.done]

    @property
    def activations(self) -> Activations:
        """The activations of the first images, float16 [kept, C, H, W]; of none without activations."""
        return self._arrays[1][: self.done] if len(self._arrays) > 1 else np.empty((0, 1, 1, 1), np.float16)

    def extract(
        self, dataset: Dataset, *, mirrored: bool, is_over: Callable[[], bool], on_progress: OnProgress
    ) -> None:
        """Compute the features that are missing, until `is_over`; at least those of one batch."""
        saved = time.monotonic()
        size = self._extractor.batch_images(dataset.image_size)
        while self.done < len(self.rows):
            chunk = self.rows[self.done : self.done + size]
            extracted = self._extractor(dataset.train.images[chunk], mirrored=mirrored)
            self._arrays[0][self.done : self.done + len(chunk)] = extracted.features
            if extracted.activations is not None:
                kept = self._arrays[1][self.done : self.done + len(chunk)]
                kept[:] = extracted.activations[: len(kept)]
            self.done += len(chunk)
            on_progress(len(chunk))
            if time.monotonic() - saved > _SAVE_SECONDS:
                self.save()
                release_pages(dataset.train.images)
                saved = time.monotonic()
            if is_over():
                break
        self.save()
        release_pages(dataset.train.images)

    def save(self) -> None:
        """Write down how many features there are; the file has them already."""
        if self._state is not None:
            for array in self._arrays:
                assert isinstance(array, np.memmap)
                array.flush()
                release_pages(array)
            write_atomically(self._state, json.dumps({"key": self._key, "done": self.done}).encode())
