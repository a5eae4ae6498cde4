"""Load and run a package's model with ONNX Runtime."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_classifier.environment import disable_telemetry
from image_classifier.errors import PackageError
from image_classifier.images import decode
from image_classifier.package.package import Images, Package, Probabilities

INPUT, OUTPUT = "image", "probabilities"
EMBEDDING_OUTPUT, ACTIVATION_MAP_OUTPUT = "embedding", "activation_map"
"""Outputs that only some graphs have."""
ACTIVATION_MAP_SWITCH = "with_activation_map"
"""Input, bool [1], false by default: ONNX Runtime also computes outputs that are not requested."""
Embeddings = NDArray[np.float32]
"""float32 [N, E]"""
ActivationMaps = NDArray[np.float32]
"""float32 [N, K, H, W]: the calibrated logit of a class is the mean over its map, plus a constant of the class."""

GOLDEN_TOLERANCE = 1e-4
_BATCH_IMAGES, _MAX_SMALL_SIDE = 256, 64
_PHOTO_BATCH_PIXELS = 250_000
"""Four images of 224 pixels. More exceed the CPU's caches: with 32, EfficientNet-Lite0 takes 17 instead of 12 ms of CPU
time an image; with 256, it takes 1.7 GiB of memory, too."""


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
        (probabilities,) = self._run([OUTPUT], images)
        return probabilities

    def probabilities_and_embeddings(self, images: Images) -> tuple[Probabilities, Embeddings]:
        """Returns probabilities float32 [N, K] and embeddings float32 [N, E], which the graph must have, in one run."""
        probabilities, embeddings = self._run([OUTPUT, EMBEDDING_OUTPUT], images)
        return probabilities, embeddings

    def probabilities_and_activation_maps(self, images: Images) -> tuple[Probabilities, ActivationMaps]:
        """Returns probabilities float32 [N, K] and activation maps float32 [N, K, H, W], which the graph must have."""
        switch = {ACTIVATION_MAP_SWITCH: np.array([True])}
        probabilities, maps = self._run([OUTPUT, ACTIVATION_MAP_OUTPUT], images, switch)
        return probabilities, maps

    def _run(
        self, outputs: list[str], images: Images, others: dict[str, NDArray[Any]] | None = None
    ) -> list[NDArray[np.float32]]:
        def run(batch: Images) -> list[NDArray[np.float32]]:
            values: list[NDArray[np.float32]] = self.session.run(outputs, {INPUT: batch, **(others or {})})
            return values

        size = batch_images(images.shape[1])
        if len(images) <= size:
            return run(images)
        batches = [run(images[start : start + size]) for start in range(0, len(images), size)]
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


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

    def probabilities_and_embeddings(self, images: Images) -> tuple[Probabilities, Embeddings]:
        """Returns probabilities float32 [N, K] and embeddings float32 [N, E]; only if `has_embedding`."""
        return self._graph.probabilities_and_embeddings(images)

    def probabilities_and_activation_maps(self, images: Images) -> tuple[Probabilities, ActivationMaps]:
        """Returns probabilities float32 [N, K] and activation maps float32 [N, K, H, W]; only if `has_activation_map`.

        The map of a class shows how much each place of the image contributes to its logit.
        """
        return self._graph.probabilities_and_activation_maps(images)

    @cached_property
    def has_embedding(self) -> bool:
        """Whether the graph returns embeddings: those of models on a backbone do."""
        return EMBEDDING_OUTPUT in self._outputs

    @cached_property
    def has_activation_map(self) -> bool:
        """Whether the graph returns activation maps: those on a backbone whose features are means of maps do."""
        return ACTIVATION_MAP_OUTPUT in self._outputs

    @cached_property
    def _outputs(self) -> dict[str, tuple[str, list[int | str]]]:
        return {each.name: (each.type, each.shape) for each in self._graph.session.get_outputs()}

    def _check_signature(self) -> None:
        size, classes = self.package.image_size, len(self.package.classes)
        inputs = [(i.name, i.type, i.shape[1:]) for i in self._graph.session.get_inputs()]
        outputs = [(name, kind, shape[1:]) for name, (kind, shape) in self._outputs.items()]
        if inputs != [(INPUT, "tensor(uint8)", [size, size, 3])] or outputs[:1] != [
            (OUTPUT, "tensor(float)", [classes])
        ]:
            raise PackageError(
                f"{self.package.model_file} has inputs {inputs} and outputs {outputs}; expected input {INPUT} uint8 "
                f"[N, {size}, {size}, 3] and output {OUTPUT} float32 [N, {classes}]"
            )
        for name, kind, shape in outputs[1:]:
            if name == EMBEDDING_OUTPUT:
                expected, is_right = "[N, E]", len(shape) == 1
            elif name == ACTIVATION_MAP_OUTPUT:
                expected, is_right = f"[N, {classes}, H, W]", len(shape) == 3 and shape[0] == classes
            else:
                raise PackageError(
                    f"{self.package.model_file} has the unknown output {name}; besides {OUTPUT} only "
                    f"{EMBEDDING_OUTPUT} and {ACTIVATION_MAP_OUTPUT} are allowed"
                )
            if kind != "tensor(float)" or not is_right or not all(isinstance(side, int) for side in shape):
                raise PackageError(
                    f"the output {name} of {self.package.model_file} is {kind} [N, {', '.join(map(str, shape))}]; "
                    f"expected float32 {expected}"
                )
        switches = [(s.name, s.type, s.shape) for s in self._graph.session.get_overridable_initializers()]
        if self.has_activation_map and (ACTIVATION_MAP_SWITCH, "tensor(bool)", [1]) not in switches:
            raise PackageError(
                f"{self.package.model_file} has the output {ACTIVATION_MAP_OUTPUT}, but no optional input "
                f"{ACTIVATION_MAP_SWITCH} bool [1] that turns it on"
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


def batch_images(side: int) -> int:
    """Number of images with this side in pixels that are best computed at once on a CPU."""
    return _BATCH_IMAGES if side <= _MAX_SMALL_SIDE else max(1, _PHOTO_BATCH_PIXELS // side**2)


def output_shapes(package: Package) -> dict[str, tuple[int, ...]]:
    """Shapes of the graph's outputs by name, without the first axis, N; all are float32, `probabilities` is first."""
    import onnx  # which servers do not need

    outputs = onnx.load(package.model_file).graph.output
    return {each.name: tuple(axis.dim_value for axis in each.type.tensor_type.shape.dim[1:]) for each in outputs}


def load_runtime() -> ModuleType:
    """Import ONNX Runtime. The process may be forked until it creates the first session."""
    disable_telemetry()  # whose thread a forked process does not survive
    import onnxruntime

    return onnxruntime  # type: ignore[no-any-return]


def top_classes(probabilities: Probabilities, classes: Sequence[str], top: int) -> list[tuple[str, float]]:
    """Returns the `top` most probable classes of one image, float32 [K], with their probabilities, in order."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [(classes[index], float(probabilities[index])) for index in order]
