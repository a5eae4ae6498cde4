"""A registry and a work folder that version 0.1 of this program wrote are read and continued.

home-0.1.tar.xz holds two promoted versions of the digits data set, an evaluation, a verdict and, of version 2, a drift
record; version 2 was rolled back from. Plots, reports and example images were removed to make it small.
"""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.store.db.utils import _upgrade_db
from sqlalchemy import create_engine

from image_classifier.errors import DataError, RegistryError
from image_classifier.monitoring.drift_detection import DriftVerdict
from image_classifier.monitoring.drift_reference import DriftReference
from image_classifier.package.model import Model
from image_classifier.registry import artifact_paths
from image_classifier.settings import Settings
from image_classifier.steps.drift import read_drift_record
from image_classifier.steps.evaluate import evaluate
from image_classifier.steps.gate import gate
from image_classifier.steps.history import history
from image_classifier.steps.model_access import fetch_model, open_registry
from image_classifier.steps.predict import predict
from image_classifier.steps.promote import promote
from image_classifier.steps.register import register
from image_classifier.steps.rollback import RollbackRequest, rollback
from image_classifier.steps.why import why
from tests.steps.chain import Lines, move_database

pytestmark = pytest.mark.slow

ARCHIVE = Path(__file__).with_name("home-0.1.tar.xz")
WRITTEN_AT = Path("/tmp/w/oldhome/h")
SECOND = "models:/image-classifier/2"


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    home = tmp_path_factory.mktemp("compatibility") / "home"
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(home, filter="data")
    move_database(home / "mlflow.db", WRITTEN_AT, home)
    # As `mlflow db upgrade` does, which a newer MLflow requires.
    engine = create_engine(f"sqlite:///{home / 'mlflow.db'}")
    _upgrade_db(engine)
    engine.dispose()
    return Settings(home=home, name="image-classifier")  # the name that version 0.1 gave every model


def test_without_the_name_of_version_0_1_an_error_names_it(settings):
    with pytest.raises(RegistryError, match="digits has no champion .*; it has image-classifier; .* --name"):
        fetch_model(Settings(home=settings.home), Lines())


def test_the_history_is_read(settings):
    entries = history(settings, Lines())
    assert [(entry.event.action, entry.event.version) for entry in entries] == [
        ("rolled-back", 1),
        ("promoted", 2),
        ("promoted", 1),
    ]
    assert entries[0].event.reason == "the second confuses 3 and 9"
    assert entries[0].metrics["test_accuracy"] > 0.98


def test_the_status_is_explained(settings):
    explanation = why(settings, None, Lines())
    assert not explanation.healthy
    assert explanation.content["place"] == "replaced"
    assert "version 1 is live since" in explanation.lines[0]


def test_a_package_gives_its_recorded_answers(settings, tmp_path):
    package = fetch_model(replace(settings, model=SECOND), Lines())
    (tmp_path / "image.png").write_bytes(package.golden[0].png)
    ((_, ranking),) = predict(replace(settings, model=SECOND), [tmp_path / "image.png"], Lines())
    assert ranking[0][1] == pytest.approx(max(package.golden[0].probabilities), abs=1e-4)
    assert Model.load(package, threads=1).classes == tuple("0123456789")


def test_the_drift_record_is_read(settings):
    registry = open_registry(settings, Lines())
    record = read_drift_record(registry, registry.versions.get("2"))
    assert record.images == 56
    assert record.result(50).verdict is DriftVerdict.DRIFT
    reference = DriftReference.of(fetch_model(replace(settings, model=SECOND), Lines()))
    (counts,) = record.servers.values()
    assert reference.join_counts(counts.features).sum() > 0
    assert reference.embedding is None
    stored = registry.runs.read_artifact(registry.versions.get("2").run_id, artifact_paths.DRIFT)
    assert json.loads(record.to_json()) == json.loads(stored)


def test_the_work_folder_is_registered_but_not_evaluated_again(settings):
    """Version 0.1 split data in another way: some of today's test images were its training images."""
    assert register(settings, Lines()).number == 2
    with pytest.raises(DataError, match="trained on data with digest 0c7a5a91a642, .* or train again"):
        evaluate(settings, Lines())


def test_the_gate_compares_with_a_champion(settings):
    lines = Lines()
    verdict = gate(replace(settings, model="2"), lines)
    assert verdict.accepted  # it was rolled back from, not replaced by a newer release
    compared = {"not-worse-than-champion", "max-accuracy-drop", "max-recall-drop", "max-robustness-drop"}
    assert compared | {"calibration-not-worse", "max-latency-ratio"} <= {result.rule for result in verdict.results}


def test_a_version_is_promoted_and_rolled_back_to(settings):
    promote(replace(settings, model="2"), Lines())
    registry = open_registry(settings, Lines())
    assert registry.versions.champion().number == 2
    for to in ("1", "2"):
        rollback(settings, RollbackRequest(to=to), Lines())
        assert registry.versions.champion().number == int(to)
    assert history(settings, Lines())[0].event.action == "rolled-back"
