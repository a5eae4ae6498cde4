"""Write golden/: for each case a workload, the template's inputs, and the object that the template stamps.

`python -m tests.manifests.write_golden` renders all cases with ytt; review the difference before you commit it.
`cartotest` checks them with Cartographer's own code (test_golden.py).
"""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

GOLDEN = Path(__file__).parent / "golden"
CHAIN = Path(__file__).parents[2] / "config" / "chain"
TRAINER, SERVER = (
    f"registry.example.org/{name}@sha256:{digit * 64}" for name, digit in (("trainer", "1"), ("server", "2"))
)
SOURCE = {"url": "http://source-controller/flowers/main.tar.gz", "revision": "main@sha1:0123abcd"}
MODEL = {"url": "models:/flowers/7?tracking_uri=http://mlflow:5000", "revision": "7"}
ACCEPTED = [
    {"name": "image", "type": "string", "value": SERVER},
    {"name": "model-uri", "type": "string", "value": "models:/flowers/7?tracking_uri=http://mlflow:5000"},
]
ADDRESS = "http://flowers-predictor.team.example.org"
IMAGES = {"trainer_image": TRAINER, "server_image": SERVER}
"""Params of a workload whose images were built elsewhere."""
ALL_PARAMS = {
    **IMAGES,
    "name": "blossoms",
    "tracking_uri": "http://mlflow.team:5000",
    "data": "s3://team/flowers.tar",
    "image_size": 64,
    "budget": "10m",
    "seed": 3,
    "min_accuracy": 0.9,
    "max_latency": "100ms",
    "accept_timeout": "5m",
    "public_key": "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n",
    "retrain": "2026-11-23",
    "training_processes": 2,
    "training_timeout": "3h",
    "training_resources": {"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"memory": "8Gi"}},
    "min_scale": 1,
    "max_scale": 4,
    "rollout_duration": "60s",
    "threads": 8,
    "max_upload": "5MiB",
    "annotations": {"example.org/note": "hi"},
    "source_credentials_secret": "git",
    "api_descriptor": {"description": "Knows flowers", "owner": "default/botany"},
}
"""At least one param of each kind."""
ALL_FIELDS = {
    "source": {"git": {"url": "https://git.example.org/flowers.git", "ref": {"tag": "v1"}}, "subPath": "apps/one"},
    "env": [{"name": "LOG_LEVEL", "value": "debug"}],
    "build": {"env": [{"name": "PIP_INDEX_URL", "value": "https://index.example.org"}]},
    "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
}
"""All fields of a workload's spec that a template reads."""
SOURCE_IMAGE = {"source": {"image": "registry.example.org/src/flowers:latest@sha256:" + "3" * 64}}


def case(template: str, params: dict[str, Any], spec: dict[str, Any] | None = None, **inputs: Any) -> dict[str, Any]:
    """A template, the params and other fields of a workload, and the template's inputs: sources, images, configs."""
    return {"template": template, "params": params, "spec": spec or {}, **inputs}


TRAIN = {"sources": {"source": SOURCE}, "images": {"trainer": TRAINER}}
CANDIDATE = {"sources": {"model": MODEL}, "images": {"server": SERVER}, "chain": {"role": "candidate"}}
SERVE = {
    "sources": {"model": MODEL},
    "images": {"server": SERVER},
    "configs": {"accepted": ACCEPTED},
    "chain": {"role": "serve"},
}
ROLLED_BACK = {**SERVE, "sources": {"model": {"url": MODEL["url"].replace("/7", "/8"), "revision": "8"}}}
WATCH = {"images": {"trainer": TRAINER}, "configs": {"accepted": ACCEPTED, "address": ADDRESS}}
ACCEPT = {
    "sources": {"model": MODEL},
    "images": {"trainer": TRAINER, "server": SERVER},
    "configs": {"candidate": "http://flowers-candidate-predictor.team.example.org"},
}
BUILD = {"sources": {"source": SOURCE}, "chain": {"target": "server", "registry": "registry.example.org/ml"}}
CASES = {
    "source-git": case("source-git", IMAGES),
    "source-git-full": case("source-git", ALL_PARAMS, ALL_FIELDS),
    "source-image": case("source-image", IMAGES, SOURCE_IMAGE),
    "image-given-trainer": case("image-given-trainer", IMAGES, **BUILD),
    "image-given-server": case("image-given-server", IMAGES, **BUILD),
    "image-kpack": case("image-kpack", {}, **BUILD),
    "image-kpack-full": case("image-kpack", {}, ALL_FIELDS, **BUILD),
    "image-build": case("image-build", {"dockerfile": "./Dockerfile"}, **BUILD),
    "image-build-full": case("image-build", {"dockerfile": "./Dockerfile"}, ALL_FIELDS, **BUILD),
    "test": case("test", IMAGES, **TRAIN),
    "test-kpack-sub-path": case("test", {}, ALL_FIELDS, **TRAIN),
    "train": case("train", IMAGES, **TRAIN),
    "train-full": case("train", ALL_PARAMS, ALL_FIELDS, **TRAIN),
    "train-kpack": case("train", {}, **TRAIN),
    "model-pinned": case(
        "model-pinned", {**IMAGES, "model_version": "6", "tracking_uri": "http://mlflow:5000"}, **TRAIN
    ),
    "candidate": case("server", IMAGES, **CANDIDATE),
    "candidate-kpack": case("server", {}, **CANDIDATE),
    "accept": case("accept", IMAGES, **ACCEPT),
    "accept-full": case("accept", ALL_PARAMS, ALL_FIELDS, **ACCEPT),
    "accept-pinned": case("accept", {**IMAGES, "model_version": "7"}, **ACCEPT),
    "serve": case("server", IMAGES, **SERVE),
    "serve-full": case("server", ALL_PARAMS, ALL_FIELDS, **SERVE),
    "serve-before": case("server", IMAGES, **ROLLED_BACK),
    "serve-pinned": case("server", {**IMAGES, "model_version": "7"}, **SERVE),
    "watch": case("watch", {**IMAGES, "watch_duration": "2m"}, **WATCH),
    "watch-full": case("watch", {**ALL_PARAMS, "watch_duration": "2m"}, ALL_FIELDS, **WATCH),
    "api": case("api", IMAGES, configs={"address": ADDRESS}),
    "api-full": case("api", ALL_PARAMS, ALL_FIELDS, configs={"address": ADDRESS}),
}


def workload_of(item: dict[str, Any]) -> dict[str, Any]:
    """The workload of a case."""
    source = {"source": {"git": {"url": "https://git.example.org/flowers.git", "ref": {"branch": "main"}}}}
    params = [{"name": name, "value": value} for name, value in item["params"].items()]
    return {
        "apiVersion": "carto.run/v1alpha1",
        "kind": "Workload",
        "metadata": {
            "name": item.get("name", "flowers"),
            "namespace": "team",
            "labels": {"apps.tanzu.vmware.com/workload-type": "ml-image", "app.kubernetes.io/part-of": "botany"},
        },
        "spec": {**source, **item["spec"], **({"params": params} if params else {})},
    }


def template_of(item: dict[str, Any]) -> Path:
    return CHAIN / f"{item['template']}-template.yaml"


def render(item: dict[str, Any]) -> Any:
    """The object that the template stamps, rendered by ytt, with the namespace and labels that Cartographer adds.

    Raises ValueError with ytt's message if the template refuses the workload.
    """
    template = yaml.safe_load(template_of(item).read_text(encoding="utf-8"))
    spec = template["spec"]
    defaults = {param["name"]: param["default"] for param in spec.get("params", [])}
    values: dict[str, Any] = {
        "workload": workload_of(item),
        "params": {**defaults, **item.get("chain", {}), **item["params"]},
        "sources": item.get("sources", {}),
        "images": {name: {"image": image} for name, image in item.get("images", {}).items()},
        "configs": {name: {"config": config} for name, config in item.get("configs", {}).items()},
    }
    # A single input is also available without its name.
    for plural, key in (("sources", None), ("images", "image"), ("configs", "config")):
        if len(values[plural]) == 1:
            (only,) = values[plural].values()
            values[plural[:-1]] = only[key] if key else only
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "template.yaml").write_text(spec["ytt"], encoding="utf-8")
        (Path(folder) / "values.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        command = ["ytt", "-f", f"{folder}/template.yaml", "--data-values-file", f"{folder}/values.yaml"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr)
    stamped = yaml.safe_load(done.stdout)
    stamped["metadata"]["namespace"] = "team"
    stamped["metadata"]["labels"] |= {
        "carto.run/cluster-template-name": template["metadata"]["name"],
        "carto.run/template-kind": template["kind"],
        "carto.run/workload-name": "flowers",
        "carto.run/workload-namespace": "team",
    }
    return stamped


def info_of(name: str, item: dict[str, Any]) -> dict[str, Any]:
    """The description of a case that cartotest reads."""
    inputs = {
        "sources": {alias: {"name": alias, **value} for alias, value in item.get("sources", {}).items()},
        "images": {alias: {"name": alias, "image": value} for alias, value in item.get("images", {}).items()},
        "configs": {alias: {"name": alias, "config": value} for alias, value in item.get("configs", {}).items()},
    }
    chain = [{"name": key, "value": value} for key, value in item.get("chain", {}).items()]
    return {
        "metadata": {"name": name},
        "given": {
            "template": {"path": f"../../../../config/chain/{template_of(item).name}"},
            "mockSupplyChain": {"blueprintInputs": inputs, "blueprintParams": chain},
        },
        "compareOptions": {"ignoreOwnerRefs": True, "namedCMPOptionFuncs": ["ConvertNumbersToFloatsDuringComparison"]},
    }


def main() -> None:
    shutil.rmtree(GOLDEN, ignore_errors=True)
    for name, item in CASES.items():
        (GOLDEN / name).mkdir(parents=True)
        for file, content in (
            ("info.yaml", info_of(name, item)),
            ("workload.yaml", workload_of(item)),
            ("expected.yaml", render(item)),
        ):
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
            (GOLDEN / name / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
