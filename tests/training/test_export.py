from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from image_classifier.backbones.feature_graph import FEATURES, FeatureGraph
from image_classifier.errors import PackageError
from image_classifier.images.decoder import decode
from image_classifier.monitoring.drift_reference import DriftReference
from image_classifier.package.model import INPUT, Model
from image_classifier.package.package import Package
from image_classifier.package.reference_statistics import CLASS_FEATURE, CONFIDENCE_FEATURE, IMAGE_STATISTICS
from image_classifier.training.export import _calibration_images, export_graph, export_package
from image_classifier.training.network import Classifier
from image_classifier.training.quantization import choose_precision
from image_classifier.training.transfer.classifier import BackboneClassifier
from image_classifier.training.transfer.head import Head
from tests.training.samples import stripes, untrained_classifier

pytestmark = pytest.mark.slow


def pixels_classifier(size, classes=4):
    """A classifier on a backbone whose features are the pixels of the middle row."""
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Gather", [INPUT, "middle"], ["row"], axis=1),
            onnx.helper.make_node("Cast", ["row"], ["float"], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("Flatten", ["float"], [FEATURES]),
        ],
        "pixels",
        [tensor(INPUT, onnx.TensorProto.UINT8, ["N", size, size, 3])],
        [tensor(FEATURES, onnx.TensorProto.FLOAT, ["N", 3 * size])],
        [onnx.numpy_helper.from_array(np.array(size // 2, np.int64), "middle")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    weight = np.random.default_rng(0).normal(0, 0.01, (3 * size, classes)).astype(np.float32)
    head = Head(weight, np.zeros(classes, np.float32), 0.0)
    return BackboneClassifier(FeatureGraph(model, size, 3 * size), head, temperature=1.0)


@pytest.mark.parametrize(
    ("parameters", "is_tuned"), [({"fine_tuned": False}, False), ({"fine_tuned": True}, True), ({}, True)]
)
def test_the_reference_has_embeddings_that_neither_model_nor_projection_were_fitted_to(tmp_path, parameters, is_tuned):
    dataset, validation = stripes(16, images=240), np.arange(0, 240, 3)
    package = export_package(
        tmp_path / "package",
        pixels_classifier(16),
        dataset,
        validation,
        {"parameters": parameters},
        precision="float32",
        threads=1,
    )
    trained = np.setdiff1d(np.arange(240), validation)
    expected = validation if is_tuned else np.union1d(validation, trained[1::2])
    embedding = DriftReference.of(package).embedding
    _, embeddings = Model.load(package, threads=1).probabilities_and_embeddings(dataset.train.images)
    projected = embedding.project(embeddings)
    np.testing.assert_allclose(embedding.sample, projected[expected], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(projected[trained[::2]].mean(axis=0), 0, atol=1e-3)


def test_few_photos_are_exported_without_a_reference_for_embeddings(tmp_path):
    dataset = stripes(16, images=10)
    package = export_package(
        tmp_path / "package", pixels_classifier(16), dataset, np.arange(5), {}, precision="float32", threads=1
    )
    assert DriftReference.of(package).embedding is None


@pytest.mark.parametrize(("size", "channels", "flip"), [(8, 1, False), (32, 3, True)])
def test_the_package_predicts_like_the_classifier_for_batches_of_any_size(tmp_path, size, channels, flip):
    dataset = stripes(size, images=40)
    classifier = untrained_classifier(size, channels=channels, test_time_flip=flip)
    package = export_package(
        tmp_path / "package", classifier, dataset, np.arange(0, 40, 2), {"run_id": "r"}, precision="float32", threads=1
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
        CONFIDENCE_FEATURE: 20,
        CLASS_FEATURE: 20,
    }


def test_an_int8_package_holds_the_int8_model_s_measurements(tmp_path):
    dataset = stripes(16, images=200)
    validation = np.arange(0, 200, 2)
    package = export_package(
        tmp_path / "package",
        untrained_classifier(16),
        dataset,
        validation,
        {"parameters": {"a": 1}},
        precision="int8",
        threads=1,
    )
    model = Model.load(package, threads=1)
    images, labels = dataset.train.images[validation], dataset.train.labels[validation]
    probabilities = model.probabilities(images)
    record = package.provenance["precision"]
    assert record["chosen"] == "int8"
    assert record["int8"]["bytes"] == package.model_file.stat().st_size < record["float32"]["bytes"]
    accuracy = float((probabilities.argmax(axis=1) == labels).mean())
    assert package.provenance["validation_accuracy"] == record["int8"]["validation_accuracy"] == accuracy
    assert package.provenance["parameters"] == {"a": 1, "temperature": record["int8"]["temperature"]}
    assert record["int8"]["temperature"] != record["float32"]["temperature"]
    predicted = np.bincount(probabilities.argmax(axis=1), minlength=4).tolist()
    assert package.reference["features"][CLASS_FEATURE]["counts"] == predicted
    # A float32 graph would not return exactly these.
    for golden in package.golden:
        image = decode(golden.png, 16, 10**4)[np.newaxis]
        np.testing.assert_allclose(model.probabilities(image)[0], golden.probabilities, rtol=0, atol=1e-6)


def test_int8_is_calibrated_on_images_outside_the_validation_split(monkeypatch, tmp_path):
    dataset = stripes(8, images=100)
    validation = np.arange(0, 100, 5)
    calibrated = set()

    def record_calibration(precision, model, temperature, probabilities, calibration, images, labels):
        calibrated.update(image.tobytes() for batch in calibration.batches() for image in batch)
        return choose_precision("float32", model, temperature, probabilities, calibration, images, labels)

    monkeypatch.setattr("image_classifier.training.export.choose_precision", record_calibration)
    export_package(tmp_path / "package", untrained_classifier(8), dataset, validation, {}, threads=1)
    validated = {image.tobytes() for image in dataset.train.images[validation]}
    tested = {image.tobytes() for image in dataset.test.images}
    assert len(calibrated) == 80
    assert not calibrated & (validated | tested)


@pytest.mark.parametrize(("size", "count"), [(8, 512), (128, 512), (224, 167), (384, 128)])
def test_int8_of_large_images_is_calibrated_on_fewer_of_them_of_all_classes(size, count):
    dataset = stripes(8, images=1000)
    labels = np.sort(dataset.train.labels)
    dataset = replace(dataset, image_size=size, train=replace(dataset.train, labels=labels))
    calibration = _calibration_images(dataset, np.arange(0, 1000, 5))
    assert len(calibration) == count
    assert np.bincount(labels[calibration.rows]).min() > count // 5


def test_export_holds_one_batch_of_images_in_memory(tmp_path):
    class Watched(np.ndarray):
        """Images that know the largest number that was read at once."""

        largest = 0

        def __getitem__(self, key):
            images = np.asarray(super().__getitem__(key))
            Watched.largest = max(Watched.largest, len(images) if images.ndim == 4 else 1)
            return images

    dataset = stripes(8, images=700)
    dataset = replace(dataset, train=replace(dataset.train, images=dataset.train.images.view(Watched)))
    export_package(
        tmp_path / "package", untrained_classifier(8), dataset, np.arange(0, 700, 2), {}, precision="int8", threads=1
    )
    assert Watched.largest == 256


@pytest.fixture(scope="module")
def model():
    return export_graph(untrained_classifier(32, test_time_flip=True), ("a", "b", "c", "d"), 32)


def test_each_max_pool_follows_its_relu(model):
    graph = onnx.load_from_string(model).graph
    producers = {name: node.op_type for node in graph.node for name in node.output}
    inputs = {node.op_type: producers.get(node.input[0]) for node in graph.node if node.op_type != "Conv"}
    assert (inputs["MaxPool"], inputs["Relu"]) == ("Relu", "Conv")


def test_the_graph_names_the_classes_but_no_paths_of_this_machine(model):
    properties = {item.key: item.value for item in onnx.load_from_string(model).metadata_props}
    assert properties == {"classes": "a\nb\nc\nd", "image_size": "32"}
    assert b"/image_classifier/" not in model


def test_no_package_is_written_if_the_graph_predicts_differently(tmp_path):
    class Drifting(Classifier):
        """Predicts differently when it is exported."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            probabilities = super().forward(image)
            return probabilities if torch.compiler.is_compiling() else probabilities.roll(1, 1)

    drifting = untrained_classifier(8)
    drifting.__class__ = Drifting
    with pytest.raises(PackageError, match="probabilities differ from the trained one's on 20 of 20 validation images"):
        export_package(tmp_path / "package", drifting, stripes(8), np.arange(20), {}, threads=1)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_keeps_the_previous_package(tmp_path):
    previous = export_package(tmp_path / "package", untrained_classifier(8), stripes(8), np.arange(20), {}, threads=1)
    with pytest.raises(ValueError, match="Out of range float"):
        export_package(
            tmp_path / "package", untrained_classifier(8), stripes(8), np.arange(20), {"a": float("nan")}, threads=1
        )
    assert Package.read(tmp_path / "package") == previous
