"""What is small to send and large to answer, and whoever sends without end."""

import base64
import contextlib
import io
import json
import re
import socket
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from werkzeug.test import Client

from image_classifier.package.identity import Identity
from image_classifier.package.package import encode_png
from image_classifier.serving.http.connection import KEEP_ALIVE_SECONDS
from image_classifier.serving.web.app import create_app
from image_classifier.settings import Settings
from tests.conftest import COLOURS, SIZE
from tests.serving.server_process import Server, running

UPLOAD = 20 * 2**20 - 1000


def png(side: int, colour_type: int, bits: int) -> bytes:
    """A black image of whatever size in a few hundred kilobytes, without the memory to hold it."""
    channels = {0: 1, 6: 4}[colour_type]
    packer = zlib.compressobj(1)
    row = b"\0" * (1 + side * channels * bits // 8)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    chunks = (
        b"IHDR" + struct.pack(">IIBBBBB", side, side, bits, colour_type, 0, 0, 0),
        b"IDAT" + packed,
        b"IEND",
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


class Memory:
    """What a worker had in memory at most since the test began."""

    def __init__(self, server: Server) -> None:
        [worker] = re.findall(r"process=(\d+) event=ready", server.log.read_text())
        self._folder = Path(f"/proc/{worker}")
        (self._folder / "clear_refs").write_text("5")

    @property
    def mebibytes(self) -> int:
        return int(re.search(r"VmHWM:\s+(\d+) kB", (self._folder / "status").read_text())[1]) // 1024


@pytest.fixture(scope="module")
def generous(package_folder, tmp_path_factory):
    """A server with the limits that it has if nothing else is said; the chain gives it 512 MiB."""
    with running(package_folder, tmp_path_factory.mktemp("generous") / "log", "--threads", "2") as server:
        yield server


@pytest.fixture
def memory(generous):
    return Memory(generous)


def test_the_largest_images_at_once_fit_into_a_servers_memory(generous, memory):
    wide = Image.new("RGB", (7000, 7000), (200, 30, 90))
    images = [
        png(7071, 6, 8),
        png(7071, 0, 16),
        encoded(wide, "JPEG", progressive=True, subsampling=0),
        encoded(Image.new("RGBA", (3500, 3500)), "WEBP", lossless=True, method=0),
    ]
    assert max(map(len, images)) < 2**20
    with ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda image: generous.ask("POST", "/predict", image), images * 2))
    assert [answer.status for answer in answers] == [200] * 8
    assert memory.mebibytes < 420


