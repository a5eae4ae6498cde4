"""The connection to MLflow: a tracking server, or a SQLite file and a folder of artifacts.

Importing MLflow takes about 2 s, and creating the tables of a SQLite file another 2 s, so both wait until needed.
"""

import fcntl
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from image_classifier.errors import RegistryError, RegistryUnavailableError
from image_classifier.files import sqlite_uri
from image_classifier.registry.mlflow_environment import configure_mlflow, silence_mlflow
from image_classifier.text import one_line, without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LONGEST_MESSAGE = 400  # characters of an error of MLflow's
_SCHEMES = ("http", "https", "sqlite", "sqlite+pysqlite")
_TIMED_OUT = "timed out"
_NOT_CONNECTED = ("ConnectionPool(", "Connection aborted")
"""Texts of the HTTP libraries under MLflow, which raises no error classes of its own for connection failures."""


@dataclass(frozen=True)
class RegistryOptions:
    """Where a registry is, and the name of the registered model in it."""

    home: Path
    """Folder of the local registry, which is used if there is no `tracking_uri`."""
    name: str
    tracking_uri: str
    registry_timeout: float
    """Seconds."""


class Store:
    """A connection to MLflow that is opened when first used. Every failure is a RegistryError of one line."""

    def __init__(self, options: RegistryOptions) -> None:
        self.name = options.name
        self.timeout = options.registry_timeout
        home = options.home.resolve()
        self.uri = options.tracking_uri or sqlite_uri(home / "mlflow.db")
        self._artifacts = home / "artifacts"
        if urlsplit(self.uri).scheme not in _SCHEMES or "://" not in self.uri:
            raise RegistryError(
                f"the tracking URI {self.shown} is neither http://, https:// nor sqlite:///; "
                "use for example --tracking-uri http://mlflow:5000"
            )

    @property
    def shown(self) -> str:
        """The URI without user, password and query; of a local registry, with its path as a person writes it."""
        return without_credentials(self.uri) if self._database is None else f"sqlite:///{self._database}"

    @property
    def _database(self) -> Path | None:
        """The SQLite file of a local registry."""
        scheme, _, path = self.uri.partition(":///")
        if not scheme.startswith("sqlite"):
            return None
        return Path(unquote(path.partition("?")[0])).resolve()

    @cached_property
    def client(self) -> "MlflowClient":
        with self.failures("cannot open the registry"):
            from mlflow import MlflowClient

            silence_mlflow()
            if self._database is not None:
                _create_database(self._database)
            return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Exclude other processes of this program from a local registry during the block; a server has no lock."""
        if self._database is None:
            yield
            return
        _ = self.client  # creating the database takes the same lock
        with _locked(self._database):
            yield

    def check(self) -> None:
        """Raise RegistryError, within the registry timeout, if the registry cannot be used."""
        if self._database is not None:
            _check_database(self._database, self.timeout)
        client = self.client
        with self.failures("cannot open the registry"):
            client.search_experiments(max_results=1)

    @contextmanager
    def failures(self, what: str) -> Iterator[None]:
        """Turn whatever MLflow and its libraries raise into a RegistryError that begins with `what`."""
        configure_mlflow(self.timeout)
        from mlflow.exceptions import MlflowException
        from requests import RequestException  # an OSError, too
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, RequestException, SQLAlchemyError, sqlite3.Error, OSError) as error:
            kind = RegistryUnavailableError if _is_unavailable(str(error)) else RegistryError
            raise kind(f"{what}: {self._explain(error)}") from error

    def _explain(self, error: Exception) -> str:
        """What is wrong and what to do; MLflow's own text if it is none of the usual causes."""
        text, server = str(error), f"the MLflow server at {self.shown}"
        if _TIMED_OUT in text:
            return f"{server} did not answer in time; check it, or raise --registry-timeout if it is slow"
        if "Invalid Host header" in text:
            return (
                f"{server} rejects the host name {urlsplit(self.uri).netloc.rpartition('@')[2]}: start it with "
                "--allowed-hosts (or MLFLOW_SERVER_ALLOWED_HOSTS) that includes this host and port"
            )
        if status := _status(text):
            if status in (401, 403):
                return (
                    f"{server} denies access ({status}): set MLFLOW_TRACKING_USERNAME and "
                    "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
                )
            if status >= 500:
                return f"{server} answers {status} to every request; its log says why, for example a full disk"
            return f"{self.shown} is not an MLflow server (it answers {status}): check --tracking-uri"
        if "not in a valid JSON format" in text:
            return f"{self.shown} is not an MLflow server (it does not answer with JSON): check --tracking-uri"
        if any(mark in text for mark in _NOT_CONNECTED):
            reason = re.search(r"\[(?:Errno|SSL)[^]]*] ([\w ]+)", text)
            cause = f" ({reason[1].strip()})" if reason else ""
            return f"{server} does not answer{cause}; is it running?"
        return one_line(text, _LONGEST_MESSAGE) or type(error).__name__

    @cached_property
    def experiment_id(self) -> str:
        """The experiment with the name of the registered model, created if it does not exist."""
        with self.failures(f"cannot open the experiment {self.name}"):
            experiment = self.client.get_experiment_by_name(self.name)
            if experiment is None:
                from mlflow.exceptions import MlflowException

                # A server chooses the place of artifacts itself.
                location = None if self._database is None else self._artifacts.as_uri()
                try:
                    return str(self.client.create_experiment(self.name, artifact_location=location))
                except MlflowException as error:
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":
                        raise
                experiment = self.client.get_experiment_by_name(self.name)
            if experiment is None or experiment.lifecycle_stage != "active":
                raise RegistryError(
                    f"the MLflow experiment {self.name} was deleted: restore it (mlflow experiments restore) or "
                    "choose another --name"
                )
            return str(experiment.experiment_id)

    def model_files(self, model_id: str, folder: str = "") -> dict[str, int]:
        """Path and size in bytes of every file of a logged model."""
        files = {}
        for item in self.client.list_logged_model_artifacts(model_id, folder or None):
            if item.is_dir:
                files.update(self.model_files(model_id, item.path))
            else:
                files[item.path] = int(item.file_size or 0)
        return files

    def fetch_model(self, model_id: str, folder: Path) -> Path:
        """Download all files of a logged model into a folder in `folder`; returns that folder."""
        from mlflow.artifacts import download_artifacts

        # By the address of the files, not of the model: only with a destination does MLflow copy local artifacts.
        location = self.client.get_logged_model(model_id).artifact_location
        return Path(download_artifacts(artifact_uri=location, dst_path=str(folder), tracking_uri=self.uri))

    def run_file(self, run_id: str, path: str) -> int | None:
        """Size in bytes of a run's artifact, None if there is none."""
        parent = str(PurePosixPath(path).parent)
        for item in self.client.list_artifacts(run_id, None if parent == "." else parent):
            if item.path == path and not item.is_dir:
                return int(item.file_size or 0)
        return None

    def upload_run_file(self, run_id: str, file: Path, folder: str) -> None:
        """Upload a file as a run's artifact, and verify that it arrived completely."""
        self.client.log_artifact(run_id, str(file), folder or None)
        path = f"{folder}/{file.name}" if folder else file.name
        arrived, sent = self.run_file(run_id, path), file.stat().st_size
        if arrived != sent:
            raise RegistryError(f"the artifact {path} arrived with {arrived} of {sent} bytes; repeat the step")


