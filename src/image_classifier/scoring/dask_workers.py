"""Score partitions in several processes with Dask, which schedules them and replaces killed workers.

Each worker process loads the model once. Dask runs code that it receives over the network, so scheduler and workers
listen only on the loopback address and accept only connections with the certificate of this run.
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
from image_classifier.scoring.partition_scorer import PartitionScorer, ScoringJob

_PLUGIN = "scorer"
_QUEUED = 2  # partitions for each worker besides the one it scores, so that it never waits
_CONFIG = {
    # The profiler samples every thread a hundred times a second.
    "distributed.worker.profile.enabled": False,
    "distributed.scheduler.allowed-failures": 2,
    "distributed.comm.retry.count": 2,
    # The default makes workers return memory that they request again at once, and changes the environment of this
    # process, too.
    "distributed.nanny.pre-spawn-environ": {},
}


class _ScorerPlugin(WorkerPlugin):
    """Loads the model when a worker process starts."""

    name = _PLUGIN

    def __init__(self, job: ScoringJob) -> None:
        self._job = job

    def setup(self, worker: Any) -> None:  # noqa: ARG002 (passed by Dask)
        # Ctrl-C reaches all processes of a terminal; the main process stops the workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.scorer = PartitionScorer(self._job)


def score_in_processes(
    partitions: Sequence[Partition], job: ScoringJob, processes: int, scratch: Path
) -> Iterator[int]:
    """Score the partitions; yields the number of images of each when it is done.

    Raises DataError if workers are repeatedly killed by the same partition, and any error of a worker.
    """
    with (
        dask.config.set(_CONFIG),
        LocalCluster(
            n_workers=processes,
            threads_per_worker=1,
            memory_limit=0,  # Dask would guess a limit; the kernel enforces that of the container
            dashboard_address=None,
            worker_dashboard_address=None,
            security=Security.temporary(),
            local_directory=str(scratch),
            # Errors are raised below; an interrupted run would log every lost connection.
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(_ScorerPlugin(job))
        counts = {_key(partition): partition.count for partition in partitions}
        remaining = iter(partitions)
        futures = as_completed(
            [_submit(client, partition) for partition in islice(remaining, processes * (1 + _QUEUED))]
        )
        for future in futures:
            # The result is not fetched: its worker may be gone, and Dask waits long for it.
            if future.status == "error":
                _raise(future.exception(), future.key)
            yield counts[future.key]
            for partition in islice(remaining, 1):
                futures.add(_submit(client, partition))


def _raise(error: BaseException, key: str) -> NoReturn:
    if isinstance(error, KilledWorker):
        raise DataError(
            f"the worker process was killed every time it scored {key}, probably because memory ran out; lower "
            "score_processes or max_pixels, or provide more memory"
        )
    raise error


def _key(partition: Partition) -> str:
    return f"part-{partition.number}"


def _submit(client: Any, partition: Partition) -> Any:
    return client.submit(_score, partition, key=_key(partition), pure=False)


def _score(partition: Partition) -> None:
    cast(_ScorerPlugin, get_worker().plugins[_PLUGIN]).scorer.score(partition)
