"""What the pages of the documentation say agrees with the code and the manifests."""

import json
import os
import re
import shutil
import subprocess

import pytest
import yaml

from image_classifier.settings import SETTINGS
from tests.guides import DOCS, PAGES, PROGRAMS, Block, blocks, check, of_all_pages

ROOT = DOCS.parent


@pytest.mark.parametrize("page", PAGES)
def test_every_block_with_a_program_says_whether_it_is_run(page):
    for block in blocks(page):
        if block.language in PROGRAMS:
            assert block.mark in ("run", "cluster", "shown"), block
            assert block.why or block.mark == "run", block


def test_a_block_with_another_output_fails():
    block = Block("page.md", 1, "run", "", "bash", "", prints=["version 1 is the champion"])
    check(block, "noise\nversion 7 is the champion\n")
    with pytest.raises(AssertionError, match="version 1 is the champion"):
        check(block, "version 1 is refused\n")
    keys = Block("page.md", 1, "run", "", "bash", "", keys={"label": "cat"})
    check(keys, '{"label": "dog"}')
    with pytest.raises(AssertionError):
        check(keys, '{"name": "dog"}')


@pytest.mark.parametrize("block", of_all_pages("cluster"), ids=str)
def test_a_block_that_needs_a_cluster_names_an_existing_test(block):
    name, what = block.why.split(", ")
    assert what in (ROOT / name).read_text(encoding="utf-8")


def commands(program: str) -> list[tuple[str, list[str]]]:
    """The command lines of a program in all blocks that are run or need a cluster: words and flags."""
    found = []
    for block in of_all_pages("cluster", "run"):
        for line in block.text.splitlines():
            if line.startswith(f"{program} "):
                words = line.split(" -- ")[0].split()
                flags = re.findall(r"(?<= )--?[a-z-]+", line.split(" -- ")[0])
                found.append((" ".join(words[1:]), flags))
    assert found
    return found


@pytest.mark.skipif(shutil.which("tanzu") is None, reason="needs the tanzu apps plug-in")
@pytest.mark.parametrize(("words", "flags"), commands("tanzu"), ids=lambda value: str(value)[:60])
def test_the_tanzu_plug_in_has_the_flags_that_the_pages_use(words, flags):
    shown = subprocess.run(["tanzu", *words.split()[:3], "--help"], capture_output=True, text=True, check=True).stdout
    assert [flag for flag in flags if not re.search(rf"{flag}\b", shown)] == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
