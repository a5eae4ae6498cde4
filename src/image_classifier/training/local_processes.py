"""The processes that train along with this one on the same machine."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from image_classifier.steps import free_port

_END_SECONDS = 30.0


@contextmanager
def helping_processes(settings: Mapping[str, str], *, processes: int) -> Iterator[dict[str, str]]:
    """Start all but the first of so many; gives what the first needs in its environment.

    `settings` are the variables that set what they train. They end with the block.
    """
    shared = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    command = [sys.executable, "-m", "image_classifier.cli", "train"]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(1, processes):
            environment = {**os.environ, **settings, **shared, "RANK": str(rank)}
            started.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))
        yield {**shared, "RANK": "0"}
        for process in started:
            process.wait(_END_SECONDS)
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.wait()
