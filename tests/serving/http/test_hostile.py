"""Hostile clients: requests that are small to send and expensive to answer, and clients that send without end."""

import base64
import contextlib
import gzip
import io
import json
import re
import select
import socket
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache, reduce
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from werkzeug.test import Client

from image_classifier.package.model import Model
from image_classifier.package.package import Package, encode_png
from tests.conftest import COLORS, SIZE, write_color_package
from tests.serving.apps import NAME, make_app, make_client
from tests.serving.server_process import Server, running

UPLOAD_BYTES = 20 * 2**20 - 1000  # just below the limit


def black_png(side: int, color_type: int, bits: int) -> bytes:
    """A black image of any size in a few hundred kilobytes, made without the memory to hold its pixels."""
    channels = {0: 1, 6: 4}[color_type]
    compressor = zlib.compressobj(1)
    row = b"\0" * (1 + side * channels * bits // 8)
    data = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", side, side, bits, color_type, 0, 0, 0), b"IDAT" + data, b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


class PeakMemory:
    """The largest resident set of the server's only worker since this object was created."""

    def __init__(self, server: Server) -> None:
        [worker] = server.workers
        self._folder = Path(f"/proc/{worker}")
        (self._folder / "clear_refs").write_text("5")

    @property
    def mebibytes(self) -> int:
        return int(re.search(r"VmHWM:\s+(\d+) kB", (self._folder / "status").read_text())[1]) // 1024


@pytest.fixture(scope="module")
def default_server(package_folder, tmp_path_factory):
    """A server with the default limits; the supply chain gives it 512 MiB."""
    with running(package_folder, tmp_path_factory.mktemp("default") / "log", "--threads", "2") as server:
        yield server


@pytest.fixture
def memory(default_server):
    return PeakMemory(default_server)


@pytest.mark.slow
def test_the_largest_images_at_the_same_time_fit_into_the_memory(default_server, memory):
    wide = Image.new("RGB", (7000, 7000), (200, 30, 90))
    images = [
        black_png(7071, 6, 8),
        black_png(7071, 0, 16),
        encoded(wide, "JPEG", progressive=True, subsampling=0),
        encoded(Image.new("RGBA", (3500, 3500)), "WEBP", lossless=True, method=0),
    ]
    assert max(map(len, images)) < 2**20
    with ThreadPoolExecutor(4) as clients:
        responses = list(clients.map(lambda image: default_server.request("POST", "/predict", image), images * 2))
    assert [response.status for response in responses] == [200] * 8
    assert memory.mebibytes < 420


@pytest.mark.slow
@pytest.mark.parametrize("piece", [b"[],", b"[0],", b"1.5,", b'{"a":0},', b'"ab",', b"[" * 400 + b"]" * 400 + b","])
def test_json_with_millions_of_values_is_rejected_before_it_is_parsed(default_server, memory, piece):
    """Parsed, it would take far more than the memory that is asserted."""
    body = b'{"instances":[' + piece * (UPLOAD_BYTES // len(piece)) + b"0]}"
    name = default_server.model_name()
    for path in (f"/v1/models/{name}:predict", f"/v2/models/{name}/infer"):
        response = default_server.request("POST", path, body, Content_Type="application/json")
        assert (response.status, response.json["code"]) == (413, "body_too_large")
    assert memory.mebibytes < 250


@pytest.mark.slow
def test_as_many_pixels_as_json_may_contain_are_classified(default_server, memory):
    image = np.full((SIZE, SIZE, 3), (0, 0, 255)).tolist()
    body = json.dumps({"instances": [image] * 500}).encode()
    path = f"/v1/models/{default_server.model_name()}:predict"
    response = default_server.request("POST", path, body, Content_Type="application/json")
    assert [entry["label"] for entry in response.json["predictions"]] == ["blue"] * 500
    assert memory.mebibytes < 250


PART = b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n'


@cache
def decompression_bomb(encoding: str) -> bytes:
    """A form whose file has 300 MiB of zeros, compressed once or several times."""
    compressor = zlib.compressobj(1, wbits=31)
    pieces = [compressor.compress(PART + b"\r\n"), *(compressor.compress(bytes(2**20)) for _ in range(300))]
    bomb = b"".join(pieces) + compressor.flush()
    return reduce(lambda content, _: gzip.compress(content), encoding.split(",")[1:], bomb)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/predict", "image/png"),
        ("/predict", "multipart/form-data; boundary=b"),
        ("/v1/models/{name}:predict", "application/json"),
        ("/v2/models/{name}/infer", "application/json"),
    ],
)
@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip"])
def test_a_decompression_bomb_is_refused_before_it_takes_memory(default_server, memory, path, content_type, encoding):
    headers = {"Content_Type": content_type, "Content_Encoding": encoding}
    path = path.format(name=default_server.model_name())
    response = default_server.request("POST", path, decompression_bomb(encoding), **headers)
    assert (response.status, response.json["code"]) == (413, "body_too_large")
    assert memory.mebibytes < 250


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (PART + b"X: y\r\n" * (UPLOAD_BYTES // 6), "more than 262,144 lines"),
        (PART + b"\r\n" * (UPLOAD_BYTES // 2), "lines"),
        ((PART + b"X: y\r\n" * 99 + b"\r\nx\r\n") * (UPLOAD_BYTES // 700), "lines"),
        ((PART + b"\r\nx\r\n") * 100_000, "more than 20,480 form parts"),
    ],
    ids=["headers", "empty lines", "headers of many parts", "parts"],
)
def test_a_form_with_too_many_lines_or_parts_is_rejected(default_server, memory, body, expected):
    response = default_server.request("POST", "/predict", body, Content_Type="multipart/form-data; boundary=b")
    assert (response.status, response.json["code"]) == (413, "body_too_large")
    assert expected in response.json["error"]
    assert memory.mebibytes < 250


@pytest.mark.slow
def test_an_image_of_millions_of_segments_is_rejected_before_it_is_decoded(default_server, memory):
    exif = b"\xff\xe1\0\x0aExif\0\0\0\0"
    data = encoded(Image.new("RGB", (16, 16)), "JPEG")
    response = default_server.request("POST", "/predict", data[:2] + exif * (UPLOAD_BYTES // len(exif)) + data[2:])
    assert (response.status, response.json["code"]) == (400, "invalid_image")
    assert "segments" in response.json["error"]
    assert memory.mebibytes < 250


@pytest.fixture(scope="module")
def client(model):
    return make_client(model, max_pixels=10_000, max_upload=10**6)


@pytest.mark.parametrize(("count", "status"), [(4, 200), (5, 413)])
def test_the_pixels_of_all_images_of_a_request_are_limited(client, count, status):
    large = encode_png(np.zeros((100, 100, 3), np.uint8))
    form = {f"f{n}": (io.BytesIO(large), f"{n}.png") for n in range(count)}
    response = client.post("/predict", data=form)
    assert response.status_code == status
    assert status == 200 or "more than 40,000 pixels" in response.json["error"]


@pytest.mark.parametrize(("count", "status"), [(4096, 200), (4097, 413)])
def test_the_number_of_images_of_a_request_is_limited(model, pngs, count, status):
    instances = [{"b64": base64.b64encode(pngs["red"]).decode()}] * count
    response = make_client(model).post(f"/v1/models/{NAME}:predict", json={"instances": instances})
    assert response.status_code == status
    assert status == 200 or "more than 4,096 images" in response.json["error"]


@pytest.mark.parametrize(
    ("form", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {"compress_level": 0})]
)
def test_every_prefix_of_an_image_is_rejected_or_classified_like_the_image(model, form, options):
    """By the hot path and by Flask."""
    app = make_app(model)
    pixels = np.zeros((24, 24, 3), np.uint8)
    pixels[..., 1] = np.random.default_rng(0).integers(200, 256, (24, 24))
    data = encoded(Image.fromarray(pixels), form, **options)
    for client in (Client(app.wsgi_app), Client(app.wsgi_app._application)):
        expected = client.post("/predict", data=data).json["predictions"]
        assert expected[0]["label"] == "green"
        statuses = set()
        for length in range(len(data)):
            response = client.post("/predict", data=data[:length])
            statuses.add(response.status_code)
            if response.status_code == 200:
                assert response.json["predictions"] == expected
            else:
                assert (response.status_code, response.json["code"]) == (400, "invalid_image")
        assert 400 in statuses


def test_empty_instances_are_refused_without_the_memory_of_their_images(tmp_path):
    write_color_package(tmp_path, size=512)
    client = make_client(Model(Package.read(tmp_path), None))
    body = f'{{"instances": [{",".join(["[]"] * 100_000)}]}}'
    tracemalloc.start()
    try:
        response = client.post(f"/v1/models/{NAME}:predict", data=body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (response.status_code, response.json["code"]) == (400, "invalid_request")
    assert peak < 50 * 2**20


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_all_eight_orientations_get_the_same_prediction(client, form):
    predictions = []
    transposes = [None, *(Image.Transpose(transpose) for transpose in (0, 3, 1, 5, 4, 6, 2))]
    picture = Image.new("RGB", (32, 48), "red")
    picture.paste("blue", (0, 0, 16, 16))
    for orientation, transpose in enumerate(transposes, 1):
        tags = Image.Exif()
        tags[0x0112] = orientation
        stored = picture if transpose is None else picture.transpose(transpose)
        data = encoded(stored, form, exif=tags, **({"lossless": True} if form == "WEBP" else {}))
        predictions.append(client.post("/predict", data=data).json["predictions"])
    assert predictions[0][0]["label"] in COLORS
    assert all(prediction == predictions[0] for prediction in predictions)


SHORT_DEADLINES = """
import sys
from image_classifier.serving.http import connection
from image_classifier.serving.http import gunicorn_worker
gunicorn_worker.FIRST_BYTE_SECONDS = 1.0
connection.DeadlineSocket.__init__.__kwdefaults__["seconds"] = 1.0
from image_classifier.cli import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_hundred_clients_that_send_byte_by_byte_are_disconnected_and_delay_nobody(package_folder, pngs, tmp_path):
    """With deadlines of 1 s instead of 10 s."""
    log = tmp_path / "log"
    command = [sys.executable, "-c", SHORT_DEADLINES, "serve", "--model", str(package_folder), "--port", "0"]
    with log.open("wb") as output:
        server = Server(subprocess.Popen([*command, "--threads", "2"], stdout=output, stderr=output), log)
    try:
        server.wait_until_ready()
        clients = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(100)]
        heads = (
            b"",
            b"POST /predict HTTP/1.1\r\nHost: a\r\nX: ",
            b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 5000\r\n\r\n",
        )
        for number, client in enumerate(clients):
            client.sendall(heads[number % 3])
        deadline = time.monotonic() + 20
        answered, connected = 0, clients
        while connected:
            assert time.monotonic() < deadline
            assert server.request("POST", "/predict", pngs["red"]).status == 200
            answered += 1
            for number, client in enumerate(clients):
                with contextlib.suppress(OSError):
                    if number % 3:
                        client.sendall(b"x")
            time.sleep(0.05)
            ready, _, _ = select.select(connected, [], [], 0)
            connected = [client for client in connected if client not in ready]
        assert answered > 5
        responses = []
        for client in clients:
            try:
                responses.append(client.recv(2**16))
            except ConnectionResetError:
                responses.append(b"")
            client.close()
        # A client that began its body gets a 408; one that never finished its headers may get no response.
        assert all(b"408" in response for response in responses[2::3]), responses[2]
        assert all(not response or b"HTTP/1.1 4" in response for response in responses)
    finally:
        server.process.kill()
        server.process.wait()
