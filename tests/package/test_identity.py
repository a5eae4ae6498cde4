"""The identity of a packaged model, from version.json and the package."""

import json

import pytest

from image_classifier.errors import PackageError
from image_classifier.package.identity import ModelIdentity
from image_classifier.package.package import Package
from tests.conftest import write_color_package


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("identity") / "package"
    write_color_package(folder)
    return Package.read(folder)


def read_identity(package, content):
    (package.folder / "version.json").write_bytes(content)
    return ModelIdentity.read(package, "colors")


def test_name_and_version_are_those_of_the_registry(package):
    about = {"name": "Grün\n", "version": 7, "uri": "models:/x/7", "report": "https://a.example.org/7"}
    identity = read_identity(package, json.dumps(about).encode())
    assert (identity.name, identity.version, identity.report) == ("Grün\n", "7", "https://a.example.org/7")
    assert "report" not in identity.to_dict()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7"])
def test_a_damaged_version_file_is_an_error(package, content):
    with pytest.raises(PackageError, match=r"version\.json"):
        read_identity(package, content)


@pytest.mark.parametrize(
    "report",
    [
        "javascript:alert(1)",
        "JavaScript:alert(1)//http://a",
        "data:text/html,<b>",
        "file:///etc/passwd",
        "mlflow-artifacts:/1/report.html",
        "//evil.example.org/",
        "report.html",
        "https://",
        "https:///path",
        "http://[1",
        "https://anna:secret@example.org/",
        "https://a.example.org/ onclick=alert(1)",
        "https://a.example.org/\nX: y",
        " https://a.example.org/",
        "https://a.example.org/\u202e",
        7,
        ["https://a.example.org/"],
        {"url": "https://a.example.org/"},
        True,
    ],
)
def test_the_report_must_be_a_web_page(package, report):
    with pytest.raises(PackageError, match="http or https URL"):
        read_identity(package, json.dumps({"version": 7, "report": report}).encode())
