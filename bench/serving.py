"""Throughput and latency of this server and of alternatives, side by side.

    python bench/serving.py path/to/package --seconds 5

All servers have two workers and get the same model and images over loopback from one load generator (wrk). The raw
limit is the same decoder and model in two processes without HTTP. Each alternative gets a virtual environment in
.venv-peers; one that cannot be installed or started is reported and skipped. Run it on an otherwise idle machine.
"""

import argparse
import base64
import io
import json
import multiprocessing
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from environments import PEERS, PeerError, free_port, make_environment
from image_classifier.images.decoder import decode
from image_classifier.package.model import Model
from image_classifier.package.package import Package
from image_classifier.registry.model_upload import write_mlflow_model

WORKERS = 2
MAX_PIXELS = 64_000_000
START_SECONDS = 120


@dataclass(frozen=True)
class Request:
    """A POST request."""

    path: str
    body: bytes
    content_type: str


@dataclass(frozen=True)
class Measured:
    """Responses per second, p99 latency in ms, and the number of responses other than 200."""

    rate: float
    p99: float
    failed: int


def photograph(width: int, height: int, seed: int) -> bytes:
    """A JPEG with structure at every scale, like a photo: a sum of noise of several cell sizes."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), dtype=np.float32)
    for cells in (4, 16, 64, 256):
        coarse = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32) / 4
    buffer = io.BytesIO()
    Image.fromarray(total.astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def images() -> dict[str, bytes]:
    return {
        "32 x 32": photograph(32, 32, 0),
        "640 x 480": photograph(640, 480, 1),
        "12 megapixels": photograph(4000, 3000, 2),
    }


@dataclass(frozen=True)
class Peer:
    """A server: its environment, its command with {port} and {model}, and its request for an image."""

    environment: str
    command: str
    make_request: Callable[[bytes, int], Request] = lambda image, _: Request("/predict", image, "image/jpeg")


def v1_request(image: bytes, size: int) -> Request:  # noqa: ARG001
    body = {"instances": [{"b64": base64.b64encode(image).decode()}]}
    return Request("/v1/models/peer:predict", json.dumps(body).encode(), "application/json")


def v2_request(image: bytes, size: int) -> Request:  # noqa: ARG001
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(image).decode()]}
    body = {"inputs": [{**tensor, "parameters": {"content_type": "base64"}}]}
    return Request("/v2/models/peer/infer", json.dumps(body).encode(), "application/json")


def litserve_request(image: bytes, size: int) -> Request:  # noqa: ARG001
    body = {"image": base64.b64encode(image).decode()}
    return Request("/predict", json.dumps(body).encode(), "application/json")


def mlflow_request(image: bytes, size: int) -> Request:
    """MLflow decodes no images: the client sends pixels."""
    pixels = decode(image, size, MAX_PIXELS)[np.newaxis].tolist()
    return Request("/invocations", json.dumps({"inputs": {"image": pixels}}).encode(), "application/json")


OURS = "image-classifier"
SERVERS = {
    OURS: Peer("", f"-m image_classifier.cli serve --workers {WORKERS} --port {{port}} --model {{package}}"),
    "granian, bare WSGI": Peer(
        "granian", f"-m granian --interface wsgi --port {{port}} --workers {WORKERS} wsgi_app:app"
    ),
    "FastAPI on uvicorn": Peer(
        "fastapi", f"-m uvicorn fastapi_app:app --port {{port}} --workers {WORKERS} --log-level warning"
    ),
    "LitServe": Peer("litserve", f"litserve_app.py --workers {WORKERS} --port {{port}}", litserve_request),
    "BentoML": Peer("bentoml", "-m bentoml serve bentoml_service:Peer --port {port}"),
    "MLServer": Peer("mlserver", f"mlserver_app.py --workers {WORKERS} --port {{port}}", v2_request),
    "KServe SDK": Peer(
        "kserve", f"kserve_app.py --workers {WORKERS} --http_port {{port}} --enable_grpc false", v1_request
    ),
    "mlflow models serve": Peer(
        "mlflow",
        f"-m mlflow models serve --model-uri {{mlflow_model}} --env-manager local --port {{port}} --workers {WORKERS}",
        mlflow_request,
    ),
}


@contextmanager
def running(command: list[str], port: int, package: Path, log: Path) -> Iterator[None]:
    """A server that listens, killed with its workers at the end of the block."""
    environment = {
        **os.environ,
        "BENCH_PACKAGE": str(package),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # mlflow starts uvicorn by name.
        "PATH": f"{Path(command[0]).parent}:{os.environ['PATH']}",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=PEERS, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise PeerError(f"does not listen: {log.read_text()[-2000:]}") from None
                time.sleep(0.1)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_ready(port: int, request: Request) -> None:
    """Send the request until the response is 200, so that the start is not measured."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            posted = urllib.request.Request(
                f"http://127.0.0.1:{port}{request.path}", request.body, {"Content-Type": request.content_type}
            )
            urllib.request.urlopen(posted, timeout=30).read()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise PeerError(f"no response to {request.path}: {error}") from None
            time.sleep(0.2)


