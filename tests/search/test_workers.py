"""Processes with workers that do not train."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState

from image_classifier.errors import TuningError
from image_classifier.progress import Progress
from image_classifier.search import workers as module
from tests.search import fake_work
from tests.search.fake_work import WORKERS, Options
from tests.search.options import ended_trial

pytestmark = pytest.mark.slow


class Pool:
    """A search that has work until its workers return."""

    def __init__(self, folder: Path) -> None:
        self.options = Options(folder)
        self.lines: list[str] = []
        self.ended: list[FrozenTrial] = []
        self.has_work = lambda: not (folder / "over").exists()

    def ended_trials(self) -> list[FrozenTrial]:
        return self.ended

    def run(self) -> None:
        module.run_workers(self, "run", Progress("tuning", None, "s"), self.lines.append)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Options, str], None]], None]:
    return lambda function: monkeypatch.setattr(module, "work_on", function)


def runs(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def test_workers_are_processes_that_run_at_the_same_time(pool, work):
    work(fake_work.end_together)
    pool.run()
    assert len({*pool.options.processes(), os.getpid()}) == WORKERS + 1
    assert pool.lines == []


def test_the_error_of_a_worker_ends_the_others(pool, work):
    work(fake_work.raise_in_one)
    with pytest.raises(OSError, match="disk full"):
        pool.run()
    assert not any(map(runs, pool.options.processes()))


def test_a_worker_that_dies_is_replaced(pool, work):
    work(fake_work.die_once)
    pool.run()
    assert pool.lines == ["a worker process died; another is started"]
    assert len(pool.options.processes()) == WORKERS


def test_workers_that_die_again_and_again_end_the_search(pool, work):
    work(fake_work.die)
    with pytest.raises(TuningError, match="worker processes died 5 times in a row"):
        pool.run()


def test_a_trial_that_ended_is_reported_once(pool, work):
    work(fake_work.end_together)
    pool.ended.append(ended_trial(TrialState.COMPLETE, 0.5))
    pool.ended_trials = lambda: [*pool.ended, *new]
    new: list[FrozenTrial] = []
    before = pool.has_work

    def has_work() -> bool:
        if not new:
            failed = ended_trial(TrialState.FAIL, recipe="width=2", reason="the loss became nan")
            failed.number = 1
            new.append(failed)
        return before()

    pool.has_work = has_work
    pool.run()
    assert pool.lines == ["trial 1: failed (the loss became nan), width=2"]


def test_workers_ignore_ctrl_c_and_end_with_the_search(pool, work):
    interrupted: list[int] = []

    def interrupt() -> list[FrozenTrial]:
        processes = pool.options.processes()
        if interrupted:
            assert all(map(runs, interrupted))
            raise KeyboardInterrupt
        if len(processes) == WORKERS:
            for process in processes:
                os.kill(process, signal.SIGINT)
                interrupted.append(process)
        return []

    pool.ended_trials = interrupt
    work(fake_work.work_for_long)
    with pytest.raises(KeyboardInterrupt):
        pool.run()
    assert len(interrupted) == WORKERS
    assert not any(map(runs, interrupted))


def test_ctrl_c_works_again_after_the_workers_were_started(pool, work):
    before = signal.getsignal(signal.SIGINT)
    work(fake_work.end_together)
    pool.run()
    assert signal.getsignal(signal.SIGINT) is before
