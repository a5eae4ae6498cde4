"""The work folder, in which a step leaves what the next step needs. What must last is in the registry."""

from dataclasses import dataclass
from pathlib import Path

from image_classifier.errors import PackageError
from image_classifier.package import Package
from image_classifier.settings import Settings


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

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation.json"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    def trained_package(self) -> Package:
        """The package that the step `train` left; raises PackageError if there is none."""
        if not self.package.exists():
            raise PackageError(f"{self.package} does not exist; run `image-classifier train` first")
        return Package.read(self.package)
