"""Input drift: what a server reports about the images that it receives."""

import base64
import json
import time

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from image_classifier.images.decoder import Dimensions
from image_classifier.package.identity import ModelIdentity
from image_classifier.package.model import Model
from image_classifier.package.package import Package, encode_png
from image_classifier.package.reference_statistics import (
    CLASS_FEATURE,
    IMAGE_STATISTICS,
    SIZE_FEATURE,
    compute_reference,
)
from image_classifier.serving.observe import drift_monitor
from image_classifier.serving.observe.drift_monitor import DriftMonitor
from tests.conftest import SIZE, write_color_package
from tests.embedding_model import reflected, shaded_images, write_embedding_package
from tests.serving.apps import BROWSER, NAME, make_client
from tests.serving.observe.noisy_images import noisy_images
from tests.serving.server_process import running

WINDOW = 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    """A package with reference statistics."""
    images, sizes = noisy_images(400), np.full((400, 3), SIZE, np.int32)
    folder = tmp_path_factory.mktemp("drift") / "package"
    write_color_package(folder, reference=compute_reference(images, sizes, model.probabilities(images)))
    return folder


@pytest.fixture(scope="module")
def monitored(folder):
    return Model.load(Package.read(folder), 1)


@pytest.fixture
def client(monitored):
    return make_client(monitored, drift_window=WINDOW)


def send(client, images):
    for image in images:
        assert client.post("/predict", data=encode_png(image)).status_code == 200


def metrics(client):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def test_before_the_first_window_is_full_there_is_no_verdict(client):
    send(client, noisy_images(WINDOW - 1))
    report = client.get("/drift").json
    assert report["verdict"] == "too_few_images"
    assert report["reason"].startswith("49 of the 50 images")
    assert report["features"] == []
    assert report["window"] == {"images": 0, "needed": 50, "number": 0, "filling": 49}
    assert report["counts"]["images"] == 49
    assert metrics(client)["image_classifier_drift", "too_few_images"] == 1


def test_images_like_the_reference_are_no_drift(client):
    send(client, noisy_images(WINDOW, seed=1))
    report = client.get("/drift").json
    assert report["verdict"] == "no_drift"
    features = {feature["name"] for feature in report["features"]}
    assert features == {*IMAGE_STATISTICS, SIZE_FEATURE, "confidence", CLASS_FEATURE}
    assert report["false_alarm_rate"] == 0.01
    assert report["model"]["name"] == NAME


