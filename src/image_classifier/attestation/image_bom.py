"""The bill of materials of a container image: the Python packages and the Debian packages in it, as CycloneDX.

Run by the Dockerfile in the image itself, by an interpreter of a virtual environment, with the project's pyproject.toml
beside this file: `python image_bom.py`. It imports nothing of the project, which is not installed there.
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

PLACE = Path("/usr/share/sbom/image.cdx.json")
"""Where an image has its own bill."""
_DEBIAN_FORMAT = "${Package}\\t${Version}\\t${Architecture}\\t${source:Package}\\n"


def image_bom(python: Path, pyproject: Path) -> str:
    """The bill, CycloneDX 1.6 as JSON, of an image whose application `pyproject` describes and `python` runs."""
    # Its validation takes a minute, for what a test validates.
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--spec-version", "1.6", "--no-validate"]
    described = ["--pyproject", str(pyproject), "--mc-type", "application", "--output-reproducible"]
    done = subprocess.run([*command, *described, str(python)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    bill = json.loads(done.stdout)
    debian = json.loads(JsonV1Dot6(Bom(components=_debian_packages())).output_as_string())
    bill["components"] += debian["components"]
    return json.dumps(bill, indent=1) + "\n"


def _debian_packages() -> Iterator[Component]:
    release = platform.freedesktop_os_release()
    distribution = f"{release['ID']}-{release.get('VERSION_ID', '')}"
    listed = subprocess.run(
        ["dpkg-query", "--show", f"--showformat={_DEBIAN_FORMAT}"], check=True, capture_output=True, text=True
    )
    for line in listed.stdout.splitlines():
        name, version, architecture, source = line.split("\t")
        qualifiers = {"arch": architecture, "distro": distribution, "upstream": source}
        url = PackageURL("deb", release["ID"], name, version, qualifiers)
        yield Component(
            name=name, version=version, type=ComponentType.LIBRARY, purl=url, bom_ref=url.to_string()
        )


if __name__ == "__main__":
    PLACE.parent.mkdir(parents=True, exist_ok=True)
    python = Path(sys.base_prefix) / "bin" / "python3"
    PLACE.write_text(image_bom(python, Path(__file__).with_name("pyproject.toml")), encoding="utf-8")
