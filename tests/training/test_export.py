import numpy as np
import onnx
import pytest
import torch

from image_classifier.errors import PackageError
from image_classifier.images.decoder import decode
from image_classifier.package.package import Model, Package
from image_classifier.package.reference_statistics import CLASS, CONFIDENCE, IMAGE_STATISTICS
from image_classifier.training.export import export_graph, export_package
from image_classifier.training.network import Classifier, Network
from image_classifier.training.quantization import choose
from tests.training.test_fit import stripes


def classifier_of(size: int, *, channels: int = 3, mirror: bool = False) -> Classifier:
    torch.manual_seed(0)
    network = Network(channels=channels, classes=4, image_size=size, width=0.5)
    network.whiten(torch.randn(16, channels, size, size))
    network.train()
    network(torch.randn(64, channels, size, size))
    network.eval()
    mean, deviation = torch.full((channels,), 120.0), torch.full((channels,), 60.0)
    return Classifier(network, mean, deviation, mirror=mirror, temperature=0.1).eval()


@pytest.mark.parametrize(("size", "channels", "mirror"), [(8, 1, False), (32, 3, True)])
def test_the_package_answers_as_the_classifier_for_any_number_of_images(tmp_path, size, channels, mirror):
    dataset = stripes(size, images=40)
    classifier = classifier_of(size, channels=channels, mirror=mirror)
    package = export_package(
        tmp_path / "package",
        classifier,
        dataset,
        np.arange(0, 40, 2),
        {"run_id": "r"},
        precision="float32",
        threads=1,
    )
    model = Model.load(package, threads=1)
    for count in (1, 3, 40):
        images = dataset.train.images[:count]
        with torch.inference_mode():
            expected = classifier(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(model.probabilities(images), expected, atol=1e-4)
    assert package.classes == dataset.classes
    assert {golden.label for golden in package.golden} == {"c0", "c2"}
    assert package.reference["images"] == 40
    features = package.reference["features"]
    assert {name: sum(each["counts"]) for name, each in features.items()} == {
        **dict.fromkeys(IMAGE_STATISTICS, 40),
        CONFIDENCE: 20,
        CLASS: 20,
    }


def test_a_package_with_8_bit_integers_records_what_they_answer(tmp_path):
    dataset = stripes(16, images=200)
    validation = np.arange(0, 200, 2)
    package = export_package(
        tmp_path / "package", classifier_of(16), dataset, validation, {"a": 1}, precision="int8", threads=1
    )
    model = Model.load(package, threads=1)
    images, labels = dataset.train.images[validation], dataset.train.labels[validation]
    answers = model.probabilities(images)
    record = package.provenance["precision"]
    assert record["chosen"] == "int8"
    assert record["int8"]["bytes"] == package.model_file.stat().st_size < record["float32"]["bytes"]
    right = float((answers.argmax(axis=1) == labels).mean())
    assert package.provenance["validation_accuracy"] == record["int8"]["validation_accuracy"] == right
    assert package.provenance["a"] == 1
    predicted = np.bincount(answers.argmax(axis=1), minlength=4).tolist()
    assert package.reference["features"][CLASS]["counts"] == predicted
    # Which no float32 graph gives.
    for golden in package.golden:
        image = decode(golden.png, 16, 10**4)[np.newaxis]
        np.testing.assert_allclose(model.probabilities(image)[0], golden.probabilities, rtol=0, atol=1e-6)


def test_8_bit_integers_are_calibrated_on_images_that_choose_nothing(monkeypatch, tmp_path):
    dataset = stripes(8, images=100)
    validation = np.arange(0, 100, 5)
    seen = {}

    def kept(precision, model, probabilities, calibration, images, labels):
        seen["calibration"] = {image.tobytes() for image in calibration}
        return choose("float32", model, probabilities, calibration, images, labels)

    monkeypatch.setattr("image_classifier.training.export.choose", kept)
    export_package(tmp_path / "package", classifier_of(8), dataset, validation, {}, threads=1)
    validated = {image.tobytes() for image in dataset.train.images[validation]}
    tested = {image.tobytes() for image in dataset.test.images}
    assert len(seen["calibration"]) == 80
    assert not seen["calibration"] & (validated | tested)


def test_a_relu_comes_before_the_pool_it_followed():
    graph = onnx.load_from_string(
        export_graph(classifier_of(32, mirror=True), ("a", "b", "c", "d"), 32)
    ).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    fed_by = {node.op_type: made_by.get(node.input[0]) for node in graph.node if node.op_type != "Conv"}
    assert (fed_by["MaxPool"], fed_by["Relu"]) == ("Relu", "Conv")


def test_the_graph_names_the_classes_and_no_file_of_this_machine():
    content = export_graph(classifier_of(8), ("a", "b", "c", "d"), 8)
    properties = {item.key: item.value for item in onnx.load_from_string(content).metadata_props}
    assert properties == {"classes": "a\nb\nc\nd", "image_size": "8"}
    assert b"/image_classifier/" not in content


def test_a_graph_that_answers_otherwise_leaves_no_package(tmp_path):
    class Drifting(Classifier):
        """Answers differently each time it is asked: no export can agree with it."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            probabilities = super().forward(image)
            return probabilities if torch.compiler.is_compiling() else probabilities.roll(1, 1)

    drifting = classifier_of(8)
    drifting.__class__ = Drifting
    with pytest.raises(PackageError, match="answers otherwise|golden image"):
        export_package(tmp_path / "package", drifting, stripes(8), np.arange(20), {}, threads=1)
    assert list(tmp_path.iterdir()) == []


def test_the_package_of_before_survives_a_failed_export(tmp_path):
    before = export_package(tmp_path / "package", classifier_of(8), stripes(8), np.arange(20), {}, threads=1)
    with pytest.raises(ValueError, match="Out of range float"):
        export_package(
            tmp_path / "package", classifier_of(8), stripes(8), np.arange(20), {"a": float("nan")}, threads=1
        )
    assert Package.read(tmp_path / "package") == before