def test_darker_images_are_drift_and_the_changed_feature_is_named(client):
    send(client, noisy_images(WINDOW, seed=1) // 2)
    report = client.get("/drift").json
    assert report["verdict"] == "drift"
    assert "brightness is lower" in report["reason"]
    samples = metrics(client)
    assert samples["image_classifier_drift", "drift"] == 1
    assert samples["image_classifier_drift", "no_drift"] == 0
    assert samples["image_classifier_drift_distance", "brightness"] > 0.5
    assert samples["image_classifier_drift_p_value", "brightness"] < 0.001
    assert samples["image_classifier_drift_windows_total",] == 1
    page = client.get("/", headers=BROWSER).text
    assert "Detected" in page
    assert "rightness is lower" in page


def test_each_window_is_tested_separately(client):
    send(client, noisy_images(WINDOW, seed=1) // 2)
    assert client.get("/drift").json["verdict"] == "drift"
    send(client, noisy_images(WINDOW, seed=2))
    assert client.get("/drift").json["verdict"] == "no_drift"


def test_an_image_is_counted_the_same_in_every_protocol(client):
    images = noisy_images(3)
    send(client, images)
    once = client.get("/drift").json["counts"]["features"]
    encoded = [base64.b64encode(encode_png(image)).decode() for image in images]
    client.post(f"/v1/models/{NAME}:predict", json={"instances": [{"b64": image} for image in encoded]})
    tensor = {"name": "image", "datatype": "BYTES", "shape": [3], "data": encoded}
    client.post(f"/v2/models/{NAME}/infer", json={"inputs": [tensor]})
    counts = client.get("/drift").json["counts"]
    assert counts["images"] == 9
    assert counts["features"] == {name: [3 * n for n in values] for name, values in once.items()}


def test_images_sent_as_pixels_have_no_size(client):
    tensor = {"name": "image", "datatype": "UINT8", "shape": [2, SIZE, SIZE, 3], "data": noisy_images(2).tolist()}
    client.post(f"/v2/models/{NAME}/infer", json={"inputs": [tensor]})
    features = client.get("/drift").json["counts"]["features"]
    assert [sum(features[name]) for name in (SIZE_FEATURE, "brightness", CLASS_FEATURE)] == [0, 2, 2]


def test_explained_images_are_not_counted(client):
    assert client.post("/explain", data=encode_png(noisy_images(1)[0])).status_code == 200
    assert client.get("/drift").json["counts"]["images"] == 0


def test_a_sample_of_the_images_of_a_large_request_is_counted(client):
    tensor = {"name": "image", "datatype": "UINT8", "shape": [200, SIZE, SIZE, 3]}
    header = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 200 * SIZE * SIZE * 3}}]})
    response = client.post(
        f"/v2/models/{NAME}/infer",
        data=header.encode() + noisy_images(200).tobytes(),
        headers={"Inference-Header-Content-Length": str(len(header))},
    )
    assert response.status_code == 200
    counts = client.get("/drift").json["counts"]
    assert counts["images"] == sum(counts["features"][CLASS_FEATURE]) == 50


def test_a_sample_is_counted_if_images_arrive_faster_than_they_are_counted(monitored):
    monitor, images = DriftMonitor(monitored.package, window=500, false_alarms=0.01), noisy_images(1)
    probabilities = monitored.probabilities(images)
    for _ in range(1000):
        monitor.observe(images, probabilities, [Dimensions(SIZE, SIZE)])
    counts = monitor.report(ModelIdentity(NAME, "1", "", "", ""))["counts"]
    assert 128 <= counts["images"] < 1000
    assert sum(counts["features"][SIZE_FEATURE]) == counts["images"]


def test_queued_images_are_counted_in_the_background(monitored, monkeypatch):
    monkeypatch.setattr(drift_monitor, "_INTERVAL_SECONDS", 0.01)
    monitor, images = DriftMonitor(monitored.package, window=500, false_alarms=0.01), noisy_images(3)
    monitor.observe(images, monitored.probabilities(images), [])
    deadline = time.monotonic() + 10
    while monitor._counts.snapshot().images < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_package_without_reference_statistics_is_served_without_a_verdict(model):
    client = make_client(model)
    send(client, noisy_images(2))
    report = client.get("/drift").json
    assert report["verdict"] == "no_reference"
    assert "train it again" in report["reason"]
    assert metrics(client)["image_classifier_drift", "no_reference"] == 1


def test_a_token_protects_the_drift_report(monitored):
    client = make_client(monitored, token="secret")
    assert client.get("/drift").status_code == 401
    assert client.get("/drift", headers={"Authorization": "Bearer secret"}).status_code == 200
    assert "Input drift" not in client.get("/", headers=BROWSER).text


def test_the_page_says_that_there_are_not_enough_images(client):
    assert "Not enough images yet" in client.get("/", headers=BROWSER).text


@pytest.fixture(scope="module")
def embedding_folder(tmp_path_factory):
    """A package of a model with embeddings."""
    folder = tmp_path_factory.mktemp("embeddings") / "package"
    write_embedding_package(folder)
    return folder


@pytest.fixture
def embedding_client(embedding_folder):
    return make_client(Model.load(Package.read(embedding_folder), 1), drift_window=WINDOW)


