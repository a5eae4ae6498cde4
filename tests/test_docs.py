"""What the documents say is what the code does. `python -m tests.test_docs` writes docs/settings.md anew."""

import re
from pathlib import Path

from image_classifier.cli import main
from image_classifier.settings import CHAIN_PARAMS, SETTINGS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


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
        default = f"`{setting.default}`" if setting.default != "" else ""
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


def test_the_settings_page_is_the_settings():
    assert (ROOT / "docs/settings.md").read_text(encoding="utf-8") == settings_page()


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
    (ROOT / "docs/settings.md").write_text(settings_page(), encoding="utf-8")
