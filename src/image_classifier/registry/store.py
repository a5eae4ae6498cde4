"""Where runs and versions are kept: an MLflow tracking server, or a sqlite file and a folder of artifacts.

Nothing else imports MLflow but `tracking` and `registry`. Importing it takes about two seconds, and the first
use of a sqlite file another two for its tables, so both wait until they are needed.
"""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from image_classifier.errors import RegistryAwayError, RegistryError
from image_classifier.registry.sqlite import check_database, create_database
from image_classifier.settings import Settings
from image_classifier.text import clip

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LONGEST_MESSAGE = 400
_TIMED_OUT = "timed out"
_NOT_CONNECTED = ("ConnectionPool(", "Connection aborted")
"""What the HTTP libraries under MLflow say, which has no error classes of its own for it."""
_SCHEMES = ("http", "https", "sqlite")


class Store:
    """A connection to MLflow that is made when first used. Every failure is a RegistryError of one line."""

    def __init__(self, settings: Settings) -> None:
        self.name = settings.name
        self.timeout = settings.registry_timeout
        self.uri = settings.tracking_uri or f"sqlite:///{settings.home.resolve() / 'mlflow.db'}"
        self._artifacts = settings.home.resolve() / "artifacts"
        scheme = urlsplit(self.uri).scheme
        if scheme not in _SCHEMES or "://" not in self.uri:
            raise RegistryError(
                f"the tracking address {self.shown} is neither http://, https:// nor sqlite:///; "
                "give for example --tracking-uri http://mlflow:5000"
            )

    @property
    def shown(self) -> str:
        """The address without a password."""
        parts = urlsplit(self.uri)
        return self.uri.replace(f"{parts.username}:{parts.password}@", "") if parts.password else self.uri

    @property
    def _database(self) -> Path | None:
        """The sqlite file, where there is one."""
        if not self.uri.startswith("sqlite:"):
            return None
        return Path(unquote(self.uri.removeprefix("sqlite:///"))).resolve()

    @cached_property
    def client(self) -> "MlflowClient":
        with self.failures("cannot open the registry"):
            _prepare_environment(self.timeout)
            from mlflow import MlflowClient

            _silence()
            if self._database is not None:
                create_database(self._database, self._artifacts)
            return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def check(self) -> None:
        """Raise RegistryError, within the registry timeout, where the store cannot be used."""
        if self._database is None:
            client = self.client
            self._check_server()
        else:
            check_database(self._database, self.timeout)
            client = self.client
        with self.failures("cannot open the registry"):
            client.search_experiments(max_results=1)

    def _check_server(self) -> None:
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        with self.failures("cannot open the registry"):
            response = http_request(  # type: ignore[no-untyped-call]
                get_default_host_creds(self.uri),  # type: ignore[no-untyped-call]
                "/api/2.0/mlflow/experiments/search",
                "POST",
                json={"max_results": 1},
                max_retries=0,
                timeout=(self.timeout / 2, self.timeout / 2),  # to connect, and to be answered
                raise_on_status=False,
            )
        status, text = response.status_code, response.text
        if "Invalid Host header" in text:
            raise RegistryError(
                f"the MLflow server refuses to be called {urlsplit(self.uri).netloc.rpartition('@')[2]}: "
                "start it with --allowed-hosts (or MLFLOW_SERVER_ALLOWED_HOSTS) naming that host and port"
            )
        if status in (401, 403):
            raise RegistryError(
                f"the MLflow server at {self.shown} refuses access ({status}): set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        if status >= 500:
            raise RegistryAwayError(
                f"the MLflow server at {self.shown} answers {status} {response.reason}; is it well?"
            )
        if status != 200 or not text.lstrip().startswith("{"):
            raise RegistryError(
                f"{self.shown} answers, but not as an MLflow server ({status} {response.reason}): "
                "check --tracking-uri"
            )

    @contextmanager
    def failures(self, what: str) -> Iterator[None]:
        """Turn whatever MLflow and its libraries raise into a RegistryError that begins with `what`."""
        from requests import RequestException  # an OSError, too

        _prepare_environment(self.timeout)
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, RequestException, SQLAlchemyError, sqlite3.Error, OSError) as error:
            kind = RegistryAwayError if _is_away(str(error)) else RegistryError
            raise kind(f"{what}: {self._in_words(error)}") from error

    def _in_words(self, error: Exception) -> str:
        text = str(error)
        if _TIMED_OUT in text:
            return (
                f"the MLflow server at {self.shown} did not answer in time; is it well? "
                "A slow one needs a longer --registry-timeout"
            )
        if answer := re.search(r"too many (\d+) error responses", text):
            return (
                f"the MLflow server at {self.shown} answers {answer[1]} whenever it is asked; "
                "its log says why, such as a full disk"
            )
        if any(mark in text for mark in _NOT_CONNECTED):
            reason = re.search(r"\[(?:Errno|SSL)[^]]*] ([\w ]+)", text)
            said = f" ({reason[1].strip()})" if reason else ""
            return f"the MLflow server at {self.shown} does not answer{said}; is it running?"
        return _clipped(text) or type(error).__name__

    @cached_property
    def experiment_id(self) -> str:
        """The experiment of the registered model's name, made where it is not there."""
        with self.failures(f"the experiment {self.name} cannot be opened"):
            experiment = self.client.get_experiment_by_name(self.name)
            if experiment is None:
                from mlflow.exceptions import MlflowException

                # A server knows its own place for artifacts.
                place = None if self._database is None else self._artifacts.as_uri()
                try:
                    return str(self.client.create_experiment(self.name, artifact_location=place))
                except MlflowException as error:
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":
                        raise
                experiment = self.client.get_experiment_by_name(self.name)
            if experiment is None or experiment.lifecycle_stage != "active":
                raise RegistryError(
                    f"the MLflow experiment {self.name} was deleted: restore it "
                    f"(mlflow experiments restore) or choose another --name"
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
        """Download all files of a logged model into a folder in `folder`; gives that folder."""
        location = self.client.get_logged_model(model_id).artifact_location
        return self.fetch(location, folder)

    def fetch(self, artifact_uri: str, folder: Path) -> Path:
        """Download an artifact into `folder`; gives where it is."""
        from mlflow.artifacts import download_artifacts

        # A copy is asked for by a folder; a local artifact would be given in its place.
        return Path(
            download_artifacts(artifact_uri=artifact_uri, dst_path=str(folder), tracking_uri=self.uri)
        )

    def run_file(self, run_id: str, path: str) -> int | None:
        """The size in bytes of a run's artifact; None where there is none."""
        parent = str(PurePosixPath(path).parent)
        for item in self.client.list_artifacts(run_id, None if parent == "." else parent):
            if item.path == path and not item.is_dir:
                return int(item.file_size or 0)
        return None

    def upload_run_file(self, run_id: str, file: Path, folder: str) -> None:
        """Upload a file as a run's artifact, and see that it arrived whole."""
        self.client.log_artifact(run_id, str(file), folder or None)
        path = f"{folder}/{file.name}" if folder else file.name
        arrived, sent = self.run_file(run_id, path), file.stat().st_size
        if arrived != sent:
            raise RegistryError(f"the artifact {path} was sent with {sent} bytes, but {arrived} arrived")


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for a while: some of MLflow's switches are nowhere else."""
    before: Mapping[str, str | None] = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _is_away(text: str) -> bool:
    """Whether an error's text tells of a host that is known and a server on it that does not answer."""
    return "NameResolutionError" not in text and any(mark in text for mark in (_TIMED_OUT, *_NOT_CONNECTED))


def _prepare_environment(timeout: float) -> None:
    # Read by MLflow when it is imported, so before that.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Two attempts and the pause between them end within the timeout; a short one is not shared out.
    retries = 1 if timeout >= 10 else 0
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = str(retries)
    os.environ["MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"] = "1"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(max(1, int(timeout * 0.4 if retries else timeout)))


def _silence() -> None:
    """Keep MLflow's own log lines off the user's terminal: what matters is raised, and said once."""
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)
        logging.getLogger("alembic").setLevel(logging.WARNING)


def _clipped(text: str) -> str:
    return clip(" ".join(text.split()), _LONGEST_MESSAGE)
