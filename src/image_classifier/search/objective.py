"""Objective of the study: trains the recipe of a trial, and records it as a run in MLflow."""

from dataclasses import dataclass, replace
from pathlib import Path

from optuna import Trial, TrialPruned
from optuna.exceptions import UpdateFinishedTrialError

from image_classifier.datasets import Dataset
from image_classifier.errors import TrainingError, TuningError
from image_classifier.registry import Registry
from image_classifier.search.space import suggest_recipe
from image_classifier.settings import Recipe
from image_classifier.text import one_line
from image_classifier.training import REPORT_POINTS, Plan, ReportPoint, Trained, fit


@dataclass(frozen=True)
class Objective:
    """Trains the recipe of a trial; returns the validation accuracy.

    Raises TrainingError if the recipe cannot be trained, TuningError if the default recipe cannot.
    """

    plan: Plan
    dataset: Dataset
    registry: Registry
    parent_run: str
    shared_features: Path | None = None
    """A folder in which the trials of this process keep the features of a backbone."""

    def __call__(self, trial: Trial) -> float:
        on_backbone = self.plan.backbone is not None
        recipe = suggest_recipe(trial, on_backbone=on_backbone)
        plan = replace(self.plan, recipe=recipe, seed=trial.user_attrs.get("seed", self.plan.seed))
        identity = {"recipe": str(plan.recipe), "seed": plan.seed}
        for name, value in identity.items():
            trial.set_user_attr(name, value)
        parameters = recipe.values(on_backbone=on_backbone)
        run = self.registry.runs.start(
            parameters={**identity, **{name: value for name, value in parameters.items() if value}},
            tags={"trial": str(trial.number)},
            dataset=self.dataset,
            name=f"trial {trial.number}",
            parent=self.parent_run,
        )

        def on_report(point: ReportPoint) -> None:
            trial.report(point.validation_accuracy, point.number)
            run.log_metrics(point.metrics, step=point.number)
            # The fine-tuning of a backbone ends at a learning rate of 0, and what precedes it has the same results.
            can_be_pruned = point.number < REPORT_POINTS and point.learning_rate > 0
            if plan.seed == self.plan.seed and can_be_pruned and trial.should_prune():
                raise TrialPruned

        try:
            trained = fit(self.dataset, plan, on_report=on_report, shared_features=self.shared_features)
            if on_backbone and plan.seed == self.plan.seed and recipe == Recipe():
                _require_fine_tuning(trained, plan.budget)
            trial.set_user_attr("loss", min(point.validation_loss for point in trained.history))
            trial.set_user_attr("images", len(trained.validation))
        except TrialPruned:
            run.set_tags({"state": "pruned"})
            run.end("KILLED")
            raise
        except UpdateFinishedTrialError:  # the trial had no heartbeat, so another process gave it up
            raise
        except (TrainingError, RuntimeError, ValueError, MemoryError) as error:
            reason = one_line(error)
            trial.set_user_attr("reason", reason)
            run.set_tags({"state": "failed", "reason": reason})
            run.end("FAILED")
            if plan.recipe == Recipe():
                raise TuningError(f"the default recipe cannot be trained: {reason}") from error
            raise TrainingError(reason) from error
        run.log_parameters(trained.parameters)
        run.log_metrics({"accuracy": trained.validation_accuracy})
        run.set_tags({"state": "complete"})
        run.end("FINISHED")
        return trained.validation_accuracy


def _require_fine_tuning(trained: Trained, budget: float) -> None:
    """Raise TrainingError if a training on a backbone was not fine-tuned, so that all recipes have the same results."""
    if trained.parameters["steps"]:
        return
    if not trained.parameters["stages"] or trained.seconds >= budget:
        raise TrainingError(
            f"the budget of {budget:g} s is too short to fine-tune the backbone, so no recipe has an effect; use a "
            "larger --budget"
        )
    raise TrainingError(
        "the classifier of the backbone's features makes no error on the validation split, so it is not fine-tuned, "
        "and no recipe has an effect"
    )
