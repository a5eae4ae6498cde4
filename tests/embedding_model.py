"""A model with embeddings, and images whose reflection only the embeddings distinguish."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from image_classifier.package.model import EMBEDDING_OUTPUT, Graph
from image_classifier.package.package import Images, write_package
from image_classifier.package.reference_statistics import compute_embedding_reference, compute_reference
from tests.conftest import COLORS, SIZE, color_images, color_model, color_probabilities
from tests.serving.observe.noisy_images import noisy_images


def embedding_model() -> bytes:
    """The color model with the pixels as the embedding."""
    model = onnx.load_from_string(color_model())
    model.graph.node.append(helper.make_node("Flatten", ["float"], [EMBEDDING_OUTPUT]))
    output = helper.make_tensor_value_info(EMBEDDING_OUTPUT, TensorProto.FLOAT, ["N", 3 * SIZE**2])
    model.graph.output.append(output)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def shaded_images(count: int, seed: int = 0) -> Images:
    """Images that are darker at the left; uint8 [count, SIZE, SIZE, 3]. Reflected ones have the same statistics."""
    shade = np.linspace(0.5, 1, SIZE)[:, np.newaxis]
    return (noisy_images(count, seed) * shade).astype(np.uint8)


def reflected(images: Images) -> Images:
    return np.ascontiguousarray(images[:, :, ::-1])


def write_embedding_package(folder: Path, **provenance: str) -> None:
    """A package of the model, whose reference are 400 shaded images."""
    graph, images = Graph(embedding_model(), threads=1), shaded_images(400)
    probabilities, embeddings = graph.probabilities_and_embeddings(images)
    reference = compute_reference(images, np.full((400, 3), SIZE, np.int32), probabilities)
    write_package(
        folder,
        model=embedding_model(),
        classes=list(COLORS),
        image_size=SIZE,
        provenance={"source_revision": "abc123", "data_digest": "d" * 64, "run_id": "r" * 32, **provenance},
        golden=(color_images(), list(COLORS), color_probabilities()),
        reference=reference | compute_embedding_reference(embeddings[::2], embeddings[1::2]),
    )
