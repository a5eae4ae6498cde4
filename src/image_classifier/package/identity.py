"""Who answers: the model's name and version, and what it was made from."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from image_classifier.errors import PackageError
from image_classifier.package.package import Package
from image_classifier.serving import not_found

UNREGISTERED = "unregistered"
VERSION_FILE = "version.json"


@dataclass(frozen=True)
class Identity:
    """What every answer says of the model; "" where it is not known."""

    name: str
    version: str
    digest: str
    source_revision: str
    data_digest: str
    report: str = ""
    """Address of the page that tells how the model was judged; not in every answer."""

    @classmethod
    def read(cls, package: Package, name: str) -> "Identity":
        """From the package and the version.json that the registry lays beside it.

        Without one the model is called `name` and its version is "unregistered". Raises PackageError for a
        version.json that cannot be read, or whose report is no address of a web page.
        """
        file = package.folder / VERSION_FILE
        about = _registered(file)
        return cls(
            name=str(about.get("name", name)),
            version=str(about.get("version", UNREGISTERED)),
            digest=package.digest,
            source_revision=str(package.provenance.get("source_revision", "")),
            data_digest=str(package.provenance.get("data_digest", "")),
            report=_web_address(about.get("report") or "", file),
        )

    def check_name(self, name: str, alias: str) -> None:
        """Raises RequestError (404) for a name that is neither the model's nor its `alias`."""
        if name not in (self.name, alias):
            raise not_found(f"there is no model {name!r}, only {self.name}")

    def to_dict(self) -> dict[str, str]:
        told = asdict(self)
        del told["report"]
        return told

    def headers(self) -> dict[str, str]:
        """The same as HTTP headers, in printable ASCII."""
        named = {
            "X-Model-Name": self.name,
            "X-Model-Version": self.version,
            "X-Model-Digest": self.digest,
            "X-Source-Revision": self.source_revision,
            "X-Data-Digest": self.data_digest,
        }
        return {header: printable(value) for header, value in named.items() if value}


def printable(text: str) -> str:
    """Text that can be the value of a header."""
    return re.sub(r"[^\x20-\x7e]", "?", text)


def _web_address(given: object, path: Path) -> str:
    """The address, where it is one that a link may have: an http or https URL of a host, with nobody's password."""
    if given == "":
        return ""
    if isinstance(given, str) and re.fullmatch(r"[!-~]+", given):
        try:
            parts = urlsplit(given)
        except ValueError:  # a host such as "[1"
            parts = urlsplit("")
        if parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc:
            return given
    raise PackageError(f"the report that {path} names is {given!r}, but must be an http or https address")


def _registered(path: Path) -> Mapping[str, object]:
    try:
        about = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise PackageError(f"{path} cannot be read: {error}") from error
    if not isinstance(about, dict):
        raise PackageError(f"{path} must hold an object of name, version and uri, not {about!r}")
    return about
