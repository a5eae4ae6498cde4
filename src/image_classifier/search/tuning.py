"""The search for a better recipe within a time budget: trials side by side, then the best again on fresh seeds.

Two thirds of the time go to the search, whose trainings all have the seed of the settings and so the same validation
split. The best of many on one split is flattered by it, and seeds may differ by more than recipes do; so in the last
third the best few and the default are trained on seeds, and splits, that had no part in choosing them.
"""

import json
import math
import shlex
import time
from collections.abc import Callable, Mapping
from itertools import count

from optuna.trial import FrozenTrial, TrialState

from image_classifier.datasets import Dataset
from image_classifier.errors import SettingError
from image_classifier.evaluation import Attempt, tuning_course
from image_classifier.progress import Progress
from image_classifier.registry import Registry, Run
from image_classifier.registry import artifact_paths as artifacts
from image_classifier.search.conductor import Conductor, Records
from image_classifier.search.finalists import LEAST_SEEDS, Finalist, compare_with_default, recommended
from image_classifier.search.study import (
    GRACE_SECONDS,
    Study,
    Training,
    best_recipes,
    best_trial,
    default_storage,
    opened_storage,
    seconds_spent,
    study_name,
)
from image_classifier.search.trainers import started_trainers
from image_classifier.settings import SETTINGS, Recipe, Settings

SEARCH_SHARE = 2 / 3
"""Of the time, for the search; the rest is for fresh seeds."""
FINALISTS = 3
"""Most recipes that are tried on fresh seeds beside the default: fewer where there is not time for SEEDS seeds."""
SEEDS = 3
LEAST_TRAININGS = 6
"""Two to search with, and two recipes on two fresh seeds."""
_PAUSE = 1.0

Report = Callable[[str], None]


def check_time(settings: Settings) -> None:
    """Raise SettingError where the time is too short for a search."""
    least = LEAST_TRAININGS * settings.budget
    if settings.tune_budget < least:
        raise SettingError(
            f"a tune_budget of {settings.tune_budget:g} s is too short for trainings of {settings.budget:g} s: "
            f"a search needs the time of {LEAST_TRAININGS} at least, {least:g} s; give a larger --tune-budget "
            "or a smaller --budget"
        )


def search(
    settings: Settings,
    dataset: Dataset,
    registry: Registry,
    *,
    fingerprint: str,
    tags: Mapping[str, str],
    report: Report,
) -> Recipe:
    """Search within `tune_budget`, or go on with the search of the same `fingerprint`; gives the recommended recipe.

    What was spent before counts. Every training is a run in the registry, nested under one of the search. Raises
    TuningError where the default recipe cannot be trained, and where the storage fails.
    """
    name = study_name(settings.name, fingerprint)
    address = settings.tune_storage or default_storage(settings.home)
    given = ("data", "budget", "seed", "tune_budget", "tune_workers")
    with opened_storage(address, settings.registry_timeout) as storage:
        trials, fresh = Study(storage, name, prunes=True), Study(storage, f"{name}-fresh", prunes=False)
        with registry.start_run(
            parameters={**{part: getattr(settings, part) for part in given}, "data_digest": dataset.digest},
            tags={**tags, "study": name},
            dataset=dataset,
            run_id=trials.attribute("run"),
            name=f"tune {dataset.source}",
        ) as run:
            trials.note("run", run.id)
            tuning = _Tuning(settings, trials, fresh, Records(registry, dataset, run.id, report))
            try:
                tuning.work()
            except KeyboardInterrupt:
                report(f"stopped; {_in_words(trials)}. The same command goes on from here")
                raise
            return _conclude(settings, tuning, run, report)


