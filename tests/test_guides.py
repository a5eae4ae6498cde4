"""What the guides tell a reader to type is typed here, in their order; what it prints is what they show."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from image_classifier.attestation.attachments import Attestations
from image_classifier.package.package import Package
from image_classifier.settings import SETTINGS, Settings
from image_classifier.steps.local_server import free_port
from tests.attestation.test_attachments import EVALUATION
from tests.guides import DOCS, PROGRAMS, Block, blocks, check, missing_program, run
from tests.registry.mlflow_helpers import TrackingServer, record_training, registry_at
from tests.serving.server_process import Server, running

ROOT = DOCS.parent
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
ADDRESS = "127.0.0.1:8080"
PHOTOS, WRONG = 180, 8
"""Images of each class, and how many of them have the other one's label."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder: real images of two classes, some with a wrong label, and two more to ask about."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("reader")
    digits = load_digits()
    classes = {name: digits.images[digits.target == digit] for name, digit in (("cat", 3), ("dog", 8))}
    pixels = {
        name: np.round(images[:PHOTOS] * (255 / 16)).astype(np.uint8) for name, images in classes.items()
    }
    for name, other in (("cat", "dog"), ("dog", "cat")):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(len(pixels[name])):
            images = pixels[other if number < WRONG - 1 else name]
            Image.fromarray(images[number]).save(folder / "photos" / name / f"{number}.png")
    Image.fromarray(pixels["cat"][20]).save(folder / "photo.png")
    Image.fromarray(pixels["dog"][20]).save(folder / "other.png")
    return folder


@pytest.fixture(scope="module")
def followed(folder: Path) -> dict[str, str]:
    """What each block of the ML engineer's guide printed; it ends with version 1 as the champion."""
    return {
        str(block): run(block, folder, {"PORT": str(free_port())})
        for block in blocks("ml-engineer.md")
        if block.mark == "run"
    }


@pytest.fixture(scope="module")
def server(folder: Path, followed: dict[str, str]) -> Iterator[Server]:
    """Serves what the ML engineer's guide made."""
    package = folder / ".image-classifier" / "models" / "image-classifier" / "1"
    with running(package, folder / "log", "--threads", "1") as started:
        yield started


def marked(page: str, *marks: str) -> list[Block]:
    return [block for block in blocks(page) if block.mark in marks]


def of_all_pages(*marks: str) -> list[Block]:
    return [block for page in PAGES for block in marked(page, *marks)]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_program_says_whether_it_is_run(page):
    for block in blocks(page):
        if block.language in PROGRAMS:
            assert block.mark in ("run", "cluster", "shown"), block
            assert block.why or block.mark == "run", block


def test_a_block_that_prints_something_else_is_found():
    block = Block("page.md", 1, "run", "", "bash", "", prints=["version 1 is the champion"])
    check(block, "noise\nversion 7 is the champion\n")
    with pytest.raises(AssertionError, match="version 1 is the champion"):
        check(block, "version 1 is refused\n")
    keys = Block("page.md", 1, "run", "", "bash", "", keys={"label": "cat"})
    check(keys, '{"label": "dog"}')
    with pytest.raises(AssertionError):
        check(keys, '{"name": "dog"}')


@pytest.mark.timeout(600)
@pytest.mark.parametrize("block", marked("ml-engineer.md", "run"), ids=str)
def test_the_guide_for_ml_engineers_does_what_it_says(followed, block):
    check(block, followed[str(block)])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("block", marked("api-consumer.md", "run"), ids=str)
def test_the_guide_for_api_consumers_does_what_it_says(folder, server, block):
    if program := missing_program(block):
        pytest.skip(f"needs {program}")
    check(block, run(block, folder, {}, {ADDRESS: f"127.0.0.1:{server.port}"}))


