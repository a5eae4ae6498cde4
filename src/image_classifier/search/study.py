"""The Optuna study of a search, on which several processes and machines may work at the same time."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import optuna
from optuna import Trial
from optuna.pruners import PercentilePruner
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from image_classifier.datasets import DataRequest
from image_classifier.errors import TrainingError
from image_classifier.registry import RegistryOptions
from image_classifier.settings import Recipe
from image_classifier.training import REPORT_POINTS, Plan

_SEARCH_SHARE = 2 / 3  # of the time; the rest is for fresh seeds
FINALISTS, SEEDS = 3, 3  # fewer recipes are compared if there is no time for three seeds of each


@dataclass(frozen=True)
class SearchOptions:
    """What to search, and where to record it. Durations in seconds; in `plan` only recipe and seed vary."""

    request: DataRequest
    plan: Plan
    registry: RegistryOptions
    storage: str
    study: str
    tune_budget: float
    tune_workers: int
    grace: int = 30
    """Time without a heartbeat after which a trial is given up."""


class Search:
    """The trials of a search: recipes on one seed, later the best of them on fresh seeds."""

    def __init__(self, options: SearchOptions, storage: BaseStorage) -> None:
        self.options = options
        # Prunes a trial in the lowest quarter of the completed ones, but not in its first third, in which high learning
        # rates look worse than they are. The median is too strict, as it rises with every pruned trial: on the digits,
        # 13 of 46 trials completed.
        pruner = PercentilePruner(75.0, n_startup_trials=5, n_warmup_steps=REPORT_POINTS // 3, n_min_trials=5)
        self.study = optuna.create_study(
            storage=storage,
            study_name=options.study,
            sampler=TPESampler(constant_liar=True),
            pruner=pruner,
            direction="maximize",
            load_if_exists=True,
        )
        # With a larger budget the search may find other finalists.
        self._key = f"finalists after {options.tune_budget:g} s"

    @property
    def finalists(self) -> list[str] | None:
        """The recipes to compare with the default on fresh seeds, None before they are chosen."""
        return self.study.user_attrs.get(self._key)

    def has_work(self) -> bool:
        """Whether there is time for another trial and, once the finalists are chosen, one that waits."""
        if self.finalists is not None and not self.trials(TrialState.WAITING):
            return False
        share = _SEARCH_SHARE if self.finalists is None else 1
        return self.seconds_spent() + self._longest() < share * self.options.tune_budget

    def optimize(self, objective: Callable[[Trial], float]) -> None:
        """Run trials until there is no work."""
        while self.has_work():
            try:
                self.study.optimize(objective, n_trials=1, catch=(TrainingError,))
            except ValueError as error:
                if "Cannot tell" not in str(error):  # another process gave the trial up
                    raise

    def settle(self) -> None:
        """Wait until no process runs a trial. Trials of processes that died are given up."""
        end = time.monotonic() + self._longest() + 2 * self.options.grace
        while running := self.trials(TrialState.RUNNING):
            fail_stale_trials(self.study)
            if time.monotonic() > end:
                # Their processes died before the first heartbeat.
                for trial in running:
                    self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            time.sleep(0.5)

    def enqueue_default(self) -> None:
        """Enqueue the default recipe as the first trial."""
        if not self.trials():
            self.study.enqueue_trial(self._values(Recipe()), {"recipe": "", "seed": self.options.plan.seed})

    def enqueue_finalists(self) -> None:
        """Enqueue the best recipes and the default on as many fresh seeds as there is time for."""
        trainings = int((self.options.tune_budget - self.seconds_spent()) / self._longest()) * self.options.tune_workers
        recipes = dict.fromkeys(trial.user_attrs["recipe"] for trial in self.ranking() if trial.user_attrs["recipe"])
        best = list(recipes)[: min(FINALISTS, max(1, trainings // SEEDS - 1))]
        for number in range(trainings // (len(best) + 1) if best else 0):
            for recipe in ("", *best):
                seed = self.options.plan.seed + 1 + number
                # The seed is no parameter of the study, but distinguishes trials that another machine enqueued, too.
                values = {**self._values(Recipe.parse(recipe)), "seed": seed}
                self.study.enqueue_trial(values, {"recipe": recipe, "seed": seed}, skip_if_exists=True)
        self.study.set_user_attr(self._key, best)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in these states, by default all."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def ended_trials(self) -> list[FrozenTrial]:
        """The trials that ended, except those whose process died."""
        ended = self.trials(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        return [trial for trial in ended if trial.state != TrialState.FAIL or "reason" in trial.user_attrs]

    def ranking(self) -> list[FrozenTrial]:
        """The completed trials on the seed of the search, by falling accuracy; of equal ones, by rising loss."""
        seed = self.options.plan.seed
        complete = [trial for trial in self.trials(TrialState.COMPLETE) if trial.user_attrs["seed"] == seed]
        return sorted(complete, key=lambda trial: (-trial.values[0], trial.user_attrs["loss"]))

    def _values(self, recipe: Recipe) -> dict[str, float]:
        return recipe.values(on_backbone=self.options.plan.backbone is not None)

    def seconds_spent(self) -> float:
        """Time during which at least one trial was running; a trial that was given up counts nothing."""
        spent = until = 0.0
        for start, end in sorted(self._spans()):
            spent += max(0.0, end - max(until, start))
            until = max(until, end)
        return spent

    def _longest(self) -> float:
        """Seconds of the longest training, including what precedes its first step; at least the budget."""
        return max([self.options.plan.budget, *(end - start for start, end in self._spans())])

    def _spans(self) -> list[tuple[float, float]]:
        times = [(trial.datetime_start, trial.datetime_complete) for trial in self.ended_trials()]
        return [(start.timestamp(), end.timestamp()) for start, end in times if start and end]
