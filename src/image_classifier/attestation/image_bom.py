"""Bill of materials of a container image: its Python and Debian packages, in CycloneDX format.

The Dockerfile runs this file as a script in the image, `python image_bom.py`, from a separate virtual environment with
the project's pyproject.toml in the same folder. The project is not installed there, so nothing of it may be imported.
"""

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

BILL_PATH = Path("/usr/share/sbom/image.cdx.json")
"""Path of the bill in an image."""
_DPKG_FORMAT = "${Package}\\t${Version}\\t${Architecture}\\t${source:Package}\\n"


def image_bom(python: Path, pyproject: Path) -> str:
    """The bill of the running image, CycloneDX 1.6 as JSON.

    `python` is the interpreter whose packages are listed, `pyproject` describes the application.
    """
    # Validation would take a minute in every build; a test validates instead.
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--spec-version", "1.6", "--no-validate"]
    options = ["--pyproject", str(pyproject), "--mc-type", "application", "--output-reproducible"]
    done = subprocess.run([*command, *options, str(python)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    bill = json.loads(done.stdout)
    debian = json.loads(JsonV1Dot6(Bom(components=_debian_packages())).output_as_string())
    bill["components"] += debian["components"]
    return json.dumps(bill, indent=1) + "\n"


def _debian_packages() -> Iterator[Component]:
    release = platform.freedesktop_os_release()
    distribution = f"{release['ID']}-{release.get('VERSION_ID', '')}"
    command = ["dpkg-query", "--show", f"--showformat={_DPKG_FORMAT}"]
    for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
        name, version, architecture, source = line.split("\t")
        qualifiers = {"arch": architecture, "distro": distribution, "upstream": source}
        url = PackageURL("deb", release["ID"], name, version, qualifiers)
        yield Component(name=name, version=version, type=ComponentType.LIBRARY, purl=url, bom_ref=url.to_string())


if __name__ == "__main__":
    BILL_PATH.parent.mkdir(parents=True, exist_ok=True)
    python = Path(sys.base_prefix) / "bin" / "python3"
    BILL_PATH.write_text(image_bom(python, Path(__file__).with_name("pyproject.toml")), encoding="utf-8")
