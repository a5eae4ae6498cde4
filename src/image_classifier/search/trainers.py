"""Processes that train side by side, each on its share of the CPUs, and report while they do."""

import contextlib
import io
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait

from image_classifier.datasets import Dataset, prepare
from image_classifier.process import available_cpus
from image_classifier.settings import Recipe, Settings
from image_classifier.training import Epoch, Plan, fit

_STOP = "stop"
_END_SECONDS = 5.0


@dataclass(frozen=True)
class Job:
    """What is to be trained."""

    recipe: Recipe
    seed: int


@dataclass(frozen=True)
class Result:
    """What a training came to, on its validation split."""

    accuracy: float
    loss: float
    """The lowest at a report."""
    images: int
    """Of the validation split."""
    parameters: dict[str, int | float | str | bool]


@dataclass(frozen=True)
class Failure:
    """Why a training came to nothing."""

    reason: str


@dataclass(frozen=True)
class Ready:
    """The process waits for work: at first, and after each training."""


@dataclass(frozen=True)
class Stopped:
    """The training ended early, as it was asked to."""


Message = Epoch | Result | Failure | Ready | Stopped


class _StoppedError(Exception):
    """Ends a training from within."""


class Trainer:
    """A process that trains one recipe after the other."""

    def __init__(self, settings: Settings, threads: int) -> None:
        self._settings, self._threads = settings, threads
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # PyTorch's threads do not survive a fork
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, self._settings, self._threads), daemon=True
        )
        with interrupts_held():
            self._process.start()
        # With the only other end in the process, its death ends the connection.
        theirs.close()

    @property
    def process_id(self) -> int | None:
        return self._process.pid

    def begin(self, job: Job) -> None:
        # A process that has died says so by its connection, to whoever receives.
        with contextlib.suppress(OSError):
            self.connection.send(job)

    def stop_training(self) -> None:
        """Ask for an early end; the training goes on until its next report."""
        with contextlib.suppress(OSError):
            self.connection.send(_STOP)

    def receive(self) -> Message:
        """The next message. A process that died is replaced, and what it trained has failed."""
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):
            self._process.join(_END_SECONDS)
            status = self._process.exitcode
            self.close()
            self._start()
            return Failure(
                f"the process that trained it was ended by signal {-status}"
                if status is not None and status < 0
                else f"the process that trained it ended with status {status}"
            )
        return message

    def close(self) -> None:
        """End the process, whatever it does."""
        self.connection.close()
        self._process.terminate()
        self._process.join(_END_SECONDS)
        self._process.kill()
        self._process.join()


@contextmanager
def started_trainers(settings: Settings, count: int) -> Iterator[list[Trainer]]:
    """Trainers that share the CPUs."""
    trainers: list[Trainer] = []
    try:
        for _ in range(count):
            trainers.append(Trainer(settings, max(1, available_cpus() // count)))
        yield trainers
    finally:
        for trainer in trainers:
            trainer.close()


def with_messages(trainers: Sequence[Trainer], timeout: float) -> list[Trainer]:
    """Those that have something to say, after at most `timeout` seconds."""
    speaking = wait([trainer.connection for trainer in trainers], timeout)
    return [trainer for trainer in trainers if trainer.connection in speaking]


def _work(connection: Connection, settings: Settings, threads: int) -> None:
    """Train what is sent, until the other end is closed."""
    # Several bars would write over each other; whoever sends the work shows how far all of it is.
    with contextlib.suppress(EOFError, OSError), contextlib.redirect_stderr(io.StringIO()):
        dataset = prepare(settings)
        while True:
            connection.send(Ready())
            while (job := connection.recv()) == _STOP:
                pass  # it came too late for the training before
            connection.send(_outcome(connection, dataset, job, settings, threads))


def _outcome(
    connection: Connection, dataset: Dataset, job: Job, settings: Settings, threads: int
) -> Result | Failure | Stopped:
    def on_epoch(epoch: Epoch) -> None:
        connection.send(epoch)
        # An answer is not waited for: training time is for training.
        if connection.poll() and connection.recv() == _STOP:
            raise _StoppedError

    try:
        plan = replace(Plan.of(settings), seed=job.seed, recipe=job.recipe, threads=threads)
        trained = fit(dataset, plan, on_epoch=on_epoch)
    except _StoppedError:
        return Stopped()
    except (EOFError, OSError):
        raise
    except Exception as error:  # whatever a recipe leads to is a result of its trial
        return Failure(" ".join(str(error).split()) or type(error).__name__)
    loss = min(epoch.validation_loss for epoch in trained.history)
    return Result(trained.validation_accuracy, loss, len(trained.validation), trained.parameters)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """What is started meanwhile does not see Ctrl-C, which a terminal sends to all; its parent does, afterwards."""
    # It is started with the first process otherwise, and lets them through again.
    resource_tracker.ensure_running()
    seen: list[int] = []
    # The mask is what a process inherits; it holds for this thread alone, and another may get the signal.
    handler = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if seen:
            signal.raise_signal(signal.SIGINT)
