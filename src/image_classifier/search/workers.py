"""Worker processes of a search, each of which runs Optuna's loop on its share of the CPUs."""

import contextlib
import io
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from optuna.trial import FrozenTrial, TrialState

from image_classifier.datasets import Cache, prepare
from image_classifier.errors import TuningError
from image_classifier.process import exit_with_parent
from image_classifier.progress import Progress
from image_classifier.registry import Registry
from image_classifier.search.objective import Objective
from image_classifier.search.storage import opened_storage
from image_classifier.search.study import Search, SearchOptions
from image_classifier.text import Report

_MOST_DEATHS = 5  # of workers without a trial that ended in between


def run_workers(search: Search, parent_run: str, progress: Progress, report: Report) -> None:
    """Run trials in several processes until there is no work. A process that dies is replaced.

    Raises the error of a worker, and TuningError if workers die again and again.
    """
    deaths, reported = 0, {trial.number for trial in search.ended_trials()}
    with _pools() as start:
        workers = search.options.tune_workers if search.has_work() else 0
        pending = {start(work_on, search.options, parent_run) for _ in range(workers)}
        while pending:
            started = time.monotonic()
            ended, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
            progress.advance(time.monotonic() - started)
            for trial in [trial for trial in search.ended_trials() if trial.number not in reported]:
                reported.add(trial.number)
                deaths = 0
                with progress.aside():
                    report(_describe(trial))
            for future in ended:
                try:
                    future.result()
                except BrokenProcessPool:
                    deaths += 1
                    if deaths == _MOST_DEATHS:
                        hint = "if memory runs out, use fewer --tune-workers"
                        raise TuningError(f"worker processes died {deaths} times in a row; {hint}") from None
                    report("a worker process died; another is started")
                    pending.add(start(work_on, search.options, parent_run))


@contextlib.contextmanager
def _pools() -> Iterator[Callable[..., Future[None]]]:
    """A function that runs another one in a process of its own. An error ends all processes."""
    with contextlib.ExitStack() as pools:

        def start(function: Callable[..., None], *arguments: object) -> Future[None]:
            # One process a pool: a pool ends all its processes if one dies. PyTorch does not survive a fork.
            context = multiprocessing.get_context("spawn")
            pool = pools.enter_context(ProcessPoolExecutor(1, context, initializer=exit_with_parent))
            # A terminal sends Ctrl-C to the workers, too, but their parent ends them.
            handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                return pool.submit(function, *arguments)
            finally:
                signal.signal(signal.SIGINT, handler)

        try:
            yield start
        except BaseException:
            for process in multiprocessing.active_children():
                process.kill()
            raise


def work_on(options: SearchOptions, parent_run: str) -> None:
    """Run trials in this process until there is no work."""
    with (
        contextlib.redirect_stderr(io.StringIO()),  # the progress bars of several trainings would mix
        opened_storage(options.storage, options.registry.registry_timeout, options.grace) as storage,
        # If this process is killed, the next use of the cache removes the folder.
        Cache(options.request.home / "cache").draft() as folder,
    ):
        dataset, registry = prepare(options.request), Registry(options.registry)
        objective = Objective(options.plan, dataset, registry, parent_run, folder)
        Search(options, storage).optimize(objective)


def _describe(trial: FrozenTrial) -> str:
    outcome = "pruned" if trial.state == TrialState.PRUNED else f"failed ({trial.user_attrs.get('reason')})"
    if trial.state == TrialState.COMPLETE:
        outcome = f"{100 * trial.values[0]:.2f} %"
    return f"trial {trial.number}: {outcome}, {trial.user_attrs['recipe'] or 'default recipe'}"
