"""The manifests fit together: Tasks, templates, the chain, permissions and the code. No cluster is needed."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from image_classifier.cli.command import main
from image_classifier.platform import cluster
from image_classifier.settings import CHAIN_PARAMS, SETTINGS

ROOT = Path(__file__).parents[2]
FILES = sorted([*ROOT.glob("config/**/*.yaml"), *ROOT.glob("tekton/*.yaml"), ROOT / "workload.yaml"])
WITHOUT_OBJECT = {"kustomization.yaml", "image-fields.yaml"}
PATCHES = {"mlflow-postgresql-s3", "signing"}
OBJECTS = {
    str(path.relative_to(ROOT)): yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in FILES
    if path.name not in WITHOUT_OBJECT and path.parent.name not in PATCHES
}
BY_KIND: dict[str, dict[str, Any]] = {}
for _object in OBJECTS.values():
    BY_KIND.setdefault(_object["kind"], {})[_object["metadata"]["name"]] = _object
TASKS = BY_KIND["Task"]
SCRIPT_TASKS = {"image-classifier-build", "image-classifier-pull"}
"""Tasks whose steps are not commands of the chain."""
CHAIN_TASKS = [name for name in TASKS if name not in SCRIPT_TASKS]
TEMPLATES = {
    name: template
    for kind in ("ClusterSourceTemplate", "ClusterImageTemplate", "ClusterConfigTemplate")
    for name, template in BY_KIND[kind].items()
}
(CHAIN,) = BY_KIND["ClusterSupplyChain"].values()
(WORKLOAD,) = BY_KIND["Workload"].values()


def strings(value: Any) -> Iterator[str]:
    """All strings in a manifest."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def scripts(value: Any) -> Iterator[str]:
    """The shell scripts in a manifest."""
    if isinstance(value, dict):
        if "script" in value:
            yield value["script"]
        for inner in value.values():
            yield from scripts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from scripts(inner)


def listed_in(template: Any, name: str) -> list[str]:
    """The strings of a list that a template's ytt text assigns; empty if there is no such list."""
    found = re.search(rf"#@ {name} = \[(.*?)\]", template["spec"]["ytt"], flags=re.DOTALL)
    return re.findall(r'"(\w+)"', found[1]) if found else []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_holds_one_document_and_ends_with_a_newline(path):
    text = path.read_text(encoding="utf-8")
    assert len(list(yaml.safe_load_all(text))) == 1
    assert text.endswith("\n")
    assert "\t" not in text


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_has_the_recommended_labels(name):
    labels = OBJECTS[name]["metadata"]["labels"]
    assert labels["app.kubernetes.io/part-of"] == "image-classifier"
    if OBJECTS[name]["kind"] != "Workload":
        assert {"app.kubernetes.io/name", "app.kubernetes.io/component"} <= set(labels)


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES} - {ROOT}), ids=lambda path: path.name)
def test_a_kustomization_names_every_file_of_its_folder(folder):
    named = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    files = [*named.get("resources", []), *(patch["path"] for patch in named.get("patches", []))]
    present = {path.name for path in folder.glob("*.yaml")} - WITHOUT_OBJECT
    assert {name for name in files if name.endswith(".yaml")} == present
    assert all((folder / name).exists() for name in files)


def test_no_script_contains_the_value_of_a_param():
    found = [script for manifest in OBJECTS.values() for script in scripts(manifest)]
    assert found
    assert not any("$(params" in script for script in found)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_uses_every_param_that_it_declares_and_no_other(name):
    spec = TASKS[name]["spec"]
    used = set(re.findall(r"\$\(params\.(\w+)", " ".join(strings(spec))))
    assert used == {param["name"] for param in spec["params"]}
    for param in spec["params"]:
        assert param["type"] in ("string", "array")
        assert param["description"].endswith(".")


