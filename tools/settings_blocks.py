"""The parts of the manifests that follow from the settings.

They stand between marker comments; everything else is written by hand. In a text of ytt the comments begin with `#!`.

    # NAME: begin (make generate)
    # NAME: end

- A Task whose steps run our commands has a param for each setting that is an option of these commands (block
  `settings as params`), and an environment variable that passes it to the steps (block `settings as variables`). Left
  out are settings that hand-written variables set, and secrets, which must not be the value of a param.
- A template that stamps a run of such a Task, or a server, lists the settings of the Task or of `serve` that a workload
  may set (block `settings`). Left out are those that the template passes by hand.
- The template that checks the names of the workload's params lists all of them (block `known`).

A setting that does not follow from these rules is named after the marker: `begin (make generate), without SETTING` or
`begin (make generate), with SETTING`.
"""

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from image_classifier.cli.command import main
from image_classifier.cli.setting_options import SettingOption
from image_classifier.settings import CHAIN_PARAMS, SETTINGS, Group

PARAMS, VARIABLES, LISTED, KNOWN = "settings as params", "settings as variables", "settings", "known"
_OUR_COMMAND = ["$(params.command[*])"]
_SECRETS = {"signing_key", "token"}
_PATTERN = re.compile(
    r"(?P<indent> *)(?P<comment>#!?) (?P<name>[a-z ]+): begin \(make generate\)(?P<options>[^\n]*)\n"
    r"(?P<body>.*?)(?P<end>(?P=indent)(?P=comment) (?P=name): end\n)",
    flags=re.DOTALL,
)
_OPTIONS = re.compile(r"(?:, without (?P<without>\w+(?: \w+)*))?(?:, with (?P<extra>\w+(?: \w+)*))?")
_WIDTH = 110


class GenerateError(Exception):
    """A hand-written part from which a generated one cannot be derived. Its text names the file."""


@dataclass(frozen=True)
class Block:
    """A marked part of a file."""

    start: int
    end: int
    indent: str
    without: frozenset[str]
    extra: frozenset[str]