def test_images_with_other_embeddings_are_drift_even_if_their_statistics_are_equal(embedding_client):
    send(embedding_client, shaded_images(WINDOW, seed=1))
    report = embedding_client.get("/drift").json
    assert report["verdict"] == "no_drift"
    assert report["features"][-1]["in_words"] == (
        "no significant difference in how the images look (embeddings of 50, compared with 200)"
    )
    send(embedding_client, reflected(shaded_images(WINDOW, seed=2)))
    report = embedding_client.get("/drift").json
    assert report["verdict"] == "drift"
    assert report["reason"] == "the images look different (embeddings of 50, compared with 200)"
    samples = metrics(embedding_client)
    assert samples["image_classifier_drift_distance", "embedding"] > 0.2
    assert samples["image_classifier_drift_p_value", "embedding"] < 0.001
    page = embedding_client.get("/", headers=BROWSER).text
    assert "The images look different" in page
    assert "50 images of\n            the window were compared with reference images" in page


def test_the_report_has_the_newest_embeddings_as_few_numbers(embedding_client):
    send(embedding_client, shaded_images(3))
    counts = embedding_client.get("/drift").json["counts"]
    assert counts["embedded"] == 3
    assert len(base64.b64decode(counts["embeddings"])) <= 3 * 32 * 2


def test_without_embeddings_the_report_has_the_keys_as_before(client):
    send(client, noisy_images(1))
    assert set(client.get("/drift").json["counts"]) == {"instance", "images", "features"}
    assert "embedding" not in client.get("/", headers=BROWSER).text.lower()


def test_an_image_has_the_same_embedding_in_every_protocol(embedding_client):
    image = shaded_images(1)[0]
    send(embedding_client, [image])
    encoded = base64.b64encode(encode_png(image)).decode()
    embedding_client.post(f"/v1/models/{NAME}:predict", json={"instances": [{"b64": encoded}]})
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, SIZE, SIZE, 3], "data": [image.tolist()]}
    embedding_client.post(f"/v2/models/{NAME}/infer", json={"inputs": [tensor]})
    counts = embedding_client.get("/drift").json["counts"]
    rows = np.frombuffer(base64.b64decode(counts["embeddings"]), np.float16).reshape(3, -1)
    assert np.abs(rows).max() > 0.1
    np.testing.assert_allclose(rows, rows[[0, 0, 0]], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_several_workers_keep_the_embeddings_of_one_window_together(embedding_folder, tmp_path):
    options = ("--drift-window", str(WINDOW), "--drain-timeout", "0")
    with running(embedding_folder, tmp_path / "log", *options, workers=2) as server:
        for image in reflected(shaded_images(WINDOW, seed=1)):
            assert server.request("POST", "/predict", encode_png(image)).status == 200
        # Each worker counts its images a moment later.
        deadline = time.monotonic() + 10
        while server.request("GET", "/drift").json["verdict"] == "too_few_images":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        report = server.request("GET", "/drift").json
        assert report["counts"]["embedded"] == WINDOW
        assert report["features"][-1]["images"] == WINDOW
        assert "the images look different" in report["reason"]
        assert server.stop() == 0


@pytest.mark.slow
def test_several_workers_fill_one_window_together(folder, tmp_path):
    options = ("--drift-window", str(WINDOW), "--drain-timeout", "0")
    with running(folder, tmp_path / "log", *options, workers=2) as server:
        for image in noisy_images(WINDOW, seed=1) // 2:
            assert server.request("POST", "/predict", encode_png(image)).status == 200
        # Each worker counts its images a moment later.
        deadline = time.monotonic() + 10
        while server.request("GET", "/drift").json["verdict"] == "too_few_images":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        reports = [server.request("GET", "/drift").json for _ in range(6)]
        assert {report["verdict"] for report in reports} == {"drift"}
        assert {report["counts"]["images"] for report in reports} == {WINDOW}
        assert len({report["counts"]["instance"] for report in reports}) == 1
        text = server.request("GET", "/metrics").body.decode()
        assert "image_classifier_drift_windows_total 1.0" in text
        assert server.stop() == 0
