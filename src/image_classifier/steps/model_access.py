"""How steps reach the registry and the models in it, and in whose name they act."""

import getpass
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from image_classifier.errors import PackageError, RegistryError, RegistryUnavailableError
from image_classifier.package import Package
from image_classifier.settings import Settings, pick
from image_classifier.text import Report

if TYPE_CHECKING:  # a server whose package is in a folder starts without the registry
    from tenacity import RetryCallState

    from image_classifier.evaluation import Evaluation
    from image_classifier.registry import Registry, Version

_PAUSE_SECONDS = 2.0


def open_registry(settings: Settings, report: Report) -> "Registry":
    """The registry, once it answers within `registry_wait`, so that no work is done that cannot be recorded.

    Raises RegistryError if it cannot be used.
    """
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

    from image_classifier.registry import Registry, RegistryOptions

    registry = Registry(pick(settings, RegistryOptions))

    def report_first(state: "RetryCallState") -> None:
        if state.attempt_number == 1 and state.outcome:
            report(f"{state.outcome.exception()} Waiting up to {settings.registry_wait:g} s for it.")

    Retrying(
        retry=retry_if_exception_type(RegistryUnavailableError),
        stop=stop_after_delay(settings.registry_wait),
        wait=wait_fixed(_PAUSE_SECONDS),
        before_sleep=report_first,
        reraise=True,
    )(registry.check)
    return registry


def fetch_model(settings: Settings, report: Report) -> Package:
    """The package that the setting `model` names: a folder, or a version in the registry, by default the champion.

    With the setting `public_key` the package must be signed; a version must be signed as a version of its model.
    """
    folder = Path(settings.model) if settings.model else None
    if folder is not None and (folder.exists() or not settings.model.startswith("models:")):
        return _verified(Package.read(folder), settings.public_key, name="")
    registry = open_registry(settings, report)
    return fetch_version(settings, registry, registry.versions.get(settings.model or "champion"))


def fetch_version(settings: Settings, registry: "Registry", version: "Version") -> Package:
    """The package of a version, downloaded unless it is in the home folder, and verified as by `fetch_model`."""
    folder = settings.home / "models" / version.name / str(version.number)
    try:
        package = Package.read(folder)
        cached = _is_package_of(version, package)
    except PackageError:  # missing or damaged
        cached = False
    if not cached:
        package = Package.read(registry.versions.download(version, folder))
    return _verified(package, settings.public_key, name=version.name)


def version_to_judge(settings: Settings, registry: "Registry") -> "Version":
    """The version that `model` names, else the one that `register` handed on in this home, else the candidate."""
    from image_classifier.steps.work_folder import WorkFolder

    handed_on = None if settings.model else WorkFolder.of(settings).registered_version(registry)
    return handed_on or registry.versions.get(settings.model or "candidate")


def evaluation_of(registry: "Registry", version: "Version") -> "Evaluation":
    """The recorded evaluation of a version; raises RegistryError if there is none."""
    from image_classifier.evaluation import Evaluation
    from image_classifier.registry import artifact_paths

    content = registry.runs.read_artifact(version.run_id, artifact_paths.EVALUATION)
    if content is None:
        raise RegistryError(f"version {version.number} has no evaluation; run `image-classifier evaluate` first")
    evaluation = Evaluation.from_json(content)
    trained_on = version.tags.get("data_digest", evaluation.data_digest)
    if evaluation.data_digest != trained_on:
        raise RegistryError(
            f"version {version.number} was trained on data with digest {trained_on[:12]}, but evaluated on data with "
            f"digest {evaluation.data_digest[:12]}; give its own --data to `image-classifier train`, which fetches it, "
            "then to `evaluate` and `gate`"
        )
    return evaluation


def named(settings: Settings, name: str) -> Settings:
    """The settings for another registered model, such as that of a workload."""
    return replace(settings, name=name)


def actor() -> str:
    """Who acts, for the history: the user, or the TaskRun as which a step runs."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a numeric user without a passwd entry, as in a container
        return f"uid {os.getuid()}"


def _is_package_of(version: "Version", package: Package) -> bool:
    """Whether a cached package is of this version, and not of one with its name and number in another registry."""
    if digest := version.tags.get("package_digest"):
        return package.digest == digest
    return bool(package.provenance.get("run_id") == version.run_id)


def _verified(package: Package, public_key: str, *, name: str) -> Package:
    if public_key:
        from image_classifier.attestation import verify_folder

        verify_folder(package.folder, public_key, name=name)
    return package
