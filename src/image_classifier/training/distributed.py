"""Data-parallel training in several processes, started by torchrun, by `local_processes` or as pods of a Job."""

import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from image_classifier.errors import TrainingError

_END_TIMEOUT_SECONDS = 30.0
_COLLECTIVE_TIMEOUT_SECONDS = 600.0  # one process may still be preparing the data

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes of one training, and this one's rank.

    All of them call the same collective methods in the same order; each call waits for the others. The first process
    decides whatever may differ between machines, and writes all output.
    """

    rank: int
    size: int
    local_size: int
    """Number of processes on this machine."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """Return the first process's value in every process. Collective."""
        if self.size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in their order, in the first one; in the others only their own one.

        Collective.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.gather_object(value, values if self.is_first else None)
        return values if self.is_first else [value]

    def broadcast_numbers(self, *values: float) -> list[float]:
        """The same as `broadcast`, fast enough for every step."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64)
        torch.distributed.broadcast(numbers, src=0)
        return numbers.tolist()

    def threads(self, cpus: int) -> int:
        """Number of threads for each process on a machine with this number of CPUs."""
        return max(1, cpus // self.local_size)

    def shard(self, batch: Tensor) -> Tensor:
        """This process's part of a batch whose length is a multiple of the group's size."""
        return batch[self.rank :: self.size]

    def data_parallel(self, network: nn.Module) -> nn.Module:
        """Wrap the network: equal weights in all processes, gradients averaged over them. Collective."""
        return network if self.size == 1 else DistributedDataParallel(network)


SINGLE_PROCESS = Group(rank=0, size=1, local_size=1)


@contextmanager
def join_group(environment: Mapping[str, str]) -> Iterator[Group]:
    """Join the group in torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT); without, SINGLE_PROCESS.

    Pods of an indexed Job have JOB_COMPLETION_INDEX instead of a RANK; the first process is not one of them. Raises
    TrainingError if the others do not connect in time, or if one of them ends early.
    """
    if int(environment.get("WORLD_SIZE", "1")) == 1:
        yield SINGLE_PROCESS
        return
    rank = environment.get("RANK") or str(int(environment["JOB_COMPLETION_INDEX"]) + 1)
    group = Group(int(rank), int(environment["WORLD_SIZE"]), int(environment.get("LOCAL_WORLD_SIZE", "1")))
    address = environment["MASTER_ADDR"]
    try:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"tcp://{address}:{environment['MASTER_PORT']}",
            rank=group.rank,
            world_size=group.size,
            timeout=timedelta(seconds=_COLLECTIVE_TIMEOUT_SECONDS),
        )
    except (RuntimeError, ValueError) as error:  # torch.distributed's own errors are RuntimeErrors
        raise TrainingError(
            f"the {group.size} training processes did not connect at {address}: {_first_line(error)}"
        ) from error
    try:
        yield group
    except RuntimeError as error:
        if "gloo" not in str(error).lower() and "peer" not in str(error).lower():
            raise
        raise TrainingError(
            f"another of the {group.size} training processes at {address} ended early; see its log for the reason "
            f"(error in this process: {_first_line(error)})"
        ) from error
    finally:
        torch.distributed.destroy_process_group()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


@contextmanager
def local_processes(command: Sequence[str], settings: Mapping[str, str], *, processes: int) -> Iterator[dict[str, str]]:
    """Run `command` on this machine as every process of a group except the first.

    `settings` are environment variables for them. Yields the environment variables with which the first process joins
    the group. When the block ends, the processes get 30 s to end; after an exception they are killed at once.
    """
    shared = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    started: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(1, processes):
            environment = {**os.environ, **settings, **shared, "RANK": str(rank)}
            started.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))
        yield {**shared, "RANK": "0"}
        for process in started:
            process.wait(_END_TIMEOUT_SECONDS)
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
