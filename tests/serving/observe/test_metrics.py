"""What /metrics tells."""

import base64
import io
import re

from prometheus_client.parser import text_string_to_metric_families

from image_classifier.package.identity import Identity
from image_classifier.serving.web.app import create_app
from image_classifier.settings import Settings
from tests.serving.server_process import running


def samples(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_images_and_stages_are_counted_and_the_model_is_named(model, pngs):
    client = create_app(Settings(), model, Identity.read(model.package, "colours")).test_client()
    for _ in range(3):
        client.post("/predict", data=pngs["red"])
    client.post("/predict", data=b"none")
    client.get("/nowhere")
    answer = client.get("/metrics")
    assert answer.content_type.startswith("text/plain")
    found = samples(answer.text)
    assert found["image_classifier_requests_total", (("route", "/predict"), ("status", "200"))] == 3
    assert found["image_classifier_requests_total", (("route", "/predict"), ("status", "400"))] == 1
    assert found["image_classifier_requests_total", (("route", "none"), ("status", "404"))] == 1
    assert found["image_classifier_images_total", ()] == 3
    assert found["image_classifier_stage_seconds_count", (("stage", "infer"),)] == 3
    assert found["image_classifier_stage_seconds_count", (("stage", "queue"),)] == 4
    assert found["image_classifier_requests_inside", ()] == 0
    [labels] = [dict(labels) for name, labels in found if name == "image_classifier_model"]
    assert labels == Identity.read(model.package, "colours").to_dict()


def test_a_request_counts_once_by_each_way_in_however_many_images_it_has(model, pngs):
    client = create_app(Settings(), model, Identity("colours", "1", "", "", "")).test_client()
    encoded = [base64.b64encode(pngs[colour]).decode() for colour in ("red", "blue", "green")]
    client.post("/predict", data={f"f{n}": (io.BytesIO(pngs["red"]), "a.png") for n in range(3)})
    client.post("/v1/models/colours:predict", json={"instances": [{"b64": image} for image in encoded]})
    tensor = {"name": "image", "datatype": "BYTES", "shape": [3], "data": encoded}
    client.post("/v2/models/colours/infer", json={"inputs": [tensor]})
    found = samples(client.get("/metrics").text)
    for stage in ("queue", "decode", "infer"):
        assert found["image_classifier_stage_seconds_count", (("stage", stage),)] == 3
    assert found["image_classifier_images_total", ()] == 9
    assert found["image_classifier_requests_by_class_total", (("class", "red"),)] == 3


def test_the_counts_of_several_workers_add_up(package_folder, pngs, tmp_path):
    with running(package_folder, tmp_path / "log", workers=2) as server:
        for _ in range(40):
            assert server.ask("POST", "/predict", pngs["red"]).status == 200
        found = samples(server.ask("GET", "/metrics").body.decode())
        assert found["image_classifier_images_total", ()] == 40
        assert found["image_classifier_stage_seconds_count", (("stage", "decode"),)] == 40
        answering = {
            int(process) for process in re.findall(r"process=(\d+) event=ready", server.log.read_text())
        }
        assert len(answering) == 2
        assert server.stop() == 0
