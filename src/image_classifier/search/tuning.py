"""Hyperparameter search within a time budget: trials on one seed, then the best recipes again on fresh seeds.

The best of many trials on one validation split looks better than it is, and seeds can differ by more than recipes do,
so the recommendation rests on seeds that had no part in the choice.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from matplotlib import pyplot, rc_context
from optuna.trial import TrialState
from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances

from image_classifier.datasets import Dataset
from image_classifier.errors import RegistryError
from image_classifier.progress import Progress
from image_classifier.registry import Registry, Run, artifact_paths
from image_classifier.search.comparison import compare_finalists, recommended
from image_classifier.search.storage import opened_storage
from image_classifier.search.study import Search, SearchOptions
from image_classifier.search.workers import run_workers
from image_classifier.settings import Recipe
from image_classifier.text import Report

_PLOTS: dict[str, Callable[..., object]] = {
    artifact_paths.TUNING_HISTORY: plot_optimization_history,
    artifact_paths.TUNING_IMPORTANCES: plot_param_importances,
}


def search(
    options: SearchOptions,
    dataset: Dataset,
    registry: Registry,
    tags: Mapping[str, str],
    usage: Callable[[Recipe], Sequence[str]],
    report: Report,
) -> Recipe:
    """Search within `tune_budget`, including the time that the study took before; returns the recommended recipe.

    `usage` returns lines that explain how to use a recipe. Raises TuningError if the default recipe cannot be trained,
    or the storage cannot be used.
    """
    parameters = {"data": dataset.source, "data_digest": dataset.digest, "budget": options.plan.budget}
    parameters |= {name: getattr(options, name) for name in ("tune_budget", "tune_workers")}
    with opened_storage(options.storage, options.registry.registry_timeout, options.grace) as storage:
        state = Search(options, storage)
        with registry.runs.start(
            parameters={**parameters, "seed": options.plan.seed},
            tags={**tags, "study": options.study},
            dataset=dataset,
            run_id=state.study.user_attrs.get("run"),
            name=f"tune {dataset.source}",
        ) as run:
            state.study.set_user_attr("run", run.id)
            try:
                _run_trials(state, run.id, report)
            except KeyboardInterrupt:
                report(f"stopped: {_describe(state)}; run the same command to continue")
                raise
            finally:
                with suppress(RegistryError):
                    _end_abandoned_runs(state, registry, run.id)
            recipe, lines = _conclude(state, run)
            lines += usage(recipe) if recipe != Recipe() else ()
            run.log_text("\n".join(lines) + "\n", artifact_paths.TUNING_SUMMARY)
    for line in lines:
        report(line)
    return recipe


def _run_trials(state: Search, run: str, report: Report) -> None:
    if spent := state.seconds_spent():
        report(f"continuing after {spent:.0f} s: {_describe(state)}")
    with Progress("tuning", state.options.tune_budget, "s") as progress:
        progress.advance(spent)

        def run_until_settled() -> None:
            while state.has_work():  # a trial that was given up may be retried
                run_workers(state, run, progress, report)
                state.settle()

        if state.finalists is None:
            state.enqueue_default()
            run_until_settled()
            state.enqueue_finalists()
        run_until_settled()


def _end_abandoned_runs(state: Search, registry: Registry, parent: str) -> None:
    """End the MLflow runs of trials that are not running."""
    # The runs are listed first, because another machine starts a trial before its run.
    runs = registry.runs.running_children(parent)
    running = [str(trial.number) for trial in state.trials(TrialState.RUNNING)]
    for run, tags in runs:
        if tags.get("trial") not in running:
            run.set_tags({"state": "abandoned"})
            run.end("KILLED")


def _describe(state: Search) -> str:
    states = [trial.state for trial in state.ended_trials()]
    complete, pruned, failed = (
        states.count(each) for each in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    )
    text = f"{complete} trials completed, {pruned} were pruned, {failed} failed"
    for best in state.ranking()[:1]:
        text += f"; best: trial {best.number} with {100 * best.values[0]:.2f} %"
    return text


def _conclude(state: Search, run: Run) -> tuple[Recipe, list[str]]:
    """Record the outcome in the run; returns the recommended recipe and the reasons."""
    ranking = state.ranking()
    if ranking:
        run.set_tags({"best_recipe": ranking[0].user_attrs["recipe"] or "the default"})
        run.log_metrics({"best_trial_accuracy": ranking[0].values[0]})
    if len({trial.values[0] for trial in ranking}) > 1:
        for path, plot in _PLOTS.items():
            with rc_context({"savefig.bbox": "tight"}):  # Optuna changes the style, and its labels do not fit
                plot(state.study, target_name="validation accuracy")
                run.log_figure(pyplot.gcf(), path)
                pyplot.close()
    lines = [f"tuned: {_describe(state)}"]
    fresh = [trial for trial in state.ended_trials() if trial.user_attrs["seed"] != state.options.plan.seed]
    finalists = compare_finalists(fresh, state.finalists or ())
    recipe = recommended(finalists).recipe if finalists else Recipe()
    run.set_tags({"recommended_recipe": str(recipe) or "the default"})
    if not finalists:
        lines.append("no time was left to compare the best recipes on fresh seeds, so the default recipe stays")
        lines.append("run the same command with a larger --tune-budget to continue")
        return recipe, lines
    run.log_metrics({"default_accuracy": finalists[0].mean, "accuracy": recommended(finalists).mean})
    lines.append("mean validation accuracy on fresh seeds, gain, and its 95 % lower bound:")
    lines.append(f"  {100 * finalists[0].mean:.2f} %  default")
    for other in finalists[1:]:
        gain = f"{100 * other.gain:+.2f} points (at least {100 * other.least_gain:+.2f})"
        lines.append(f"  {100 * other.mean:.2f} %  {gain}  {other.recipe}")
    if recipe == Recipe():
        lines.append("no recipe is better than the default by more than the noise between seeds: the default stays")
    return recipe, lines
