"""Which settings a Task and a template get, and what the generator refuses."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from image_classifier.cli.command import main
from image_classifier.cli.setting_options import SettingOption
from image_classifier.settings import SETTINGS, Group, Setting
from tools.settings_blocks import GenerateError, generated_task, generated_template, tasks_with_settings

ROOT = Path(__file__).parents[2]
TASK = """\
kind: Task
metadata:
  name: one
spec:
  params:
    - name: command
    # settings as params: begin (make generate)
    # settings as params: end
  stepTemplate:
    env:
      - name: IMAGE_CLASSIFIER_HOME
        value: /work/home
      # settings as variables: begin (make generate)
      # settings as variables: end
  steps:
    - name: fetch
      command:
        - $(params.command[*])
      args:
        - fetch
"""
TEMPLATE = """\
spec:
  ytt: |
    #! settings: begin (make generate)
    #! settings: end
    spec:
      taskRef:
        name: one
      params:
        - name: tracking_uri
          value: #@ address
"""


def text_of(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def params_of(text: str) -> dict[str, Any]:
    return {param["name"]: param for param in yaml.safe_load(text)["spec"]["params"]}


def variables_of(text: str) -> dict[str, str]:
    spec = yaml.safe_load(text)["spec"]
    return {variable["name"]: variable["value"] for variable in spec["stepTemplate"]["env"]}


def listed_in(text: str, name: str = "settings") -> list[str]:
    match = re.search(rf"#@ {name} = \[(.*?)\]", text, flags=re.DOTALL)
    assert match is not None
    return re.findall(r'"(\w+)"', match[1])


@pytest.fixture
def declare(monkeypatch):
    """Declare a setting, as an option of a command."""

    def declare(name: str, group: Group, command: str, *, param: bool) -> None:
        setting = Setting(
            name,
            int,
            7,
            "Number of moons.",
            group,
            low=0,
            high=9,
            choices=(),
            environment=(),
            trains=False,
            param=param,
            task_default="",
        )
        monkeypatch.setitem(SETTINGS, name, setting)
        parameters = [*main.commands[command].params, SettingOption(setting)]
        monkeypatch.setattr(main.commands[command], "params", parameters)

    return declare


def test_a_task_gets_the_options_of_its_commands_in_the_order_of_declaration():
    text = generated_task("one-task.yaml", TASK)
    assert list(params_of(text)) == ["command", "tracking_uri", "registry_timeout", "public_key"]
    assert variables_of(text) == {
        "IMAGE_CLASSIFIER_HOME": "/work/home",
        "IMAGE_CLASSIFIER_TRACKING_URI": "$(params.tracking_uri)",
        "IMAGE_CLASSIFIER_REGISTRY_TIMEOUT": "$(params.registry_timeout)",
        "IMAGE_CLASSIFIER_PUBLIC_KEY": "$(params.public_key)",
    }
    assert generated_task("one-task.yaml", text) == text


def test_a_param_has_the_help_of_its_setting_and_its_default_for_tasks():
    params = params_of(generated_task("one-task.yaml", TASK.replace("- fetch", "- accept")))
    assert params["registry_timeout"] == {
        "name": "registry_timeout",
        "type": "string",
        "description": SETTINGS["registry_timeout"].help,
        "default": "",
    }
    assert params["registry_wait"]["default"] == "3m"


def test_hand_written_variables_and_secrets_are_not_params():
    params = params_of(generated_task("one-task.yaml", TASK.replace("- fetch", "- register")))
    assert "steps_image" in params
    assert not {"home", "signing_key"} & params.keys()
    by_hand = TASK.replace("- fetch", "- register").replace("CLASSIFIER_HOME", "CLASSIFIER_STEPS_IMAGE")
    params = params_of(generated_task("one-task.yaml", by_hand))
    assert "home" in params
    assert "steps_image" not in params


def test_arguments_that_are_not_settings_are_not_params():
    # `score` has an argument SOURCE, and there is a setting `source`.
    assert "source" not in params_of(generated_task("one-task.yaml", TASK.replace("- fetch", "- score")))


def test_a_marker_leaves_out_and_adds_settings():
    text = TASK.replace(
        "params: begin (make generate)", "params: begin (make generate), without public_key registry_timeout, with seed"
    )
    assert list(params_of(generated_task("one-task.yaml", text))) == ["command", "tracking_uri", "seed"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (", without moons", "one-task.yaml: the marker settings as params names moons, which is not a setting"),
        (
            ", without seed",
            "one-task.yaml: the marker settings as params leaves out seed, which is not an option of its commands",
        ),
        (" except seed", "one-task.yaml: cannot read ' except seed' after the marker settings as params"),
    ],
)
def test_a_wrong_marker_is_an_error(options, message):
    text = TASK.replace("params: begin (make generate)", f"params: begin (make generate){options}")
    with pytest.raises(GenerateError, match=re.escape(message)):
        generated_task("one-task.yaml", text)


@pytest.mark.parametrize("name", ["settings as params", "settings as variables"])
@pytest.mark.parametrize("part", ["begin (make generate)", "end"])
def test_a_task_that_lacks_a_marker_is_an_error(name, part):
    text = re.sub(rf"\n *# {name}: {re.escape(part)}", "", TASK)
    message = f"one-task.yaml lacks the markers `{name}: begin (make generate)` and `{name}: end`"
    with pytest.raises(GenerateError, match=re.escape(message)):
        generated_task("one-task.yaml", text)


def test_a_template_lists_the_params_of_its_task_that_it_does_not_pass_by_hand():
    text = generated_template("one-template.yaml", TEMPLATE, {"one": TASK})
    assert listed_in(text) == ["registry_timeout", "public_key"]


def test_a_template_that_lacks_a_marker_is_an_error():
    text = TEMPLATE.replace("#! settings: end", "")
    with pytest.raises(GenerateError, match=r"one-template\.yaml lacks the markers `settings: begin"):
        generated_template("one-template.yaml", text, {"one": TASK})


def test_a_template_of_another_object_is_unchanged():
    assert generated_template("one-template.yaml", TEMPLATE, {}) == TEMPLATE


def test_a_new_param_of_the_training_appears_in_its_task_in_its_template_and_among_the_known_params(declare):
    declare("moons", Group.TRAINING, "train", param=True)
    task = generated_task("train-task.yaml", text_of("tekton/train-task.yaml"))
    assert params_of(task)["moons"]["description"] == "Number of moons."
    assert variables_of(task)["IMAGE_CLASSIFIER_MOONS"] == "$(params.moons)"
    assert list(params_of(task)).index("moons") > list(params_of(task)).index("seed")
    tasks = tasks_with_settings(ROOT / "tekton")
    for name, block, expected in (
        ("train", "settings", True),
        ("test", "known", True),
        ("accept", "settings", False),
        ("server", "settings", False),
    ):
        path = f"config/chain/{name}-template.yaml"
        text = generated_template(path, text_of(path), tasks)
        assert ("moons" in listed_in(text, block)) is expected, name


def test_a_new_param_of_the_server_appears_in_its_template_and_among_the_known_params(declare):
    declare("moons", Group.SERVING, "serve", param=True)
    for name, block in (("server", "settings"), ("test", "known")):
        path = f"config/chain/{name}-template.yaml"
        assert "moons" in listed_in(generated_template(path, text_of(path), {}), block)


def test_a_new_setting_that_is_not_a_workload_param_appears_in_the_task_only(declare):
    declare("moons", Group.TRAINING, "train", param=False)
    assert "moons" in params_of(generated_task("train-task.yaml", text_of("tekton/train-task.yaml")))
    tasks = tasks_with_settings(ROOT / "tekton")
    for name, block in (("train", "settings"), ("test", "known")):
        path = f"config/chain/{name}-template.yaml"
        assert "moons" not in listed_in(generated_template(path, text_of(path), tasks), block)
