"""The trials of a search in Optuna's storage, which several processes and machines may share.

Trials are asked for and told one by one, so Optuna's own heartbeat, which belongs to its loop, is not at work: a trial
shows by an attribute that it is alive, and one that has not done so for a while is given up and tried again.
"""

import contextlib
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    distribution_to_json,
)
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.pruners import BasePruner, NopPruner, PercentilePruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from image_classifier.errors import TuningError
from image_classifier.settings import DEFAULTS, Recipe
from image_classifier.text import clip
from image_classifier.training import REPORTS

GRACE_SECONDS = 30.0
"""A trial that has shown no life for so long was abandoned. The clocks of machines that share a storage must agree
better than that."""
RATES = 4.0
"""The rates are searched from the default divided by this to the default times this."""
_DIGITS = 3
"""Significant digits of a value: what is printed is what was tried."""
_ATTEMPTS = 3
"""A trial that was abandoned so often is not tried again: it may be what kills the process."""
_LONGEST_MESSAGE = 300


def _around_default(name: str) -> FloatDistribution:
    return FloatDistribution(DEFAULTS[name] / RATES, DEFAULTS[name] * RATES, log=True)


SPACE: dict[str, BaseDistribution] = {
    "width": CategoricalDistribution((0.0, 0.5, 0.75, 1.0, 1.5, 2.0)),
    "batch_size": CategoricalDistribution((0, 32, 64, 128, 256, 512)),
    "label_smoothing": FloatDistribution(0.0, 0.3),
    "convolution_rate": _around_default("convolution_rate"),
    "bias_rate": _around_default("bias_rate"),
    "head_rate": _around_default("head_rate"),
    "shift": FloatDistribution(0.0, 0.2),
}
"""What is searched; 0 for width and batch size lets the training choose."""


@dataclass(frozen=True)
class Training:
    """A trial under way."""

    trial: Trial
    recipe: Recipe
    seed: int
    began: float
    """Unix time."""

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def seconds(self) -> float:
        """How long it has been under way."""
        return time.time() - self.began


