"""The list of what is in an image, made here of this machine and its Python."""

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

pytestmark = pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="needs Debian's packages")


@pytest.fixture(scope="module")
def text() -> str:
    return image_bom(Path(sys.executable), PYPROJECT)


def test_it_is_valid_and_about_the_application(text):
    bill = json.loads(text)
    about = bill["metadata"]["component"]
    # Of a thousand components, which would take the validator a minute, some of each kind.
    for name, first, last in (("components", 8, -8), ("dependencies", 8, -1)):
        bill[name] = bill[name][:first] + bill[name][last:]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    assert (about["type"], about["name"]) == ("application", "image-classifier")


def test_it_lists_every_python_package_with_its_version_and_the_licence_that_is_known(text):
    components = json.loads(text)["components"]
    listed = {
        item["name"].lower(): item for item in components if item.get("purl", "").startswith("pkg:pypi/")
    }
    for library in ("flask", "numpy", "onnxruntime", "pillow"):
        assert listed[library]["version"] == importlib.metadata.version(library)
    assert "BSD-3-Clause" in json.dumps(listed["flask"]["licenses"])


def test_it_lists_every_debian_package_with_its_version(text):
    components = json.loads(text)["components"]
    listed = {
        item["name"]: item["version"] for item in components if item.get("purl", "").startswith("pkg:deb/")
    }
    asked = ["dpkg-query", "--show", "--showformat=${Package}=${Version}\\n"]
    lines = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.splitlines()
    assert listed == dict(line.split("=", 1) for line in lines)
