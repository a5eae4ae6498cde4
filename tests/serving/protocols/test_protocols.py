"""KServe's V1 and the Open Inference Protocol: the same answer through every way in, to unmodified clients."""

import asyncio
import base64
import json
import threading

import numpy as np
import pytest
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from tritonclient.http import InferenceServerClient, InferRequestedOutput
from tritonclient.http import InferInput as TritonInput
from tritonclient.utils import InferenceServerException

from image_classifier.images.decoder import decode
from image_classifier.package.identity import Identity
from image_classifier.serving.web.app import create_app
from image_classifier.settings import Settings
from tests.conftest import COLOURS

NAME = "colours"
INFER = f"/v2/models/{NAME}/infer"


@pytest.fixture(scope="module")
def client(model):
    identity = Identity(NAME, "7", "digest", "revision", "data")
    return create_app(Settings(name="workload", max_upload=1_000_000), model, identity).test_client()


def encoded(png):
    return base64.b64encode(png).decode()


def image_input(data, datatype="BYTES", shape=None):
    return {"name": "image", "datatype": datatype, "shape": shape or [len(data)], "data": data}


def told(answer):
    """Label to probability, of the first prediction of ours."""
    return {entry["label"]: entry["probability"] for entry in answer["predictions"][0]["top"]}


def test_every_way_in_gives_the_same_probabilities(client, model, pngs):
    png = pngs["blue"]
    image = decode(png, model.package.image_size, 10**6)
    ways = {
        "raw": told(client.post("/predict", data=png).json),
        "v1 encoded": told(
            client.post(f"/v1/models/{NAME}:predict", json={"instances": [{"b64": encoded(png)}]}).json
        ),
        "v1 pixels": told(
            client.post(f"/v1/models/{NAME}:predict", json={"instances": [image.tolist()]}).json
        ),
    }
    bodies = {
        "v2 encoded": image_input([encoded(png)]),
        "v2 pixels": image_input(image.ravel().tolist(), "UINT8", [1, *image.shape]),
    }
    for way, entry in bodies.items():
        answer = client.post(INFER, json={"inputs": [entry]}).json
        rows = {output["name"]: output["data"] for output in answer["outputs"]}
        assert rows["label"] == ["blue"]
        ways[way] = {
            label: round(p, 6) for label, p in zip(model.classes, rows["probabilities"], strict=True)
        }
    assert ways["raw"]["blue"] > 0.99
    assert [name for name, found in ways.items() if found != ways["raw"]] == []


def test_v1_tells_of_the_model(client):
    assert client.get("/v1/models").json == {"models": [NAME]}
    assert client.get(f"/v1/models/{NAME}").json == {"name": NAME, "ready": True}
    assert client.get("/v1/models/workload").json == {"name": "workload", "ready": True}
    assert "only colours" in client.get("/v1/models/other").json["error"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"instances": []}, "at least one instance"),
        ({"instances": {}}, "at least one instance"),
        ({}, "at least one instance"),
        ({"instances": [{"b64": "#"}]}, "b64 of instance 0 is no base64"),
        ({"instances": [{"image": "x"}]}, "b64 of instance 0 is null"),
        ({"instances": [{"b64": "aGFsbG8="}]}, "instance 0: this is no image"),
        ({"instances": [[[1, 2, 3]]]}, "instance 0 of shape"),
        ({"instances": ["text"]}, "instance 0"),
    ],
)
def test_v1_names_what_is_wrong(client, body, words):
    answer = client.post(f"/v1/models/{NAME}:predict", json=body)
    assert answer.status_code == 400
    assert words in answer.json["error"]