class Study:
    """The trials of a search, or of its confirmation on fresh seeds."""

    def __init__(self, storage: RDBStorage, name: str, *, prunes: bool) -> None:
        self.name = name
        self.prunes = prunes
        # A trial ends early when at the same point it is below the lowest quarter of those that came to their end; not
        # before a third, when a high learning rate looks worse than it is. Their median would be too strict: it rises
        # with each trial that it ends, and of the digits it let 13 of 46 come to their end.
        pruner: BasePruner = (
            PercentilePruner(75.0, n_startup_trials=5, n_warmup_steps=REPORTS // 3, n_min_trials=5)
            if prunes
            else NopPruner()
        )
        self._study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True, pruner=pruner
        )

    # What all trials share

    def attribute(self, name: str) -> Any:
        """What was noted of the study, None where nothing was."""
        return self._study.user_attrs.get(name)

    def note(self, name: str, value: Any) -> None:
        self._study.set_user_attr(name, value)

    def trials(self) -> list[FrozenTrial]:
        """Every trial so far, of all who share the study, in the order of their numbers."""
        return self._study.get_trials(deepcopy=False)

    def results(self) -> dict[tuple[str, int], float]:
        """The values of the trials that came to their end, by recipe and seed."""
        return {
            (trial.user_attrs["recipe"], trial.user_attrs["seed"]): float(trial.value)
            for trial in self.trials()
            if trial.state == TrialState.COMPLETE and trial.value is not None
        }

    def failed(self) -> set[str]:
        """The recipes with which a training failed; one that was only abandoned did not."""
        return {trial.user_attrs["recipe"] for trial in self.trials() if "reason" in trial.user_attrs}

    def begun(self) -> set[tuple[str, int]]:
        """The recipes and seeds that are or were trained, or wait for it; without what was abandoned."""
        return {
            (trial.user_attrs["recipe"], trial.user_attrs["seed"])
            for trial in self.trials()
            if trial.state != TrialState.FAIL or "reason" in trial.user_attrs
        }

    def images(self) -> int:
        """How many images the validation split has, of which each value is a share; 0 before the first."""
        return max((trial.user_attrs.get("images", 0) for trial in self.trials()), default=0)

    def running(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials() if trial.state == TrialState.RUNNING]

    # One trial

    def label(self, training: Training) -> str:
        """What a person calls it."""
        return f"trial {training.number}" if self.prunes else f"fresh seed {training.seed}"

    def begin_with_default(self) -> None:
        """Let the default recipe be the first trial, whoever asks first."""
        if not self.trials():
            self._study.enqueue_trial(DEFAULTS, skip_if_exists=True)

    def ask(self, seed: int) -> Training:
        """The next recipe to try, by Optuna's tree-structured Parzen estimator.

        It keeps away from the trials that still run (its constant liar). The estimator is seeded by `seed` and the
        number of trials: a search that goes on does not draw again what was drawn before.
        """
        drawn = np.random.SeedSequence([seed, len(self.trials())]).generate_state(1)[0]
        self._study.sampler = TPESampler(seed=int(drawn), constant_liar=True)
        trial = self._study.ask(SPACE)
        values = {name: _rounded(value) for name, value in trial.params.items()}
        return self._begun(trial, Recipe(**values), seed)  # type: ignore[arg-type]

    def ask_for(self, recipe: Recipe, seed: int) -> Training:
        """A trial of that recipe and seed; or of those that someone else queued a moment before."""
        self._study.enqueue_trial({}, user_attrs={"recipe": str(recipe), "seed": seed})
        trial = self._study.ask()
        given = trial.user_attrs
        return self._begun(trial, Recipe.parse(given["recipe"]), given["seed"])

    def _begun(self, trial: Trial, recipe: Recipe, seed: int) -> Training:
        training = Training(trial, recipe, seed, time.time())
        self.show_life(training)
        for name, value in {"recipe": str(recipe), "seed": seed, "began": training.began}.items():
            trial.set_user_attr(name, value)
        return training

    def show_life(self, training: Training) -> None:
        """To be called for every trial under way several times in GRACE_SECONDS."""
        with contextlib.suppress(UpdateFinishedTrialError):  # another machine has given it up
            training.trial.set_user_attr("alive", time.time())

    def report(self, training: Training, value: float, step: int) -> bool:
        """Report an intermediate value; gives whether the trial is to end early, as one that was given up has to."""
        try:
            training.trial.report(value, step)
        except UpdateFinishedTrialError:
            return True
        return self.prunes and step < REPORTS and bool(training.trial.should_prune())

    def complete(self, training: Training, value: float, **attributes: object) -> None:
        self._end(training, TrialState.COMPLETE, value, **attributes)

    def prune(self, training: Training) -> None:
        self._end(training, TrialState.PRUNED)

    def fail(self, training: Training, reason: str) -> None:
        self._end(training, TrialState.FAIL, reason=reason)

    def _end(
        self, training: Training, state: TrialState, value: float | None = None, **attributes: object
    ) -> None:
        # Another machine may have given it up while this one was held up; then its word stands.
        with contextlib.suppress(UpdateFinishedTrialError):
            for name, content in {**attributes, "seconds": training.seconds}.items():
                training.trial.set_user_attr(name, content)
            self._study.tell(training.trial, value, state)

    # Trials that nobody works on any more

    def abandon(self, training: Training) -> None:
        """End a trial that will not come to its end; it is tried again."""
        for trial in self.running():
            if trial.number == training.number:
                self._give_up(trial)

    def give_up_abandoned(self) -> None:
        """End the trials whose process was killed; they are tried again."""
        for trial in self.running():
            started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
            if time.time() - trial.user_attrs.get("alive", started) > GRACE_SECONDS:
                self._give_up(trial)

    def _give_up(self, trial: FrozenTrial) -> None:
        # Whoever ends it tries it again, and no one else.
        try:
            self._study.tell(trial.number, state=TrialState.FAIL)
        except (ValueError, UpdateFinishedTrialError):
            return
        attempt = trial.user_attrs.get("attempt", 1)
        if trial.params and (attempt < _ATTEMPTS or trial.params == DEFAULTS):
            self._study.enqueue_trial(trial.params, user_attrs={"attempt": attempt + 1})

    def importances(self) -> dict[str, float]:
        """The share of each hyperparameter in what makes trials good (PED-ANOVA, Watanabe et al. 2023).

        Empty where too few trials ran to their end, or all of them came out alike.
        """
        values = [trial.value for trial in self.trials() if trial.state == TrialState.COMPLETE]
        if len(values) < 2 * len(SPACE) or len(set(values)) < 2:
            return {}
        return optuna.importance.get_param_importances(self._study)