@pytest.mark.parametrize(
    "piece", [b"[],", b"[0],", b"1.5,", b'{"a":0},', b'"ab",', b"[" * 400 + b"]" * 400 + b","]
)
def test_json_of_a_million_things_is_refused_before_it_is_read(generous, memory, piece):
    body = b'{"instances":[' + piece * (UPLOAD // len(piece)) + b"0]}"
    name = generous.ask("GET", "/v1/models").json["models"][0]
    started = time.monotonic()
    for path in (f"/v1/models/{name}:predict", f"/v2/models/{name}/infer"):
        answer = generous.ask("POST", path, body, Content_Type="application/json")
        assert (answer.status, answer.json["code"]) == (413, "body_too_large")
    assert time.monotonic() - started < 5
    assert memory.mebibytes < 250


def test_as_many_pixels_as_json_may_hold_are_answered(generous, memory):
    name = generous.ask("GET", "/v1/models").json["models"][0]
    image = np.full((SIZE, SIZE, 3), (0, 0, 255)).tolist()
    body = json.dumps({"instances": [image] * 500}).encode()
    answer = generous.ask("POST", f"/v1/models/{name}:predict", body, Content_Type="application/json")
    assert [entry["label"] for entry in answer.json["predictions"]] == ["blue"] * 500
    assert memory.mebibytes < 250


PART = b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n'


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (PART + b"X: y\r\n" * (UPLOAD // 6), "more lines than the limit of 262,144"),
        (PART + b"\r\n" * (UPLOAD // 2), "more lines"),
        ((PART + b"X: y\r\n" * 99 + b"\r\nx\r\n") * (UPLOAD // 700), "more lines"),
        ((PART + b"\r\nx\r\n") * 100_000, "more form parts than the limit of 20,480"),
    ],
    ids=["headers", "empty lines", "headers of many parts", "parts"],
)
def test_a_form_of_very_many_things_is_refused(generous, memory, body, words):
    answer = generous.ask("POST", "/predict", body, Content_Type="multipart/form-data; boundary=b")
    assert (answer.status, answer.json["code"]) == (413, "body_too_large")
    assert words in answer.json["error"]
    assert memory.mebibytes < 250


def test_an_image_of_many_parts_is_refused_at_once(generous, memory, pngs):
    exif = b"\xff\xe1\0\x0aExif\0\0\0\0"
    data = encoded(Image.new("RGB", (16, 16)), "JPEG")
    started = time.monotonic()
    answer = generous.ask("POST", "/predict", data[:2] + exif * (UPLOAD // len(exif)) + data[2:])
    assert (answer.status, answer.json["code"]) == (400, "invalid_image")
    assert time.monotonic() - started < 2
    assert memory.mebibytes < 250


@pytest.fixture(scope="module")
def client(model):
    settings = Settings(max_pixels=10_000, max_upload=10**6)
    return create_app(settings, model, Identity("colours", "1", "", "", "")).test_client()


@pytest.mark.parametrize(("count", "status"), [(4, 200), (5, 413)])
def test_the_images_of_a_request_have_so_many_pixels_together(client, count, status):
    large = encode_png(np.zeros((100, 100, 3), np.uint8))
    form = {f"f{n}": (io.BytesIO(large), f"{n}.png") for n in range(count)}
    answer = client.post("/predict", data=form)
    assert answer.status_code == status
    assert status == 200 or "more pixels than the limit of 40,000" in answer.json["error"]


@pytest.mark.parametrize(("count", "status"), [(4096, 200), (4097, 413)])
def test_a_request_has_so_many_images(model, pngs, count, status):
    client = create_app(Settings(), model, Identity("colours", "1", "", "", "")).test_client()
    instances = [{"b64": base64.b64encode(pngs["red"]).decode()}] * count
    answer = client.post("/v1/models/colours:predict", json={"instances": instances})
    assert answer.status_code == status
    assert status == 200 or "more images than the limit of 4,096" in answer.json["error"]


@pytest.mark.parametrize(
    ("form", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {"compress_level": 0})]
)
def test_every_prefix_of_an_image_is_refused_or_answered_right(model, form, options):
    """By the short way and by Flask."""
    app = create_app(Settings(), model, Identity("colours", "1", "", "", ""))
    pixels = np.zeros((24, 24, 3), np.uint8)
    pixels[..., 1] = np.random.default_rng(0).integers(200, 256, (24, 24))
    data = encoded(Image.fromarray(pixels), form, **options)
    for way in (Client(app.wsgi_app), Client(app.wsgi_app._application)):
        right = way.post("/predict", data=data).json["predictions"]
        assert right[0]["label"] == "green"
        statuses = set()
        for length in range(len(data)):
            answer = way.post("/predict", data=data[:length])
            statuses.add(answer.status_code)
            if answer.status_code == 200:
                assert answer.json["predictions"] == right
            else:
                assert (answer.status_code, answer.json["code"]) == (400, "invalid_image")
        assert 400 in statuses


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_all_eight_orientations_get_the_same_answer(client, form):
    answers = []
    turns = [None, *(Image.Transpose(turn) for turn in (0, 3, 1, 5, 4, 6, 2))]
    picture = Image.new("RGB", (32, 48), "red")
    picture.paste("blue", (0, 0, 16, 16))
    for orientation, turn in enumerate(turns, 1):
        tags = Image.Exif()
        tags[0x0112] = orientation
        stored = picture if turn is None else picture.transpose(turn)
        data = encoded(stored, form, exif=tags, **({"lossless": True} if form == "WEBP" else {}))
        answers.append(client.post("/predict", data=data).json["predictions"])
    assert answers[0][0]["label"] in COLOURS
    assert all(answer == answers[0] for answer in answers)


def test_a_hundred_clients_that_trickle_are_cut_off_and_hinder_nobody(package_folder, pngs, tmp_path):
    """With deadlines of a second in place of ten."""
    hurried = """
import sys
from image_classifier.serving.http import connection
from image_classifier.serving.http import worker
worker.FIRST_BYTE_SECONDS = 1.0
connection.PacedSocket.__init__.__kwdefaults__["seconds"] = 1.0
from image_classifier.cli import main
main(sys.argv[1:])
"""
    log = tmp_path / "log"
    command = [sys.executable, "-c", hurried, "serve", "--model", str(package_folder), "--port", "0"]
    with log.open("wb") as output:
        server = Server(subprocess.Popen([*command, "--threads", "2"], stdout=output, stderr=output), log)
    try:
        server.wait_until_ready(1)
        clients = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(100)]
        heads = (b"", b"POST /predict HTTP/1.1\r\nHost: a\r\nX: ", b"POST /predict HTTP/1.1\r\n"
                 b"Host: a\r\nContent-Type: image/png\r\nContent-Length: 5000\r\n\r\n")  # fmt: skip
        for number, one in enumerate(clients):
            one.sendall(heads[number % 3])
        end = time.monotonic() + 3
        asked = 0
        while time.monotonic() < end:
            started = time.monotonic()
            assert server.ask("POST", "/predict", pngs["red"]).status == 200
            assert time.monotonic() - started < 1
            asked += 1
            for number, one in enumerate(clients):
                with contextlib.suppress(OSError):
                    if number % 3:
                        one.sendall(b"x")
            time.sleep(0.1)
        assert asked > 10
        answers = []
        for one in clients:
            try:
                answers.append(one.recv(2**16))
            except ConnectionResetError:
                answers.append(b"")
            one.close()
        # Who began a body is told; to who never finished a header there is nothing to say.
        assert all(b"408" in answer for answer in answers[2::3]), answers[2]
        assert all(not answer or b"HTTP/1.1 4" in answer for answer in answers)
    finally:
        server.process.kill()
        server.process.wait()


def test_a_connection_is_kept_for_longer_than_proxies_keep_it():
    """https://pkg.go.dev/net/http#DefaultTransport, which Knative's queue-proxy copies."""
    assert KEEP_ALIVE_SECONDS > 90 + 15
