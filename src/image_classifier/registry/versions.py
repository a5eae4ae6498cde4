"""The versions of a registered model, and the aliases candidate, champion and previous.

One registered model for each workload. A version is an MLflow ONNX model whose folder is a package at the same time.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from image_classifier.errors import LostError, PackageError, RegistryError
from image_classifier.files import folder_written_atomically
from image_classifier.package import VERSION_FILE, Package
from image_classifier.registry import artifact_paths
from image_classifier.registry.decision import Decision
from image_classifier.registry.events import PREFIX
from image_classifier.registry.mlflow_environment import mlflow_environment
from image_classifier.registry.model_upload import SIZES, upload_package
from image_classifier.registry.runs import Runs
from image_classifier.registry.store import Store, all_pages, result_or_none
from image_classifier.text import clip, listed

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
VERDICT_TAG = "verdict"
LONGEST_TAG = 5000
"""Characters of a version's tag that every tracking store keeps."""

_PAGE = 200  # versions of one request


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    number: int
    run_id: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    """Without the events, which `History` reads."""
    created: datetime
    """In UTC."""
    model_id: str
    """MLflow's logged model that holds the files."""

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.number}"

    @property
    def decision(self) -> Decision:
        """What the gate decided."""
        return Decision.from_tag(self.tags.get(VERDICT_TAG))


