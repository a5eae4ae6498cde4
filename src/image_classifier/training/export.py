"""From a trained classifier to a model package: ONNX graph, golden images, reference statistics."""

import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from image_classifier.datasets import Dataset
from image_classifier.errors import PackageError
from image_classifier.files import folder_written_atomically
from image_classifier.package import (
    INPUT,
    OUTPUT,
    Graph,
    Images,
    Model,
    Package,
    Probabilities,
    reference_statistics,
    write_package,
)
from image_classifier.training.network import Classifier
from image_classifier.training.quantization import CALIBRATION_IMAGES, choose

EXPORT_TOLERANCE = 1e-4
GOLDEN_IMAGES = 8
REFERENCE_IMAGES = 10_000
"""Of the training part, validation split and all, so many at most tell what images look like."""
_BATCH = 256


def export_package(
    folder: Path,
    classifier: Classifier,
    dataset: Dataset,
    validation: npt.NDArray[np.int64],
    provenance: Mapping[str, Any],
    *,
    precision: str = "auto",
    threads: int,
) -> Package:
    """Write the package of `classifier` to `folder`, whole or not at all, and load it once.

    `validation` holds indices into `dataset.train`; the others may calibrate 8-bit integers. `precision` is float32,
    int8, or auto for the better one (quantization.py); what was measured goes into the provenance.
    Raises PackageError, and writes nothing, where ONNX Runtime's probabilities differ from PyTorch's by more than 1e-4
    on any validation image.
    """
    images = dataset.train.images[validation]
    labels = dataset.train.labels[validation]
    model = export_graph(classifier, dataset.classes, dataset.image_size)
    probabilities = Graph(model, threads).probabilities(images)
    _check_answers(probabilities, _torch_probabilities(classifier, images))
    kept = choose(precision, model, probabilities, _calibration_images(dataset, validation), images, labels)
    chosen = _spread_over_classes(labels, GOLDEN_IMAGES)
    golden_labels = [dataset.classes[label] for label in labels[chosen]]
    with folder_written_atomically(folder) as draft:
        package = write_package(
            draft,
            model=kept.model,
            classes=dataset.classes,
            image_size=dataset.image_size,
            provenance={
                **provenance,
                "validation_accuracy": kept.record[kept.record["chosen"]]["validation_accuracy"],
                "precision": kept.record,
            },
            golden=(images[chosen], golden_labels, kept.probabilities[chosen]),
            reference=reference_statistics(*_reference_images(dataset), kept.probabilities),
        )
        Model.load(package, threads)
    return Package.read(folder)


def export_graph(classifier: Classifier, classes: tuple[str, ...], image_size: int) -> bytes:
    """The serialised ONNX graph, with any number of images in a batch; its metadata hold the classes."""
    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        # The exporter warns of its own use of PyTorch's private parts.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            classifier.eval(),
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise PackageError("PyTorch exported no ONNX graph")
    graph = program.model_proto
    onnx.helper.set_model_props(graph, {"classes": "\n".join(classes), "image_size": str(image_size)})
    for node in graph.graph.node:
        # Notes of the exporter that name files of the machine that trained.
        del node.metadata_props[:]
    _put_relu_before_pool(graph.graph)
    onnx.checker.check_model(graph)
    content: bytes = graph.SerializeToString()
    return content


def _put_relu_before_pool(graph: onnx.GraphProto) -> None:
    """Exchange each max-pool and the ReLU after it, which commute: ONNX Runtime then does ReLU with the convolution.

    In 8 bits it also leaves twice as many steps for what a ReLU lets through.
    """
    made_by = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    for relu in graph.node:
        pool = made_by.get(relu.input[0]) if relu.op_type == "Relu" else None
        if pool is None or pool.op_type != "MaxPool" or uses[relu.input[0]] != 1:
            continue
        pool.op_type, relu.op_type = "Relu", "MaxPool"
        relu.attribute.extend(pool.attribute)
        del pool.attribute[:]
        for shape in [shape for shape in graph.value_info if shape.name == relu.input[0]]:
            graph.value_info.remove(shape)


def _calibration_images(dataset: Dataset, validation: npt.NDArray[np.int64]) -> Images:
    """Images of the training part that are not in the validation split, spread over all of it."""
    others = np.setdiff1d(np.arange(len(dataset.train.labels)), validation)
    places = np.linspace(0, len(others) - 1, min(len(others), CALIBRATION_IMAGES)).astype(np.int64)
    return np.asarray(dataset.train.images[others[places]])


def _reference_images(dataset: Dataset) -> tuple[Images, npt.NDArray[np.int32] | None]:
    """Images spread over the training part, in which they lie class by class, and their sizes as stored."""
    count = len(dataset.train.labels)
    rows = np.linspace(0, count - 1, min(count, REFERENCE_IMAGES)).astype(np.int64)
    originals = dataset.train.originals
    return np.asarray(dataset.train.images[rows]), None if originals is None else originals[rows]


def _torch_probabilities(classifier: Classifier, images: Images) -> Probabilities:
    with torch.inference_mode():
        parts = [
            classifier(torch.from_numpy(images[start : start + _BATCH].copy())).numpy()
            for start in range(0, len(images), _BATCH)
        ]
    return np.concatenate(parts)


def _check_answers(answers: Probabilities, expected: Probabilities) -> None:
    difference = np.abs(answers - expected).max(axis=1)
    # Not "> tolerance", which NaN would pass.
    wrong = int((~(difference <= EXPORT_TOLERANCE)).sum())
    if wrong:
        raise PackageError(
            f"the exported model answers otherwise than the trained one on {wrong} of {len(expected)} "
            f"validation images (largest difference {difference.max():.2g}, allowed {EXPORT_TOLERANCE:g}); "
            "nothing was written"
        )


def _spread_over_classes(labels: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Indices of up to `count` images, as many different classes as there are."""
    rank_in_class = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank_in_class[members] = np.arange(len(members))
    return np.lexsort((labels, rank_in_class))[:count]
