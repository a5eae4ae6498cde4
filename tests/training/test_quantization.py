"""int8 graphs: their probabilities, on this and other processors, and when one is chosen."""

import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from image_classifier.package.model import Graph
from image_classifier.training import quantization
from image_classifier.training.export import export_graph
from image_classifier.training.quantization import choose_precision, quantize_int8
from tests.training.samples import stripes, untrained_classifier

pytestmark = pytest.mark.slow

CLASSES = ("a", "b", "c", "d")
QEMU = shutil.which("qemu-x86_64")


@pytest.fixture(scope="module")
def images():
    return stripes(16, images=120).train.images


@pytest.fixture(scope="module")
def labels(float32, images):
    return Graph(float32, 1).probabilities(images).argmax(axis=1)


@pytest.fixture(scope="module")
def float32():
    return export_graph(untrained_classifier(16, test_time_flip=True), CLASSES, 16)


@pytest.fixture(scope="module")
def int8(float32, images):
    return quantize_int8(float32, images[:64])


def constants(model):
    return {item.name: numpy_helper.to_array(item) for item in onnx.load_from_string(model).graph.initializer}


def test_int8_is_smaller_and_predicts_nearly_the_same(float32, int8, images):
    difference = Graph(int8, 1).probabilities(images) - Graph(float32, 1).probabilities(images)
    assert 0 < np.abs(difference).max() < 0.1
    assert len(int8) < len(float32)


def test_convolutions_have_8_bit_inputs_and_a_scale_for_each_output_channel(int8):
    graph = onnx.load_from_string(int8).graph
    producers = {name: node for node in graph.node for name in node.output}
    values_by_name = constants(int8)
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert convolutions
    for node in convolutions:
        features, weights = (producers[name] for name in node.input[:2])
        assert {features.op_type, weights.op_type} == {"DequantizeLinear"}
        values, scales = (values_by_name[name] for name in weights.input[:2])
        assert (values.dtype, scales.shape) == (np.int8, (len(values),))
        assert values_by_name[features.input[2]].dtype == np.uint8


def test_two_products_do_not_overflow_16_bits(int8):
    weights = [values for values in constants(int8).values() if values.dtype == np.int8 and values.ndim == 4]
    assert weights
    assert max(np.abs(values.astype(int)).max() for values in weights) == 64
    assert 2 * 255 * 64 < 2**15


def test_int8_keeps_the_classes_in_the_metadata(float32, int8):
    def properties(model):
        return {item.key: item.value for item in onnx.load_from_string(model).metadata_props}

    assert properties(int8) == properties(float32) == {"classes": "a\nb\nc\nd", "image_size": "16"}


def test_probabilities_do_not_depend_on_batch_size_or_threads(int8, images):
    one_by_one = np.concatenate([Graph(int8, 1).probabilities(image[np.newaxis]) for image in images[:20]])
    np.testing.assert_allclose(Graph(int8, 2).probabilities(images)[:20], one_by_one, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 is not on PATH")
def test_a_processor_without_vnni_returns_the_same_probabilities(int8, images, tmp_path):
    """Haswell has AVX2 but no VNNI; with 8-bit weights its probabilities would differ by about 0.01."""
    (tmp_path / "int8.onnx").write_bytes(int8)
    np.save(tmp_path / "images.npy", images[:20])
    code = """
import sys
from pathlib import Path
import numpy as np
from image_classifier.process import limit_blas_threads
limit_blas_threads()
from image_classifier.package.model import Graph
folder = Path(sys.argv[1])
np.save(folder / "probabilities.npy", Graph(folder / "int8.onnx", 1).probabilities(np.load(folder / "images.npy")))
"""
    done = subprocess.run(
        [QEMU, "-cpu", "Haswell", sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(
        np.load(tmp_path / "probabilities.npy"), Graph(int8, 1).probabilities(images[:20]), rtol=0, atol=1e-6
    )


def choice(precision, float32, images, labels):
    probabilities = Graph(float32, 1).probabilities(images)
    return choose_precision(precision, float32, probabilities, images[:64], images, labels)


def test_a_requested_precision_is_chosen_and_every_graph_is_measured(float32, images, labels):
    plain = choice("float32", float32, images, labels)
    assert plain.model == float32
    assert plain.record.keys() == {"chosen", "float32", "reason"}
    small = choice("int8", float32, images, labels)
    assert small.model != float32
    np.testing.assert_array_equal(small.probabilities, Graph(small.model, 1).probabilities(images))
    assert (small.record["chosen"], small.record["reason"]) == ("int8", "int8 was requested.")
    for name in ("float32", "int8"):
        measured = small.record[name]
        assert measured.keys() == {"validation_accuracy", "milliseconds", "bytes"}
        assert measured["milliseconds"] > 0
    assert small.record["float32"] == pytest.approx(
        {"validation_accuracy": 1.0, "milliseconds": small.record["float32"]["milliseconds"], "bytes": len(float32)}
    )


@pytest.mark.parametrize(
    ("lost", "speed_up", "chosen", "message"),
    [
        (0.0, 1.5, "int8", "1.50 times as fast on the training machine and gains 0.00 points"),
        (0.0019, 1.5, "int8", "loses 0.19 points"),
        (0.0021, 1.5, "float32", "int8 loses 0.21 points of validation accuracy; the limit is 0.2."),
        (-0.01, 1.05, "float32", "1.05 times as fast on the training machine; the minimum is 1.1 times."),
        (0.0, 0.7, "float32", "0.70 times as fast on the training machine"),
        (0.5, 3.0, "float32", "loses 50.00 points"),
    ],
)
def test_auto_chooses_int8_if_it_is_faster_and_as_accurate(lost, speed_up, chosen, message):
    accuracy = {"float32": 0.8, "int8": 0.8 - lost}
    seconds = {"float32": 1e-3, "int8": 1e-3 / speed_up}
    found, reason = quantization._decide("auto", accuracy, seconds)
    assert found == chosen
    assert message in reason


def test_the_choice_follows_from_the_measurements(float32, images, labels):
    record = choice("auto", float32, images, labels).record
    lost = record["float32"]["validation_accuracy"] - record["int8"]["validation_accuracy"]
    speed_up = record["float32"]["milliseconds"] / record["int8"]["milliseconds"]
    assert record["chosen"] == ("int8" if lost <= 0.002 and speed_up > 1.1 else "float32")