def load(port: int, request: Request, clients: int, seconds: float, folder: Path) -> Measured:
    """Measure with wrk."""
    (folder / "body").write_bytes(request.body)
    script = folder / "post.lua"
    script.write_text(
        f'wrk.method = "POST"\nwrk.body = io.open("{folder / "body"}", "rb"):read("*all")\n'
        f'wrk.headers["Content-Type"] = "{request.content_type}"\n'
    )
    command = ["wrk", "--threads", "1", "--connections", str(clients), "--duration", f"{seconds:g}s"]
    address = f"http://127.0.0.1:{port}{request.path}"
    done = subprocess.run(
        [*command, "--latency", "--timeout", "30s", "--script", str(script), address],
        capture_output=True,
        text=True,
        check=True,
    )
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)[1])
    value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", done.stdout).groups()
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
    p99 = float(value) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]
    return Measured(rate, p99, int(failed[1]) if failed else 0)


def _classify_for(seconds: float, folder: Path, image: bytes, counts: "multiprocessing.Queue[int]") -> None:
    model = Model.load(Package.read(folder), threads=1)
    size, count, end = model.package.image_size, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        model.probabilities(decode(image, size, MAX_PIXELS)[np.newaxis])
        count += 1
    counts.put(count)


def raw_limit(package: Path, image: bytes, seconds: float) -> float:
    """Images per second of the decoder and the model in two processes, without HTTP."""
    counts: multiprocessing.Queue[int] = multiprocessing.Queue()
    workers = [
        multiprocessing.Process(target=_classify_for, args=(seconds, package, image, counts)) for _ in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    total = sum(counts.get() for _ in workers)
    for worker in workers:
        worker.join()
    return total / seconds


def measure(
    server: str, pictures: dict[str, bytes], package: Path, size: int, folder: Path, arguments: argparse.Namespace
) -> dict[tuple[str, str, int], Measured]:
    """Measure one server with all images and numbers of clients; raises PeerError."""
    peer = SERVERS[server]
    python = make_environment(peer.environment) if peer.environment else Path(sys.executable)
    port = free_port()
    filled = peer.command.format(port=port, package=package, mlflow_model=folder / "mlflow")
    results = {}
    with running([str(python), *filled.split()], port, package, folder / "log"):
        for kind, image in pictures.items():
            request = peer.make_request(image, size)
            wait_until_ready(port, request)
            load(port, request, 8, 1, folder)
            for clients in arguments.clients:
                results[server, kind, clients] = load(port, request, clients, arguments.seconds, folder)
                print(server, kind, clients, results[server, kind, clients], file=sys.stderr)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--seconds", type=float, default=5, help="duration of the load for each measurement")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--only", nargs="+", choices=list(SERVERS), help="servers to measure")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not on PATH; install it, e.g. with apt-get install wrk")
    package = arguments.package.resolve()
    size = Package.read(package).image_size
    pictures = images()
    results: dict[tuple[str, str, int], Measured] = {}
    names = arguments.only or list(SERVERS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_mlflow_model(Package.read(package), folder / "mlflow", run_id="bench", model_id="bench")
        for server in list(names):
            try:
                results |= measure(server, pictures, package, size, folder, arguments)
            except PeerError as error:
                print(f"skipped {server}: {error}", file=sys.stderr)
                names.remove(server)
        limits = {kind: raw_limit(package, image, arguments.seconds) for kind, image in pictures.items()}
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(f"python bench/serving.py {arguments.package} --seconds {arguments.seconds:g}\n")
    for kind in pictures:
        print(f"\n**{kind}** (decoding and inference alone: {limits[kind]:,.0f}/s)\n")
        print("| server | " + " | ".join(f"{n} clients: /s, p99 ms, ours is" for n in arguments.clients) + " |")
        print("|---|" + "---|" * len(arguments.clients))
        for server in names:
            cells = []
            for clients in arguments.clients:
                measured = results[server, kind, clients]
                ours = results.get((OURS, kind, clients))
                ratio = f", {ours.rate / measured.rate:.2f} x" if ours and measured.rate else ""
                failed = f" ({measured.failed} failed)" if measured.failed else ""
                cells.append(f"{measured.rate:,.0f}, {measured.p99:,.1f}{ratio}{failed}")
            print(f"| {server} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
