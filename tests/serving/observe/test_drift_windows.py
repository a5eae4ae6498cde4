"""What a server says of the images it is sent."""

import base64
import json
import time

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from image_classifier.images.decoder import Extent
from image_classifier.package.identity import Identity
from image_classifier.package.package import Model, Package, encode_png
from image_classifier.package.reference_statistics import CLASS, IMAGE_STATISTICS, SIZE, reference_statistics
from image_classifier.serving.observe.drift_windows import Drift
from image_classifier.serving.web.app import create_app
from image_classifier.settings import Settings
from tests.conftest import COLOURS, write_colour_package
from tests.conftest import SIZE as SIDE
from tests.serving.server_process import running

WINDOW = 50


def noisy(count, seed=0):
    """Images of the four colours, none like the other; uint8 [count, SIDE, SIDE, 3]."""
    random = np.random.default_rng(seed)
    colours = np.array(list(COLOURS.values()))[random.integers(4, size=count)][:, None, None]
    mixed = 0.7 * colours + random.integers(0, 70, (count, 1, 1, 3))
    return np.clip(mixed + random.normal(0, 8, (count, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    """A package that knows what images of the colours look like."""
    images, sizes = noisy(400), np.full((400, 3), SIDE, np.int32)
    folder = tmp_path_factory.mktemp("drift") / "package"
    write_colour_package(folder, reference=reference_statistics(images, sizes, model.probabilities(images)))
    return folder


@pytest.fixture
def client(folder):
    package = Package.read(folder)
    settings = Settings(drift_window=WINDOW)
    return create_app(settings, Model.load(package, 1), Identity.read(package, "colours")).test_client()


def send(client, images):
    for image in images:
        assert client.post("/predict", data=encode_png(image)).status_code == 200


def metrics(client):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def test_before_the_first_window_is_full_nothing_is_said(client):
    send(client, noisy(WINDOW - 1))
    told = client.get("/drift").json
    assert told["verdict"] == "too_few_images"
    assert told["reason"] == "49 images were seen, and 50 are needed to tell"
    assert told["features"] == []
    assert told["window"] == {"images": 0, "needed": 50, "number": 0, "filling": 49}
    assert told["counts"]["images"] == 49
    assert metrics(client)["image_classifier_drift", "too_few_images"] == 1


def test_images_like_those_of_the_reference_are_no_drift(client):
    send(client, noisy(WINDOW, seed=1))
    told = client.get("/drift").json
    assert told["verdict"] == "no_drift"
    assert {feature["name"] for feature in told["features"]} == {*IMAGE_STATISTICS, SIZE, "confidence", CLASS}
    assert told["false_alarm_rate"] == 0.01
    assert told["model"]["name"] == "colours"


def test_darker_images_are_drift_and_what_has_changed_is_named(client):
    send(client, noisy(WINDOW, seed=1) // 2)
    told = client.get("/drift").json
    assert told["verdict"] == "drift"
    assert "brightness is lower" in told["reason"]
    found = metrics(client)
    assert found["image_classifier_drift", "drift"] == 1
    assert found["image_classifier_drift", "no_drift"] == 0
    assert found["image_classifier_drift_distance", "brightness"] > 0.5
    assert found["image_classifier_drift_p_value", "brightness"] < 0.001
    assert found["image_classifier_drift_windows_total",] == 1


def test_the_next_window_decides_anew(client):
    send(client, noisy(WINDOW, seed=1) // 2)
    assert client.get("/drift").json["verdict"] == "drift"
    send(client, noisy(WINDOW, seed=2))
    assert client.get("/drift").json["verdict"] == "no_drift"


def test_an_image_counts_alike_by_every_way(client):
    images = noisy(3)
    send(client, images)
    once = client.get("/drift").json["counts"]["features"]
    encoded = [base64.b64encode(encode_png(image)).decode() for image in images]
    client.post("/v1/models/colours:predict", json={"instances": [{"b64": image} for image in encoded]})
    tensor = {"name": "image", "datatype": "BYTES", "shape": [3], "data": encoded}
    client.post("/v2/models/colours/infer", json={"inputs": [tensor]})
    thrice = client.get("/drift").json["counts"]
    assert thrice["images"] == 9
    assert thrice["features"] == {name: [3 * n for n in counts] for name, counts in once.items()}


def test_pixels_that_come_as_a_tensor_have_no_size(client):
    tensor = {"name": "image", "datatype": "UINT8", "shape": [2, SIDE, SIDE, 3], "data": noisy(2).tolist()}
    client.post("/v2/models/colours/infer", json={"inputs": [tensor]})
    features = client.get("/drift").json["counts"]["features"]
    assert (sum(features[SIZE]), sum(features["brightness"]), sum(features[CLASS])) == (0, 2, 2)


def test_images_that_only_an_explanation_was_made_of_do_not_count(client):
    assert client.post("/explain", data=encode_png(noisy(1)[0])).status_code == 200
    assert client.get("/drift").json["counts"]["images"] == 0


def test_of_a_large_request_some_images_are_looked_at(client):
    tensor = {"name": "image", "datatype": "UINT8", "shape": [200, SIDE, SIDE, 3]}
    header = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 200 * SIDE * SIDE * 3}}]})
    answer = client.post(
        "/v2/models/colours/infer",
        data=header.encode() + noisy(200).tobytes(),
        headers={"Inference-Header-Content-Length": str(len(header))},
    )
    assert answer.status_code == 200
    counts = client.get("/drift").json["counts"]
    assert counts["images"] == sum(counts["features"][CLASS]) == 50


