"""KServe V1 and the Open Inference Protocol: the same probabilities in every protocol, with unmodified clients."""

import asyncio
import base64
import json
import threading

import numpy as np
import pytest
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from tritonclient.http import InferenceServerClient, InferInput as TritonInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from image_classifier.images.decoder import decode
from image_classifier.package.identity import ModelIdentity
from tests.conftest import COLORS
from tests.serving.apps import NAME, make_app, make_client

INFER = f"/v2/models/{NAME}/infer"


@pytest.fixture(scope="module")
def client(model):
    identity = ModelIdentity(NAME, "7", "digest", "revision", "data")
    return make_client(model, identity=identity, name="workload", max_upload=1_000_000)


def encoded(png):
    return base64.b64encode(png).decode()


def image_input(data, datatype="BYTES", shape=None):
    return {"name": "image", "datatype": datatype, "shape": shape or [len(data)], "data": data}


def probabilities(response):
    """Probability by label of the first prediction."""
    return {entry["label"]: entry["probability"] for entry in response["predictions"][0]["top"]}


def test_every_protocol_returns_the_same_probabilities(client, model, pngs):
    png = pngs["blue"]
    image = decode(png, model.package.image_size, 10**6)
    by_protocol = {
        "raw": probabilities(client.post("/predict", data=png).json),
        "v1 encoded": probabilities(
            client.post(f"/v1/models/{NAME}:predict", json={"instances": [{"b64": encoded(png)}]}).json
        ),
        "v1 pixels": probabilities(
            client.post(f"/v1/models/{NAME}:predict", json={"instances": [image.tolist()]}).json
        ),
    }
    bodies = {
        "v2 encoded": image_input([encoded(png)]),
        "v2 pixels": image_input(image.ravel().tolist(), "UINT8", [1, *image.shape]),
    }
    for protocol, entry in bodies.items():
        response = client.post(INFER, json={"inputs": [entry]}).json
        rows = {output["name"]: output["data"] for output in response["outputs"]}
        assert rows["label"] == ["blue"]
        by_protocol[protocol] = {
            label: round(p, 6) for label, p in zip(model.classes, rows["probabilities"], strict=True)
        }
    assert by_protocol["raw"]["blue"] > 0.99
    assert [name for name, values in by_protocol.items() if values != by_protocol["raw"]] == []


def test_v1_describes_the_model(client):
    assert client.get("/v1/models").json == {"models": [NAME]}
    assert client.get(f"/v1/models/{NAME}").json == {"name": NAME, "ready": True}
    assert client.get("/v1/models/workload").json == {"name": "workload", "ready": True}
    assert "serves only colors" in client.get("/v1/models/other").json["error"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"instances": []}, "at least one instance"),
        ({"instances": {}}, "at least one instance"),
        ({}, "at least one instance"),
        ({"instances": [{"b64": "#"}]}, "b64 of instance 0 is not valid base64"),
        ({"instances": [{"image": "x"}]}, "b64 of instance 0 must be a base64 string, not null"),
        ({"instances": [{"b64": "aGFsbG8="}]}, "instance 0: "),
        ({"instances": [[[1, 2, 3]]]}, "instance 0: shape"),
        ({"instances": ["text"]}, "instance 0: data must be numbers"),
    ],
)
def test_v1_names_what_is_invalid(client, body, expected):
    response = client.post(f"/v1/models/{NAME}:predict", json=body)
    assert response.status_code == 400
    assert expected in response.json["error"]


