"""Training processes, really started."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from image_classifier.search.trainers import (
    Failure,
    Job,
    Message,
    Ready,
    Result,
    Stopped,
    Trainer,
    interrupts_held,
    started_trainers,
    with_messages,
)
from image_classifier.settings import Recipe, Seconds, Settings
from image_classifier.training.fit import Epoch

SECONDS = 60.0


def next_message(trainer: Trainer) -> Message:
    assert with_messages([trainer], SECONDS) == [trainer]
    return trainer.receive()


def outcome(trainer: Trainer) -> Message:
    """What the training came to; afterwards the trainer is ready for the next."""
    while isinstance(message := next_message(trainer), Epoch):
        pass
    assert next_message(trainer) == Ready()
    return message


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    settings = replace(Settings(), home=tmp_path_factory.mktemp("home"), budget=Seconds(1.0))
    with started_trainers(settings, 1) as (only,):
        assert next_message(only) == Ready()
        yield only


def test_a_training_reports_while_it_runs_and_gives_its_result(trainer):
    trainer.begin(Job(Recipe(width=0.5), 3))
    assert isinstance(next_message(trainer), Epoch)
    result = outcome(trainer)
    assert isinstance(result, Result)
    assert 0.1 < result.accuracy <= 1
    assert result.images == 143
    assert result.parameters["width"] == 0.5


def test_a_training_ends_early_when_asked_and_the_next_one_runs(trainer):
    trainer.begin(Job(Recipe(), 0))
    assert isinstance(next_message(trainer), Epoch)
    trainer.stop_training()
    assert outcome(trainer) == Stopped()
    trainer.stop_training()  # too late for one, and not for the next
    time.sleep(0.3)
    trainer.begin(Job(Recipe(width=0.5), 0))
    assert isinstance(outcome(trainer), Result)


def test_a_training_that_cannot_be_says_why(trainer):
    trainer.begin(Job(Recipe(label_smoothing=2.0), 0))
    failure = outcome(trainer)
    assert isinstance(failure, Failure)
    assert "label_smoothing must be between" in failure.reason


def test_a_process_that_is_killed_is_said_and_replaced(trainer):
    trainer.begin(Job(Recipe(), 0))
    assert isinstance(next_message(trainer), Epoch)
    before = trainer.process_id
    os.kill(before, signal.SIGKILL)
    assert outcome(trainer) == Failure("the process that trained it was ended by signal 9")
    assert trainer.process_id != before


def test_the_processes_end_with_the_block(tmp_path: Path):
    with started_trainers(replace(Settings(), home=tmp_path), 2) as trainers:
        identities = [trainer.process_id for trainer in trainers]
    assert not any(Path(f"/proc/{identity}").exists() for identity in identities)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts, which it does not in what a shell runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_while_a_process_starts_is_seen_afterwards():
    reached = False
    with pytest.raises(KeyboardInterrupt), interrupts_held():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)  # another thread may get it, and takes a moment
        reached = True
    assert reached


def test_a_process_does_not_see_ctrl_c(trainer):
    trainer.begin(Job(Recipe(), 0))
    assert isinstance(next_message(trainer), Epoch)
    os.kill(trainer.process_id, signal.SIGINT)
    assert isinstance(outcome(trainer), Result)
