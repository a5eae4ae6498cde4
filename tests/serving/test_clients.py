"""Client libraries of the protocols, unmodified, with a real server: each gets the probabilities of the package.

Programs that are not installed are skipped; `make test` installs the libraries.
"""

import asyncio
import base64
import gzip
import io
import json
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import aiohttp
import httpx
import numpy as np
import pytest
import requests
import tritonclient.http
import tritonclient.http.aio
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput
from PIL import Image
from tritonclient.http import InferRequestedOutput
from tritonclient.utils import InferenceServerException

from image_classifier.images.decoder import decode
from tests.serving.server_process import REQUEST_SECONDS

CLIENTS = Path(__file__).parent / "clients"
MLSERVER = Path(sys.prefix) / "mlserver/bin"
"""Programs of the environment that `make test` makes for MLServer."""

pytestmark = pytest.mark.slow


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not on PATH")


@pytest.fixture(scope="module")
def photo():
    """A JPEG whose probabilities are neither 0 nor 1."""
    pixels = np.full((48, 64, 3), (120, 0, 100), np.uint8)
    pixels[..., 1] = 2 * np.arange(64)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def text(photo):
    return base64.b64encode(photo).decode()


@pytest.fixture(scope="module")
def pixels(model, photo):
    """The photo as the model's input, uint8 [1, S, S, 3]."""
    return decode(photo, model.package.image_size, 10**6)[np.newaxis]


@pytest.fixture(scope="module")
def expected(model, pixels):
    """The package's probabilities of the photo, float32 [1, K]."""
    probabilities = model.probabilities(pixels)
    assert 0.5 < probabilities.max() < 0.9
    return probabilities


@pytest.fixture(scope="module")
def photo_path(photo, tmp_path_factory):
    path = tmp_path_factory.mktemp("client") / "photo.jpg"
    path.write_bytes(photo)
    return path


@pytest.fixture(scope="module")
def name(server):
    return server.model_name()


@pytest.fixture(scope="module")
def urls(server, name):
    """The URL of each way to classify an image."""
    return {
        "raw": f"{server.address}/predict",
        "v1": f"{server.address}/v1/models/{name}:predict",
        "v2": f"{server.address}/v2/models/{name}/infer",
    }


@pytest.fixture
def same(model, expected):
    """A function that asserts that a JSON response of any protocol has the package's probabilities."""

    def check(response):
        if "outputs" in response:
            values = {output["name"]: output["data"] for output in response["outputs"]}
            assert values["label"] == [model.classes[expected.argmax()]]
            assert np.array_equal(np.array(values["probabilities"], np.float32), expected[0])
            return
        [prediction] = response["predictions"]
        probabilities = {entry["label"]: entry["probability"] for entry in prediction["top"]}
        assert [probabilities[label] for label in model.classes] == [round(float(p), 6) for p in expected[0]]

    return check


def v1_body(text):
    return {"instances": [{"image_bytes": {"b64": text}}]}


def v2_body(text):
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1, 1], "data": [text]}]}


def run_kserve(protocol, call):
    async def run():
        client = InferenceRESTClient(RESTConfig(protocol=protocol, timeout=REQUEST_SECONDS))
        try:
            return await call(client)
        finally:
            await client.close()

    return asyncio.run(run())


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_kserves_client_finds_server_and_model_live_and_ready(server, name, protocol):
    async def call(client):
        assert await client.is_server_live(server.address)
        assert await client.is_server_live(f"{server.address}/")
        assert await client.is_model_ready(server.address, name)
        return protocol == "v1" or await client.is_server_ready(server.address)

    assert run_kserve(protocol, call)


@pytest.mark.parametrize("key", ["b64", "image_bytes", "data"])
def test_kserves_client_of_v1_gets_the_probabilities(server, name, text, same, key):
    body = {"instances": [{key: text}]}
    same(run_kserve("v1", lambda client: client.infer(server.address, body, model_name=name)))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("datatype", ["BYTES", "UINT8"])
def test_kserves_client_of_v2_gets_the_probabilities(server, name, photo, text, pixels, expected, datatype, binary):
    if datatype == "UINT8":
        tensor = InferInput("image", list(pixels.shape), "UINT8")
        tensor.set_data_from_numpy(pixels, binary_data=binary)
    elif binary:
        tensor = InferInput("image", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[photo]], dtype=object), binary_data=True)
    else:
        tensor = InferInput("image", [1, 1], "BYTES", [text])
    outputs = [RequestedOutput(output, {"binary_data": binary}) for output in ("probabilities", "label")]
    request = InferRequest(name, [tensor], request_outputs=outputs)
    response = run_kserve("v2", lambda client: client.infer(server.address, request, model_name=name))
    probabilities, label = (output.as_numpy() for output in response.outputs)
    assert np.array_equal(probabilities, expected)
    assert label.tolist() in (["red"], [b"red"])


