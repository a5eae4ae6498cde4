"""A recorded cluster, what `why` makes of it, and a registry that goes with one."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from image_classifier.platform.cluster import Cluster
from image_classifier.platform.diagnosis.diagnosis import Diagnosis, diagnose
from image_classifier.platform.diagnosis.walk import collect
from image_classifier.registry.registry import Registry
from tests.platform.record import FOLDER, WORKLOAD
from tests.platform.recorded_cluster import Records, recorded_cluster
from tests.registry.mlflow_helpers import record_training


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Diagnosis]]:
    """Gives the diagnosis of a recording, with `changes` made to what the cluster has."""
    with ExitStack() as stack:

        def look(name: str, change: Callable[[Records], Any] = lambda _: None) -> Diagnosis:
            content = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
            records = Records(content["objects"], content["logs"])
            change(records)
            monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
            stack.enter_context(recorded_cluster(records, tmp_path / "config"))
            return diagnose(collect(Cluster.connect(), WORKLOAD, datetime.fromisoformat(content["now"])))

        yield look


@pytest.fixture
def cluster(records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster that has the module's `records`."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with recorded_cluster(records, tmp_path / "config"):
        yield Cluster.connect()


@pytest.fixture
def registry(registry: Registry, tmp_path: Path) -> Registry:
    """Versions 1 and 2, which were accepted, and served, one after the other."""
    for number, image in ((1, "server@a"), (2, "server@b")):
        version = record_training(registry, tmp_path / f"p{number}", f"fingerprint-{number}")()
        registry.set_tags(version, {"verdict": "accepted"})
        registry.promote(version, actor="chain", reason="accepted", image=image)
    return registry
