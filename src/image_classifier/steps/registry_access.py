"""The registry and its models, as the commands reach them; and who it is that does."""

import getpass
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from image_classifier.errors import PackageError, RegistryAwayError
from image_classifier.package import Package
from image_classifier.patience import patiently
from image_classifier.settings import Settings

if TYPE_CHECKING:  # this brings MLflow, which a package in a folder does not need
    from image_classifier.registry import Registry

_REGISTRY_PAUSE = 2.0

Report = Callable[[str], None]
"""Takes a line that tells the user what was done."""


def open_registry(settings: Settings, report: Report) -> "Registry":
    """The registry, once it answers, so that no work is done that could not be recorded."""
    from image_classifier.registry import Registry

    registry = Registry(settings)

    def tell(error: Exception) -> None:
        report(f"{error} Waiting for it for up to {settings.registry_wait:g} s.")

    patiently(
        registry.check, RegistryAwayError, wait=settings.registry_wait, pause=_REGISTRY_PAUSE, on_wait=tell
    )
    return registry


def fetch_model(settings: Settings, report: Report) -> Package:
    """The package that `model` names: a folder, or a version of the registry (the champion by default).

    Where the settings have a public key it must be signed, and a version of the registry as one of its model.
    """
    package, name = _found_package(settings, report)
    if settings.public_key:
        # Not imported above: who asks for no signature need not load a library of cryptography.
        from image_classifier.attestation import verify_folder

        verify_folder(package.folder, settings.public_key, name=name)
    return package


def _found_package(settings: Settings, report: Report) -> tuple[Package, str]:
    """The package, and the name of its registered model ("" of a folder)."""
    folder = Path(settings.model) if settings.model else None
    if folder is not None and (folder.exists() or not settings.model.startswith("models:")):
        return Package.read(folder), ""
    registry = open_registry(settings, report)
    version = registry.get(settings.model or "champion")
    target = settings.home / "models" / version.name / str(version.number)
    try:
        return Package.read(target), version.name
    except PackageError:
        # Absent or damaged: fetched anew.
        registry.download(version, target)
        return Package.read(target), version.name


def actor() -> str:
    """Who acts, for the registry's history: the user, or the service account a step runs as."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a numeric user without an entry, as in a container
        return f"uid {os.getuid()}"
