import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from image_classifier.errors import PackageError
from image_classifier.package.model import Graph, Model, top_classes
from image_classifier.package.package import Package, write_package
from tests.conftest import COLORS, SIZE, color_images, color_model, color_probabilities


def package_of(folder, **changes):
    content = {
        "model": color_model(),
        "classes": list(COLORS),
        "image_size": SIZE,
        "provenance": {},
        "golden": (color_images(), list(COLORS), color_probabilities()),
        "reference": {},
    }
    return write_package(folder, **{**content, **changes})


def test_probabilities_do_not_depend_on_the_batch_size(package_folder):
    model = Model.load(Package.read(package_folder), threads=1)
    probabilities = model.probabilities(np.repeat(color_images(), 200, axis=0))
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, np.repeat(color_probabilities(), 200, axis=0), atol=1e-5)


@pytest.mark.parametrize(("side", "sizes"), [(64, [256, 44]), (65, [59] * 5 + [5]), (224, [4] * 75), (500, [1] * 300)])
def test_photos_are_computed_a_few_at_a_time(side, sizes):
    computed = []

    class Session:
        def run(self, outputs, inputs):
            computed.append(len(inputs["image"]))
            return [np.zeros((len(inputs["image"]), 2), np.float32) for _ in outputs]

    graph = Graph(color_model(), threads=1)
    graph.session = Session()
    images = np.broadcast_to(np.uint8(0), (300, side, side, 3))
    assert graph.probabilities(images).shape == (300, 2)
    assert computed == sizes


def test_a_model_with_other_probabilities_than_recorded_is_not_loaded(tmp_path):
    wrong = color_probabilities()
    wrong[2] = wrong[1]
    package = package_of(tmp_path / "package", golden=(color_images(), list(COLORS), wrong))
    with pytest.raises(PackageError, match="golden image 2 .* the probabilities differ from the recorded"):
        Model.load(package, threads=1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": b"no onnx"}, "cannot be loaded"),
        ({"model": color_model(8)}, "expected input image uint8"),
        ({"classes": ["a", "b"]}, r"expected .* output probabilities float32 \[N, 2\]"),
    ],
    ids=["not a graph", "another size", "other classes"],
)
def test_a_graph_that_does_not_match_the_package_is_refused(tmp_path, change, expected):
    with pytest.raises(PackageError, match=expected):
        Model.load(package_of(tmp_path / "package", **change), threads=1)


def color_model_with(name, shape, *, kind=TensorProto.FLOAT, switch=True):
    """The color model with one more output, whose values are 0."""
    model = onnx.load_from_string(color_model())
    zeros = np.zeros([each for each in shape if isinstance(each, int)], helper.tensor_dtype_to_np_dtype(kind))
    model.graph.initializer.append(numpy_helper.from_array(zeros[np.newaxis], "zeros"))
    model.graph.node.append(helper.make_node("Identity", ["zeros"], [name]))
    model.graph.output.append(helper.make_tensor_value_info(name, kind, ["N", *shape]))
    if switch:
        model.graph.initializer.append(numpy_helper.from_array(np.array([False]), "with_activation_map"))
        model.graph.input.append(helper.make_tensor_value_info("with_activation_map", TensorProto.BOOL, [1]))
    return model.SerializeToString()


def test_a_model_says_whether_it_returns_embeddings_and_activation_maps(tmp_path, package_folder):
    plain = Model.load(Package.read(package_folder), threads=1)
    assert (plain.has_embedding, plain.has_activation_map) == (False, False)
    package = package_of(tmp_path / "a", model=color_model_with("embedding", [7]))
    model = Model.load(package, threads=1)
    assert (model.has_embedding, model.has_activation_map) == (True, False)
    probabilities, embeddings = model.probabilities_and_embeddings(color_images()[:1])
    np.testing.assert_array_equal(probabilities, model.probabilities(color_images()[:1]))
    np.testing.assert_array_equal(embeddings, np.zeros((1, 7)))
    package = package_of(tmp_path / "b", model=color_model_with("activation_map", [len(COLORS), 2, 3]))
    model = Model.load(package, threads=1)
    assert (model.has_embedding, model.has_activation_map) == (False, True)
    assert model.probabilities_and_activation_maps(color_images()[:1])[1].shape == (1, len(COLORS), 2, 3)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (color_model_with("embedding", [7, 2]), r"output embedding .* is tensor\(float\) \[N, 7, 2\]; .* \[N, E\]"),
        (color_model_with("embedding", [7], kind=TensorProto.DOUBLE), r"is tensor\(double\) \[N, 7\]"),
        (color_model_with("activation_map", [2, 7, 7]), r"activation_map .* \[N, 2, 7, 7\]; .* \[N, 4, H, W\]"),
        (color_model_with("activation_map", [4, 7, 7], switch=False), "no optional input with_activation_map bool"),
        (color_model_with("extra", [4]), "unknown output extra; besides probabilities only embedding and"),
    ],
    ids=["embedding map", "embedding of doubles", "other classes", "no switch", "unknown"],
)
def test_another_output_of_a_wrong_shape_is_refused(tmp_path, model, expected):
    with pytest.raises(PackageError, match=expected):
        Model.load(package_of(tmp_path / "package", model=model), threads=1)


def test_top_classes_are_sorted_by_probability_and_then_by_class():
    probabilities = np.array([0.125, 0.25, 0.25, 0.375], dtype=np.float32)
    assert top_classes(probabilities, "abcd", 3) == [("d", 0.375), ("b", 0.25), ("c", 0.25)]
    assert len(top_classes(probabilities, "abcd", 9)) == 4


@pytest.mark.slow
def test_a_process_that_loaded_the_runtime_has_one_thread_and_may_be_forked():
    code = """
import os
from image_classifier.process import limit_blas_threads
limit_blas_threads()
from image_classifier.package.model import load_runtime
load_runtime()
print(len(os.listdir("/proc/self/task")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
