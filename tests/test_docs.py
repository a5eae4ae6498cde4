"""The derived files are up to date, and the commands and files that the documentation names exist."""

import re
from pathlib import Path

from image_classifier.cli.command import main
from tools.generate import stale_files

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_derived_files_are_up_to_date():
    stale = [path.relative_to(ROOT).as_posix() for path, _ in stale_files(ROOT)]
    assert stale == [], "run make generate"


def test_every_command_in_the_documentation_exists_with_its_options():
    shown = [
        command
        for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
        for command in re.findall(
            r"^ *(?:\$ )?image-classifier +(?:--workload \S+ +)?([a-z]+)([^#\n]*)",
            page.read_text(encoding="utf-8"),
            flags=re.MULTILINE,
        )
    ]
    assert {name for name, _ in shown} >= {"run", "train", "predict", "history"}
    for name, rest in shown:
        parameters = main.commands[name].params
        options = {option for parameter in parameters for option in parameter.opts + parameter.secondary_opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options, name


def test_every_file_that_the_readme_names_exists():
    links = re.findall(r"\]\(((?!https?:)[^)#]+)\)", README)
    paths = re.findall(r"`((?:src|tests|docs|requirements)/[^`]*)`", README)
    assert [name for name in [*links, *paths] if not (ROOT / name).exists()] == []
