"""Load and run a package's model with ONNX Runtime."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType

import numpy as np

from image_classifier.environment import disable_telemetry
from image_classifier.errors import PackageError
from image_classifier.images import decode
from image_classifier.package.package import Images, Package, Probabilities

INPUT, OUTPUT = "image", "probabilities"
GOLDEN_TOLERANCE = 1e-4
_BATCH_IMAGES = 256


class Graph:
    """An ONNX graph, loaded into ONNX Runtime. Safe to call from several threads."""

    def __init__(self, model: Path | bytes, threads: int, *, keep_memory: bool = False) -> None:
        """Load the graph, to run on `threads` CPU threads. Raises PackageError if that fails.

        With `keep_memory` the memory of the largest batch is never freed, which is faster for many large batches.
        """
        onnxruntime = load_runtime()
        options = onnxruntime.SessionOptions()
        # The default is the machine's number of cores, regardless of the container's quota.
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = keep_memory
        # Threads that spin between requests double the CPU time, which counts against a quota, and are no faster.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no narrower public base class
            shown = "the graph" if isinstance(model, bytes) else model
            raise PackageError(f"{shown} cannot be loaded: {error}") from error

    def probabilities(self, images: Images) -> Probabilities:
        """Returns probabilities float32 [N, K] for images uint8 [N, S, S, 3]."""
        if len(images) <= _BATCH_IMAGES:
            return self._run(images)
        starts = range(0, len(images), _BATCH_IMAGES)
        return np.concatenate([self._run(images[start : start + _BATCH_IMAGES]) for start in starts])

    def _run(self, images: Images) -> Probabilities:
        probabilities: Probabilities = self.session.run([OUTPUT], {INPUT: images})[0]
        return probabilities


class Model:
    """A package's model, loaded and checked. Safe to call from several threads."""

    def __init__(self, package: Package, graph: Graph) -> None:
        self.package = package
        self._graph = graph

    @classmethod
    def load(cls, package: Package, threads: int) -> "Model":
        """Load the model, to run on `threads` CPU threads, and check it on the golden images.

        Raises PackageError if the graph cannot be loaded, or if a probability differs from the recorded one by more
        than 1e-4: the model's evaluation would not hold.
        """
        model = cls(package, Graph(package.model_file, threads))
        model._check_signature()
        model._check_golden_images()
        return model

    @cached_property
    def classes(self) -> tuple[str, ...]:
        return self.package.classes

    def probabilities(self, images: Images) -> Probabilities:
        """Returns probabilities float32 [N, K] for images uint8 [N, S, S, 3]."""
        return self._graph.probabilities(images)

    def _check_signature(self) -> None:
        size, classes = self.package.image_size, len(self.package.classes)
        inputs = [(i.name, i.type, i.shape[1:]) for i in self._graph.session.get_inputs()]
        outputs = [(o.name, o.type, o.shape[1:]) for o in self._graph.session.get_outputs()]
        if inputs != [(INPUT, "tensor(uint8)", [size, size, 3])] or outputs != [(OUTPUT, "tensor(float)", [classes])]:
            raise PackageError(
                f"{self.package.model_file} has inputs {inputs} and outputs {outputs}; expected input {INPUT} uint8 "
                f"[N, {size}, {size}, 3] and output {OUTPUT} float32 [N, {classes}]"
            )

    def _check_golden_images(self) -> None:
        size = self.package.image_size
        for number, golden in enumerate(self.package.golden):
            image = decode(golden.png, size, max_pixels=size * size)
            probabilities = self.probabilities(image[np.newaxis])[0]
            difference = float(np.abs(probabilities - np.array(golden.probabilities)).max())
            # Not "> tolerance", which is false for NaN.
            if not difference <= GOLDEN_TOLERANCE:
                excess = f"by {difference:.2g}, more than {GOLDEN_TOLERANCE:g}"
                raise PackageError(
                    f"golden image {number} of {self.package.folder}: the probabilities differ from the recorded ones "
                    f"{excess}; the model's evaluation would not hold on this machine"
                )


def load_runtime() -> ModuleType:
    """Import ONNX Runtime. The process may be forked until it creates the first session."""
    disable_telemetry()  # whose thread a forked process does not survive
    import onnxruntime

    return onnxruntime  # type: ignore[no-any-return]


def top_classes(probabilities: Probabilities, classes: Sequence[str], top: int) -> list[tuple[str, float]]:
    """Returns the `top` most probable classes of one image, float32 [K], with their probabilities, in order."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [(classes[index], float(probabilities[index])) for index in order]
