"""Identity of a packaged model: its name and version, and the source and data that it was trained from."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from image_classifier.errors import PackageError
from image_classifier.package.package import Package

UNREGISTERED = "unregistered"
VERSION_FILE = "version.json"


@dataclass(frozen=True)
class ModelIdentity:
    """Identity of the model in every response; "" for an unknown value."""

    name: str
    version: str
    digest: str
    source_revision: str
    data_digest: str
    report: str = ""
    """URL of the gate's report; not part of every response."""

    @classmethod
    def read(cls, package: Package, name: str) -> "ModelIdentity":
        """Read the identity from the package and from the version.json that the registry writes next to it.

        Without a version.json the name is `name` and the version is "unregistered". Raises PackageError if the
        version.json cannot be read, or if its report is not an http or https URL.
        """
        file = package.folder / VERSION_FILE
        registered = _read_version_file(file)
        return cls(
            name=str(registered.get("name", name)),
            version=str(registered.get("version", UNREGISTERED)),
            digest=package.digest,
            source_revision=str(package.provenance.get("source_revision", "")),
            data_digest=str(package.provenance.get("data_digest", "")),
            report=_report_url(registered.get("report") or "", file),
        )

    def to_dict(self) -> dict[str, str]:
        values = asdict(self)
        del values["report"]
        return values


def _report_url(value: object, path: Path) -> str:
    """The URL if it is safe to link to: http or https, with a host and without a password."""
    if value == "":
        return ""
    if isinstance(value, str) and re.fullmatch(r"[!-~]+", value):
        try:
            parts = urlsplit(value)
        except ValueError:  # a host such as "[1"
            parts = urlsplit("")
        if parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc:
            return value
    raise PackageError(f"the report in {path} is {value!r}, but must be an http or https URL")


def _read_version_file(path: Path) -> Mapping[str, object]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise PackageError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise PackageError(f"{path} must hold an object with name, version and uri, not {content!r}")
    return content