@pytest.fixture
def triton(server):
    with tritonclient.http.InferenceServerClient(server.address.removeprefix("http://")) as client:
        yield client


def triton_input(values, datatype, binary=True):
    tensor = tritonclient.http.InferInput("image", list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


def triton_outputs(binary=True):
    return [InferRequestedOutput(output, binary_data=binary) for output in ("probabilities", "label")]


def test_tritons_client_finds_server_and_model_live_and_ready(triton, name):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready(name)
    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert triton.get_model_metadata(name)["inputs"][0]["datatype"] == "UINT8"


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("content", ["pixels", "[N]", "[N, 1]", "text"])
def test_tritons_client_gets_the_probabilities(
    triton, name, photo, text, pixels, expected, content, compression, binary
):
    if content == "pixels":
        tensor = triton_input(pixels, "UINT8", binary)
    elif content == "text":
        tensor = triton_input(np.array([[text]], dtype=object), "BYTES", binary)
    else:
        # Triton's client writes bytes that are not UTF-8 only in binary.
        shape = (1,) if content == "[N]" else (1, 1)
        tensor = triton_input(np.array([photo], dtype=object).reshape(shape), "BYTES")
    response = triton.infer(
        name,
        [tensor],
        outputs=triton_outputs(binary),
        request_id="7",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    assert response.get_response()["id"] == "7"
    assert np.array_equal(response.as_numpy("probabilities"), expected)
    assert response.as_numpy("label").tolist() in (["red"], [b"red"])
    default = triton.infer(name, [tensor])
    assert np.array_equal(default.as_numpy("probabilities"), expected)


def test_tritons_client_raises_the_servers_message(triton, name):
    invalid = triton_input(np.zeros((1, 2, 2, 3), np.uint8), "UINT8")
    with pytest.raises(
        InferenceServerException, match=r"tensor image \(UINT8\) must have shape .*, not \[1, 2, 2, 3\]"
    ):
        triton.infer(name, [invalid], request_compression_algorithm="gzip")
    with pytest.raises(InferenceServerException, match="FP32"):
        triton.infer(name, [triton_input(np.zeros((1, 16, 16, 3), np.float32), "FP32")])


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_tritons_asynchronous_clients_get_the_probabilities(server, triton, name, photo, expected, compression):
    options = {"request_compression_algorithm": compression, "response_compression_algorithm": compression}
    tensor = triton_input(np.array([photo, photo], dtype=object).reshape(2, 1), "BYTES")

    async def infer():
        async with tritonclient.http.aio.InferenceServerClient(server.address.removeprefix("http://")) as client:
            assert await client.is_server_live()
            return await client.infer(name, [tensor], **options)

    for response in (triton.async_infer(name, [tensor], **options).get_result(), asyncio.run(infer())):
        assert np.array_equal(response.as_numpy("probabilities"), np.repeat(expected, 2, axis=0))


@pytest.mark.skipif(not (MLSERVER / "python").exists(), reason=f"{MLSERVER.parent} does not exist; run make test")
def test_mlservers_codecs_get_the_probabilities(server, name, photo_path, pixels, expected, tmp_path):
    np.save(tmp_path / "pixels.npy", pixels[0])
    done = subprocess.run(
        [
            MLSERVER / "python",
            CLIENTS / "mlserver_codecs.py",
            server.address,
            name,
            photo_path,
            tmp_path / "pixels.npy",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    responses = json.loads(done.stdout)
    assert len(responses) == 10
    for codec, response in responses.items():
        assert response["label"] == ["red"], codec
        assert np.array_equal(np.array(response["probabilities"], np.float32), expected), codec


@pytest.mark.skipif(not (MLSERVER / "mlserver").exists(), reason=f"{MLSERVER.parent} does not exist; run make test")
def test_mlservers_batch_command_gets_the_probabilities(server, name, text, expected, tmp_path):
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1, 1], "data": [text], "parameters": None}
    (tmp_path / "in.jsonl").write_text(f"{json.dumps({'id': None, 'inputs': [tensor]})}\n" * 3)
    target = ("--url", server.address.removeprefix("http://"), "--model-name", name)
    files = ("--input-data-path", "in.jsonl", "--output-data-path", "out.jsonl")
    subprocess.run(
        [MLSERVER / "mlserver", "infer", *target, *files, "--batch-size", "3", "--retries", "1"],
        cwd=tmp_path,
        check=True,
    )
    responses = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(responses) == 3
    for response in responses:
        assert np.array_equal(np.array(response["outputs"][0]["data"], np.float32), expected[0])


CURL = {
    "raw": ("raw", "--data-binary @photo.jpg"),
    "raw without a type": ("raw", "--data-binary @photo.jpg --header Content-Type:"),
    "raw of HTTP/1.0": ("raw", "--http1.0 --data-binary @photo.jpg"),
    "raw of an unknown length": ("raw", "--upload-file - --request POST < photo.jpg"),
    "raw that waits for 100 Continue": ("raw", "--data-binary @photo.jpg --header 'Expect: 100-continue'"),
    "raw, gzip": ("raw", "--data-binary @photo.gz --header 'Content-Encoding: gzip'"),
    "raw, gzip, of an unknown length": (
        "raw",
        "--upload-file - --request POST --header Content-Encoding:GZIP < photo.gz",
    ),
    "raw, gzip, that waits": ("raw", "--data-binary @photo.gz -H 'Content-Encoding: gzip' -H 'Expect: 100-continue'"),
    "form": ("raw", "--form image=@photo.jpg"),
    "V1": ("v1", '--data \'{"instances": [{"data": "\'$(base64 --wrap=0 photo.jpg)\'"}]}\''),
    "V1 from a file": ("v1", "--header Content-Type:application/json --data-binary @v1.json"),
    "V2, gzip": ("v2", "--compressed --header Content-Encoding:gzip --data-binary @v2.gz"),
}


@needs("curl")
@pytest.mark.parametrize("case", CURL)
def test_curl_gets_the_probabilities(urls, photo, text, same, tmp_path, case):
    (tmp_path / "photo.jpg").write_bytes(photo)
    (tmp_path / "photo.gz").write_bytes(gzip.compress(photo))
    (tmp_path / "v1.json").write_text(json.dumps(v1_body(base64.encodebytes(photo).decode())))
    (tmp_path / "v2.gz").write_bytes(gzip.compress(json.dumps(v2_body(text)).encode()))
    route, options = CURL[case]
    command = f"curl --silent --show-error --fail {options} {urls[route]}"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    same(json.loads(done.stdout))


def test_requests_gets_the_probabilities(urls, photo, text, same):
    compressed = {"Content-Encoding": "gzip"}
    with requests.Session() as session:
        session.request = _with_timeout(session.request)
        for response in (
            session.post(urls["raw"], data=photo),
            session.post(urls["raw"], data=io.BytesIO(photo)),
            session.post(urls["raw"], data=iter([photo[:99], photo[99:]])),
            session.post(urls["raw"], files={"image": photo}),
            session.post(urls["raw"], files={"image": ("a.jpg", photo, "image/jpeg")}),
            session.post(urls["raw"], data=gzip.compress(photo), headers=compressed),
            session.post(urls["v1"], json=v1_body(text)),
            session.post(urls["v1"], data=gzip.compress(json.dumps(v1_body(text)).encode()), headers=compressed),
            session.post(urls["v2"], json=v2_body(text)),
            session.post(urls["v2"], data=json.dumps(v2_body(text))),
        ):
            response.raise_for_status()
            same(response.json())


def _with_timeout(request):
    return lambda *arguments, **options: request(*arguments, timeout=REQUEST_SECONDS, **options)


def test_aiohttp_gets_the_probabilities(urls, photo, text, same):
    async def post(session, url, **options):
        async with session.post(url, **options) as response:
            response.raise_for_status()
            return await response.json()

    async def run():
        form = aiohttp.FormData()
        form.add_field("image", photo, filename="a.jpg", content_type="image/jpeg")
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            # Its option `compress` also makes the request chunked.
            return [
                await post(session, urls["raw"], data=photo),
                await post(session, urls["raw"], data=photo, compress="gzip"),
                await post(session, urls["raw"], data=photo, compress="deflate", expect100=True),
                await post(session, urls["raw"], data=form),
                await post(session, urls["v1"], json=v1_body(text), compress="deflate"),
                await post(session, urls["v2"], json=v2_body(text)),
                await post(session, urls["v2"], json=v2_body(text), compress="gzip"),
            ]

    for response in asyncio.run(run()):
        same(response)


def test_httpx_gets_the_probabilities(urls, photo, text, same):
    with httpx.Client(timeout=REQUEST_SECONDS) as client:
        for response in (
            client.post(urls["raw"], content=photo),
            client.post(urls["raw"], content=iter([photo])),
            client.post(urls["raw"], files={"image": photo}),
            client.post(urls["raw"], content=zlib.compress(photo), headers={"content-encoding": "deflate"}),
            client.post(urls["v1"], json=v1_body(text)),
            client.post(urls["v2"], json=v2_body(text)),
        ):
            same(response.raise_for_status().json())


def check_lines(done, same, count):
    """Check the lines of name, status and response that the program of another language prints."""
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(lines) == count
    for case, status, response in lines:
        assert status == "200", (case, response)
        same(json.loads(response))


@needs("java")
def test_a_java_program_gets_the_probabilities(server, name, photo_path, same):
    command = ["java", CLIENTS / "Client.java", server.address, name, photo_path]
    check_lines(subprocess.run(command, capture_output=True, text=True, check=False), same, 6)


@needs("go")
def test_a_go_program_gets_the_probabilities(server, name, photo_path, same):
    command = ["go", "run", CLIENTS / "client.go", server.address, name, photo_path]
    check_lines(subprocess.run(command, capture_output=True, text=True, check=False), same, 8)
