"""Objective of the study: trains the recipe of a trial, and records it as a run in MLflow."""

from dataclasses import asdict, dataclass, replace

from optuna import Trial, TrialPruned
from optuna.exceptions import UpdateFinishedTrialError

from image_classifier.datasets import Dataset
from image_classifier.errors import TrainingError, TuningError
from image_classifier.registry import Registry
from image_classifier.search.space import suggest_recipe
from image_classifier.settings import Recipe
from image_classifier.text import one_line
from image_classifier.training import REPORT_POINTS, Plan, ReportPoint, fit


@dataclass(frozen=True)
class Objective:
    """Trains the recipe of a trial; returns the validation accuracy.

    Raises TrainingError if the recipe cannot be trained, TuningError if the default recipe cannot.
    """

    plan: Plan
    dataset: Dataset
    registry: Registry
    parent_run: str

    def __call__(self, trial: Trial) -> float:
        plan = replace(self.plan, recipe=suggest_recipe(trial), seed=trial.user_attrs.get("seed", self.plan.seed))
        identity = {"recipe": str(plan.recipe), "seed": plan.seed}
        for name, value in identity.items():
            trial.set_user_attr(name, value)
        run = self.registry.runs.start(
            parameters={**identity, **{name: value for name, value in asdict(plan.recipe).items() if value}},
            tags={"trial": str(trial.number)},
            dataset=self.dataset,
            name=f"trial {trial.number}",
            parent=self.parent_run,
        )

        def on_report(point: ReportPoint) -> None:
            trial.report(point.validation_accuracy, point.number)
            run.log_metrics(point.metrics, step=point.number)
            if plan.seed == self.plan.seed and point.number < REPORT_POINTS and trial.should_prune():
                raise TrialPruned

        try:
            trained = fit(self.dataset, plan, on_report=on_report)
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