class Versions:
    """The versions of a registered model. Every method raises RegistryError if the store cannot be used."""

    def __init__(self, store: Store, runs: Runs) -> None:
        self._store, self._runs = store, runs
        self.name = store.name

    def find(self, fingerprint: str) -> Version | None:
        """The first version with that fingerprint whose files are complete."""
        if re.fullmatch(r"[\w.-]+", fingerprint) is None:
            raise ValueError(f"{fingerprint!r} is not a fingerprint")
        with self._store.failures(f"cannot read the versions of {self.name}"):
            same = self._search(f"name = '{self.name}' and tags.fingerprint = '{fingerprint}'")
            complete = [version for version in map(_as_version, same) if self._is_complete(version)]
        # MLflow's search returns versions without their aliases.
        return self.get(str(min(version.number for version in complete))) if complete else None

    def register(
        self, run_id: str, package: Path, *, tags: Mapping[str, str], accompany: Callable[[Path], None] | None = None
    ) -> Version:
        """Register the package in the folder `package` as the candidate; `tags` must hold its `fingerprint`.

        `accompany` gets the folder of the MLflow model before the upload, and may add files to it. A version with the
        same fingerprint is not registered twice: it is found and made the candidate.
        """
        # Order of writes: the files, verified; the model's status "ready"; the version with all its tags in one
        # request; the alias. So whatever has an alias or a number is complete, and repeating the call after an
        # interruption at any point uses what is finished and does the rest.
        version = self.find(tags["fingerprint"])
        if version is None:
            read = Package.read(package)
            model_id, sizes = upload_package(self._store, run_id, read, accompany)
            version = self._create(run_id, model_id, {**tags, SIZES: json.dumps(sizes, separators=(",", ":"))})
        self.set_alias(CANDIDATE, version)
        return self.get(str(version.number))

    def address_of(self, version: Version) -> str:
        """Where others fetch a version: models:/NAME/NUMBER, followed by ?tracking_uri=… if a server has it."""
        server = self._store.shown
        return f"{version.uri}?tracking_uri={server}" if server.startswith("http") else version.uri

    def get(self, reference: str) -> Version:
        """A version by "7", "champion", "models:/NAME/7" or "models:/NAME@champion".

        The registry's address after a question mark, as in `address_of`, is ignored.
        """
        match = re.fullmatch(r"(?:models:/([^/@:]+)[/@])?([A-Za-z0-9._-]+)(?:\?.*)?", reference)
        if match is None:
            raise RegistryError(
                f"{reference!r} is not a version; use a number, an alias, models:/NAME/NUMBER or models:/NAME@ALIAS"
            )
        name, key = match[1] or self.name, match[2]
        with self._store.failures(f"cannot look up {reference}"):
            if not key.isdigit():
                number = self.aliases(name).get(key)
                if number is None:
                    raise self._missing(name, key, "`image-classifier run` makes one")
                key = str(number)
            version = result_or_none(self._store.client.get_model_version, name, str(int(key)))
            if version is None:
                raise self._missing(name, f"version {key}", "`image-classifier history` lists the versions")
        return _as_version(version)

    def check_name(self) -> None:
        """Raise RegistryError, with the names that exist, if the registry has registered models but not this one."""
        with self._store.failures(f"cannot look up {self.name}"):
            if result_or_none(self._store.client.get_registered_model, self.name) is None and self._names():
                raise self._missing(self.name, "version", "")

    def champion(self) -> Version | None:
        """The version that serves, None before the first promotion."""
        with self._store.failures(f"cannot look up the champion of {self.name}"):
            number = self.aliases(self.name).get(CHAMPION)
        return None if number is None else self.get(str(number))

    def newest(self) -> Version | None:
        """The version registered last, None before the first."""
        numbers = [version.number for version in self.all()]
        return self.get(str(max(numbers))) if numbers else None

    def all(self) -> list[Version]:
        """All versions, in no particular order, without their aliases, which MLflow's search omits."""
        return [_as_version(raw) for raw in self.search_all()]

    def download(self, version: Version, folder: Path) -> Path:
        """Put the version's package and a version.json (name, version, URI, address of the report) into `folder`.

        Completely or not at all: every digest is verified before the old content of `folder` is replaced. Raises
        LostError if files are missing or damaged in the registry.
        """
        what = f"cannot fetch {version.uri}"
        with self._store.failures(what), folder_written_atomically(folder) as draft:
            with tempfile.TemporaryDirectory(dir=draft.parent, prefix=f".{folder.name}.") as name:
                shutil.copytree(self._fetched(version, Path(name), what), draft, dirs_exist_ok=True)
            try:
                Package.read(draft)
            except PackageError as error:
                damage = str(error).replace(f"{draft}/", "").replace(str(draft), "the folder")
                raise LostError(
                    f"{what}: its files in the registry are damaged ({damage}); train again with --retrain"
                ) from error
            about = {"name": version.name, "version": version.number, "uri": version.uri}
            if report := self._runs.page_of(version.run_id, artifact_paths.REPORT):
                about["report"] = report
            (draft / VERSION_FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        return folder

    def set_tags(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags of a version, cut to the length that MLflow stores."""
        with self._store.failures(f"cannot set tags of {version.uri}"):
            for name, value in tags.items():
                self._store.client.set_model_version_tag(
                    version.name, str(version.number), name, clip(str(value), LONGEST_TAG)
                )

    def require_complete(self, version: Version, action: str) -> None:
        """Raise RegistryError if a file of the version is missing; `action` is a participle such as "promoted"."""
        with self._store.failures(f"cannot list the files of {version.uri}"):
            complete = self._is_complete(version)
        if not complete:
            raise RegistryError(f"{version.uri} lacks files in the registry and cannot be {action}")

    def aliases(self, name: str) -> dict[str, int]:
        """Version numbers by alias; none if there is no registered model of that name."""
        model = result_or_none(self._store.client.get_registered_model, name)
        return {} if model is None else {alias: int(number) for alias, number in model.aliases.items()}

    def set_alias(self, alias: str, version: Version) -> None:
        with self._store.failures(f"cannot set the alias {alias} to {version.uri}"):
            self._store.client.set_registered_model_alias(version.name, alias, str(version.number))

    def remove_alias(self, alias: str) -> None:
        """Remove an alias if it is set."""
        with self._store.failures(f"cannot remove the alias {alias} of {self.name}"):
            if alias in self.aliases(self.name):
                self._store.client.delete_registered_model_alias(self.name, alias)

    def search_all(self) -> list[Any]:
        """All versions as MLflow returns them, with all their tags."""
        with self._store.failures(f"cannot read the versions of {self.name}"):
            return self._search(f"name = '{self.name}'")

    def _names(self) -> list[str]:
        return sorted(model.name for model in all_pages(self._store.client.search_registered_models))

    def _missing(self, name: str, what: str, remedy: str) -> RegistryError:
        """The error for a version that does not exist: another registered model was meant, or `remedy` helps."""
        names = self._names()
        if names and name not in names:
            remedy = f"it has {listed(names)}" + ("; choose one with --name" if name == self.name else "")
        return RegistryError(f"{name} has no {what} in the registry at {self._store.shown}; {remedy}")

    def _search(self, condition: str) -> list[Any]:
        return list(all_pages(self._store.client.search_model_versions, condition, max_results=_PAGE))

    def _is_complete(self, version: Version) -> bool:
        expected = json.loads(version.tags.get(SIZES, "{}"))
        return bool(expected) and result_or_none(self._store.model_files, version.model_id) == expected

    def _fetched(self, version: Version, folder: Path, what: str) -> Path:
        from mlflow.exceptions import MlflowException

        try:
            return self._store.fetch_model(version.model_id, folder)
        except (MlflowException, OSError) as error:
            if self._is_complete(version):
                raise
            raise LostError(f"{what}: its files are missing in the registry; train again with --retrain") from error

    def _create(self, run_id: str, model_id: str, tags: Mapping[str, str]) -> Version:
        from mlflow.exceptions import MlflowException

        client = self._store.client
        with self._store.failures(f"cannot create a version of {self.name}"):
            try:
                client.create_registered_model(self.name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            # With a database MLflow looks the model up at its default address, not at the client's; and a request
            # that is sent again after its answer was lost would create a second version.
            with mlflow_environment(MLFLOW_TRACKING_URI=self._store.uri, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"):
                created = client.create_model_version(
                    self.name,
                    source=f"models:/{model_id}",
                    run_id=run_id,
                    tags={name: clip(str(value), LONGEST_TAG) for name, value in tags.items()},
                    model_id=model_id,
                )
        return self.get(str(int(created.version)))


def _as_version(raw: Any) -> Version:
    return Version(
        name=raw.name,
        # An int from a database, a str over HTTP.
        number=int(raw.version),
        run_id=raw.run_id,
        aliases=tuple(sorted(raw.aliases)),
        tags={key: value for key, value in raw.tags.items() if not key.startswith(PREFIX)},
        created=datetime.fromtimestamp(raw.creation_timestamp / 1000, UTC),
        model_id=raw.source.removeprefix("models:/"),
    )
