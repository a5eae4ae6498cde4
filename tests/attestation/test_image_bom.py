"""The bill of materials of an image, here of this machine and its Python."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from image_classifier.attestation.image_bom import image_bom

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="needs Debian's packages"),
]


@pytest.fixture(scope="module")
def text() -> str:
    return image_bom(Path(sys.executable), PYPROJECT)


def test_the_bill_is_valid_and_describes_the_application(text):
    bill = json.loads(text)
    application = bill["metadata"]["component"]
    # A few components of each kind, because validating all of them takes a minute.
    for name, first, last in (("components", 8, -8), ("dependencies", 8, -1)):
        bill[name] = bill[name][:first] + bill[name][last:]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    assert (application["type"], application["name"]) == ("application", "image-classifier")


def test_the_bill_lists_every_python_package_with_its_version_and_license(text):
    components = json.loads(text)["components"]
    listed = {item["name"].lower(): item for item in components if item.get("purl", "").startswith("pkg:pypi/")}
    for library in ("flask", "numpy", "onnxruntime", "pillow"):
        assert listed[library]["version"] == importlib.metadata.version(library)
    assert "BSD-3-Clause" in json.dumps(listed["flask"]["licenses"])


def test_the_bill_lists_every_debian_package_with_its_version(text):
    components = json.loads(text)["components"]
    listed = {item["name"]: item["version"] for item in components if item.get("purl", "").startswith("pkg:deb/")}
    command = ["dpkg-query", "--show", "--showformat=${Package}=${Version}\\n"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert listed == dict(line.split("=", 1) for line in lines)
