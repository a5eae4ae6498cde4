"""8-bit graphs: what they answer, here and on other processors, and when one is kept."""

import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from image_classifier.package.package import Graph
from image_classifier.training import quantization
from image_classifier.training.export import export_graph
from image_classifier.training.quantization import choose, quantized
from tests.training.test_export import classifier_of
from tests.training.test_fit import stripes

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
    return export_graph(classifier_of(16, mirror=True), CLASSES, 16)


@pytest.fixture(scope="module")
def int8(float32, images):
    return quantized(float32, images[:64])


def constants(model):
    return {item.name: numpy_helper.to_array(item) for item in onnx.load_from_string(model).graph.initializer}


def test_it_answers_nearly_alike_from_fewer_bytes(float32, int8, images):
    difference = Graph(int8, 1).probabilities(images) - Graph(float32, 1).probabilities(images)
    assert 0 < np.abs(difference).max() < 0.1
    assert len(int8) < len(float32)


def test_each_convolution_has_8_bit_inputs_and_a_scale_for_each_output_channel(int8):
    graph = onnx.load_from_string(int8).graph
    made_by = {name: node for node in graph.node for name in node.output}
    found = constants(int8)
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert convolutions
    for node in convolutions:
        features, weights = (made_by[name] for name in node.input[:2])
        assert {features.op_type, weights.op_type} == {"DequantizeLinear"}
        values, scales = (found[name] for name in weights.input[:2])
        assert (values.dtype, scales.shape) == (np.int8, (len(values),))
        assert found[features.input[2]].dtype == np.uint8


def test_two_products_never_overflow_16_bits(int8):
    weights = [values for values in constants(int8).values() if values.dtype == np.int8 and values.ndim == 4]
    assert weights
    assert max(np.abs(values.astype(int)).max() for values in weights) == 64
    assert 2 * 255 * 64 < 2**15


def test_it_names_the_classes_as_before(float32, int8):
    def properties(model):
        return {item.key: item.value for item in onnx.load_from_string(model).metadata_props}

    assert properties(int8) == properties(float32) == {"classes": "a\nb\nc\nd", "image_size": "16"}


def test_the_number_of_images_and_threads_changes_no_answer(int8, images):
    one_by_one = np.concatenate([Graph(int8, 1).probabilities(image[np.newaxis]) for image in images[:20]])
    np.testing.assert_allclose(Graph(int8, 2).probabilities(images)[:20], one_by_one, atol=1e-6)


@pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 is not on PATH")
def test_a_processor_without_vnni_answers_alike(int8, images, tmp_path):
    """Haswell has AVX2 and no VNNI; with weights of 8 bits its answers would differ by hundredths."""
    (tmp_path / "int8.onnx").write_bytes(int8)
    np.save(tmp_path / "images.npy", images[:20])
    code = """
import sys
from pathlib import Path
import numpy as np
from image_classifier.process import need_no_blas
need_no_blas()
from image_classifier.package.package import Graph
folder = Path(sys.argv[1])
np.save(folder / "answers.npy", Graph(folder / "int8.onnx", 1).probabilities(np.load(folder / "images.npy")))
"""
    done = subprocess.run(
        [QEMU, "-cpu", "Haswell", sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(
        np.load(tmp_path / "answers.npy"), Graph(int8, 1).probabilities(images[:20]), rtol=0, atol=1e-6
    )


def choice(precision, float32, images, labels):
    answers = Graph(float32, 1).probabilities(images)
    return choose(precision, float32, answers, images[:64], images, labels)


def test_what_was_asked_for_is_kept_and_all_that_was_made_is_measured(float32, images, labels):
    plain = choice("float32", float32, images, labels)
    assert plain.model == float32
    assert plain.record.keys() == {"chosen", "float32", "reason"}
    small = choice("int8", float32, images, labels)
    assert small.model != float32
    np.testing.assert_array_equal(small.probabilities, Graph(small.model, 1).probabilities(images))
    assert (small.record["chosen"], small.record["reason"]) == ("int8", "int8 was asked for.")
    for name in ("float32", "int8"):
        measured = small.record[name]
        assert measured.keys() == {"validation_accuracy", "milliseconds", "bytes"}
        assert measured["milliseconds"] > 0
    assert small.record["float32"] == pytest.approx(
        {
            "validation_accuracy": 1.0,
            "milliseconds": small.record["float32"]["milliseconds"],
            "bytes": len(float32),
        }
    )


@pytest.mark.parametrize(
    ("lost", "speed_up", "chosen", "words"),
    [
        (0.0, 1.5, "int8", "1.50 times as fast here and gains 0.00 points"),
        (0.0019, 1.5, "int8", "loses 0.19 points"),
        (0.0021, 1.5, "float32", "int8 loses 0.21 points of validation accuracy, more than 0.2"),
        (-0.01, 1.05, "float32", "1.05 times as fast here, and must be 1.1 times"),
        (0.0, 0.7, "float32", "0.70 times as fast here"),
        (0.5, 3.0, "float32", "loses 50.00 points"),
    ],
)
def test_int8_is_kept_where_it_is_as_accurate_and_clearly_faster(lost, speed_up, chosen, words):
    accuracy = {"float32": 0.8, "int8": 0.8 - lost}
    seconds = {"float32": 1e-3, "int8": 1e-3 / speed_up}
    found, reason = quantization._judged("auto", accuracy, seconds)
    assert found == chosen
    assert words in reason


def test_the_choice_follows_what_was_measured(float32, images, labels):
    record = choice("auto", float32, images, labels).record
    lost = record["float32"]["validation_accuracy"] - record["int8"]["validation_accuracy"]
    speed_up = record["float32"]["milliseconds"] / record["int8"]["milliseconds"]
    assert record["chosen"] == ("int8" if lost <= 0.002 and speed_up > 1.1 else "float32")
