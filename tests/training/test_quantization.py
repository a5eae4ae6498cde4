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
from image_classifier.training.quantization import ImageRows, accuracy_loss, choose_precision, quantize_int8
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
    return quantize_int8(float32, ImageRows(images, np.arange(64)))


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


def test_two_neighboring_products_of_the_same_sign_do_not_overflow_16_bits(int8):
    weights = [values for values in constants(int8).values() if values.dtype == np.int8 and values.ndim == 4]
    assert weights
    for values in weights:
        rows = np.moveaxis(values.astype(int), 1, -1).reshape(len(values), -1)
        even, odd = rows[:, ::2], np.pad(rows[:, 1::2], ((0, 0), (0, rows.shape[1] % 2)))
        for sign in (1, -1):
            sums = np.maximum(sign * even, 0) + np.maximum(sign * odd, 0)
            assert 255 * sums.max() < 2**15
    assert max(np.abs(values.astype(int)).max() for values in weights) > 64, "all fit into 7 bits"


def test_a_channel_whose_weights_are_all_zero_is_quantized(float32, images):
    model = onnx.load_from_string(float32)
    name = next(node.input[1] for node in model.graph.node if node.op_type == "Conv")
    (weights,) = [item for item in model.graph.initializer if item.name == name]
    values = numpy_helper.to_array(weights).copy()
    values[0] = 0
    weights.CopyFrom(numpy_helper.from_array(values, name))
    changed = quantize_int8(model.SerializeToString(), ImageRows(images, np.arange(8)))
    difference = Graph(changed, 1).probabilities(images) - Graph(model.SerializeToString(), 1).probabilities(images)
    assert np.abs(difference).max() < 0.1


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
    """Haswell has AVX2 but no VNNI; if two products overflow, its probabilities differ by about 0.01."""
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
    calibration, validation = ImageRows(images, np.arange(64)), ImageRows(images, np.arange(len(images)))
    return choose_precision(precision, float32, 0.1, probabilities, calibration, validation, labels)


def test_a_requested_precision_is_chosen_and_every_graph_is_measured(float32, images, labels):
    plain = choice("float32", float32, images, labels)
    assert plain.model == float32
    assert plain.record.keys() == {"chosen", "float32", "reason"}
    small = choice("int8", float32, images, labels)
    assert small.model != float32
    np.testing.assert_allclose(small.probabilities, Graph(small.model, 1).probabilities(images), rtol=0, atol=1e-5)
    assert (small.record["chosen"], small.record["reason"]) == ("int8", "int8 was requested.")
    for name in ("float32", "int8"):
        measured = small.record[name]
        assert measured.keys() == {"validation_accuracy", "milliseconds", "bytes", "temperature"}
        assert measured["milliseconds"] > 0
    measured = small.record["float32"]
    assert (measured["validation_accuracy"], measured["bytes"], measured["temperature"]) == (1.0, len(float32), 0.1)


@pytest.mark.parametrize(
    ("lost", "speed_up", "chosen", "message"),
    [
        ((0.0, -0.003, 0.003), (1.5, 1.4, 1.6), "int8", "1.50 times as fast on the training machine and loses 0.00"),
        ((0.001, -0.003, 0.005), (1.5, 1.4, 1.6), "int8", "loses 0.10 points of validation accuracy, at most 0.50"),
        ((0.001, -0.003, 0.006), (1.5, 1.4, 1.6), "float32", "could lose 0.60 (95 % confidence); the limit is 0.5."),
        ((-0.01, -0.03, 0.01), (1.5, 1.4, 1.6), "float32", "int8 gains 1.00 points of validation accuracy, but could"),
        ((0.0, -0.003, 0.003), (1.2, 1.05, 1.3), "float32", "(at least 1.05 times); the minimum is 1.1 times."),
        ((0.5, 0.4, 0.6), (3.0, 2.9, 3.1), "float32", "loses 50.00 points"),
    ],
)
def test_auto_chooses_int8_if_the_bounds_show_that_it_is_faster_and_as_accurate(lost, speed_up, chosen, message):
    found, reason = quantization._decide("auto", {"accuracy_loss": lost, "speed_up": speed_up})
    assert found == chosen
    assert message in reason


def test_few_validation_images_are_no_evidence_for_int8_even_without_a_difference():
    for images, is_enough in [(143, False), (552, False), (553, True), (5_000, True)]:
        correct = np.ones(images, bool)
        assert (accuracy_loss(correct, correct)[2] <= 0.005) == is_enough


def test_the_interval_of_the_accuracy_loss_is_that_of_bonett_and_price():
    before, after = np.arange(500) % 10 > 0, np.arange(500) % 10 > 0
    after[before.nonzero()[0][:20]] = False
    after[(~before).nonzero()[0][:8]] = True
    lost, low, high = accuracy_loss(before, after)
    assert lost == (20 - 8) / 500
    # (21 - 9) / 502 ± 1.96 √((21/502 + 9/502 - (12/502)²) / 502)
    assert (low, high) == pytest.approx((0.00263, 0.04518), abs=1e-5)


def test_the_choice_follows_from_the_measurements(float32, images, labels):
    record = choice("auto", float32, images, labels).record
    assert record["accuracy_loss"][2] > 0.005
    assert record["chosen"] == "float32"
    assert record["speed_up"][0] == pytest.approx(
        record["float32"]["milliseconds"] / record["int8"]["milliseconds"], rel=0.5
    )


def test_int8_has_its_own_temperature(float32, images):
    """Labels that are wrong half of the time need less confident probabilities than the float32 graph returns."""
    labels = np.random.default_rng(0).integers(0, 4, len(images))
    small = choice("int8", float32, images, labels)
    factor = small.record["int8"]["temperature"] / small.record["float32"]["temperature"]
    assert factor > 1.5
    before = Graph(quantize_int8(float32, ImageRows(images, np.arange(64))), 1).probabilities(images)
    scaled = before ** (1 / factor)
    np.testing.assert_allclose(small.probabilities, scaled / scaled.sum(axis=1, keepdims=True), rtol=0, atol=1e-5)


def test_images_are_read_in_batches_of_limited_memory():
    images = ImageRows(
        np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (1_000, 512, 512, 3), (0,) * 4), np.arange(100)
    )
    batches = [len(batch) for batch in images.batches()]
    assert sum(batches) == 100
    assert max(batches) == 4
