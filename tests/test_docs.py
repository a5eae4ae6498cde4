"""What the documents say is what the code does. `python -m tests.test_docs` writes the generated ones anew."""

import json
import re
import tempfile
from pathlib import Path

import pytest

from image_classifier.cli import main
from image_classifier.package.identity import VERSION_FILE, Identity
from image_classifier.package.package import Model, Package
from image_classifier.platform.diagnosis.causes import CAUSES
from image_classifier.serving.web.app import create_app
from image_classifier.settings import CHAIN_PARAMS, SETTINGS, Settings
from tests.chain_diagram import chain_diagram
from tests.conftest import write_colour_package

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SERVED_AT = "image-classifier-predictor.team.example.org"
"""The host of catalog-info.yaml's links."""


def settings_page() -> str:
    lines = [
        "# Settings",
        "",
        "Each is an option of the commands that use it (`--min-accuracy`), an environment variable",
        "(`IMAGE_CLASSIFIER_MIN_ACCURACY`) and a workload param (`min_accuracy`); the first that is given wins.",
        "",
        "| setting | default | what it is |",
        "|---|---|---|",
    ]
    for setting in SETTINGS.values():
        also = "".join(f" Also read from `{name}`." for name in setting.environment)
        default = f"`{setting.default}`" if str(setting.default) else ""
        lines.append(f"| `{setting.name}` | {default} | {setting.help}{also} |")
    lines += [
        "",
        "## Of the supply chain alone",
        "",
        "A workload has these params beside the settings.",
        "",
        "| param | what it is |",
        "|---|---|",
        *(f"| `{name}` | {text} |" for name, text in CHAIN_PARAMS.items()),
    ]
    return "\n".join(lines) + "\n"


def openapi_document() -> str:
    """What a server of the embedded digits answers to /openapi.json, but for its model, which tells colours."""
    digits = {str(digit): (digit, digit, digit) for digit in range(10)}
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder)
        write_colour_package(package, size=8, colours_by_class=digits)
        (package / VERSION_FILE).write_text('{"name": "image-classifier", "version": "1"}', encoding="utf-8")
        model = Model.load(Package.read(package), threads=1)
        client = create_app(Settings(), model, Identity.read(model.package, "")).test_client()
        document = client.get("/openapi.json", headers={"Host": SERVED_AT, "X-Forwarded-Proto": "https"}).json
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def causes_page() -> str:
    lines = [
        "# Causes that `why` names",
        "",
        "`image-classifier why WORKLOAD` looks for these, from the top, in the first resource of the chain that is in",
        "trouble. What is *slanted* is filled in. A name does not change; several rows may have one.",
        "",
        "| cause | what it means | what to do |",
        "|---|---|---|",
    ]
    for cause in CAUSES:
        means, do = (
            re.sub(r"\{(\w+)\}", r"*\1*", text).replace("|", "\\|").replace("*said*", "*what it says itself*")
            for text in (cause.means, cause.do)
        )
        lines.append(f"| `{cause.name}` | {means} | {do} |")
    return "\n".join(lines) + "\n"


GENERATED = {
    "docs/causes.md": causes_page,
    "docs/settings.md": settings_page,
    "docs/openapi.json": openapi_document,
    "docs/chain.svg": chain_diagram,
}


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_document_is_what_the_code_makes(name):
    assert (ROOT / name).read_text(encoding="utf-8") == GENERATED[name](), "python -m tests.test_docs"


def test_every_command_in_the_readme_exists_with_its_options():
    shown = re.findall(
        r"^ *(?:\$ )?image-classifier +(?:--workload \S+ +)?([a-z]+)([^#\n]*)", README, flags=re.MULTILINE
    )
    assert {name for name, _ in shown} >= {"run", "train", "predict", "serve", "history"}
    for name, rest in shown:
        command = main.commands[name]
        known = {
            option for parameter in command.params for option in parameter.opts + parameter.secondary_opts
        }
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, name


def test_every_file_that_the_readme_names_is_there():
    for name in re.findall(r"\]\(((?!https?:)[^)#]+)\)", README) + re.findall(
        r"`((?:src|tests|docs|requirements)/[^`]*)`", README
    ):
        assert (ROOT / name).exists(), name


if __name__ == "__main__":
    for path, make in GENERATED.items():
        (ROOT / path).write_text(make(), encoding="utf-8")