def test_more_images_than_can_be_looked_at_in_a_moment_are_a_sample(folder):
    package = Package.read(folder)
    drift, images = Drift(Settings(), package), noisy(1)
    answers = Model.load(package, 1).probabilities(images)
    for _ in range(1000):
        drift.see(images, answers, [Extent(SIDE, SIDE)])
    counts = drift.report(Identity("colours", "1", "", "", ""))["counts"]
    assert 128 <= counts["images"] < 1000
    assert sum(counts["features"][SIZE]) == counts["images"]


def test_what_waits_is_counted_soon_though_nobody_asks(folder):
    package = Package.read(folder)
    observed, images = Drift(Settings(), package), noisy(3)
    observed.see(images, Model.load(package, 1).probabilities(images), [])
    deadline = time.monotonic() + 10
    while observed._observations.seen().images < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_package_of_an_earlier_version_is_served_without_a_verdict(model):
    client = create_app(Settings(), model, Identity("colours", "1", "", "", "")).test_client()
    send(client, noisy(2))
    told = client.get("/drift").json
    assert told["verdict"] == "no_reference"
    assert "train it again" in told["reason"]
    assert metrics(client)["image_classifier_drift", "no_reference"] == 1


def test_who_lacks_the_token_learns_nothing_of_the_images(folder):
    package = Package.read(folder)
    identity = Identity.read(package, "colours")
    client = create_app(Settings(token="secret"), Model.load(package, 1), identity).test_client()
    assert client.get("/drift").status_code == 401
    assert client.get("/drift", headers={"Authorization": "Bearer secret"}).status_code == 200
    assert "The images it is sent" not in client.get("/").text


def test_the_page_tells_the_verdict(client):
    assert "Not enough images yet" in client.get("/").text
    send(client, noisy(WINDOW, seed=1) // 2)
    assert "They have changed" in client.get("/").text
    assert "rightness is lower" in client.get("/").text


def test_several_workers_fill_one_window_together(folder, tmp_path):
    with running(folder, tmp_path / "log", "--drift-window", str(WINDOW), workers=2) as server:
        for image in noisy(WINDOW, seed=1) // 2:
            assert server.ask("POST", "/predict", encode_png(image)).status == 200
        # Each counts what it was asked a moment later.
        deadline = time.monotonic() + 10
        while server.ask("GET", "/drift").json["verdict"] == "too_few_images":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        told = [server.ask("GET", "/drift").json for _ in range(6)]
        assert {each["verdict"] for each in told} == {"drift"}
        assert {each["counts"]["images"] for each in told} == {WINDOW}
        assert len({each["counts"]["instance"] for each in told}) == 1
        assert "image_classifier_drift_windows_total 1.0" in server.ask("GET", "/metrics").body.decode()
        assert server.stop() == 0
