"""The model registry: versions, the aliases candidate, champion and previous, and the history of both.

One registered model a workload. A version is an MLflow ONNX model whose folder is at the same time a package.
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

from image_classifier.datasets import Dataset
from image_classifier.errors import LostError, PackageError, RegistryError
from image_classifier.files import folder_written_atomically
from image_classifier.package import Package
from image_classifier.registry import artifact_paths as artifacts
from image_classifier.registry.artifact_paths import page_of_run
from image_classifier.registry.events import (
    LONGEST_REASON,
    PREFIX,
    PROMOTED,
    REFUSED,
    RELEASED,
    RETRAINING,
    ROLLED_BACK,
    WATCHED,
    Event,
    events_of,
    last_change,
    line_of_champions,
    withdrawal,
)
from image_classifier.registry.model_upload import SIZES, upload_package
from image_classifier.registry.runs import Run, require_run, resume_run, running_children, start_run
from image_classifier.registry.store import Store, environment
from image_classifier.settings import Settings
from image_classifier.text import clip

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
VERSION_FILE = "version.json"
LONGEST_TAG = 5000
"""Characters of a version's tag that every tracking store keeps."""

_PAGE = 200


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    number: int
    run_id: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    """Without the events, which `Registry.history` gives."""
    created: datetime
    """In UTC."""
    model_id: str
    """MLflow's logged model that holds the files."""

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.number}"


