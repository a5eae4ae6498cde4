"""Keeps training processes at work on the trials of a study, and records what is heard of them.

A trial is in Optuna's storage, which decides what is tried next and what ends early, and a run in MLflow, nested under
that of the search, for people to look at.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from image_classifier.datasets import Dataset
from image_classifier.errors import RegistryError, TuningError
from image_classifier.progress import Progress
from image_classifier.registry import Registry, Run
from image_classifier.search.study import Study, Training, parameters_of
from image_classifier.search.trainers import (
    Failure,
    Job,
    Message,
    Ready,
    Result,
    Stopped,
    Trainer,
    with_messages,
)
from image_classifier.settings import Recipe
from image_classifier.training import Epoch

_PAUSE = 0.5
_SIGN_OF_LIFE = 5.0
_STUDY, _TRIAL = "study", "trial"


@dataclass(frozen=True)
class Records:
    """Where trainings are recorded beside their study."""

    registry: Registry
    dataset: Dataset
    parent: str
    """The run that theirs are nested under."""
    say: Callable[[str], None]
    """Takes a line for each training that is over."""

    def start_run(self, study: Study, training: Training) -> Run:
        return self.registry.start_run(
            parameters={"recipe": training.recipe, "seed": training.seed, **parameters_of(training.recipe)},
            tags={_STUDY: study.name, _TRIAL: str(training.number)},
            dataset=self.dataset,
            name=study.label(training),
            parent=self.parent,
        )

    def end_abandoned(self, studies: Iterable[Study]) -> None:
        """End the trials that nobody works on any more, and the runs of trials that are not under way."""
        studies = list(studies)
        for study in studies:
            study.give_up_abandoned()
        # First the runs: another machine makes a run after its trial.
        runs = self.registry.running_children(self.parent)
        alive = {(study.name, str(trial.number)) for study in studies for trial in study.running()}
        for run, tags in runs:
            if (tags.get(_STUDY), tags.get(_TRIAL)) not in alive:
                end_run(run, "KILLED", "abandoned")


class Conductor:
    """Gives trainers work and hears them."""

    def __init__(self, trainers: list[Trainer], records: Records, progress: Progress, budget: float) -> None:
        """`budget` is the time in seconds of one training."""
        self.longest = budget
        """Seconds of the longest training so far, with what comes before its first step."""
        self._trainers, self._records, self._progress = trainers, records, progress
        self._under_way: dict[Trainer, tuple[Study, Training, Run]] = {}
        self._idle: list[Trainer] = []
        self._showed_life = -math.inf
        while len(self._idle) < len(trainers):
            self._hear()
        self._seen = time.monotonic()

    @property
    def busy(self) -> int:
        """How many trainings are under way."""
        return len(self._under_way)

    def keep_busy(self, study: Study, next_training: Callable[[], Training | None]) -> None:
        """Give the trainers work until there is no more and all of it is done."""
        while True:
            while self._idle and (training := next_training()) is not None:
                trainer = self._idle.pop(0)
                # The process begins while the run is made.
                trainer.begin(Job(training.recipe, training.seed))
                self._under_way[trainer] = study, training, self._records.start_run(study, training)
            if self._idle and not self._under_way:
                return
            self._hear()
            self._show_progress()

    def abandon(self) -> None:
        """End what is under way and will not come to its end; it is tried again by whoever goes on."""
        for study, training, run in self._under_way.values():
            study.abandon(training)
            with contextlib.suppress(RegistryError):  # which may be why nothing goes on
                end_run(run, "KILLED", "abandoned")
        self._under_way.clear()

    def _hear(self) -> None:
        for trainer in with_messages(self._trainers, _PAUSE):
            self._take(trainer, trainer.receive())

    def _take(self, trainer: Trainer, message: Message) -> None:
        if isinstance(message, Ready):
            self._idle.append(trainer)
        elif trainer in self._idle:
            # It died without work; the process in its place says when it is ready.
            self._idle.remove(trainer)
        elif trainer not in self._under_way:
            raise TuningError(f"no training can be started: {message}")
        elif isinstance(message, Epoch):
            study, training, run = self._under_way[trainer]
            if study.report(training, message.validation_accuracy, message.number):
                trainer.stop_training()
            run.log_epoch(message.figures, step=message.number)
        else:
            study, training, run = self._under_way.pop(trainer)
            self._end(study, training, run, message)
            self.longest = max(self.longest, training.seconds)

    def _end(self, study: Study, training: Training, run: Run, outcome: Result | Stopped | Failure) -> None:
        label, recipe = study.label(training), str(training.recipe) or "the default"
        if isinstance(outcome, Result):
            study.complete(training, outcome.accuracy, loss=outcome.loss, images=outcome.images)
            run.log_parameters(outcome.parameters)
            run.log_metrics({"accuracy": outcome.accuracy})
            end_run(run, "FINISHED", "complete")
            self._say(f"{label}: {outcome.accuracy:.2%} with {recipe}")
        elif isinstance(outcome, Stopped):
            study.prune(training)
            end_run(run, "KILLED", "pruned")
            self._say(f"{label}: pruned after {training.seconds:.0f} s, {recipe}")
        else:
            study.fail(training, outcome.reason)
            end_run(run, "FAILED", "failed", outcome.reason)
            self._say(f"{label}: failed with {recipe}: {outcome.reason}")
            if training.recipe == Recipe():
                raise TuningError(f"the default recipe cannot be trained: {outcome.reason}")

    def _say(self, line: str) -> None:
        with self._progress.aside():
            self._records.say(line)

    def _show_progress(self) -> None:
        now = time.monotonic()
        self._progress.advance(now - self._seen)
        self._seen = now
        if now - self._showed_life > _SIGN_OF_LIFE:
            self._showed_life = now
            for study, training, _ in self._under_way.values():
                study.show_life(training)


def end_run(run: Run, status: str, state: str, reason: str = "") -> None:
    """End the run of a trial with MLflow's status, and the trial's own state and reason as tags."""
    run.set_tags({"state": state, **({"reason": reason} if reason else {})})
    run.end(status)