@pytest.mark.parametrize("name", CHAIN_TASKS)
def test_a_variable_of_a_task_sets_a_setting(name):
    variables = {item["name"] for item in TASKS[name]["spec"]["stepTemplate"]["env"]}
    ours = {variable for variable in variables if variable.startswith("IMAGE_CLASSIFIER_")}
    assert ours <= {variable for setting in SETTINGS.values() for variable in setting.variables}


@pytest.mark.parametrize("name", CHAIN_TASKS)
def test_a_step_runs_the_command_of_its_name(name):
    for step in TASKS[name]["spec"]["steps"]:
        assert step["name"] in main.commands
        assert step["args"] == [step["name"]]
        assert step["command"] == ["$(params.command[*])"]
        assert "script" not in step


@pytest.mark.parametrize("name", CHAIN_TASKS)
def test_a_task_has_the_results_verdict_and_reason(name):
    assert {"verdict", "reason"} <= {result["name"] for result in TASKS[name]["spec"]["results"]}


def test_the_retraining_job_runs_two_commands_with_known_options_and_settings():
    pod = BY_KIND["CronJob"]["image-classifier-retraining"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    containers = [*pod["initContainers"], *pod["containers"]]
    assert [container["args"][0] for container in containers] == ["drift", "retrain"]
    variables = {variable for setting in SETTINGS.values() for variable in setting.variables}
    for container in containers:
        options = {word for option in main.commands[container["args"][0]].params for word in option.opts}
        assert {word for word in container["args"] if word.startswith("--")} <= options
        assert {variable["name"] for variable in container["env"]} <= variables


def test_the_retraining_job_may_change_only_its_workload():
    for rule in BY_KIND["Role"]["image-classifier-retraining"]["rules"]:
        assert set(rule["verbs"]) <= {"get", "list"} or len(rule["resourceNames"]) == 1


def test_the_chain_takes_its_inputs_from_earlier_resources_of_the_right_kind():
    kinds = {"sources": "ClusterSourceTemplate", "images": "ClusterImageTemplate", "configs": "ClusterConfigTemplate"}
    earlier: dict[str, str] = {}
    for resource in CHAIN["spec"]["resources"]:
        for plural, kind in kinds.items():
            for item in resource.get(plural, []):
                assert earlier[item["resource"]] == kind, resource["name"]
        earlier[resource["name"]] = resource["templateRef"]["kind"]


def templates_of(resource: Any) -> list[str]:
    reference = resource["templateRef"]
    options = reference.get("options", [reference])
    return [option["name"] for option in options if "name" in option]


def test_the_chain_uses_every_template_with_its_kind():
    used = {
        name: resource["templateRef"]["kind"]
        for resource in CHAIN["spec"]["resources"]
        for name in templates_of(resource)
    }
    assert used == {name: template["kind"] for name, template in TEMPLATES.items()}


@pytest.mark.parametrize("resource", CHAIN["spec"]["resources"], ids=lambda resource: resource["name"])
def test_a_template_reads_only_inputs_that_the_chain_passes_to_it(resource):
    for name in templates_of(resource):
        text = TEMPLATES[name]["spec"]["ytt"]
        for plural in ("sources", "images", "configs"):
            passed = {item["name"] for item in resource.get(plural, [])}
            read = set(re.findall(rf"data\.values\.{plural}\.(\w+)", text))
            if name == "image-classifier-server":  # one template for two resources with different inputs
                read &= passed
            assert read <= passed, name
            if re.search(rf"data\.values\.{plural[:-1]}\b", text):
                assert len(passed) == 1, name


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_stamped_object_has_a_name_that_fits_its_lifecycle_and_no_namespace(name):
    spec = TEMPLATES[name]["spec"]
    stamps_runs = spec.get("lifecycle") == "tekton"
    assert ("generateName:" in spec["ytt"]) == stamps_runs
    assert ("retentionPolicy" in spec) == stamps_runs
    assert not re.search(r"^  namespace:", spec["ytt"], flags=re.MULTILINE)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_chain_has_the_permissions_to_stamp_a_template(name):
    spec = TEMPLATES[name]["spec"]
    group, _, _ = re.findall(r"^apiVersion: (\S+)", spec["ytt"], flags=re.MULTILINE)[0].rpartition("/")
    plural = re.findall(r"^kind: (\S+)", spec["ytt"], flags=re.MULTILINE)[0].lower() + "s"
    plural = plural.replace("repositorys", "repositories")
    granted = {
        verb
        for rule in BY_KIND["ClusterRole"]["image-classifier-chain"]["rules"]
        if group in rule["apiGroups"] and plural in rule["resources"]
        for verb in rule["verbs"]
    }
    stamps_runs = spec.get("lifecycle") == "tekton"
    assert granted >= ({"list", "create", "delete"} if stamps_runs else {"get", "create", "patch"})


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_stamped_run_passes_params_and_reads_results_that_its_task_has(name):
    spec = TEMPLATES[name]["spec"]
    task = re.search(r"taskRef:\n\s+name: (\S+)", spec["ytt"])
    if task is None:
        pytest.skip("stamps no run")
    declared = {param["name"] for param in TASKS[task[1]]["spec"]["params"]}
    passed = set(re.findall(r"^\s*- name: (\w+)$", spec["ytt"], flags=re.MULTILINE))
    passed |= set(listed_in(TEMPLATES[name], "settings"))
    # The workload's fetch_timeout is for its data.
    assert passed == declared - {"fetch_timeout" if task[1] == "image-classifier-test" else ""}
    outputs = yaml.safe_dump({key: value for key, value in spec.items() if key != "ytt"})
    results = {result["name"] for result in TASKS[task[1]]["spec"].get("results", [])}
    assert set(re.findall(r'results\[\?\(@\.name=="([\w-]+)"\)\]', outputs)) <= results


def test_a_template_without_a_health_rule_stamps_an_object_that_needs_none():
    for template in TEMPLATES.values():
        kind = re.findall(r"^kind: (\S+)", template["spec"]["ytt"], flags=re.MULTILINE)[0]
        assert "healthRule" in template["spec"] or kind in ("ConfigMap", "APIDescriptor", "TaskRun")


def test_every_workload_param_is_read_by_a_template():
    by_chain = {"target", "role"}
    read = {"tracking_uri"}  # a default of the chain
    for template in TEMPLATES.values():
        read |= {param["name"] for param in template["spec"].get("params", [])} - by_chain
        read |= set(listed_in(template, "settings"))
    params = {name for name, setting in SETTINGS.items() if setting.param} | set(CHAIN_PARAMS)
    assert read == params


def test_the_example_workload_is_selected_by_the_chain_and_has_known_params():
    assert CHAIN["spec"]["selector"].items() <= WORKLOAD["metadata"]["labels"].items()
    known = listed_in(TEMPLATES["image-classifier-test"], "known")
    assert {param["name"] for param in WORKLOAD["spec"]["params"]} <= set(known)


def test_the_dockerfile_has_the_targets_that_the_chain_builds():
    targets = {
        param["value"]
        for resource in CHAIN["spec"]["resources"]
        for param in resource.get("params", [])
        if param["name"] == "target"
    }
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert targets <= set(re.findall(r"^FROM \S+ AS (\S+)", text, flags=re.MULTILINE))


def test_a_viewer_of_a_namespace_may_read_everything_that_why_reads():
    roles = {name: role["rules"] for name, role in BY_KIND["ClusterRole"].items()}

    def resources(role: str) -> set[tuple[str, str]]:
        return {
            (group, resource)
            for rule in roles[role]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            if group  # Kubernetes' own role `view` has the core kinds
        }

    read = {
        (kind.group, kind.plural) for kind in vars(cluster).values() if isinstance(kind, cluster.Kind) and kind.group
    }
    assert read | resources("image-classifier-chain") == resources("image-classifier-view")
    assert all(rule["verbs"] == ["get", "list", "watch"] for rule in roles["image-classifier-view"])