class Registry:
    """The versions of the registered model that the settings name. Nothing is touched before the first use.

    Every method raises RegistryError where the store cannot be reached or did not take a write.
    """

    def __init__(self, settings: Settings) -> None:
        self.name = settings.name
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name) is None:
            raise RegistryError(
                f"{self.name!r} cannot name a registered model: use letters, digits, dot, dash and underscore"
            )
        self._store = Store(settings)

    def check(self) -> None:
        """Raise RegistryError, within the registry timeout, where the store cannot be used."""
        self._store.check()

    # Runs

    def start_run(
        self,
        *,
        parameters: Mapping[str, object],
        tags: Mapping[str, str],
        dataset: Dataset,
        run_id: str | None = None,
        name: str | None = None,
        parent: str = "",
    ) -> Run:
        """Start a training run, nested under `parent` if given, or go on with `run_id` where the store has it."""
        return start_run(
            self._store,
            parameters=parameters,
            tags=tags,
            dataset=dataset,
            run_id=run_id,
            name=name,
            parent=parent,
        )

    def running_children(self, parent: str) -> list[tuple[Run, Mapping[str, str]]]:
        """The runs nested under a run that are not over, and their tags."""
        return running_children(self._store, parent)

    def resume_run(self, run_id: str) -> Run:
        """A run whose training is over, to add records to it."""
        return resume_run(self._store, run_id)

    def read_artifact(self, run_id: str, path: str) -> bytes | None:
        """The content of a run's artifact, None where the run has none of that path."""
        with self._store.failures(f"the artifact {path} of run {run_id} cannot be read"):
            require_run(self._store, run_id)
            if self._store.run_file(run_id, path) is None:
                return None
            with tempfile.TemporaryDirectory() as folder:
                return Path(self._store.client.download_artifacts(run_id, path, folder)).read_bytes()

    def page_of(self, run_id: str, path: str = "") -> str:
        """Where a browser shows a run, or one of its artifacts; "" where no server does."""
        if not self._store.shown.startswith("http"):
            return ""
        return page_of_run(self._store.shown, self._store.experiment_id, run_id, path)

    # Versions

    def find(self, fingerprint: str) -> Version | None:
        """The first version of that fingerprint whose files are all there."""
        if re.fullmatch(r"[\w.-]+", fingerprint) is None:
            raise ValueError(f"{fingerprint!r} is no fingerprint")
        with self._store.failures(f"the versions of {self.name} cannot be read"):
            same = self._search(f"name = '{self.name}' and tags.fingerprint = '{fingerprint}'")
            complete = [version for version in map(_as_version, same) if self._is_complete(version)]
        # What a search finds comes without its aliases.
        return self.get(str(min(version.number for version in complete))) if complete else None

    def register(
        self,
        run_id: str,
        package: Path,
        *,
        tags: Mapping[str, str],
        accompany: Callable[[Path], None] | None = None,
    ) -> Version:
        """Register the package in `package` as the candidate; `tags` must hold its `fingerprint`.

        `accompany` gets the folder of the MLflow model, before it is uploaded, and may lay more files beside its own.
        A version of the same fingerprint is not registered twice: it is found and made the candidate.
        """
        # The order of writes: files, verified; the model is said to be ready; the version with all its tags
        # in one request; the alias. So whatever has an alias or a number is whole, and a repeat after a stop
        # at any point uses what is finished and does the rest.
        version = self.find(tags["fingerprint"])
        if version is None:
            read = Package.read(package)
            model_id, sizes = upload_package(self._store, run_id, read, accompany)
            version = self._create_version(
                run_id, model_id, {**tags, SIZES: json.dumps(sizes, separators=(",", ":"))}
            )
        self._set_alias(CANDIDATE, version)
        return self.get(str(version.number))

    def address_of(self, version: Version) -> str:
        """Where others fetch a version: models:/NAME/NUMBER and, after ?, the server that has it, if one does."""
        server = self._store.shown
        return f"{version.uri}?tracking_uri={server}" if server.startswith("http") else version.uri

    def get(self, reference: str) -> Version:
        """A version by "7", "champion", "models:/NAME/7" or "models:/NAME@champion".

        An address of its registry after a question mark, as `address_of` gives, is read over.
        """
        match = re.fullmatch(r"(?:models:/([^/@:]+)[/@])?([A-Za-z0-9._-]+)(?:\?.*)?", reference)
        if match is None:
            raise RegistryError(
                f"{reference!r} names no version; give a number, an alias, models:/NAME/NUMBER or "
                "models:/NAME@ALIAS"
            )
        name, key = match[1] or self.name, match[2]
        with self._store.failures(f"{reference} cannot be looked up"):
            if not key.isdigit():
                number = self._aliases(name).get(key)
                if number is None:
                    raise RegistryError(
                        f"no version of {name} is the {key} in the registry at {self._store.shown}; "
                        "`image-classifier run` makes one"
                    )
                key = str(number)
            version = self._version(name, int(key))
        if version is None:
            raise RegistryError(
                f"{name} has no version {key} in the registry at {self._store.shown}; "
                "`image-classifier history` lists those that were judged"
            )
        return version

    def champion(self) -> Version | None:
        """The version that serves, None before the first promotion."""
        with self._store.failures(f"the champion of {self.name} cannot be looked up"):
            number = self._aliases(self.name).get(CHAMPION)
        return None if number is None else self.get(str(number))

    def newest(self) -> Version | None:
        """The version that was registered last, None before the first."""
        with self._store.failures(f"the versions of {self.name} cannot be read"):
            numbers = [int(raw.version) for raw in self._search(f"name = '{self.name}'")]
        return self.get(str(max(numbers))) if numbers else None

    def download(self, version: Version, folder: Path) -> Path:
        """Put the version's package and a version.json (name, version, uri, address of the report) into `folder`.

        Whole or not at all: every digest is verified before what `folder` held is replaced. Raises LostError
        where the registry has not, or not undamaged, what was registered.
        """
        what = f"{version.uri} cannot be fetched"
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
            if report := self.page_of(version.run_id, artifacts.REPORT):
                about["report"] = report
            (draft / VERSION_FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        return folder

    def _fetched(self, version: Version, folder: Path, what: str) -> Path:
        from mlflow.exceptions import MlflowException

        try:
            return self._store.fetch_model(version.model_id, folder)
        except (MlflowException, OSError) as error:
            if self._is_complete(version):
                raise
            raise LostError(
                f"{what}: its files are gone from the registry; train again with --retrain"
            ) from error

    def set_tags(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with self._store.failures(f"{version.uri} was not tagged"):
            for name, value in tags.items():
                self._store.client.set_model_version_tag(
                    version.name, str(version.number), name, clip(str(value), LONGEST_TAG)
                )

    # Decisions

    def promote(self, version: Version, *, actor: str, reason: str, image: str = "") -> None:
        """Make a version the champion, and the champion before it the previous; a repeat changes nothing.

        With another server `image` than before it is an event of its own, though the champion stays.
        """
        # The order of writes: previous, champion, event. After a stop before the second nothing has changed
        # for those who ask for the champion; after a stop before the third a repeat appends what is missing.
        before = self.champion()
        if before is not None and before.number == version.number:
            last = last_change(self.history())
            if last is None or last.version != version.number:
                with self._store.failures(f"the aliases of {self.name} cannot be read"):
                    replaced = self._aliases(self.name).get(PREVIOUS)
                self._append(version, PROMOTED, actor, reason, replaced, image=image)
            elif image and last.image != image:
                self._append(version, PROMOTED, actor, reason, version.number, image=image)
            return
        self._need_complete(version, "promoted")
        if before is not None:
            self._set_alias(PREVIOUS, before)
        self._set_alias(CHAMPION, version)
        self._append(version, PROMOTED, actor, reason, before.number if before else None, image=image)

    def roll_back(
        self,
        version: Version,
        *,
        replaced: int,
        actor: str,
        reason: str,
        image: str = "",
        from_image: str = "",
    ) -> None:
        """Make a version that served before the champion again, in place of version `replaced`.

        `image` is the server image that it serves with. With `from_image` the pair of `replaced` and that image may
        not serve again until it is released. A repeat changes nothing; it completes what was cut off.
        """
        events = self.history()
        last = last_change(events)
        done = last is not None and (last.action, last.version) == (ROLLED_BACK, version.number)
        if done and (not from_image or withdrawal(events, replaced, from_image)):
            return
        self._need_complete(version, "rolled back to")
        # In the order of `promote`, for the same reasons.
        line = line_of_champions(events)
        earlier = line[: line.index(version.number)] if version.number in line else line
        if earlier:
            self._set_alias(PREVIOUS, self.get(str(earlier[-1])))
        else:
            self._remove_alias(PREVIOUS)
        self._set_alias(CHAMPION, version)
        self._append(version, ROLLED_BACK, actor, reason, replaced, image=image, from_image=from_image)

    def release(self, version: Version, *, actor: str, reason: str, image: str = "") -> None:
        """Record that a version that was rolled back from may serve again."""
        champion = self.champion()
        self._append(version, RELEASED, actor, reason, champion.number if champion else None, image=image)

    def watched(
        self, version: Version, *, actor: str, reason: str, image: str, from_version: int | None
    ) -> None:
        """Record what was seen of a version's roll-out, beside `from_version`, that left it in service."""
        self._append(version, WATCHED, actor, reason, from_version, image=image)

    def refuse(self, version: Version, *, actor: str, reason: str) -> None:
        """Record that a version was refused; a repeat for the same reason changes nothing."""
        last = next((event for event in self.history() if event.version == version.number), None)
        if last is None or (last.action, last.reason) != (REFUSED, clip(reason, LONGEST_REASON)):
            champion = self.champion()
            self._append(version, REFUSED, actor, reason, champion.number if champion else None)

    def retraining(self, version: Version, *, actor: str, reason: str) -> None:
        """Record that a training is started while a version, the champion, serves."""
        self._append(version, RETRAINING, actor, reason, None)

    def history(self) -> list[Event]:
        """All events, the newest first."""
        with self._store.failures(f"the history of {self.name} cannot be read"):
            versions = self._search(f"name = '{self.name}'")
        return events_of((int(raw.version), raw.tags) for raw in versions)

    def versions(self) -> list[Version]:
        """All versions, in no order; without their aliases, with which no search comes."""
        with self._store.failures(f"the versions of {self.name} cannot be read"):
            return [_as_version(raw) for raw in self._search(f"name = '{self.name}'")]

    def metrics(self, version: Version) -> dict[str, float]:
        """The metrics of a version's run, by name; none where the run is gone."""
        from mlflow.exceptions import MlflowException

        with self._store.failures(f"the metrics of {version.uri} cannot be read"):
            try:
                return dict(self._store.client.get_run(version.run_id).data.metrics)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return {}
                raise

    def _append(
        self,
        version: Version,
        action: str,
        actor: str,
        reason: str,
        from_version: int | None,
        *,
        image: str = "",
        from_image: str = "",
    ) -> None:
        event = Event(
            datetime.now(UTC),
            action,
            version.number,
            actor,
            clip(reason, LONGEST_REASON),
            from_version,
            image,
            from_image,
        )
        key, value = event.to_tag()
        self.set_tags(version, {key: value})

    def _need_complete(self, version: Version, what: str) -> None:
        if not self._checked_complete(version):
            raise RegistryError(f"{version.uri} lacks files in the registry and cannot be {what}")

    # What is asked of MLflow

    def _search(self, condition: str) -> list[Any]:
        found: list[Any] = []
        token = None
        while True:
            page = self._store.client.search_model_versions(condition, max_results=_PAGE, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def _version(self, name: str, number: int) -> Version | None:
        from mlflow.exceptions import MlflowException

        try:
            return _as_version(self._store.client.get_model_version(name, str(number)))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def _aliases(self, name: str) -> dict[str, int]:
        from mlflow.exceptions import MlflowException

        try:
            aliases = self._store.client.get_registered_model(name).aliases
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise
        return {alias: int(number) for alias, number in aliases.items()}

    def _set_alias(self, alias: str, version: Version) -> None:
        with self._store.failures(f"the alias {alias} was not set to {version.uri}"):
            self._store.client.set_registered_model_alias(version.name, alias, str(version.number))

    def _remove_alias(self, alias: str) -> None:
        with self._store.failures(f"the alias {alias} of {self.name} was not removed"):
            if alias in self._aliases(self.name):
                self._store.client.delete_registered_model_alias(self.name, alias)

    def _is_complete(self, version: Version) -> bool:
        from mlflow.exceptions import MlflowException

        expected = json.loads(version.tags.get(SIZES, "{}"))
        try:
            return bool(expected) and self._store.model_files(version.model_id) == expected
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _checked_complete(self, version: Version) -> bool:
        with self._store.failures(f"the files of {version.uri} cannot be listed"):
            return self._is_complete(version)

    def _create_version(self, run_id: str, model_id: str, tags: Mapping[str, str]) -> Version:
        from mlflow.exceptions import MlflowException

        client = self._store.client
        with self._store.failures(f"no version of {self.name} was created"):
            try:
                client.create_registered_model(self.name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            # A database store looks the model up at MLflow's default address; and a request that is sent
            # again after a lost answer would create a second version.
            with environment(MLFLOW_TRACKING_URI=self._store.uri, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"):
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
