"""What can be known of the manifests without a cluster."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from image_classifier.cli import main
from image_classifier.platform import cluster
from image_classifier.settings import CHAIN_PARAMS, SETTINGS

ROOT = Path(__file__).parent.parent.parent
FILES = sorted([*ROOT.glob("config/**/*.yaml"), *ROOT.glob("tekton/*.yaml"), ROOT / "workload.yaml"])
NO_OBJECTS = {"kustomization.yaml", "image-fields.yaml"}
PATCHES = {"mlflow-postgresql-s3", "signing"}
OBJECTS = [
    (path, yaml.safe_load(path.read_text(encoding="utf-8")))
    for path in FILES
    if path.name not in NO_OBJECTS and path.parent.name not in PATCHES
]
BY_KIND: dict[str, list[Any]] = {}
for _, _object in OBJECTS:
    BY_KIND.setdefault(_object["kind"], []).append(_object)
TASKS = {task["metadata"]["name"]: task for task in BY_KIND["Task"]}
TEMPLATES = {
    item["metadata"]["name"]: item
    for kind in ("ClusterSourceTemplate", "ClusterImageTemplate", "ClusterConfigTemplate")
    for item in BY_KIND[kind]
}
CHAIN = BY_KIND["ClusterSupplyChain"][0]
WORKLOAD = BY_KIND["Workload"][0]
PRIVILEGED = "image-classifier-build"
WITHOUT_SETTINGS = {
    PRIVILEGED: "builds with buildah, by a script",
    "image-classifier-pull": "only starts the image",
}
DEFAULTS = {"registry_wait": "3m"}
"""Those of the steps that are not the settings' own: a cluster restarts its servers."""


def skip_without_settings(task: Any) -> None:
    if reason := WITHOUT_SETTINGS.get(task["metadata"]["name"]):
        pytest.skip(reason)


def ids(values: Any) -> list[str]:
    return [str(value[0].relative_to(ROOT)) for value in values]


def walk(value: Any) -> Iterator[Any]:
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)


def quoted_list(template: Any, name: str) -> list[str]:
    """The words of a list that a template's ytt text assigns."""
    found = re.search(rf"#@ {name} = \[(.*?)\]", template["spec"]["ytt"], flags=re.DOTALL)
    assert found is not None, f"{template['metadata']['name']} has no list {name}"
    return re.findall(r'"(\w+)"', found[1])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_holds_one_document_and_ends_with_a_newline(path):
    text = path.read_text(encoding="utf-8")
    assert len(list(yaml.safe_load_all(text))) == 1
    assert text.endswith("\n")
    assert "\t" not in text


@pytest.mark.parametrize(("path", "content"), OBJECTS, ids=ids(OBJECTS))
def test_an_object_says_what_it_is_part_of(path, content):
    labels = content["metadata"]["labels"]
    assert labels["app.kubernetes.io/part-of"] == "image-classifier"
    if content["kind"] != "Workload":
        assert {"app.kubernetes.io/name", "app.kubernetes.io/component"} <= set(labels)


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in FILES} - {ROOT}), ids=lambda path: path.name
)
def test_a_kustomization_names_every_file_beside_it(folder):
    named = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    files = [*named.get("resources", []), *(patch["path"] for patch in named.get("patches", []))]
    beside = {path.name for path in folder.glob("*.yaml")} - NO_OBJECTS
    assert {name for name in files if name.endswith(".yaml")} == beside
    assert all((folder / name).exists() for name in files)


def test_no_script_has_a_param_spliced_in():
    for path, content in OBJECTS:
        for value in walk(content):
            if isinstance(value, dict) and "script" in value:
                assert "$(params" not in value["script"], path


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_a_task_uses_every_param_that_it_declares_and_no_other(task):
    declared = {param["name"] for param in task["spec"]["params"]}
    texts = " ".join(value for value in walk(task["spec"]) if isinstance(value, str))
    assert set(re.findall(r"\$\(params\.(\w+)", texts)) == declared
    for param in task["spec"]["params"]:
        assert param["type"] in ("string", "array")
        assert param["description"].endswith(".")


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_a_setting_is_the_same_word_in_param_variable_and_option(task):
    skip_without_settings(task)
    variables = {item["name"]: item["value"] for item in task["spec"]["stepTemplate"]["env"]}
    commands = [main.commands[step["args"][0]] for step in task["spec"]["steps"]]
    options = {parameter.name for command in commands for parameter in command.params}
    for param in task["spec"]["params"]:
        name = param["name"]
        if name not in ("trainer_image", "command"):
            assert param["description"] == SETTINGS[name].help
            assert param["default"] == DEFAULTS.get(name, "")
            assert variables[f"IMAGE_CLASSIFIER_{name.upper()}"] == f"$(params.{name})"
            assert name in options | {"source_revision"}
    for name in variables:
        if name.startswith("IMAGE_CLASSIFIER_"):
            assert name.removeprefix("IMAGE_CLASSIFIER_").lower() in SETTINGS


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_a_step_is_one_command_of_ours(task):
    skip_without_settings(task)
    for step in task["spec"]["steps"]:
        assert step["args"] == [step["name"]]
        assert step["command"] == ["$(params.command[*])"]
        assert "script" not in step


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_a_task_says_why_it_failed(task):
    skip_without_settings(task)
    assert {"verdict", "reason"} <= {result["name"] for result in task["spec"].get("results", [])}