def default_storage(home: Path) -> str:
    """The address of the file that a search is kept in where no storage was named."""
    return f"sqlite:///{home.resolve() / 'tuning.db'}"


@contextmanager
def opened_storage(address: str, timeout: float) -> Iterator[RDBStorage]:
    """Optuna's storage at an address that SQLAlchemy understands.

    Raises TuningError where it cannot be opened within `timeout` seconds, is of another version of Optuna, or fails
    later on.
    """
    shown = _shown(address)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    is_file = address.startswith("sqlite")
    try:
        if is_file and (name := make_url(address).database):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
        storage = RDBStorage(
            address,
            engine_kwargs={"connect_args": {"timeout" if is_file else "connect_timeout": int(timeout)}},
        )
    except ImportError as error:
        raise TuningError(
            f"the tune_storage {shown} needs a driver that is not installed: {error.__cause__}"
        ) from error
    except RuntimeError as error:
        raise TuningError(
            f"the tune_storage {shown} is of another version of Optuna, or of another program: {error} "
            "Or choose another --tune-storage"
        ) from error
    except (SQLAlchemyError, OSError) as error:
        raise TuningError(f"the tune_storage {shown} cannot be opened: {_in_words(error)}") from error
    try:
        yield storage
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, SQLAlchemyError) else error
        raise TuningError(
            f"the tune_storage {shown} failed: {_in_words(cause)}; the same command goes on where it was"
        ) from error
    finally:
        storage.engine.dispose()


def study_name(name: str, fingerprint: str) -> str:
    """The study of a model's `name`, of what all its trainings share, and of what is searched."""
    space = "".join(f"{part}{distribution_to_json(values)}" for part, values in SPACE.items())
    return f"{name}-{hashlib.sha256((fingerprint + space).encode()).hexdigest()[:16]}"


def seconds_spent(trials: list[FrozenTrial]) -> float:
    """How long at least one of the trials was under way; of one that was abandoned nothing is counted."""
    ended = [trial.user_attrs for trial in trials if "seconds" in trial.user_attrs]
    spent, until = 0.0, 0.0
    for attributes in sorted(ended, key=lambda attributes: attributes["began"]):
        end = attributes["began"] + attributes["seconds"]
        spent += max(0.0, end - max(until, attributes["began"]))
        until = max(until, end)
    return spent


def best_trial(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """The first of the highest value that came to its end."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return max(complete, key=lambda trial: float(trial.value or 0), default=None)


def best_recipes(trials: list[FrozenTrial], most: int) -> list[Recipe]:
    """The recipes of the highest validation accuracy beside the default; of equal ones, of the lowest loss."""
    complete = [
        trial for trial in trials if trial.state == TrialState.COMPLETE and trial.user_attrs["recipe"]
    ]
    complete.sort(key=lambda trial: (-float(trial.value or 0), trial.user_attrs["loss"]))
    texts = dict.fromkeys(trial.user_attrs["recipe"] for trial in complete)
    return [Recipe.parse(text) for text in list(texts)[:most]]


def parameters_of(recipe: Recipe) -> dict[str, float]:
    """The hyperparameters that are fixed; 0 stands for one that the training chooses, and says at its end."""
    return {name: value for name, value in asdict(recipe).items() if value}


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.{_DIGITS}g}")


def _shown(address: str) -> str:
    """The address without its password."""
    try:
        return make_url(address).render_as_string(hide_password=True)
    except ArgumentError:
        raise TuningError(
            "the tune_storage is no address of a database; give for example "
            "--tune-storage postgresql://user@host/tuning"
        ) from None


def _in_words(error: BaseException) -> str:
    if isinstance(error, NoSuchModuleError):
        return "there is no such kind of database; sqlite, postgresql and mysql are known"
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename}"
    text = str(getattr(error, "orig", None) or error)
    return clip(" ".join(text.split()), _LONGEST_MESSAGE)
