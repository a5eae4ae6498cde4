"""From exec to the first right answer of a server, and where that time goes.

    python bench/startup.py path/to/package --starts 20

Each start is a new process of the command that a user gives, on files that the system has in memory. A client connects
as soon as the port is bound and asks for the package's first golden image; the answer is right if it has the recorded
probability. Beside the time that passes it prints the time that all the processes and threads of the server had a CPU,
which neighbours disturb less. What the imports take is found in further starts with `python -X importtime`, which
itself takes a tenth of that. The minimum is what an idle machine needs; a median far above it tells of neighbours.
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

from image_classifier.package.package import Package
from image_classifier.steps.local_server import free_port

START_SECONDS = 30
TOLERANCE = 1e-4
_PAUSE_SECONDS = 0.001
_IMPORT = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)")
_READY = re.compile(r"time=(\S+)Z .*event=ready")


class Started(NamedTuple):
    """Seconds from exec to each event, and of CPU time by the last one."""

    bound: float
    """The package is verified and the port is open."""
    ready: float
    """A worker has loaded the model and replayed the golden images."""
    answered: float
    cpu: float


@contextmanager
def server(package: Path, port: int, log: Path, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command that a user gives, ended with its workers."""
    command = [sys.executable, *flags, "-m", "image_classifier.cli", "serve"]
    # It need not wait for a load balancer when it is stopped.
    options = ["--model", str(package), "--port", str(port), "--drain-timeout", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *options], stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_SECONDS)


def start(package: Package, log: Path, *flags: str) -> Started:
    """Start a server and ask until it has answered once; raises AssertionError for a wrong answer."""
    port, golden = free_port(), package.golden[0]
    began, began_at = time.perf_counter(), time.time()
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
        answer = json.load(connection.getresponse())["predictions"][0]
        answered, cpu = time.perf_counter() - began, cpu_seconds(process.pid)
        connection.close()
    assert abs(answer["probability"] - max(golden.probabilities)) < TOLERANCE, answer
    [said] = _READY.findall(log.read_text())
    ready = datetime.fromisoformat(f"{said}+00:00").timestamp() - began_at
    return Started(bound, ready, answered, cpu)


def cpu_seconds(process: int) -> float:
    """CPU time of a process and its children, with all their threads."""
    tasks = list(Path(f"/proc/{process}/task").iterdir())
    children = {child for task in tasks for child in (task / "children").read_text().split()}
    spent = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    return spent * 1e-9 + sum(cpu_seconds(int(child)) for child in children)


def import_seconds(log: str) -> Counter[str]:
    """Seconds that the modules of each top-level package took until it was ready, as -X importtime printed it."""
    found: Counter[str] = Counter()
    for microseconds, module in _IMPORT.findall(log.split("event=ready")[0]):
        name = module.split(".")[0]
        found["Python's own" if name in sys.stdlib_module_names else name] += int(microseconds) * 1e-6
    return found


def interpreter_seconds() -> float:
    """What Python takes that does nothing."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    for name, words in (
        ("bound", "package verified, port open"),
        ("ready", "model loaded, golden images replayed"),
        ("answered", "first right answer"),
        ("cpu", "CPU time by then"),
    ):
        values = [getattr(one, name) for one in starts]
        print(f"| {words} | {min(values):.3f} | {statistics.median(values):.3f} | {max(values):.3f} |")
    least = {name: min(found[name] for found in imports) for name in set().union(*imports)}
    print("\n| stage, minimum | ms |\n|---|---|")
    print(f"| the interpreter | {1e3 * interpreter:.0f} |")
    for name, seconds in sorted(least.items(), key=lambda item: -item[1]):
        if seconds >= 0.001:
            print(f"| import {name} | {1e3 * seconds:.0f} |")
    rest = min(one.answered for one in starts) - interpreter - sum(least.values())
    print(f"| digests, processes, model, golden replay, first answer | {1e3 * rest:.0f} |")


if __name__ == "__main__":
    main()
