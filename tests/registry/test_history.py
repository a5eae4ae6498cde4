"""Verdicts, promotions and their events, in a SQLite store."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import image_classifier
from image_classifier.registry import artifact_paths
from image_classifier.registry.decision import Decision, RecordedVerdict
from image_classifier.registry.events import LONGEST_REASON
from tests.registry.mlflow_helpers import record_training, register_packages

pytestmark = pytest.mark.slow

ACCEPTED = RecordedVerdict(Decision.ACCEPTED, "good", ({"rule": "min-accuracy", "outcome": "pass"},))
REFUSED = RecordedVerdict(Decision.REFUSED, "bad", ({"rule": "min-accuracy", "outcome": "fail"},))


def test_a_promotion_moves_the_aliases_and_is_recorded(registry, tmp_path):
    first, second = register_packages(registry, tmp_path, "one", "two")
    registry.history.promote(first, actor="ada", reason="the first")
    registry.history.promote(second, actor="bob", reason="better")
    assert registry.versions.champion().number == 2
    assert registry.versions.get("previous").number == 1
    events = registry.history.events()
    assert [(event.action, event.version, event.from_version) for event in events] == [
        ("promoted", 2, 1),
        ("promoted", 1, None),
    ]
    assert (events[0].actor, events[0].reason) == ("bob", "better")
    assert timedelta(0) < datetime.now(UTC) - events[0].time < timedelta(minutes=10)


def test_promoting_the_champion_again_changes_nothing(registry, tmp_path):
    first, second = register_packages(registry, tmp_path, "one", "two")
    registry.history.promote(first, actor="ada", reason="the first")
    registry.history.promote(second, actor="bob", reason="better")
    events = registry.history.events()
    registry.history.promote(second, actor="eve", reason="again")
    assert registry.history.events() == events
    assert registry.versions.get("previous").number == 1


def test_a_former_champion_can_be_promoted_again(registry, tmp_path):
    first, second = register_packages(registry, tmp_path, "one", "two")
    for version in (first, second, first):
        registry.history.promote(version, actor="ada", reason="good")
    assert (registry.versions.champion().number, registry.versions.get("previous").number) == (1, 2)
    assert [event.version for event in registry.history.events()] == [1, 2, 1]


def test_a_new_server_image_of_the_champion_is_an_event(registry, tmp_path):
    (version,) = register_packages(registry, tmp_path, "one")
    for image in ("server@sha256:0", "server@sha256:new", "server@sha256:new"):
        registry.history.promote(version, actor="chain", reason="accepted", image=image)
    assert [(event.version, event.from_version, event.image) for event in registry.history.events()] == [
        (1, 1, "server@sha256:new"),
        (1, None, "server@sha256:0"),
    ]


def test_a_repeated_refusal_is_recorded_once_and_moves_no_alias(registry, tmp_path):
    first, second = register_packages(registry, tmp_path, "one", "two")
    registry.history.promote(first, actor="ada", reason="the first")
    reason = "accuracy “0.81” is below 0.9\n" + "and so on " * 1000
    for _ in range(2):
        registry.history.record_verdict(second, RecordedVerdict(Decision.REFUSED, reason), actor="gate")
    assert registry.versions.champion().number == 1
    event = registry.history.events()[0]
    assert (event.action, event.version, event.from_version) == ("refused", 2, 1)
    assert len(event.reason) == LONGEST_REASON
    assert len(registry.history.events()) == 2
    registry.history.record_verdict(second, RecordedVerdict(Decision.REFUSED, "another reason"), actor="gate")
    assert len(registry.history.events()) == 3


@pytest.mark.parametrize(("verdict", "actions"), [(ACCEPTED, []), (REFUSED, ["refused"])])
def test_a_verdict_is_stored_as_tag_artifact_report_and_event(registry, tmp_path, verdict, actions):
    version = record_training(registry, tmp_path / "one", "one")()
    assert version.decision is Decision.NOT_JUDGED
    assert registry.history.read_verdict(version) is None
    registry.history.record_verdict(version, verdict, actor="gate", report="<p>why</p>")
    assert registry.versions.get("1").decision is verdict.decision
    assert registry.history.read_verdict(version) == verdict
    assert registry.runs.read_artifact(version.run_id, artifact_paths.REPORT) == b"<p>why</p>"
    assert [event.action for event in registry.history.events()] == actions


def test_the_last_verdict_counts(registry, tmp_path):
    version = record_training(registry, tmp_path / "one", "one")()
    for verdict in (REFUSED, ACCEPTED):
        registry.history.record_verdict(version, verdict, actor="gate", report="<p>why</p>")
        assert registry.versions.get("1").decision is verdict.decision
        assert registry.history.read_verdict(version) == verdict


def test_only_the_history_writes_verdicts():
    source = Path(image_classifier.__file__).parent
    naming = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if any(name in path.read_text() for name in ("VERDICT_TAG", "artifact_paths.VERDICT"))
    }
    # `versions` declares the tag and reads it.
    assert naming == {"registry/history.py", "registry/versions.py"}
    assert "{VERDICT_TAG" not in (source / "registry/versions.py").read_text()
