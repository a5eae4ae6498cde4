"""Download of a model version from an MLflow server, by HTTP alone.

KServe's storage initializer runs this before every pod of a server starts. Without MLflow's client it takes a fraction
of the time and memory, and the server image stays small.
"""

import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from image_classifier.addresses import basic_authorization, open_url, request_to
from image_classifier.errors import RegistryError
from image_classifier.files import write_atomically
from image_classifier.registry import REPORT, SIGNATURE, SIGNED_BY, page_of_run
from image_classifier.text import one_line, without_credentials

_RETRY_SECONDS = (0.5, 1.0, 2.0)
_TEMPORARY_STATUSES = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class ModelReference:
    """A version of a registered model, and the address of its MLflow server ("": the configured one)."""

    name: str
    number: int
    tracking_uri: str

    @classmethod
    def parse(cls, uri: str) -> "ModelReference":
        """From `models:/NAME/NUMBER`, with `?tracking_uri=ADDRESS` for another server.

        Raises RegistryError for anything else, such as an alias.
        """
        path, _, query = uri.partition("?")
        match = re.fullmatch(r"models:/([^/@?]+)/(\d+)", path)
        if match is None:
            raise RegistryError(
                f"{uri!r} is not a model version: use models:/NAME/NUMBER (an alias may move to another version)"
            )
        return cls(match[1], int(match[2]), parse_qs(query).get("tracking_uri", [""])[0])

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.number}"


def download_version(
    uri: str, folder: Path, *, tracking_uri: str, timeout: float, credentials: Mapping[str, str], public_key: str = ""
) -> None:
    """Write the package of the version `uri`, and its version.json, to `folder`; verifies every digest.

    If the setting `public_key` is given, the model's signature is verified before anything is written. `credentials`
    may hold MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. `timeout` is in seconds
    for each request.
    Raises RegistryError if the server does not answer, has no such version, or a file is damaged, and SignatureError if
    the model is not signed with the key.
    """
    reference = ModelReference.parse(uri)
    address = (reference.tracking_uri or tracking_uri).rstrip("/")
    if urlsplit(address).scheme not in ("http", "https"):
        raise RegistryError(
            f"cannot fetch {reference.uri}: the tracking URI {without_credentials(address)!r} is not the address of an "
            "MLflow server; set MLFLOW_TRACKING_URI"
        )
    server = _Server(address, timeout, _authorization(credentials))
    files, report, is_signed = server.locate(reference)
    manifest = server.get(f"{files}/manifest.json", reference)
    try:
        digests: dict[str, str] = json.loads(manifest)["files"]
    except (ValueError, KeyError, TypeError):
        raise _damaged(reference, "its manifest cannot be read") from None
    signature = server.get(f"{files}/{SIGNATURE}", reference) if is_signed else None
    if public_key:
        # Imported here, so that pods without signatures do not wait for a cryptography library.
        from image_classifier.attestation import package_files, verify

        verify(signature, package_files(manifest), public_key, model=reference.uri, name=reference.name)
    for name, digest in sorted(digests.items()):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise _damaged(reference, f"its manifest lists {name!r}, which is outside of the package")
        content = server.get(f"{files}/{quote(name)}", reference)
        if hashlib.sha256(content).hexdigest() != digest:
            raise _damaged(reference, f"{name} differs from the registered file")
        write_atomically(folder / name, content)
    about = {"name": reference.name, "version": reference.number, "uri": reference.uri, "report": report}
    write_atomically(folder / "version.json", (json.dumps(about, indent=1) + "\n").encode())
    if signature is not None:
        write_atomically(folder / SIGNATURE, signature)
    write_atomically(folder / "manifest.json", manifest)


def _damaged(reference: ModelReference, reason: str) -> RegistryError:
    return RegistryError(
        f"{reference.uri} is damaged in the registry: {reason}; set the param retrain to a new text to train it again"
    )


@dataclass(frozen=True)
class _Server:
    address: str
    timeout: float
    authorization: Mapping[str, str]

    @property
    def shown(self) -> str:
        """The address without user and password."""
        return without_credentials(self.address)

    def locate(self, reference: ModelReference) -> tuple[str, str, bool]:
        """The path of the version's files on the server, the address of its report, and whether it is signed."""
        query = urlencode({"name": reference.name, "version": reference.number})
        version = self._get_json(f"api/2.0/mlflow/model-versions/get?{query}", reference)["model_version"]
        model_id = version["source"].removeprefix("models:/")
        model = self._get_json(f"api/2.0/mlflow/logged-models/{quote(model_id)}", reference)["model"]
        location = model["info"]["artifact_uri"]
        if urlsplit(location).scheme != "mlflow-artifacts":
            raise RegistryError(
                f"cannot fetch {reference.uri}: its files are at {location}, which the MLflow server does not serve; "
                "start it with --artifacts-destination (its artifact proxy)"
            )
        path = urlsplit(location).path.lstrip("/")
        report = page_of_run(self.shown, model["info"]["experiment_id"], version["run_id"], REPORT)
        is_signed = SIGNED_BY in {tag["key"] for tag in version.get("tags", [])}
        return f"api/2.0/mlflow-artifacts/artifacts/{quote(path)}", report, is_signed

    def _get_json(self, path: str, reference: ModelReference) -> Any:
        content = self.get(path, reference)
        try:
            return json.loads(content)
        except ValueError:
            raise RegistryError(
                f"{self.shown} is not an MLflow server (it does not answer with JSON): check the tracking URI"
            ) from None

    def get(self, path: str, reference: ModelReference) -> bytes:
        request = request_to(f"{self.address}/{path}", self.authorization)

        def attempt() -> bytes:
            with open_url(request, timeout=self.timeout) as response:
                try:
                    return bytes(response.read())
                except http.client.HTTPException as error:  # the connection was lost within the body
                    raise ConnectionError(str(error)) from error

        failure = f"cannot fetch {reference.uri} from {self.shown}"
        try:
            return _retry(attempt)
        except urllib.error.HTTPError as error:
            raise RegistryError(f"{failure}: it answers {error.code}, {_error_message(error)}") from None
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise RegistryError(f"{failure}: it does not answer ({reason}); is it running?") from None


def _retry(attempt: Callable[[], bytes]) -> bytes:
    """Call `attempt`, and again after failures that a restarted or busy server causes.

    A loop, as importing tenacity takes longer than a whole download, and the server image does not have it.
    """
    for pause in _RETRY_SECONDS:
        try:
            return attempt()
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError) and error.code not in _TEMPORARY_STATUSES:
                raise
        time.sleep(pause)
    return attempt()


def _error_message(error: urllib.error.HTTPError) -> str:
    """The text of MLflow's error response, or else of the status."""
    try:
        message = str(json.loads(error.read())["message"])
    except (ValueError, KeyError, TypeError, OSError):
        message = str(error.reason)
    return one_line(message)


def _authorization(credentials: Mapping[str, str]) -> dict[str, str]:
    if token := credentials.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if user := credentials.get("MLFLOW_TRACKING_USERNAME"):
        pair = f"{user}:{credentials.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": basic_authorization(pair)}
    return {}
