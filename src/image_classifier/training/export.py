"""Export of a trained classifier as a model package: ONNX graph, golden images, reference statistics."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    MAX_EMBEDDINGS,
    OUTPUT,
    Embeddings,
    Graph,
    Images,
    Model,
    Package,
    Probabilities,
    compute_embedding_reference,
    compute_reference,
    write_package,
)
from image_classifier.training.network import Classifier
from image_classifier.training.plan import Indices
from image_classifier.training.quantization import (
    CALIBRATION_PIXELS,
    MAX_CALIBRATION_IMAGES,
    MIN_CALIBRATION_IMAGES,
    ImageRows,
    choose_precision,
    predict,
)
from image_classifier.training.transfer.classifier import BackboneClassifier

_TOLERANCE = 1e-4
_GOLDEN_IMAGES = 8
_COMPARED_PIXELS = 25_000_000
_REFERENCE_IMAGES = 10_000
_PROJECTION_IMAGES = 256
"""From which the projection of embeddings is computed; 1,900 photos of clothes made drift no easier to find."""


def export_package(
    folder: Path,
    classifier: Classifier | BackboneClassifier,
    dataset: Dataset,
    validation: Indices,
    provenance: Mapping[str, Any],
    *,
    precision: str = "auto",
    threads: int,
) -> Package:
    """Write the package of `classifier` to `folder` atomically, and load it once.

    `validation` holds indices into `dataset.train`; int8 is calibrated on other images. `precision` is float32, int8 or
    auto (`choose_precision`), with the measurements in the provenance; its validation accuracy and temperature are
    those of the exported graph. Raises PackageError, and writes nothing, if a probability of the graph differs from the
    trained classifier's by more than 1e-4 on the validation split, of large images on about 500 of it.
    """
    images = ImageRows(dataset.train.images, validation)
    labels = dataset.train.labels[validation]
    model = export_graph(classifier, dataset.classes, dataset.image_size)
    probabilities = predict(Graph(model, threads), images)
    compared = images.first(max(_GOLDEN_IMAGES, _COMPARED_PIXELS // dataset.image_size**2))
    _compare(probabilities[: len(compared)], _trained_probabilities(classifier, compared))
    calibration = _calibration_images(dataset, validation)
    choice = choose_precision(precision, model, classifier.temperature, probabilities, calibration, images, labels)
    chosen = choice.record[choice.record["chosen"]]
    golden = _spread_over_classes(labels, _GOLDEN_IMAGES)
    golden_labels = [dataset.classes[label] for label in labels[golden]]
    reference = compute_reference(*_reference_images(dataset), choice.probabilities)
    if isinstance(classifier, BackboneClassifier):
        is_tuned = provenance.get("parameters", {}).get("fine_tuned", True)
        reference |= _embedding_reference(Graph(choice.model, threads), dataset, validation, is_tuned=is_tuned)
    with folder_written_atomically(folder) as draft:
        package = write_package(
            draft,
            model=choice.model,
            classes=dataset.classes,
            image_size=dataset.image_size,
            provenance={
                **provenance,
                "parameters": {**provenance.get("parameters", {}), "temperature": chosen["temperature"]},
                "validation_accuracy": chosen["validation_accuracy"],
                "precision": choice.record,
            },
            golden=(dataset.train.images[validation[golden]], golden_labels, choice.probabilities[golden]),
            reference=reference,
            framing=dataset.framing,
        )
        Model.load(package, threads)
    return Package.read(folder)


def export_graph(classifier: Classifier | BackboneClassifier, classes: tuple[str, ...], image_size: int) -> bytes:
    """Serialize the classifier as an ONNX graph for batches of any size, with the classes in its metadata."""
    model = _export_network(classifier, image_size) if isinstance(classifier, Classifier) else classifier.to_onnx()
    onnx.helper.set_model_props(model, {"classes": "\n".join(classes), "image_size": str(image_size)})
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _export_network(classifier: Classifier, image_size: int) -> onnx.ModelProto:
    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    with _quiet_exporter():
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
    model = program.model_proto
    for node in model.graph.node:
        # Stack traces of the exporter, with paths of this machine.
        del node.metadata_props[:]
    _move_relu_before_pool(model.graph)
    return model


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide the exporter's warnings about its own deprecated calls and about packages that it does not need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _move_relu_before_pool(graph: onnx.GraphProto) -> None:
    """Exchange each max-pool with the ReLU after it, which commute, so that ONNX Runtime fuses convolution and ReLU.

    The input of the max-pool is then never negative, which gives its int8 values twice the resolution.
    """
    producers = {name: node for node in graph.node for name in node.output}
    consumers = Counter(name for node in graph.node for name in node.input)
    for relu in graph.node:
        pool = producers.get(relu.input[0]) if relu.op_type == "Relu" else None
        if pool is None or pool.op_type != "MaxPool" or consumers[relu.input[0]] != 1:
            continue
        pool.op_type, relu.op_type = "Relu", "MaxPool"
        relu.attribute.extend(pool.attribute)
        del pool.attribute[:]
        for shape in [shape for shape in graph.value_info if shape.name == relu.input[0]]:
            graph.value_info.remove(shape)


def _calibration_images(dataset: Dataset, validation: Indices) -> ImageRows:
    """Training images of all classes: fewer if they are large, as 512 of 224 pixels take about 20 s on two cores."""
    others = np.setdiff1d(np.arange(len(dataset.train.labels)), validation)
    count = np.clip(CALIBRATION_PIXELS // dataset.image_size**2, MIN_CALIBRATION_IMAGES, MAX_CALIBRATION_IMAGES)
    return ImageRows(dataset.train.images, others[_spread(len(others), int(count))])


def _reference_images(dataset: Dataset) -> tuple[Iterator[Images], npt.NDArray[np.int32] | None]:
    """Images spread over the training part, which is in order of the classes, and their originals."""
    rows = _spread(len(dataset.train.labels), _REFERENCE_IMAGES)
    originals = dataset.train.originals
    images = (dataset.train.images[row] for row in rows)
    return images, None if originals is None else originals[rows]


def _embedding_reference(graph: Graph, dataset: Dataset, validation: Indices, *, is_tuned: bool) -> dict[str, Any]:
    """The reference for embeddings: with a fine-tuned backbone, only the validation images are like new images."""

    def embeddings(rows: Indices, count: int) -> Embeddings:
        sample = ImageRows(dataset.train.images, rows[_spread(len(rows), count)])
        parts = [graph.probabilities_and_embeddings(batch)[1] for batch in sample.batches()]
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

    trained = np.setdiff1d(np.arange(len(dataset.train.labels)), validation)
    projection, others = trained[::2], trained[1::2]
    held_out = validation if is_tuned else np.union1d(validation, others)
    return compute_embedding_reference(embeddings(projection, _PROJECTION_IMAGES), embeddings(held_out, MAX_EMBEDDINGS))


def _spread(length: int, count: int) -> Indices:
    return np.linspace(0, length - 1, min(length, count)).astype(np.int64)


def _trained_probabilities(classifier: Classifier | BackboneClassifier, images: ImageRows) -> Probabilities:
    if isinstance(classifier, BackboneClassifier):
        return np.concatenate([classifier.probabilities(batch) for batch in images.batches()])
    with torch.inference_mode():
        return np.concatenate([classifier(torch.tensor(batch)).numpy() for batch in images.batches()])


def _compare(probabilities: Probabilities, expected: Probabilities) -> None:
    difference = np.abs(probabilities - expected).max(axis=1)
    # Not "> tolerance", which NaN would pass.
    wrong = int((~(difference <= _TOLERANCE)).sum())
    if wrong:
        raise PackageError(
            f"the exported model's probabilities differ from the trained one's on {wrong:,} of {len(expected):,} "
            f"validation images (largest difference {difference.max():.2g}, tolerance {_TOLERANCE:g}); "
            "no package was written"
        )


def _spread_over_classes(labels: npt.NDArray[np.int64], count: int) -> Indices:
    """Indices of up to `count` images, of as many classes as possible."""
    rank_in_class = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank_in_class[members] = np.arange(len(members))
    return np.lexsort((labels, rank_in_class))[:count]