class Manifest:
    """The text of a manifest and its blocks."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text
        self.blocks = {match["name"]: self._block(match) for match in _PATTERN.finditer(text)}

    def _block(self, match: "re.Match[str]") -> Block:
        options = _OPTIONS.fullmatch(match["options"])
        if options is None:
            raise GenerateError(f"{self.name}: cannot read {match['options']!r} after the marker {match['name']}")
        without, extra = (frozenset((options[key] or "").split()) for key in ("without", "extra"))
        if unknown := sorted((without | extra) - SETTINGS.keys()):
            raise GenerateError(f"{self.name}: the marker {match['name']} names {unknown[0]}, which is not a setting")
        return Block(match.start("body"), match.end("body"), match["indent"], without, extra)

    def block(self, name: str) -> Block:
        """The block of that name; raises GenerateError if its markers are missing."""
        if name not in self.blocks:
            raise GenerateError(f"{self.name} lacks the markers `{name}: begin (make generate)` and `{name}: end`")
        return self.blocks[name]

    @property
    def content(self) -> Any:
        """The parsed hand-written parts."""
        return yaml.safe_load(self._replaced(dict.fromkeys(self.blocks, ())))

    def with_blocks(self, lines: Mapping[str, Iterable[str]]) -> str:
        """The text with these lines, without their indentation, in the blocks of these names."""
        for name in lines:
            self.block(name)
        return self._replaced(lines)

    def _replaced(self, lines: Mapping[str, Iterable[str]]) -> str:
        text = self.text
        for name, block in sorted(self.blocks.items(), key=lambda item: -item[1].start):
            if name in lines:
                body = "".join(f"{block.indent}{line}\n" for line in lines[name])
                text = text[: block.start] + body + text[block.end :]
        return text


def generated_task(name: str, text: str) -> str:
    """The text of a Task with the params and variables of its settings; a Task without our commands is unchanged."""
    manifest = Manifest(name, text)
    if not _runs_our_commands(manifest.content):
        return text
    settings = _settings_of_task(manifest)
    params = (line for setting in settings for line in _param(setting))
    variables = (line for setting in settings for line in _variable(setting))
    return manifest.with_blocks({PARAMS: params, VARIABLES: variables})


def generated_template(name: str, text: str, tasks: Mapping[str, str]) -> str:
    """The text of a template with its list of settings or params; other templates are unchanged.

    `tasks` has the texts of the Tasks by object name.
    """
    manifest = Manifest(name, text)
    if KNOWN in manifest.blocks:
        params = [*(setting.name for setting in SETTINGS.values() if setting.param), *CHAIN_PARAMS]
        return manifest.with_blocks({KNOWN: _ytt_list(KNOWN, params)})
    ytt = manifest.content["spec"]["ytt"]
    names = set(re.findall(r"^\s*- name: (\w+)$", ytt, flags=re.MULTILINE))
    task = re.search(r"taskRef:\n\s+name: (\S+)", ytt)
    if "kind: InferenceService" in ytt:
        # The storage initializer downloads the model; a server does not use the registry.
        used = [name for name in _options(["serve"]) if SETTINGS[name].group is not Group.REGISTRY]
        by_hand = _set_by(names)
    elif task and task[1] in tasks:
        used = _settings_of_task(Manifest(task[1], tasks[task[1]]))
        by_hand = names
    else:
        return text
    listed = [name for name in used if SETTINGS[name].param and name not in by_hand]
    return manifest.with_blocks({LISTED: _ytt_list(LISTED, listed)})


def tasks_with_settings(folder: Path) -> dict[str, str]:
    """The texts of the Tasks in a folder whose steps run our commands, by object name."""
    texts = (path.read_text(encoding="utf-8") for path in sorted(folder.glob("*-task.yaml")))
    tasks = ((Manifest("", text).content, text) for text in texts)
    return {task["metadata"]["name"]: text for task, text in tasks if _runs_our_commands(task)}


def _runs_our_commands(task: Any) -> bool:
    return any(step.get("command") == _OUR_COMMAND for step in task["spec"]["steps"])


def _options(commands: Iterable[str]) -> Iterator[str]:
    """The settings that are options of any of the commands, in the order of their declaration."""
    options = {
        parameter.name
        for command in commands
        for parameter in main.commands[command].params
        if isinstance(parameter, SettingOption)
    }
    return (setting for setting in SETTINGS if setting in options)


def _settings_of_task(manifest: Manifest) -> list[str]:
    spec = manifest.content["spec"]
    block = manifest.block(PARAMS)
    options = set(_options(step["args"][0] for step in spec["steps"]))
    if unused := sorted(block.without - options):
        raise GenerateError(
            f"{manifest.name}: the marker {PARAMS} leaves out {unused[0]}, which is not an option of its commands"
        )
    by_hand = _set_by(variable["name"] for variable in spec["stepTemplate"]["env"])
    settings = (options | block.extra) - block.without - by_hand - _SECRETS
    return [setting for setting in SETTINGS if setting in settings]


def _set_by(variables: Iterable[str]) -> set[str]:
    """The settings that environment variables of these names set."""
    names = {name: setting.name for setting in SETTINGS.values() for name in setting.variables}
    return {names[variable] for variable in variables if variable in names}


def _param(name: str) -> Iterator[str]:
    setting = SETTINGS[name]
    yield f"- name: {name}"
    yield "  type: string"
    yield f"  description: {_quoted(setting.help)}"
    yield f"  default: {_quoted(setting.task_default)}"


def _variable(name: str) -> Iterator[str]:
    yield f"- name: {SETTINGS[name].variables[0]}"
    yield f"  value: $(params.{name})"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _ytt_list(variable: str, names: Iterable[str]) -> Iterator[str]:
    yield f"#@ {variable} = ["
    words = " ".join(f'"{name}",' for name in names)
    yield from textwrap.wrap(words, _WIDTH, initial_indent="#@   ", subsequent_indent="#@   ")
    yield "#@ ]"