KUBECTL = """#!/bin/bash
# In place of a cluster: runs here what `kubectl exec` would run in MLflow's container.
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""


@pytest.mark.timeout(300)
def test_a_backup_of_mlflow_can_be_restored(tmp_path, empty_database):
    for name in ("bin", "work", "before", "after"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin" / "kubectl").write_text(KUBECTL, encoding="utf-8")
    (tmp_path / "bin" / "kubectl").chmod(0o755)
    variables = {
        "PATH": os.pathsep.join((f"{tmp_path / 'bin'}", f"{Path(sys.executable).parent}", os.environ["PATH"]))
    }

    def follow(why: str, volume: str) -> None:
        places = {"/data": str(tmp_path / volume), "/tmp/mlflow.db": str(tmp_path / "copy.db")}
        for block in marked("platform-operator.md", "run"):
            if block.why == why:
                run(block, tmp_path / "work", variables, places)

    before, after = (TrackingServer(tmp_path / name, empty_database) for name in ("before", "after"))
    try:
        registry = registry_at(tmp_path / "home", before.address)
        version = record_training(registry, tmp_path / "package", "fingerprint")()
        follow("mlflow", "before")
        assert registry_at(tmp_path / "home", after.address).find("fingerprint") is None
        follow("mlflow restore", "after")
        after.kill()
        restored = registry_at(tmp_path / "home", after.address)
        assert restored.find("fingerprint") == version
        restored.download(version, tmp_path / "fetched")
        fetched, packed = (tmp_path / name / "model.onnx" for name in ("fetched", "package"))
        assert fetched.read_bytes() == packed.read_bytes()
    finally:
        before.kill()
        after.kill()


@pytest.mark.timeout(300)
def test_a_model_is_signed_with_the_keys_that_the_guide_makes_and_verified_as_it_says(
    tmp_path, tracking_server
):
    def follow(why: str) -> None:
        (block,) = (block for block in marked("platform-operator.md", "run") if block.why == why)
        run(block, tmp_path, {"MLFLOW_TRACKING_URI": tracking_server.address})

    follow("keys")
    settings = Settings(name="photos", signing_key=str(tmp_path / "key.pem"))
    attestations = Attestations.of(settings, "somebody")
    record_training(
        registry_at(tmp_path / "home", tracking_server.address, "photos"),
        tmp_path / "package",
        "fingerprint",
        accompany=lambda folder: attestations.write(folder, Package.read(folder), EVALUATION),
    )()
    follow("model-signing")


@pytest.mark.parametrize("block", of_all_pages("cluster"), ids=str)
def test_a_block_that_needs_a_cluster_names_a_test_that_is_there(block):
    name, what = block.why.split(", ")
    assert what in (ROOT / name).read_text(encoding="utf-8")


def commands(program: str) -> list[tuple[str, list[str]]]:
    """The words of a program's command lines in the cluster blocks, up to the first flag, and the flags."""
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
def test_the_tanzu_plug_in_has_the_flags(words, flags):
    shown = subprocess.run(
        ["tanzu", *words.split()[:3], "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert [flag for flag in flags if not re.search(rf"{flag}\b", shown)] == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
@pytest.mark.parametrize(("words", "flags"), commands("kubectl"), ids=lambda value: str(value)[:60])
def test_kubectl_has_the_flags(words, flags):
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
def test_the_folders_that_an_operator_applies_can_be_built():
    folders = ("", "namespace", "signing", "distributed", "mlflow-postgresql-s3", "network", "network-mlflow")
    for folder in folders:
        done = subprocess.run(
            ["kubectl", "kustomize", ROOT / "config" / folder], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "kind:" in done.stdout


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_the_overlay_that_turns_retraining_on_is_for_the_workload_that_it_names(tmp_path):
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
    """The table of sizes: a pod's name to its requests and limits."""
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
def test_the_table_of_sizes_is_what_the_manifests_say(pod, file, step):
    spec = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["spec"]
    containers = (
        spec["steps"] if "steps" in spec else spec.get("template", {"spec": {}})["spec"].get("containers")
    )
    (container,) = [item for item in containers or [spec["container"]] if step in (None, item["name"])]
    resources = container.get("resources") or container["computeResources"]

    def written(given: dict[str, str]) -> str:
        return ", ".join(
            f"{given[name]}{' CPU' * (name == 'cpu')}" for name in ("cpu", "memory") if name in given
        )

    assert sizes()[pod] == [written(resources["requests"]), written(resources.get("limits", {})) or "–"]


def test_the_size_of_the_server_is_what_the_template_says():
    golden = yaml.safe_load((ROOT / "tests/manifests/golden/serve/expected.yaml").read_text(encoding="utf-8"))
    resources = golden["spec"]["predictor"]["containers"][0]["resources"]
    said = sizes()["server"]
    assert said == [
        f"{given['cpu']} CPU, {given['memory']}" for given in (resources["requests"], resources["limits"])
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_is_there(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|tests|docs|config|tekton|bench|requirements)/[\w./-]*)`", text)
    named += re.findall(r"`((?:datasets|serving|platform)/\w+\.py)`", text)
    for name in named:
        prefix = "src/image_classifier/" if name.split("/")[0] in ("datasets", "serving", "platform") else ""
        assert (ROOT / prefix / name).exists() or "NAME" in name, name


def test_the_guide_names_the_reports_sections_in_their_order():
    guide = (DOCS / "ml-engineer.md").read_text(encoding="utf-8")
    part = guide.split("## Read the report")[1].split("\n## ")[0]
    template = (ROOT / "src/image_classifier/gate/templates/report.html").read_text(encoding="utf-8")
    sections = [re.findall(r'"([^"]+)"', text) or [text] for text in re.findall(r"<h2>(.+)</h2>", template)]
    assert re.findall(r"\*\*(.+?)\*\*", part) == [name for names in sections for name in names]


def test_the_guide_tells_of_every_code_that_an_error_has():
    guide = (DOCS / "api-consumer.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([a-z]+(?:_[a-z]+)*)`", guide.split("## Errors")[1].split("\n## ")[0]))
    sources = (ROOT / "src/image_classifier/serving").rglob("*.py")
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    given = set(
        re.findall(
            r'(?:bad_request|unavailable|RequestError|error_response)\(\s*(?:[\w.]+,\s*)?"([a-z_]+)"', text
        )
    )
    assert given
    assert given - told == set()


def test_the_json_and_yaml_that_pages_show_can_be_read():
    for page in PAGES:
        for block in blocks(page):
            if block.language == "json":
                json.loads(block.text)
            if block.language == "yaml":
                assert yaml.safe_load(block.text)