def result_or_none(request: Callable[..., Any], *arguments: object) -> Any:
    """The result of a request to MLflow; None if what it requests does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        return request(*arguments)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def all_pages(search: Callable[..., Any], *arguments: object, **options: object) -> Iterator[Any]:
    """Yield what a search of MLflow's finds, page by page."""
    page = search(*arguments, **options)
    yield from page
    while page.token:
        page = search(*arguments, **options, page_token=page.token)
        yield from page


def _check_database(path: Path, timeout: float) -> None:
    """Raise RegistryError if the file cannot be written within `timeout` seconds. MLflow would try for two minutes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with tempfile.TemporaryFile(dir=path.parent):
                return
        with closing(sqlite3.connect(path, timeout=timeout, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except (OSError, sqlite3.Error) as error:
        raise RegistryError(
            f"cannot write the local registry {path} ({error}); choose another --home or --tracking-uri"
        ) from error


@contextmanager
def _locked(database: Path) -> Iterator[None]:
    with (database.parent / f".{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _create_database(path: Path) -> None:
    """Create a SQLite file with MLflow's tables, completely or not at all, unless it exists.

    MLflow creates the tables one by one in the file itself, and refuses to open a file in which some are missing.
    """
    if path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        # Another process may have created it.
        if path.exists():
            return
        draft = path.with_name(f".{path.name}.new")
        draft.unlink(missing_ok=True)
        MlflowClient(tracking_uri=sqlite_uri(draft)).search_experiments(max_results=1)
        draft.replace(path)


def _status(text: str) -> int | None:
    """The HTTP status in an error of MLflow's or of its HTTP library."""
    match = re.search(r"failed with error code (\d{3})|too many (\d{3}) error responses", text)
    return int(match[1] or match[2]) if match else None


def _is_unavailable(text: str) -> bool:
    """Whether a known host does not answer or is not well, so that a later request may succeed."""
    if "NameResolutionError" in text:
        return False
    return any(mark in text for mark in (_TIMED_OUT, *_NOT_CONNECTED)) or (_status(text) or 0) >= 500
