"""Score parts in several processes, by Dask: it hands the parts out and replaces a process that was killed.

Each worker process has one model. Who reaches the scheduler or a worker may run code in it, so they listen on the
loopback address alone, and only to those who have this run's certificate.
"""

import logging
import signal
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, cast

import dask
from distributed import Client, KilledWorker, LocalCluster, Security, WorkerPlugin, as_completed, get_worker

from image_classifier.errors import DataError
from image_classifier.scoring.partition import Partition
from image_classifier.scoring.partition_scorer import PartitionScorer, Work

_PLUGIN = "scorer"
_WAITING = 2
"""Parts at hand for each process beside the one it scores, so that it never waits for the next."""
_CONFIG = {
    # It looks at every thread a hundred times a second.
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.allowed-failures": 2,
    "distributed.comm.retry.count": 2,
    # It would have workers give memory back that they ask for again at once, and set this in our own environment, too.
    "distributed.nanny.pre-spawn-environ": {},
}


class _OneModel(WorkerPlugin):
    """Loads the model when a worker process starts."""

    name = _PLUGIN

    def __init__(self, work: Work) -> None:
        self._work = work

    def setup(self, worker: Any) -> None:  # noqa: ARG002 (Dask gives it)
        # Ctrl-C goes to all processes of a terminal, and the first one ends the others.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.scorer = PartitionScorer(self._work)


def score_in_processes(
    parts: Sequence[Partition], work: Work, processes: int, scratch: Path
) -> Iterator[int]:
    """Score the parts; yields the number of images of each as it is done.

    Raises DataError where processes are killed again and again with the same part, and what a process raises.
    """
    with (
        dask.config.set(_CONFIG),
        LocalCluster(
            n_workers=processes,
            threads_per_worker=1,
            # No limit of Dask's: it would guess at one where the container's is known to the kernel.
            memory_limit=0,
            dashboard_address=None,
            worker_dashboard_address=None,
            security=Security.temporary(),
            local_directory=str(scratch),
            # What goes wrong is raised here; a run that is ended early would print what its processes miss.
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(_OneModel(work))
        counts = {_key(part): part.count for part in parts}
        waiting = iter(parts)
        scored = as_completed([_submit(client, part) for part in islice(waiting, processes * (1 + _WAITING))])
        for future in scored:
            # A result is not asked for: it would lie with a process that may be gone, and Dask waits long for those.
            if future.status == "error":
                _raise(future.exception(), future.key)
            yield counts[future.key]
            for part in islice(waiting, 1):
                scored.add(_submit(client, part))


def _raise(error: BaseException, key: str) -> NoReturn:
    if isinstance(error, KilledWorker):
        raise DataError(
            f"a process was killed whenever it scored {key}, probably for lack of memory; lower max_pixels or "
            "score_processes, or give it more"
        )
    raise error


def _key(part: Partition) -> str:
    return f"part-{part.number}"


def _submit(client: Any, part: Partition) -> Any:
    return client.submit(_score, part, key=_key(part), pure=False)


def _score(part: Partition) -> None:
    cast(_OneModel, get_worker().plugins[_PLUGIN]).scorer.score(part)
