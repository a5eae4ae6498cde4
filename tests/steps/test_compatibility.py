"""A registry and a work folder that version 0.1 of this program wrote are read and continued.

home-0.1.tar.xz holds two promoted versions of the digits data set, an evaluation, a verdict and, of version 2, a drift
record; version 2 was rolled back from. Plots, reports and example images were removed to make it small.
"""

import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.store.db.utils import _upgrade_db
from sqlalchemy import create_engine

from image_classifier.gate.champion_checks import CHAMPION_CHECKS
from image_classifier.monitoring.drift_detection import DriftVerdict
from image_classifier.monitoring.drift_reference import DriftReference
from image_classifier.package.model import Model
from image_classifier.registry.decision import Decision
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
    return Settings(home=home)


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


def test_the_work_folder_is_current(settings):
    lines = Lines()
    evaluate(settings, lines)
    assert register(settings, lines).number == 2
    assert [line.split()[0] for line in lines] == ["evaluated", "registered"]


def test_the_gate_compares_with_a_champion_and_a_version_can_be_promoted_and_rolled_back(settings):
    lines = Lines()
    verdict = gate(replace(settings, model="2"), lines)
    assert verdict.accepted
    assert [result.rule for result in verdict.results][-len(CHAMPION_CHECKS) :] == [
        "max-accuracy-drop",
        "not-worse-than-champion",
        "max-recall-drop",
        "max-robustness-drop",
        "calibration-not-worse",
        "max-latency-ratio",
    ]
    assert promote(replace(settings, model="2"), lines).number == 2
    registry = open_registry(settings, Lines())
    assert registry.versions.get("2").decision is Decision.ACCEPTED
    rollback(settings, RollbackRequest(to="1"), lines)
    assert registry.versions.champion().number == 1
    assert history(settings, Lines())[0].event.action == "rolled-back"
