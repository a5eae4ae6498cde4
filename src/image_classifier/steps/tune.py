"""The step `tune`: search for better hyperparameters."""

import json
import shlex
from dataclasses import replace

from image_classifier.errors import SettingError
from image_classifier.files import sqlite_uri
from image_classifier.process import available_cpus, limit_thread_spinning
from image_classifier.settings import SETTINGS, Recipe, Settings, pick
from image_classifier.steps.backbone import data_request
from image_classifier.steps.data import data
from image_classifier.steps.model_access import open_registry
from image_classifier.steps.train import TrainingIdentity
from image_classifier.text import Report, without_credentials

_MIN_TRAININGS = 6  # two in the search, and two recipes on two fresh seeds


def tune(settings: Settings, report: Report) -> Recipe:
    """Search within `tune_budget`, or continue an interrupted search; returns the recommended recipe."""
    minimum = _MIN_TRAININGS * settings.budget
    if settings.tune_budget < minimum:
        raise SettingError(
            f"a tune_budget of {settings.tune_budget:g} s is too short: a search needs {_MIN_TRAININGS} trainings of "
            f"{settings.budget:g} s, together {minimum:g} s; use a larger --tune-budget or a smaller --budget"
        )
    limit_thread_spinning()
    from image_classifier.registry import RegistryOptions
    from image_classifier.search import SearchOptions, search, study_name
    from image_classifier.training import Plan, has_backbone

    registry = open_registry(settings, report)
    dataset = data(settings, report)
    if has_backbone(settings.backbone, dataset):
        raise SettingError(
            "tune searches hyperparameters of the network that is trained from scratch; a model on a backbone, as of "
            "these photos, chooses its own in each training: use image-classifier train, or --backbone none"
        )
    # The trials differ in their recipe, so a recipe in the settings is not part of the search's identity.
    identity = TrainingIdentity.of(replace(settings, recipe=Recipe()), dataset)
    threads = max(1, available_cpus() // settings.tune_workers)
    options = pick(
        settings,
        SearchOptions,
        request=data_request(settings),
        plan=pick(settings, Plan, recipe=Recipe(), threads=threads, backbone=None),
        registry=pick(settings, RegistryOptions),
        storage=settings.tune_storage or sqlite_uri(settings.home.resolve() / "tuning.db"),
        study=study_name(settings.name, identity.fingerprint),
    )
    tags = {"code_digest": identity.code_digest, "source_revision": identity.source_revision}

    def usage(recipe: Recipe) -> list[str]:
        values = {"data": without_credentials(settings.data), "budget": f"{settings.budget:g}s", "recipe": recipe}
        arguments = [f"{SETTINGS[name].option} {shlex.quote(str(value))}" for name, value in values.items()]
        return [
            "to use the recommended recipe, add it to the params in workload.yaml:",
            "    - name: recipe",
            f"      value: {json.dumps(str(recipe))}",
            f"or run: image-classifier train {' '.join(arguments)}",
        ]

    return search(options, dataset, registry, tags, usage, report)