def test_v2_tells_of_server_and_model(client, model):
    assert client.get("/v2").json["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json == {"live": True}
    assert client.get("/v2/health/ready").json == {"ready": True}
    about = client.get(f"/v2/models/{NAME}").json
    size = model.package.image_size
    assert about["versions"] == ["7"]
    assert about["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, size, size, 3]}]
    assert client.get(f"/v2/models/{NAME}/versions/7/ready").json == {"name": NAME, "ready": True}
    assert client.get(f"/v2/models/{NAME}/versions/8").status_code == 404
    assert "version 7, not 8" in client.get(f"/v2/models/{NAME}/versions/8/ready").json["error"]


def test_v2_gives_id_version_and_the_outputs_that_are_asked_for(client, pngs):
    body = {
        "id": "a-1",
        "inputs": [image_input([encoded(pngs[colour]) for colour in COLOURS])],
        "outputs": [{"name": "label"}],
    }
    answer = client.post(f"/v2/models/{NAME}/versions/7/infer", json=body).json
    assert answer == {
        "model_name": NAME,
        "model_version": "7",
        "id": "a-1",
        "outputs": [{"name": "label", "datatype": "BYTES", "shape": [len(COLOURS)], "data": list(COLOURS)}],
    }


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"inputs": [image_input(["AA=="], shape=[1, 1])]}, "has shape [1, 1], not [N]"),
        ({"inputs": [image_input([], shape=[0])]}, "with N from 1"),
        (
            {"inputs": [image_input([0] * 3, "UINT8", [1, 1, 1, 3])]},
            "tensor image (UINT8) has shape [1, 1, 1, 3], not",
        ),
        ({"inputs": [image_input(["AA=="]), image_input(["AA=="])]}, "one input, image"),
        ({"inputs": [{**image_input(["AA=="]), "name": "x"}]}, "the inputs are x"),
        ({"inputs": [image_input(["AA=="])], "outputs": [{"name": "y"}]}, "no output 'y'"),
        ({"inputs": [image_input(["AA=="])]}, "element 0 of image: this is no image"),
    ],
)
def test_v2_names_what_is_wrong(client, members, words):
    answer = client.post(INFER, json=members)
    assert answer.status_code == 400
    assert words in answer.json["error"]


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_kserves_client_gets_right_answers(server, model, pngs, protocol):
    name = server.ask("GET", "/v1/models").json["models"][0]

    async def ask():
        client = InferenceRESTClient(RESTConfig(protocol=protocol, timeout=30))
        try:
            if protocol == "v2":
                assert await client.is_server_ready(server.address)
            assert await client.is_model_ready(server.address, name)
            if protocol == "v1":
                body = {"instances": [{"b64": encoded(pngs["green"])}]}
                answer = await client.infer(server.address, body, model_name=name)
                return answer["predictions"][0]["label"]
            image = decode(pngs["green"], model.package.image_size, 10**6)[np.newaxis]
            tensor = InferInput("image", list(image.shape), "UINT8")
            tensor.set_data_from_numpy(image, binary_data=True)
            asked = InferRequest(
                name, [tensor], request_outputs=[RequestedOutput("label", {"binary_data": True})]
            )
            answer = await client.infer(server.address, asked, model_name=name)
            [label] = answer.outputs[0].as_numpy()
            return label if isinstance(label, str) else label.decode()
        finally:
            await client.close()

    assert asyncio.run(ask()) == "green"


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_gets_right_answers(server, model, pngs, binary):
    name = server.ask("GET", "/v1/models").json["models"][0]
    image = decode(pngs["red"], model.package.image_size, 10**6)[np.newaxis]
    with InferenceServerClient(server.address.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(name)
        assert client.get_model_metadata(name)["inputs"][0]["datatype"] == "UINT8"
        tensor = TritonInput("image", list(image.shape), "UINT8")
        tensor.set_data_from_numpy(image, binary_data=binary)
        wanted = [InferRequestedOutput(output, binary_data=binary) for output in ("probabilities", "label")]
        answer = client.infer(name, [tensor], outputs=wanted, request_id="7")
        assert np.array_equal(answer.as_numpy("probabilities"), model.probabilities(image))
        [label] = answer.as_numpy("label")
        assert (label if isinstance(label, str) else label.decode()) == "red"
        encoded_tensor = TritonInput("image", [1], "BYTES")
        encoded_tensor.set_data_from_numpy(np.array([pngs["red"]], dtype=object), binary_data=True)
        same = client.infer(name, [encoded_tensor], outputs=wanted)
        assert np.array_equal(same.as_numpy("probabilities"), answer.as_numpy("probabilities"))
        wrong = TritonInput("image", [1, 2, 2, 3], "UINT8")
        wrong.set_data_from_numpy(np.zeros((1, 2, 2, 3), np.uint8), binary_data=True)
        with pytest.raises(
            InferenceServerException, match=r"tensor image \(UINT8\) has shape \[1, 2, 2, 3\]"
        ):
            client.infer(name, [wrong])


def test_v2_health_follows_a_stop(model):
    draining = threading.Event()
    app = create_app(Settings(), model, Identity(NAME, "7", "", "", ""), draining=draining)
    draining.set()
    for path in ("/v2/health/ready", f"/v2/models/{NAME}/ready"):
        assert app.test_client().get(path).status_code == 503
    assert app.test_client().get("/v2/health/live").status_code == 200


def test_a_binary_answer_says_where_its_json_ends(client, pngs):
    asked = {"inputs": [image_input([encoded(pngs["red"])])], "parameters": {"binary_data_output": True}}
    answer = client.post(INFER, json=asked)
    length = int(answer.headers["Inference-Header-Content-Length"])
    assert answer.content_type == "application/octet-stream"
    head = json.loads(answer.data[:length])
    sizes = [entry["parameters"]["binary_data_size"] for entry in head["outputs"]]
    assert len(answer.data) == length + sum(sizes)