def is_restricted(container: dict[str, Any], pod: dict[str, Any] | None = None) -> bool:
    context = {**(pod or {}), **container}
    return (
        context.get("allowPrivilegeEscalation") is False
        and context.get("runAsNonRoot") is True
        and context.get("capabilities") == {"drop": ["ALL"]}
        and context.get("seccompProfile") == {"type": "RuntimeDefault"}
    )


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_a_task_runs_in_a_restricted_namespace(task):
    if task["metadata"]["name"] == PRIVILEGED:
        pytest.skip("buildah is privileged; its namespace must allow that")
    assert is_restricted(task["spec"]["stepTemplate"]["securityContext"])
    assert task["spec"]["stepTemplate"]["securityContext"]["readOnlyRootFilesystem"] is True


def test_mlflow_and_the_model_download_run_in_a_restricted_namespace():
    pod = BY_KIND["Deployment"][0]["spec"]["template"]["spec"]
    assert all(is_restricted(item["securityContext"], pod["securityContext"]) for item in pod["containers"])
    assert is_restricted(BY_KIND["ClusterStorageContainer"][0]["spec"]["container"]["securityContext"])


def test_what_retrains_runs_in_a_restricted_namespace_and_is_two_commands_of_ours():
    pod = BY_KIND["CronJob"][0]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    containers = [*pod["initContainers"], *pod["containers"]]
    assert [item["args"][0] for item in containers] == ["drift", "retrain"]
    for item in containers:
        assert is_restricted(item["securityContext"], pod["securityContext"])
        assert item["securityContext"]["readOnlyRootFilesystem"] is True
        options = {word for option in main.commands[item["args"][0]].params for word in option.opts}
        assert {word for word in item["args"] if word.startswith("--")} <= options
        assert {each["name"].removeprefix("IMAGE_CLASSIFIER_").lower() for each in item["env"]} <= set(
            SETTINGS
        )


def test_what_retrains_may_change_one_workload_and_otherwise_only_look():
    [role] = [each for each in BY_KIND["Role"] if each["metadata"]["name"] == "image-classifier-retraining"]
    for rule in role["rules"]:
        assert set(rule["verbs"]) <= {"get", "list"} or len(rule["resourceNames"]) == 1


def test_the_chain_takes_its_inputs_from_earlier_resources_of_the_right_kind():
    kinds = {
        "sources": "ClusterSourceTemplate",
        "images": "ClusterImageTemplate",
        "configs": "ClusterConfigTemplate",
    }
    seen: dict[str, str] = {}
    for resource in CHAIN["spec"]["resources"]:
        for plural, kind in kinds.items():
            for item in resource.get(plural, []):
                assert seen[item["resource"]] == kind, resource["name"]
        seen[resource["name"]] = resource["templateRef"]["kind"]


def templates_of(resource: Any) -> list[str]:
    reference = resource["templateRef"]
    options = reference.get("options", [reference])
    return [option["name"] for option in options if "name" in option]


def test_every_template_is_used_and_every_used_one_is_there():
    used = [name for resource in CHAIN["spec"]["resources"] for name in templates_of(resource)]
    assert set(used) == set(TEMPLATES)
    for resource in CHAIN["spec"]["resources"]:
        for name in templates_of(resource):
            assert TEMPLATES[name]["kind"] == resource["templateRef"]["kind"]


@pytest.mark.parametrize("resource", CHAIN["spec"]["resources"], ids=lambda resource: resource["name"])
def test_a_template_reads_only_inputs_that_the_chain_gives_it(resource):
    for name in templates_of(resource):
        text = TEMPLATES[name]["spec"]["ytt"]
        for plural in ("sources", "images", "configs"):
            given = {item["name"] for item in resource.get(plural, [])}
            read = set(re.findall(rf"data\.values\.{plural}\.(\w+)", text))
            if name == "image-classifier-server":  # one template for two resources, each with its own inputs
                read &= given
            assert read <= given, name
            if re.search(rf"data\.values\.{plural[:-1]}\b", text):
                assert len(given) == 1, name


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))
def test_a_stamped_object_has_a_name_that_fits_its_lifecycle_and_no_namespace(template):
    text = template["spec"]["ytt"]
    stamps_runs = template["spec"].get("lifecycle") == "tekton"
    assert ("generateName:" in text) == stamps_runs
    assert ("retentionPolicy" in template["spec"]) == stamps_runs
    assert not re.search(r"^  namespace:", text, flags=re.MULTILINE)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))
