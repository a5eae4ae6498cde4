"""Time from exec of a server to its first correct response, by stage.

    python bench/startup.py path/to/package --starts 20

Each start is a new process of `image-classifier serve`, with its files in the page cache. A client connects as soon as
the port is open and sends the package's first golden image; the response is correct if it has the recorded probability.
The CPU time of all processes and threads of the server is printed too, as other load on the machine affects it less.
Import times are measured in further starts with `python -X importtime`, which adds a tenth to them. The minimum is the
time on an idle machine; a median far above it indicates other load.
"""

import argparse
import http.client
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from environments import free_port
from image_classifier.package.package import Package

START_SECONDS = 30
TOLERANCE = 1e-4
_PAUSE_SECONDS = 0.001
_IMPORT = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)")
_READY = re.compile(r"time=(\S+)Z .*event=ready")


class Start(NamedTuple):
    """Seconds from exec to each event, and CPU seconds until the last one."""

    bound: float
    """The package was verified and the port is open."""
    ready: float
    """A worker loaded the model and replayed the golden images."""
    responded: float
    cpu: float


@contextmanager
def server(package: Path, port: int, log: Path, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """`image-classifier serve` with Python's options `flags`, stopped at the end of the block."""
    command = [sys.executable, *flags, "-m", "image_classifier.cli", "serve"]
    # Without a drain timeout it does not wait for load balancers when it is stopped.
    options = ["--model", str(package), "--port", str(port), "--drain-timeout", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *options], stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_SECONDS)


def start(package: Package, log: Path, *flags: str) -> Start:
    """Start a server and send it one image; raises AssertionError for a wrong response."""
    port, golden = free_port(), package.golden[0]
    began, began_clock = time.perf_counter(), time.time()
    with server(package.folder, port, log, *flags) as process:
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
            with suppress(ConnectionRefusedError):
                connection.connect()
                break
            assert process.poll() is None, log.read_text()
            assert time.perf_counter() - began < START_SECONDS, log.read_text()
            time.sleep(_PAUSE_SECONDS)
        bound = time.perf_counter() - began
        connection.request("POST", "/predict", golden.png, {"Content-Type": "image/png"})
        prediction = json.load(connection.getresponse())["predictions"][0]
        responded, cpu = time.perf_counter() - began, cpu_seconds(process.pid)
        connection.close()
    assert abs(prediction["probability"] - max(golden.probabilities)) < TOLERANCE, prediction
    [ready_time] = _READY.findall(log.read_text())
    ready = datetime.fromisoformat(f"{ready_time}+00:00").timestamp() - began_clock
    return Start(bound, ready, responded, cpu)


def cpu_seconds(process: int) -> float:
    """CPU time of a process and its children, including all threads."""
    tasks = list(Path(f"/proc/{process}/task").iterdir())
    children = {child for task in tasks for child in (task / "children").read_text().split()}
    own = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    return own * 1e-9 + sum(cpu_seconds(int(child)) for child in children)


def import_seconds(log: str) -> Counter[str]:
    """Import time by top-level package until the server was ready, from the output of -X importtime."""
    seconds: Counter[str] = Counter()
    for microseconds, module in _IMPORT.findall(log.split("event=ready")[0]):
        name = module.split(".")[0]
        seconds["standard library" if name in sys.stdlib_module_names else name] += int(microseconds) * 1e-6
    return seconds


def interpreter_seconds() -> float:
    """Time of a Python process that does nothing."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--starts", type=int, default=20)
    arguments = parser.parse_args()
    package = Package.read(arguments.package)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        start(package, log)
        starts = [start(package, log) for _ in range(arguments.starts)]
        imports = []
        for _ in range(arguments.starts):
            start(package, log, "-X", "importtime")
            imports.append(import_seconds(log.read_text()))
        interpreter = min(interpreter_seconds() for _ in range(arguments.starts))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"python bench/startup.py {arguments.package} --starts {arguments.starts}\n")
    print("| seconds from exec | minimum | median | maximum |\n|---|---|---|---|")
    for name, label in (
        ("bound", "package verified, port open"),
        ("ready", "model loaded, golden images replayed"),
        ("responded", "first correct response"),
        ("cpu", "CPU time until then"),
    ):
        values = [getattr(one, name) for one in starts]
        print(f"| {label} | {min(values):.3f} | {statistics.median(values):.3f} | {max(values):.3f} |")
    least = {name: min(seconds[name] for seconds in imports) for name in set().union(*imports)}
    print("\n| stage, minimum | ms |\n|---|---|")
    print(f"| the interpreter | {1e3 * interpreter:.0f} |")
    for name, seconds in sorted(least.items(), key=lambda item: -item[1]):
        if seconds >= 0.001:
            print(f"| import {name} | {1e3 * seconds:.0f} |")
    rest = min(one.responded for one in starts) - interpreter - sum(least.values())
    print(f"| digests, processes, model, golden images, first response | {1e3 * rest:.0f} |")


if __name__ == "__main__":
    main()