class _Tuning:
    """The two parts of a search, by this process; others may work on the same studies."""

    def __init__(self, settings: Settings, trials: Study, fresh: Study, records: Records) -> None:
        self.trials, self.fresh = trials, fresh
        self._settings, self._records = settings, records
        # With more time the search goes on, and others may be the best.
        self._key = f"finalists after {settings.tune_budget:g} s"
        self._over = f"over after {settings.tune_budget:g} s"

    def work(self) -> None:
        """Search, then try the best on fresh seeds, for as long as there is time."""
        settings = self._settings
        self._end_abandoned()
        searched = seconds_spent(self.trials.trials())
        spent = seconds_spent([*self.trials.trials(), *self.fresh.trials()])
        if self.fresh.attribute(self._over):
            return
        if searched:
            self._records.say(f"going on after {spent:.0f} s: {_in_words(self.trials)}")
        self.trials.begin_with_default()
        with (
            started_trainers(settings, settings.tune_workers) as trainers,
            Progress("tuning", settings.tune_budget, "s") as progress,
        ):
            conductor = Conductor(trainers, self._records, progress, settings.budget)
            progress.advance(spent)
            now = time.monotonic()
            end = now + settings.tune_budget - spent
            try:
                if self._chosen is None:
                    self._search(conductor, now + settings.tune_budget * SEARCH_SHARE - searched)
                    self._choose((end - time.monotonic()) / conductor.longest * settings.tune_workers)
                self._try_on_fresh_seeds(conductor, end)
            finally:
                conductor.abandon()
        self.fresh.note(self._over, True)

    def _search(self, conductor: Conductor, end: float) -> None:
        def next_training() -> Training | None:
            is_first = not any(trial.state.is_finished() for trial in self.trials.trials())
            if end - time.monotonic() < conductor.longest and not is_first:
                return None
            self.trials.give_up_abandoned()
            return self.trials.ask(self._settings.seed)

        conductor.keep_busy(self.trials, next_training)
        self._settle()

    def _choose(self, trainings: float) -> None:
        """Choose the finalists for as many trainings as there is time for, unless another machine has."""
        if self._chosen is None:
            most = min(FINALISTS, max(1, int(trainings / SEEDS) - 1))
            best = best_recipes(self.trials.trials(), most)
            self.fresh.note(self._key, [str(recipe) for recipe in best])

    def _try_on_fresh_seeds(self, conductor: Conductor, end: float) -> None:
        recipes = self.recipes

        def next_training() -> Training | None:
            begun = self.fresh.begun()
            for seed in count(self._settings.seed + 1):
                missing = [recipe for recipe in recipes if (str(recipe), seed) not in begun]
                if missing:
                    break
            # A seed counts only where all have been trained on it, so it is not begun too late.
            trainings = len(missing) + conductor.busy if len(missing) == len(recipes) else 1
            rounds = math.ceil(trainings / self._settings.tune_workers)
            if end - time.monotonic() < rounds * conductor.longest:
                return None
            return self.fresh.ask_for(missing[0], seed)

        if len(recipes) > 1:
            conductor.keep_busy(self.fresh, next_training)
            self._settle()

    @property
    def _chosen(self) -> list[str] | None:
        """The recipes that whoever was first at the end of the search chose, None before."""
        chosen: list[str] | None = self.fresh.attribute(self._key)
        return chosen

    @property
    def recipes(self) -> list[Recipe]:
        """What is tried on fresh seeds: the default, and the best of the search."""
        return [Recipe(), *map(Recipe.parse, self._chosen or [])]

    def finalists(self) -> list[Finalist]:
        """How those compare that were trained on the same fresh seeds; empty where that is not yet known."""
        results, failed = self.fresh.results(), self.fresh.failed()
        recipes = [recipe for recipe in self.recipes if str(recipe) not in failed]
        seeds = sorted({seed for _, seed in results})
        table = [[results.get((str(recipe), seed)) for recipe in recipes] for seed in seeds]
        whole = [[value for value in row if value is not None] for row in table if None not in row]
        if len(whole) < LEAST_SEEDS or len(recipes) < 2:
            return []
        return compare_with_default(recipes, whole, self.fresh.images())

    def _settle(self) -> None:
        """Wait for what others have under way, until it is done or given up."""
        deadline = time.monotonic() + 2 * GRACE_SECONDS
        self._end_abandoned()
        while time.monotonic() < deadline and (self.trials.running() or self.fresh.running()):
            time.sleep(_PAUSE)
            self._end_abandoned()

    def _end_abandoned(self) -> None:
        self._records.end_abandoned([self.trials, self.fresh])