def test_the_chain_may_make_what_a_template_stamps(template):
    text = template["spec"]["ytt"]
    group, _, _ = re.findall(r"^apiVersion: (\S+)", text, flags=re.MULTILINE)[0].rpartition("/")
    plural = re.findall(r"^kind: (\S+)", text, flags=re.MULTILINE)[0].lower() + "s"
    plural = plural.replace("repositorys", "repositories")
    role = next(
        item for item in BY_KIND["ClusterRole"] if item["metadata"]["name"] == "image-classifier-chain"
    )
    verbs = {
        verb
        for rule in role["rules"]
        if group in rule["apiGroups"] and plural in rule["resources"]
        for verb in rule["verbs"]
    }
    needed = (
        {"list", "create", "delete"}
        if template["spec"].get("lifecycle") == "tekton"
        else {"get", "create", "patch"}
    )
    assert needed <= verbs


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))
def test_a_stamped_run_passes_params_and_reads_results_that_its_task_has(template):
    text = template["spec"]["ytt"]
    found = re.search(r"taskRef:\n\s+name: (\S+)", text)
    if found is None:
        pytest.skip("stamps no run")
    task = TASKS[found[1]]
    declared = {param["name"] for param in task["spec"]["params"]}
    passed = set(re.findall(r"^\s+- name: (\w+)$", text, flags=re.MULTILINE))
    if "#@ settings" in text:
        passed |= set(quoted_list(template, "settings"))
    assert passed == declared - {"fetch_timeout" if found[1] == "image-classifier-test" else ""}
    outputs = yaml.safe_dump({key: value for key, value in template["spec"].items() if key != "ytt"})
    results = {result["name"] for result in task["spec"].get("results", [])}
    assert set(re.findall(r'results\[\?\(@\.name=="([\w-]+)"\)\]', outputs)) <= results


def test_every_template_has_a_health_rule_or_stamps_what_is_always_well():
    for template in TEMPLATES.values():
        stamps = re.findall(r"^kind: (\S+)", template["spec"]["ytt"], flags=re.MULTILINE)[0]
        assert "healthRule" in template["spec"] or stamps in ("ConfigMap", "APIDescriptor", "TaskRun")


def test_the_known_workload_params_are_those_that_a_template_reads():
    known = quoted_list(TEMPLATES["image-classifier-test"], "known")
    assert len(known) == len(set(known))
    read = {
        param["name"]
        for template in TEMPLATES.values()
        for param in template["spec"].get("params", [])
        if param["name"] not in ("target", "role")
    }
    for name in ("train", "accept", "server", "watch"):
        read |= set(quoted_list(TEMPLATES[f"image-classifier-{name}"], "settings"))
    read |= {"tracking_uri"}
    assert set(known) == read
    assert set(known) - set(SETTINGS) == set(CHAIN_PARAMS)


def test_the_workload_is_taken_by_the_chain_and_gives_params_that_are_known():
    labels = WORKLOAD["metadata"]["labels"]
    assert CHAIN["spec"]["selector"].items() <= labels.items()
    known = quoted_list(TEMPLATES["image-classifier-test"], "known")
    assert {param["name"] for param in WORKLOAD["spec"]["params"]} <= set(known)


def test_the_dockerfile_has_the_targets_that_the_chain_builds():
    targets = {
        param["value"]
        for resource in CHAIN["spec"]["resources"]
        for param in resource.get("params", [])
        if param["name"] == "target"
    }
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", text, flags=re.MULTILINE))
    assert targets <= stages
    assert all(
        re.search(rf"AS {target}\n.*?^USER 1000", text, flags=re.MULTILINE | re.DOTALL) for target in targets
    )


def test_who_may_look_at_a_namespace_may_read_all_that_why_reads():
    roles = {role["metadata"]["name"]: role["rules"] for role in BY_KIND["ClusterRole"]}

    def resources(role: str) -> set[tuple[str, str]]:
        return {
            (group, name)
            for rule in roles[role]
            for group in rule["apiGroups"]
            for name in rule["resources"]
            if group  # the core kinds are in Kubernetes' own `view`
        }

    read = {
        (kind.group, kind.plural)
        for kind in vars(cluster).values()
        if isinstance(kind, cluster.Kind) and kind.group
    }
    assert read | resources("image-classifier-chain") == resources("image-classifier-view")
    assert all(rule["verbs"] == ["get", "list", "watch"] for rule in roles["image-classifier-view"])
