"""Fuzzer: mutated requests to all routes must cause no crash, no 5xx except 503, and no memory growth.

    python -m tests.serving.http.fuzz PACKAGE --count 100000

starts a server and sends requests to it; test_fuzz.py sends fewer.
"""

import argparse
import base64
import gzip
import http.client
import io
import json
import random
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.serving.server_process import Server, running

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_TOKENS = (b"0", b"-1", b"null", b"1e999", b"NaN", b"[]", b"{}", b'""', b"true", b"\xff\xfe", b"\0", b"9" * 30)


class Case(NamedTuple):
    """A request that a client might send, by accident or on purpose."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Fuzzer:
    """An endless, reproducible sequence of requests."""

    def __init__(self, name: str, size: int, seed: int) -> None:
        self._random = random.Random(seed)
        pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
        self._images = [self._encoded(pixels, form) for form in FORMATS]
        self._tensor = pixels.tobytes()
        self._size, self._name = size, name

    @staticmethod
    def _encoded(pixels: np.ndarray, form: str) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, form)
        return buffer.getvalue()

    def cases(self) -> Iterator[Case]:
        makers = (self._raw, self._form, self._v1, self._v2, self._binary, self._other)
        while True:
            case = self._random.choice(makers)()
            headers = dict(case.headers)
            if self._random.random() < 0.1:
                names = ("X-Request-Id", "traceparent", "Content-Type", "Content-Encoding", "Accept", "Origin")
                headers[self._random.choice(names)] = "".join(
                    chr(self._random.randrange(32, 255)) for _ in range(self._random.randrange(60))
                ).strip()
            case = case._replace(headers=headers)
            yield self._compressed(case) if self._random.random() < 0.2 else case

    def _compressed(self, case: Case) -> Case:
        encoding = self._random.choice(("gzip", "deflate", "deflate, x-gzip", "identity", "br"))
        body = zlib.compress(case.body) if encoding.startswith("deflate") else case.body
        body = gzip.compress(body) if encoding.endswith("gzip") else body
        body = self._mutated(body) if self._random.random() < 0.3 else body
        return case._replace(headers={**case.headers, "Content-Encoding": encoding}, body=body)

    def _image(self) -> bytes:
        image = self._random.choice(self._images)
        return self._mutated(image) if self._random.random() < 0.8 else image

    def _mutated(self, content: bytes) -> bytes:
        mutable = bytearray(content)
        for _ in range(self._random.randrange(1, 5)):
            place = self._random.randrange(len(mutable) + 1)
            kind = self._random.randrange(5)
            if kind == 0:
                mutable[place : place + 1] = bytes([self._random.randrange(256)])
            elif kind == 1:
                del mutable[place:]
            elif kind == 2:
                del mutable[place : place + self._random.randrange(1, 40)]
            elif kind == 3:
                mutable[place:place] = self._random.choice(_TOKENS)
            else:
                other = self._random.randrange(len(mutable) + 1)
                mutable[place:place] = mutable[other : other + self._random.randrange(1, 40)]
        return bytes(mutable)

    def _raw(self) -> Case:
        path = self._random.choice(("/predict", "/explain", "/predict?top=2", "/explain?format=png"))
        kind = self._random.choice(("image/png", "image/jpeg", "application/octet-stream"))
        return Case("POST", path, {"Content-Type": kind}, self._image())

    def _form(self) -> Case:
        parts = b"".join(
            b'--b\r\nContent-Disposition: form-data; name="a"; filename="%d.png"\r\n\r\n%s\r\n' % (n, self._image())
            for n in range(self._random.randrange(1, 4))
        )
        body = parts + b"--b--\r\n"
        body = self._mutated(body) if self._random.random() < 0.7 else body
        return Case("POST", "/predict", {"Content-Type": "multipart/form-data; boundary=b"}, body)

    def _v1(self) -> Case:
        key = self._random.choice(("b64", "image", "\ud800"))
        instances = [{key: base64.b64encode(self._image()).decode()} for _ in range(self._random.randrange(3))]
        return self._json(f"/v1/models/{self._name}:predict", {"instances": instances})

    def _v2(self) -> Case:
        shape = [1, self._size, self._size, 3]
        pixels = {"name": "image", "datatype": "UINT8", "shape": shape, "data": list(self._tensor)}
        encoded = base64.b64encode(self._image()).decode()
        images = {"name": "image", "datatype": "BYTES", "shape": [1, 1], "data": [encoded], "parameters": None}
        content = {"id": self._random.choice((None, "\ud800")), "inputs": [self._random.choice((pixels, images))]}
        return self._json(f"/v2/models/{self._name}/infer", content)

    def _json(self, path: str, content: object) -> Case:
        body = json.dumps(content).encode()
        body = self._mutated(body) if self._random.random() < 0.7 else body
        return Case("POST", path, {"Content-Type": "application/json"}, body)

    def _binary(self) -> Case:
        lie = self._random.choice((0, 0, -1, 1, 2**31, -(2**31)))
        entry = {
            "name": "image",
            "datatype": "UINT8",
            "shape": [1, self._size, self._size, 3],
            "parameters": {"binary_data_size": len(self._tensor) + lie},
        }
        head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
        length = len(head) + self._random.choice((0, 0, 0, 1, -1, 10**6, -(10**6)))
        body = head + self._tensor
        body = self._mutated(body) if self._random.random() < 0.5 else body
        headers = {"Inference-Header-Content-Length": str(length), "Content-Type": "application/octet-stream"}
        return Case("POST", f"/v2/models/{self._name}/infer", headers, body)

    def _other(self) -> Case:
        method = self._random.choice(("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"))
        known = ("/", "/docs", "/metrics", "/v2", "/v1/models", "/examples/0.png", "/static/page.js", "/readyz")
        path = self._random.choice(known)
        if self._random.random() < 0.5:
            path = "/" + "".join(self._random.choice("abc/%.:0-9_~{}\\") for _ in range(self._random.randrange(40)))
        return Case(method, path, {}, b"" if self._random.random() < 0.5 else self._image())


def proportional_memory(process: int) -> int:
    """Proportional set size (PSS) of a process and its children, in bytes."""
    total = 0
    for found in (process, *_children(process)):
        for line in Path(f"/proc/{found}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def _children(process: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def send_requests(server: Server, fuzzer: Fuzzer, count: int, interval: int) -> tuple[Counter[int], list[int]]:
    """Send `count` requests; returns the number of each status, and the memory after every `interval` requests.

    A closed connection counts as status 0. Raises AssertionError with the request for a 5xx that is not 503, and for a
    truncated response.
    """
    statuses: Counter[int] = Counter()
    memory = []
    connection = server.connect()
    for number, case in zip(range(1, count + 1), fuzzer.cases(), strict=False):
        headers = {name: value for name, value in case.headers.items() if value.isprintable()}
        try:
            connection.request(case.method, case.path, case.body, headers)
            response = connection.getresponse()
            response.read()
        except http.client.HTTPException as error:
            raise AssertionError(f"{error!r} to request {number}: {case}") from error
        except OSError:
            # A request that is rejected before it was read ends its connection.
            connection.close()
            statuses[0] += 1
            continue
        assert response.status < 500 or response.status == 503, f"{response.status} to request {number}: {case}"
        statuses[response.status] += 1
        if number % interval == 0:
            memory.append(proportional_memory(server.process.pid))
    connection.close()
    assert server.process.poll() is None
    assert "Traceback" not in server.log.read_text()
    return statuses, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    size = json.loads((arguments.package / "package.json").read_text())["image_size"]
    with (
        tempfile.TemporaryDirectory() as folder,
        running(arguments.package, Path(folder) / "log", "--max-upload", "1MB") as server,
    ):
        fuzzer = Fuzzer(server.model_name(), size, arguments.seed)
        statuses, memory = send_requests(server, fuzzer, arguments.count, max(1, arguments.count // 20))
        print(f"seed {arguments.seed}, {arguments.count:,} requests: {dict(sorted(statuses.items()))}")
        print("PSS in MiB:", *(round(size / 2**20) for size in memory))


if __name__ == "__main__":
    sys.exit(main())