def test_v2_describes_server_and_model(client, model):
    assert client.get("/v2").json["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json == {"live": True}
    assert client.get("/v2/health/ready").json == {"ready": True}
    about = client.get(f"/v2/models/{NAME}").json
    size = model.package.image_size
    assert about["versions"] == ["7"]
    assert about["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, size, size, 3]}]
    assert client.get(f"/v2/models/{NAME}/versions/7/ready").json == {"name": NAME, "ready": True}
    assert client.get(f"/v2/models/{NAME}/versions/8").status_code == 404
    assert "version 7 of model colors, not 8" in client.get(f"/v2/models/{NAME}/versions/8/ready").json["error"]


def test_v2_returns_id_version_and_the_requested_outputs(client, pngs):
    body = {
        "id": "a-1",
        "inputs": [image_input([encoded(pngs[color]) for color in COLORS])],
        "outputs": [{"name": "label"}],
    }
    response = client.post(f"/v2/models/{NAME}/versions/7/infer", json=body).json
    assert response == {
        "model_name": NAME,
        "model_version": "7",
        "id": "a-1",
        "outputs": [{"name": "label", "datatype": "BYTES", "shape": [len(COLORS)], "data": list(COLORS)}],
    }


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"inputs": [image_input(["AA=="], shape=[1, 1])]}, "must have shape [N] with N at least 1, not [1, 1]"),
        ({"inputs": [image_input([], shape=[0])]}, "must have shape [N] with N at least 1, not [0]"),
        ({"inputs": [image_input([0] * 3, "UINT8", [1, 1, 1, 3])]}, "tensor image (UINT8) must have shape"),
        ({"inputs": [image_input(["AA=="]), image_input(["AA=="])]}, "one input, image"),
        ({"inputs": [{**image_input(["AA=="]), "name": "x"}]}, "the request has x"),
        ({"inputs": [image_input(["AA=="])], "outputs": [{"name": "y"}]}, "unknown output 'y'"),
        ({"inputs": [image_input(["AA=="])]}, "element 0 of image: "),
    ],
)
def test_v2_names_what_is_invalid(client, members, expected):
    response = client.post(INFER, json=members)
    assert response.status_code == 400
    assert expected in response.json["error"]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_kserves_client_gets_correct_predictions(server, model, pngs, protocol):
    name = server.model_name()

    async def send():
        client = InferenceRESTClient(RESTConfig(protocol=protocol, timeout=30))
        try:
            if protocol == "v2":
                assert await client.is_server_ready(server.address)
            assert await client.is_model_ready(server.address, name)
            if protocol == "v1":
                body = {"instances": [{"b64": encoded(pngs["green"])}]}
                response = await client.infer(server.address, body, model_name=name)
                return response["predictions"][0]["label"]
            image = decode(pngs["green"], model.package.image_size, 10**6)[np.newaxis]
            tensor = InferInput("image", list(image.shape), "UINT8")
            tensor.set_data_from_numpy(image, binary_data=True)
            request = InferRequest(name, [tensor], request_outputs=[RequestedOutput("label", {"binary_data": True})])
            response = await client.infer(server.address, request, model_name=name)
            [label] = response.outputs[0].as_numpy()
            return label if isinstance(label, str) else label.decode()
        finally:
            await client.close()

    assert asyncio.run(send()) == "green"


@pytest.mark.slow
@pytest.mark.parametrize("binary", [True, False])
def test_tritons_client_gets_correct_predictions(server, model, pngs, binary):
    name = server.model_name()
    image = decode(pngs["red"], model.package.image_size, 10**6)[np.newaxis]
    with InferenceServerClient(server.address.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(name)
        assert client.get_model_metadata(name)["inputs"][0]["datatype"] == "UINT8"
        tensor = TritonInput("image", list(image.shape), "UINT8")
        tensor.set_data_from_numpy(image, binary_data=binary)
        requested = [InferRequestedOutput(output, binary_data=binary) for output in ("probabilities", "label")]
        response = client.infer(name, [tensor], outputs=requested, request_id="7")
        assert np.array_equal(response.as_numpy("probabilities"), model.probabilities(image))
        [label] = response.as_numpy("label")
        assert (label if isinstance(label, str) else label.decode()) == "red"
        encoded_tensor = TritonInput("image", [1], "BYTES")
        encoded_tensor.set_data_from_numpy(np.array([pngs["red"]], dtype=object), binary_data=True)
        same = client.infer(name, [encoded_tensor], outputs=requested)
        assert np.array_equal(same.as_numpy("probabilities"), response.as_numpy("probabilities"))
        invalid = TritonInput("image", [1, 2, 2, 3], "UINT8")
        invalid.set_data_from_numpy(np.zeros((1, 2, 2, 3), np.uint8), binary_data=True)
        with pytest.raises(
            InferenceServerException, match=r"tensor image \(UINT8\) must have shape .*, not \[1, 2, 2, 3\]"
        ):
            client.infer(name, [invalid])


def test_v2_is_not_ready_while_the_server_shuts_down(model):
    draining = threading.Event()
    app = make_app(model, draining=draining)
    draining.set()
    for path in ("/v2/health/ready", f"/v2/models/{NAME}/ready"):
        assert app.test_client().get(path).status_code == 503
    assert app.test_client().get("/v2/health/live").status_code == 200


def test_a_binary_response_states_the_length_of_its_json(client, pngs):
    body = {"inputs": [image_input([encoded(pngs["red"])])], "parameters": {"binary_data_output": True}}
    response = client.post(INFER, json=body)
    length = int(response.headers["Inference-Header-Content-Length"])
    assert response.content_type == "application/octet-stream"
    head = json.loads(response.data[:length])
    sizes = [entry["parameters"]["binary_data_size"] for entry in head["outputs"]]
    assert len(response.data) == length + sum(sizes)
