"""Metrics for Prometheus."""

import base64
import io

import pytest
from prometheus_client.parser import text_string_to_metric_families

from image_classifier.package.identity import ModelIdentity
from tests.serving.apps import NAME, make_client


def samples(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_images_and_stages_are_counted_and_the_model_is_named(model, pngs):
    client = make_client(model)
    for _ in range(3):
        client.post("/predict", data=pngs["red"])
    client.post("/predict", data=b"none")
    client.get("/nowhere")
    response = client.get("/metrics")
    assert response.content_type.startswith("text/plain")
    values = samples(response.text)
    assert values["image_classifier_requests_total", (("route", "/predict"), ("status", "200"))] == 3
    assert values["image_classifier_requests_total", (("route", "/predict"), ("status", "400"))] == 1
    assert values["image_classifier_requests_total", (("route", "none"), ("status", "404"))] == 1
    assert values["image_classifier_images_total", ()] == 3
    assert values["image_classifier_stage_seconds_count", (("stage", "infer"),)] == 3
    assert values["image_classifier_stage_seconds_count", (("stage", "queue"),)] == 4
    assert values["image_classifier_requests_inside", ()] == 0
    [labels] = [dict(labels) for name, labels in values if name == "image_classifier_model"]
    assert labels == ModelIdentity.read(model.package, NAME).to_dict()


def test_a_request_is_counted_once_however_many_images_it_has(model, pngs):
    client = make_client(model)
    encoded = [base64.b64encode(pngs[color]).decode() for color in ("red", "blue", "green")]
    client.post("/predict", data={f"f{n}": (io.BytesIO(pngs["red"]), "a.png") for n in range(3)})
    client.post(f"/v1/models/{NAME}:predict", json={"instances": [{"b64": image} for image in encoded]})
    tensor = {"name": "image", "datatype": "BYTES", "shape": [3], "data": encoded}
    client.post(f"/v2/models/{NAME}/infer", json={"inputs": [tensor]})
    values = samples(client.get("/metrics").text)
    for stage in ("queue", "decode", "infer"):
        assert values["image_classifier_stage_seconds_count", (("stage", stage),)] == 3
    assert values["image_classifier_images_total", ()] == 9
    assert values["image_classifier_requests_by_class_total", (("class", "red"),)] == 3


@pytest.mark.slow
def test_metrics_are_the_sums_over_the_workers(two_workers, pngs):
    def counts():
        values = samples(two_workers.request("GET", "/metrics").body.decode())
        return [
            values["image_classifier_images_total", ()],
            values["image_classifier_stage_seconds_count", (("stage", "decode"),)],
        ]

    assert two_workers.request("POST", "/predict", pngs["red"]).status == 200
    images, decoded = counts()
    for _ in range(40):
        assert two_workers.request("POST", "/predict", pngs["red"]).status == 200
    assert counts() == [images + 40, decoded + 40]
