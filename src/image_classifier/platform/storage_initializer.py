"""Fetch a version's package from an MLflow server by its HTTP interface alone.

The storage initializer runs this before every pod of a server: without MLflow's client it takes a fraction of
the time and the memory, and the server image stays small.
"""

import base64
import hashlib
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

from image_classifier.errors import RegistryError
from image_classifier.files import write_atomically
from image_classifier.registry import REPORT, SIGNATURE, SIGNED_BY, page_of_run

_ATTEMPTS = 4
_PAUSE_SECONDS = 0.5
_TRANSIENT = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class ModelReference:
    """A version of a registered model, and the server that has it ("": the one that is set)."""

    name: str
    number: int
    tracking_uri: str

    @classmethod
    def parse(cls, uri: str) -> "ModelReference":
        """Read `models:/NAME/NUMBER`, with `?tracking_uri=ADDRESS` where the server is another; no alias."""
        path, _, query = uri.partition("?")
        match = re.fullmatch(r"models:/([^/@?]+)/(\d+)", path)
        if match is None:
            raise RegistryError(
                f"{uri!r} names no version to serve; give models:/NAME/NUMBER (an alias moves)"
            )
        return cls(match[1], int(match[2]), parse_qs(query).get("tracking_uri", [""])[0])

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.number}"


def download(
    uri: str,
    folder: Path,
    *,
    tracking_uri: str,
    timeout: float,
    credentials: Mapping[str, str],
    public_key: str = "",
) -> None:
    """Put the package of the version `uri`, and its version.json, into `folder`; every digest is verified.

    With a `public_key`, as the setting has it, so is the signature of the model, before anything is written.
    `credentials` may hold MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
    Raises RegistryError where the server does not answer, lacks the version, or has damaged files, and SignatureError
    where the model is not signed as it must be.
    """
    reference = ModelReference.parse(uri)
    address = (reference.tracking_uri or tracking_uri).rstrip("/")
    if urlsplit(address).scheme not in ("http", "https"):
        raise RegistryError(
            f"{reference.uri} cannot be fetched: the tracking address is {address!r}, but must be that of an "
            "MLflow server; set MLFLOW_TRACKING_URI"
        )
    server = _Server(address, timeout, _authorization(credentials))
    files, report, is_signed = server.files_of(reference)
    manifest = server.get(f"{files}/manifest.json", reference)
    try:
        digests: dict[str, str] = json.loads(manifest)["files"]
    except (ValueError, KeyError, TypeError):
        raise RegistryError(
            f"{reference.uri} is damaged in the registry: its manifest cannot be read"
        ) from None
    signature = server.get(f"{files}/{SIGNATURE}", reference) if is_signed else None
    if public_key:
        # Not imported above: a platform without signatures need not load a library of cryptography before every pod.
        from image_classifier.attestation import package_files, verify

        verify(signature, package_files(manifest), public_key, model=reference.uri, name=reference.name)
    for name, digest in sorted(digests.items()):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise RegistryError(f"{reference.uri} is damaged in the registry: it names the file {name!r}")
        content = server.get(f"{files}/{quote(name)}", reference)
        if hashlib.sha256(content).hexdigest() != digest:
            raise RegistryError(
                f"{reference.uri} is damaged in the registry: {name} is not the file that was registered; "
                "train again with a new text for retrain"
            )
        write_atomically(folder / name, content)
    about = {
        "name": reference.name,
        "version": reference.number,
        "uri": reference.uri,
        "report": report,
    }
    write_atomically(folder / "version.json", (json.dumps(about, indent=1) + "\n").encode())
    if signature is not None:
        write_atomically(folder / SIGNATURE, signature)
    write_atomically(folder / "manifest.json", manifest)


@dataclass(frozen=True)
class _Server:
    address: str
    timeout: float
    authorization: Mapping[str, str]

    def files_of(self, reference: ModelReference) -> tuple[str, str, bool]:
        """The server's path of the folder with the version's files, the address of its report, and if it is signed."""
        query = urlencode({"name": reference.name, "version": reference.number})
        version = self._json(f"api/2.0/mlflow/model-versions/get?{query}", reference)["model_version"]
        model_id = version["source"].removeprefix("models:/")
        model = self._json(f"api/2.0/mlflow/logged-models/{quote(model_id)}", reference)["model"]
        location = model["info"]["artifact_uri"]
        scheme, _, path = location.partition(":")
        if scheme != "mlflow-artifacts":
            raise RegistryError(
                f"{reference.uri} lies at {location}, which the MLflow server does not hand out: start it "
                "with --artifacts-destination (its artifact proxy)"
            )
        path = urlsplit(location).path.lstrip("/")
        report = page_of_run(self.address, model["info"]["experiment_id"], version["run_id"], REPORT)
        is_signed = SIGNED_BY in {tag["key"] for tag in version.get("tags", [])}
        return f"api/2.0/mlflow-artifacts/artifacts/{quote(path)}", report, is_signed

    def _json(self, path: str, reference: ModelReference) -> Any:
        content = self.get(path, reference)
        try:
            return json.loads(content)
        except ValueError:
            raise RegistryError(
                f"{self.address} answers, but not as an MLflow server: check the tracking address"
            ) from None

    def get(self, path: str, reference: ModelReference) -> bytes:
        request = urllib.request.Request(f"{self.address}/{path}", headers=dict(self.authorization))

        def attempt() -> bytes:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                return bytes(response.read())

        return _patiently(attempt, f"{reference.uri} cannot be fetched from {self.address}")


def _patiently(attempt: Callable[[], bytes], failure: str) -> bytes:
    """Try again, with growing pauses, what a restart of the server or a busy moment may have caused."""
    for number in range(_ATTEMPTS):
        try:
            return attempt()
        except urllib.error.HTTPError as error:
            if error.code not in _TRANSIENT or number == _ATTEMPTS - 1:
                raise RegistryError(f"{failure}: {_in_words(error)}") from None
        except OSError as error:
            if number == _ATTEMPTS - 1:
                reason = getattr(error, "reason", error)
                raise RegistryError(f"{failure}: it does not answer ({reason}); is it running?") from None
        time.sleep(_PAUSE_SECONDS * 2**number)
    raise AssertionError("the last attempt returns or raises")


def _in_words(error: urllib.error.HTTPError) -> str:
    try:
        message = str(json.loads(error.read())["message"])
    except (ValueError, KeyError, TypeError, OSError):
        message = str(error.reason)
    return f"it answers {error.code}, {' '.join(message.split())[:200]}"


def _authorization(credentials: Mapping[str, str]) -> dict[str, str]:
    if token := credentials.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if user := credentials.get("MLFLOW_TRACKING_USERNAME"):
        pair = f"{user}:{credentials.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}
