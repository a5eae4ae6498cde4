"""Several processes that train one network: those that torchrun started, or the pods of an indexed Job."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from image_classifier.errors import TrainingError

_JOIN_SECONDS = 600.0
"""So long the processes wait for each other: one may still prepare the data."""

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes of one training, and the place of this one among them.

    All of them call the same methods in the same order, each of which waits until the others have come as far. The
    first decides whatever may differ between machines, and writes whatever is written.
    """

    rank: int
    size: int
    local_size: int
    """How many of them share this machine."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def of_first(self, value: T) -> T:
        """The value that the first process gives; those of the others are ignored."""
        if self.size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values)
        return values[0]

    def number_of_first(self, value: float) -> float:
        """As of_first; fast enough for each step."""
        if self.size == 1:
            return value
        number = torch.tensor(value, dtype=torch.float64)
        torch.distributed.broadcast(number, src=0)
        return number.item()

    def threads(self, cpus: int) -> int:
        """How many threads each process has, of the CPUs of this machine."""
        return max(1, cpus // self.local_size)

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch that is a multiple of the size."""
        return batch[self.rank :: self.size]

    def averaging(self, network: nn.Module) -> nn.Module:
        """The network with the same weights in all processes, whose gradients are the mean of theirs."""
        return network if self.size == 1 else DistributedDataParallel(network)


ALONE = Group(rank=0, size=1, local_size=1)


@contextmanager
def joined(environment: Mapping[str, str]) -> Iterator[Group]:
    """The group that the environment names, as torchrun does (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT); else ALONE.

    Pods of an indexed Job have their place in it instead of a RANK; the first process is not one of them. Raises
    TrainingError where the others do not come, or one of them ends before its time.
    """
    if int(environment.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    rank = environment.get("RANK") or str(int(environment["JOB_COMPLETION_INDEX"]) + 1)
    group = Group(int(rank), int(environment["WORLD_SIZE"]), int(environment.get("LOCAL_WORLD_SIZE", "1")))
    others = f"the {group.size} processes of this training at {environment['MASTER_ADDR']}"
    try:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"tcp://{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}",
            rank=group.rank,
            world_size=group.size,
            timeout=timedelta(seconds=_JOIN_SECONDS),
        )
    except (RuntimeError, ValueError) as error:  # torch.distributed's own errors are RuntimeErrors
        raise TrainingError(f"{others} did not come together: {_first_line(error)}") from error
    try:
        yield group
    except RuntimeError as error:
        if "gloo" not in str(error).lower() and "peer" not in str(error).lower():
            raise
        raise TrainingError(
            f"one of {others} has ended, and its log tells why; here: {_first_line(error)}"
        ) from error
    finally:
        torch.distributed.destroy_process_group()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
