"""The work folder, in which a step leaves what the next step needs. What must last is in the registry."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from image_classifier.errors import PackageError
from image_classifier.files import write_atomically
from image_classifier.package import Package
from image_classifier.settings import Settings

if TYPE_CHECKING:
    from image_classifier.registry import Registry, Version

_REGISTERED = "version.json"


@dataclass(frozen=True)
class WorkFolder:
    """Paths in the work folder."""

    folder: Path

    @classmethod
    def of(cls, settings: Settings) -> "WorkFolder":
        return cls(settings.home / "work")

    @property
    def package(self) -> Path:
        return self.folder / "package"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    def checkpoint_of(self, fingerprint: str) -> Path:
        """Folder with the checkpoint of a training; it exists until the training and its records are complete."""
        return self.checkpoint / fingerprint[:16]

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation.json"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def write_registered(self, version: "Version") -> None:
        """Hand the registered version on to the steps after `register`."""
        content = {"name": version.name, "number": version.number, "run_id": version.run_id}
        write_atomically(self.folder / _REGISTERED, json.dumps(content).encode())

    def registered_version(self, registry: "Registry") -> "Version | None":
        """The version that `register` handed on, None if this registry does not have it."""
        try:
            content = json.loads((self.folder / _REGISTERED).read_bytes())
        except FileNotFoundError:
            return None
        for version in registry.versions.all():
            # The run tells versions of the same name and number in two registries apart.
            if {"name": version.name, "number": version.number, "run_id": version.run_id} == content:
                return registry.versions.get(str(version.number))
        return None

    def trained_package(self) -> Package:
        """The package that the step `train` left; raises PackageError if there is none."""
        if not self.package.exists():
            raise PackageError(f"{self.package} does not exist; run `image-classifier train` first")
        return Package.read(self.package)