@pytest.mark.parametrize(("words", "flags"), commands("kubectl"), ids=lambda value: str(value)[:60])
def test_kubectl_has_the_flags_that_the_pages_use(words, flags):
    verb, kind, *further = words.split()
    # `create` has its flags by kind.
    kinds = (kind, further[0]) if kind == "secret" else (kind,)
    by_kind = verb == "create" and not kind.startswith("-")
    described = (verb, *kinds, "--help") if by_kind else (verb, "--help")
    texts = [
        subprocess.run(["kubectl", *asked], capture_output=True, text=True, check=True).stdout
        for asked in (described, ("options",))
    ]
    assert [flag for flag in flags if not any(re.search(rf"{flag}\b", text) for text in texts)] == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_kubectl_builds_the_folders_that_an_operator_applies():
    folders = ("", "namespace", "signing", "distributed", "mlflow-postgresql-s3", "network", "network-mlflow")
    for folder in folders:
        done = subprocess.run(["kubectl", "kustomize", ROOT / "config" / folder], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "kind:" in done.stdout


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_the_retraining_overlay_is_for_the_workload_that_it_names(tmp_path):
    texts = [
        block.text
        for block in blocks("platform-operator.md")
        if block.language == "yaml" and "retraining" in block.text
    ]
    for name, text in zip(("kustomization.yaml", "settings.yaml"), texts, strict=True):
        text = text.replace("PATH", os.path.relpath(ROOT, tmp_path)).replace("sha256:…", f"sha256:{'0' * 64}")
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = subprocess.run(["kubectl", "kustomize", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = {item["kind"]: item for item in yaml.safe_load_all(done.stdout)}
    given = made["ConfigMap"]["data"]
    assert made["Role"]["rules"][0]["resourceNames"] == [given["WORKLOAD"]]
    assert made["CronJob"]["spec"]["schedule"] == given["SCHEDULE"]
    assert "WORKLOAD" not in yaml.safe_dump(made["Role"])
    names = {name.removeprefix("IMAGE_CLASSIFIER_").lower() for name in given if name.startswith("IMAGE")}
    assert names <= set(SETTINGS)
    pod = made["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["image"].endswith(f"@sha256:{'0' * 64}")
        assert container["envFrom"][0]["configMapRef"]["name"] == made["ConfigMap"]["metadata"]["name"]


def sizes() -> dict[str, list[str]]:
    """The table of sizes: requests and limits by the name of the pod."""
    text = (DOCS / "platform-operator.md").read_text(encoding="utf-8").split("## Sizes")[1]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|", text, flags=re.MULTILINE)[1:]
    return {name: [requests, limits] for name, requests, limits in rows if "---" not in name}


@pytest.mark.parametrize(
    ("pod", "file", "step"),
    [
        ("the model's download before it", "config/storage/storage-container.yaml", None),
        ("train", "tekton/train-task.yaml", "train"),
        ("test", "tekton/test-task.yaml", "test"),
        ("accept", "tekton/accept-task.yaml", "accept"),
        ("watch", "tekton/watch-task.yaml", "watch"),
        ("score", "tekton/score-task.yaml", "score"),
        ("build in the cluster", "tekton/build-task.yaml", "build"),
        ("MLflow", "config/mlflow/deployment.yaml", "mlflow"),
    ],
)
def test_the_table_of_sizes_equals_the_manifests(pod, file, step):
    spec = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["spec"]
    containers = spec["steps"] if "steps" in spec else spec.get("template", {"spec": {}})["spec"].get("containers")
    (container,) = [item for item in containers or [spec["container"]] if step in (None, item["name"])]
    resources = container.get("resources") or container["computeResources"]

    def written(given: dict[str, str]) -> str:
        return ", ".join(f"{given[name]}{' CPU' * (name == 'cpu')}" for name in ("cpu", "memory") if name in given)

    assert sizes()[pod] == [written(resources["requests"]), written(resources.get("limits", {})) or "–"]


def test_the_size_of_the_server_equals_the_template():
    golden = yaml.safe_load((ROOT / "tests/manifests/golden/serve/expected.yaml").read_text(encoding="utf-8"))
    resources = golden["spec"]["predictor"]["containers"][0]["resources"]
    said = sizes()["server"]
    assert said == [f"{given['cpu']} CPU, {given['memory']}" for given in (resources["requests"], resources["limits"])]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|tests|docs|config|tekton|bench|requirements)/[\w./-]*)`", text)
    named += re.findall(r"`((?:datasets|serving|platform)/\w+\.py)`", text)
    for name in named:
        prefix = "src/image_classifier/" if name.split("/")[0] in ("datasets", "serving", "platform") else ""
        assert (ROOT / prefix / name).exists() or "NAME" in name, name


def test_the_guide_names_the_sections_of_the_report_in_their_order():
    guide = (DOCS / "ml-engineer.md").read_text(encoding="utf-8")
    part = guide.split("## Read the report")[1].split("\n## ")[0]
    template = (ROOT / "src/image_classifier/gate/templates/report.html").read_text(encoding="utf-8")
    sections = [re.findall(r'"([^"]+)"', text) or [text] for text in re.findall(r"<h2>(.+)</h2>", template)]
    assert re.findall(r"\*\*(.+?)\*\*", part) == [name for names in sections for name in names]


def test_the_guide_lists_every_error_code():
    guide = (DOCS / "api-consumer.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([a-z]+(?:_[a-z]+)*)`", guide.split("## Errors")[1].split("\n## ")[0]))
    sources = (ROOT / "src/image_classifier/serving").rglob("*.py")
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    given = set(
        re.findall(r'(?:bad_request|unavailable|RequestError|error_response)\(\s*(?:[\w.]+,\s*)?"([a-z_]+)"', text)
    )
    assert given
    assert given - told == set()


def test_json_and_yaml_blocks_are_valid():
    for page in PAGES:
        for block in blocks(page):
            if block.language == "json":
                json.loads(block.text)
            if block.language == "yaml":
                assert yaml.safe_load(block.text)
