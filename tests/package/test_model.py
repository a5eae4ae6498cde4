import subprocess
import sys

import numpy as np
import pytest

from image_classifier.errors import PackageError
from image_classifier.package.model import Model, top_classes
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
