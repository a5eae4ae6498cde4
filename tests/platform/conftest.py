"""A recorded cluster, and what `why` makes of it."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from image_classifier.platform.cluster import Cluster
from image_classifier.platform.diagnosis import Diagnosis, diagnose
from image_classifier.platform.walk import collect
from tests.platform.record import FOLDER, WORKLOAD
from tests.platform.recorded_cluster import Records, recorded_cluster


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
