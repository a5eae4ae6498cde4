"""The step `tune`: search for better hyperparameters."""

import json
import shlex
from dataclasses import replace

from image_classifier.datasets import DataRequest
from image_classifier.errors import SettingError
from image_classifier.files import sqlite_uri
from image_classifier.images import CROP
from image_classifier.process import available_cpus, limit_thread_spinning
from image_classifier.settings import AUTO, SETTINGS, Recipe, Settings, pick
from image_classifier.steps.backbone import data_request, named_backbone
from image_classifier.steps.data import data
from image_classifier.steps.model_access import open_registry
from image_classifier.steps.train import TrainingIdentity, choose_model, choose_photo_framing
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
    from image_classifier.training import SINGLE_PROCESS, Plan

    named = named_backbone(settings)
    registry = open_registry(settings, report)
    dataset = data(settings, report)
    # The trials differ in their recipe, so a recipe in the settings is not part of the search's identity.
    identity = TrainingIdentity.of(replace(settings, recipe=Recipe()), dataset)
    choice = choose_model(settings, named, dataset, SINGLE_PROCESS, report)
    if choice.backbone is not None and choice.backbone.network() is None:
        raise SettingError(
            f"there is nothing to tune: the backbone {choice.backbone.name} is an ONNX graph, which is not fine-tuned; "
            "use image-classifier train, or another --backbone"
        )
    chosen = choose_photo_framing(settings, choice, dataset, SINGLE_PROCESS, report)
    framing = chosen.framing
    request = data_request(settings)
    if (choice.image_size, framing) != (dataset.image_size, dataset.framing):
        dataset = data(settings, report, image_size=choice.image_size, framing=framing)
        request = pick(settings, DataRequest, image_size=choice.image_size, framing=framing)
    threads = max(1, available_cpus() // settings.tune_workers)
    options = pick(
        settings,
        SearchOptions,
        request=request,
        plan=pick(settings, Plan, recipe=Recipe(), threads=threads, backbone=choice.backbone, spent=chosen.seconds),
        registry=pick(settings, RegistryOptions),
        storage=settings.tune_storage or sqlite_uri(settings.home.resolve() / "tuning.db"),
        study=study_name(settings.name, identity.fingerprint, choice, framing),
    )
    tags = {"code_digest": identity.code_digest, "source_revision": identity.source_revision}

    def usage(recipe: Recipe) -> list[str]:
        params = {"recipe": str(recipe)}
        if settings.backbone != AUTO:
            params["backbone"] = without_credentials(settings.backbone)
        elif choice.backbone is not None:  # with more or less time, the training may choose another one
            params["backbone"] = choice.backbone.name
        if framing != CROP:
            params["framing"] = framing
        values = {"data": without_credentials(settings.data), "budget": f"{settings.budget:g}s", **params}
        arguments = [f"{SETTINGS[name].option} {shlex.quote(value)}" for name, value in values.items()]
        return [
            "to use the recommended recipe, add it to the params in workload.yaml:",
            *(
                line
                for name, value in params.items()
                for line in (f"    - name: {name}", f"      value: {json.dumps(value)}")
            ),
            f"or run: image-classifier train {' '.join(arguments)}",
        ]

    return search(options, dataset, registry, tags, usage, report)