def _in_words(study: Study) -> str:
    """The trials and the best of them."""
    trials = study.trials()
    complete, pruned = (
        sum(trial.state == state for trial in trials) for state in (TrialState.COMPLETE, TrialState.PRUNED)
    )
    words = f"{complete} trials came to their end, {pruned} were pruned, {len(study.failed())} failed"
    best = best_trial(trials)
    return f"{words}; the best is trial {best.number} with {best.value:.2%}" if best else words


def _conclude(settings: Settings, tuning: _Tuning, run: Run, report: Report) -> Recipe:
    """Say and record what was found; gives the recommended recipe."""
    finalists = tuning.finalists()
    chosen = recommended(finalists) if finalists else None
    recipe = chosen.recipe if chosen else Recipe()
    lines = [f"tuned: {_in_words(tuning.trials)}"]
    if chosen is None:
        lines.append(
            "there was no time to try the best on fresh seeds, without which it may be chance: the default stays; "
            "a larger --tune-budget goes on from here"
        )
    else:
        lines.append(f"validation accuracy on {len(chosen.accuracies)} fresh seeds, mean:")
        lines += [f"  {_in_a_line(finalist)}" for finalist in finalists]
        lines += _recommendation(settings, chosen)
    for line in lines:
        report(line)
    trials = tuning.trials.trials()
    run.set_tags({"recommended_recipe": str(recipe) or "the default"})
    best = best_trial(trials)
    if best is not None and best.value is not None:
        run.set_tags({"best_recipe": best.user_attrs["recipe"] or "the default"})
        run.log_metrics({"best_trial_accuracy": best.value})
    if chosen is not None:
        run.log_metrics(
            {"default_accuracy": finalists[0].mean, "accuracy": chosen.mean, "accuracy_gain": chosen.gain}
        )
    run.log_text("\n".join(lines) + "\n", artifacts.TUNING_SUMMARY)
    figure = tuning_course(_attempts(trials), tuning.trials.importances(), finalists)
    run.log_figure(figure, artifacts.TUNING_COURSE)
    return recipe


def _in_a_line(finalist: Finalist) -> str:
    line = f"{finalist.label:7}  {finalist.mean:7.2%}"
    if finalist.recipe == Recipe():
        return line
    gain, least = 100 * finalist.gain, 100 * finalist.least_gain
    return f"{line}  {gain:+.2f} points (at least {least:+.2f})  {finalist.recipe}"


def _recommendation(settings: Settings, chosen: Finalist) -> list[str]:
    if chosen.recipe == Recipe():
        return ["none is better than the default by more than the noise of the seeds: the default stays"]
    options = [
        f"{SETTINGS[name].option} {shlex.quote(str(value))}"
        for name, value in {
            "data": settings.data,
            "budget": f"{settings.budget:g}s",
            "recipe": chosen.recipe,
        }.items()
    ]
    return [
        "in workload.yaml, among the params:",
        "    - name: recipe",
        f"      value: {json.dumps(str(chosen.recipe))}",
        f"image-classifier train {' '.join(options)}",
    ]


def _attempts(trials: list[FrozenTrial]) -> list[Attempt]:
    """The trials that came to their end or were pruned, by the minutes since the first began."""
    shown = [trial for trial in trials if trial.value is not None]
    start = min((trial.user_attrs["began"] for trial in shown), default=0.0)
    return [
        Attempt(
            minutes=(trial.user_attrs["began"] + trial.user_attrs["seconds"] - start) / 60,
            accuracy=float(trial.value or 0),
            pruned=trial.state == TrialState.PRUNED,
            default=not trial.user_attrs["recipe"],
        )
        for trial in shown
    ]
