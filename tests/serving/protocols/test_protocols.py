"""KServe V1 and the Open Inference Protocol: the same probabilities in every protocol, and what is refused."""

import base64
import gzip
import io
import json
import threading

import pytest

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
        ({"instances": [{"image": "x"}]}, 'image of instance 0 is not valid base64: "x"'),
        (
            {"instances": [{"image_bytes": {"b64": 7}}]},
            "b64 of image_bytes of instance 0 must be a base64 string, not 7",
        ),
        (
            {"instances": [{"image": {"b64": {"a": "YQ=="}}}]},
            "b64 of image of instance 0 must be a base64 string, not {",
        ),
        (
            {"instances": [{"a": "YQ==", "b": "YQ=="}]},
            'instance 0 must have one key, whose value is the image, not ["a", "b"]',
        ),
        ({"instances": [{"b64": None}]}, "instance 0 must have one key, whose value is the image, not []"),
        ({"instances": [{"data": [[1, 2, 3]]}]}, "data of instance 0: shape [16, 16, 3] requires 768 numbers"),
        ({"inputs": {"image": "YQ=="}}, "at least one instance"),
        ({"instances": [{"b64": "aGFsbG8="}]}, "instance 0: "),
        ({"instances": [[[1, 2, 3]]]}, "instance 0: shape"),
        ({"instances": ["a text"]}, 'instance 0 is not valid base64: "a text"'),
        ({"instances": [7]}, "instance 0 must be a base64 string, not 7"),
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
        (
            {"inputs": [image_input(["AA=="] * 2, shape=[1, 2])]},
            "must have shape [N] or [N, 1] with N at least 1, not [1, 2]",
        ),
        ({"inputs": [image_input([], shape=[0])]}, "must have shape [N] or [N, 1] with N at least 1, not [0]"),
        ({"inputs": [image_input([], shape=[0, 1])]}, "must have shape [N] or [N, 1] with N at least 1, not [0, 1]"),
        (
            {"inputs": [image_input([0] * 3, "UINT8", [1, 1, 1, 3])]},
            "shape [N, 16, 16, 3] with N at least 1, not [1, 1, 1, 3]; send encoded images, of any size, as BYTES",
        ),
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


def named(value):
    return {"instances": [value]}


@pytest.mark.parametrize("key", ["image_bytes", "image", "data", "input", "bytes", "0"])
def test_a_v1_instance_has_its_image_under_any_single_key(client, model, pngs, key):
    text = encoded(pngs["green"])
    pixels = decode(pngs["green"], model.package.image_size, 10**6).tolist()
    path = f"/v1/models/{NAME}:predict"
    expected = client.post(path, json=named({"b64": text})).json
    assert expected["predictions"][0]["label"] == "green"
    for instance in (
        {key: text},
        {key: {"b64": text}},
        {key: {key: text}},
        {key: pixels},
        {"key": "1", key: {"b64": text}},
    ):
        assert client.post(path, json=named(instance)).json == expected
    for body in (named(text), {"inputs": [text]}, {"inputs": {key: [text]}}, {"inputs": {key: [pixels]}}):
        assert client.post(path, json=body).json == expected


@pytest.mark.parametrize("shape", [[2], [2, 1], [2, 1, 1]])
def test_v2_accepts_encoded_images_with_dimensions_of_one(client, pngs, shape):
    data = [encoded(pngs["red"]), encoded(pngs["white"])]
    outputs = client.post(INFER, json={"inputs": [image_input(data, shape=shape)]}).json["outputs"]
    assert outputs[0]["shape"] == [2, len(COLORS)]
    assert outputs[1] == {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["red", "white"]}


def test_null_is_the_same_as_absence_in_every_optional_field(client, pngs):
    tensor = image_input([encoded(pngs["red"])])
    null_tensor = {**tensor, "parameters": {"binary_data_size": None, "content_type": None}}
    for members in (
        {"id": None, "parameters": None, "outputs": None, "inputs": [{**tensor, "parameters": None}]},
        {"parameters": {"binary_data_output": None}, "inputs": [null_tensor]},
    ):
        expected = client.post(INFER, json={"inputs": [tensor]}).json
        assert "id" not in expected
        assert client.post(INFER, json=members).json == expected
    outputs = [{"name": "label", "parameters": None}, {"name": "probabilities", "parameters": {"binary_data": None}}]
    response = client.post(INFER, json={"inputs": [tensor], "outputs": outputs})
    assert [output["name"] for output in response.json["outputs"]] == ["label", "probabilities"]
    path, instances = f"/v1/models/{NAME}:predict", [{"b64": encoded(pngs["red"]), "key": None}]
    expected = client.post(path, json={"instances": instances}).json
    assert client.post(path, json={"instances": None, "inputs": instances, "signature_name": None}).json == expected


def test_binary_contents_of_a_tensor_whose_data_is_null_are_read(client, pngs):
    parameters = {"binary_data_size": 4 + len(pngs["blue"])}
    head = json.dumps({"inputs": [{**image_input(None, shape=[1, 1]), "parameters": parameters}]}).encode()
    content = len(pngs["blue"]).to_bytes(4, "little") + pngs["blue"]
    response = client.post(INFER, data=head + content, headers={"Inference-Header-Content-Length": str(len(head))})
    assert response.json["outputs"][1]["data"] == ["blue"]


@pytest.mark.parametrize("path", [f"/v1/models/{NAME}:predict", INFER])
@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        (
            "image/png",
            b"\x89PNG\r\n\x1a\n" + bytes(20),
            "the body is an image, not JSON; send images to POST /predict, or ",
        ),
        (
            "image/jpeg",
            b"\xff\xd8\xff\xe0" + bytes(20),
            "the body is an image, not JSON; send images to POST /predict, or ",
        ),
        ("application/json", b"", "the body is empty; send {"),
        ("application/json", b" \n", "the body is empty; send {"),
        ("text/plain", b"hello", 'not valid JSON: unexpected "hello" at line 1, column 1; send {'),
        ("application/json", b'{"a": [1,}', 'not valid JSON: unexpected "}" at line 1, column 10; send {'),
        ("application/json", b'{"a": [1,', "not valid JSON: it is incomplete; send {"),
        ("application/json", b"{'a': 1}", """unexpected "'a': 1}" at line 1, column 2; send {"""),
        ("application/json", b"{}{}", "the body continues after the end of its JSON; send {"),
        ("application/json", b'{"a": "\xe9"}', "byte 7 is not UTF-8 text; send {"),
        ("application/json", b'{"a": ' + b"9" * 5000 + b"}", "a number is too long; send {"),
        ("application/json", gzip.compress(b"{}", mtime=0), "send it with the header Content-Encoding: gzip"),
        ("application/json", b"[1]", "the body must be a JSON object, not [1]; send {"),
        ("application/json", b"null", "the body must be a JSON object, not null; send {"),
    ],
)
def test_a_body_that_is_not_a_json_object_is_named_in_plain_words(client, path, content_type, body, expected):
    response = client.post(path, data=body, content_type=content_type)
    assert (response.status_code, response.json["code"]) == (400, "invalid_request")
    assert expected in response.json["error"]
    assert "codec" not in response.json["error"]


@pytest.mark.parametrize("path", [f"/v1/models/{NAME}:predict", INFER])
def test_a_form_is_not_json(client, pngs, path):
    response = client.post(path, data={"image": (io.BytesIO(pngs["red"]), "a.png")})
    assert response.status_code == 400
    assert response.json["error"].startswith("the body is a form, not JSON; send images to POST /predict, or here {")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_may_be_in_any_encoding_of_unicode(client, pngs, encoding):
    body = json.dumps({"inputs": [image_input([encoded(pngs["red"])])]}).encode(encoding)
    for content_type in ("application/json", "application/json; charset=utf-8", "text/plain", None):
        assert client.post(INFER, data=body, content_type=content_type).status_code == 200


@pytest.mark.parametrize("text", ["ä", "\ud800", "\x00"])
def test_v2_returns_an_id_of_any_characters(client, pngs, text):
    body = json.dumps({"id": text, "inputs": [image_input([encoded(pngs["red"])])]})
    assert client.post(INFER, data=body).json["id"] == text


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
